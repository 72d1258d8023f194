"""Fit the constants of estimates, with one level per software stack, to published runs.

    python benchmarks/fit_priors.py FOLDER

FOLDER holds published runs: tables (`*.csv`) with the columns stack, id, overrides, quantity, value, and lines
(`*.jsonl`) that `python -m analysis export RUNS --format record` wrote. The rows of `published.csv` are added. The
command prints constants and stacks to be put into `lora_scaling/estimate/priors.json`, and how well a stack is
predicted by the others: each source is left out, everything is fitted again, and its rows are estimated as those of a
stack that nobody knows.

The model: log seconds = log step time(constants) + level of the stack + rest. Constants and levels have normal priors
on the log scale, and every source has one vote, however many rows it has. The mean level has a prior of its own, from a
survey of 13 stacks that set none of these constants (November 2026): estimates with the constants of the first five
sources were 0.75 times what these stacks took, as a mean by stack, with a spread of 0.39.
"""

import argparse
import csv
import json
import math
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lora_scaling.config import RunConfig, compose
from lora_scaling.errors import UserError
from lora_scaling.estimate.hardware import machine_of
from lora_scaling.estimate.lengths import lengths_of
from lora_scaling.estimate.physics import Load, Machine, step_time
from lora_scaling.estimate.plan import make_plan, resolve_precision
from lora_scaling.estimate.priors import load_priors
from lora_scaling.estimate.validate import published_rows

CONSTANTS = (
    "eta", "half_tokens", "traffic_factor", "layer_launch_s", "module_launch_s", "dequant_bytes", "update_bytes",
    "comm_share",
)  # fmt: skip
# Which stack of the `stack` setting a source belongs to; the first match counts.
STACK_OF = (
    ("unsloth", "unsloth"), ("case study", "unsloth"), ("litgpt", "litgpt"), ("torchtune", "torchtune"),
    ("mpt", "llm-foundry"), ("foundry", "llm-foundry"), ("nemo", "megatron"), ("megatron", "megatron"),
    ("mlperf", "megatron"), ("hf", "hf"), ("peft", "hf"), ("transformers", "hf"), ("qwen", "hf"), ("vertex", "hf"),
)  # fmt: skip
SURVEY_MEAN, SURVEY_MEAN_SD = math.log(1 / 0.75), 0.12
BETWEEN_SD, WITHIN_SD = 0.39, 0.22
VOTE = 6.0  # independent rows that a source counts for
Z = 1.645
Array = NDArray[np.float64]


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


def stack_of(source: str) -> str:
    """Return the value of `stack=` for a source of published runs."""
    return next((stack for part, stack in STACK_OF if part in source.lower()), "other")


def timed_runs(rows: Sequence[Mapping[str, str]]) -> list[TimedRun]:
    """Plan every row that has the seconds of its training."""
    priors, found = load_priors(), []
    for row in rows:
        if row["quantity"] != "train s":
            continue
        config = config_of(row)
        precision = resolve_precision(config, config.hardware.kind, config.hardware.peak_tflops)
        machine, missing = machine_of(config.hardware, precision, priors)
        if machine is None:
            raise UserError(f"{row['id']}: {missing}")
        plan = make_plan(config, config.workload(lengths_of(config.data, priors).lengths), precision, priors)
        found.append(
            TimedRun(source=row["stack"], name=row["id"], load=plan.load, machine=machine, seconds=float(row["value"]))
        )
    return found


def config_of(row: Mapping[str, str]) -> RunConfig:
    """Compose the run of a row; settings of adapters are left out where all weights are trained."""
    words = shlex.split(row["overrides"])
    if "method=full" in words:
        words = [word for word in words if not word.startswith("lora.")]
    return compose(words)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Constants, the mean level, and the level of each source, on the log scale."""

    constants: Mapping[str, float]
    mean: float
    sources: Mapping[str, float]

    def level(self, source: str) -> float:
        return self.sources.get(source, self.mean)


def fit(runs: Sequence[TimedRun]) -> Fitted:
    """Find the most probable constants and levels by Gauss and Newton's method."""
    priors = load_priors()
    sources = list(dict.fromkeys(run.source for run in runs))
    start = np.array([math.log(priors.values[name]) for name in CONSTANTS])
    spread = np.array([max(0.15, priors.log_sd[name]) for name in CONSTANTS])
    n = len(CONSTANTS)
    theta: Array = np.concatenate([start, [SURVEY_MEAN], np.full(len(sources), SURVEY_MEAN)])
    counts = {source: sum(run.source == source for run in runs) for source in sources}
    weight = np.array([math.sqrt(min(1.0, VOTE / counts[run.source])) / WITHIN_SD for run in runs])

    def residuals(theta: Array) -> Array:
        values = {**priors.values, "software": 1.0, **dict(zip(CONSTANTS, np.exp(theta[:n]), strict=True))}
        rows = [
            math.log(run.seconds)
            - math.log(run.load.steps * step_time(run.load, run.machine, values).total)
            - theta[n + 1 + sources.index(run.source)]
            for run in runs
        ]
        return np.concatenate([
            weight * np.array(rows),
            (theta[:n] - start) / spread,
            [(theta[n] - SURVEY_MEAN) / SURVEY_MEAN_SD],
            (theta[n + 1 :] - theta[n]) / BETWEEN_SD,
        ])  # fmt: skip

    for _ in range(12):
        here = residuals(theta)
        slopes = np.empty((len(here), len(theta)))
        for k in range(len(theta)):
            moved = theta.copy()
            moved[k] += 1e-4
            slopes[:, k] = (residuals(moved) - here) / 1e-4
        change: Array = np.linalg.lstsq(slopes, -here, rcond=None)[0].astype(float)
        theta = theta + change
        if np.abs(change).max() < 1e-4:
            break
    constants: dict[str, float] = {name: math.exp(theta[i]) for i, name in enumerate(CONSTANTS)}
    return Fitted(
        constants=constants, mean=float(theta[n]), sources=dict(zip(sources, theta[n + 1 :].tolist(), strict=True))
    )


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
    parser = argparse.ArgumentParser(prog="python benchmarks/fit_priors.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of published runs (*.csv) and exported records (*.jsonl)")
    runs = timed_runs(all_rows(parser.parse_args(arguments).folder))
    fitted = fit(runs)
    print("constant          value")
    for name, value in fitted.constants.items():
        print(f"{name:16} {value:8.4g}")
    print("\nstack         factor   sources")
    levels = stack_levels(fitted)
    for stack, (value, sd, n) in levels.items():
        print(f"{stack:12} {math.exp(value):7.2f}   sd {sd:.2f} of {n}")
    left_out(runs)


def stack_levels(fitted: Fitted) -> dict[str, tuple[float, float, int]]:
    """Return (level, spread of a run of the stack, sources) by stack, each source with one vote."""
    found: dict[str, tuple[float, float, int]] = {}
    for stack in dict.fromkeys(map(stack_of, fitted.sources)):
        levels = [level for source, level in fitted.sources.items() if stack_of(source) == stack]
        n = len(levels)
        shrunk = (sum(levels) + fitted.mean) / (n + 1)  # the mean of all stacks counts as one more source
        apart = statistics.pvariance([*levels, fitted.mean]) if n > 1 else BETWEEN_SD**2 / 2
        found[stack] = shrunk, math.sqrt(apart + WITHIN_SD**2), n
    found["other"] = fitted.mean, math.hypot(BETWEEN_SD, WITHIN_SD), len(fitted.sources)
    return found


def left_out(runs: Sequence[TimedRun]) -> None:
    """Print how each source is estimated by the others."""
    print("\nleft out                      rows   ratio  inside")
    spread = math.hypot(BETWEEN_SD, WITHIN_SD)
    inside, bias = [], []
    for source, own in by_source(runs).items():
        rest = fit([run for run in runs if run.source != source])
        logs = ratios(own, rest, unknown=True)
        share = statistics.fmean(abs(x) <= Z * spread for x in logs)
        inside.append(share)
        bias.append(statistics.fmean(logs))
        print(f"{source:28} {len(own):5}  {math.exp(bias[-1]):6.2f}  {share:5.0%}")
    print(
        f"by source: {statistics.fmean(inside):.0%} inside, bias {math.exp(statistics.fmean(bias)):.2f}, "
        f"sd of the log {statistics.pstdev(bias):.2f}, width {math.exp(2 * Z * spread):.1f}"
    )


def all_rows(folder: Path) -> list[dict[str, str]]:
    """Return the published rows and those of the folder, each once; `stack` names the source."""
    rows = [{**row, "stack": row["source"]} for row in published_rows()]
    known = {(row["id"], row["quantity"], f"{float(row['value']):.4g}") for row in rows}
    return rows + [
        row for row in folder_rows(folder)
        if (row["id"], row["quantity"], f"{float(row['value']):.4g}") not in known
    ]  # fmt: skip


def folder_rows(folder: Path) -> list[dict[str, str]]:
    """Read the rows of a folder: its tables of published runs, and its lines of exported records.

    Raises:
        UserError: it is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"folder: got {folder}, which is not a folder; give one with tables of published runs")
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames and {"stack", "id", "overrides", "quantity", "value"} <= set(reader.fieldnames):
                found += list(reader)
    for path in sorted(folder.glob("*.jsonl")):
        found += [row for line in path.read_text(encoding="utf-8").splitlines() if line for row in record_rows(line)]
    return found


def record_rows(line: str) -> Iterator[dict[str, str]]:
    values = json.loads(line)
    for quantity, value in values["measured"].items():
        if value is not None:
            yield {"stack": values["stack"], "id": values["id"], "overrides": values["overrides"],
                   "quantity": quantity, "value": str(value)}  # fmt: skip


if __name__ == "__main__":
    main()
