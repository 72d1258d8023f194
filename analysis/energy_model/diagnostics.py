"""What there is to doubt in a fit: misfit, outliers, drift, uneven noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtrc, stdtr, stdtrit

from ..regression.least_squares import Array
from ..tables.checks import rank_correlation

if TYPE_CHECKING:
    from .energy_fit import ResponseFit


def diagnose(response: ResponseFit) -> dict[str, Any]:
    """Diagnostics of the best form: R² of log response, sigma, tests with their p, outliers by run id."""
    fit, work = response.best, response.work
    y = work.log_y
    total = float(np.sum((y - y.mean()) ** 2))
    studentised = externally_studentised(response)
    limit = float(stdtrit(max(fit.df - 1, 1), 1 - 0.05 / (2 * len(work))))
    outliers = np.flatnonzero(np.abs(studentised) > limit)
    return {
        "model": fit.form.name,
        "n": len(work),
        "df": fit.df,
        "sigma": fit.sigma,
        "r_squared_log": 1 - float(np.sum(fit.resid**2)) / total if total > 0 else None,
        "max_leverage": float(fit.leverage.max()),
        "lack_of_fit": _lack_of_fit(response),
        "heteroscedasticity_p": _breusch_pagan(response),
        "noise_exponent": response.noise[0] if response.noise else None,
        "outliers": [
            {"run_id": str(work.run_ids[i]), "studentised": float(studentised[i])}
            for i in outliers[np.argsort(-np.abs(studentised[outliers]))][:20]
        ],
    }


def externally_studentised(response: ResponseFit) -> Array:
    """Residuals of the best form over their own standard error with that run left out (n,)."""
    fit = response.best
    standardised = np.sqrt(response.weights) * fit.resid / np.sqrt(np.maximum(1 - fit.leverage, 1e-9))
    df = max(fit.df, 2)
    if fit.sigma < 1e-12:
        return np.zeros(len(standardised))
    ratio = np.clip((standardised / fit.sigma) ** 2 / df, 0, 1 - 1e-9)
    return standardised / fit.sigma * np.sqrt((df - 1) / df / (1 - ratio))


def order_correlation(response: ResponseFit, position: Array) -> dict[str, float] | None:
    """Spearman's ρ of residual and run order, with its p; None where the order is unknown."""
    rho = rank_correlation(position, response.best.resid)
    n = int(np.isfinite(position).sum())
    if not np.isfinite(rho) or n < 5 or abs(rho) >= 1:
        return None
    t = abs(rho) * np.sqrt((n - 2) / (1 - rho**2))
    return {"rho": float(rho), "p": float(2 * stdtr(n - 2, -t))}


def _cells(response: ResponseFit) -> NDArray[np.int64]:
    """Runs of the same work share a number."""
    work = response.work
    names = [name for name in (work.size, work.per, "rank", "batch_size", "gpu_count") if name]
    keys = [np.round(np.nan_to_num(np.log(np.maximum(work.values[name], 1e-300)), nan=-1.0), 3) for name in names]
    labels = [np.unique(label.astype(str), return_inverse=True)[1] for label in work.labels.values()]
    cells = np.unique(np.column_stack([*keys, *labels]), axis=0, return_inverse=True)[1]
    return cells.ravel().astype(np.int64)


def _lack_of_fit(response: ResponseFit) -> dict[str, float] | None:
    """F test of the best form against pure error between replicates; None without replicates to spare."""
    fit, cells, w = response.best, _cells(response), response.weights
    count = np.bincount(cells)
    mean = np.bincount(cells, weights=w * fit.resid) / np.bincount(cells, weights=w)
    pure = float(np.sum(w * (fit.resid - mean[cells]) ** 2))
    df_pure, df_misfit = len(cells) - len(count), fit.df - (len(cells) - len(count))
    if df_pure < 3 or df_misfit < 1 or pure <= 0:
        return None
    f = max(fit.rss - pure, 0.0) / df_misfit / (pure / df_pure)
    return {"f": f, "p": float(fdtrc(df_misfit, df_pure, f)), "df_misfit": df_misfit, "df_pure": df_pure}


def _breusch_pagan(response: ResponseFit) -> float | None:
    """p of Koenker's studentised Breusch–Pagan test on the log of the work."""
    squared = response.weights * response.best.resid**2
    x = np.log(response.work.values[response.work.total])
    if len(x) < 8 or np.ptp(x) < 1e-9 or np.ptp(squared) < 1e-300:
        return None
    r = float(np.corrcoef(x, squared)[0, 1])
    return float(chdtrc(1, len(x) * r * r))
