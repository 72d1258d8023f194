"""Ordinary and weighted least squares by statsmodels, with columns that have names and can be told apart."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import qr
from statsmodels.regression.linear_model import OLS, WLS
from statsmodels.stats.outliers_influence import OLSInfluence
from statsmodels.tools.sm_exceptions import SingularMatrixWarning

from lora_scaling.errors import UserError

Array = NDArray[np.float64]
# statsmodels' RegressionResults, behind a wrapper that has no type: params, bse, conf_int(alpha), ssr, summary() …
Results = Any

RANK_TOLERANCE = 1e-13  # of unit-norm columns: below it a column is a combination of the others


class CollinearError(UserError):
    """Columns of a design that the others determine exactly; `.columns` names them."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        named = ", ".join(f"`{name}`" for name in columns)
        super().__init__(f"{named} is determined by the other factors in these runs; vary them separately.")


def span(columns: Array, tolerance: float = 1e-9, floor: float = 1.0) -> Array:
    """Return an orthonormal basis (n, rank) of the column space of `columns` (n, k).

    Directions below `tolerance` of the largest singular value, or of `floor` where that is smaller, are rounding.
    """
    if not columns.size:
        return np.zeros((len(columns), 0))
    u, scale, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, scale > tolerance * max(scale.max(initial=0.0), floor)]


def ols(y: ArrayLike, X: ArrayLike, names: Sequence[str]) -> Results:
    """Fit y (n,) on X (n, k) by ordinary least squares; `names` are the columns', and no intercept is added.

    Returns statsmodels' OLSResults; its arrays are in the order of `names`, and `summary()` prints them.
    Raises CollinearError for a column that the others determine, UserError for fewer observations than columns.
    """
    design = _checked(y, X, np.ones(1), names)
    return _named(OLS(np.asarray(y, dtype=float), design), names)


def wls(y: ArrayLike, X: ArrayLike, weights: ArrayLike, names: Sequence[str]) -> Results:
    """Fit by weighted least squares; `weights` (n,) are inverse variances up to a common factor. Else as `ols`.

    Predictions from its `get_prediction` need the new points' own `weights`, or their intervals are far too narrow.
    """
    w = np.asarray(weights, dtype=float)
    design = _checked(y, X, np.sqrt(w), names)
    weighted: Any = WLS  # its stub takes a float of weights
    return _named(weighted(np.asarray(y, dtype=float), design, weights=w), names)


def influence(results: Results) -> Any:
    """Return statsmodels' OLSInfluence of a fit, weighted or not: `hat_matrix_diag`, studentised residuals and more.

    statsmodels has them for OLS alone: a weighted fit is the ordinary one of its whitened columns.
    """
    return OLSInfluence(OLS(results.model.wendog, results.model.wexog).fit())


def _named(model: Any, names: Sequence[str]) -> Results:
    model.data.xnames = list(names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularMatrixWarning)  # said below, by name
        results = model.fit()
    if model.rank < len(names):  # columns of such different sizes that float64 cannot tell them apart
        raise CollinearError(names)
    return results


def _checked(y: ArrayLike, X: ArrayLike, root: Array, names: Sequence[str]) -> Array:
    """Return X as an array (n, k); raise if its columns cannot all be estimated."""
    design = np.atleast_2d(np.asarray(X, dtype=float))
    n, k = design.shape
    if len(names) != k or np.shape(y) != (n,) or len(root) not in (1, n):
        raise ValueError(f"y {np.shape(y)}, X {design.shape}, weights {root.shape}, {len(names)} names do not match")
    if n < k:
        raise UserError(f"RUNS: got {n}; this regression has {k} parameters and needs at least as many runs")
    scaled = root[:, None] * design
    norm = np.linalg.norm(scaled, axis=0)
    triangle: Any = qr(scaled / np.where(norm > 0, norm, 1.0), mode="r", pivoting=True)
    r, order = triangle
    diagonal = np.abs(np.diag(r))
    dependent = diagonal < RANK_TOLERANCE * max(diagonal.max(), np.finfo(float).tiny)
    if dependent.any():
        raise CollinearError([str(names[int(i)]) for i in order[dependent]])
    return design
