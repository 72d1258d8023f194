"""`samples_epochs_interchangeable`: equal exponents, and equal energy of matched pairs."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .curve import CurveData, Profile, fit_curve
from .curve_analysis import Analysis, order_gate
from .curve_needs import more_runs, pair_needs
from .curve_set import CurveSet, Decision, decide_profile
from .regression import span, wls
from .response import measured_sentence
from .verdicts import Claim, Estimate, Options, Verdict, equivalence, undecided


def interchangeable(curves: CurveSet) -> Claim:
    """`samples_epochs_interchangeable`: equal exponents, and equal energy of matched pairs."""
    claim_id, options, noun = "samples_epochs_interchangeable", curves.options, curves.response.noun
    quantity = f"exponent of epochs minus exponent of samples in {noun}"
    blocked = _pair_block(curves)
    if blocked:
        return undecided(claim_id, quantity, blocked, pair_needs(curves))
    margin = options.margin
    decision = decide_profile(_difference(curves.total), -margin, margin, options)
    tests: dict[str, Any] = {
        "df": curves.total.fit.data.df,
        "p_value": decision.p_value,
        "matched_pairs": None,
    }
    pairs = matched_pairs(curves.total)
    verdict, p = _witnesses(decision, pairs, options)
    if pairs is not None:
        pair_verdict, pair_p = _pairs_alone(pairs, options)
        tests["matched_pairs"] = {
            "verdict": pair_verdict,
            "ratio": math.exp(pairs.value),
            "ci": [math.exp(end) for end in pairs.interval(options.ci_level)],
            "df": pairs.df,
            "p": pair_p,
        }
    verdict, veto = _vetoed(curves, verdict, tests)
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
    needs = (
        more_runs(curves, "samples", decision, -margin, margin, veto, of_exponent=False)
        if verdict == "undecided"
        else None
    )
    return Claim(
        id=claim_id,
        verdict=verdict,
        estimate=decision.estimate,
        ci=decision.ci,
        quantity=quantity,
        reason=reason + measured_sentence(curves.response, tests["measured"]),
        tests=tests,
        needs=needs,
        p_value=p if verdict != "undecided" else None,
    )


def _vetoed(curves: CurveSet, verdict: Verdict, tests: dict[str, Any]) -> tuple[Verdict, str | None]:
    """The verdict after the refit without an outlier and the metered part had their say; both are put into `tests`."""
    options, veto = curves.options, None
    if curves.total.without is not None and verdict != "undecided":
        again = decide_profile(_difference(curves.total.without), -options.margin, options.margin, options).verdict
        run_id = str(curves.design.frame["run_id"][curves.total.outlier or 0])
        tests["outlier"] = {"run_id": run_id, "mads": curves.total.outlier_mads, "verdict_without": again}
        if again != verdict:
            verdict, veto = "undecided", f"the verdict hangs on run {run_id}: repeat that run"
    response = curves.response
    if response.measured_noun is None:
        tests["measured"] = None if response.measured_gap is None else {"reason": response.measured_gap}
        return verdict, veto
    decision = decide_profile(_difference(curves.measured), -options.margin, options.margin, options)
    part, _ = _witnesses(decision, matched_pairs(curves.measured), options)
    tests["measured"] = {
        "part": response.measured_noun,
        "share": response.measured_share,
        "verdict": part,
        "estimate": decision.estimate,
        "ci": decision.ci,
    }
    if {verdict, part} == {"supported", "refuted"}:
        return "undecided", f"the total says {verdict}, its metered part ({response.measured_noun}) says {part}"
    return verdict, veto


def _pairs_alone(pairs: Estimate, options: Options) -> tuple[Verdict, float | None]:
    bound = math.log1p(options.margin)
    return equivalence(pairs, -bound, bound, options)


def _witnesses(exponents: Decision, pairs: Estimate | None, options: Options) -> tuple[Verdict, float | None]:
    """What the exponents and, where there are any, the matched pairs say together."""
    if pairs is None:
        return exponents.verdict, exponents.p_value
    return _both(exponents, *_pairs_alone(pairs, options), same_sign=pairs.value * exponents.estimate > 0)


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
    extra = span(within[keep, 1:-1])  # within a few pairs, nuisances are often alike
    x = within[keep, 0]
    if np.linalg.norm(x - extra @ (extra.T @ x)) < 1e-6 * np.linalg.norm(x):
        return None  # twice the epochs always came with another session or place in the order
    design = np.column_stack([x, extra])
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
    return order_gate(trained, "epochs_seen") or order_gate(trained, "samples")
