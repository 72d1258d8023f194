"""`doubling_doubles`: what twice the samples do to the whole bill, fixed cost included."""

import math
from typing import Any

import numpy as np

from ..regression.curve_analysis import Analysis, mean_elasticity
from ..tables.response import measured_sentence
from .context import COLUMN, ClaimContext, outlier_of, without_outlier
from .next_runs import gate_needs, more_runs, round_to
from .verdicts import Claim, Decision, Options, decided, undecided
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

    decision, holds_from = decision_on(analysis), _holds_from(analysis, factor, options)
    tests: dict[str, Any] = {
        "factor": factor,
        "df": analysis.fit.data.df,
        "p_value": decision.p_value,
        "holds_from": holds_from,
    }
    verdict, veto = vetoed(
        decision,
        context.response,
        tests,
        outlier=outlier_of(analysis),
        without=lambda: decision_on(without_outlier(analysis)),
        measured=lambda: decision_on(context.measured_as_run),
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


def _holds_from(analysis: Analysis, factor: str, options: Options) -> float | None:
    """Return the number of `factor` from which the local elasticity b·(1 − fixed share) is at least 1 − margin.

    None where the growth itself is outside the margin, 0 where it always is inside, infinite where the fixed cost is
    all there is to see. Growth that may be linear is taken as exactly so.
    """
    fit, data = analysis.fit, analysis.fit.data
    j = analysis.design.factors.index(factor)
    ci = analysis.profile(factor).interval(options.ci_level)
    b = 1.0 if ci[0] <= 1 <= ci[1] else float(fit.exponents[j])
    floor = 1 - options.margin
    if not floor < b <= 1 + options.margin:
        return None
    u = float(np.median(fit.shares))
    if u <= 0:
        return 0.0
    exponent = float(fit.exponents[j])
    if exponent <= 0:
        return float("inf")
    log_z = math.log(u / (1 - u) * floor / (b - floor))
    log_size = float(data.log_x[~data.zero, j].mean()) + log_z / exponent
    return round_to(math.exp(log_size), 2) if log_size < LARGEST_LOG_SIZE else float("inf")


def _doubling_reason(
    context: ClaimContext, factor: str, decision: Decision, veto: Veto | None, holds_from: float | None
) -> str:
    if veto is not None:
        return f"Undecided: {veto.why}."
    low, high = (100 * (2**end - 1) for end in decision.ci)
    cost = f"twice the {factor} costs {100 * (2**decision.estimate - 1):.0f} % more ({low:.0f} to {high:.0f} %)"
    text = {
        "supported": f"Yes, over the range run {cost}.",
        "refuted": f"No, over the range run {cost} and not 100 %.",
        "undecided": f"Not precise enough: over the range run {cost}.",
    }[decision.verdict]
    smallest = float(context.design.trained[COLUMN[factor]].min())
    largest = float(context.design.trained[COLUMN[factor]].max())
    if holds_from is None:
        return text + " The growth itself is not linear, so no size makes it hold."
    if math.isinf(holds_from):
        return text + " The fixed cost is all there is to see: no number within reach makes it hold."
    if holds_from > smallest:
        beyond = " (beyond what was run)" if holds_from > largest else ""
        text += " With the fixed cost spread over more work it "
        text += f"holds within the margin from about {holds_from:g} {factor} on{beyond}."
    return text
