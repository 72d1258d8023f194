"""Write checkpoints of a training between its windows, and continue from the newest one.

A checkpoint has all that the next steps depend on: what is trained, optimizer, scheduler, scaler, random numbers, the
place in the data, and what was counted. A step after it is the same step as without an interruption. Of several
processes, the first writes what all have alike, and each one its own random numbers and, of a sharded model, its part.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_scaling.energy import Recording
from lora_scaling.energy.parts import Parts, sync_folder
from lora_scaling.errors import UserError
from lora_scaling.ranks import rank, world_size
from lora_scaling.training.ranks import broadcast_from_rank0, gather_from_ranks
from lora_scaling.training.sharding import is_sharded, load_shards, local_part, shards

_PREFIX = "checkpoint-"
_PROGRESS = "progress.json"
_STATE, _SCHEDULER = "trainer_state.json", "scheduler.pt"  # transformers' names


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk.

    counted: what each process had trained on up to it. training: what the record's section held. same: what has to be
    the same where it is continued. kept: windows of each part that led to it.
    """

    folder: Path
    step: int
    counted: Sequence[Mapping[str, Any]]
    training: Mapping[str, Any]
    same: Mapping[str, Any]
    kept: Mapping[str, int]
    skipped_steps: int = 0

    def file(self, name: str, process: int) -> Path:
        return _file(self.folder, name, process)


def newest_checkpoint(folder: Path, same: Mapping[str, Any]) -> Checkpoint | None:
    """Return the newest checkpoint in a folder; None without any.

    same: what decides whether the training can be continued, such as its precision.

    Raises:
        UserError: it cannot be read, or was made under other conditions.
    """
    named = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    if not named:
        return None
    newest = max(named, key=lambda path: int(path.name.removeprefix(_PREFIX)))
    try:
        document = json.loads((newest / _PROGRESS).read_text(encoding="utf-8"))
        found = Checkpoint(folder=newest, **document)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"resume: got {newest}, which cannot be read ({error}); remove {folder} to begin anew"
        ) from None
    for name, value in same.items():
        if found.same.get(name) != value:
            raise UserError(
                f"resume: got auto, but {newest} was made with {name} {found.same.get(name)}, which is {value} here; "
                f"continue where it was made, or remove {folder} to begin anew"
            )
    return found


@dataclass
class Resuming(TrainerCallback):
    """Writes checkpoints of a `MeteredTrainer` every so often, and notes between them what the training has used."""

    parts: Parts
    recording: Recording
    every_s: float
    same: Mapping[str, Any]
    training: Mapping[str, Any]
    found: Checkpoint | None
    warnings: list[dict[str, str]] = field(default_factory=list)
    _last_s: float = field(default_factory=time.monotonic)
    _last_step: int = 0
    _ask_at: int = 0
    _epoch_rng: torch.Tensor | None = None
    _continued: bool = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the order of the epoch's samples from the random numbers of before the interruption."""
        if self.found is not None and not self._continued:
            torch.set_rng_state(torch.load(self.found.file("epoch_rng.pt", rank()), weights_only=True))
        self._continued = True
        self._epoch_rng = torch.get_rng_state()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the window of the training, which begins when the checkpoint has been read."""
        self._last_s, self._last_step = time.monotonic(), state.global_step
        self.parts.note(self.recording.so_far(), state.global_step)
        if self.found is not None:
            self.recording.begin_phase("train")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.parts.is_due():
            self.parts.note(self.recording.so_far(), state.global_step)
        if state.global_step < state.max_steps and self._is_time(state.global_step):
            control.should_save = True

    def _is_time(self, step: int) -> bool:
        """Return whether a checkpoint is due.

        Several processes go by the clock of the first. To ask it waits for the device, so they do that at ever shorter
        distances from the moment when the next one will be due: about ten times between two checkpoints.
        """
        waited_s = time.monotonic() - self._last_s
        if world_size() == 1:
            return waited_s >= self.every_s
        if step < self._ask_at:
            return False
        waited_s = broadcast_from_rank0(waited_s)
        step_s = waited_s / max(1, step - self._last_step)
        self._ask_at = step + max(1, int((self.every_s - waited_s) / step_s / 2))
        return waited_s >= self.every_s

    def write(self, trainer: Any) -> None:
        """Write a checkpoint in a window of its own; if that fails, the run goes on with the one before."""
        self.recording.begin_phase("checkpoint")
        part = self.parts.folder / ".checkpoint.tmp"
        if rank() == 0:
            shutil.rmtree(part, ignore_errors=True)
        gather_from_ranks(None)  # what others have written is not removed
        told = gather_from_ranks((_problem(lambda: self._write_own(trainer, part)), _counted(trainer)))
        problems = [problem for problem, _ in told if problem is not None]
        account = self.recording.so_far()
        self.parts.note(account, trainer.state.global_step)
        if not problems and rank() == 0:
            counted = [counts for _, counts in told]
            problem = _problem(lambda: self._finish(trainer, part, counted, len(account.phases) - 1))
            problems = [] if problem is None else [problem]
        if problems and "no_checkpoint" not in {warning["kind"] for warning in self.warnings}:
            text = f"A checkpoint could not be written: {problems[0]}"
            self.warnings.append({"kind": "no_checkpoint", "message": text})
        gather_from_ranks(None)  # all begin the next window together
        self._last_s, self._last_step, self._ask_at = time.monotonic(), trainer.state.global_step, 0
        self.recording.begin_phase("train")

    def _write_own(self, trainer: Any, part: Path) -> None:
        """Write what is this process's to write."""
        part.mkdir(exist_ok=True)
        own = {name: local_part(p.detach()).contiguous() for name, p in _trained(trainer.model).items()}
        sharded = is_sharded(trainer.model)
        if sharded or rank() == 0:
            save_file(own, _file(part, "trained.safetensors", rank()))
        if sharded:
            torch.save(shards(trainer.optimizer.state_dict()), _file(part, "shards.pt", rank()))
            if rank() == 0:
                torch.save(trainer.lr_scheduler.state_dict(), part / _SCHEDULER)
        else:
            trainer._save_optimizer_and_scheduler(str(part))
        trainer._save_scaler(str(part))
        trainer._save_rng_state(str(part))
        torch.save(self._epoch_rng, _file(part, "epoch_rng.pt", rank()))

    def _finish(self, trainer: Any, part: Path, counted: Sequence[Mapping[str, Any]], windows: int) -> None:
        """Make a checkpoint of what all processes have written, in place of the one before.

        windows: how many of this part led to it, without that of the checkpoint itself.
        """
        step, folder = trainer.state.global_step, self.parts.folder
        trainer.state.save_to_json(str(part / _STATE))
        document = {
            "step": step,
            "counted": counted,
            "skipped_steps": trainer.skipped_steps,
            "training": dict(self.training),
            "same": dict(self.same),
            "kept": self.parts.kept_until(windows),
        }
        (part / _PROGRESS).write_text(json.dumps(document), encoding="utf-8")
        sync_folder(part)
        before = list(folder.glob(f"{_PREFIX}*"))
        part.rename(folder / f"{_PREFIX}{step}")
        for old in before:
            shutil.rmtree(old, ignore_errors=True)

    def load(self, trainer: Any) -> None:
        """Give a trainer's model the weights of the checkpoint, and the trainer what it had counted."""
        assert self.found is not None
        assert trainer.model is not None
        stored = load_file(self.found.file("trained.safetensors", rank() if is_sharded(trainer.model) else 0))
        trained = _trained(trainer.model)
        if stored.keys() != trained.keys():
            raise UserError(
                f"resume: got {self.found.folder}, which holds other weights than are trained here; "
                f"remove {self.parts.folder} to begin anew"
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                local_part(parameter).copy_(stored[name])
        trainer.counted = dataclasses.replace(trainer.counted, **self.found.counted[rank()])
        trainer.skipped_steps = self.found.skipped_steps

    def load_optimizer(self, trainer: Any) -> None:
        """Give the optimizer of a sharded model its part of the states, and the scheduler its own."""
        if self.found is None or not is_sharded(trainer.model):
            return
        device = trainer.args.device
        place = "cpu" if device.type == "cpu" else device  # torch cannot load to a CPU with a number
        states = torch.load(self.found.file("shards.pt", rank()), map_location=place, weights_only=True)
        load_shards(trainer.optimizer, states)
        trainer.lr_scheduler.load_state_dict(torch.load(self.found.folder / _SCHEDULER, weights_only=True))


def _file(folder: Path, name: str, process: int) -> Path:
    """Return the file that this process writes, which for the first has the plain name."""
    path = folder / name
    return path if process == 0 else path.with_stem(f"{path.stem}_{process}")


def _problem(write: Callable[[], None]) -> str | None:
    """Write something, and return why that failed, if it did."""
    try:
        write()
    except (OSError, RuntimeError) as error:  # safetensors raises its own errors of a full disk
        return " ".join(str(error).split())
    return None


def _counted(trainer: Any) -> dict[str, Any]:
    values = [(item.name, getattr(trainer.counted, item.name)) for item in dataclasses.fields(trainer.counted)]
    return {name: float(value) if torch.is_tensor(value) else value for name, value in values}


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
