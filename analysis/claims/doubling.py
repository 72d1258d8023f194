"""`doubling_doubles`: what twice the samples do to the whole bill, fixed cost included."""

import math
from typing import Any

import numpy as np

from lora_scaling.text import number

from ..regression.curve_analysis import Analysis, mean_elasticity
from ..tables.response import measured_sentence
from .context import COLUMN, ClaimContext, misfit_words, outlier_of, without_outlier
from .linear import linear
from .next_runs import gate_needs, more_runs, round_to
from .verdicts import Claim, Decision, Options, Verdict, decided, undecided
from .vetoes import Veto, vetoed

LARGEST_LOG_SIZE = math.log(1e12)  # no training set has more samples


def doubling(context: ClaimContext) -> Claim:
    """Decide `doubling_doubles`: the elasticity of the whole bill, fixed cost and the samples' own lengths included."""
    options, noun = context.options, context.response.noun
    factor = next((f for f in ("samples", "epochs") if context.blocks[f] is None), "samples")
    quantity = f"elasticity of {noun} in {factor}, averaged over the range run"
    blocked = context.blocks[factor]
    if blocked:
        return undecided("doubling_doubles", quantity, blocked, gate_needs(context, factor))
    low, high = 1 - options.margin, 1 + options.margin
    analysis = context.as_run

    def decision_on(analysis: Analysis) -> Decision:
        return decided(mean_elasticity(analysis, factor), low, high, options)

    decision, growth = decision_on(analysis), linear(context, factor).verdict
    holds_from = None if growth == "refuted" else _holds_from(analysis, factor, options)
    tests: dict[str, Any] = {
        "factor": factor,
        "df": analysis.fit.data.df,
        "p_value": decision.p_value,
        "holds_from": holds_from,
        "growth_is_linear": growth,
    }
    verdict, veto = vetoed(
        decision,
        context.response,
        tests,
        outlier=outlier_of(analysis),
        without=lambda: decision_on(without_outlier(analysis)),
        measured=lambda: decision_on(context.measured_as_run),
        own=_vetoes(context, analysis, factor, decision, growth),
    )
    needs = None
    if verdict == "undecided":
        needs = more_runs(context, factor, decision, low, high, veto, analysis=analysis, of_exponent=False)
    return Claim(
        id="doubling_doubles",
        verdict=verdict,
        estimate=decision.estimate,
        ci=decision.ci,
        quantity=quantity,
        reason=_doubling_reason(context, factor, decision, veto, holds_from)
        + measured_sentence(context.response, tests["measured"]),
        tests=tests,
        needs=needs,
        p_value=decision.p_value if verdict != "undecided" else None,
        title=f"Twice the {factor} cost twice the {noun}",
    )


def _vetoes(context: ClaimContext, analysis: Analysis, factor: str, decision: Decision, growth: Verdict) -> list[Veto]:
    """Collect vetoes: no curve fits, or twice the energy on average only, because the growth itself is not linear."""
    lack = context.misfit(analysis, factor)
    if lack is not None:
        return [Veto(kind="lack_of_fit", why=misfit_words(analysis, lack))]
    if decision.verdict == "supported" and growth == "refuted":
        why = (
            f"on average over the range run twice the {factor} {_cost(decision)}, but the growth is not linear: it is "
            "less in one part of the range and more in another"
        )
        return [Veto(kind="growth", why=why)]
    return []


def _holds_from(analysis: Analysis, factor: str, options: Options) -> float | None:
    """Return the number of `factor` from which the local elasticity b·(1 − fixed share) is within 1 ± margin.

    None if the growth itself is outside the margin, 0 where it always is inside, infinite where the fixed cost is
    all there is to see. Growth that may be linear is taken as exactly so.
    """
    fit, data = analysis.fit, analysis.fit.data
    j = analysis.design.factors.index(factor)
    ci = analysis.profile(factor).interval(options.ci_level)
    exponent = float(fit.exponents[j])
    b = 1.0 if ci[0] <= 1 <= ci[1] else exponent
    floor, ceiling = 1 - options.margin, 1 + options.margin
    if not floor < b < ceiling:
        return None
    u = _fixed_at_centre(analysis, factor)
    if u == 0:
        return 0.0
    if exponent <= 0:
        return float("inf")
    log_z = math.log(u / (1 - u) * floor / (b - floor) if u > 0 else -u / (1 - u) * ceiling / (ceiling - b))
    log_size = float(data.log_x[~data.zero, j].mean()) + log_z / exponent
    return round_to(math.exp(log_size), 2) if log_size < LARGEST_LOG_SIZE else float("inf")


def _fixed_at_centre(analysis: Analysis, factor: str) -> float:
    """Return the share of a run at the centre of the design that does not grow with `factor` (median of the cells)."""
    fit, u = analysis.fit, float(np.median(analysis.fit.shares))
    if not fit.data.once:
        return u
    v, w = fit.once
    other = (1 - v) * w if factor == "samples" else v
    return u + (1 - u) * other


def _cost(decision: Decision) -> str:
    """Say what a doubling costs, with its interval: costs 71 % more (69 to 73 %), costs 9 % less (12 to 6 % less)."""
    change, *ends = (100 * (2**value - 1) for value in (decision.estimate, *decision.ci))
    way = "more" if change >= 0 else "less"
    if min(ends) < 0:
        low, high = (f"{abs(end):.0f} % {'more' if end >= 0 else 'less'}" for end in ends)
        return f"costs {abs(change):.0f} % {way} ({low} to {high})"
    return f"costs {abs(change):.0f} % {way} ({ends[0]:.0f} to {ends[1]:.0f} %)"


def _doubling_reason(
    context: ClaimContext, factor: str, decision: Decision, veto: Veto | None, holds_from: float | None
) -> str:
    if veto is not None:
        return f"Undecided: {veto.why}."
    cost = f"twice the {factor} {_cost(decision)}"
    text = {
        "supported": f"Yes, over the range run {cost}.",
        "refuted": f"No, over the range run {cost} and not 100 %.",
        "undecided": f"Not precise enough: over the range run {cost}.",
    }[decision.verdict]
    return text if decision.verdict == "supported" else text + _from_where(context, factor, decision, holds_from)


def _from_where(context: ClaimContext, factor: str, decision: Decision, holds_from: float | None) -> str:
    """Say from which number on it holds, if these runs show that it does not hold everywhere."""
    low, high = decision.ci
    if low <= 1 <= high:  # it may be exact at every size
        return ""
    if holds_from is None:
        return " The growth itself is not linear, so no size makes it hold." if decision.verdict == "refuted" else ""
    if math.isinf(holds_from):
        return " The fixed cost is all there is to see: no number within reach makes it hold."
    smallest, largest = (float(end) for end in context.design.trained[COLUMN[factor]].agg(["min", "max"]))
    if holds_from <= smallest:
        return ""
    beyond = " (beyond what was run)" if holds_from > largest else ""
    part = "the fixed cost" if high < 1 else "what was subtracted from every run"
    least = f"{number(holds_from)} {factor}"
    return f" With {part} spread over more work it holds within the margin from about {least} on{beyond}."
