"""Fit the constants of estimates, with one level per software stack, to published runs.

    python -m benchmarks.fit_priors FOLDER

FOLDER holds published runs: tables (`*.csv`) with the columns stack, id, overrides, quantity, value, and lines
(`*.jsonl`) that `python -m analysis export RUNS --format record` wrote. The rows of `published.csv` are added. The
command prints constants and stacks to be put into `lora_scaling/estimate/priors.json`, and how well a stack is
predicted by the others: each source is left out, everything is fitted again, and its rows are estimated as those of a
stack that nobody knows.

The model: log seconds = log step time(constants) + level of the source + rest. The levels of the sources of a stack
spread about that of the stack, and those of the stacks about their mean. Constants and levels have normal priors on the
log scale, and every source has one vote, however many rows it has. The mean level has a prior of its own, from a survey
of 13 stacks that set none of these constants (November 2026): estimates with the constants of the first five sources
were 0.75 times what these stacks took, as a mean by stack, with a spread of 0.39. Nobody makes those estimates now: on
a perfect stack, CONSTANTS give 0.95 times their seconds (the mean of 16 later sources whose rows both can estimate).

The peaks of memory are fitted by fit_memory.py.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import fit_memory
from benchmarks.constants_and_levels import Array, fit_logs, print_left_out, row_weights
from benchmarks.published_tables import Z, all_rows, config_of, stack_of
from lora_scaling.errors import UserError
from lora_scaling.estimate.hardware import machine_of
from lora_scaling.estimate.lengths import lengths_of
from lora_scaling.estimate.physics import Load, Machine, step_time
from lora_scaling.estimate.plan import make_plan, resolve_precision
from lora_scaling.estimate.priors import load_priors

# Where the constants are expected: as the first sources left them. Those of priors.json, which a fit has set, would
# draw the next one further.
CONSTANTS = {
    "eta": 0.78, "half_tokens": 1.5, "traffic_factor": 3.1, "layer_launch_s": 0.0032, "module_launch_s": 0.00022,
    "dequant_bytes": 8.0, "update_bytes": 25.0, "comm_share": 0.7,
}  # fmt: skip
SURVEY_MEAN, SURVEY_MEAN_SD = math.log(1 / 0.75 / 0.95), 0.12
BETWEEN_SD, WITHIN_SD = 0.39, 0.22
STACK_SD = 0.28  # of the levels of stacks; those of the sources of a stack spread by the rest of BETWEEN_SD
SOURCE_SD = math.sqrt(BETWEEN_SD**2 - STACK_SD**2)
_SECONDS = {"train s": 1.0, "run h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class TimedRun:
    """The seconds of a published run's training, and its work on its machine."""

    source: str
    name: str
    load: Load
    machine: Machine
    seconds: float

    @property
    def stack(self) -> str:
        return stack_of(self.source)


def timed_runs(rows: Sequence[Mapping[str, str]]) -> list[TimedRun]:
    """Plan every row that has the seconds of its training, or the hours of a run that is nothing but training."""
    priors, found = load_priors(), []
    for row in rows:
        if row["quantity"] not in _SECONDS:
            continue
        config = config_of(row)
        precision = resolve_precision(config, config.hardware.kind, config.hardware.peak_tflops)
        machine, missing = machine_of(config.hardware, precision, priors)
        if machine is None:
            raise UserError(f"{row['id']}: {missing}")
        plan = make_plan(config, config.workload(lengths_of(config.data, priors).lengths), precision, priors)
        seconds = float(row["value"]) * _SECONDS[row["quantity"]]
        found.append(TimedRun(source=row["stack"], name=row["id"], load=plan.load, machine=machine, seconds=seconds))
    return found


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Constants, the mean level, and the levels of each stack and source, on the log scale."""

    constants: Mapping[str, float]
    mean: float
    stacks: Mapping[str, float]
    sources: Mapping[str, float]

    def level(self, source: str) -> float:
        return self.sources.get(source, self.mean)


def fit(runs: Sequence[TimedRun]) -> Fitted:
    """Find the most probable constants and levels."""
    priors = load_priors()
    sources = list(dict.fromkeys(run.source for run in runs))
    stacks = [stack for stack in dict.fromkeys(map(stack_of, sources)) if stack != "other"]
    levels, apart = _level_matrices(runs, sources, stacks)

    def predicted(constants: Array) -> Array:
        values = {**priors.values, "software": 1.0, **dict(zip(CONSTANTS, np.exp(constants), strict=True))}
        return np.log([run.load.steps * step_time(run.load, run.machine, values).total for run in runs])

    constants, found = fit_logs(
        predicted,
        np.log([run.seconds for run in runs]),
        row_weights([run.source for run in runs], WITHIN_SD),
        start=np.log(list(CONSTANTS.values())),
        spread=np.array([max(0.15, priors.log_sd[name]) for name in CONSTANTS]),
        levels=levels,
        apart=apart,
        # The survey's mean, and no difference from the level above.
        goal=np.concatenate([[SURVEY_MEAN / SURVEY_MEAN_SD], np.zeros(len(apart) - 1)]),
    )
    mean, of_stacks, of_sources = np.split(found, [1, 1 + len(stacks)])
    return Fitted(
        constants=dict(zip(CONSTANTS, np.exp(constants).tolist(), strict=True)),
        mean=float(mean[0]),
        stacks=dict(zip(stacks, of_stacks.tolist(), strict=True)),
        sources=dict(zip(sources, of_sources.tolist(), strict=True)),
    )


def _level_matrices(runs: Sequence[TimedRun], sources: Sequence[str], stacks: Sequence[str]) -> tuple[Array, Array]:
    """Return (which level each run has, the priors of the levels). Columns: the mean, the stacks, the sources.

    A source of no listed stack is a stack of its own.
    """
    columns = 1 + len(stacks) + len(sources)
    levels = np.zeros((len(runs), columns))
    for i, run in enumerate(runs):
        levels[i, 1 + len(stacks) + sources.index(run.source)] = 1.0
    apart = np.zeros((columns, columns))
    apart[0, 0] = 1 / SURVEY_MEAN_SD
    for i in range(len(stacks)):
        apart[1 + i, 1 + i], apart[1 + i, 0] = 1 / STACK_SD, -1 / STACK_SD
    for i, source in enumerate(sources):
        row = 1 + len(stacks) + i
        listed = stack_of(source) in stacks
        sd = SOURCE_SD if listed else BETWEEN_SD
        apart[row, row] = 1 / sd
        apart[row, 1 + stacks.index(stack_of(source)) if listed else 0] = -1 / sd
    return levels, apart


def ratios(runs: Sequence[TimedRun], fitted: Fitted, *, unknown: bool = False) -> list[float]:
    """Return log(estimate / published) of each run, at the level of its source, or at the mean."""
    values = {**load_priors().values, "software": 1.0, **fitted.constants}
    return [
        math.log(run.load.steps * step_time(run.load, run.machine, values).total / run.seconds)
        + (fitted.mean if unknown else fitted.level(run.source))
        for run in runs
    ]


def by_source(runs: Sequence[TimedRun]) -> dict[str, list[TimedRun]]:
    found: dict[str, list[TimedRun]] = {}
    for run in runs:
        found.setdefault(run.source, []).append(run)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_priors", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of published runs (*.csv) and exported records (*.jsonl)")
    rows = all_rows(parser.parse_args(arguments).folder)
    runs = timed_runs(rows)
    fitted = fit(runs)
    print("constant          value")
    for name, value in fitted.constants.items():
        print(f"{name:16} {value:8.4g}")
    print("\nstack         factor   sources")
    levels = stack_levels(fitted)
    for stack, (value, sd, n) in levels.items():
        print(f"{stack:12} {math.exp(value):7.2f}   sd {sd:.2f} of {n}")
    print("\nsource                        factor")
    for source, level in fitted.sources.items():
        print(f"{source:28} {math.exp(level):7.2f}")
    left_out(runs)
    fit_memory.report(rows)


def stack_levels(fitted: Fitted) -> dict[str, tuple[float, float, int]]:
    """Return (level, spread of a run of the stack, sources) by stack.

    The spread of its sources is that of all stacks' sources, worth two, and of its own.
    """
    found: dict[str, tuple[float, float, int]] = {}
    for stack, level in fitted.stacks.items():
        own = [value - level for source, value in fitted.sources.items() if stack_of(source) == stack]
        apart = (2 * SOURCE_SD**2 + sum(x * x for x in own)) / (2 + len(own))
        unsure = 1 / (1 / STACK_SD**2 + len(own) / apart)
        found[stack] = level, math.sqrt(apart + unsure + WITHIN_SD**2), len(own)
    found["other"] = fitted.mean, math.hypot(BETWEEN_SD, WITHIN_SD), len(fitted.sources)
    return found


def left_out(runs: Sequence[TimedRun]) -> None:
    """Print how each source is estimated by the others."""
    spread = math.hypot(BETWEEN_SD, WITHIN_SD)

    def found() -> Iterator[tuple[str, list[float], list[bool]]]:
        for source, own in by_source(runs).items():
            rest = fit([run for run in runs if run.source != source])
            logs = ratios(own, rest, unknown=True)
            yield source, logs, [abs(x) <= Z * spread for x in logs]

    print_left_out(found(), f", width {math.exp(2 * Z * spread):.1f}")


if __name__ == "__main__":
    main()
