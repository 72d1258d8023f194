"""The curve behind the linearity claims: E = F + a·samples^b₁·epochs^b₂ with multiplicative noise.

On the log scale, log E = D·η + log(u + (1 − u)·z), z = Π (factor/centre)^b. `u` in [0, 1] is the fixed
cost's share at the centre of the design (one for each cell); D holds what shifts a run as a whole
(cells, sessions, drift) and is projected out (variable projection), so that the search is over the
exponents and the shares alone. Runs of zero optimizer steps have z = 0: they measure F itself.

Intervals are profile likelihood: with F ≥ 0 on its boundary a Wald interval would be wrong.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, root_scalar
from scipy.special import stdtr, stdtrit

from .least_squares import Array

MAX_EVALUATIONS = 200
SEARCH_WIDTH = 3.0  # exponents further than this from the estimate count as unbounded
SHARE_CEILING = 1 - 1e-9
SMALLEST_MIXTURE = 1e-60  # of the centre's energy; its inverse still squares without overflow


@dataclass(frozen=True, kw_only=True)
class CurveData:
    """n runs: log response, log of each factor (n, p; −inf in rows of zero steps), cells, nuisance columns.

    `cell` (n,) numbers the cells 0…C−1, each with a fixed cost of its own. `nuisance` (n, q) spans what
    shifts log E (at least the cells' constants). `weights` (n,) are inverse variances of log E.
    """

    log_y: Array
    log_x: Array
    cell: NDArray[np.int64]
    nuisance: Array
    weights: Array
    zero: NDArray[np.bool_]

    @cached_property
    def centre(self) -> Array:
        """Mean of log_x (p,) over the runs that trained."""
        return self.log_x[~self.zero].mean(axis=0)

    @cached_property
    def centred(self) -> Array:
        """log_x about its centre; 0 in rows of zero steps."""
        return np.where(self.zero[:, None], 0.0, self.log_x - self.centre)

    @cached_property
    def basis(self) -> Array:
        """Orthonormal basis (n, rank) of the weighted nuisance columns."""
        u, s, _ = np.linalg.svd(np.sqrt(self.weights)[:, None] * self.nuisance, full_matrices=False)
        return u[:, s > 1e-9 * s[0]]

    def project_out(self, columns: Array) -> Array:
        """Project the nuisance out of weighted columns (n,) or (n, k)."""
        return columns - self.basis @ (self.basis.T @ columns)

    @property
    def cells(self) -> int:
        return int(self.cell.max()) + 1

    @property
    def df(self) -> int:
        """Residual degrees of freedom of the full curve."""
        return len(self.log_y) - self.basis.shape[1] - self.log_x.shape[1] - self.cells

    def subset(self, keep: NDArray[np.bool_]) -> "CurveData":
        """Return the same data with the runs of `keep` alone."""
        return replace(
            self,
            log_y=self.log_y[keep],
            log_x=self.log_x[keep],
            cell=self.cell[keep],
            nuisance=self.nuisance[keep],
            weights=self.weights[keep],
            zero=self.zero[keep],
        )


@dataclass(frozen=True, kw_only=True)
class CurveFit:
    """Exponents (p,), fixed shares at the centre (C,), residuals of log E (n,), and their spread."""

    data: CurveData
    exponents: Array
    shares: Array
    rss: float
    resid: Array

    @property
    def sigma(self) -> float:
        """Residual standard deviation of log E (≈ the coefficient of variation)."""
        return float(np.sqrt(self.rss / self.data.df)) if self.data.df > 0 else float("nan")

    def slopes(self, log_x: Array, zero: NDArray[np.bool_], cell: NDArray[np.int64]) -> Array:
        """Return d log E / d (exponents, shares) (m, p + C) of runs with these log factors (m, p), by cell (m,)."""
        centred = np.where(zero[:, None], 0.0, log_x - self.data.centre)
        z, mixture = _mixture(centred, zero, self.exponents, self.shares[cell])
        return _slopes(centred, z, mixture, self.shares[cell], np.equal.outer(cell, np.arange(self.data.cells)))

    def log_size(self, log_x: Array, zero: NDArray[np.bool_], cell: NDArray[np.int64]) -> Array:
        """Return the log of the expected energy (m,) of such runs, up to their cell's constant."""
        centred = np.where(zero[:, None], 0.0, log_x - self.data.centre)
        return np.log(np.maximum(_mixture(centred, zero, self.exponents, self.shares[cell])[1], 1e-12))

    @cached_property
    def jacobian(self) -> Array:
        """The tangent (n, p + C) of its own runs, weighted, beside the nuisance columns."""
        data = self.data
        return data.project_out(np.sqrt(data.weights)[:, None] * self.slopes(data.log_x, data.zero, data.cell))


def _mixture(centred: Array, zero: NDArray[np.bool_], exponents: Array, shares: Array) -> tuple[Array, Array]:
    """Return z and the mixture u + (1 − u)·z of runs (m,) whose fixed shares are `shares` (m,)."""
    z = np.where(zero, 0.0, np.exp(np.minimum(centred @ exponents, 500.0)))
    return z, np.maximum(shares + (1 - shares) * z, SMALLEST_MIXTURE)


def _slopes(centred: Array, z: Array, mixture: Array, shares: Array, onehot: Array) -> Array:
    """Return d log mixture / d (exponents, shares) (m, p + C); `onehot` (m, C) marks the cells."""
    by_exponent = ((1 - shares) * z / mixture)[:, None] * centred
    return np.concatenate([by_exponent, ((1 - z) / mixture)[:, None] * onehot], axis=1)


def _minimise(data: CurveData, exponents: Array, shares: Array, held: int | None) -> CurveFit:
    """Fit by scipy's bounded least squares from a start; the exponent numbered `held` stays where it is.

    `dogbox` rather than `trf`: it reaches a share of exactly 0, which a run without a fixed cost has.
    """
    p, root = data.log_x.shape[1], np.sqrt(data.weights)
    onehot = np.equal.outer(data.cell, np.arange(data.cells))
    theta = np.concatenate([exponents, shares])
    free = np.arange(len(theta)) != held
    low = np.concatenate([np.full(p, -np.inf), np.zeros(data.cells)])
    high = np.concatenate([np.full(p, np.inf), np.full(data.cells, SHARE_CEILING)])

    def at(point: Array) -> tuple[Array, Array, Array, Array]:
        """Return exponents, shares, z and the mixture at the free parameters `point`."""
        full = theta.copy()
        full[free] = point
        return full[:p], full[p:], *_mixture(data.centred, data.zero, full[:p], full[p:][data.cell])

    def residuals(point: Array) -> Array:
        return data.project_out(root * (data.log_y - np.log(at(point)[3])))

    def jacobian(point: Array) -> Array:
        _, shares, z, mixture = at(point)
        return -data.project_out(root[:, None] * _slopes(data.centred, z, mixture, shares[data.cell], onehot))[:, free]

    solve: Any = least_squares  # its stub takes no function for the Jacobian
    found = solve(
        residuals, theta[free], jacobian, bounds=(low[free], high[free]), method="dogbox", max_nfev=MAX_EVALUATIONS,
        ftol=1e-11, xtol=1e-10, gtol=1e-10,
    )  # fmt: skip
    exponents, shares, _, _ = at(found.x)
    return CurveFit(data=data, exponents=exponents, shares=shares, rss=2 * float(found.cost), resid=found.fun / root)


def fit_curve(data: CurveData) -> CurveFit:
    """Fit the curve to log E by least squares, from two starts (no fixed cost, half fixed): the valley is curved."""
    p, cells = data.log_x.shape[1], data.cells
    starts = (0.02, 0.5)
    return min((_minimise(data, np.ones(p), np.full(cells, share), None) for share in starts), key=lambda fit: fit.rss)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Profile likelihood of one exponent of a fitted curve; `held` remembers the curves tried."""

    fit: CurveFit
    index: int
    held: dict[float, CurveFit] = field(default_factory=dict, compare=False, repr=False)

    @property
    def estimate(self) -> float:
        return float(self.fit.exponents[self.index])

    def held_at(self, value: float) -> CurveFit:
        """Fit the curve with this exponent fixed at `value`."""
        if value in self.held:
            return self.held[value]
        data = self.fit.data
        near = min(self.held, key=lambda other: abs(other - value), default=None)
        start = self.fit if near is None else self.held[near]
        exponents = start.exponents.copy()
        exponents[self.index] = value
        self.held[value] = _minimise(data, exponents, start.shares, self.index)
        return self.held[value]

    def t_at(self, value: float) -> float:
        """Return √((RSS(value) − RSS)/σ²): how many standard errors `value` is away."""
        excess = max(self.held_at(value).rss - self.fit.rss, 0.0)
        return float(np.sqrt(excess) / max(self.fit.sigma, 1e-8))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the profile interval; an end beyond SEARCH_WIDTH is infinite."""
        threshold = float(stdtrit(self.fit.data.df, 0.5 + level / 2))
        if not np.isfinite(threshold):
            return float("-inf"), float("inf")
        return self._end(-1.0, threshold), self._end(1.0, threshold)

    def _end(self, side: float, threshold: float) -> float:
        def excess(distance: float) -> float:
            return self.t_at(self.estimate + side * distance) - threshold

        inner, outer = 0.0, 0.02
        while excess(outer) < 0:
            inner, outer = outer, 2 * outer
            if outer > SEARCH_WIDTH:
                return side * float("inf")
        return self.estimate + side * root_scalar(excess, bracket=(inner, outer), xtol=1e-5).root

    def p_beyond(self, value: float) -> float:
        """Return the one-sided p of "the exponent lies at `value` or on its far side"."""
        return float(stdtr(self.fit.data.df, -self.t_at(value)))
