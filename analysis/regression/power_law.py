"""The curve behind the linearity claims: E = F + a·samples^b₁·epochs^b₂ with multiplicative noise.

On the log scale, log E = D·η + log(u + (1 − u)·z), z = Π (factor/centre)^b. `u` in [0, 1] is the fixed
cost's share at the centre of the design (one for each cell); D holds what shifts a run as a whole
(cells, sessions, drift) and is projected out (variable projection), so that the search is over the
exponents and the shares alone. Runs of zero optimizer steps have z = 0: they measure F itself.

Intervals are profile likelihood: with F ≥ 0 on its boundary a Wald interval would be wrong.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from .least_squares import Array

MAX_STEPS = 60
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

    def beside(self, columns: Array) -> Array:
        """What is left of weighted columns (n,) or (n, k) beside the nuisance."""
        return columns - self.basis @ (self.basis.T @ columns)

    @property
    def cells(self) -> int:
        return int(self.cell.max()) + 1

    @property
    def df(self) -> int:
        """Residual degrees of freedom of the full curve."""
        return len(self.log_y) - self.basis.shape[1] - self.log_x.shape[1] - self.cells

    def subset(self, keep: NDArray[np.bool_]) -> "CurveData":
        """The same without some runs."""
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
        """The tangent d log E / d (exponents, shares) (m, p + C) of runs of these log factors (m, p), by cell (m,)."""
        centred = np.where(zero[:, None], 0.0, log_x - self.data.centre)
        z, mixture = _mixture(centred, zero, self.exponents, self.shares[cell])
        return _slopes(centred, z, mixture, self.shares[cell], np.equal.outer(cell, np.arange(self.data.cells)))

    def log_size(self, log_x: Array, zero: NDArray[np.bool_], cell: NDArray[np.int64]) -> Array:
        """Log of the expected energy (m,) of such runs, up to their cell's constant."""
        centred = np.where(zero[:, None], 0.0, log_x - self.data.centre)
        return np.log(np.maximum(_mixture(centred, zero, self.exponents, self.shares[cell])[1], 1e-12))

    @cached_property
    def jacobian(self) -> Array:
        """The tangent (n, p + C) of its own runs, weighted, beside the nuisance columns."""
        data = self.data
        return data.beside(np.sqrt(data.weights)[:, None] * self.slopes(data.log_x, data.zero, data.cell))


def _mixture(centred: Array, zero: NDArray[np.bool_], exponents: Array, shares: Array) -> tuple[Array, Array]:
    """z and the mixture u + (1 − u)·z of runs (m,), whose fixed shares are `shares` (m,)."""
    z = np.where(zero, 0.0, np.exp(np.minimum(centred @ exponents, 500.0)))
    return z, np.maximum(shares + (1 - shares) * z, SMALLEST_MIXTURE)


def _slopes(centred: Array, z: Array, mixture: Array, shares: Array, onehot: Array) -> Array:
    """d log mixture / d (exponents, shares) (m, p + C); `onehot` (m, C) tells the cells."""
    by_exponent = ((1 - shares) * z / mixture)[:, None] * centred
    return np.concatenate([by_exponent, ((1 - z) / mixture)[:, None] * onehot], axis=1)


def _evaluate(data: CurveData, exponents: Array, shares: Array) -> tuple[Array, Array, Array]:
    """Projected weighted residuals (n,), z and the mixture m, for these exponents and shares."""
    z, mixture = _mixture(data.centred, data.zero, exponents, shares[data.cell])
    return data.beside(np.sqrt(data.weights) * (data.log_y - np.log(mixture))), z, mixture


def _minimise(data: CurveData, exponents: Array, shares: Array, held: int | None) -> tuple[Array, Array, float, Array]:
    """Levenberg–Marquardt over the free exponents and the shares, these kept in [0, 1)."""
    p, cells = data.log_x.shape[1], data.cells
    root = np.sqrt(data.weights)[:, None]
    onehot = np.equal.outer(data.cell, np.arange(cells))
    resid, z, m = _evaluate(data, exponents, shares)
    rss, damping = float(resid @ resid), 1e-6
    free_exponents = np.array([j != held for j in range(p)])
    for _ in range(MAX_STEPS):
        jacobian = data.beside(root * _slopes(data.centred, z, m, shares[data.cell], onehot))
        gradient = jacobian.T @ resid  # descent direction of the parameters
        inside = ~(((shares <= 0) & (gradient[p:] < 0)) | ((shares >= SHARE_CEILING) & (gradient[p:] > 0)))
        free = np.concatenate([free_exponents, inside])
        if not free.any():
            break
        normal = jacobian[:, free].T @ jacobian[:, free]
        improved = False
        for _ in range(12):
            damped = normal + damping * np.diag(np.diag(normal) + 1e-12)
            step = np.zeros(p + cells)
            step[free] = np.linalg.solve(damped, gradient[free])
            new_exponents = exponents + step[:p]
            new_shares = np.clip(shares + step[p:], 0.0, SHARE_CEILING)
            new_resid, new_z, new_m = _evaluate(data, new_exponents, new_shares)
            new_rss = float(new_resid @ new_resid)
            if new_rss <= rss:
                improved = True
                break
            damping = max(damping * 10, 1e-8)
        if not improved:
            break
        gain = rss - new_rss
        exponents, shares, resid, z, m, rss = new_exponents, new_shares, new_resid, new_z, new_m, new_rss
        damping = max(damping / 10, 1e-12)
        if gain <= 1e-11 * rss + 1e-18:
            break
    return exponents, shares, rss, resid


def fit_curve(data: CurveData) -> CurveFit:
    """Least squares on log E; two starts (no fixed cost, half fixed) since the valley is curved."""
    p, cells = data.log_x.shape[1], data.cells
    starts = (0.02, 0.5)
    fits = [_minimise(data, np.ones(p), np.full(cells, share), None) for share in starts]
    exponents, shares, rss, resid = min(fits, key=lambda fit: fit[2])
    return CurveFit(data=data, exponents=exponents, shares=shares, rss=rss, resid=resid / np.sqrt(data.weights))


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
        """The best curve with this exponent fixed at `value`."""
        if value in self.held:
            return self.held[value]
        data = self.fit.data
        near = min(self.held, key=lambda other: abs(other - value), default=None)
        start = self.fit if near is None else self.held[near]
        exponents = start.exponents.copy()
        exponents[self.index] = value
        exponents, shares, rss, resid = _minimise(data, exponents, start.shares, self.index)
        found = CurveFit(data=data, exponents=exponents, shares=shares, rss=rss, resid=resid / np.sqrt(data.weights))
        self.held[value] = found
        return found

    def t_at(self, value: float) -> float:
        """√((RSS(value) − RSS)/σ²): how many standard errors `value` is away."""
        excess = max(self.held_at(value).rss - self.fit.rss, 0.0)
        return float(np.sqrt(excess) / max(self.fit.sigma, 1e-8))

    def interval(self, level: float) -> tuple[float, float]:
        """Profile interval; an end beyond SEARCH_WIDTH is infinite."""
        threshold = float(stdtrit(self.fit.data.df, 0.5 + level / 2))
        if not np.isfinite(threshold):
            return float("-inf"), float("inf")
        return self._end(-1.0, threshold), self._end(1.0, threshold)

    def _end(self, side: float, threshold: float) -> float:
        inner, outer, t_inner = 0.0, 0.02, 0.0
        t_outer = self.t_at(self.estimate + side * outer)
        while t_outer < threshold:
            inner, t_inner = outer, t_outer
            outer *= 2
            if outer > SEARCH_WIDTH:
                return side * float("inf")
            t_outer = self.t_at(self.estimate + side * outer)
        for _ in range(30):  # Illinois-safe secant: t is close to linear in the distance
            middle = inner + (outer - inner) * float(np.clip((threshold - t_inner) / (t_outer - t_inner), 0.05, 0.95))
            t_middle = self.t_at(self.estimate + side * middle)
            if abs(t_middle - threshold) < 1e-3 or outer - inner < 1e-5:
                return self.estimate + side * middle
            if t_middle < threshold:
                inner, t_inner = middle, t_middle
            else:
                outer, t_outer = middle, t_middle
        return self.estimate + side * middle

    def p_beyond(self, value: float) -> float:
        """One-sided p of the hypothesis that the exponent lies at `value` or on its far side."""
        return float(stdtr(self.fit.data.df, -self.t_at(value)))
