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
    train = frame["energy_train_kwh"].to_numpy(dtype=float)
    total, took_s = (
        _on_its_own(frame, *names) for names in (("energy_kwh", "energy_setup_kwh"), ("total_s", "setup_s"))
    )
    if response == "energy_train_kwh":
        energy, rows = (total - train) * JOULES_PER_KWH, trained
    else:
        energy, rows = total * JOULES_PER_KWH, ~trained & apart
    seconds = took_s - frame["train_s"].to_numpy(dtype=float)
    note = _note(frame)
    return {
        "energy_j": _spread(energy, rows, params, note),
        "time_s": _spread(seconds, trained, params, note),
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


def _reused(frame: pd.DataFrame) -> pd.Series:
    return frame["setup_reused"].map(lambda flag: flag is True).astype(bool)


def _on_its_own(frame: pd.DataFrame, total: str, setup: str) -> Array:
    """What each run (n,) would have taken in a process of its own: one that found its model or tokens in memory is
    charged the set-up that runs of its model paid which did not. As it was, where no run of its model tells."""
    paid = frame[setup].where(~_reused(frame))
    due = paid.groupby(frame["model"], dropna=False).transform("mean")
    extra = (due - frame[setup]).where(_reused(frame), 0.0)
    return (frame[total] + extra.fillna(0.0)).to_numpy(dtype=float)


def _note(frame: pd.DataFrame) -> str:
    reused = _reused(frame)
    if not reused.any():
        return "set-up, warm-up and evaluation"
    loaded = frame.loc[~reused & frame["energy_setup_kwh"].notna(), "model"]
    if frame["model"][reused].isin(loaded).all():
        runs = int((~reused).sum())
        themselves = "the one run paid it that loaded everything itself"
        return f"set-up as {themselves if runs == 1 else f'the {runs} runs paid it that loaded everything themselves'}"
    return "mostly of runs that found the model loaded: a run on its own costs more"


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
