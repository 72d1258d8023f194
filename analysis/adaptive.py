"""The statistics of an adaptive study: when to look, at which level, and which run tells most per kWh.

A claim is looked at after numbers of runs that are fixed before the first run, and its error rate α is
split evenly over these looks (Bonferroni): however the looks depend on each other, a wrong `supported` or
`refuted` comes in at most α of the studies. The opening is the cheapest design that passes the gates of the
claim: every level once, the ends of the range and the next to cheapest level twice, two runs of zero
optimizer steps. From then on each run is the one with the largest drop in Var(b) per expected joule on the
curve fitted at the last look (c-optimality, greedy; Silvey 1980, Optimal Design, ch. 3).

`next_step` is what the command `lora_scaling.study` hands to the runs that carry a study out.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lora_scaling.adaptive import Look, Point, Step
from lora_scaling.claim_defaults import ADAPTIVE, STATE_NAME
from lora_scaling.errors import RecordError
from lora_scaling.records import RECORD_NAME

from .claims.context import ClaimContext, decide_profile
from .claims.linear import linear
from .claims.next_runs import energy_line
from .claims.verdicts import Options
from .regression.fisher_information import Tangent, gain, inverse_of
from .tables.checks import check_rows, rank_correlation, suspicious
from .tables.response import choose_response
from .tables.table import RunTable, load_runs

LOOKS, GROWTH = 8, 1.4
ZERO_RUNS = 2
MAX_ORDER_CORRELATION = 0.5  # of an opening: well below where the gate takes drift for an effect


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
        return ADAPTIVE[self.claim][0]

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


def study_of(state: Mapping[str, Any], where: str = STATE_NAME) -> Study:
    """Read a study from its state file's document; raise RecordError if the document is not a study's state."""
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
        raise RecordError(f"{where}: no study's state ({error!r}); delete it to begin the study anew") from None


def advance(
    study: Study, table: RunTable | None, *, kwh_left: float = math.inf, seconds_left: float = math.inf
) -> Step:
    """Return the next step of a study, given its runs so far (`table`; None before the first).

    `kwh_left` and `seconds_left` bound what the next runs may be expected to take together. When not one
    more run fits, the look that would come next is taken early, on the runs there are.
    """
    usable = 0 if table is None else len(table.frame)
    missing = _missing(study, table)
    if missing or table is None:
        spent = kwh_left <= 0 or seconds_left <= 0
        return Step(usable=usable, look=None, stop="budget" if spent else None, runs=() if spent else missing)
    taken = max(len(study.looked), _reached(study, max(study.looked, default=0)))
    context = comparable_context(study, table)
    look = None
    if taken < LOOKS and usable >= study.schedule[taken]:
        look, stop = _look(study, context, usable)
        if stop:
            return Step(usable=usable, look=look, stop=stop)
        taken = max(taken + 1, _reached(study, usable))
    if taken == LOOKS:
        return Step(usable=usable, look=look, stop="looks")
    wanted = study.schedule[taken] - usable
    runs = next_runs(study, context, table, count=wanted, kwh_left=kwh_left, seconds_left=seconds_left)
    if runs:
        return Step(usable=usable, look=look, stop=None, runs=runs)
    if look is None and usable > max(study.looked, default=0):
        look, stop = _look(study, context, usable)
        return Step(usable=usable, look=look, stop=stop or "budget")
    return Step(usable=usable, look=look, stop="budget")


def _reached(study: Study, runs: int) -> int:
    """Count the looks of the schedule that so many runs have reached; one look at all runs counts for all of them."""
    return sum(due <= runs for due in study.schedule)


def _missing(study: Study, table: RunTable | None) -> tuple[Point, ...]:
    """Return the runs of the opening that were not made yet, in its order."""
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


def comparable_context(study: Study, table: RunTable) -> ClaimContext:
    """Build the context of a study's claim, from what runs with and without optimizer steps have in common.

    Zero-step runs that consist of setup alone, where nothing was warmed up or evaluated, say nothing about a run's
    other fixed cost and stay out.
    """
    frame = table.frame
    zero = frame["samples_seen"] <= 0
    if (frame["energy_kwh"] - frame["energy_setup_kwh"])[zero].le(1e-9 * frame["energy_kwh"][zero]).any():
        table = replace(table, frame=frame[~zero].reset_index(drop=True))
    response = choose_response(table)
    options = Options(margin=study.margin, level=study.look_level)
    suspects = suspicious(check_rows(response.frame), len(response.frame))
    return ClaimContext(response, options, suspects, idle_alike=True)  # these evaluate and warm up like the others


def _look(study: Study, context: ClaimContext, usable: int) -> tuple[Look, str | None]:
    """Decide the claim at this look's level; return the look, and why the study ends (None if it goes on)."""
    claim = linear(context, study.factor)
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
    return look, "doubt" if context.suspects else None


def next_step(
    folder: Path, state: Mapping[str, Any], *, kwh_left: float = math.inf, seconds_left: float = math.inf
) -> Step:
    """Advance the study in a folder, of which `state` is what its state file holds.

    Raises RecordError where the state is no study's.
    """
    study = study_of(state, str(folder / STATE_NAME))
    table = load_runs([folder]) if any(folder.glob(f"*/{RECORD_NAME}")) else None
    step = advance(study, table, kwh_left=kwh_left, seconds_left=seconds_left)
    return replace(step, schedule=study.schedule)


def next_runs(
    study: Study,
    context: ClaimContext,
    table: RunTable,
    *,
    count: int,
    kwh_left: float = math.inf,
    seconds_left: float = math.inf,
) -> tuple[Point, ...]:
    """Choose up to `count` runs, each the most informative about the exponent per kWh, given those before it.

    A run that lies far off the curve and sways the verdict is repeated first. Without a curve to plan by
    (a gate) the points are taken in turn.
    """
    usable = context.blocks[study.factor] is None
    points = _priced(study, table.frame, zero=bool((context.response.frame["samples_seen"] <= 0).any()))
    information, rows, exponent = np.eye(1), np.ones((len(points), 1)), 0
    if usable:
        tangent = Tangent(analysis=context.total)
        information, rows = tangent.information, tangent.rows(points)
        exponent = context.design.factors.index(study.factor)
    again = _outlier(study, context) if usable else None
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
            inverse = inverse_of(information)
            best = max(fits, key=lambda i: gain(inverse, rows[i], exponent) / (points[i].energy_kwh or 1.0))
        else:
            best = fits[len(chosen) % len(fits)]
        information = information + np.outer(rows[best], rows[best])
        kwh_left -= points[best].energy_kwh or 0.0
        seconds_left -= points[best].seconds or 0.0
        chosen.append(points[best])
    random.Random(f"{study.seed}/{len(table.frame)}").shuffle(chosen)
    return tuple(chosen)


def _priced(study: Study, frame: pd.DataFrame, *, zero: bool) -> list[Point]:
    """List the runs that can be made, with the energy and time expected from the runs so far."""
    kwh = energy_line(frame)
    seconds = energy_line(frame.assign(energy_kwh=frame["total_s"]))
    points = []
    for point in [*map(study.point, study.levels), *([study.zero] if zero else [])]:
        work = 0 if point.zero else point.samples * point.epochs
        points.append(replace(point, energy_kwh=_known(kwh(work)), seconds=_known(seconds(work))))
    return points


def _known(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None


def _outlier(study: Study, context: ClaimContext) -> tuple[int, int, bool] | None:
    """Return the setting of a run far off the curve that changes the verdict; it is repeated first."""
    analysis, margin = context.total, study.margin
    if analysis.outlier is None or analysis.without is None:
        return None
    found = [
        decide_profile(each.profile(study.factor), 1 - margin, 1 + margin, context.options).verdict
        for each in (analysis, analysis.without)
    ]
    if found[0] == found[1]:
        return None
    row = context.design.frame.iloc[analysis.outlier]
    return int(row["samples"]), int(row["epochs"]), bool(row["samples_seen"] == 0)
