"""Fit constants, and a level for each source, to published rows on the log scale (for fit_priors.py, fit_memory.py)."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

VOTE = 6.0  # independent rows that a source counts for
_STEP = 1e-4  # of a logarithm: in slopes, and when a fit has converged
_MOST_STEPS = 12
Array = NDArray[np.float64]


def row_weights(sources: Sequence[str], within_sd: float) -> Array:
    """Return the weight of each row's error, given the rows' sources and the spread of the rows of one."""
    counts = Counter(sources)
    return np.array([math.sqrt(min(1.0, VOTE / counts[source])) / within_sd for source in sources])


def fit_logs(
    predicted: Callable[[Array], Array],
    published: Array,
    weight: Array,
    *,
    start: Array,
    spread: Array,
    levels: Array,
    apart: Array,
    goal: Array,
) -> tuple[Array, Array]:
    """Find the most probable constants and levels by Gauss and Newton's method. All of them are logarithms.

    predicted: of each row without its level, from the constants. start, spread: the prior of the constants.
    levels: which level each row has, (rows, levels). apart, goal: the prior of the levels; apart @ levels - goal is
    standard normal.
    """
    n = len(start)
    theta: Array = np.concatenate([start, np.zeros(levels.shape[1])])
    for _ in range(_MOST_STEPS):
        here = predicted(theta[:n])
        slopes = np.stack([(predicted(theta[:n] + _STEP * row) - here) / _STEP for row in np.eye(n)], axis=1)
        design = np.block([
            [weight[:, None] * slopes, weight[:, None] * levels],
            [np.diag(1 / spread), np.zeros((n, levels.shape[1]))],
            [np.zeros((len(apart), n)), apart],
        ])  # fmt: skip
        missing = np.concatenate([
            weight * (published - here - levels @ theta[n:]), (start - theta[:n]) / spread, goal - apart @ theta[n:],
        ])  # fmt: skip
        change: Array = np.linalg.lstsq(design, missing, rcond=None)[0].astype(float)
        theta = theta + change
        if np.abs(change).max() < _STEP:
            break
    return theta[:n], theta[n:]


def print_left_out(found: Iterable[tuple[str, Sequence[float], Sequence[bool]]], more: str = "") -> None:
    """Print how each source is estimated by the others: (source, logs of estimate over published, inside or not)."""
    print("\nleft out                      rows   ratio  inside")
    shares, bias = [], []
    for source, logs, inside in found:
        shares.append(statistics.fmean(inside))
        bias.append(statistics.fmean(logs))
        print(f"{source:28} {len(logs):5}  {math.exp(bias[-1]):6.2f}  {shares[-1]:5.0%}")
    print(
        f"by source: {statistics.fmean(shares):.0%} inside, bias {math.exp(statistics.fmean(bias)):.2f}, "
        f"sd of the log {statistics.pstdev(bias):.2f}{more}"
    )
