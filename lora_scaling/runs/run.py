"""A run from configuration to record, whatever happens in between.

The record is written when the run starts (as interrupted), when its work has ended, and once more with its grams:
nothing that fails afterwards can take away what was measured.
"""

import contextlib
import functools
import gc
import os
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scaling.config import RunConfig, run_id
from lora_scaling.config.devices import from_nvml_name, preset, same_device
from lora_scaling.energy import (
    EnergyAccount,
    EnergyMeter,
    Recording,
    combine,
    idle_baseline,
    measure_idle,
    open_meter,
    settings_for_rank,
    settings_on,
    unused_gpu_warnings,
)
from lora_scaling.energy.parts import PARTS_NAME, Parts, forget_parts, next_part
from lora_scaling.errors import (
    DeviceLost,
    LoraScalingError,
    OutOfMemory,
    RecordError,
    RunFailure,
    UnwritableError,
    UserError,
    one_line,
)
from lora_scaling.grid import compute_emissions, read_timeline
from lora_scaling.paths import presets
from lora_scaling.ranks import local_rank, local_world_size, rank, world_size
from lora_scaling.records import (
    TIMELINE_NAME,
    Record,
    blank_record,
    is_finished,
    locked,
    now_after,
    read_record,
    record_path,
    record_to_row,
    remove_stale_temporary_files,
    write_record,
)
from lora_scaling.records.model_card import write_card
from lora_scaling.records.provenance import host, machine, provenance
from lora_scaling.runs.device_locks import devices_held
from lora_scaling.runs.reach import refuse_out_of_reach
from lora_scaling.runs.slurm_energy import SlurmCount, slurm_count, unasked
from lora_scaling.runs.slurm_queue import why_this_job_ends
from lora_scaling.runs.trackers import hand_over
from lora_scaling.runs.warmup import is_due, warm_up_process
from lora_scaling.signals import ended_when_stuck, interrupted_once, raise_if_interrupted, uninterrupted

if TYPE_CHECKING:
    from lora_scaling.training.device import Device
    from lora_scaling.training.engine import RunFacts
    from lora_scaling.training.model_cache import ModelCache
    from lora_scaling.training.watch import Seen

WAITING = "waiting for the device"
WARMING_UP = "warming up"


# Called with (phase, steps done, steps in all, joules so far or None).
Listener = Callable[[str, int, int, float | None], None]


class Onlooker(ABC):
    """A listener that also gets a function which looks at the training, at next to no cost."""

    @abstractmethod
    def __call__(
        self, phase: str, step: int, steps: int, joules: float | None, seen: "Callable[[], Seen] | None" = None, /
    ) -> None: ...


_LAST_WORDS_S = 3.0
_FIRST_ONLY = {"kind": "ranks", "message": "only the first process's energy is in this record"}
_SHARED = {
    "kind": "shared_device",
    "message": "another run used the same device at the same time: the energy is of both; "
    "exclusive_device=true has runs wait for each other",
}


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How a run ended: its record as written, or why it was skipped (finished before, or another process runs it)."""

    path: Path
    record: Record | None
    skipped: str | None = None
    failure: LoraScalingError | None = None


def run(config: RunConfig, listen: Listener = lambda *_: None) -> RunOutcome:
    """Carry out one run and record it. Errors of the run end up in its record, not in an exception.

    Raises:
        UserError: the record cannot be written.
        KeyboardInterrupt: passed on, after the record of the interrupted run is written.
    """
    with interrupted_once():
        if world_size() > 1:
            _prepare_process(config)  # the processes meet
            if rank() > 0:
                return _run_as_follower(config)
        return _run_as_leader(config, listen)


def _run_as_follower(config: RunConfig) -> RunOutcome:
    """Do a further process's part in a distributed run: work and measure; rank 0 records."""
    path = record_path(config.runs_dir, config.study, run_id(config))
    message = _receive()
    if isinstance(message, UserError):
        raise message
    if message is not None:
        return RunOutcome(path=path, record=None, skipped=message)
    try:
        _work(config, {}, path, lambda *_: None)
    except Exception as error:
        # What the first process gets to know is that it was ended.
        print(f"lora-scaling: process {rank()}: {_in_words(error)}", file=sys.stderr, flush=True)
        time.sleep(_LAST_WORDS_S)  # the launcher ends everyone when one process ends: let the first record it
        raise
    _receive()  # until the record is written
    return RunOutcome(path=path, record=None, skipped=f"process {rank()}'s part is done")


def _run_as_leader(config: RunConfig, listen: Listener) -> RunOutcome:
    name = run_id(config)
    path = record_path(config.runs_dir, config.study, name)
    with contextlib.ExitStack() as held:
        try:
            mine = held.enter_context(locked(path.parent))
            skipped = None if mine else "another process is running it"
            if mine:
                remove_stale_temporary_files(path.parent)
            if mine and config.on_existing == "skip" and is_finished(path):
                skipped = "finished before"
                if config.save_adapter and not read_record(path).get("saved"):
                    skipped += ", and nothing was saved; on_existing=rerun trains again"
                elif config.score.name != "none" and "scores" not in read_record(path).get("training", {}):
                    skipped += ", and was not scored; on_existing=rerun trains again"
            if not skipped and is_finished(path):
                forget_parts(path.parent)
            record = {} if skipped else _start_record(config, name, path)
        except UserError as error:
            _broadcast(error)
            raise
        _broadcast(skipped)
        if skipped:
            return RunOutcome(path=path, record=dict(read_record(path)) if mine else None, skipped=skipped)
        failure: LoraScalingError | None = None
        slurm = slurm_count()
        if slurm is not None:
            record["slurm_energy"] = unasked()
            held.callback(slurm.forget)
        try:
            if world_size() == 1:  # of several, the others are on their way to meet this one
                refuse_out_of_reach(config)
            _work(config, record, path, listen, slurm)
        except KeyboardInterrupt as stop:
            error = why_this_job_ends() or str(stop) or "interrupted from the keyboard"
            record |= {"status": "interrupted", "error": error}
            raise
        except LoraScalingError as error:
            failure = error
            record |= {"status": "oom" if isinstance(error, OutOfMemory) else "failed", "error": str(error)}
        except Exception as error:
            failure = _failure(error, path)
            record |= {"status": "failed", "error": _in_words(error), "traceback": traceback.format_exc()}
        finally:
            with uninterrupted():
                record["finished_at"] = now_after(record["started_at"])
                try:
                    _save(path, record)
                except UnwritableError as error:
                    if record["status"] != "interrupted":
                        raise
                    print(f"lora-scaling: {error}", file=sys.stderr, flush=True)  # and the interruption goes on
        if slurm is not None:
            record["slurm_energy"] = slurm.end()
        if record["status"] == "ok" and config.resume == "auto":
            forget_parts(path.parent)
        _add_emissions(config, record, path)
        _add_card(record, path)
        try:
            write_record(path, record)
        except UnwritableError as error:  # the run is finished and recorded
            print(f"lora-scaling: the grams were not recorded: {error}", file=sys.stderr, flush=True)
        if failure is None:
            _hand_to_trackers(config, record, path)
            _broadcast("recorded")
        return RunOutcome(path=path, record=record, failure=failure)


def _failure(error: Exception, path: Path) -> RunFailure:
    from lora_scaling.training.device import is_sticky

    what = f"the run failed: {_in_words(error)}; {path} holds the traceback"
    if is_sticky(error):
        return DeviceLost(f"{what}; this process can no longer use its GPU: type the command again for the other runs")
    return RunFailure(what)


def _save(path: Path, record: Record) -> None:
    """Write the record; if its folder takes no more, save what was measured in the temporary folder.

    Raises:
        UnwritableError: the text says where the record is.
    """
    try:
        write_record(path, record)
    except UnwritableError as error:
        saved = Path(tempfile.gettempdir()) / "lora-scaling-unsaved" / path.parent.name / path.name
        try:
            write_record(saved, record)
        except UnwritableError:
            raise error from None
        reason = str(error).removeprefix("runs_dir: ")
        raise UnwritableError(f"runs_dir: {reason}; what was measured is saved as {saved}: move it to {path}") from None


def _broadcast(word: str | UserError | None) -> None:
    """Send a message to the other ranks of a distributed run, which wait for it in `_run_as_follower`."""
    if world_size() > 1:
        from lora_scaling.training.ranks import broadcast_from_rank0

        broadcast_from_rank0(word)


def _receive() -> str | UserError | None:
    """Receive rank 0's message; exit silently if rank 0 has died, which printed the reason."""
    from lora_scaling.training.ranks import broadcast_from_rank0

    try:
        return broadcast_from_rank0(None)
    except RuntimeError:  # what torch raises for a group that is not complete any more
        raise SystemExit(1) from None


def _start_record(config: RunConfig, name: str, path: Path) -> Record:
    """Write the record of a run that starts now, and return it."""
    if _model_cache.cache_info().currsize:  # not before the first run of the process
        time.sleep(config.cooldown_s)
    started = blank_record(run_id=name, study=config.study, config=config.to_dict(), provenance=provenance())
    record = started | {
        "error": "the process ended before the run did",
        "replicate": config.replicate,
        "order": config.order,
        "session": config.session or _session(),
        "world_size": world_size(),
    }
    write_record(path, record)
    return record


def _work(config: RunConfig, record: Record, path: Path, listen: Listener, slurm: SlurmCount | None = None) -> None:
    device, models, meter = _prepare_process(config)
    record["device"] = device.describe()
    _say_other_device(config.hardware.name, record["device"]["name"])
    with _devices_of_all_held(config, _device_name(record["device"], meter), listen) as alone:
        try:
            _measure(config, record, path, listen, device, models, meter, slurm)
        finally:
            if not alone():
                record["exclusive"] = False
                record["warnings"] = [*record.get("warnings", []), _SHARED]


@contextlib.contextmanager
def _devices_of_all_held(config: RunConfig, mine: str, listen: Listener) -> Iterator[Callable[[], bool]]:
    """Hold the devices of all processes of a run until its work is done; yields as `devices_held` does.

    On each host one process holds those of all, whichever agents of a launcher started them: a second one would wait
    for the first. Host by host in the same order, so that no two runs on several hosts wait for each other.
    """
    from lora_scaling.training.ranks import gather_from_ranks

    everyone = gather_from_ranks((machine(), mine))
    here = machine()
    holder = all(place != here for place, _ in everyone[: rank()])
    alone: Callable[[], bool] = lambda: True  # noqa: E731
    with contextlib.ExitStack() as held:
        for turn in sorted({place for place, _ in everyone}):
            if turn == here and holder:
                alone = held.enter_context(
                    devices_held(
                        [name for place, name in everyone if place == here],
                        wait=config.exclusive_device,
                        waiting=lambda: listen(WAITING, 0, 0, None),
                    )
                )
            gather_from_ranks(None)  # nobody starts before all devices are held
        yield alone


def _measure(
    config: RunConfig,
    record: Record,
    path: Path,
    listen: Listener,
    device: "Device",
    models: "ModelCache",
    meter: EnergyMeter,
    slurm: SlurmCount | None,
) -> None:
    from lora_scaling.training.engine import RunFacts, execute
    from lora_scaling.training.ranks import gather_from_ranks

    parts = _open_parts(config, path) if config.resume == "auto" else None
    if parts is not None:
        record["started_at"] = parts.started_at
    baseline = None
    if config.metering.idle_s > 0 and world_size() == 1:  # of several processes none sees all that idles
        baseline = idle_baseline(meter, config.metering.idle_s, Path(config.runs_dir) / ".idle")
    _warm_up(config, record, listen, device, models)
    facts = RunFacts()
    if config.device == "auto" and device.kind == "cpu" and config.metering.gpu_ids is None:
        facts.warnings += unused_gpu_warnings()
    if slurm is not None:
        slurm.begin()
    recording = meter.recording()

    def progress(phase: str, done: int, total: int, seen: "Callable[[], Seen] | None" = None) -> None:
        raise_if_interrupted()
        if isinstance(listen, Onlooker):
            listen(phase, done, total, recording.joules_so_far(), seen)
        else:
            listen(phase, done, total, recording.joules_so_far())

    def last_words(why: str) -> None:
        _record_stuck(config, record, path, facts, recording, parts, why)

    with ended_when_stuck(last_words) if world_size() > 1 else contextlib.nullcontext():
        try:
            execute(
                config,
                device,
                models,
                recording,
                facts,
                folder=path.parent,
                progress=progress,
                parts=parts,
            )
            record |= {"status": "ok", "error": None}
        finally:
            together = world_size() > 1
            with uninterrupted():
                account = recording.close(baseline)
                if slurm is not None:  # whose count is of this process's part alone
                    slurm.measured_joules = account.joules
                if parts is not None:
                    _end_part(parts, account, record, facts)
                whole = _whole(parts, account, record)
                _record_outcome(config, record, path, facts, whole, [_FIRST_ONLY] if together else [])
            if together and record.get("status") == "ok":  # otherwise another process may never give its account
                account = combine(gather_from_ranks(account))
                if slurm is not None:
                    slurm.measured_joules = account.joules
                whole = _whole(parts, account, record)
                peaks = gather_from_ranks(facts.peak_memory_gb)  # of the process that needed most, where all are known
                facts.peak_memory_gb = None if None in peaks else max(peak for peak in peaks if peak is not None)
                _record_outcome(config, record, path, facts, whole, [])


def _warm_up(config: RunConfig, record: Record, listen: Listener, device: "Device", models: "ModelCache") -> None:
    """Make the short training before the first run of a process, and enter it into the record."""
    before = device.idle_bytes()
    if is_due(config, device):
        listen(WARMING_UP, 0, 0, None)
    record.setdefault("provenance", {})["warmup_run"] = warm_up_process(config, device)
    models.idle_bytes += max(0, device.idle_bytes() - before)  # not a run's own either


def _record_stuck(
    config: RunConfig,
    record: Record,
    path: Path,
    facts: "RunFacts",
    recording: Recording,
    parts: Parts | None,
    why: str,
) -> None:
    """Record what was measured until now, from another thread than the one that is stuck in a collective."""
    if parts is not None:
        _end_part(parts, recording.so_far(), record, facts)
    if rank() > 0:
        return
    why = why_this_job_ends() or why
    print(f"lora-scaling: {why}, while this process waited for another", file=sys.stderr, flush=True)
    record |= {"status": "interrupted", "error": why, "finished_at": now_after(record["started_at"])}
    _record_outcome(config, record, path, facts, _whole(parts, recording.so_far(), record), [_FIRST_ONLY])
    _save(path, record)


def _open_parts(config: RunConfig, path: Path) -> Parts:
    """Begin a part of a run whose earlier parts were killed, if there are any.

    Raises:
        UserError: an earlier part cannot be read, or several processes do not share the folder.
    """
    from lora_scaling.training.ranks import broadcast_from_rank0, on_all_ranks

    folder = path.parent / PARTS_NAME
    number = broadcast_from_rank0(on_all_ranks(lambda: next_part(folder)))
    parts = on_all_ranks(lambda: Parts(folder, host(), number=number, rank=rank(), processes=world_size()))
    on_all_ranks(parts.refuse_unshared)
    return parts


def _end_part(parts: Parts, account: EnergyAccount, record: Record, facts: "RunFacts") -> None:
    """Keep what this process measured of its part."""
    parts.note(account, facts.work.get("steps") or parts.step, _ended(record))
    if parts.warning is not None:
        facts.warnings.append({"kind": "unkept", "message": parts.warning})


def _whole(parts: Parts | None, account: EnergyAccount, record: Record) -> EnergyAccount:
    """Return the account of the whole run, of which `account` is the last part."""
    return account if parts is None else parts.joined(account, _ended(record))


def _ended(record: Record) -> str:
    return "finished" if record.get("status") == "ok" else "ended"


def _record_outcome(
    config: RunConfig,
    record: Record,
    path: Path,
    facts: "RunFacts",
    account: EnergyAccount,
    further: list[dict[str, str]],
) -> None:
    """Enter the work and its energy into the record, and write the timeline beside it; `further` are warnings."""
    record |= asdict(facts)
    record["energy"] = account.to_dict()
    record["exclusive"] = account.exclusive
    record["warnings"] = [*facts.warnings, *further, *account.warnings]
    record["total_s"] = sum(phase.seconds for phase in account.phases)
    record["mfu"] = _utilisation(config, record)
    if rank() == 0:
        try:
            account.write_timeline(path.parent / TIMELINE_NAME)
        except UnwritableError as error:  # the record, which is smaller or saved elsewhere, still has the energy
            record["energy"]["timeline"] = None
            record["warnings"].append({"kind": "no_timeline", "message": f"The timeline was not written: {error}"})


@functools.cache  # once, however many runs a process makes
def _say_other_device(asked: str, here: str) -> None:
    """Say that a run is not made on the device that `hardware` names, before anything is downloaded for it."""
    if rank() == 0 and asked in presets("hardware", shipped=True) and not same_device(asked, here):
        text = f"hardware: got {asked}; this run is made on {here}, and its time and energy will be of that"
        print(f"lora-scaling: {text}: leave hardware out, or start it on such a device", file=sys.stderr, flush=True)


def _device_name(device: Mapping[str, Any], meter: EnergyMeter) -> str:
    """Return what distinguishes the devices of a host. Slices of one board are one: its counter is that of all."""
    return meter.divided_board or device["uuid"] or device["kind"]


@functools.cache
def _model_cache() -> "ModelCache":
    from lora_scaling.training.model_cache import ModelCache

    return ModelCache()


def _prepare_process(config: RunConfig) -> "tuple[Device, ModelCache, EnergyMeter]":
    """Do what is slow, happens once per process, and belongs to no run: imports, device, sensors."""
    from lora_scaling.training.device import choose_device, show_one_gpu

    show_one_gpu(config.device)  # before the imports of training start the driver
    import lora_scaling.training.engine  # noqa: F401 - before what was imported is spared
    from lora_scaling.training.ranks import init_group

    device = choose_device(config.device, config.precision)
    _spare_imports_from_collection()
    models = _model_cache()
    init_group(device.kind)
    metering = settings_on(config.metering, kind=device.kind, gpu_uuid=device.gpu_uuid())
    if world_size() > 1:
        metering = settings_for_rank(metering, local_rank(), local_world_size(), one_gpu=True)
    meter = open_meter(metering, device.synchronize, gpu_expected=device.kind != "cpu")
    if models.idle_bytes == 0:
        models.idle_bytes = device.idle_bytes()
    return device, models, meter


@functools.cache
def _spare_imports_from_collection() -> None:
    """Trainer collects garbage as training starts, inside the measured window: a quarter of a second of walking
    through imported modules that never change. Freezing them takes that out of every run."""
    gc.collect()
    gc.freeze()


def idle_after(config: RunConfig) -> str | None:
    """Measure the idle power again after this process's runs; return a sentence, or None if none was measured before.

    Both baselines are kept in `<runs_dir>/<study>/idle.json`: a machine that idles higher after a sweep than before
    it was warmer, or no longer alone.
    """
    if config.metering.idle_s <= 0 or world_size() > 1 or not _model_cache.cache_info().currsize:
        return None
    try:
        device, models, meter = _prepare_process(config)
    except UserError:  # the sweep's own runs have said so
        return None
    before = meter.idle
    models.drop_base()
    device.synchronize()
    with devices_held([_device_name(device.describe(), meter)], wait=config.exclusive_device):
        after = measure_idle(meter, config.metering.idle_s)
    if before is None:
        return None
    path = Path(config.runs_dir) / config.study / "idle.json"
    try:
        with locked(path.parent):
            write_record(path, {"before": before.to_dict(), "after": after.to_dict()})
    except UnwritableError as error:  # the runs are finished and recorded
        print(f"lora-scaling: {path.name} was not written: {error}", file=sys.stderr, flush=True)
    for when, baseline in (("before", before), ("after", after)):
        if baseline.reason is not None:
            return f"Idle power not compared: {when} the runs, {baseline.reason}"
    return f"Idle power: {before.power_w:.3g} W before, {after.power_w:.3g} W after"


def _add_emissions(config: RunConfig, record: Record, path: Path) -> None:
    """Compute grams from the timeline. The energy is recorded by now; a grid that fails leaves its reason, no error."""
    if not record["energy"] or not record["energy"]["timeline"] or not config.metering.enabled:
        return
    with contextlib.suppress(OSError, RecordError):
        bins = read_timeline(path.parent / TIMELINE_NAME)
        record["emissions"] = compute_emissions(bins, config.grid).to_dict()


def _add_card(record: Record, path: Path) -> None:
    """Write the model card of what the run saved; if that fails, the adapter is there without one."""
    try:
        write_card(path, record)
    except Exception as error:
        text = f"The model card was not written: {one_line(error)}"
        record["warnings"] = [*record.get("warnings", []), {"kind": "no_card", "message": text}]


def _hand_to_trackers(config: RunConfig, record: Record, path: Path) -> None:
    """Hand the recorded run to the trackers; one that does not take it costs a warning."""
    if not config.trackers:
        return
    warnings = hand_over(path, config.trackers)
    for warning in warnings:
        print(f"lora-scaling: {warning['message']}", file=sys.stderr, flush=True)
    if warnings:
        record["warnings"] = [*record.get("warnings", []), *warnings]
        with contextlib.suppress(UnwritableError):  # the run is finished and recorded
            write_record(path, record)


def _utilisation(config: RunConfig, record: Record) -> float | None:
    """Compute the model FLOPs utilisation of training against the dense peak of the device's sheet; None without one.

    Recomputation is not counted as useful (Chowdhery et al. 2022, arXiv:2204.02311, app. B).
    """
    device, flops = record.get("device") or {}, record["work"].get("model_flops")
    train_s = record_to_row(record)["train_s"]
    if device.get("kind") != "cuda" or not flops or not train_s:
        return None
    # A listed sheet that was asked for is of its own device alone; one of the user's own is of whatever is here.
    asked = preset("auto") if config.hardware.name in presets("hardware") else config.hardware
    sheet = from_nvml_name(device["name"], asked, limit_w=0.0, memory_gb=device["memory_gb"])
    peak = sheet.peak_tflops.get(record["training"]["precision"])
    return flops / train_s / (peak * 1e12 * device["gpu_count"]) if peak else None


@functools.cache
def _session() -> str:
    """Name this process: its runs share caches, temperature and neighbours, which other processes do not."""
    return f"{host()}-{os.getpid()}-{datetime.now(UTC):%Y%m%dT%H%M%S}"


def _in_words(error: BaseException) -> str:
    """Write an error of the work in one line; in our words where another process of the run was lost."""
    from lora_scaling.training.ranks import lost_process

    return lost_process(error) or one_line(error)
