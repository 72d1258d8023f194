"""Measure a block of code: the record and the energy timeline of any work, whatever trains in it."""

from __future__ import annotations

import contextlib
import logging
import platform
import re
import secrets
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, Unpack

from lora_scaling import records
from lora_scaling.config.build import suggest
from lora_scaling.energy import (
    EnergyAccount,
    EnergyMeter,
    MeteringSettings,
    Recording,
    open_meter,
)
from lora_scaling.errors import UserError
from lora_scaling.ranks import rank
from lora_scaling.version import __version__

log = logging.getLogger(__name__)
_SECTIONS = ("config", "model", "data", "work", "training", "device")


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


def check_facts(facts: Mapping[str, object]) -> None:
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
        check_facts(facts)
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
            with never_raise("the meter could not be opened"):
                self._meter = open_meter(self._settings, _synchronize, gpu_expected=_computes_on_gpu())
                self._recording = self._meter.recording()
        if with_ranks and (ranks := distributed()) is not None:
            ranks.barrier()
        self.record["started_at"] = records.now()
        self._start_s = time.perf_counter()
        self._write()
        self.switch("train")

    def switch(self, phase: str) -> None:
        """End the current phase and begin another."""
        with never_raise("a measuring window could not be opened"):
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
            with never_raise("the energy could not be computed"):
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
        with never_raise("the record could not be completed"):
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
        with never_raise("the record could not be written"):
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


def _is_first_rank() -> bool:
    """Return whether this process writes the record; so does one whose launcher's variables make no sense."""
    try:
        return rank() == 0
    except UserError as error:
        log.warning("lora-scaling: %s", error)
        return True


def _computes_on_gpu(*, unless_known: bool = False) -> bool:
    """Return whether torch has used an NVIDIA GPU in this process; without torch, this is unknown."""
    torch = sys.modules.get("torch")
    return unless_known if torch is None else torch.cuda.is_initialized()


def distributed() -> Any:
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
def never_raise(what: str):
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
