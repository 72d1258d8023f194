"""Linear least squares, done carefully: QR with column scaling and one extended-precision refinement.

Everything in this package that regresses goes through `ols` and `wls`. They are checked against the
certified values of NIST's StRD linear sets (tests/analysis/regression/test_nist.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import get_lapack_funcs
from scipy.special import stdtr, stdtrit

from lora_scaling.errors import UserError

from ..arrays import Array

GEQP3, ORGQR, TRTRS = get_lapack_funcs(("geqp3", "orgqr", "trtrs"), dtype=np.float64)

RANK_TOLERANCE = 1e-13  # of unit-norm columns: below it a column is a combination of the others
REFINEMENTS = 4


class CollinearError(UserError):
    """Columns of a design that the others determine exactly; `.columns` names them."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        named = ", ".join(f"`{name}`" for name in columns)
        super().__init__(f"{named} is determined by the other factors in these runs; vary them separately.")


def span(columns: Array, tolerance: float = 1e-9, floor: float = 1.0) -> Array:
    """Orthonormal basis (n, rank) of the column space of `columns` (n, k).

    Directions below `tolerance` of the largest singular value, or of `floor` where that is smaller, are rounding.
    """
    if not columns.size:
        return np.zeros((len(columns), 0))
    u, scale, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, scale > tolerance * max(scale.max(initial=0.0), floor)]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Means at m new points, the interval of the mean (ci) and of a new observation (pi), each (m,)."""

    mean: Array
    se_mean: Array
    ci_low: Array
    ci_high: Array
    pi_low: Array
    pi_high: Array


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """A fitted linear model: k named parameters on n observations, df = n − k.

    `cov` (k, k) is classical or HC3 (`cov_type`); `resid` and `fitted` (n,) are on the scale of y
    (unweighted); `leverage` (n,) is the diagonal of the hat matrix; `sigma` is the residual standard
    deviation of an observation of weight 1 (NaN where df is 0); `cov_unscaled` is (XᵀWX)⁻¹.
    """

    names: tuple[str, ...]
    params: Array
    cov: Array
    cov_unscaled: Array
    n: int
    df: int
    resid: Array
    fitted: Array
    leverage: Array
    weights: Array
    sigma: float
    rss: float
    r_squared: float
    cov_type: str

    def index(self, name: str) -> int:
        """Position of a parameter; KeyError when the model has none of that name."""
        if name not in self.names:
            raise KeyError(name)
        return self.names.index(name)

    def param(self, name: str) -> float:
        """Estimate of one parameter."""
        return float(self.params[self.index(name)])

    def se(self, name: str) -> float:
        """Standard error of one parameter."""
        i = self.index(name)
        return float(np.sqrt(self.cov[i, i]))

    def conf_int(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """t interval of one parameter; (NaN, NaN) without degrees of freedom."""
        half = t_quantile(0.5 + level / 2, self.df) * self.se(name)
        return self.param(name) - half, self.param(name) + half

    def predict(self, X: ArrayLike, *, level: float = 0.95, weights: ArrayLike = 1.0) -> Prediction:
        """Predict at rows X (m, k); `weights` (m,) are those of the *new* observations.

        A weighted fit needs the new points' weights or the prediction interval is far too narrow.
        """
        rows = np.atleast_2d(np.asarray(X, dtype=float))
        mean = rows @ self.params
        se_mean = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, self.cov, rows), 0.0))
        noise = self.sigma**2 / np.broadcast_to(np.asarray(weights, dtype=float), mean.shape)
        t = t_quantile(0.5 + level / 2, self.df)
        half_pi = t * np.sqrt(se_mean**2 + noise)
        return Prediction(
            mean=mean,
            se_mean=se_mean,
            ci_low=mean - t * se_mean,
            ci_high=mean + t * se_mean,
            pi_low=mean - half_pi,
            pi_high=mean + half_pi,
        )


def ols(y: ArrayLike, X: ArrayLike, names: Sequence[str], *, cov_type: str = "classical") -> LinearFit:
    """Ordinary least squares of y (n,) on X (n, k), whose columns are `names`; no intercept is added.

    X may be `longdouble`; powers of large numbers are then kept to more digits than a float holds.
    Raises CollinearError for a column that the others determine, UserError for too few observations.
    """
    return wls(y, X, np.ones(len(np.asarray(y))), names, cov_type=cov_type)


def wls(
    y: ArrayLike, X: ArrayLike, weights: ArrayLike, names: Sequence[str], *, cov_type: str = "classical"
) -> LinearFit:
    """Weighted least squares; `weights` (n,) are inverse variances up to a common factor."""
    if cov_type not in ("classical", "HC3"):
        raise ValueError(f"`cov_type` was {cov_type!r}; allowed are 'classical' and 'HC3'")
    y_long, X_long = np.asarray(y, dtype=np.longdouble), np.atleast_2d(np.asarray(X, dtype=np.longdouble))
    w = np.asarray(weights, dtype=float)
    n, k = X_long.shape
    if len(names) != k or y_long.shape != (n,) or w.shape != (n,):
        raise ValueError(f"y {y_long.shape}, X {X_long.shape}, weights {w.shape}, {len(names)} names do not match")
    if n < k:
        raise UserError(f"`runs` was {n}; this regression has {k} parameters and needs at least as many runs.")
    root = np.sqrt(w).astype(np.longdouble)
    params, inverse_r, q = _solve(X_long * root[:, None], y_long * root, names)
    resid = (y_long - X_long @ params).astype(float)
    df, rss = n - k, float(np.sum(w * resid**2))
    sigma = float(np.sqrt(rss / df)) if df > 0 else float("nan")
    cov_unscaled = inverse_r @ inverse_r.T
    leverage = np.sum(q**2, axis=1)
    if cov_type == "HC3":
        scores = (q @ inverse_r.T) * (np.sqrt(w) * resid / np.maximum(1.0 - leverage, 1e-12))[:, None]
        cov = scores.T @ scores
    else:
        cov = cov_unscaled * sigma**2
    params = params.astype(float)
    return LinearFit(
        names=tuple(names),
        params=params,
        cov=cov,
        cov_unscaled=cov_unscaled,
        n=n,
        df=df,
        resid=resid,
        fitted=np.asarray(y_long, dtype=float) - resid,
        leverage=leverage,
        weights=w,
        sigma=sigma,
        rss=rss,
        r_squared=_r_squared(np.asarray(X_long, dtype=float), np.asarray(y_long, dtype=float), w, rss),
        cov_type=cov_type,
    )


def _solve(X: NDArray[np.longdouble], y: NDArray[np.longdouble], names: Sequence[str]) -> tuple:
    """Parameters (longdouble), R⁻¹ in the columns' own scale, and Q of the scaled design.

    Refinement solves the augmented system (Björck 1967) with residuals in extended precision: the
    error then depends on the data, no longer on the condition of the design, as long as κ·eps < 1.
    """
    scale = np.sqrt(np.sum(X**2, axis=0))
    scale[scale == 0] = 1
    scaled = X / scale
    k = scaled.shape[1]
    # LAPACK directly: scipy.linalg's wrappers cost more than the arithmetic of a small regression
    packed, pivots, tau, _, _ = GEQP3(np.asfortranarray(scaled, dtype=float))
    order = pivots - 1
    r = np.triu(packed[:k, :k])
    q = np.asarray(ORGQR(packed[:, :k], tau)[0])
    diagonal = np.abs(np.diag(r))
    if diagonal.min() < RANK_TOLERANCE * max(diagonal.max(), np.finfo(float).tiny):
        dependent = order[diagonal < RANK_TOLERANCE * diagonal.max()]
        raise CollinearError([str(names[int(i)]) for i in dependent])
    A = scaled[:, order]
    beta = np.zeros(k, dtype=np.longdouble)
    resid = np.zeros_like(y)
    for _ in range(REFINEMENTS):
        f = np.asarray(y - resid - A @ beta, dtype=float)  # of r + Aβ = y
        g = np.asarray(-(A.T @ resid), dtype=float)  # of Aᵀr = 0
        h = TRTRS(r, g, trans=1)[0]
        d = q.T @ f
        beta += TRTRS(r, d - h)[0]
        resid += f - q @ (d - h)
    back = np.empty_like(order)
    back[order] = np.arange(k)
    inverse_r = TRTRS(r, np.eye(k))[0][back] / np.asarray(scale, dtype=float)[:, None]
    return (beta / scale[order])[back], inverse_r, q


def _r_squared(X: Array, y: Array, w: Array, rss: float) -> float:
    """1 − RSS/TSS; TSS about the weighted mean if the model holds a constant, else about 0 (as NIST does)."""
    constant = bool(np.any(np.ptp(X, axis=0) == 0))
    centre = np.average(y, weights=w) if constant else 0.0
    total = float(np.sum(w * (y - centre) ** 2))
    return 1.0 - rss / total if total > 0 else float("nan")


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t; NaN where there are no degrees of freedom."""
    return float(stdtrit(df, probability)) if df > 0 else float("nan")


def t_tail(t: float, df: float) -> float:
    """P(T > t) of Student's t; NaN where there are no degrees of freedom."""
    return float(stdtr(df, -t)) if df > 0 else float("nan")
