"""Diagnose a fit: misfit, outliers, drift over the run order, uneven noise."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import f as f_distribution
from scipy.stats import spearmanr
from scipy.stats import t as t_distribution
from statsmodels.stats.diagnostic import het_breuschpagan

from ..arrays import Array
from .response_fit import ResponseFit

OUTLIER_P = 0.05  # Bonferroni over the runs
MOST_NAMED = 20
MISFIT_P = 0.01  # of the lack of fit, below which a form does not fit
EXACT = 1e-12  # a scatter of log response below this is rounding


def diagnose(response: ResponseFit) -> dict[str, Any]:
    """Return diagnostics of the best form: R² of log response, sigma, tests with their p, outliers by run id."""
    fit, work = response.best, response.work
    total = float(np.sum((work.log_y - work.log_y.mean()) ** 2))
    studentised = externally_studentised(response)
    limit = t_distribution.isf(OUTLIER_P / (2 * len(work)), max(fit.df - 1, 1))
    outliers = [i for i in np.argsort(-np.abs(studentised)) if abs(studentised[i]) > limit]
    return {
        "model": fit.form.name,
        "n": len(work),
        "df": fit.df,
        "sigma": fit.sigma,
        "r_squared_log": 1 - float(np.sum(fit.resid**2)) / total if total > 0 else None,
        "max_leverage": float(fit.leverage.max()),
        "lack_of_fit": _lack_of_fit(response),
        "heteroscedasticity_p": _breusch_pagan_p(response),
        "noise_exponent": response.noise[0] if response.noise else None,
        "outliers": [
            {"run_id": str(work.run_ids[i]), "studentised": float(studentised[i])} for i in outliers[:MOST_NAMED]
        ],
    }


def externally_studentised(response: ResponseFit) -> Array:
    """Return residuals (n,) of the best form over their standard error with that run left out.

    statsmodels refits without each run, and divides by 0 at a run that has a parameter to itself; Cook & Weisberg
    (1982, eq. 2.2.10) give the same in one step.
    """
    fit = response.best
    if fit.sigma < EXACT:
        return np.zeros(len(response.work))
    df = max(int(fit.results.df_resid), 2)
    internal = fit.results.wresid / np.sqrt(fit.results.scale * np.maximum(1 - fit.leverage, 1e-9))
    return internal * np.sqrt((df - 1) / np.maximum(df - internal**2, 1e-9 * df))


def order_correlation(response: ResponseFit, position: Array) -> dict[str, float] | None:
    """Return Spearman's ρ of residual and run order, with its p; None if the order is unknown."""
    known = np.isfinite(position)
    if known.sum() < 5 or np.ptp(position[known]) == 0:
        return None
    found: Any = spearmanr(position[known], response.best.resid[known])
    rho = float(found.statistic)
    return {"rho": rho, "p": float(found.pvalue)} if abs(rho) < 1 else None


def _lack_of_fit(response: ResponseFit) -> dict[str, float] | None:
    """Test the best form against pure error between replicates; None without enough replicates.

    `largest_departure` is how far (relative) the mean of repeated runs lies off the form at most.

    The larger model has a mean for each set of replicates, which is far too many columns for a regression.
    """
    fit, cell, w = response.best, _replicates(response), response.weights
    count = np.bincount(cell)
    mean = np.bincount(cell, weights=w * fit.resid) / np.bincount(cell, weights=w)
    pure = float(np.sum(w * (fit.resid - mean[cell]) ** 2))
    df_pure, df_misfit = len(cell) - len(count), fit.df - (len(cell) - len(count))
    if df_pure < 3 or df_misfit < 1 or pure <= 0:
        return None
    f = max(float(fit.results.ssr) - pure, 0.0) / df_misfit / (pure / df_pure)
    farthest = int(np.argmax(np.abs(np.where(count > 1, mean, 0.0))))
    return {
        "f": f,
        "p": float(f_distribution.sf(f, df_misfit, df_pure)),
        "df_misfit": df_misfit,
        "df_pure": df_pure,
        "largest_departure": float(np.expm1(abs(mean[farthest]))),
    }


def _replicates(response: ResponseFit) -> NDArray[np.intp]:
    """Number the sets of runs that did the same work, to 0.1 %: as many samples, as many epochs, not their product."""
    work = response.work
    names = [name for name in (work.size, work.per, "samples", "epochs", "rank", "batch_size", "gpu_count") if name]
    logs = {name: np.log(np.maximum(work.values[name], 1e-300)).round(3) for name in names}
    labels = {name: label.astype(str) for name, label in work.labels.items()}
    keys = pd.DataFrame(logs | labels)
    return np.asarray(keys.groupby(list(keys), dropna=False, sort=False).ngroup(), dtype=np.intp)


def _breusch_pagan_p(response: ResponseFit) -> float | None:
    """Return p of Koenker's studentised Breusch–Pagan test on the log of the work."""
    resid = response.results.wresid
    x = np.log(response.work.values[response.work.total])
    if len(x) < 8 or np.ptp(x) < 1e-9 or np.ptp(resid**2) < 1e-300:
        return None
    return float(het_breuschpagan(resid, np.column_stack([np.ones(len(x)), x]))[1])
