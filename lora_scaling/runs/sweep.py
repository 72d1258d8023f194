"""A sweep as a Hydra sweeper, so that any Hydra launcher can carry its runs: planned, resumed, and summed up."""

import contextlib
import gc
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from lora_scaling.config import RunConfig
from lora_scaling.config.sweep import PlannedRun, SweepDesign, plan
from lora_scaling.errors import RecordError, RunFailure, UserError
from lora_scaling.estimate.sweeps import Total, total_of
from lora_scaling.ranks import world_size
from lora_scaling.records import Record, doubts_about_locks, locked, read_record, remove_stale_temporary_files
from lora_scaling.records.schema import RunRecord
from lora_scaling.runs import progress as console
from lora_scaling.runs.hydra_jobs import HydraPlugin
from lora_scaling.runs.launching import (
    endings,
    is_this_process,
    launch,
    open_launcher,
    register_launchers,
    runs_elsewhere,
    try_estimates,
    why_unfinished,
)
from lora_scaling.runs.run import idle_after
from lora_scaling.runs.slurm_energy import comparison
from lora_scaling.text import ENERGY, TIME, counted, number

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
        with _uncollected():
            runs = plan(self.design, arguments, self._compose)
            # Of several processes the first decides run by run what to skip: all must see the same list.
            kept = {run.run_id: record for run in runs if (record := run.kept_record()) is not None}
        todo = [run for run in runs if world_size() > 1 or run.run_id not in kept]
        where = f"{runs[0].config.runs_dir}/{runs[0].config.study}"
        settings = self.config.hydra.launcher
        here = is_this_process(settings)
        estimates = try_estimates([run.config for run in todo], one_process=here, elsewhere=runs_elsewhere(settings))
        expected = estimates if isinstance(estimates, str) else total_of(estimates)
        print(f"{counted(len(runs), 'run')} in {where}: {len(runs) - len(todo)} finished before, {len(todo)} to do")
        if todo:
            print(_expected_cost_line(expected), flush=True)
        _check_limits(expected, runs[0].config, "sweep")
        if not runs_elsewhere(settings):
            with locked(Path(where)) as alone:  # `idle_after` writes there under this lock
                if alone:
                    remove_stale_temporary_files(Path(where))
        if todo and (doubt := doubts_about_locks(Path(where))):
            print(f"Warning: {doubt}", flush=True)
        launcher = open_launcher(self.hydra_context, self.task_function, self.config, estimates, todo)
        # Hydra loads its plugins' modules a second time, so that their classes are only alike by name.
        if type(launcher).__name__ == "BasicLauncher":  # its runs are this process's, which can count them
            expected = () if isinstance(estimates, str) else [console.Expected.of(estimate) for estimate in estimates]
            known = [run for run in expected if run is not None]
            console.display = console.Display(total=len(todo), expected=known if len(known) == len(todo) else None)
        try:
            launch(launcher, todo)
            if todo and (idle := idle_after(todo[0].config)):
                print(idle, flush=True)
        finally:
            failed = _print_summary(runs, where, kept, endings(launcher))
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


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage among many objects that stay: each search would walk through all of them."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def _to_python(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def register_sweeper(answer: Callable[[Path], Sequence[str]] | None = None) -> None:
    """Make the sweeper and the launchers known to Hydra, which wants plugins in a namespace of its own.

    answer: writes lines on what the runs of a folder say, which close a sweep.
    """
    DesignSweeper.answer = answer
    Plugins.instance().class_name_to_class[f"hydra_plugins.lora_scaling.{DesignSweeper.__name__}"] = DesignSweeper
    register_launchers()


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
    estimates = try_estimates([config], one_process=True)
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
        try:
            record = kept.get(run.run_id) or read_record(run.record_path)
        except RecordError:
            record = None
        if record is not None and record["status"] == "ok":
            records.append(dict(record))
        else:
            failed.append(why_unfinished(run, record, endings.get(run.run_id)))
    if records:
        print(f"\n{console.table(records)}\n")
        for line in console.warning_lines(records):
            print(line)
        if slurm := comparison(records):
            print(slurm)
        print(f"Records: {where}\nAnalyse: lora-scaling analyse report {shlex.quote(str(where))}", flush=True)
    return failed
