"""The cheapest runs that pin an exponent down: c-optimality on the fitted curve, greedy per kWh."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from ..regression.curve_analysis import Analysis
from ..regression.fisher_information import Tangent, gain, inverse_of
from ..regression.least_squares import Array
from .context import COLUMN, CurveSet
from .next_runs import SWEEP, common_overrides, energy_line, existing_run_counts, round_to
from .verdicts import decisive_se

MAX_RUNS = 60


@dataclass(frozen=True, kw_only=True)
class ExponentPlan:
    """Runs for one exponent: settings, commands, energy, and the half-width now and expected then.

    No commands where a level is no whole number, which no run could be asked for.
    `overrides` are those that the commands share.
    """

    runs: int
    settings: tuple[dict[str, Any], ...]
    commands: tuple[str, ...]
    overrides: tuple[str, ...]
    energy_kwh: float | None
    half_width_now: float
    half_width_then: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that could be made, of as many samples and epochs (or of no steps), and its expected energy."""

    samples: float
    epochs: float
    zero: bool
    energy_kwh: float


def plan_exponent(curves: CurveSet, factor: str, estimate: float, low: float, high: float) -> ExponentPlan | None:
    """Greedy runs until the exponent is expected to decide with 80 % power.

    `low` and `high` are the bounds of the equivalence region. None where the estimate is too close to a
    bound for any number of runs, or where even MAX_RUNS runs are not expected to decide.
    """
    analysis, options = curves.total, curves.options
    j = analysis.design.factors.index(factor)
    gap = min(abs(estimate - low), abs(high - estimate))
    if gap < 0.1 * (high - low) / 2:
        return None
    tangent, candidates = Tangent(analysis=analysis), _candidates(analysis, zero=curves.response.of_whole_runs)
    rows, information, sigma = tangent.rows(candidates), tangent.information, analysis.fit.sigma
    inverse = inverse_of(information)
    now = _se(inverse, j, sigma)
    chosen: list[Candidate] = []
    while True:
        df = analysis.fit.data.df + len(chosen)
        if chosen and _se(inverse, j, sigma) <= decisive_se(estimate, low, high, options, df):
            break
        gains = [gain(inverse, row, j) / one.energy_kwh for row, one in zip(rows, candidates, strict=True)]
        best = int(np.argmax(gains))
        if len(chosen) == MAX_RUNS or gains[best] <= 0:
            return None
        information = information + np.outer(rows[best], rows[best])
        inverse = inverse_of(information)
        chosen.append(candidates[best])
    t = float(stdtrit(analysis.fit.data.df, 0.5 + options.ci_level / 2))
    overrides = common_overrides(_largest(analysis))
    settings, commands = _commands(chosen, curves.response.frame, overrides)
    known = bool((curves.response.frame["energy_kwh"] > 0).any())
    return ExponentPlan(
        runs=len(chosen),
        settings=settings,
        commands=commands,
        overrides=tuple(overrides),
        energy_kwh=round_to(sum(c.energy_kwh for c in chosen), 3) if known else None,
        half_width_now=t * now,
        half_width_then=t * _se(inverse, j, sigma),
    )


def _se(inverse: Array, j: int, sigma: float) -> float:
    return sigma * float(np.sqrt(max(inverse[j, j], 0.0)))


def _largest(analysis: Analysis) -> pd.DataFrame:
    """The runs of the cell that most runs are of: further ones are like these."""
    frame = analysis.design.frame
    return frame[frame["cell"] == int(np.bincount(frame["cell"]).argmax())]


def _candidates(analysis: Analysis, *, zero: bool) -> list[Candidate]:
    """The levels of the largest cell and twice the largest, and (`zero`) a run of no steps."""
    frame = _largest(analysis)
    trained = frame[frame["samples_seen"] > 0]
    levels: dict[str, list[float]] = {}
    for name, column in COLUMN.items():
        run = sorted(float(value) for value in trained[column].unique())
        run = [*run, 2 * run[-1]] if name in analysis.design.factors else run[:1]
        levels[name] = [int(value) if value == int(value) else value for value in run]
    points = [(samples, epochs, False) for samples in levels["samples"] for epochs in levels["epochs"]]
    if zero:
        points.append((math.ceil(levels["samples"][0]), math.ceil(levels["epochs"][0]), True))
    cost = energy_line(frame, common_overrides(frame))
    found = [Candidate(samples=s, epochs=e, zero=z, energy_kwh=cost(0 if z else s * e)) for s, e, z in points]
    known = [one for one in found if np.isfinite(one.energy_kwh) and one.energy_kwh > 0]
    return known or [replace(one, energy_kwh=1e-3 if one.zero else one.samples * one.epochs) for one in found]


def _commands(
    chosen: Sequence[Candidate], frame: pd.DataFrame, shared: Sequence[str]
) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """One sweep for each number of repeats that is asked of a level; the sweep skips runs that exist."""
    count = Counter((c.samples, c.epochs, c.zero) for c in chosen)
    have = {zero: existing_run_counts(frame, shared, zero=zero) for zero in (False, True)}
    settings, commands = [], []
    for (samples, epochs, zero), runs in sorted(count.items()):
        words = [f"samples={samples}", f"epochs={epochs}", *shared, *(["max_steps=0"] if zero else [])]
        settings.append({"samples": samples, "epochs": epochs, "runs": runs} | ({"max_steps": 0} if zero else {}))
        commands.append(" ".join([SWEEP, *words, f"replicates={have[zero].get((samples, epochs), 0) + runs}"]))
    whole = all(isinstance(number, int) for samples, epochs, _ in count for number in (samples, epochs))
    return tuple(settings), tuple(commands) if whole else ()
