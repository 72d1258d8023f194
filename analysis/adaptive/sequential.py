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
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_scaling.adaptive import Look, Point, Step
from lora_scaling.claim_defaults import STATE_NAME
from lora_scaling.records import RECORD_NAME

from ..claims.context import CurveSet
from ..claims.linear import linear
from ..claims.verdicts import Options
from ..tables.checks import check_rows, suspicious
from ..tables.response import choose_response
from ..tables.table import RunTable, load_runs
from .plan import next_runs
from .study import LOOKS, Study, study_of


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
    taken = max(len(study.looked), _reached(study, max(study.looked, default=0)))
    curves = comparable_curves(study, table)
    look = None
    if taken < LOOKS and usable >= study.schedule[taken]:
        look, stop = _look(study, curves, usable)
        if stop:
            return Step(usable=usable, look=look, stop=stop)
        taken = max(taken + 1, _reached(study, usable))
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


def _reached(study: Study, runs: int) -> int:
    """How many looks of the schedule so many runs have reached; a look at all of them is one for all."""
    return sum(due <= runs for due in study.schedule)


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

    Zero-step runs that consist of setup alone, where nothing was warmed up or evaluated, say nothing about a run's
    other fixed cost and stay out.
    """
    frame = table.frame
    zero = frame["samples_seen"] <= 0
    if (frame["energy_kwh"] - frame["energy_setup_kwh"])[zero].le(1e-9 * frame["energy_kwh"][zero]).any():
        table = replace(table, frame=frame[~zero].reset_index(drop=True))
    response = choose_response(table)
    options = Options(margin=study.margin, level=study.look_level)
    return CurveSet(response, options, suspicious(check_rows(response.frame), len(response.frame)))


def _look(study: Study, curves: CurveSet, usable: int) -> tuple[Look, str | None]:
    """The claim at this look's level, and whether that ends the study."""
    claim = linear(curves, study.factor)
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
