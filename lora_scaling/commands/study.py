"""`python -m lora_scaling.study`: a study that stops as soon as its claim is decided. See `--help`.

All statistics (when to look, at which level, which runs come next) are `analysis.adaptive.sequential`'s, asked as a
subprocess that answers in JSON. Here its runs are made, and what they spent is counted. Everything a study knows
stands in its folder: the run records, and `study.json` with what is asked and the looks taken. The same command
therefore continues a study that was stopped, at whatever moment.
"""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lora_scaling.claim_defaults import LEVEL, MARGIN, STATE_NAME
from lora_scaling.commands.arguments import reader_may_leave
from lora_scaling.config import RunConfig, compose, run_id
from lora_scaling.errors import LoraScalingError, RecordError, RunFailure, UserError
from lora_scaling.ranks import world_size
from lora_scaling.records import (
    RECORD_NAME,
    Record,
    is_finished,
    locked,
    read_record,
    record_path,
    record_to_row,
    write_text,
)
from lora_scaling.runs import progress as console
from lora_scaling.runs.run import run
from lora_scaling.runs.study_request import CLAIMS, Request, parse
from lora_scaling.signals import end_on_sigterm
from lora_scaling.units import JOULES_PER_KWH

_USAGE = f"""\
An adaptive study: run, analyse, and stop as soon as the claim is supported or refuted, or the budget is spent.

  python -m lora_scaling.study claim=linear_in_samples max_kwh=0.05 max_minutes=30 model=smollm2-135m
  python -m lora_scaling.study claim=linear_in_epochs max_minutes=10 epochs=1,2,4,8 samples=128

claim         linear_in_samples | linear_in_epochs
max_kwh       what all runs of the study may take together, those of earlier starts included
max_minutes   how long they may take together (at least one of the two budgets)
margin        what counts as equal (default {MARGIN}: an exponent of {1 - MARGIN} to {1 + MARGIN} is linear)
level         1 − the error rate of the verdict, over all looks together (default {LEVEL})
samples       levels, e.g. samples=64,128,256,512,1024: at least four over a factor of eight
epochs        … and the number held; the other way round for linear_in_epochs
Everything else is a setting of a run: see python -m lora_scaling --help.

Interrupt it whenever you like; the same command continues, also with another budget."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the runs of a study have taken so far, unfinished ones included."""

    joules: float
    seconds: float

    @property
    def kwh(self) -> float:
        return self.joules / JOULES_PER_KWH


class Conductor:
    """Carries one study out. Its folder is locked for as long as it does."""

    def __init__(self, request: Request, config: RunConfig, folder: Path) -> None:
        self.request = request
        self.config = config
        self.folder = folder
        self.path = folder / STATE_NAME
        self.state = self._opened()
        self.order = sum(1 for _ in folder.glob(f"*/{RECORD_NAME}"))
        self.started = time.monotonic()
        self.earlier_s = self.spent().seconds

    def conduct(self) -> str:
        """Run and look until the study ends; why it did: supported, refuted, budget, looks or doubt."""
        decided = [look["verdict"] for look in self.state["looks"] if look["verdict"] != "undecided"]
        if decided:
            return decided[0]
        self._say_start()
        while True:
            step = self._ask()
            if step["look"] is not None:
                self.state["looks"].append(step["look"])
                self._save()
                print(self._look_line(), flush=True)
            if step["stop"] is not None:
                return step["stop"]
            if self.order == 0:
                self._refuse_excess(step["runs"])
            self._make(step["runs"])

    def spent(self) -> Spent:
        """From the records, and from what `study.json` keeps of unfinished runs that were made again."""
        kept = dict(self.state["overwritten"])
        for path in self.folder.glob(f"*/{RECORD_NAME}"):
            try:
                kept.update(_cost(read_record(path)))
            except RecordError:
                continue  # torn by hand, not by us: it will be made again
        return Spent(joules=sum(joules for joules, _ in kept.values()), seconds=sum(s for _, s in kept.values()))

    def left(self) -> tuple[float, float]:
        """(kWh, seconds) left of the budgets; the clock also counts what lies between this start's runs."""
        request = self.request
        kwh = float("inf") if request.max_kwh is None else request.max_kwh - self.spent().kwh
        passed = self.earlier_s + time.monotonic() - self.started
        seconds = float("inf") if request.max_minutes is None else 60 * request.max_minutes - passed
        return kwh, seconds

    def _opened(self) -> dict[str, Any]:
        question = self.request.question(self.config)
        if not self.path.exists():
            if any(self.folder.glob(f"*/{RECORD_NAME}")):
                raise UserError(
                    f"`study` was {self.config.study!r}, whose folder {self.folder} holds runs of another kind of "
                    "study; give it a name of its own, study=NAME"
                )
            state = {**question, "looks": [], "overwritten": {}}
            write_text(self.path, json.dumps(state, indent=1) + "\n")
            return state
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecordError(f"{self.path} cannot be read ({error}); move it away to begin anew") from None
        for key, value in question.items():
            if state.get(key) != value:
                raise UserError(
                    f"`study` was {self.config.study!r}, which was begun with {key} = {state.get(key)} and is now "
                    f"asked with {value}; continue it with what it was begun with, or give another study=NAME"
                )
        return state

    def _save(self) -> None:
        write_text(self.path, json.dumps(self.state, indent=1) + "\n")

    def _ask(self) -> dict[str, Any]:
        """The next step, from the analysis, which this package must not import."""
        kwh, seconds = self.left()
        command = [sys.executable, "-m", "analysis.adaptive.sequential", str(self.folder)]
        done = subprocess.run(
            [*command, f"--kwh-left={kwh!r}", f"--seconds-left={seconds!r}"], capture_output=True, text=True
        )
        if done.returncode != 0:
            told = done.stderr.strip().splitlines()
            raise RunFailure(f"the analysis of {self.folder} failed: {told[-1] if told else 'no reason given'}")
        step = json.loads(done.stdout)
        if "schedule" not in self.state:
            self.state["schedule"] = step["schedule"]
            self._save()
        return step

    def _make(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Make the runs in turn, as long as each may be expected to fit what is left."""
        for place, point in enumerate(points):
            kwh, seconds = self.left()
            fits = place == 0 or ((point["energy_kwh"] or 0) <= kwh and (point["seconds"] or 0) <= seconds)
            if not fits or kwh <= 0 or seconds <= 0:
                return
            config = self._config(point)
            path = record_path(config.runs_dir, config.study, run_id(config))
            if path.exists():
                self._keep_cost(path)
            console.display.run_started()
            label = f"{config.samples} × {config.epochs}{' without steps' if point['zero'] else ''}"
            ran = run(config, lambda *told, label=label: console.display.progress(label, *told))
            console.display.run_finished(ran)
            if ran.failure is not None:
                raise ran.failure
            if ran.record is None:
                raise RunFailure(f"{path.parent} is being run by another process; wait for it to end")
            if record_to_row(ran.record)["energy_kwh"] is None:  # that of a part is not the run's
                raise RunFailure(f"the energy of {ran.record['run_id']} is unknown, so no study can rest on it")
            self.order += 1

    def _config(self, point: Mapping[str, Any]) -> RunConfig:
        """The first repetition of a point that is not finished yet."""
        config = dataclasses.replace(
            self.config,
            samples=point["samples"],
            epochs=point["epochs"],
            max_steps=0 if point["zero"] else None,
            order=self.order,
        )
        while is_finished(record_path(config.runs_dir, config.study, run_id(config))):
            config = dataclasses.replace(config, replicate=config.replicate + 1)
        return config

    def _keep_cost(self, path: Path) -> None:
        """An unfinished run is about to be overwritten: what it took stays counted."""
        try:
            self.state["overwritten"].update(_cost(read_record(path)))
        except RecordError:
            return
        self._save()

    def _refuse_excess(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Raise before anything is spent if the smallest design alone is expected to exceed a budget."""
        from lora_scaling.estimate.sweeps import estimates_of, total_of

        try:
            total = total_of(estimates_of([self._config(point) for point in points]))
        except UserError:
            return  # of unknown cost: what is spent is watched all the same
        request = self.request
        for field, allowed, figure, unit in (
            ("max_kwh", request.max_kwh, total.energy_kwh and total.energy_kwh.estimate, "kWh"),
            ("max_minutes", request.max_minutes, total.time_s and total.time_s.estimate / 60, "minutes"),
        ):
            if allowed is not None and figure is not None and figure > allowed:
                raise UserError(
                    f"`{field}` was {allowed:g}; the smallest design that can decide, {len(points)} runs, is expected "
                    f"to take {figure:.3g} {unit}: allow more, or take smaller levels"
                )

    def _say_start(self) -> None:
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
        parts.append(f"{console.format_energy(spent.joules)} and {console.format_duration(spent.seconds)} spent")
        if look["estimate"] is not None and look["ci"] is not None:
            low, high = ("?" if end is None else f"{end:.3f}" for end in look["ci"])
            parts.append(f"exponent {look['estimate']:.3f} ({low} to {high})")
        parts.append(look["verdict"])
        return "── " + " · ".join(parts)

    def closing(self, stop: str) -> str:
        """The end of what is printed: the verdict, what it took, where the records are."""
        looks, spent = self.state["looks"], self.spent()
        reason = looks[-1]["reason"] if looks else "The runs that the claim needs at least were not all made."
        why = {
            "budget": "undecided: the budget is spent; the same command with a larger one continues. ",
            "looks": "undecided: all looks are taken; the truth may lie close to the margin's edge. ",
            "doubt": "undecided: the rows are in doubt. ",
        }.get(stop, f"{stop}: ")
        records = f"Records: {self.folder}\nAnalyse: python -m analysis claims {self.folder}"
        cost = f"{console.format_energy(spent.joules)}, {console.format_duration(spent.seconds)}, {self.order} runs"
        return f"\n{self.request.claim} {why}{reason}\nSpent: {cost}\n{records}"


def _cost(record: Record) -> dict[str, tuple[float, float]]:
    """What one attempt at a run took, joules and seconds, under a name of its own."""
    finished = record.get("finished_at")
    seconds = 0.0  # a killed run never said when it ended
    if finished:
        seconds = (datetime.fromisoformat(finished) - datetime.fromisoformat(record["started_at"])).total_seconds()
    joules = (record.get("energy") or {}).get("joules") or 0.0
    return {f"{record['run_id']}@{record['started_at']}": (joules, seconds)}


def study(arguments: Sequence[str]) -> str:
    """Carry out the study that these arguments ask for and print its course; why it ended.

    Raises:
        UserError: bad input, before anything was spent.
        RunFailure: a run or the analysis failed; the same arguments continue.
    """
    if world_size() > 1:
        raise UserError(
            f"`python -m lora_scaling.study` was started as {world_size()} processes; it does not run under torchrun: "
            "start it once, without, or make the runs with torchrun -m lora_scaling -m …"
        )
    request = parse(arguments)
    # Grouping pads less the more samples there are, which would look like a curve.
    own = [f"study=adaptive_{request.claim}", "group_by_length=false"]
    config = compose([*own, *request.overrides])  # what is given comes last, and wins
    factor, _, held, _ = CLAIMS[request.claim]
    config = dataclasses.replace(config, **{factor: request.levels[0], held: request.at})
    if not config.metering.enabled:
        raise UserError("`metering.enabled` was false; a study of energy has to measure it: leave it out")
    folder = Path(config.runs_dir) / config.study
    with locked(folder) as mine:
        if not mine:
            raise UserError(f"`study` was {config.study!r}, which another process is carrying out; wait for it to end")
        conductor = Conductor(request, config, folder)
        stop = conductor.conduct()
        print(conductor.closing(stop), flush=True)
    return stop


@reader_may_leave()
def main() -> None:
    """Exit 0 when the study came to an end (decided or not), 2 on bad input, 1 on failure, 130 when interrupted."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return
    end_on_sigterm()
    try:
        study(arguments)
    except LoraScalingError as error:
        print(f"lora_scaling.study: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt as stop:
        console.display.clear()
        reason = str(stop) or "interrupted"
        print(
            f"lora_scaling.study: {reason}; what was finished is kept, and the same command continues", file=sys.stderr
        )
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
