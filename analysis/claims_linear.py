"""The claims on samples and epochs: linear, doubling, interchangeable."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from .curve import CurveData, Profile, fit_curve
from .curve_analysis import (
    Analysis,
    Design,
    LackOfFit,
    analyse,
    build_design,
    gate,
    lack_of_fit,
    mean_elasticity,
    order_gate,
)
from .needs import FULL_LEVELS, TARGET_RANGE, geometric, round_to, sweep_needs
from .regression import t_quantile, t_tail, wls
from .response import Response
from .verdicts import Claim, Estimate, Needs, Options, Verdict, equivalence, runs_needed

COLUMN = {"samples": "samples", "epochs": "epochs_seen"}


@dataclass(frozen=True)
class CurveSet:
    """The designs and analyses that the three claims share, each made when first asked for."""

    response: Response
    options: Options
    suspects: tuple[str, ...]

    @cached_property
    def design(self) -> Design:
        return build_design(self.response.frame)

    @cached_property
    def total(self) -> Analysis:
        return analyse(self.design, "y")

    @cached_property
    def measured(self) -> Analysis:
        return analyse(self.design, "y_measured")

    @cached_property
    def lack_of_fit(self) -> LackOfFit | None:
        return lack_of_fit(self.design, self.total.fit)

    def straight(self, factor: str) -> LackOfFit | None:
        """Lack of fit of the affine curve: the factor's exponent held at 1."""
        return lack_of_fit(self.design, self.total.profile(factor).held_at(1.0), spent=1)

    @cached_property
    def blocks(self) -> dict[str, str | None]:
        """For each factor, why no curve can be decided on (None where it can)."""
        return {factor: _curve_block(self, factor) for factor in COLUMN}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A verdict on one number, before vetoes."""

    verdict: Verdict
    estimate: float
    ci: tuple[float, float]
    p_value: float | None


def decide_profile(profile: Profile, low: float, high: float, options: Options) -> Decision:
    """Equivalence of an exponent to [low, high] by its profile likelihood."""
    ci = profile.interval(options.ci_level)
    if ci[0] >= low and ci[1] <= high:
        p = max(profile.p_beyond(low), profile.p_beyond(high))
        return Decision(verdict="supported", estimate=profile.estimate, ci=ci, p_value=p)
    if ci[1] < low or ci[0] > high:
        p = profile.p_beyond(low if ci[1] < low else high)
        return Decision(verdict="refuted", estimate=profile.estimate, ci=ci, p_value=p)
    return Decision(verdict="undecided", estimate=profile.estimate, ci=ci, p_value=None)


def linear(curves: CurveSet, factor: str) -> Claim:
    """`linear_in_samples` or `linear_in_epochs`: is the exponent of the factor 1?"""
    claim_id, options = f"linear_in_{factor}", curves.options
    quantity = f"exponent b of {factor} in {curves.response.noun} = F + a·{factor}^b"
    blocked = curves.blocks[factor]
    if blocked:
        return undecided(claim_id, quantity, blocked, gate_needs(curves, factor, blocked))
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


def _curve_block(curves: CurveSet, factor: str) -> str | None:
    """Why no curve is fitted: suspicious rows, too few runs, or a design that cannot tell."""
    if curves.suspects:
        shown = ", ".join(curves.suspects[:5]) + (" …" if len(curves.suspects) > 5 else "")
        return f"the unit of run {shown} is in doubt: correct it, or leave it out with --exclude"
    frame = curves.response.frame
    if len(frame) < 2:
        return "no usable run" if frame.empty else "there is only one usable run"
    if factor not in curves.design.factors:
        levels = frame[frame["samples_seen"] > 0][factor].nunique()
        if levels < 2:
            return f"{factor} never varied: all runs have the same"
        return f"too few different numbers of {factor} were run with everything else equal"
    blocked = gate(curves.design, factor)
    if blocked:
        return blocked
    parameters = len(curves.design.factors) + int(curves.design.frame["cell"].max()) + 2
    if len(curves.design.frame) < parameters + 3:
        return f"{len(curves.design.frame)} runs are too few for a curve of {parameters} parameters"
    return _length_block(curves, factor)


def _length_block(curves: CurveSet, factor: str) -> str | None:
    """Whether the samples themselves got longer or shorter with the factor, as padded."""
    trained = curves.design.trained
    for column in ("tokens_padded", "tokens_seen"):
        length = np.log((trained[column] / trained["samples_seen"]).to_numpy(dtype=float))
        if np.isfinite(length).all():
            break
    else:
        return None
    x = np.log(trained[COLUMN[factor]].to_numpy(dtype=float))
    dx = x - pd.Series(x).groupby(trained["cell"].to_numpy()).transform("mean").to_numpy()
    slope = float(dx @ length / (dx @ dx))
    if abs(slope) <= curves.options.margin / 2:
        return None
    change = 100 * math.expm1(slope * math.log(2))
    return (
        f"runs with more {factor} also had {'longer' if slope > 0 else 'shorter'} samples "
        f"({change:+.1f} % tokens a sample for each doubling), so the two effects look alike"
    )


def _or_broken(curves: CurveSet, factor: str, decision: Decision) -> tuple[Decision, dict[str, float] | None]:
    """No power law, but no line either: a level that lies off the best line by more than curvature may.

    A break or a step bends no single exponent; it is refuted where repeats at one level show it.
    """
    straight = curves.straight(factor)
    if decision.verdict != "undecided" or straight is None or straight.p >= 0.01:
        return decision, None
    p = straight.p_beyond(_allowed(curves, factor))
    if p > curves.options.alpha:
        return decision, None
    broken = {**straight.level, "deviation": straight.deviation}
    return replace(decision, verdict="refuted", p_value=p), broken


def _allowed(curves: CurveSet, factor: str) -> float:
    """How far (relative) a level may lie off: what an exponent on the margin's edge does at the ends."""
    return curves.options.margin * math.log(curves.design.range(COLUMN[factor])) / 2


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
    allowed = _allowed(curves, factor)
    if verdict == "supported" and lack is not None and lack.p < 0.01 and lack.deviation > allowed:
        return "undecided", (
            f"no smooth curve fits: runs at {lack.level['samples']:g} samples × {lack.level['epochs']:g} epochs "
            f"lie {100 * lack.deviation:.1f} % off it, more than repeats scatter (p = {lack.p:.2g})"
        )
    if verdict == "refuted" and not _curved(tests):
        return "undecided", "the exponent lies outside the margin, but no test shows the curve itself"
    return _agreeing(curves, factor, verdict, low, high, tests)


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
    expected = np.exp(data.log_y - analysis.fit.resid)[rows]
    x = frame["samples_seen"].to_numpy(dtype=float)[rows]
    x = x / x.max()
    X = np.column_stack([np.ones_like(x), x, x**2])
    quadratic: dict[str, Any] = {"contribution": None, "ci": None, "p": None}
    if len(np.unique(x)) >= 4 and rows.sum() > 5 and expected.min() > 0:
        fit = wls(np.exp(data.log_y[rows]), X, 1 / expected**2, ["F", "x", "x2"])
        top = float(fit.params.sum())
        c, se = fit.param("x2"), fit.se("x2")
        half = t_quantile(0.95, fit.df) * se
        p = 2 * t_tail(abs(c) / se, fit.df) if se > 0 else None
        quadratic = {"contribution": c / top, "ci": [(c - half) / top, (c + half) / top], "p": p}
    return quadratic


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
    factor_of = f"doubling {factor} multiplies what comes on top of the fixed cost by {2**decision.estimate:.2f}"
    span = f"over a factor {tests['range']:.3g} in {factor} ({tests['runs']} runs, scatter {100 * tests['noise_cv']:.1f} %)"
    if veto:
        text = f"Undecided: {veto}."
    elif verdict == "supported":
        text = f"{noun.capitalize()} grows in proportion to {factor} on top of a fixed cost: {factor_of} ({low} to {high}; 2 is exactly linear), {span}."
    elif verdict == "refuted" and tests["broken_level"] is not None:
        level = tests["broken_level"]
        text = (
            f"{noun.capitalize()} follows no straight line in {factor}: runs at {level['samples']:g} samples × "
            f"{level['epochs']:g} epochs lie {100 * level['deviation']:.0f} % off the best one, {span}."
        )
    elif verdict == "refuted":
        way = "slower" if decision.estimate < 1 else "faster"
        text = f"{noun.capitalize()} grows {way} than {factor}: {factor_of} ({low} to {high}, where linear is 2 and the margin {2 ** (1 - margin):.2f} to {2 ** (1 + margin):.2f}), {span}."
    else:
        text = f"Not precise enough: {factor_of}, but anything from {low} to {high} fits these runs, and linear within the margin is {2 ** (1 - margin):.2f} to {2 ** (1 + margin):.2f} ({span})."
    if tests["fixed_share_smallest"] > 0.005 and not veto:
        text += f" The fixed cost is {100 * tests['fixed_share_smallest']:.0f} % of the smallest run."
    return text + measured_sentence(curves.response, tests.get("measured"))


def measured_sentence(response: Response, measured: dict[str, Any] | None) -> str:
    """Which part a verdict rests on, for the end of a reason."""
    if response.modelled:
        return " It rests on time × a modelled power: nothing was metered."
    if not measured or "part" not in measured:
        return ""
    return f" On the metered part alone ({measured['part']}, {100 * measured['share']:.0f} % of it): {measured['verdict']}."


def doubling(curves: CurveSet) -> Claim:
    """`doubling_doubles`: the elasticity of the whole bill, fixed cost included."""
    options, noun = curves.options, curves.response.noun
    factor = next((f for f in ("samples", "epochs") if curves.blocks[f] is None), "samples")
    quantity = f"elasticity of {noun} in {factor}, averaged over the range run"
    blocked = curves.blocks[factor]
    if blocked:
        return undecided("doubling_doubles", quantity, blocked, gate_needs(curves, factor, blocked))
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
    needs = more_runs(curves, factor, decision, low, high, veto) if verdict == "undecided" else None
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

    None where it never is (b itself is below), 0 where it always is. Linear growth is taken as exact.
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
    z = u / (1 - u) * floor / (b - floor)
    centre = float(data.log_x[~data.zero, j].mean())
    return round_to(math.exp(centre) * z ** (1 / float(fit.exponents[j])), 2)


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
    if holds_from > smallest:
        beyond = " (beyond what was run)" if holds_from > largest else ""
        text += f" With the fixed cost spread over more work it holds within the margin from about {holds_from:g} {factor} on{beyond}."
    return text


def interchangeable(curves: CurveSet) -> Claim:
    """`samples_epochs_interchangeable`: equal exponents, and equal energy of matched pairs."""
    claim_id, options, noun = "samples_epochs_interchangeable", curves.options, curves.response.noun
    quantity = f"exponent of epochs minus exponent of samples in {noun}"
    blocked = _pair_block(curves)
    if blocked:
        return undecided(claim_id, quantity, blocked, _pair_needs(curves, blocked))
    margin = options.margin
    decision = decide_profile(_difference(curves.total), -margin, margin, options)
    pairs = matched_pairs(curves.total)
    tests: dict[str, Any] = {
        "df": curves.total.fit.data.df,
        "p_value": decision.p_value,
        "matched_pairs": None,
    }
    verdict, p = decision.verdict, decision.p_value
    if pairs is not None:
        bound = math.log1p(margin)
        pair_verdict, pair_p = equivalence(pairs, -bound, bound, options)
        ends = pairs.interval(options.ci_level)
        tests["matched_pairs"] = {
            "verdict": pair_verdict,
            "ratio": math.exp(pairs.value),
            "ci": [math.exp(end) for end in ends],
            "df": pairs.df,
            "p": pair_p,
        }
        verdict, p = _both(decision, pair_verdict, pair_p, same_sign=pairs.value * decision.estimate > 0)
    veto = None
    if curves.total.without is not None and verdict != "undecided":
        again = decide_profile(_difference(curves.total.without), -margin, margin, options).verdict
        run_id = str(curves.design.frame["run_id"][curves.total.outlier or 0])
        tests["outlier"] = {"run_id": run_id, "mads": curves.total.outlier_mads, "verdict_without": again}
        if again != verdict:
            verdict, veto = "undecided", f"the verdict hangs on run {run_id}: repeat that run"
    tests["p_value"] = p if verdict != "undecided" else None
    shown = math.exp(pairs.value) if pairs is not None else 2**decision.estimate
    text = f"the same work in twice the epochs on half the samples costs {100 * (shown - 1):+.1f} %"
    reason = {
        "supported": f"Yes: {text}, within the margin.",
        "refuted": f"No: {text}.",
        "undecided": f"Undecided: {veto}."
        if veto
        else f"Not precise enough: {text}, but these runs leave more than the margin open.",
    }[verdict]
    needs = more_runs(curves, "samples", decision, -margin, margin, veto) if verdict == "undecided" else None
    return Claim(
        id=claim_id,
        verdict=verdict,
        estimate=decision.estimate,
        ci=decision.ci,
        quantity=quantity,
        reason=reason,
        tests=tests,
        needs=needs,
        p_value=p if verdict != "undecided" else None,
    )


def _both(
    exponents: Decision, pairs: Verdict, pair_p: float | None, *, same_sign: bool
) -> tuple[Verdict, float | None]:
    """Two witnesses: both must agree, and p is that of the weaker one."""
    if exponents.verdict != pairs or (pairs == "refuted" and not same_sign):
        return "undecided", None
    p_values = [p for p in (exponents.p_value, pair_p) if p is not None]
    return pairs, max(p_values, default=None)


def _difference(analysis: Analysis) -> Profile:
    """Profile of b_epochs − b_samples: the same curve in the coordinates (log of the work, log of epochs)."""
    data = analysis.fit.data
    s, e = (analysis.design.factors.index(name) for name in ("samples", "epochs"))
    log_x = np.column_stack([data.log_x[:, s] + data.log_x[:, e], data.log_x[:, e]])
    log_x[data.zero] = -np.inf
    turned: CurveData = replace(data, log_x=log_x)
    return Profile(fit=fit_curve(turned), index=1)


def matched_pairs(analysis: Analysis) -> Estimate | None:
    """Mean log ratio for twice the epochs at the same samples × epochs; None without such pairs.

    Fixed effects for each amount of work within a cell; on simple pairs this is the paired t test.
    """
    frame, data = analysis.design.frame, analysis.fit.data
    rows = ~data.zero
    groups = frame[rows].groupby(["cell", "work"]).ngroup().to_numpy()
    x = np.log2(frame["epochs_seen"].to_numpy(dtype=float)[rows])
    columns = np.column_stack([x, data.nuisance[rows][:, data.cells :], data.log_y[rows]])
    count = np.bincount(groups)
    means = np.column_stack([np.bincount(groups, column) / count for column in columns.T])
    within = columns - means[groups]
    if np.abs(within[:, 0]).max(initial=0.0) < 1e-9:
        return None
    used = np.bincount(groups, np.abs(within[:, 0])) > 1e-9
    keep = used[groups]
    extra = within[keep, 1:-1]
    extra = extra[:, np.abs(extra).max(axis=0, initial=0.0) > 1e-9] if extra.shape[1] else extra
    design = np.column_stack([within[keep, 0], extra])
    if int(keep.sum()) - int(used.sum()) - design.shape[1] < 3:
        return None
    fit = wls(within[keep, -1], design, np.ones(int(keep.sum())), ["e", *map(str, range(extra.shape[1]))])
    df = fit.n - int(used.sum()) - design.shape[1]
    se = math.sqrt(fit.cov_unscaled[0, 0] * fit.rss / df)
    return Estimate(value=fit.param("e"), se=se, df=df)


def _pair_block(curves: CurveSet) -> str | None:
    if curves.suspects:
        return curves.blocks["samples"]
    frame, design = curves.response.frame, curves.design
    if len(frame) < 2:
        return curves.blocks["samples"]
    for factor in ("samples", "epochs"):
        if factor not in design.factors:
            return f"{factor} never varied with everything else equal"
    trained = design.trained
    r = np.corrcoef(np.log(trained["samples"]), np.log(trained["epochs_seen"]))[0, 1]
    if abs(r) > 0.9:
        return f"samples and epochs moved together (correlation {r:.2f}): their effects look alike"
    if trained[["samples", "epochs_seen"]].drop_duplicates().shape[0] < 5:
        return "fewer than 5 combinations of samples and epochs were run"
    if len(design.frame) < int(design.frame["cell"].max()) + 8:
        return f"{len(design.frame)} runs are too few"
    return order_gate(trained, "epochs_seen") or order_gate(trained, "samples") or _length_block(curves, "epochs")


def undecided(claim_id: str, quantity: str, why: str, needs: Needs | None, **tests: Any) -> Claim:
    """A claim that these runs cannot test, with the reason."""
    return Claim(
        id=claim_id,
        verdict="undecided",
        estimate=None,
        ci=None,
        quantity=quantity,
        reason=f"Undecided: {why}.",
        tests={"gate": why, **tests},
        needs=needs,
    )


def gate_needs(curves: CurveSet, factor: str, why: str) -> Needs | None:
    """The sweep that passes the gates: six geometric levels, a range of 32, three of each, zero-step runs."""
    frame = curves.response.frame
    if frame.empty or curves.suspects:
        return None
    trained = frame[frame["samples_seen"] > 0]
    if trained.empty:
        return None
    smallest = max(1, int(trained["samples"].min()))
    if factor == "epochs":
        levels, samples = [1, 2, 4, 8, 16], [smallest]
    else:
        top = max(TARGET_RANGE * smallest, int(trained["samples"].max()))
        levels, samples = [int(trained["epochs"].mode().iloc[0])], geometric(smallest, top, FULL_LEVELS)
    return sweep_needs(
        frame,
        message=f"Runs over a wider range of {factor}, three of each in shuffled order, and three without training.",
        samples=samples,
        epochs=levels,
        replicates=3,
        zero_runs=0 if (frame["samples_seen"] == 0).any() else 3,
    )


def _pair_needs(curves: CurveSet, why: str) -> Needs | None:
    frame = curves.response.frame
    trained = frame[frame["samples_seen"] > 0] if len(frame) else frame
    if trained.empty or curves.suspects:
        return None
    smallest = max(1, int(trained["samples"].min()))
    return sweep_needs(
        frame,
        message="The same work both ways: samples × epochs in full, three of each in shuffled order.",
        samples=[smallest * 2**i for i in range(4)],
        epochs=[1, 2, 4],
        replicates=3,
    )


def more_runs(
    curves: CurveSet, factor: str, decision: Decision, low: float, high: float, veto: str | None
) -> Needs | None:
    """More of the same, widened, until an interval of the expected width decides with 80 % power."""
    frame, design = curves.response.frame, curves.design
    if veto and "repeat" in veto and curves.total.outlier is not None:
        row = design.frame.iloc[curves.total.outlier]
        have = int(((frame["samples"] == row["samples"]) & (frame["epochs"] == row["epochs"])).sum())
        return sweep_needs(
            frame,
            message=f"Repeat run {row['run_id']} and look at what disturbed it.",
            samples=[int(row["samples"])],
            epochs=[int(row["epochs"])],
            replicates=have + 2,
        )
    if veto:
        return None
    df = curves.total.fit.data.df
    half = (decision.ci[1] - decision.ci[0]) / 2
    se = half / t_quantile(0.5 + curves.options.ci_level / 2, df)
    estimate = Estimate(value=decision.estimate, se=se, df=df)
    gap = min((decision.estimate - low, high - decision.estimate), key=abs)
    extra = runs_needed(len(design.frame), estimate, gap, curves.options)
    trained = design.trained
    samples = sorted(int(s) for s in trained["samples"].unique())
    epochs = sorted(int(e) for e in trained["epochs"].unique())
    points = max(1, trained[["samples", "epochs"]].drop_duplicates().shape[0])
    replicates = math.ceil(len(trained) / points)
    if extra is None:
        message = (
            f"The estimate {decision.estimate:.3f} is so close to the margin's edge that no reasonable number "
            "of like runs decides; a wider range does, or another margin."
        )
    else:
        message = f"About {extra:.0f} more runs like these, or fewer over a wider range."
    if factor == "samples" and len(samples) < 12:
        samples = [*samples, 2 * samples[-1]] if extra is None or extra > len(design.frame) else samples
    more = math.ceil(min(extra or len(design.frame), 2 * len(design.frame)) / points)
    zero_runs = 0 if (frame["samples_seen"] == 0).any() else 3
    return sweep_needs(
        frame,
        message=message,
        samples=samples,
        epochs=epochs,
        replicates=replicates + more,
        zero_runs=zero_runs,
    )
