"""Linearity from one long run: a table of its consecutive windows (`samples_end` known in every row).

Cumulative sums of the windows would be nearly linear whatever happens (each point holds all before it),
so the windows themselves are tested: does the cost of a further window depend on where it lies? With
E(x) = a·x^b a window from x₀ to x₁ costs a·(x₁^b − x₀^b); to first order about b = 1 its logarithm per
sample is linear in z = (x₁·ln x₁ − x₀·ln x₀)/(x₁ − x₀), with slope b − 1.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lora_scaling.claim_defaults import MIN_RANGE
from lora_scaling.text import number

from ..regression.estimate import IntervalEstimate
from ..regression.least_squares import Array, ols
from ..tables.response import Response
from .verdicts import Claim, Options, equivalence, undecided

MIN_WINDOWS = 8


def is_series(response: Response) -> bool:
    """Return whether the rows are windows of one run and not runs."""
    return len(response.frame) > 1 and bool(response.frame["samples_end"].notna().all())


def series_claims(response: Response, options: Options, asked: Sequence[str]) -> list[Claim]:
    """Decide the claims asked for: linearity in samples from the windows, the others undecided."""
    why = "the table holds windows of one run, in which nothing but the number of samples changes"
    fixed = "the table holds windows of one run without its fixed cost, so the whole bill is not known"
    return [
        linear_in_windows(response, options)
        if claim_id == "linear_in_samples"
        else undecided(claim_id, claim_id, fixed if claim_id == "doubling_doubles" else why, None)
        for claim_id in asked
    ]


def linear_in_windows(response: Response, options: Options) -> Claim:
    """Decide `linear_in_samples` from windows, with errors widened for autocorrelation between neighbours."""
    frame = response.frame.sort_values("samples_end", kind="stable")
    frame = frame[frame["samples"] * frame["epochs"] > 0]  # what follows the last sample is no window of training
    quantity = f"exponent b of samples in cumulative {response.noun} = a·samples^b"
    end = frame["samples_end"].to_numpy(dtype=float)
    size = (frame["samples"] * frame["epochs"]).to_numpy(dtype=float)
    start = end - size
    if frame.empty:
        return undecided("linear_in_samples", quantity, "no window holds a sample", None)
    if len(frame) < MIN_WINDOWS or end[-1] / end[0] < MIN_RANGE:
        run = f"{len(frame)} windows over a factor {number(end[-1] / end[0])} are too few"
        why = f"{run}; {MIN_WINDOWS} over {MIN_RANGE} are needed"
        return undecided("linear_in_samples", quantity, why, None)
    if (start < -1e-9).any() or not np.allclose(start[1:], end[:-1]):
        why = "the windows overlap or leave gaps: `samples_end` must rise by `samples` × `epochs`"
        return undecided("linear_in_samples", quantity, why, None)
    position = (_x_log_x(end) - _x_log_x(start)) / size
    columns, names = [np.ones_like(position), position - position.mean()], ["level", "position"]
    tokens = frame["tokens_seen"].to_numpy(dtype=float)
    if np.isfinite(tokens).all() and np.ptp(tokens / size) > 0:
        length = np.log(tokens / size)
        columns.append(length - length.mean())
        names.append("length")
    fit = ols(np.log(frame["y"].to_numpy(dtype=float) / size), np.column_stack(columns), names)
    lag = _lag_one(fit.resid)
    widening = math.sqrt((1 + lag) / (1 - lag))
    estimate = IntervalEstimate(value=1 + float(fit.params[1]), se=widening * float(fit.bse[1]), df=fit.df_resid)
    verdict, p = equivalence(estimate, 1 - options.margin, 1 + options.margin, options)
    ci = estimate.interval(options.ci_level)
    tests: dict[str, Any] = {
        "windows": len(frame),
        "range": float(end[-1] / end[0]),
        "window_cv": math.sqrt(fit.scale),
        "autocorrelation": lag,
        "widening": widening,
        "length_exponent": float(fit.params[2]) if "length" in names else None,
        "p_value": p,
        "df": int(fit.df_resid),
        "r_squared_of_the_sums": _r_squared_of_sums(end, frame["y"].to_numpy(dtype=float)),
    }
    said = {"supported": "Yes", "refuted": "No", "undecided": "Not precise enough"}[verdict]
    change = 100 * (2 ** (estimate.value - 1) - 1)
    ends = [100 * (2 ** (bound - 1) - 1) for bound in ci]
    reason = (
        f"{said}: at twice as many samples a further window of {size[0]:g} costs {change:+.1f} % "
        f"({ends[0]:+.1f} to {ends[1]:+.1f} %) {response.noun}, from {len(frame)} windows of one run. Tested on the "
        "windows, not on their running total, which would look linear whatever happened; one run on one "
        "device: wear, heat and position cannot be told apart."
    )
    return Claim(
        id="linear_in_samples",
        verdict=verdict,
        estimate=estimate.value,
        ci=ci,
        quantity=quantity,
        reason=reason,
        tests=tests,
        p_value=p if verdict != "undecided" else None,
    )


def _x_log_x(x: Array) -> Array:
    return np.where(x > 0, x * np.log(np.maximum(x, 1e-300)), 0.0)


def _lag_one(resid: Array) -> float:
    """Return the lag-1 autocorrelation, corrected for its bias of about −2/n and never below 0 (no credit for it)."""
    r = float(resid[1:] @ resid[:-1] / (resid @ resid)) if resid @ resid > 0 else 0.0
    return float(np.clip(r + 2 / len(resid), 0.0, 0.95))


def _r_squared_of_sums(end: Array, y: Array) -> float:
    """Return R² of the running total on samples: shown to be uninformative, never used."""
    total = np.cumsum(y)
    return float(np.corrcoef(end, total)[0, 1] ** 2)
