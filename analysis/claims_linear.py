"""`linear_in_samples` and `linear_in_epochs`: is energy a fixed cost plus a multiple of the factor?"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .claims_text import counted
from .curve_analysis import Analysis, analyse, build_design, gate
from .curve_needs import gate_needs, more_runs
from .curve_set import (
    COLUMN,
    CurveSet,
    Decision,
    allowed_deviation,
    decide_profile,
    deviation_within,
    length_slope,
    length_words,
)
from .regression import t_quantile, t_tail, wls
from .response import measured_sentence
from .verdicts import Claim, Verdict, undecided


def linear(curves: CurveSet, factor: str) -> Claim:
    """`linear_in_samples` or `linear_in_epochs`: is the exponent of the factor 1?"""
    claim_id, options = f"linear_in_{factor}", curves.options
    quantity = f"exponent b of {factor} in {curves.response.noun} = F + a·{factor}^b"
    blocked = curves.blocks[factor]
    if blocked:
        return undecided(claim_id, quantity, blocked, gate_needs(curves, factor))
    low, high = 1 - options.margin, 1 + options.margin
    analysis = curves.total
    decision = decide_profile(analysis.profile(factor), low, high, options)
    decision, broken = _or_broken(curves, factor, decision)
    tests = curve_tests(curves, factor, decision)
    tests["broken_level"] = broken
    verdict, veto = _vetoed(curves, factor, decision, low, high, tests)
    tests["p_value"] = decision.p_value
    needs = None
    if verdict == "undecided":
        needs = more_runs(curves, factor, decision, low, high, veto)
    if verdict == "refuted":
        tests["other_units"] = _in_other_units(curves, low, high)
    reason = _linear_reason(curves, factor, decision, verdict, veto, tests)
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


def _or_broken(curves: CurveSet, factor: str, decision: Decision) -> tuple[Decision, dict[str, float] | None]:
    """No power law, but no line either: a level that lies off the best line by more than curvature may.

    A break or a step bends no single exponent; it is refuted where repeats at one level show it.
    """
    straight = curves.straight(factor)
    if decision.verdict != "undecided" or straight is None or straight.p >= 0.01:
        return decision, None
    p = straight.p_beyond(deviation_within(curves, factor))
    if p > curves.options.alpha:
        return decision, None
    broken = {**straight.level, "deviation": straight.deviation}
    return replace(decision, verdict="refuted", p_value=p), broken


def _vetoed(
    curves: CurveSet, factor: str, decision: Decision, low: float, high: float, tests: dict[str, Any]
) -> tuple[Verdict, str | None]:
    """The verdict after lack of fit, the outlier refit and the measured part had their say."""
    analysis, options = curves.total, curves.options
    verdict: Verdict = decision.verdict
    if analysis.without is not None:
        again = decide_profile(analysis.without.profile(factor), low, high, options)
        if tests["broken_level"] is not None and again.verdict == "undecided":
            again = replace(again, verdict="refuted")  # a level is off, whatever one run does
        run_id = str(analysis.design.frame["run_id"][analysis.outlier or 0])
        tests["outlier"] = {
            "run_id": run_id,
            "mads": analysis.outlier_mads,
            "verdict_without": again.verdict,
            "estimate_without": again.estimate,
            "ci_without": again.ci,
        }
        if again.verdict != verdict:
            return "undecided", (
                f"the verdict hangs on run {run_id}, which lies {analysis.outlier_mads:.0f} times the usual "
                f"scatter off the curve (without it: {again.verdict}): repeat that run"
            )
    lack = curves.lack_of_fit
    allowed = allowed_deviation(curves, factor)
    if verdict == "supported" and lack is not None and lack.p < 0.01 and lack.deviation > allowed:
        return "undecided", (
            f"no smooth curve fits: runs at {_place(lack.level)} "
            f"lie {100 * lack.deviation:.1f} % off it, more than repeats scatter (p = {lack.p:.2g})"
        )
    if verdict == "refuted" and tests["broken_level"] is None and not _curved(tests):
        return "undecided", "the exponent lies outside the margin, but no test shows the curve itself"
    slope = tests["length_slope"]
    if slope is not None and abs(slope) > options.margin / 2:
        raw = decide_profile(curves.as_run.profile(factor), low, high, options)
        tests["as_run"] = {"verdict": raw.verdict, "estimate": raw.estimate, "ci": raw.ci}
        if raw.verdict != verdict:
            return "undecided", (
                f"{length_words(slope, factor)}: counted by tokens it is {verdict} (exponent {decision.estimate:.2f}), "
                f"counted by {factor} {raw.verdict} ({raw.estimate:.2f}); padding=max_length makes samples alike"
            )
    return _agreeing(curves, factor, verdict, low, high, tests)


def _in_other_units(curves: CurveSet, low: float, high: float) -> dict[str, Any]:
    """The same question in optimizer steps and in tokens, where these are not just a multiple of the samples."""
    frame = curves.response.frame
    frame = frame.assign(tokens=frame["tokens_seen"] + frame["tokens_padded"].fillna(0))
    trained = frame[frame["samples_seen"] > 0]
    found: dict[str, Any] = {}
    for column, name in {"steps": "optimizer steps", "tokens": "tokens"}.items():
        ratio = np.log((trained[column] / trained["samples_seen"]).to_numpy(dtype=float))
        if not np.isfinite(ratio).all() or np.ptp(ratio) < curves.options.margin:
            continue
        amount = frame[column].where(frame["samples_seen"] > 0, 0.0)
        design = build_design(frame.assign(samples=amount, samples_seen=amount, epochs=1.0))
        if design.factors != ("samples",) or gate(design, "samples") is not None:
            continue
        decision = decide_profile(analyse(design).profile("samples"), low, high, curves.options)
        found[name] = {"verdict": decision.verdict, "estimate": decision.estimate, "ci": decision.ci}
    return found


def _curved(tests: dict[str, Any]) -> bool:
    """A second witness for curvature: the quadratic term or the affine model's lack of fit."""
    witnesses = [tests["quadratic"]["p"], tests["affine_p"]]
    return any(p is not None and p < 0.05 for p in witnesses) or all(p is None for p in witnesses)


def _agreeing(
    curves: CurveSet, factor: str, verdict: Verdict, low: float, high: float, tests: dict[str, Any]
) -> tuple[Verdict, str | None]:
    """Decide again on what was metered; a contradiction leaves the claim undecided."""
    response = curves.response
    if response.measured_noun is None:
        tests["measured"] = None if response.measured_gap is None else {"reason": response.measured_gap}
        return verdict, None
    part = decide_profile(curves.measured.profile(factor), low, high, curves.options)
    tests["measured"] = {
        "part": response.measured_noun,
        "share": response.measured_share,
        "verdict": part.verdict,
        "estimate": part.estimate,
        "ci": part.ci,
    }
    if {verdict, part.verdict} == {"supported", "refuted"}:
        return "undecided", (
            f"the total says {verdict}, its metered part ({response.measured_noun}) says {part.verdict}: "
            "the modelled part makes the difference"
        )
    return verdict, None


def curve_tests(curves: CurveSet, factor: str, decision: Decision) -> dict[str, Any]:
    """The numbers behind a verdict on the curve."""
    analysis, design = curves.total, curves.design
    fit, lack = analysis.fit, curves.lack_of_fit
    column = COLUMN[factor]
    quadratic = _quadratic(analysis)
    straight = curves.straight(factor)
    return {
        "runs": len(design.frame),
        "zero_step_runs": int(fit.data.zero.sum()),
        "cells": fit.data.cells,
        "levels": design.levels(column),
        "range": design.range(column),
        "df": fit.data.df,
        "noise_cv": fit.sigma,
        "fixed_share_smallest": _fixed_shares(analysis)[0],
        "fixed_share_largest": _fixed_shares(analysis)[1],
        "lack_of_fit": None if lack is None else lack,
        "quadratic": quadratic,
        "affine_p": 2 * t_tail(analysis.profile(factor).t_at(1.0), fit.data.df),
        "affine_lack_of_fit": straight,
        "unequal_noise_p": analysis.variance_p,
        "weighted": analysis.weighted,
        "order_p": analysis.order_p,
        "drift_removed": analysis.drift,
        "length_slope": length_slope(curves, factor),
        "outlier": None,
        "half_width": (decision.ci[1] - decision.ci[0]) / 2,
    }


def _fixed_shares(analysis: Analysis) -> tuple[float, float]:
    """The fixed cost's share of a run at the smallest and at the largest work (largest over the cells)."""
    data, fit = analysis.fit.data, analysis.fit
    z = np.exp(data.centred @ fit.exponents)[~data.zero]
    u = fit.shares[data.cell][~data.zero]
    share = u / (u + (1 - u) * z)
    return float(share.max()), float(share.min())


def _quadratic(analysis: Analysis) -> dict[str, Any]:
    """E = F + a·x + c·x² by weighted least squares in the largest cell: c·x² at the top, as a share of E."""
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
        top = float(fit.params.sum())
        c, se = fit.param("x2"), fit.se("x2")
        half = t_quantile(0.95, fit.df) * se
        p = 2 * t_tail(abs(c) / se, fit.df) if se > 0 else None
        quadratic = {"contribution": c / top, "ci": [(c - half) / top, (c + half) / top], "p": p}
    return quadratic


def _place(level: Mapping[str, float]) -> str:
    return f"{counted(level['samples'], 'sample')} × {counted(level['epochs'], 'epoch')}"


def _linear_reason(
    curves: CurveSet,
    factor: str,
    decision: Decision,
    verdict: Verdict,
    veto: str | None,
    tests: dict[str, Any],
) -> str:
    noun, margin = curves.response.noun, curves.options.margin
    low, high = (f"{2**end:.2f}" if math.isfinite(end) else "?" for end in decision.ci)
    linear_low, linear_high = (f"{2 ** (1 + sign * margin):.2f}" for sign in (-1, 1))
    factor_of = f"doubling {factor} multiplies what comes on top of the fixed cost by {2**decision.estimate:.2f}"
    scatter = f"scatter {100 * tests['noise_cv']:.1f} %"
    span = f"over a factor {tests['range']:.3g} in {factor} ({tests['runs']} runs, {scatter})"
    subject = noun[0].upper() + noun[1:]
    if veto:
        text = f"Undecided: {veto}."
    elif verdict == "supported":
        text = (
            f"{subject} grows in proportion to {factor} on top of a fixed cost: {factor_of} "
            f"({low} to {high}; 2 is exactly linear), {span}."
        )
    elif verdict == "refuted" and tests["broken_level"] is not None:
        level = tests["broken_level"]
        text = (
            f"{subject} follows no straight line in {factor}: runs at {_place(level)} "
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
    if tests["fixed_share_smallest"] > 0.005 and not veto:
        text += f" The fixed cost is {100 * tests['fixed_share_smallest']:.0f} % of the smallest run."
    for name, found in tests.get("other_units", {}).items():
        if found["verdict"] == "supported":
            text += f" In {name} it is linear (exponent {found['estimate']:.2f})."
    return text + measured_sentence(curves.response, tests.get("measured"))
