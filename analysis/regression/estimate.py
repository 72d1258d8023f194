"""An estimate with its standard error: intervals and one-sided tests by Student's t."""

from dataclasses import dataclass

from scipy.special import stdtr, stdtrit


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
