"""An adaptive study: its runs are made until its claim is decided or its budget is spent.

When to look, at which level, and which runs come next is the business of a `Planner`, handed in; here runs are made and
what they spend is counted. Everything a study knows stands in its folder: the run records, and `study.json` with the
question and the looks taken. The same request therefore continues a study that was stopped, at whatever moment.
"""

import dataclasses
import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.types import TaskFunction

from lora_scaling.adaptive import Look, Planner, Point, Step
from lora_scaling.claim_defaults import ADAPTIVE, STATE_NAME
from lora_scaling.config import RunConfig, compose, run_id
from lora_scaling.errors import LoraScalingError, RecordError, RunFailure, UserError
from lora_scaling.estimate import Estimate
from lora_scaling.ranks import world_size
from lora_scaling.records import (
    RECORD_NAME,
    doubts_about_locks,
    is_finished,
    locked,
    read_record,
    read_text,
    record_path,
    record_to_row,
    remove_stale_temporary_files,
    write_text,
)
from lora_scaling.records.sources import energy_kind, measured_share
from lora_scaling.runs import progress as console
from lora_scaling.runs.batches import Batches, ChosenLauncher, chosen_launcher
from lora_scaling.runs.launching import try_estimates
from lora_scaling.runs.run import run
from lora_scaling.text import ENERGY, duration, number
from lora_scaling.units import JOULES_PER_KWH

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What is asked: a claim, its margin and level, the budgets, and the settings of the runs."""

    claim: str
    margin: float
    level: float
    max_kwh: float | None
    max_minutes: float | None
    levels: tuple[int, ...]
    at: int
    overrides: tuple[str, ...]
    launcher: tuple[str, ...] = ()  # the settings that choose it
    batch: int | None = None  # runs that a launcher gets at once; None: all until the next look

    def question(self, config: RunConfig) -> dict[str, Any]:
        """Return what must not change between the starts of one study; budgets may."""
        return {
            "schema_version": SCHEMA_VERSION,
            "claim": self.claim,
            "margin": self.margin,
            "level": self.level,
            "levels": list(self.levels),
            "at": self.at,
            "seed": config.order_seed,
            "work": run_id(config),
        }


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the runs of a study have spent so far, unfinished ones included."""

    joules: float
    seconds: float  # in which at least one run was under way
    share: float | None  # of the energy of the records that was measured, the rest being modelled; None if unknown

    @property
    def kwh(self) -> float:
        return self.joules / JOULES_PER_KWH

    def __str__(self) -> str:
        kind = energy_kind(self.share)
        return f"{ENERGY.show(self.kwh)}{f' {kind}' if kind else ''}"


class Conductor:
    """Carries out one study, whose folder is locked meanwhile."""

    def __init__(
        self,
        request: StudyRequest,
        config: RunConfig,
        folder: Path,
        planner: Planner,
        launcher: ChosenLauncher | None = None,
    ) -> None:
        self.request = request
        self.planner = planner
        self.launcher = launcher
        self.batches: Batches | None = None  # None: runs are made in this process
        self.config = config
        self.folder = folder
        self.path = folder / STATE_NAME
        self.state = self._open_state()
        self.order = sum(1 for _ in folder.glob(f"*/{RECORD_NAME}"))
        self.started = time.monotonic()
        self.earlier_s = self.spent().seconds

    def conduct(self) -> str:
        """Run and look until the study ends; return why it did: supported, refuted, budget, looks or doubt."""
        decided = [look["verdict"] for look in self.state["looks"] if look["verdict"] != "undecided"]
        if decided:
            return decided[0]
        self._print_start()
        if self.launcher is None:
            return self._go_on()
        largest = dataclasses.replace(self.config, **{ADAPTIVE[self.request.claim][0]: self.request.levels[-1]})
        with self.launcher.opened(largest) as self.batches:
            return self._go_on()

    def _go_on(self) -> str:
        while True:
            step = self._next_step()
            if step.look is not None:
                self.state["looks"].append(_look_to_dict(step.look))
                self._save()
                print(self._look_line(), flush=True)
            if step.stop is not None:
                return step.stop
            if self.order == 0:
                self._check_budget(step.runs)
            self._make_runs(step.runs)

    def spent(self) -> Spent:
        """Sum what the records hold and what `study.json` keeps of unfinished runs that were repeated."""
        kept = dict(self.state["overwritten"])
        measured: list[tuple[float, float | None]] = []
        for path in self.folder.glob(f"*/{RECORD_NAME}"):
            try:
                record = read_record(path)
            except RecordError:
                continue  # torn by hand, not by us: it will be made again
            cost = _cost_of_attempt(record)
            kept.update(cost)
            measured += [(joules, measured_share(record)) for joules, _ in cost.values() if joules]
        return Spent(
            joules=sum(joules for joules, _ in kept.values()),
            seconds=_time_covered({name: seconds for name, (_, seconds) in kept.items()}),
            share=_mean_share(measured),
        )

    def left(self) -> tuple[float, float]:
        """Return the (kWh, seconds) left of the budgets.

        Time between the runs of this start counts as well, but not that of a launcher's queue.
        """
        request, spent = self.request, self.spent()
        kwh = float("inf") if request.max_kwh is None else request.max_kwh - spent.kwh
        passed = spent.seconds if self.batches is not None else self.earlier_s + time.monotonic() - self.started
        seconds = float("inf") if request.max_minutes is None else 60 * request.max_minutes - passed
        return kwh, seconds

    def _open_state(self) -> dict[str, Any]:
        question = self.request.question(self.config)
        if not self.path.exists():
            if any(self.folder.glob(f"*/{RECORD_NAME}")):
                raise UserError(
                    f"study: got {self.config.study!r}, whose folder {self.folder} holds runs of another kind of "
                    "study; give it a name of its own, study=NAME"
                )
            state = {**question, "looks": [], "overwritten": {}}
            write_text(self.path, json.dumps(state, indent=1) + "\n")
            return state
        try:
            state = json.loads(read_text(self.path))
            if not (isinstance(state["looks"], list) and isinstance(state["overwritten"], dict)):
                raise TypeError("it is no state of a study")
        except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
            raise RecordError(f"{self.path}: cannot be read ({error!r:.100}); move it away to begin anew") from None
        for key, value in question.items():
            if state.get(key) != value:
                raise UserError(
                    f"study: got {self.config.study!r}, which was begun with {key} = {state.get(key)} and is now "
                    f"asked with {value}; continue it with what it was begun with, or give another study=NAME"
                )
        return state

    def _save(self) -> None:
        write_text(self.path, json.dumps(self.state, indent=1) + "\n")

    def _next_step(self) -> Step:
        kwh, seconds = self.left()
        try:
            step = self.planner(self.folder, self.state, kwh_left=kwh, seconds_left=seconds)
        except Exception as error:
            text = str(error) if isinstance(error, LoraScalingError) else f"{type(error).__name__}: {error}"
            raise RunFailure(f"the analysis of {self.folder} failed: {text}") from error
        if "schedule" not in self.state:
            self.state["schedule"] = list(step.schedule)
            self._save()
        return step

    def _make_runs(self, points: Sequence[Point]) -> None:
        """Make the runs in turn, or in batches, as long as they are expected to fit into what is left.

        The first is always made.
        """
        made = 0
        while made < len(points):
            count = self._affordable(points[made:], first=made == 0)
            if count == 0:
                return
            if self.batches is None:
                self._make_run(points[made])
            else:
                self._make_batch(self.batches, points[made : made + count])
            made += count

    def _affordable(self, points: Sequence[Point], *, first: bool) -> int:
        """Count how many of the next runs may be begun together: those whose energy and time fit into what is left."""
        kwh, seconds = self.left()
        if kwh <= 0 or seconds <= 0:
            return 0
        most = 1 if self.batches is None else self.request.batch or len(points)
        together = points[:most] if most == 1 else self._priced(points[:most])
        for count, point in enumerate(together):
            kwh -= point.energy_kwh or 0
            seconds -= point.seconds or 0
            if (kwh < 0 or seconds < 0) and not (first and count == 0):
                return count
        return len(together)

    def _priced(self, points: Sequence[Point]) -> Sequence[Point]:
        """Fill in what priors expect of runs whose cost no run of the study tells yet."""
        estimates = self._estimates(points) if any(point.energy_kwh is None for point in points) else ""
        if isinstance(estimates, str):
            return points
        return [
            point
            if point.energy_kwh is not None
            else dataclasses.replace(
                point,
                energy_kwh=expected.energy_kwh and expected.energy_kwh.estimate,
                seconds=expected.time_s and expected.time_s.estimate,
            )
            for point, expected in zip(points, estimates, strict=True)
        ]

    def _estimates(self, points: Sequence[Point]) -> list[Estimate] | str:
        """Estimate the runs by priors, or return why that is unknown."""
        configs = self._configs(points)
        return try_estimates(configs, one_process=True) if self.launcher is None else self.launcher.estimates(configs)

    def _make_run(self, point: Point) -> None:
        """Make a run in this process."""
        [config] = self._configs([point])
        path = record_path(config.runs_dir, config.study, run_id(config))
        if path.exists():
            self._keep_cost_of_unfinished(path)
        label = f"{config.samples} × {config.epochs}{' without steps' if point.zero else ''}"
        with console.display.run(label, g_per_kwh=console.yearly_mean(config.grid)) as listen:
            ran = run(config, listen)
        console.display.run_finished(ran)
        if ran.failure is not None:
            raise ran.failure
        if ran.record is None:
            raise RunFailure(f"{path.parent} is being run by another process; wait for it to end")
        self._check_energy(ran.record)
        self.order += 1

    def _make_batch(self, batches: Batches, points: Sequence[Point]) -> None:
        """Have the launcher make the runs; one that does not finish ends the study when all have ended."""
        configs = self._configs(points)
        for config in configs:
            path = record_path(config.runs_dir, config.study, run_id(config))
            if path.exists():
                self._keep_cost_of_unfinished(path)
        self.order += len(configs)
        for record in batches.make(configs):
            self._check_energy(record)

    def _check_energy(self, record: Mapping[str, Any]) -> None:
        if record_to_row(record)["energy_kwh"] is None:  # that of a part is not the run's
            raise RunFailure(f"the energy of {record['run_id']} is unknown, so no study can rest on it")

    def _configs(self, points: Sequence[Point]) -> list[RunConfig]:
        """Configure the first repetition of each point that is neither finished nor another's of these."""
        configs: dict[str, RunConfig] = {}
        for point in points:
            config = dataclasses.replace(
                self.config,
                samples=point.samples,
                epochs=point.epochs,
                max_steps=0 if point.zero else None,
                order=self.order + len(configs),
            )
            while (name := run_id(config)) in configs or is_finished(record_path(config.runs_dir, config.study, name)):
                config = dataclasses.replace(config, replicate=config.replicate + 1)
            configs[name] = config
        return list(configs.values())

    def _keep_cost_of_unfinished(self, path: Path) -> None:
        """Keep what an unfinished run has spent, because its record is about to be overwritten."""
        try:
            self.state["overwritten"].update(_cost_of_attempt(read_record(path)))
        except RecordError:
            return
        self._save()

    def _check_budget(self, points: Sequence[Point]) -> None:
        """Raise before anything is spent if the smallest design alone is expected to exceed a budget."""
        from lora_scaling.estimate.sweeps import total_of

        estimates = self._estimates(points)
        if isinstance(estimates, str):
            return  # of unknown cost: what is spent is watched all the same
        total = total_of(estimates)
        request = self.request
        for field, allowed, figure, unit in (
            ("max_kwh", request.max_kwh, total.energy_kwh and total.energy_kwh.estimate, "kWh"),
            ("max_minutes", request.max_minutes, total.time_s and total.time_s.estimate / 60, "minutes"),
        ):
            if allowed is not None and figure is not None and figure > allowed:
                raise UserError(
                    f"{field}: got {allowed:g}; the smallest design that can decide, {len(points)} runs, is expected "
                    f"to take {number(figure)} {unit}: allow more, or take smaller levels"
                )

    def _print_start(self) -> None:
        request = self.request
        budget = [f"{request.max_kwh:g} kWh"] if request.max_kwh is not None else []
        budget += [f"{request.max_minutes:g} min"] if request.max_minutes is not None else []
        begun = f", {self.order} runs made before" if self.order else ""
        print(
            f"{request.claim} over {','.join(map(str, request.levels))}, margin {request.margin:g}, "
            f"level {request.level:g}, at most {' and '.join(budget)}{begun}",
            flush=True,
        )

    def _look_line(self) -> str:
        look, schedule, spent = self.state["looks"][-1], self.state["schedule"], self.spent()
        parts = [f"look {len(self.state['looks'])} of {len(schedule)}", f"{look['runs']} runs"]
        parts.append(f"{spent} and {duration(spent.seconds)} spent")
        if look["estimate"] is not None and look["ci"] is not None:
            low, high = ("?" if end is None else f"{end:.3f}" for end in look["ci"])
            parts.append(f"exponent {look['estimate']:.3f} ({low} to {high})")
        parts.append(look["verdict"])
        return "── " + " · ".join(parts)

    def closing(self, stop: str) -> str:
        """Write the end of the output: the verdict, what was spent, where the records are."""
        looks, spent = self.state["looks"], self.spent()
        reason = looks[-1]["reason"] if looks else "The runs that the claim needs at least were not all made."
        why = {
            "budget": "undecided: the budget is spent; the same command with a larger one continues. ",
            "looks": "undecided: all looks are taken; the truth may lie close to the margin's edge. ",
            "doubt": "undecided: the rows are in doubt. ",
        }.get(stop, f"{stop}: ")
        records = f"Records: {self.folder}\nAnalyse: lora-scaling analyse claims {shlex.quote(str(self.folder))}"
        cost = f"{spent}, {duration(spent.seconds)}, {self.order} runs"
        return f"\n{self.request.claim} {why}{reason}\nSpent: {cost}\n{records}"


def _look_to_dict(look: Look) -> dict[str, Any]:
    """Return a look as `study.json` holds it; an end that is not finite becomes null."""
    ends = None if look.ci is None else [end if math.isfinite(end) else None for end in look.ci]
    return {**dataclasses.asdict(look), "ci": ends}


def _cost_of_attempt(record: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the (joules, seconds) of one attempt at a run, under a name of its own."""
    finished = record.get("finished_at")
    seconds = 0.0  # a killed run never said when it ended
    if finished:
        seconds = (datetime.fromisoformat(finished) - datetime.fromisoformat(record["started_at"])).total_seconds()
    joules = (record.get("energy") or {}).get("joules") or 0.0
    return {f"{record['run_id']}@{record['started_at']}": (joules, seconds)}


def _time_covered(attempts: Mapping[str, float]) -> float:
    """Return the seconds in which at least one attempt was under way; one that says no start counts by itself.

    attempts: the duration of each (s), by `run_id@started_at`.
    """
    spans: list[tuple[float, float]] = []
    apart = 0.0
    for name, seconds in attempts.items():
        try:
            start = datetime.fromisoformat(name.rpartition("@")[2]).timestamp()
        except ValueError:
            apart += seconds
        else:
            spans.append((start, start + seconds))
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered + apart


def _mean_share(measured: Sequence[tuple[float, float | None]]) -> float | None:
    """Return the share of energies that was measured, given (joules, share) of each; None if one is unknown."""
    known = [(joules, share) for joules, share in measured if share is not None]
    if not known or len(known) < len(measured):
        return None
    return sum(joules * share for joules, share in known) / sum(joules for joules, _ in known)


def conduct(request: StudyRequest, planner: Planner, task: TaskFunction | None = None) -> str:
    """Carry out the study that is asked for and print its course; return why it ended.

    task: makes one run in another process, for the launcher that the request may choose; None: there are no others.

    Raises:
        UserError: bad input, before anything was spent.
        RunFailure: a run or the analysis failed; the same request continues.
    """
    if world_size() > 1:
        raise UserError(
            f"WORLD_SIZE: got {world_size()}; an adaptive study does not run under torchrun: "
            "start it once, without, or make the runs with torchrun -m lora_scaling -m …"
        )
    # Grouping pads less the more samples there are, which would look like a curve.
    own = [f"study=adaptive_{request.claim}", "group_by_length=false"]
    words = [*own, *request.overrides]  # what is given comes last, and wins
    config = compose(words)
    launcher = chosen_launcher(words, request.launcher, task)
    if launcher is None and request.batch not in (None, 1):
        raise UserError(
            f"batch: got {request.batch}, and this study makes its runs one after the other; add a launcher, such as "
            "hydra/launcher=workers, or leave it out"
        )
    factor, _, held, _ = ADAPTIVE[request.claim]
    config = dataclasses.replace(config, **{factor: request.levels[0], held: request.at})
    if not config.metering.enabled:
        raise UserError("metering.enabled: got false; a study of energy has to measure it: leave it out")
    folder = Path(config.runs_dir) / config.study
    with locked(folder) as mine:
        if not mine:
            raise UserError(f"study: got {config.study!r}, which another process is carrying out; wait for it to end")
        remove_stale_temporary_files(folder)
        if doubt := doubts_about_locks(folder):
            print(f"Warning: {doubt}", flush=True)
        conductor = Conductor(request, config, folder, planner, launcher)
        stop = conductor.conduct()
        print(conductor.closing(stop), flush=True)
    return stop
