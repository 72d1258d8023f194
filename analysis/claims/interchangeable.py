"""`samples_epochs_interchangeable`: equal exponents, and equal energy of matched pairs."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..regression.curve_analysis import MAX_FACTOR_CORRELATION, Analysis, epochs_for_samples, follows_order
from ..regression.estimate import IntervalEstimate
from ..regression.power_law import Profile, fit_curve
from ..regression.within_groups import within
from ..tables.checks import doubt_about
from ..tables.response import measured_sentence
from .context import ClaimContext, decide_profile, outlier_of, without_outlier
from .next_runs import more_runs, pair_needs
from .verdicts import Claim, Decision, Options, decided, undecided
from .vetoes import Veto, vetoed


def interchangeable(context: ClaimContext) -> Claim:
    """`samples_epochs_interchangeable`: equal exponents, and equal energy of matched pairs."""
    claim_id, options, noun = "samples_epochs_interchangeable", context.options, context.response.noun
    quantity = f"exponent of epochs minus exponent of samples in {noun}"
    blocked = _pair_block(context)
    if blocked:
        return undecided(claim_id, quantity, blocked, pair_needs(context))
    if context.total.fit.data.once:
        quantity = f"log₂ of the ratio in {noun} of twice the epochs on half the samples"
    margin = options.margin
    pairs, exponents = matched_pairs(context.total), _exponents(context.total, options)
    decision = _witnesses(exponents, pairs, options)
    tests: dict[str, Any] = {"df": context.total.fit.data.df, "matched_pairs": None}
    if pairs is not None:
        alone = _pairs_alone(pairs, options)
        tests["matched_pairs"] = {
            "verdict": alone.verdict,
            "ratio": math.exp(pairs.value),
            "ci": [math.exp(end) for end in alone.ci],
            "df": pairs.df,
            "p": alone.p_value,
        }
    verdict, veto = vetoed(
        decision,
        context.response,
        tests,
        outlier=outlier_of(context.total),
        without=lambda: _both_witnesses(without_outlier(context.total), options),
        measured=lambda: _both_witnesses(context.measured, options),
        own=_contradiction(context.total, exponents, pairs, options),
    )
    p = decision.p_value if verdict != "undecided" else None
    tests["p_value"] = p
    ratio = math.exp(pairs.value) if pairs is not None else 2**decision.estimate
    text = f"the same work in twice the epochs on half the samples costs {100 * (ratio - 1):+.1f} %"
    reason = {
        "supported": f"Yes: {text}, within the margin.",
        "refuted": f"No: {text}.",
        "undecided": f"Undecided: {veto.why}."
        if veto is not None
        else f"Not precise enough: {text}, but these runs leave more than the margin open.",
    }[verdict]
    needs = (
        more_runs(context, "samples", decision, -margin, margin, veto, of_exponent=False)
        if verdict == "undecided"
        else None
    )
    return Claim(
        id=claim_id,
        verdict=verdict,
        estimate=decision.estimate,
        ci=decision.ci,
        quantity=quantity,
        reason=reason + measured_sentence(context.response, tests["measured"]),
        tests=tests,
        needs=needs,
        p_value=p,
    )


def _pairs_alone(pairs: IntervalEstimate, options: Options) -> Decision:
    bound = math.log1p(options.margin)
    return decided(pairs, -bound, bound, options)


def _exponents(analysis: Analysis, options: Options) -> Decision:
    """Decide by the curve: by its exponents, or by its energies where costs come once per sample or per epoch."""
    if analysis.fit.data.once:
        return decided(epochs_for_samples(analysis), -options.margin, options.margin, options)
    return decide_profile(_difference(analysis), -options.margin, options.margin, options)


def _both_witnesses(analysis: Analysis, options: Options) -> Decision:
    return _witnesses(_exponents(analysis, options), matched_pairs(analysis), options)


def _contradiction(
    analysis: Analysis, exponents: Decision, pairs: IntervalEstimate | None, options: Options
) -> list[Veto]:
    """Veto a decision if exponents and pairs are each sure and disagree."""
    if pairs is None or _witnesses(exponents, pairs, options).verdict != "undecided":
        return []
    alone = _pairs_alone(pairs, options)
    if "undecided" in (exponents.verdict, alone.verdict):
        return []
    by = "by the fitted curve" if analysis.fit.data.once else "on top of the fixed cost by the exponents"
    why = (
        "the two witnesses contradict each other: twice the epochs on half the samples costs "
        f"{100 * (2**exponents.estimate - 1):+.1f} % {by} ({exponents.verdict}), "
        f"and {100 * math.expm1(pairs.value):+.1f} % in all by matched pairs ({alone.verdict})"
    )
    return [Veto(kind="witnesses", why=why)]


def _witnesses(exponents: Decision, pairs: IntervalEstimate | None, options: Options) -> Decision:
    """Combine the exponents with the matched pairs, if any; p is that of the weaker."""
    if pairs is None:
        return exponents
    alone = _pairs_alone(pairs, options)
    opposite = alone.verdict == "refuted" and pairs.value * exponents.estimate <= 0
    if exponents.verdict != alone.verdict or opposite:
        return replace(exponents, verdict="undecided", p_value=None)
    p_values = [p for p in (exponents.p_value, alone.p_value) if p is not None]
    return replace(exponents, p_value=max(p_values, default=None))


def _difference(analysis: Analysis) -> Profile:
    """Return the profile of b_epochs − b_samples: the same curve with b_samples and the difference as parameters."""
    turn = np.eye(2)
    s, e = (analysis.design.factors.index(name) for name in ("samples", "epochs"))
    turn[e, s] = 1.0
    other = None if analysis.with_idle is None else _difference(analysis.with_idle)
    return Profile(fit=fit_curve(replace(analysis.fit.data, turn=turn)), index=e, other=other)


def matched_pairs(analysis: Analysis) -> IntervalEstimate | None:
    """Estimate the log ratio for twice the epochs at the same samples × epochs; None without such pairs.

    Fixed effects for each amount of work within a cell; on simple pairs this is the paired t test.
    """
    data = analysis.fit.data
    frame = analysis.design.frame[~data.zero]
    x = pd.Series(np.log2(frame["epochs_seen"].to_numpy(dtype=float)), index=frame.index)
    groups = frame.groupby(["cell", "work"]).ngroup()
    spread = x.groupby(groups).transform("max") - x.groupby(groups).transform("min")
    keep = (spread > 1e-9).to_numpy()
    rows = np.flatnonzero(~data.zero)[keep]
    if len(rows) == 0:
        return None
    shifts = data.nuisance[rows][:, data.cells :]
    found = within(x.to_numpy()[keep], data.log_y[rows], shifts, np.unique(groups[keep], return_inverse=True)[1])
    estimate, _ = found.slope()
    # else too few, or twice the epochs always came with another session or place in the order
    return estimate if estimate.df >= 3 else None


def _pair_block(context: ClaimContext) -> str | None:
    if doubt := doubt_about(context.design.frame, context.suspects):
        return doubt
    frame, design = context.response.frame, context.design
    if len(frame) < 2:
        return context.blocks["samples"]
    for factor in ("samples", "epochs"):
        if factor not in design.factors:
            return f"{factor} never varied with everything else equal"
    trained = design.trained
    r = np.corrcoef(np.log(trained["samples"]), np.log(trained["epochs_seen"]))[0, 1]
    if abs(r) > MAX_FACTOR_CORRELATION:
        return f"samples and epochs moved together (correlation {r:.2f}): their effects look alike"
    if trained[["samples", "epochs_seen"]].drop_duplicates().shape[0] < 5:
        return "fewer than 5 combinations of samples and epochs were run"
    if len(design.frame) < int(design.frame["cell"].max()) + 8:
        return f"{len(design.frame)} runs are too few"
    return follows_order(design, "epochs") or follows_order(design, "samples")
