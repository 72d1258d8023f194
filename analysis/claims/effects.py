"""Effects of one setting on runs that are alike in everything else: who is compared, and what that says."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lora_scaling.settings import POINT_COLUMNS

from ..regression.curve_analysis import CELL_COLUMNS, apart_gate, order_gate
from ..regression.estimate import IntervalEstimate
from ..regression.least_squares import Array
from ..regression.sessions import LEAST_WITHIN_SESSIONS, placed_in_sessions, session_means
from ..regression.within_groups import Within, within_rows
from ..tables.checks import doubt_about
from .verdicts import Decision, Options, Verdict, equivalence

WORK_COLUMNS = (*POINT_COLUMNS, "samples_seen")
LEAST_DF = 3  # to know the noise
LEVELS_P = 0.05  # of the levels' line: below it each level is judged by itself


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A claim about what one setting does to the energy of runs that are alike in everything else.

    The claim is that it does nothing within the margin, or (`costs_more`) that 1 costs more than 0, beyond the margin.

    title, quantity: `{}` is what is explained, energy or time. noun: the setting, in sentences. column: the setting's;
    runs that differ in it (and in those `along` with it) alone are compared. factor: where each run (n,) stands, in
    doublings, or 0 and 1; NaN for runs that the claim is not about. vary: overrides of runs that would decide it.
    says: what was found, from {percent} or {times}, and {low}, {high} and {over} of the setting's range.
    """

    id: str
    title: str
    quantity: str
    noun: str
    column: str
    factor: Callable[[pd.DataFrame], pd.Series]
    vary: str
    along: tuple[str, ...] = ()
    costs_more: bool = False
    says: str = "each doubling changes {response} by {percent}, from {column} {low} to {high} by {over}"

    @property
    def words(self) -> str:
        """The column in sentences."""
        return self.column.replace("_", " ")

    def bounds(self, span: float, options: Options) -> tuple[float, float]:
        """Return what of the slope of log y on the factor lies within the margin, over a factor that spans so much.

        The margin is for the whole change over the range that was run: four doublings may each do a quarter of it. A
        claim that one kind costs more has no lower bound.
        """
        if self.costs_more:
            return -math.inf, math.log1p(options.margin)
        return math.log1p(-options.margin) / span, math.log1p(options.margin) / span

    def judge(self, estimate: IntervalEstimate, span: float, options: Options) -> tuple[Verdict, float | None]:
        """Decide: within the margin or outside it; for a claim that one costs more, above the margin or below it."""
        low, high = self.bounds(span, options)
        if not self.costs_more:
            return equivalence(estimate, low, high, options)
        above, below = estimate.p_above(high), estimate.p_below(high)
        if above <= options.alpha:
            return "supported", above
        return ("refuted", below) if below <= options.alpha else ("undecided", None)


def doublings(column: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Return the factor of a numeric setting: its log to base 2, so that each doubling counts one."""
    return lambda runs: pd.Series(np.log2(runs[column].where(runs[column] > 0).to_numpy(dtype=float)), index=runs.index)


@dataclass(frozen=True, kw_only=True)
class LevelFinding:
    """The levels of a numeric setting against its lowest, each within the margin or not.

    line_p: F test of a straight line through the levels. inside: whether every level is shown to be within the margin.
    beyond: whether the estimate of one of them is not.
    worst, ratio, ci: the level that lies farthest off, and its ratio to the lowest. outside_p: of the level that is
    most clearly beyond the margin, Bonferroni over the levels, and doubled, because it is a second look at these runs.
    """

    line_p: float
    inside: bool
    beyond: bool
    worst: float
    ratio: float
    ci: tuple[float, float]
    outside_p: float

    @property
    def depart(self) -> bool:
        """Whether levels that follow no line, or lie beyond the margin, stop a verdict on the slope."""
        return not self.inside and (self.beyond or self.line_p <= LEVELS_P)


@dataclass(frozen=True, kw_only=True)
class EffectFinding:
    """What matched runs say, all models together and (`by_model`, where there are several) each alone.

    alike_p: F test of one effect for all models. Where it rejects (`depends`), the decision is what they agree on.
    span: of the factor. levels: what each level does against the lowest, where that could stop or make a verdict.
    """

    decision: Decision
    estimate: IntervalEstimate
    resid: Array
    span: float
    levels: "LevelFinding | None"
    by_model: dict[str, dict[str, Any]]
    alike_p: float | None
    depends: bool


def matched_runs(effect: Effect, frame: pd.DataFrame) -> pd.DataFrame:
    """Select the runs that can be compared, with their `factor`, `of_model`, and their matched `group`."""
    factor = effect.factor(frame) if len(frame) else pd.Series(dtype=float)
    rows = frame.assign(factor=factor, of_model=frame["model"].fillna("the model that is not named"))
    rows = rows[rows["factor"].notna() & (rows["samples_seen"] > 0)]
    rows = informative(rows.assign(group=_group_of(rows, (effect.column, *effect.along))))
    return informative(session_means(rows, ["y", "y_measured"]))


def _group_of(frame: pd.DataFrame, without: tuple[str, ...]) -> pd.Series:
    """Number (n,) the groups of runs that are alike in everything but the columns `without`."""
    columns = [name for name in (*CELL_COLUMNS, *WORK_COLUMNS) if name not in without and frame[name].notna().any()]
    if frame.empty:
        return pd.Series(0, index=frame.index)
    keys = frame[columns].apply(lambda column: pd.factorize(column.astype(object))[0])
    return keys.groupby(columns).ngroup()


def informative(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep only the groups in which the factor varies."""
    varies = rows.groupby("group")["factor"].transform("nunique") > 1 if len(rows) else rows["group"] < 0
    return rows[varies].reset_index(drop=True)


def block(effect: Effect, frame: pd.DataFrame, rows: pd.DataFrame, suspects: tuple[str, ...]) -> str | None:
    """Say why these runs cannot decide: none to compare, too few, or the setting followed the order or the sessions."""
    if doubt := doubt_about(rows, suspects):
        return doubt
    if len(frame) < 2:
        return "no usable run" if frame.empty else "there is only one usable run"
    if rows.empty:
        return f"{effect.noun} never varied with everything else equal"
    matched = within_rows(rows, "y")
    if matched.share < LEAST_WITHIN_SESSIONS:
        return f"{effect.noun} changed only from session to session, whose effects look alike"
    if matched.df < LEAST_DF:
        return f"only {len(rows)} runs can be compared at the same work; more repeats are needed to know the noise"
    placed = placed_in_sessions(rows)
    return order_gate(placed, "factor", effect.noun) or apart_gate(placed, effect.column, effect.noun)


def find(effect: Effect, rows: pd.DataFrame, y: str, options: Options) -> EffectFinding:
    """Decide on the response column `y`, over all models and for each alone.

    Models that truly differ have a mean that is true of none: where the F test says that they do, a verdict stands only
    if each model alone has it, with the largest p (intersection and union).
    """
    matched, span = within_rows(rows, y), _span(rows)
    (estimate, resid), levels = matched.slope(), None if effect.costs_more else _levels(effect, matched, rows, options)
    verdict, p = _judged(effect, estimate, span, levels, options)
    by_model: dict[str, dict[str, Any]] = {}
    if rows["of_model"].nunique() > 1:
        for name, mine in rows.sort_values("params", kind="stable").groupby("of_model", sort=False):
            by_model[str(name)] = _alone(effect, mine.reset_index(drop=True), y, options)
    alike_p = matched.equal_slopes_p(pd.factorize(rows["of_model"])[0]) if by_model else None
    verdicts: set[Verdict] = {own["verdict"] for own in by_model.values()}
    contrary = {"supported", "refuted"} <= {*verdicts, verdict}
    depends = (alike_p is not None and alike_p <= options.alpha) or contrary
    if depends:
        verdict = verdicts.pop() if len(verdicts) == 1 else "undecided"
        p = None if verdict == "undecided" else max(own["p"] for own in by_model.values())
    ci = estimate.interval(options.ci_level)
    return EffectFinding(
        decision=Decision(verdict=verdict, estimate=estimate.value, ci=ci, p_value=p),
        estimate=estimate,
        resid=resid,
        span=span,
        levels=levels,
        by_model=by_model,
        alike_p=alike_p,
        depends=depends,
    )


def _alone(effect: Effect, rows: pd.DataFrame, y: str, options: Options) -> dict[str, Any]:
    """Decide on one model's runs alone."""
    matched, span = within_rows(rows, y), _span(rows)
    own, levels = matched.slope()[0], None if effect.costs_more else _levels(effect, matched, rows, options)
    verdict, p = _judged(effect, own, span, levels, options)
    ends = [math.exp(end) for end in own.interval(options.ci_level)]
    return {"verdict": verdict, "p": p, "ratio": math.exp(own.value), "ci": ends, "df": own.df}


def _span(rows: pd.DataFrame) -> float:
    """Return the range of the factor."""
    return float(np.ptp(rows["factor"]))


def _judged(
    effect: Effect, estimate: IntervalEstimate, span: float, levels: LevelFinding | None, options: Options
) -> tuple[Verdict, float | None]:
    """Decide by the slope; what single levels show can stop support, or refute where the slope decides nothing."""
    verdict, p = effect.judge(estimate, span, options)
    if levels is None:
        return verdict, p
    if verdict == "supported" and levels.depart:
        verdict, p = "undecided", None
    if verdict == "undecided" and levels.outside_p <= options.alpha:
        return "refuted", levels.outside_p
    return verdict, p


def _levels(effect: Effect, matched: Within, rows: pd.DataFrame, options: Options) -> LevelFinding | None:
    """Compare each level with the lowest; None if there are two, which the slope compares, or runs cannot tell."""
    values = np.unique(rows["factor"])
    level = np.searchsorted(values, rows["factor"])
    if len(values) < 3 or (found := matched.level_effects(level)) is None:
        return None
    low, high = math.log1p(-options.margin), math.log1p(options.margin)
    inside = all(max(one.p_above(low), one.p_below(high)) <= options.alpha for one in found.effects)
    outside = min(min(one.p_below(low), one.p_above(high)) for one in found.effects)
    worst = int(np.argmax([abs(one.value) for one in found.effects]))
    farthest = found.effects[worst]
    ends = farthest.interval(options.ci_level)
    return LevelFinding(
        line_p=found.line_p,
        inside=inside,
        beyond=not low <= farthest.value <= high,
        worst=float(rows[effect.column][level == worst + 1].iloc[0]),
        ratio=math.exp(farthest.value),
        ci=(math.exp(ends[0]), math.exp(ends[1])),
        outside_p=min(1.0, 2 * len(found.effects) * outside),
    )
