"""Write checkpoints of a training between its windows, and continue from the newest one.

A checkpoint has all that the next steps depend on: what is trained, optimizer, scheduler, scaler, random numbers, the
place in the data, and what was counted. A step after it is the same step as without an interruption.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
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

_PREFIX = "checkpoint-"
_WEIGHTS, _PROGRESS, _RNG = "trained.safetensors", "progress.json", "epoch_rng.pt"
_STATE = "trainer_state.json"  # transformers' name


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk.

    counted: what had been trained on up to it. training: what the record's section held. same: what has to be the same
    where it is continued. kept: windows of each part that led to it.
    """

    folder: Path
    step: int
    counted: Mapping[str, Any]
    training: Mapping[str, Any]
    same: Mapping[str, Any]
    kept: Mapping[str, int]
    skipped_steps: int = 0


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
    _epoch_rng: torch.Tensor | None = None
    _continued: bool = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the order of the epoch's samples from the random numbers of before the interruption."""
        if self.found is not None and not self._continued:
            torch.set_rng_state(torch.load(self.found.folder / _RNG, weights_only=True))
        self._continued = True
        self._epoch_rng = torch.get_rng_state()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the window of the training, which begins when the checkpoint has been read."""
        self._last_s = time.monotonic()
        self.parts.note(self.recording.so_far(), state.global_step)
        if self.found is not None:
            self.recording.begin_phase("train")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.parts.is_due():
            self.parts.note(self.recording.so_far(), state.global_step)
        if time.monotonic() - self._last_s >= self.every_s and state.global_step < state.max_steps:
            control.should_save = True

    def write(self, trainer: Any) -> None:
        """Write a checkpoint in a window of its own; if that fails, the run goes on with the one before."""
        self.recording.begin_phase("checkpoint")
        try:
            self._write(trainer)
        except (OSError, RuntimeError) as error:  # safetensors raises its own errors of a full disk
            if "no_checkpoint" not in {warning["kind"] for warning in self.warnings}:
                text = f"A checkpoint could not be written: {' '.join(str(error).split())}"
                self.warnings.append({"kind": "no_checkpoint", "message": text})
        self._last_s = time.monotonic()
        self.recording.begin_phase("train")

    def _write(self, trainer: Any) -> None:
        step = trainer.state.global_step
        folder = self.parts.folder
        part = folder / ".checkpoint.tmp"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        assert trainer.model is not None
        save_file({name: p.detach().contiguous() for name, p in _trained(trainer.model).items()}, part / _WEIGHTS)
        trainer._save_optimizer_and_scheduler(str(part))
        trainer._save_scaler(str(part))
        trainer._save_rng_state(str(part))
        trainer.state.save_to_json(str(part / _STATE))
        torch.save(self._epoch_rng, part / _RNG)
        account = self.recording.so_far()
        self.parts.note(account, step)
        document = {
            "step": step,
            "counted": {name: float(value) if torch.is_tensor(value) else value for name, value in _fields(trainer)},
            "skipped_steps": trainer.skipped_steps,
            "training": dict(self.training),
            "same": dict(self.same),
            "kept": self.parts.kept_until(len(account.phases) - 1),  # without the window of this checkpoint
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
        stored = load_file(self.found.folder / _WEIGHTS)
        trained = _trained(trainer.model)
        if stored.keys() != trained.keys():
            raise UserError(
                f"resume: got {self.found.folder}, which holds other weights than are trained here; "
                f"remove {self.parts.folder} to begin anew"
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(stored[name])
        trainer.counted = dataclasses.replace(trainer.counted, **self.found.counted)
        trainer.skipped_steps = self.found.skipped_steps


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def _fields(trainer: Any) -> list[tuple[str, Any]]:
    return [(item.name, getattr(trainer.counted, item.name)) for item in dataclasses.fields(trainer.counted)]
