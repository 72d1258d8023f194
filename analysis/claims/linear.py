"""`linear_in_samples` and `linear_in_epochs`: is energy a fixed cost plus a multiple of the factor?"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import stdtr

from lora_scaling.text import counted, number

from ..regression.curve_analysis import LEAST_STEPS, Analysis, analyse, build_design, gate, lack_of_fit
from ..regression.least_squares import wls
from ..regression.power_law import Profile
from ..tables.response import measured_sentence
from .context import (
    COLUMN,
    MISFIT_P,
    ClaimContext,
    decide_profile,
    deviation_within,
    length_slope,
    length_words,
    level_words,
    misfit_words,
    outlier_of,
    without_outlier,
)
from .next_runs import gate_needs, more_runs
from .verdicts import Claim, Decision, Verdict, undecided
from .vetoes import Veto, vetoed

STRAIGHT_P = 0.02  # of a straight line through all runs, two-sided
LEAST_SHARE_SHOWN = 0.005  # of the smallest run's energy


def linear(context: ClaimContext, factor: str) -> Claim:
    """Decide `linear_in_samples` or `linear_in_epochs`: is the exponent of the factor 1?"""
    claim_id, options = f"linear_in_{factor}", context.options
    quantity = f"exponent b of {factor} in {context.response.noun} = F + a·{factor}^b"
    blocked = context.blocks[factor]
    if blocked:
        return undecided(claim_id, quantity, blocked, gate_needs(context, factor))
    low, high = 1 - options.margin, 1 + options.margin
    analysis = context.total

    def decision_on(analysis: Analysis) -> Decision:
        return decide_profile(analysis.profile(factor), low, high, options)

    def without() -> Decision:
        again = decision_on(without_outlier(analysis))
        broken_anyway = broken is not None and again.verdict == "undecided"  # a level is off, whatever one run does
        return replace(again, verdict="refuted") if broken_anyway else again

    decision, broken = _or_broken(context, factor, decision_on(analysis))
    tests = curve_tests(context, factor, decision)
    tests["broken_level"] = broken
    verdict, veto = vetoed(
        decision,
        context.response,
        tests,
        outlier=outlier_of(analysis),
        without=without,
        measured=lambda: decision_on(context.measured),
        own=_vetoes(context, factor, decision, tests),
    )
    tests["p_value"] = decision.p_value
    needs = None
    if verdict == "undecided":
        needs = more_runs(context, factor, decision, low, high, veto)
    if verdict == "refuted":
        tests["other_units"] = _in_other_units(context, low, high)
    reason = _linear_reason(context, factor, decision, verdict, veto, tests)
    return Claim(
        id=claim_id,
        verdict=verdict,
        estimate=decision.estimate,
        ci=decision.ci,
        quantity=quantity,
        reason=reason,
        tests=tests,
        needs=needs,
        p_value=decision.p_value if verdict != "undecided" else None,
    )


def _or_broken(context: ClaimContext, factor: str, decision: Decision) -> tuple[Decision, dict[str, float] | None]:
    """Refute if a level lies off the best line by more than curvature within the margin explains.

    A break or a step bends no single exponent; it is refuted where repeats at one level show it, also where no curve
    fits and the exponent says nothing. As a second look for a refutation it has half of the error rate (p is doubled).
    """
    bent = decision.verdict == "refuted" and context.misfit(context.total, factor, wide=True) is None
    straight = context.straight(factor)
    if decision.verdict == "supported" or bent or straight is None or straight.p >= MISFIT_P:
        return decision, None
    p = 2 * straight.p_beyond(deviation_within(context, factor))
    if p > context.options.alpha:
        return decision, None
    broken = {**straight.level, "deviation": straight.deviation}
    return replace(decision, verdict="refuted", p_value=p), broken


def _vetoes(context: ClaimContext, factor: str, decision: Decision, tests: dict[str, Any]) -> list[Veto]:
    """Collect vetoes: lack of fit, a missing second witness, the samples' lengths."""
    verdict, options = decision.verdict, context.options
    found: list[Veto] = []
    if tests["broken_level"] is None:
        lack = context.misfit(context.total, factor, wide=verdict == "refuted")
        if lack is not None:
            found.append(Veto(kind="lack_of_fit", why=misfit_words(context.total, lack)))
        elif tests["trained_p"] is not None and tests["trained_p"] > options.alpha:
            why = "the exponent of the runs that trained may lie within the margin: those without may lack a cost"
            found.append(Veto(kind="trained", why=why))
        elif verdict == "refuted" and not _curved(context, factor, decision, tests):
            why = "the exponent lies outside the margin, but no test shows the curve itself"
            found.append(Veto(kind="witness", why=why))
    slope = tests["length_slope"]
    if slope is not None and abs(slope) > options.margin / 2:
        raw = decide_profile(context.as_run.profile(factor), 1 - options.margin, 1 + options.margin, options)
        tests["as_run"] = {"verdict": raw.verdict, "estimate": raw.estimate, "ci": raw.ci}
        if raw.verdict != verdict:
            why = (
                f"{length_words(slope, factor)}: counted by tokens it is {verdict} (exponent {decision.estimate:.2f}), "
                f"counted by {factor} {raw.verdict} ({raw.estimate:.2f}); padding=max_length makes samples alike"
            )
            found.append(Veto(kind="length", why=why))
    return found


def _in_other_units(context: ClaimContext, low: float, high: float) -> dict[str, Any]:
    """Decide on optimizer steps and on tokens, if these are not just a multiple of the samples."""
    frame = context.response.frame
    frame = frame.assign(tokens=frame["tokens_seen"] + frame["tokens_padded"].fillna(0))
    trained = frame[frame["samples_seen"] > 0]
    found: dict[str, Any] = {}
    for column, name in {"steps": "optimizer steps", "tokens": "tokens"}.items():
        ratio = np.log((trained[column] / trained["samples_seen"]).to_numpy(dtype=float))
        if not np.isfinite(ratio).all() or np.ptp(ratio) < context.options.margin:
            continue
        amount = frame[column].where(frame["samples_seen"] > 0, 0.0)
        design = build_design(frame.assign(samples=amount, samples_seen=amount, epochs=1.0))
        if design.factors != ("samples",) or gate(design, "samples") is not None:
            continue
        decision = decide_profile(analyse(design).profile("samples"), low, high, context.options)
        found[name] = {"verdict": decision.verdict, "estimate": decision.estimate, "ci": decision.ci}
    return found


def _curved(context: ClaimContext, factor: str, decision: Decision, tests: dict[str, Any]) -> bool:
    """Return whether the curve shows: no straight line fits, with a fixed cost of either sign and costs apart.

    It has to bend the way the exponent says.
    """
    bends = (context.total.wide_profile(factor).estimate - 1) * (decision.estimate - 1) > 0
    return bends and tests["affine_p"] < STRAIGHT_P


def _refuted_alone(context: ClaimContext, factor: str, decision: Decision) -> float | None:
    """Return the one-sided p of an exponent within the margin, from the trained runs alone.

    Runs without training may be spared a cost that all others have, which bends the curve. None where all trained, or
    where the others are known to be alike.
    """
    analysis = context.total
    if context.idle_alike or not analysis.wide.data.zero.any():
        return None
    profile = Profile(fit=analysis.trained, index=analysis.design.factors.index(factor))
    margin = context.options.margin
    edge = 1 - margin if decision.estimate < 1 else 1 + margin
    same_side = (profile.estimate - edge) * (decision.estimate - edge) > 0
    return profile.p_beyond(edge) if same_side else 1.0


def curve_tests(context: ClaimContext, factor: str, decision: Decision) -> dict[str, Any]:
    """Return the numbers behind a verdict on the curve."""
    analysis = context.total
    fit, design, wide = analysis.fit, analysis.design, analysis.wide_profile(factor)
    lack = lack_of_fit(design, fit)
    column = COLUMN[factor]
    quadratic = _quadratic(analysis)
    straight = context.straight(factor)
    shares = _largest_shares(analysis)
    return {
        "runs": len(design.frame),
        "zero_step_runs": int(fit.data.zero.sum()),
        "zero_step_p": analysis.idle_p,
        "zero_step_runs_left_out": len(context.design.frame) - len(design.frame),
        "interval_covers_zero_step_runs": analysis.with_idle is not None,
        "cells": fit.data.cells,
        "levels": design.levels(column),
        "range": design.range(column),
        "df": fit.data.df,
        "noise_cv": fit.sigma,
        "fixed_share_smallest": shares["fixed"],
        "fixed_share_largest": _largest_share(analysis),
        "per_sample_share": shares["sample"],
        "per_epoch_share": shares["epoch"],
        "plain_curve_p": analysis.apart_p,
        "lack_of_fit": None if lack is None else lack,
        "quadratic": quadratic,
        "affine_p": 2 * float(stdtr(wide.fit.data.df, -wide.t_at(1.0))),
        "affine_lack_of_fit": straight,
        "trained_p": _refuted_alone(context, factor, decision) if decision.verdict == "refuted" else None,
        "unequal_noise_p": analysis.variance_p,
        "weighted": analysis.weighted,
        "order_p": analysis.order_p,
        "drift_removed": analysis.drift,
        "meter_step_share": float((design.frame["y_step"] / design.frame["y"]).max()),
        "runs_unresolved": design.unresolved,
        "length_slope": length_slope(context, factor),
        "half_width": (decision.ci[1] - decision.ci[0]) / 2,
    }


def _largest_shares(analysis: Analysis) -> dict[str, float]:
    """Return the shares that are fixed and that come once per sample and per epoch, each of the run where it is most.

    The fixed one is that of the smallest run; it may be below 0.
    """
    trained = ~analysis.fit.data.zero
    parts = {name: share[trained] for name, share in analysis.fit.parts().items()}
    return {name: float(share[np.argmax(np.abs(share))]) for name, share in parts.items()}


def _largest_share(analysis: Analysis) -> float:
    """Return the fixed cost's share of a run at the largest work (the largest over the cells)."""
    share = analysis.fit.parts()["fixed"][~analysis.fit.data.zero]
    return float(share[np.argmin(np.abs(share))])


def _quadratic(analysis: Analysis) -> dict[str, Any]:
    """Fit E = F + a·x + c·x² by weighted least squares in the largest cell; return c·x² at the top, as a share of E."""
    frame, data = analysis.design.frame, analysis.fit.data
    largest = int(np.bincount(data.cell).argmax())
    rows = data.cell == largest
    scale = float(data.log_y[rows].max())  # in units of the largest: no square may over- or underflow
    expected = np.exp(np.maximum(data.log_y - analysis.fit.resid - scale, -100.0))[rows]
    x = frame["samples_seen"].to_numpy(dtype=float)[rows]
    x = x / x.max()
    X = np.column_stack([np.ones_like(x), x, x**2])
    quadratic: dict[str, Any] = {"contribution": None, "ci": None, "p": None}
    if len(np.unique(x)) >= 4 and rows.sum() > 5 and expected.min() > 0:
        fit = wls(np.exp(data.log_y[rows] - scale), X, 1 / expected**2, ["F", "x", "x2"])
        top, ci = float(fit.params.sum()), fit.conf_int(0.1)[-1]
        p = float(fit.pvalues[-1]) if fit.bse[-1] > 0 else None
        quadratic = {"contribution": float(fit.params[-1]) / top, "ci": [float(end) / top for end in ci], "p": p}
    return quadratic


def _linear_reason(
    context: ClaimContext,
    factor: str,
    decision: Decision,
    verdict: Verdict,
    veto: Veto | None,
    tests: dict[str, Any],
) -> str:
    noun, margin = context.response.noun, context.options.margin
    low, high = (f"{2**end:.2f}" if math.isfinite(end) else "?" for end in decision.ci)
    linear_low, linear_high = (f"{2 ** (1 + sign * margin):.2f}" for sign in (-1, 1))
    factor_of = f"doubling {factor} multiplies what comes on top of the fixed cost by {2**decision.estimate:.2f}"
    scatter = f"scatter {100 * tests['noise_cv']:.1f} %"
    span = f"over a factor {number(tests['range'])} in {factor} ({tests['runs']} runs, {scatter})"
    subject = noun[0].upper() + noun[1:]
    if veto is not None:
        text = f"Undecided: {veto.why}."
    elif verdict == "supported":
        text = (
            f"{subject} grows in proportion to {factor} on top of a fixed cost: {factor_of} "
            f"({low} to {high}; 2 is exactly linear), {span}."
        )
    elif verdict == "refuted" and tests["broken_level"] is not None:
        level = tests["broken_level"]
        text = (
            f"{subject} follows no straight line in {factor}: runs at {level_words(level)} "
            f"lie {100 * level['deviation']:.0f} % off the best one, {span}."
        )
    elif verdict == "refuted":
        text = (
            f"{subject} grows {'slower' if decision.estimate < 1 else 'faster'} than {factor}: {factor_of} "
            f"({low} to {high}, where linear is 2 and the margin {linear_low} to {linear_high}), {span}."
        )
    else:
        text = (
            f"Not precise enough: {factor_of}, but anything from {low} to {high} fits these runs, and linear "
            f"within the margin is {linear_low} to {linear_high} ({span})."
        )
    if veto is None:
        text += _further_costs(tests)
    for name, found in tests.get("other_units", {}).items():
        if found["verdict"] == "supported":
            text += f" In {name} it is linear (exponent {found['estimate']:.2f})."
    return text + measured_sentence(context.response, tests.get("measured"))


def _further_costs(tests: dict[str, Any]) -> str:
    """Say what beside samples × epochs the runs cost, as shares of the smallest run, and what was left out."""
    fixed, text = tests["fixed_share_smallest"], ""
    if fixed > LEAST_SHARE_SHOWN:
        text += f" The fixed cost is {100 * fixed:.0f} % of the smallest run."
    elif fixed < -LEAST_SHARE_SHOWN:
        below = f" The line starts below 0, by {-100 * fixed:.0f} % of the smallest run"
        text += f"{below}, as where idle power was subtracted."
    once = {"sample": "once per sample, however many epochs", "epoch": "once per epoch, however many samples"}
    for name, words in once.items():
        share = tests[f"per_{name}_share"]
        if share > LEAST_SHARE_SHOWN:
            text += f" Up to {100 * share:.0f} % of a run comes {words}."
    if tests["meter_step_share"] > 0:
        text += f" The meter moves in steps of {100 * tests['meter_step_share']:.0f} % of the smallest of these runs"
        unresolved = counted(tests["runs_unresolved"], "run")
        text += f"; {unresolved} of less than {LEAST_STEPS} steps left out." if tests["runs_unresolved"] else "."
    if tests["zero_step_runs_left_out"]:
        covers_both = tests["interval_covers_zero_step_runs"]
        left_out = counted(tests["zero_step_runs_left_out"], "run")
        text += f" Left out: {left_out} without training, off the curve of the others (p = {tests['zero_step_p']:.2g})"
        text += ", which may be chance: the interval covers the curve with them, too." if covers_both else "."
    return text
