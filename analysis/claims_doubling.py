"""`doubling_doubles`: what twice the samples do to the whole bill, fixed cost included."""

import math
from typing import Any

import numpy as np

from .curve_analysis import Analysis, mean_elasticity
from .curve_needs import gate_needs, more_runs
from .curve_set import COLUMN, CurveSet, Decision
from .needs import round_to
from .response import measured_sentence
from .verdicts import Claim, Options, equivalence, undecided

LARGEST_LOG_SIZE = math.log(1e12)  # no training set has more samples


def doubling(curves: CurveSet) -> Claim:
    """`doubling_doubles`: the elasticity of the whole bill, fixed cost included."""
    options, noun = curves.options, curves.response.noun
    factor = next((f for f in ("samples", "epochs") if curves.blocks[f] is None), "samples")
    quantity = f"elasticity of {noun} in {factor}, averaged over the range run"
    blocked = curves.blocks[factor]
    if blocked:
        return undecided("doubling_doubles", quantity, blocked, gate_needs(curves, factor))
    low, high = 1 - options.margin, 1 + options.margin
    analysis = curves.total
    estimate = mean_elasticity(analysis, factor)
    verdict, p = equivalence(estimate, low, high, options)
    tests: dict[str, Any] = {
        "factor": factor,
        "df": estimate.df,
        "p_value": p,
        "outlier": None,
        "measured": None,
    }
    veto = None
    if analysis.without is not None:
        again, _ = equivalence(mean_elasticity(analysis.without, factor), low, high, options)
        run_id = str(analysis.design.frame["run_id"][analysis.outlier or 0])
        tests["outlier"] = {"run_id": run_id, "mads": analysis.outlier_mads, "verdict_without": again}
        if again != verdict:
            verdict, veto = (
                "undecided",
                f"the verdict hangs on run {run_id} (without it: {again}): repeat that run",
            )
    if curves.response.measured_noun is not None:
        part, _ = equivalence(mean_elasticity(curves.measured, factor), low, high, options)
        tests["measured"] = {
            "part": curves.response.measured_noun,
            "share": curves.response.measured_share,
            "verdict": part,
        }
        if {part, verdict} == {"supported", "refuted"}:
            verdict, veto = "undecided", f"the total says {verdict}, its metered part says {part}"
    ci = estimate.interval(options.ci_level)
    holds_from = _holds_from(analysis, factor, options)
    tests["holds_from"] = holds_from
    decision = Decision(verdict=verdict, estimate=estimate.value, ci=ci, p_value=p)
    needs = more_runs(curves, factor, decision, low, high, veto, of_exponent=False) if verdict == "undecided" else None
    return Claim(
        id="doubling_doubles",
        verdict=verdict,
        estimate=estimate.value,
        ci=ci,
        quantity=quantity,
        reason=_doubling_reason(curves, factor, decision, veto, holds_from)
        + measured_sentence(curves.response, tests["measured"]),
        tests=tests,
        needs=needs,
        p_value=p if verdict != "undecided" else None,
    )


def _holds_from(analysis: Analysis, factor: str, options: Options) -> float | None:
    """The number of `factor` from which the local elasticity b·(1 − fixed share) is at least 1 − margin.

    None where it never is (b itself is below), 0 where it always is, infinite where the fixed cost is all
    there is to see. Growth that may be linear is taken as exactly so.
    """
    fit, data = analysis.fit, analysis.fit.data
    j = analysis.design.factors.index(factor)
    ci = analysis.profile(factor).interval(options.ci_level)
    b = 1.0 if ci[0] <= 1 <= ci[1] else float(fit.exponents[j])
    floor = 1 - options.margin
    if b <= floor:
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
    curves: CurveSet, factor: str, decision: Decision, veto: str | None, holds_from: float | None
) -> str:
    if veto:
        return f"Undecided: {veto}."
    low, high = (100 * (2**end - 1) for end in decision.ci)
    cost = f"twice the {factor} costs {100 * (2**decision.estimate - 1):.0f} % more ({low:.0f} to {high:.0f} %)"
    text = {
        "supported": f"Yes, over the range run {cost}.",
        "refuted": f"No, over the range run {cost} and not 100 %.",
        "undecided": f"Not precise enough: over the range run {cost}.",
    }[decision.verdict]
    smallest = float(curves.design.trained[COLUMN[factor]].min())
    largest = float(curves.design.trained[COLUMN[factor]].max())
    if holds_from is None:
        return text + " The growth itself is not linear, so no size makes it hold."
    if math.isinf(holds_from):
        return text + " The fixed cost is all there is to see: no number within reach makes it hold."
    if holds_from > smallest:
        beyond = " (beyond what was run)" if holds_from > largest else ""
        text += " With the fixed cost spread over more work it "
        text += f"holds within the margin from about {holds_from:g} {factor} on{beyond}."
    return text
