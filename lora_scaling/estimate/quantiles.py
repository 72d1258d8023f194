"""Quantiles of Student's t and of mixtures of shifted, scaled t distributions, for many runs at once.

scipy has the t distribution, but estimates must not wait for its import. Mixtures of many runs ask for millions of
probabilities, so each distribution function is tabulated once and interpolated (to about 1e-11).
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_CELLS_PER_UNIT = 256  # of asinh(t)
_REACH = 25  # largest asinh(t) in the table: t = 4e10
_LEAST_SCALE = 1e-12
_STEPS = 100
_SERIES_FROM_DF = 200


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Predictive distributions of m runs, each a mixture of c shifted and scaled t distributions.

    weight: (c, 1) or (c, m), which need not sum to 1; location, scale: (c, m); df: (c,), which may be infinite.
    """

    weight: Array
    location: Array
    scale: Array
    df: Array

    @property
    def sd(self) -> Array:
        """Standard deviation (m,), each component's scale taken as its own."""
        centre = np.sum(self._share * self.location, axis=0)
        return np.sqrt(np.sum(self._share * (self.scale**2 + (self.location - centre) ** 2), axis=0))

    @property
    def _share(self) -> Array:
        return self.weight / self.weight.sum(axis=0)

    def cdf(self, x: ArrayLike) -> Array:
        """Probability (m,) of at most x, () or (m,)."""
        return self._cdf_and_density(np.broadcast_to(np.asarray(x, dtype=float), self.location.shape[1:]))[0]

    def quantile(self, probability: float, *, above: Array | None = None) -> Array:
        """Values (m,) that the mixtures stay below with this probability: Newton's method inside a bracket.

        Given `above`, () or (m,), the probability is of what lies above these values. Raises ValueError for a
        probability outside (0, 1) or weights that sum to 0.
        """
        if not 0 < probability < 1 or not (self.weight.sum(axis=0) > 0).all():
            raise ValueError("a quantile needs a probability inside (0, 1) and positive weights")
        if above is None:
            return self._quantile(np.full(self.location.shape[1], probability))
        under = self.cdf(above)
        return np.maximum(self._quantile(under + probability * (1 - under)), above)

    def _quantile(self, probability: Array) -> Array:
        ends = np.array([[t_quantile(float(end(probability)), df) for df in self.df] for end in (np.min, np.max)])
        low = (ends[0][:, None] * self.scale + self.location).min(axis=0)
        high = (ends[1][:, None] * self.scale + self.location).max(axis=0)
        x = 0.5 * (low + high)
        step = high - low
        for _ in range(_STEPS):
            below, density = self._cdf_and_density(x)
            low, high = np.where(below < probability, x, low), np.where(below > probability, x, high)
            with np.errstate(divide="ignore", invalid="ignore"):
                newton = x + (probability - below) / density
            # Bisect where Newton leaves the bracket or does not halve the step: the density may vanish between modes.
            good = (newton >= low) & (newton <= high) & (np.abs(newton - x) <= 0.5 * np.abs(step))
            new = np.where(good, newton, 0.5 * (low + high))
            x, step = new, new - x
            if float(np.max(np.abs(step), initial=0.0)) < 1e-12:
                break
        return x

    def _cdf_and_density(self, x: Array) -> tuple[Array, Array]:
        below, density = np.zeros_like(x), np.zeros_like(x)
        scales = np.maximum(self.scale, _LEAST_SCALE)
        for share, location, scale, df in zip(self._share, self.location, scales, self.df, strict=True):
            probability, slope = _t_cdf_and_density((x - location) / scale, float(df))
            below += share * probability
            density += share * slope / scale
        return below, density


def t_cdf(t: ArrayLike, df: float) -> Array:
    """P(T ≤ t) for Student's t with `df` degrees of freedom, which may be infinite."""
    return _t_cdf_and_density(np.asarray(t, dtype=float), float(df))[0]


@functools.lru_cache(maxsize=1024)
def t_quantile(probability: float, df: float) -> float:
    """Return the inverse of `t_cdf`, by Newton's method in asinh(t)."""
    df, beyond = float(df), min(probability, 1 - probability)
    u = float(np.searchsorted(-_tail_polynomials(df)[:, 0], -beyond)) / _CELLS_PER_UNIT
    for _ in range(_STEPS):
        left, density = _tail_and_density(np.asarray(math.sinh(u)), df)
        step = float((left - beyond) / (density * math.cosh(u)))
        u = max(0.0, u + step)
        if abs(step) < 1e-14 * (1 + u):
            break
    return math.copysign(math.sinh(u), probability - 0.5)


def _t_cdf_and_density(t: Array, df: float) -> tuple[Array, Array]:
    tail, density = _tail_and_density(np.abs(t), df)
    return np.where(t > 0, 1.0 - tail, tail), density


def _tail_and_density(t: Array, df: float) -> tuple[Array, Array]:
    """P(T > t) and the density at t ≥ 0."""
    table = _tail_polynomials(df)
    place = np.minimum(np.arcsinh(t) * _CELLS_PER_UNIT, len(table) - 1e-9)
    cell = place.astype(np.intp)
    s = place - cell
    a, b, c, d = np.moveaxis(table[cell], -1, 0)
    slope = b + s * (2 * c + 3 * s * d)
    return a + s * (b + s * (c + s * d)), -slope * _CELLS_PER_UNIT / np.sqrt(1 + t * t)


@functools.lru_cache(maxsize=64)
def _tail_polynomials(df: float) -> Array:
    """Coefficients (cells, 4) of P(T > sinh(u)) as cubic Hermite polynomials over even cells of u ≥ 0.

    The probability of each cell is by Gauss–Legendre quadrature of the density.
    """
    edges = np.arange(_REACH * _CELLS_PER_UNIT + 1) / _CELLS_PER_UNIT
    nodes, weights = np.polynomial.legendre.leggauss(4)
    u = edges[:-1, None] + (nodes + 1) / (2 * _CELLS_PER_UNIT)
    mass = (_density(np.sinh(u), df) * np.cosh(u)) @ weights / (2 * _CELLS_PER_UNIT)
    tail = np.append(np.cumsum(mass[::-1])[::-1], 0.0)
    tail += 0.5 - tail[0]  # beyond the table, of which heavy tails have some 1e-11
    slope = -_density(np.sinh(edges), df) * np.cosh(edges) / _CELLS_PER_UNIT
    rise = np.diff(tail)
    left, right = slope[:-1], slope[1:]
    return np.column_stack([tail[:-1], left, 3 * rise - 2 * left - right, left + right - 2 * rise])


def _density(t: Array, df: float) -> Array:
    if math.isinf(df):
        return np.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
    return _density_at_0(df) * np.exp(-0.5 * (df + 1) * np.log1p(t * t / df))


def _density_at_0(df: float) -> float:
    """Γ((df + 1)/2) / (Γ(df/2) √(π df)), by Stirling's series (DLMF 5.11.13) where log-gammas would cancel."""
    x = df / 2
    if df < _SERIES_FROM_DF:
        return math.exp(math.lgamma(x + 0.5) - math.lgamma(x)) / math.sqrt(math.pi * df)
    series = 1 - 1 / (8 * x) + 1 / (128 * x**2) + 5 / (1024 * x**3) - 21 / (32768 * x**4)
    return series / math.sqrt(2 * math.pi)
