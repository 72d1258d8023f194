"""What a run costs besides training: set-up, warm-up and evaluation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_scaling.units import JOULES_PER_KWH

from .regression import Array, ols
from .work import group_levels, one_name_each

LEAST_SIZES = 3
LEAST_RUNS = 6
# Where model sizes say too little: loading and evaluating cost something between the same and in proportion.
EXPONENT_PRIOR = (0.5, 0.3)


def fixed_part(frame: pd.DataFrame, response: str, *, apart: bool) -> dict[str, Any]:
    """`fixed` of fit.json: {"energy_j", "time_s"}, each {"mean", "sd", "n", "models", "note"} or None.

    `response` is the column that the training models explain. Where that is the total, the fixed part is in it, unless
    it was taken off (`apart`) as runs of zero steps measured it.
    """
    params = frame["params"].to_numpy(dtype=float)
    trained = (frame["samples_seen"] > 0).to_numpy()
    total, train = (frame[name].to_numpy(dtype=float) for name in ("energy_kwh", "energy_train_kwh"))
    if response == "energy_train_kwh":
        energy, rows = (total - train) * JOULES_PER_KWH, trained
    else:
        energy, rows = total * JOULES_PER_KWH, ~trained & apart
    seconds = frame["total_s"].to_numpy(dtype=float) - frame["train_s"].to_numpy(dtype=float)
    fresh, note = _fresh(frame)
    return {
        "energy_j": _spread(energy, rows & fresh, params, note),
        "time_s": _spread(seconds, trained & fresh, params, note),
    }


def idle_kwh(frame: pd.DataFrame) -> Array | None:
    """Mean energy (n,) of the runs of zero steps with each run's model, method and hardware.

    None where those that trained include some of which no run of zero steps tells, or where there is but one of these.
    """
    trained = (frame["samples_seen"] > 0).to_numpy()
    idle = frame["energy_kwh"].where(~trained & np.isfinite(frame["energy_kwh"]))
    keys = [frame["model"], frame["method"], one_name_each(frame["hardware"])]
    mean = idle.groupby(keys, dropna=False).transform("mean").to_numpy(dtype=float)
    return mean if idle.notna().sum() >= 2 and np.isfinite(mean[trained]).all() else None


def _fresh(frame: pd.DataFrame) -> tuple[NDArray[np.bool_], str]:
    """Runs that loaded and tokenised for themselves, where there are at least two; else all."""
    reused = frame["setup_reused"].map(lambda flag: flag is True).to_numpy(dtype=bool)
    if not reused.any():
        return ~reused, "set-up, warm-up and evaluation"
    if (~reused).sum() >= 2:
        return ~reused, f"of the {int((~reused).sum())} runs that loaded everything themselves"
    return np.ones(len(frame), dtype=bool), "mostly of runs that found the model loaded: a run on its own costs more"


def _spread(values: Array, rows: NDArray[np.bool_], params: Array, note: str) -> dict[str, Any] | None:
    rows = rows & np.isfinite(values) & (values > 0)
    if not rows.any():
        return None
    chosen = values[rows]
    document: dict[str, Any] = {
        "mean": float(chosen.mean()),
        "sd": float(chosen.std(ddof=1)) if len(chosen) > 1 else None,
        "n": len(chosen),
        "note": note,
    }
    if np.isfinite(params[rows]).all() and (params[rows] > 0).all() and len(chosen) >= 2:
        document["models"] = [_by_size(np.log(chosen), params[rows])]
    return document


def _by_size(log_y: Array, params: Array) -> Mapping[str, Any]:
    """log F = a + b·log(parameters): fitted where sizes varied enough, else with b from its prior."""
    x, n = np.log(params), len(log_y)
    if n >= LEAST_RUNS and len(group_levels(params)[0]) >= LEAST_SIZES:
        fit = ols(log_y, np.column_stack([np.ones(n), x]), ["alpha", "params_exponent"])
        estimates, covariance, df, sigma, name = fit.params, fit.cov, fit.df, fit.sigma, "power of parameters"
    else:
        b, b_sd = EXPONENT_PRIOR
        rest = log_y - b * x
        sigma, df, centre = float(rest.std(ddof=1)), n - 1, float(x.mean())
        estimates = np.array([rest.mean(), b])
        variance = b_sd**2
        covariance = np.array(
            [[sigma**2 / n + variance * centre**2, -variance * centre], [-variance * centre, variance]]
        )
        name = f"power of parameters, exponent {b} ± {b_sd} assumed"
    return {
        "name": name,
        "weight": 1.0,
        "per": "run",
        "terms": {"alpha": "1", "params_exponent": "log(params)"},
        "params": {"alpha": float(estimates[0]), "params_exponent": float(estimates[1])},
        "param_names": ["alpha", "params_exponent"],
        "covariance": covariance.tolist(),
        "df": df,
        "sigma": sigma,
    }
