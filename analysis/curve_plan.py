"""The cheapest runs that pin an exponent down: c-optimality on the fitted curve, greedy per kWh."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .curve_analysis import Analysis
from .curve_set import CurveSet
from .needs import SWEEP, common_overrides, energy_line, round_to
from .regression import Array, t_quantile

MAX_RUNS = 60


@dataclass(frozen=True, kw_only=True)
class ExponentPlan:
    """Runs for one exponent: settings, commands, energy, and the half-width now and expected then."""

    runs: int
    settings: tuple[dict[str, Any], ...]
    commands: tuple[str, ...]
    energy_kwh: float | None
    half_width_now: float
    half_width_then: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that could be made: its row of the tangent model (k,), its expected energy, its overrides."""

    samples: int
    epochs: int
    zero: bool
    row: Array
    energy_kwh: float


def plan_exponent(curves: CurveSet, factor: str, estimate: float, low: float, high: float) -> ExponentPlan | None:
    """Greedy runs until the exponent is expected to decide with 80 % power (half α: a second look).

    `low` and `high` are the bounds of the equivalence region. None where the estimate is too close to a
    bound for any number of runs, or where even MAX_RUNS runs are not expected to decide.
    """
    analysis, options = curves.total, curves.options
    j = analysis.design.factors.index(factor)
    gap = min(abs(estimate - low), abs(high - estimate))
    if gap < 0.1 * (high - low) / 2:
        return None
    information, candidates = _tangent(analysis, curves)
    sigma = analysis.fit.sigma
    now = _se(information, j, sigma)
    chosen: list[Candidate] = []
    while True:
        df = analysis.fit.data.df + len(chosen)
        wanted = gap / (t_quantile(1 - options.alpha / 2, df) + t_quantile(0.8, df))
        if chosen and _se(information, j, sigma) <= wanted:
            break
        best = max(candidates, key=lambda c: _gain(information, c, j) / c.energy_kwh)
        if len(chosen) == MAX_RUNS or _gain(information, best, j) <= 0:
            return None
        information = information + np.outer(best.row, best.row)
        chosen.append(best)
    t = t_quantile(0.5 + options.ci_level / 2, analysis.fit.data.df)
    settings, commands = _commands(chosen, curves)
    known = bool((curves.response.frame["energy_kwh"] > 0).any())
    return ExponentPlan(
        runs=len(chosen),
        settings=settings,
        commands=commands,
        energy_kwh=round_to(sum(c.energy_kwh for c in chosen), 3) if known else None,
        half_width_now=t * now,
        half_width_then=t * _se(information, j, sigma),
    )


def _gain(information: Array, candidate: Candidate, j: int) -> float:
    """Drop of the variance of parameter j when the candidate is added (rank-one update)."""
    inverse = np.linalg.pinv(information, hermitian=True)
    v = inverse @ candidate.row
    return float(v[j] ** 2 / (1 + candidate.row @ v))


def _se(information: Array, j: int, sigma: float) -> float:
    return sigma * float(np.sqrt(max(np.linalg.pinv(information, hermitian=True)[j, j], 0.0)))


def _tangent(analysis: Analysis, curves: CurveSet) -> tuple[Array, list[Candidate]]:
    """Information (k, k) of the runs there are in (exponents, share, level) of the largest cell, and candidates.

    The share is nudged off zero: on its boundary the tangent would claim to know the fixed cost.
    """
    fit, data, design = analysis.fit, analysis.fit.data, analysis.design
    cell = int(np.bincount(data.cell).argmax())
    rows = data.cell == cell
    share = max(float(fit.shares[cell]), 1e-3)
    centre = data.log_x[~data.zero].mean(axis=0)

    def tangent(log_x: Array, zero: bool) -> Array:
        centred = np.zeros_like(centre) if zero else log_x - centre
        z = 0.0 if zero else float(np.exp(centred @ fit.exponents))
        m = share + (1 - share) * z
        return np.concatenate([(1 - share) * z / m * centred, [(1 - z) / m, 1.0]])

    existing = np.array([tangent(x, bool(zero)) for x, zero in zip(data.log_x[rows], data.zero[rows], strict=True)])
    information = existing.T @ existing
    cost = energy_line(curves.response.frame, common_overrides(curves.response.frame))
    trained = design.trained[design.trained["cell"] == cell]
    low, high = float(trained["samples"].min()), float(trained["samples"].max())
    levels = sorted(
        {int(s) for s in trained["samples"].unique()} | {round(2 * high)} if "samples" in design.factors else {int(low)}
    )
    epochs = sorted({int(e) for e in trained["epochs_seen"].round().unique()})
    if "epochs" in design.factors:
        epochs = [*epochs, 2 * epochs[-1]]
    candidates = []
    for s in levels:
        for e in epochs:
            values = {"samples": float(s), "epochs": float(e)}
            log_x = np.log([values[name] for name in design.factors])
            candidates.append(
                Candidate(samples=s, epochs=e, zero=False, row=tangent(log_x, False), energy_kwh=cost(s * e))
            )
    candidates.append(
        Candidate(samples=levels[0], epochs=epochs[0], zero=True, row=tangent(centre, True), energy_kwh=cost(0))
    )
    known = [c for c in candidates if np.isfinite(c.energy_kwh) and c.energy_kwh > 0]
    return information, known or [replace(c, energy_kwh=max(1e-3, float(c.samples * c.epochs))) for c in candidates]


def _commands(chosen: Sequence[Candidate], curves: CurveSet) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """One sweep for each number of repeats that is asked of a level; the sweep skips runs that exist."""
    frame = curves.response.frame
    count = Counter((c.samples, c.epochs, c.zero) for c in chosen)
    shared = common_overrides(frame)
    settings, commands = [], []
    for (samples, epochs, zero), runs in sorted(count.items()):
        shown = (frame["samples_seen"] == 0) == zero
        have = int(((frame["samples"] == samples) & (frame["epochs"] == epochs) & shown).sum())
        words = [f"samples={samples}", f"epochs={epochs}", *shared, *(["max_steps=0"] if zero else [])]
        settings.append({"samples": samples, "epochs": epochs, "runs": runs} | ({"max_steps": 0} if zero else {}))
        commands.append(" ".join([SWEEP, *words, f"replicates={have + runs}"]))
    return tuple(settings), tuple(commands)
