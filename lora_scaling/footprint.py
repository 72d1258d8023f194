"""Measure the footprint of any training code, in three lines.

    from lora_scaling import footprint
    with footprint("my-run", samples=1000, epochs=2):
        train()

or, for a transformers Trainer or a TRL SFTTrainer,

    from lora_scaling.footprint import FootprintCallback
    trainer.add_callback(FootprintCallback("my-run"))     # predict=True: says what the whole training will take
    trainer.train()

Both write `runs/footprint/my-run-…/run.json` and the energy timeline, like a run of this project:
`python -m lora_scaling.emissions runs` computes its grams, and `python -m analysis` reads it. Measuring never stops or
changes the training: if a sensor or a disk fails, the record has a null with a reason, or the log has a line.
Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, cast

from lora_scaling import records
from lora_scaling.callable_module import make_callable
from lora_scaling.config.build import suggest
from lora_scaling.energy import (
    EnergyAccount,
    EnergyMeter,
    MeteringSettings,
    Recording,
    combine,
    open_meter,
    settings_for_rank,
)
from lora_scaling.errors import UserError
from lora_scaling.ranks import rank
from lora_scaling.version import __version__

log = logging.getLogger(__name__)
_SECTIONS = ("config", "model", "data", "work", "training", "device")
Hook = TypeVar("Hook", bound=Callable[..., Any])


class Facts(TypedDict, total=False):
    """What may be told of the work, by the names that the settings of this project have; `note` takes anything else."""

    samples: int
    epochs: float
    max_steps: int
    batch_size: int
    gradient_accumulation: int
    max_seq_len: int
    padding: str
    packing: bool
    precision: str
    gradient_checkpointing: bool
    sharding: str
    optimizer: str
    learning_rate: float
    seed: int
    replicate: int
    model: str | Mapping[str, Any]
    method: str | Mapping[str, Any]
    lora: Mapping[str, Any]
    data: str | Mapping[str, Any]


def _check(facts: Mapping[str, object]) -> None:
    """Refuse a misspelt fact before any work begins: a record would keep it, and no table would find it.

    Raises UserError.
    """
    for name, value in facts.items():
        if name not in Facts.__annotations__:
            noted = f'other facts go into the record by note("config", {name}=…)'
            raise UserError(f"{name}: got {value!r}; {suggest(name, sorted(Facts.__annotations__))}; {noted}")


class Footprint:
    """One measured stretch of work. `note` fills sections of the record while it runs.

    All work belongs to the phase `train` unless `phase` says otherwise.
    """

    def __init__(
        self,
        name: str,
        *,
        study: str = "footprint",
        runs_dir: str | Path = "runs",
        settings: MeteringSettings | None = None,
        writes: bool | None = None,
        **facts: Unpack[Facts],
    ):
        """name, study: parts of the record's path; facts: what is known of the work (samples, epochs, …).

        writes: whether this process writes the record; None: the first process of a launch does. Raises UserError for a
        fact of an unknown name.
        """
        _check(facts)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self.run_id = f"{_safe(name)}-{stamp}-{secrets.token_hex(3)}"
        self.path = records.record_path(runs_dir, _safe(study), self.run_id)
        self.account: EnergyAccount | None = None
        self.record = records.blank_record(
            run_id=self.run_id,
            study=_safe(study),
            config={"name": name, **facts},
            provenance={"lora_scaling": __version__, "python": platform.python_version(), "by": "footprint"},
        )
        self._writes = _is_first_rank() if writes is None else writes
        self._settings = settings if settings is not None else MeteringSettings()
        self._meter: EnergyMeter | None = None
        self._recording: Recording | None = None
        self._start_s = 0.0

    def note(self, section: str, **values: Any) -> None:
        """Add to a section of the record: config, model, data, work, training or device."""
        if section not in _SECTIONS:
            log.warning("lora-scaling: section: got %r, which is none of %s", section, ", ".join(_SECTIONS))
            return
        self.record[section].update(values)

    def open(self, *, with_ranks: bool = False) -> None:
        """Open the sensors (the first time in a process 1.5 to 3 s) and begin the phase `train`.

        with_ranks: every rank calls this, so that their windows begin together.
        """
        if self._writes or with_ranks:  # if ranks do not exchange data, the writing one measures its host
            with _never_raise("the meter could not be opened"):
                self._meter = open_meter(self._settings, _synchronize, gpu_expected=_computes_on_gpu())
                self._recording = self._meter.recording()
        if with_ranks and (distributed := _distributed()) is not None:
            distributed.barrier()
        self.record["started_at"] = records.now()
        self._start_s = time.perf_counter()
        self._write()
        self.switch("train")

    def switch(self, phase: str) -> None:
        """End the current phase and begin another."""
        with _never_raise("a measuring window could not be opened"):
            if self._recording is not None:
                self._recording.begin_phase(phase)

    @contextlib.contextmanager
    def phase(self, name: str):
        """Put the enclosed work into another phase than `train`, such as `setup` or `eval`."""
        self.switch(name)
        try:
            yield
        finally:
            self.switch("train")

    @property
    def seconds(self) -> float:
        """Seconds since the measuring began."""
        return time.perf_counter() - self._start_s

    def mean_power_w(self) -> float | None:
        """Return the mean power so far, of all components; None if it is not known."""
        if self._recording is None:
            return None
        joules = self._recording.so_far().joules
        return joules / self.seconds if joules and self.seconds > 0 else None

    def measure(self) -> EnergyAccount | None:
        """End the measuring; the account, or None if there is none."""
        if self.account is None and self._meter is not None and self._recording is not None:
            with _never_raise("the energy could not be computed"):
                self._meter.gpu_expected = _computes_on_gpu()  # most code first uses a GPU inside the block
                self.account = self._recording.close()
        return self.account

    def close(self, error: BaseException | None = None) -> None:
        """Write the record; `error` is what ended the work, if something did."""
        account = self.measure()
        status, sentence = _outcome(error)
        self.record |= {
            "status": status,
            "error": sentence,
            "finished_at": records.now_after(self.record["started_at"]),
            "total_s": time.perf_counter() - self._start_s,
        }
        with _never_raise("the record could not be completed"):
            if account is not None:
                self._take(account)
        self._write()

    def _take(self, account: EnergyAccount) -> None:
        self.account = account
        self.record["energy"] = account.to_dict()
        self.record["exclusive"] = account.exclusive
        self.record["warnings"] = [dict(warning) for warning in account.warnings]
        from lora_scaling.config.devices import processor_name  # the same name as in the records of runs

        gpus = account.conditions.get("gpus") or []
        if _computes_on_gpu(unless_known=bool(gpus)):  # a visible GPU may be idle, and a used one unreadable
            name, count = (gpus[0].get("name"), len(gpus)) if gpus else (None, None)
            self.note("device", kind="cuda", name=name, count=count, gpu_count=count)
        else:
            self.note("device", kind="cpu", name=processor_name(), gpu_count=0)

    def _write(self) -> None:
        if not self._writes:
            return
        with _never_raise("the record could not be written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.account is not None:
                self.account.write_timeline(self.path.with_name(records.TIMELINE_NAME))
            records.write_record(self.path, self.record)

    def __enter__(self) -> Footprint:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)


def footprint(
    name: str,
    *,
    study: str = "footprint",
    runs_dir: str | Path = "runs",
    settings: MeteringSettings | None = None,
    **facts: Unpack[Facts],
) -> Footprint:
    """Measure a `with` block, whose exceptions pass through. The options are those of `Footprint`."""
    return Footprint(name, study=study, runs_dir=runs_dir, settings=settings, **facts)


def _hook(function: Hook) -> Hook:
    """Wrap a callback method so that no failure of ours leaves it."""

    @functools.wraps(function)
    def guarded(self: _Hooks, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with _never_raise(f"{function.__name__} failed"):
            function(self, args, state, control, **kwargs)

    return cast(Hook, guarded)


def _is_first_rank() -> bool:
    """Return whether this process writes the record; so does one whose launcher's variables make no sense."""
    try:
        return rank() == 0
    except UserError as error:
        log.warning("lora-scaling: %s", error)
        return True


class _Hooks:
    """The methods of FootprintCallback; TrainerCallback is added when transformers is imported."""

    def __init__(
        self,
        name: str = "trainer",
        *,
        study: str = "footprint",
        runs_dir: str | Path = "runs",
        settings: MeteringSettings | None = None,
        predict: bool = False,
        zone: str | None = None,
        **facts: Unpack[Facts],
    ) -> None:
        """Take the options of `Footprint`; facts that are given take precedence over what the Trainer knows.

        predict: print what the whole training will take and emit, after its first steps and a tenth of it.
        zone: the grid of that prediction, such as DK1; None: the mean of the world. Raises UserError for a fact of an
        unknown name.
        """
        _check(facts)
        self.name, self.facts = name, facts
        self.study, self.runs_dir, self.settings = study, runs_dir, settings
        self.predict, self.zone = predict, zone
        self._forecast: _Forecast | None = None
        self.footprint: Footprint | None = None
        self._before = (0, 0.0, 0.0, 0)
        self._in_eval = False

    @_hook
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._abandon()
        settings, world = self.settings, int(getattr(args, "world_size", 1))
        if world > 1:
            local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
            settings = settings_for_rank(settings or MeteringSettings(), int(args.local_process_index), local_world)
        writes = bool(getattr(state, "is_world_process_zero", True))
        self.footprint = Footprint(
            self.name, study=self.study, runs_dir=self.runs_dir, settings=settings, writes=writes, **self.facts
        )
        self._before = _progress(state)
        self._describe(self.footprint, args, kwargs)
        atexit.register(self._abandon)
        self.footprint.open(with_ranks=True)
        if self.predict and writes:
            self._forecast = _Forecast(self.footprint, int(state.max_steps), int(state.global_step), self.zone)

    @_hook
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._forecast is not None and not self._in_eval:
            self._forecast.step(int(state.global_step))

    @_hook
    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.footprint is not None and not self._in_eval:
            self._in_eval = True
            self.footprint.switch("eval")

    @_hook
    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.footprint is not None and self._in_eval:
            self._in_eval = False
            self.footprint.switch("train")

    @_hook
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        mine, self.footprint, self._forecast = self.footprint, None, None
        atexit.unregister(self._abandon)
        account = _of_all_ranks(mine.measure() if mine is not None else None)
        if mine is None:
            return
        mine.account = account
        losses = [entry["train_loss"] for entry in state.log_history if "train_loss" in entry]
        mine.note("training", train_loss=losses[-1] if losses else None)
        # Work before a resumed checkpoint was shown, and paid for, earlier.
        steps, epochs, flops, tokens = (now - then for now, then in zip(_progress(state), self._before, strict=True))
        samples = mine.record["config"].get("samples")
        mine.note("work", steps=steps, tokens_seen=tokens or None, flops=flops or None)
        mine.note("work", samples_seen=None if samples is None else round(samples * epochs))
        if args.max_steps > 0 and "epochs" not in self.facts:  # then the number of steps was given instead
            mine.note("config", epochs=epochs)
        mine.close()

    def _abandon(self) -> None:
        """Close after training that ended without a call: an exception the caller caught, or the end of the process."""
        left, self.footprint, self._forecast = self.footprint, None, None
        self._in_eval = False
        if left is not None:
            left.close(getattr(sys, "last_value", None) or RuntimeError("training did not reach its end"))

    def _describe(self, made: Footprint, args: Any, parts: dict[str, Any]) -> None:
        """Note what the Trainer knows; options given to the callback take precedence."""
        model, loader = parts.get("model"), parts.get("train_dataloader")
        known: dict[str, Any] = {}
        with contextlib.suppress(Exception):
            known["samples"] = len(loader.dataset)  # type: ignore[union-attr]
        with contextlib.suppress(Exception):
            sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]  # type: ignore[union-attr]
            trained = sum(n for n, trains in sizes if trains)
            made.note("model", name=type(model).__name__, params=sum(n for n, _ in sizes))
            made.note("work", trainable_params=trained)
            made.note("model", trainable_params=trained)
        known |= {
            "epochs": float(args.num_train_epochs),
            "batch_size": int(args.per_device_train_batch_size),
            "gradient_accumulation": int(args.gradient_accumulation_steps),
            "gradient_checkpointing": bool(args.gradient_checkpointing),
            "seed": int(args.seed),
        }
        made.note("config", **{key: value for key, value in known.items() if key not in self.facts})


class _Forecast:
    """Says what a training will take and emit: after its first steps, and once more after a tenth of them."""

    def __init__(self, footprint: Footprint, steps: int, before: int, zone: str | None) -> None:
        from lora_scaling.estimate.outlook import Outlook
        from lora_scaling.grid import static_intensity

        self._outlook, self._footprint = Outlook(), footprint
        self._steps, self._before = steps - before, before  # steps before a checkpoint were paid for earlier
        self._intensity = static_intensity(zone)
        self._said = 0

    def step(self, step: int) -> None:
        done = step - self._before
        self._outlook.note(done, self._footprint.seconds)
        early = self._said == 1 and done < self._steps / 10
        if early or self._said == 2 or self._outlook.whole(self._steps) is None:
            return
        whole = self._outlook.whole(self._steps, self._footprint.mean_power_w())
        if whole is not None:
            place = f"{self._intensity.place}, a yearly mean"
            print(f"lora-scaling: {whole.sentence(self._intensity.g_per_kwh)} ({place})", file=sys.stderr, flush=True)
        self._said = 2 if done >= self._steps / 10 else 1


@functools.cache
def _callback_class() -> type:
    from transformers import TrainerCallback

    class FootprintCallback(_Hooks, TrainerCallback):
        """Measures `trainer.train()`: FootprintCallback(name, study=…, runs_dir=…, settings=…, predict=…)."""

    FootprintCallback.__qualname__ = "FootprintCallback"
    return FootprintCallback


if TYPE_CHECKING:
    from transformers import TrainerCallback

    class FootprintCallback(_Hooks, TrainerCallback):
        """Measures `trainer.train()`; made when it is first asked for, since transformers takes seconds to import."""

else:

    def __getattr__(name: str) -> Any:
        if name == "FootprintCallback":
            return _callback_class()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _of_all_ranks(account: EnergyAccount | None) -> EnergyAccount | None:
    """Combine the measurements of all ranks. Every rank must call this, or the others would wait for it."""
    distributed = _distributed()
    if distributed is None:
        return account
    gathered: list[EnergyAccount | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, account)
    known = [each for each in gathered if each is not None]
    return combine(known) if known else None


def _progress(state: Any) -> tuple[int, float, float, int]:
    """Return the steps, epochs, FLOPs and tokens a Trainer has done, including those before a checkpoint."""
    tokens = getattr(state, "num_input_tokens_seen", 0) or 0
    return state.global_step, float(state.epoch or 0), float(state.total_flos or 0), tokens


def _computes_on_gpu(*, unless_known: bool = False) -> bool:
    """Return whether torch has used an NVIDIA GPU in this process; without torch, this is unknown."""
    torch = sys.modules.get("torch")
    return unless_known if torch is None else torch.cuda.is_initialized()


def _distributed() -> Any:
    """Return torch.distributed if this process is one of several ranks, else None."""
    torch = sys.modules.get("torch")
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return torch.distributed


def _synchronize() -> None:
    """Wait for the accelerator if this process uses one; torch is looked up, never imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


@contextlib.contextmanager
def _never_raise(what: str):
    try:
        yield
    except Exception as error:
        log.warning("lora-scaling: %s: %s", what, error)


def _outcome(error: BaseException | None) -> tuple[str, str | None]:
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "ok", None
    sentence = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "interrupted by the user"
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return "oom", sentence
    return "failed", sentence


def _safe(name: str) -> str:
    """Turn a name into part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"


make_callable(__name__, lambda: footprint)  # `from lora_scaling import footprint` is this module
