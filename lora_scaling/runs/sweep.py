"""A sweep as a Hydra sweeper, so that any Hydra launcher can carry its runs: planned, resumed, and summed up."""

import contextlib
import dataclasses
import io
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf, open_dict

from lora_scaling.config import RunConfig
from lora_scaling.config.compose import check_launcher
from lora_scaling.config.sweep import PlannedRun, SweepDesign, plan
from lora_scaling.errors import RecordError, RunFailure, UnwritableError, UserError
from lora_scaling.estimate import Estimate
from lora_scaling.estimate.sweeps import Total, estimates_of, total_of
from lora_scaling.ranks import world_size
from lora_scaling.records import Record, doubts_about_locks, locked, read_record, remove_stale_temporary_files
from lora_scaling.records.schema import RunRecord
from lora_scaling.runs import progress as console
from lora_scaling.runs.hydra_jobs import HydraPlugin, PlannedLauncher
from lora_scaling.runs.ray import RayLauncher
from lora_scaling.runs.run import idle_after
from lora_scaling.runs.slurm import SlurmLauncher
from lora_scaling.runs.slurm_energy import comparison
from lora_scaling.runs.workers import WorkersLauncher
from lora_scaling.text import ENERGY, TIME, number

# A job that is cut short has spent its energy for nothing; a limit that is too long only waits longer in the queue.
_LIMIT_MARGIN = 1.5
_LEAST_LIMIT_MIN = 10
_MOST_NAMED = 20  # runs in the sentence of those that did not finish
_MOST_ANSWERED_AGAIN = 500  # runs of a sweep that was finished before: the analysis of more takes seconds
_LEAST_ANSWERED = 6  # finished runs: fewer decide no claim


class DesignSweeper(HydraPlugin, Sweeper):
    """Plans the runs of a sweep, has the launcher carry out what is not finished yet, and prints the outcome."""

    answer: Callable[[Path], Sequence[str]] | None = None  # lines on what the finished runs of a folder say

    def __init__(self, **design: Any) -> None:
        super().__init__()
        self.design = SweepDesign(**{key: _to_python(value) for key, value in design.items()})

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep.

        Raises:
            UserError: a point of it cannot be run, or it would cost more than allowed; nothing has been started then.
            RunFailure: some runs did not finish; all others did.
        """
        runs = plan(self.design, arguments, self._compose)
        # Of several processes the first decides run by run what to skip: all must see the same list.
        kept = {run.run_id: record for run in runs if (record := run.kept_record()) is not None}
        todo = [run for run in runs if world_size() > 1 or run.run_id not in kept]
        where = f"{runs[0].config.runs_dir}/{runs[0].config.study}"
        settings = self.config.hydra.launcher
        here = settings["_target_"].endswith("BasicLauncher")  # others have processes of their own
        estimates = _try_estimates([run.config for run in todo], one_process=here, elsewhere=_runs_elsewhere(settings))
        expected = estimates if isinstance(estimates, str) else total_of(estimates)
        print(f"{len(runs)} runs in {where}: {len(runs) - len(todo)} finished before, {len(todo)} to do")
        if todo:
            print(_expected_cost_line(expected), flush=True)
        _check_limits(expected, runs[0].config, "sweep")
        if not _runs_elsewhere(settings):
            with locked(Path(where)) as alone:  # `idle_after` writes there under this lock
                if alone:
                    remove_stale_temporary_files(Path(where))
        if todo and (doubt := doubts_about_locks(Path(where))):
            print(f"Warning: {doubt}", flush=True)
        launcher = self._launcher(estimates, todo)
        # Hydra loads its plugins' modules a second time, so that their classes are only alike by name.
        if type(launcher).__name__ == "BasicLauncher":  # its runs are this process's, which can count them
            expected = () if isinstance(estimates, str) else [console.Expected.of(estimate) for estimate in estimates]
            known = [run for run in expected if run is not None]
            console.display = console.Display(total=len(todo), expected=known if len(known) == len(todo) else None)
        endings: dict[str, str] = {}
        if isinstance(launcher, PlannedLauncher):
            launcher.planned = [(run.run_id, run.record_path) for run in todo]
            endings = launcher.endings
        try:
            _launch(launcher, todo)
            if todo and (idle := idle_after(todo[0].config)):
                print(idle, flush=True)
        finally:
            failed = _print_summary(runs, where, kept, endings)
        answer = type(self).answer
        if not todo and len(runs) > _MOST_ANSWERED_AGAIN:
            print(f"Nothing was left to do; lora-scaling analyse claims {shlex.quote(where)} tells what the runs say.")
        elif answer is not None and len(runs) - len(failed) >= _LEAST_ANSWERED:
            for line in answer(Path(where)):
                print(line, flush=True)
        elif len(runs) > len(failed):
            next_runs = f"lora-scaling analyse design {shlex.quote(where)}"
            print(f"Too few runs to decide a claim; {next_runs} names those that would.", flush=True)
        if failed:
            raise RunFailure(f"{len(failed)} of {len(runs)} runs did not finish: {_first_few(failed)}")

    def _compose(self, overrides: list[str]) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        OmegaConf.set_struct(config, False)
        return config

    def _launcher(self, estimates: list[Estimate] | str, todo: Sequence[PlannedRun]) -> Launcher:
        """Instantiate the chosen launcher, with our time limit for its jobs if they need one and have none."""
        settings = self.config.hydra.launcher
        if todo and settings.get("timeout_min", 0) is None:
            if settings["_target_"].endswith("SlurmLauncher"):
                _check_hardware_is_named(todo)
            limit = time_limit_min(estimates)
            print(
                f"Time limit of each job: {limit} min, from the estimate of the longest run "
                "(hydra.launcher.timeout_min=… sets another)",
                flush=True,
            )
            with open_dict(settings):
                settings["timeout_min"] = limit
        check_launcher(settings["_target_"])
        return Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=self.task_function, config=self.config
        )


def time_limit_min(estimates: Sequence[Estimate] | str) -> int:
    """Compute the minutes that a job of one run may take: the upper end of the longest run's interval, with a margin.

    Raises:
        UserError: the time of a run is unknown.
    """
    times = [] if isinstance(estimates, str) else [run.time_s for run in estimates]
    if not times or None in times:
        raise UserError(
            "hydra.launcher.timeout_min: got null, and how long these runs take is unknown "
            "(lora-scaling estimate -m … says why); give hydra.launcher.timeout_min=MINUTES"
        )
    longest_s = max(time.high for time in times if time is not None)
    return max(_LEAST_LIMIT_MIN, math.ceil(_LIMIT_MARGIN * longest_s / 60))


def _check_hardware_is_named(todo: Sequence[PlannedRun]) -> None:
    """Raise if the runs' hardware is that of this machine, which only hands them to others."""
    if any(run.config.hardware.kind == "auto" for run in todo):
        raise UserError(
            "hydra.launcher.timeout_min: got null with hardware=auto, which is this machine and not the cluster's; "
            "name the nodes' GPU (hardware=a100-80gb, h100-sxm …), or give hydra.launcher.timeout_min=MINUTES"
        )


def _runs_elsewhere(launcher: DictConfig) -> bool:
    """Return whether the jobs run on other machines, judging by the launcher's settings."""
    name = launcher["_target_"].rpartition(".")[2]
    cluster = name == "RayLauncher" and OmegaConf.select(launcher, "ray.init.address") is not None
    return cluster or name in ("SlurmLauncher", "RayAWSLauncher")


def _launch(launcher: Launcher, todo: Sequence[PlannedRun]) -> None:
    if not todo:
        return
    for result in launcher.launch([run.overrides for run in todo], initial_job_idx=0):
        with contextlib.redirect_stderr(io.StringIO()):  # on which Hydra prints a line of its own
            _ = result.return_value  # raises what the task could not record


def _to_python(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def register_sweeper(answer: Callable[[Path], Sequence[str]] | None = None) -> None:
    """Make the sweeper and the launcher known to Hydra, which wants plugins in a namespace of its own.

    answer: writes lines on what the runs of a folder say, which close a sweep.
    """
    DesignSweeper.answer = answer
    for plugin in (DesignSweeper, WorkersLauncher, SlurmLauncher, RayLauncher):
        Plugins.instance().class_name_to_class[f"hydra_plugins.lora_scaling.{plugin.__name__}"] = plugin


def _try_estimates(runs: Sequence[RunConfig], *, one_process: bool, elsewhere: bool = False) -> list[Estimate] | str:
    """Estimate each run by priors, or return why that is unknown; later runs of one process find the model set up.

    elsewhere: the runs do not use this machine's device.
    """
    if elsewhere and any(run.hardware.kind == "auto" for run in runs):
        return (
            "hardware=auto is this machine, and the jobs run on others; name their device, such as hardware=a100-80gb"
        )
    try:
        return estimates_of([_on_all_devices(run) for run in runs], one_process=one_process)
    except UserError as error:  # a shape or data set that only loading reveals is no reason not to run
        return str(error)


def _on_all_devices(run: RunConfig) -> RunConfig:
    """Return the run on the devices of all processes of this launch, unless it states their number."""
    if world_size() == 1 or run.hardware.count > 1:
        return run
    return dataclasses.replace(run, hardware=dataclasses.replace(run.hardware, count=world_size()))


def _expected_cost_line(expected: Total | str) -> str:
    """Write what the sweep is expected to cost in one line."""
    if isinstance(expected, str):
        return f"Expected cost unknown: {expected.partition(';')[0]}"
    energy, time = expected.energy_kwh, expected.time_s
    if energy is None or time is None:
        return "Expected cost unknown for this device (lora-scaling estimate -m … says why)"

    kwh = ENERGY.between(energy.estimate, energy.low, energy.high)
    return f"Expected: {kwh}, {TIME.between(time.estimate, time.low, time.high)}, by priors"


def check_run_limits(config: RunConfig) -> None:
    """Raise if a run by itself is expected to exceed its `max_kwh` or `max_hours`."""
    if config.max_kwh is None and config.max_hours is None:
        return
    estimates = _try_estimates([config], one_process=True)
    _check_limits(estimates if isinstance(estimates, str) else total_of(estimates), config, "run")


def _check_limits(expected: Total | str, config: RunConfig, what: str) -> None:
    """Raise if what is allowed (`max_kwh`, `max_hours`) is less than what is expected."""
    energy, time = (None, None) if isinstance(expected, str) else (expected.energy_kwh, expected.time_s)
    for field, figure, unit in (
        ("max_kwh", energy.estimate if energy else None, "kWh"),
        ("max_hours", time.estimate / 3600 if time else None, "h"),
    ):
        allowed = getattr(config, field)
        if allowed is None:
            continue
        if figure is None:
            remedy = f"{expected}; or drop {field}" if isinstance(expected, str) else "drop it"
            raise UserError(
                f"{field}: got {allowed}; the cost of this {what} is unknown, so it cannot be held: {remedy}"
            )
        if figure > allowed:
            raise UserError(
                f"{field}: got {allowed}; this {what} is expected to take {number(figure)} {unit}: "
                "allow more, or do less"
            )


def _is_underway(folder: Path) -> bool:
    """Return whether another process is making the run of this folder."""
    try:
        with locked(folder) as free:
            return not free
    except UnwritableError:  # then nobody can
        return False


def _first_few(sentences: Sequence[str]) -> str:
    """Join sentences, as many as anyone reads."""
    left = len(sentences) - _MOST_NAMED
    return "; ".join(sentences[:_MOST_NAMED]) + (f"; and {left} more" if left > 0 else "")


def _print_summary(
    runs: Sequence[PlannedRun], where: str, kept: Mapping[str, RunRecord], endings: Mapping[str, str]
) -> list[str]:
    """Print the closing table; return what did not finish, each with its reason.

    kept: the records that were finished before, by name of the run, which need not be read again.
    endings: what the launcher knows of the end of runs, by name.
    """
    records: list[Record] = []
    failed: list[str] = []
    for run in runs:
        known = f": {endings[run.run_id]}" if run.run_id in endings else ""
        try:
            path = run.record_path
            record = kept.get(run.run_id) or read_record(path)
        except RecordError:
            failed.append(f"{run.run_id} (not started{known})")
            continue
        if record["status"] == "ok":
            records.append(dict(record))
        elif _is_underway(path.parent):
            failed.append(f"{run.run_id} (another process is running it)")
        else:
            why = known or f": {record.get('error')}"
            failed.append(f"{run.run_id} ({record['status']}{why})")
    if records:
        print(f"\n{console.table(records)}\n")
        for line in console.warning_lines(records):
            print(line)
        if slurm := comparison(records):
            print(slurm)
        print(f"Records: {where}\nAnalyse: lora-scaling analyse report {shlex.quote(str(where))}", flush=True)
    return failed
