"""The curve behind the linearity claims, E = F + c·s + d·e + a·s·e: s = samples^b₁, e = epochs^b₂, relative noise.

On the log scale, log E = D·η + log(u + (1 − u)·t). At the centre of the design s = e = t = 1, and `u` is the fixed
cost's share there, one for each cell. It is below 0 where something was subtracted from all runs, such as idle power.
Where both factors vary, t = v·s + (1 − v)·(w·e + (1 − w)·s·e): `v` and `w` are the shares of what a sample costs once
(tokenising) and of what an epoch costs whatever its samples (an evaluation, a checkpoint); they may be fitted or 0.
D holds what shifts a run as a whole (cells, sessions, drift) and is projected out (variable projection), so that the
search is over the exponents and the shares alone. Runs of zero optimizer steps have t = 0: they measure F itself.

Intervals are profile likelihood: near a boundary (v = 0, or F = 0 beside runs of zero steps) a Wald interval is wrong.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares, root_scalar
from scipy.special import stdtr, stdtrit

from .least_squares import Array

MAX_EVALUATIONS = 200
SEARCH_WIDTH = 3.0  # exponents further than this from the estimate count as unbounded
SHARE_CEILING = 1 - 1e-9
SMALLEST_MIXTURE = 1e-60  # of the centre's energy; its inverse still squares without overflow
MERGED_FROM = 500  # runs: fewer are fitted as fast one by one
LEAST_RUN = 1e-3  # of what training adds to the smallest run: a start leaves every run at least so much
FLATTEST = 0.5  # exponent at which the most negative fixed cost still leaves every run some energy


@dataclass(frozen=True, kw_only=True)
class CurveData:
    """n runs: log response, log of each factor (n, p; −inf in rows of zero steps), cells, nuisance columns.

    `cell` (n,) numbers the cells 0…C−1, each with a fixed cost of its own. `nuisance` (n, q) spans what
    shifts log E (at least the cells' constants). `weights` (n,) are inverse variances of log E.
    `once` lets samples and epochs (p = 2) have costs of their own beside the product, `signed` lets the fixed cost be
    below 0. `turn` (p, p) gives the factors'
    exponents from the parameters searched for: the identity unless stated. `least_sigma` bounds the residual standard
    deviation from below where the weights already know it. `middle` (p,) is the centre, if not that of these runs.
    """

    log_y: Array
    log_x: Array
    cell: NDArray[np.int64]
    nuisance: Array
    weights: Array
    zero: NDArray[np.bool_]
    once: bool = False
    signed: bool = False
    turn: Array | None = None
    least_sigma: float = 0.0
    middle: Array | None = None

    @cached_property
    def centre(self) -> Array:
        """Mean of log_x (p,) over the runs that trained, or `middle`."""
        if self.middle is not None:
            return self.middle
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
        return len(self.log_y) - self.basis.shape[1] - self.log_x.shape[1] - self.cells - 2 * self.once

    @cached_property
    def least_shares(self) -> Array:
        """Lower bounds (C,) of the fixed shares: 0, or if `signed` such that every run has some energy.

        Beside runs of zero steps, which are energies themselves, it is 0 anyhow.
        """
        if not self.signed:
            return np.zeros(self.cells)
        smallest = np.zeros(self.cells)
        np.minimum.at(smallest, self.cell, FLATTEST * self.centred.sum(axis=1))
        least = -1 / np.expm1(np.maximum(-smallest, 1e-6))
        least[self.cell[self.zero]] = 0.0
        return least

    @cached_property
    def merged(self) -> "tuple[CurveData, NDArray[np.intp]] | None":
        """Merge runs that are alike in all but their response, with the merged row of each; None where few are.

        The curve is the same for each of them, so that their mean with the sum of their weights tells as much.
        """
        if len(self.log_y) < MERGED_FROM:
            return None
        keys = pd.DataFrame(np.column_stack([self.log_x, self.cell, self.zero, self.nuisance, self.weights]))
        row = np.asarray(keys.groupby(list(keys.columns), sort=False).ngroup(), dtype=np.intp)  # in order of appearance
        first = ~keys.duplicated().to_numpy(dtype=bool)
        if 2 * first.sum() > len(row):
            return None
        few, weights = self.subset(first), np.bincount(row, self.weights)
        mean = np.bincount(row, self.weights * self.log_y) / weights
        return replace(few, log_y=mean, weights=weights, middle=self.centre), row

    def turned(self, parameters: Array) -> Array:
        """Return the factors' exponents (p,) of the parameters searched for."""
        return parameters if self.turn is None else self.turn @ parameters

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
class Mixture:
    """m runs as a mixture: work `t`, its parts (m, parts) by factor, and u + (1 − u)·t (m,), all 1 at the centre."""

    parts: Array
    t: Array
    total: Array


@dataclass(frozen=True, kw_only=True)
class CurveFit:
    """Exponents (p,), fixed shares at the centre (C,), shares of costs per sample and per epoch (2 or none).

    `resid` are the residuals of log E (n,), `rss` their weighted sum of squares.
    """

    data: CurveData
    exponents: Array
    shares: Array
    once: Array
    rss: float
    resid: Array

    @property
    def sigma(self) -> float:
        """Residual standard deviation of log E (≈ the coefficient of variation)."""
        data = self.data
        return max(float(np.sqrt(self.rss / data.df)), data.least_sigma) if data.df > 0 else float("nan")

    @property
    def theta(self) -> Array:
        """All parameters: exponents, shares, shares of costs per sample and per epoch."""
        return np.concatenate([self.exponents, self.shares, self.once])

    def slopes(self, log_x: Array, zero: NDArray[np.bool_], cell: NDArray[np.int64]) -> Array:
        """Return d log E / d theta (m, k) of runs with these log factors (m, p), by cell (m,)."""
        centred = np.where(zero[:, None], 0.0, log_x - self.data.centre)
        return _slopes(self.data, self.theta, centred, zero, cell)

    def log_size(self, log_x: Array, zero: NDArray[np.bool_], cell: NDArray[np.int64]) -> Array:
        """Return the log of the expected energy (m,) of such runs, up to their cell's constant."""
        centred = np.where(zero[:, None], 0.0, log_x - self.data.centre)
        return log_energy(self.data, self.theta, centred, zero, cell)

    def parts(self) -> dict[str, Array]:
        """Return the shares (n,) of each run's energy that are `fixed`, and that come per `sample` and per `epoch`."""
        data = self.data
        mixed = _mixture(data, self.theta, data.centred, data.zero, data.cell)
        u, none = self.shares[data.cell], np.zeros(len(data.log_y))
        found = {"fixed": u / mixed.total, "sample": none, "epoch": none}
        if data.once:
            v, w = self.once
            rest = (1 - u) / mixed.total
            found |= {"sample": rest * v * mixed.parts[:, 0], "epoch": rest * (1 - v) * w * mixed.parts[:, 1]}
        return found

    @cached_property
    def jacobian(self) -> Array:
        """The tangent (n, k) of its own runs, weighted, beside the nuisance columns."""
        data = self.data
        return data.project_out(np.sqrt(data.weights)[:, None] * self.slopes(data.log_x, data.zero, data.cell))


def _mixture(
    data: CurveData, theta: Array, centred: Array, zero: NDArray[np.bool_], cell: NDArray[np.int64]
) -> Mixture:
    """Mix the parts of runs (m, p) in the shares of `theta`."""
    p = data.log_x.shape[1]
    logs = centred * data.turned(theta[:p])
    if data.once:
        v, w = theta[-2:]
        exponents = np.column_stack([logs[:, 0], logs[:, 1], logs.sum(axis=1)])
        mix = np.array([v, (1 - v) * w, (1 - v) * (1 - w)])
    else:
        exponents, mix = logs.sum(axis=1)[:, None], np.ones(1)
    parts = np.where(zero[:, None], 0.0, np.exp(np.minimum(exponents, 500.0)))
    t = parts @ mix
    u = theta[p : p + data.cells][cell]
    return Mixture(parts=parts, t=t, total=np.maximum(u + (1 - u) * t, SMALLEST_MIXTURE))


def log_energy(
    data: CurveData, theta: Array, centred: Array, zero: NDArray[np.bool_], cell: NDArray[np.int64]
) -> Array:
    """Return the log of the expected energy (m,) under the parameters `theta`, up to the cells' constants."""
    return np.log(np.maximum(_mixture(data, theta, centred, zero, cell).total, 1e-12))


def _slopes(data: CurveData, theta: Array, centred: Array, zero: NDArray[np.bool_], cell: NDArray[np.int64]) -> Array:
    """Return d log mixture / d theta (m, k)."""
    p = data.log_x.shape[1]
    mixed = _mixture(data, theta, centred, zero, cell)
    own = np.equal.outer(cell, np.arange(data.cells))
    u, parts = theta[p : p + data.cells][cell], mixed.parts
    by_share = ((1 - mixed.t) / mixed.total)[:, None] * own
    lever = (1 - u) / mixed.total
    if not data.once:
        by_log, by_once = np.repeat(parts, p, axis=1), np.zeros((len(u), 0))
    else:
        v, w = theta[-2:]
        samples, epochs, product = parts.T
        by_log = np.column_stack(
            [v * samples + (1 - v) * (1 - w) * product, (1 - v) * (w * epochs + (1 - w) * product)]
        )
        by_once = np.column_stack([samples - w * epochs - (1 - w) * product, (1 - v) * (epochs - product)])
    by_exponent = lever[:, None] * by_log * centred
    if data.turn is not None:
        by_exponent = by_exponent @ data.turn
    return np.concatenate([by_exponent, by_share, lever[:, None] * by_once], axis=1)


def _minimise(data: CurveData, theta: Array, held: int | None) -> CurveFit:
    """Fit by scipy's bounded least squares from a start; the exponent numbered `held` stays where it is.

    `dogbox` rather than `trf`: it reaches a share of exactly 0, which a run without a fixed cost has.
    """
    if data.merged is not None:
        few, row = data.merged
        fit = _minimise(few, theta, held)
        resid = data.log_y - (few.log_y - fit.resid)[row]
        return replace(fit, data=data, resid=resid, rss=float(data.weights @ resid**2))
    p, cells, root = data.log_x.shape[1], data.cells, np.sqrt(data.weights)
    free = np.arange(len(theta)) != held
    low = np.concatenate([np.full(p, -np.inf), data.least_shares, np.zeros(len(theta) - p - cells)])
    high = np.concatenate([np.full(p, np.inf), np.full(len(theta) - p, SHARE_CEILING)])
    theta = _feasible(data, np.clip(theta, low, high))

    def full(point: Array) -> Array:
        whole = theta.copy()
        whole[free] = point
        return whole

    def residuals(point: Array) -> Array:
        total = _mixture(data, full(point), data.centred, data.zero, data.cell).total
        return data.project_out(root * (data.log_y - np.log(total)))

    def jacobian(point: Array) -> Array:
        slopes = _slopes(data, full(point), data.centred, data.zero, data.cell)
        return -data.project_out(root[:, None] * slopes)[:, free]

    solve: Any = least_squares  # its stub takes no function for the Jacobian
    found = solve(
        residuals, theta[free], jacobian, bounds=(low[free], high[free]), method="dogbox", max_nfev=MAX_EVALUATIONS,
        ftol=1e-11, xtol=1e-10, gtol=1e-10,
    )  # fmt: skip
    best = full(found.x)
    return CurveFit(
        data=data,
        exponents=best[:p],
        shares=best[p : p + cells],
        once=best[p + cells :],
        rss=2 * float(found.cost),
        resid=found.fun / root,
    )


def _feasible(data: CurveData, theta: Array) -> Array:
    """Return a start in which every run has some energy: negative fixed shares are shrunk until it has."""
    p, cells = data.log_x.shape[1], data.cells
    shares = theta[p : p + cells]
    if (shares >= 0).all():
        return theta
    t = _mixture(data, theta, data.centred, data.zero, data.cell).t
    smallest = np.full(cells, np.inf)
    np.minimum.at(smallest, data.cell[~data.zero], t[~data.zero])
    least = -(1 - LEAST_RUN) * smallest / np.maximum(1 - (1 - LEAST_RUN) * smallest, 1e-12)
    theta = theta.copy()
    theta[p : p + cells] = np.where(shares < 0, np.maximum(shares, least), shares)
    return theta


def fit_curve(data: CurveData) -> CurveFit:
    """Fit the curve to log E by least squares, from two starts (no fixed cost, half fixed): the valley is curved."""
    p, cells = data.log_x.shape[1], data.cells
    start: Array = np.ones(p + cells + 2 * data.once)
    if data.turn is not None:
        start[:p] = np.linalg.solve(data.turn, np.ones(p))
    start[p + cells :] = 0.05
    fits = []
    for share in (0.02, 0.5):
        start[p : p + cells] = share
        fits.append(_minimise(data, start.copy(), None))
    return min(fits, key=lambda fit: fit.rss)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Profile likelihood of one exponent of a fitted curve; `held` remembers the curves tried.

    With an `other`, of another choice of runs, the interval covers both, and a p-value is the larger of the two.
    """

    fit: CurveFit
    index: int
    other: "Profile | None" = None
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
        theta = (self.fit if near is None else self.held[near]).theta
        theta[self.index] = value
        self.held[value] = _minimise(data, theta, self.index)
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
        low, high = self._end(-1.0, threshold), self._end(1.0, threshold)
        if self.other is None:
            return low, high
        other = self.other.interval(level)
        return min(low, other[0]), max(high, other[1])

    def _end(self, side: float, threshold: float) -> float:
        def excess(distance: float) -> float:
            return self.t_at(self.estimate + side * distance) - threshold

        inner, outer = 0.0, 0.02
        while excess(outer) < 0:
            inner, outer = outer, 2 * outer
            if outer > SEARCH_WIDTH:
                return side * float("inf")
        if excess(inner) >= 0:  # a fit without scatter, which rounding makes worse at its own exponent
            return self.estimate + side * inner
        return self.estimate + side * root_scalar(excess, bracket=(inner, outer), xtol=1e-5).root

    def p_beyond(self, value: float) -> float:
        """Return the one-sided p of "the exponent lies at `value` or on its far side"."""
        p = float(stdtr(self.fit.data.df, -self.t_at(value)))
        return p if self.other is None else max(p, self.other.p_beyond(value))
