"""An estimate with its standard error: intervals and one-sided tests by Student's t."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc, stdtr, stdtrit

# That groups share a number: at 0.05 the test would miss differences that matter where each group is known badly. The
# guideline on stability testing ICH Q1E pools batches by the same rule.
POOLING_P = 0.25


@dataclass(frozen=True, kw_only=True)
class IntervalEstimate:
    """A number with its standard error on t with df degrees of freedom; intervals are NaN where df is 0."""

    value: float
    se: float
    df: float

    def interval(self, level: float) -> tuple[float, float]:
        half = float(stdtrit(self.df, 0.5 + level / 2)) * self.se
        return self.value - half, self.value + half

    def p_above(self, bound: float) -> float:
        """Return the one-sided p of "the truth is at or below `bound`"."""
        if self.se <= 0:
            return 0.0 if self.value > bound else 1.0
        return float(stdtr(self.df, (bound - self.value) / self.se))

    def p_below(self, bound: float) -> float:
        """Return the one-sided p of "the truth is at or above `bound`"."""
        if self.se <= 0:
            return 0.0 if self.value < bound else 1.0
        return float(stdtr(self.df, (self.value - bound) / self.se))


def from_interval(value: float, ci: tuple[float, float], df: float, level: float) -> IntervalEstimate:
    """Return the estimate behind an interval about it; its se is NaN where df is 0."""
    half = float(stdtrit(df, 0.5 + level / 2)) if df >= 1 else math.nan
    return IntervalEstimate(value=value, se=(ci[1] - ci[0]) / 2 / half, df=df)


def welch_p(estimates: Sequence[IntervalEstimate]) -> float | None:
    """Return Welch's p of one true value behind all estimates, each with its own error; None with fewer than two.

    Estimates of unknown or infinite error are left out. Welch (1951), with the estimates as the means of groups.
    """
    usable = [(one.value, one.se, one.df) for one in estimates if 0 < one.se < math.inf]
    if len(usable) < 2:
        return None
    value, se, df = np.array(usable, dtype=float).T
    weight, k = 1 / se**2, len(usable)
    mean = float(weight @ value / weight.sum())
    spare = float(np.sum((1 - weight / weight.sum()) ** 2 / df))
    ratio = float(weight @ (value - mean) ** 2) / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * spare)
    return float(fdtrc(k - 1, (k**2 - 1) / (3 * spare), ratio))
