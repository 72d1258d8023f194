"""Quantiles of Student's t and of mixtures of shifted, scaled t distributions. Standard library only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TINY = 1e-300


@dataclass(frozen=True, kw_only=True)
class Component:
    """One member of a mixture: weight, location, scale (> 0, or 0 for certainty) and degrees of freedom."""

    weight: float
    location: float
    scale: float
    df: float

    def cdf(self, x: float) -> float:
        if self.scale == 0:
            return 1.0 if x >= self.location else 0.0
        return t_cdf((x - self.location) / self.scale, self.df)


def t_cdf(t: float, df: float) -> float:
    """P(T ≤ t) for Student's t (DLMF 8.17: the regularised incomplete beta function); df may be infinite."""
    if math.isinf(df):
        return 0.5 * math.erfc(-t / math.sqrt(2.0))
    square = t * t
    tail = 0.5 * _beta_regularised(df / (df + square), square / (df + square), df / 2.0, 0.5)
    return 1.0 - tail if t > 0 else tail


def t_quantile(probability: float, df: float) -> float:
    """The inverse of `t_cdf`."""
    return mixture_quantile([Component(weight=1.0, location=0.0, scale=1.0, df=df)], probability)


def mixture_quantile(components: Sequence[Component], probability: float) -> float:
    """The value below which the mixture has this probability; weights need not sum to one.

    Raises:
        ValueError: no component, or a probability outside (0, 1).
    """
    total = sum(c.weight for c in components)
    if not 0 < probability < 1 or not total > 0:
        raise ValueError("a quantile needs a probability inside (0, 1) and positive weights")
    centre = sum(c.weight * c.location for c in components) / total
    step = max((abs(c.location - centre) + c.scale for c in components), default=1.0) or 1.0
    low, high = centre - step, centre + step
    wanted = probability * total
    while _mass(components, low) > wanted:
        low -= (step := 2 * step)
    while _mass(components, high) < wanted:
        high += (step := 2 * step)
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if _mass(components, middle) < wanted:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _mass(components: Sequence[Component], x: float) -> float:
    return sum(c.weight * c.cdf(x) for c in components)


def _beta_regularised(x: float, y: float, a: float, b: float) -> float:
    """I_x(a, b), with y = 1 − x given as well: near 1 the difference would lose its digits."""
    if x <= 0.0 or y <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _beta_regularised(y, x, b, a)
    front = a * math.log(x) + b * math.log(y) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(front) / a * _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Lentz's method on DLMF 8.17.22."""
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > _TINY else _TINY)
    value = d
    for m in range(1, 400):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > _TINY else _TINY)
            c = 1.0 + numerator / c
            c = c if abs(c) > _TINY else _TINY
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value
