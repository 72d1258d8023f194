"""The statistics of an adaptive study: when to look, at which level, and which run tells most per kWh.

A claim is looked at after numbers of runs that are fixed before the first run, and its error rate α is
split evenly over these looks (Bonferroni): however the looks depend on each other, a wrong `supported` or
`refuted` comes in at most α of the studies. The opening is the cheapest design that passes the gates of the
claim: every level once, the ends of the range and the next to cheapest level twice, two runs of zero
optimizer steps. From then on each run is the one with the largest drop in Var(b) per expected joule on the
curve fitted at the last look (c-optimality, greedy; Silvey 1980, Optimal Design, ch. 3).

    python -m analysis.sequential STUDY [--kwh-left X] [--seconds-left X]   the next step of a study, as JSON
    python -m analysis.sequential --simulate [--seeds N]                    against the fixed sweep

`lora_scaling.study` carries out what this says; it crosses as JSON because that package imports none of this.
"""

import argparse
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_scaling.errors import LoraScalingError, RecordError

from .checks import check_rows, rank_correlation, suspicious
from .claims_linear import linear
from .curve_analysis import Analysis
from .curve_set import CurveSet, decide_profile
from .jsonout import dumps
from .needs import energy_line
from .regression import Array
from .response import choose_response
from .table import RunTable, load_runs
from .verdicts import Claim, Options

SCHEMA_VERSION = 1
STATE_NAME = "study.json"
FACTORS = {"linear_in_samples": "samples", "linear_in_epochs": "epochs"}
LOOKS, GROWTH = 8, 1.4
ZERO_RUNS = 2
MAX_ORDER_CORRELATION = 0.5  # of an opening: well below where the gate takes drift for an effect


@dataclass(frozen=True, kw_only=True)
class Point:
    """A run to make; `zero` does everything but optimizer steps. kWh and seconds are expected, None if unknown."""

    samples: int
    epochs: int
    zero: bool = False
    energy_kwh: float | None = None
    seconds: float | None = None

    @property
    def key(self) -> tuple[int, int, bool]:
        return self.samples, self.epochs, self.zero


@dataclass(frozen=True, kw_only=True)
class Look:
    """One of the looks: after how many usable runs, at which level, and what was seen."""

    runs: int
    level: float
    verdict: str
    estimate: float | None
    ci: tuple[float, float] | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked, fixed before the first run, and the looks taken so far as numbers of runs.

    `levels` are those of the claim's factor, ascending; `at` is the value the other factor is held at.
    """

    claim: str
    margin: float
    level: float
    levels: tuple[int, ...]
    at: int
    seed: int
    looked: tuple[int, ...] = ()

    @property
    def factor(self) -> str:
        return FACTORS[self.claim]

    @cached_property
    def schedule(self) -> tuple[int, ...]:
        """Numbers of usable runs after which to look: the opening's, then each 1.4 times the one before."""
        first = len(self._opening)
        return tuple(math.ceil(first * GROWTH**k - 1e-9) for k in range(LOOKS))

    @property
    def look_level(self) -> float:
        """The level of each look: 1 − α/K."""
        return 1 - (1 - self.level) / LOOKS

    def point(self, level: int, *, zero: bool = False) -> Point:
        if self.factor == "samples":
            return Point(samples=level, epochs=self.at, zero=zero)
        return Point(samples=self.at, epochs=level, zero=zero)

    @property
    def zero(self) -> Point:
        return self.point(self.levels[0], zero=True)

    @cached_property
    def _opening(self) -> tuple[Point, ...]:
        once = [self.point(level) for level in self.levels]
        first, again = [*once, self.zero], [once[0], once[1], once[-1]] + [self.zero] * (ZERO_RUNS - 1)
        attempt = 0
        while True:
            rng = random.Random(f"{self.seed}/{attempt}")
            rng.shuffle(first)
            rng.shuffle(again)
            trained = [p.samples * p.epochs for p in (*first, *again) if not p.zero]
            if (
                abs(rank_correlation(np.arange(len(trained), dtype=np.float64), np.array(trained, dtype=np.float64)))
                < MAX_ORDER_CORRELATION
            ):
                return (*first, *again)
            attempt += 1

    @property
    def opening(self) -> tuple[Point, ...]:
        """The cheapest runs that pass the gates, in blocks and shuffled so that drift looks like no effect."""
        return self._opening


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to do next: `runs` to make, or `stop` with why (supported, refuted, budget, looks, doubt)."""

    usable: int
    look: Look | None
    stop: str | None
    runs: tuple[Point, ...] = ()


def advance(
    study: Study, table: RunTable | None, *, kwh_left: float = math.inf, seconds_left: float = math.inf
) -> Step:
    """The next step of a study on the runs there are (`table`; None before the first).

    `kwh_left` and `seconds_left` bound what the next runs may be expected to take together. When not one
    more run fits, the look that would come next is taken early, on the runs there are.
    """
    usable = 0 if table is None else len(table.frame)
    missing = _missing(study, table)
    if missing or table is None:
        spent = kwh_left <= 0 or seconds_left <= 0
        return Step(usable=usable, look=None, stop="budget" if spent else None, runs=() if spent else missing)
    taken = len(study.looked)
    curves = comparable_curves(study, table)
    look = None
    if taken < LOOKS and usable >= study.schedule[taken]:
        look, stop = _look(study, curves, usable)
        if stop:
            return Step(usable=usable, look=look, stop=stop)
        taken += 1
    if taken == LOOKS:
        return Step(usable=usable, look=look, stop="looks")
    wanted = study.schedule[taken] - usable
    runs = next_runs(study, curves, table, count=wanted, kwh_left=kwh_left, seconds_left=seconds_left)
    if runs:
        return Step(usable=usable, look=look, stop=None, runs=runs)
    if look is None and usable > max(study.looked, default=0):
        look, stop = _look(study, curves, usable)
        return Step(usable=usable, look=look, stop=stop or "budget")
    return Step(usable=usable, look=look, stop="budget")


def _missing(study: Study, table: RunTable | None) -> tuple[Point, ...]:
    """The runs of the opening that are not there yet, in its order."""
    have: Counter[tuple[int, int, bool]] = Counter()
    if table is not None:
        rows = zip(table.frame["samples"], table.frame["epochs"], table.frame["samples_seen"], strict=True)
        have.update((int(s), int(e), seen == 0) for s, e, seen in rows)
    missing = []
    for point in study.opening:
        if have[point.key]:
            have[point.key] -= 1
        else:
            missing.append(point)
    return tuple(missing)


def comparable_curves(study: Study, table: RunTable) -> CurveSet:
    """The curves of a study's runs, on what runs with and without optimizer steps have in common.

    A run of zero steps needs no warm-up passes; where the others made some, they are taken off, or every
    straight line would seem to bend at its foot. Zero-step runs that consist of setup alone say nothing
    about a run's other fixed cost and stay out.
    """
    frame = table.frame
    zero = frame["samples_seen"] <= 0
    if (frame["energy_kwh"] - frame["energy_setup_kwh"])[zero].le(1e-9 * frame["energy_kwh"][zero]).any():
        table = replace(table, frame=frame[~zero].reset_index(drop=True))
    response = choose_response(table)
    frame = response.frame
    zero = frame["samples_seen"] <= 0
    warm = frame["energy_warmup_kwh"]
    rest = frame["y"] - warm.fillna(0.0)
    if warm[~zero].gt(0).all() and not warm[zero].gt(0).any() and rest.gt(0).all():
        response = replace(
            response,
            frame=frame.assign(y=rest),
            noun=f"{response.noun} {'and' if 'without' in response.noun else 'without'} warm-up",
            measured_noun=None,
            measured_share=None,
            measured_gap="the warm-up is not known by component",
        )
    options = Options(margin=study.margin, level=study.look_level)
    return CurveSet(response, options, suspicious(check_rows(response.frame), len(response.frame)))


def _look(study: Study, curves: CurveSet, usable: int) -> tuple[Look, str | None]:
    """The claim at this look's level, and whether that ends the study."""
    claim: Claim = linear(curves, study.factor)
    look = Look(
        runs=usable,
        level=study.look_level,
        verdict=claim.verdict,
        estimate=claim.estimate,
        ci=claim.ci,
        reason=claim.reason,
    )
    if claim.verdict != "undecided":
        return look, claim.verdict
    return look, "doubt" if curves.suspects else None


def next_runs(
    study: Study,
    curves: CurveSet,
    table: RunTable,
    *,
    count: int,
    kwh_left: float = math.inf,
    seconds_left: float = math.inf,
) -> tuple[Point, ...]:
    """Up to `count` runs, each the one that tells most about the exponent per kWh given those before it.

    A run that lies far off the curve and sways the verdict is repeated first. Without a curve to plan by
    (a gate) the points are taken in turn.
    """
    usable = curves.blocks[study.factor] is None
    points = _priced(study, table.frame, zero=bool((curves.response.frame["samples_seen"] <= 0).any()))
    information, rows = _tangent(study, curves.total, points) if usable else (np.eye(1), np.ones((len(points), 1)))
    again = _outlier(study, curves) if usable else None
    chosen: list[Point] = []
    while len(chosen) < count:
        fits = [
            i for i, p in enumerate(points) if (p.energy_kwh or 0.0) <= kwh_left and (p.seconds or 0.0) <= seconds_left
        ]
        if not fits:
            break
        repeats = [i for i in fits if points[i].key == again]
        again = None
        if repeats:
            best = repeats[0]
        elif usable:
            inverse = np.asarray(np.linalg.pinv(information, hermitian=True), dtype=np.float64)
            best = max(fits, key=lambda i: _gain(inverse, rows[i]) / (points[i].energy_kwh or 1.0))
        else:
            best = fits[len(chosen) % len(fits)]
        information = information + np.outer(rows[best], rows[best])
        kwh_left -= points[best].energy_kwh or 0.0
        seconds_left -= points[best].seconds or 0.0
        chosen.append(points[best])
    random.Random(f"{study.seed}/{len(table.frame)}").shuffle(chosen)
    return tuple(chosen)


def _priced(study: Study, frame: pd.DataFrame, *, zero: bool) -> list[Point]:
    """The runs that can be made, with the energy and time that the runs so far let expect."""
    kwh = energy_line(frame)
    seconds = energy_line(frame.assign(energy_kwh=frame["total_s"]))
    points = []
    for point in [*map(study.point, study.levels), *([study.zero] if zero else [])]:
        work = 0 if point.zero else point.samples * point.epochs
        points.append(replace(point, energy_kwh=_known(kwh(work)), seconds=_known(seconds(work))))
    return points


def _known(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None


def _outlier(study: Study, curves: CurveSet) -> tuple[int, int, bool] | None:
    """The setting of a run far off the curve on which the verdict hangs: repeated first."""
    analysis, margin = curves.total, study.margin
    if analysis.outlier is None or analysis.without is None:
        return None
    found = [
        decide_profile(each.profile(study.factor), 1 - margin, 1 + margin, curves.options).verdict
        for each in (analysis, analysis.without)
    ]
    if found[0] == found[1]:
        return None
    row = curves.design.frame.iloc[analysis.outlier]
    return int(row["samples"]), int(row["epochs"]), bool(row["samples_seen"] == 0)


def _gain(inverse: Array, row: Array) -> float:
    """Drop of the variance of the exponent (in σ²) when a run is added: the rank-one update of its inverse."""
    v = inverse @ row
    return float(v[0] ** 2 / (1 + row @ v))


def _tangent(study: Study, analysis: Analysis, points: Sequence[Point]) -> tuple[Array, Array]:
    """Information (3, 3) on (exponent, share, level) of the runs there are, and the row (3,) each point adds.

    The model is linearised at the fit, with its weights: where small runs scatter more, they tell less. The
    share is kept off zero: on its boundary the tangent would claim to know the fixed cost.
    """
    fit, data = analysis.fit, analysis.fit.data
    j = analysis.design.factors.index(study.factor)
    cell = int(np.bincount(data.cell).argmax())
    share = max(float(fit.shares[cell]), 1e-3)
    centre = float(data.log_x[~data.zero, j].mean())

    def rows(log_x: Array, zero: NDArray[np.bool_]) -> tuple[Array, Array]:
        centred = np.where(zero, 0.0, log_x - centre)
        z = np.where(zero, 0.0, np.exp(centred * fit.exponents[j]))
        m = share + (1 - share) * z
        return np.column_stack([(1 - share) * z / m * centred, (1 - z) / m, np.ones_like(m)]), np.log(m)

    mine = data.cell == cell
    existing, size = rows(data.log_x[mine, j], data.zero[mine])
    at = np.array([getattr(p, study.factor) for p in points], dtype=np.float64)
    added, sizes = rows(np.log(at), np.array([p.zero for p in points]))
    if analysis.weighted:  # log weight is a line in log size
        slope, level = np.polyfit(size, np.log(data.weights[mine]), 1)
        existing = existing * np.exp((level + slope * size) / 2)[:, None]
        added = added * np.exp((level + slope * sizes) / 2)[:, None]
    return existing.T @ existing, added


def study_of(state: Mapping[str, Any], where: str = STATE_NAME) -> Study:
    """A study from its state file's document. Raises RecordError where that is not what it should be."""
    try:
        return Study(
            claim=str(state["claim"]),
            margin=float(state["margin"]),
            level=float(state["level"]),
            levels=tuple(int(level) for level in state["levels"]),
            at=int(state["at"]),
            seed=int(state["seed"]),
            looked=tuple(int(look["runs"]) for look in state["looks"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{where} is no study's state ({error!r}); delete it to begin the study anew") from None


def _document(study: Study, step: Step) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "schedule": study.schedule,
        "look_level": study.look_level,
        "usable": step.usable,
        "look": step.look,
        "stop": step.stop,
        "runs": step.runs,
    }


def _next_step(folder: Path, kwh_left: float, seconds_left: float) -> dict[str, Any]:
    path = folder / STATE_NAME
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read ({error}); `python -m lora_scaling.study` writes it") from None
    study = study_of(state, str(path))
    finished = any(folder.glob("*/run.json"))
    table = load_runs([folder]) if finished else None
    return _document(study, advance(study, table, kwh_left=kwh_left, seconds_left=seconds_left))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the next step of a study, or with --simulate the comparison with the fixed sweep."""
    parser = argparse.ArgumentParser(prog="python -m analysis.sequential", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", nargs="?", type=Path, help=f"folder of an adaptive study, with its {STATE_NAME}")
    parser.add_argument("--kwh-left", type=float, default=math.inf, help="what the next runs may take")
    parser.add_argument("--seconds-left", type=float, default=math.inf)
    parser.add_argument("--simulate", action="store_true", help="adaptive against fixed on simulated truths")
    parser.add_argument("--seeds", type=int, default=40, help="simulated studies of each truth and noise")
    args = parser.parse_args(argv)
    if args.simulate:
        from .sequential_simulation import render, simulate

        rows = simulate(args.seeds)
        print(render(rows))
        return 0 if all(row.passes for row in rows) else 1
    if args.study is None:
        parser.error("name the folder of a study, or --simulate")
    try:
        print(dumps(_next_step(args.study, args.kwh_left, args.seconds_left)))
    except LoraScalingError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
