"""Fit what a run costs besides training: set-up, warm-up and evaluation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_scaling.units import JOULES_PER_KWH

from ..arrays import Array
from ..regression.least_squares import ols
from ..tables.run_quantities import group_levels, one_name_each

LEAST_SIZES = 3
LEAST_RUNS = 6
# Used if model sizes vary too little: loading and evaluating cost between the same and in proportion.
EXPONENT_PRIOR = (0.5, 0.3)


def fixed_part(frame: pd.DataFrame, response: str, *, apart: bool) -> dict[str, Any]:
    """Return `fixed` of fit.json: {"energy_j", "time_s"}, each {"mean", "sd", "n", "models", "note"} or None.

    `response` is the column that the training models explain. If that is the total, it includes the fixed part, unless
    this was subtracted (`apart`) as measured by runs of zero steps.
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
    labels = pd.DataFrame({"hardware": one_name_each(frame["hardware"]), "method": frame["method"]})
    return {
        "energy_j": _spread(energy, rows, params, labels, note),
        "time_s": _spread(seconds, trained, params, labels, note),
    }


def idle_kwh(frame: pd.DataFrame) -> Array | None:
    """Return the mean energy (n,) of the runs of zero steps with each run's model, method and hardware.

    None if no run of zero steps matches some run that trained, or if only one exists.
    """
    trained = (frame["samples_seen"] > 0).to_numpy()
    idle = frame["energy_kwh"].where(~trained & np.isfinite(frame["energy_kwh"]))
    keys = [frame["model"], frame["method"], one_name_each(frame["hardware"])]
    mean = idle.groupby(keys, dropna=False).transform("mean").to_numpy(dtype=float)
    return mean if idle.notna().sum() >= 2 and np.isfinite(mean[trained]).all() else None


def _reused(frame: pd.DataFrame) -> pd.Series:
    return frame["setup_reused"].map(lambda flag: flag is True).astype(bool)


def _on_its_own(frame: pd.DataFrame, total: str, setup: str) -> Array:
    """Return what each run (n,) would have taken in its own process.

    A run that found its model or tokens in memory is charged the set-up of runs with its model and device that did not,
    and with its method if possible. Without such runs, it stays as it was.
    """
    extra = (_due(frame, setup) - frame[setup]).where(_reused(frame), 0.0)
    return (frame[total] + extra.fillna(0.0)).to_numpy(dtype=float)


def _due(frame: pd.DataFrame, setup: str) -> pd.Series:
    """Return the mean set-up (n,) of the runs of each run's kind that loaded everything themselves; NaN without any."""
    paid = frame[setup].where(~_reused(frame))
    kind = [frame["model"], one_name_each(frame["hardware"])]
    of_method = paid.groupby([*kind, frame["method"]], dropna=False).transform("mean")
    return of_method.fillna(paid.groupby(kind, dropna=False).transform("mean"))


def _note(frame: pd.DataFrame) -> str:
    reused = _reused(frame)
    if not reused.any():
        return "set-up, warm-up and evaluation"
    if _due(frame, "energy_setup_kwh")[reused].notna().all():
        runs = int((~reused).sum())
        themselves = "the one run paid it that loaded everything itself"
        return f"set-up as {themselves if runs == 1 else f'the {runs} runs paid it that loaded everything themselves'}"
    return "mostly of runs that found the model loaded: a run on its own costs more"


def _spread(
    values: Array, rows: NDArray[np.bool_], params: Array, labels: pd.DataFrame, note: str
) -> dict[str, Any] | None:
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
    sized = bool(np.isfinite(params[rows]).all() and (params[rows] > 0).all())
    effects = _effects(labels[rows])
    if len(chosen) >= 2 and (sized or effects):
        document["models"] = [_model(np.log(chosen), params[rows] if sized else None, effects)]
    return document


def _effects(labels: pd.DataFrame) -> dict[str, Array]:
    """Return terms (n,) for devices and methods, relative to the most common, as far as the runs identify them."""
    columns, terms = [np.ones(len(labels))], {}
    for label in labels:
        for name in labels[label].dropna().value_counts().index[1:]:
            column = (labels[label] == name).to_numpy(dtype=float)
            if len(labels) > len(columns) + 2 and np.linalg.matrix_rank(np.column_stack([*columns, column])) > len(
                columns
            ):
                columns.append(column)
                terms[f"{label}={name}"] = column
    return terms


def _model(log_y: Array, params: Array | None, effects: Mapping[str, Array]) -> Mapping[str, Any]:
    """Fit log F = a + b·log(parameters) + effects. b is fitted if sizes vary enough, else taken from its prior."""
    terms = {"alpha": "1"} | {term.replace("=", "[", 1) + "]": term for term in effects}
    design = np.column_stack([np.ones(len(log_y)), *effects.values()])
    named = "by " + " and ".join(dict.fromkeys(term.partition("=")[0] for term in effects)) if effects else ""
    if params is None:
        how, fit = named, ols(log_y, design, list(terms))
        estimates, covariance = fit.params, fit.cov_params()
    elif len(log_y) >= LEAST_RUNS and len(group_levels(params)[0]) >= LEAST_SIZES and _free(design, np.log(params)):
        how = ", ".join(filter(None, ("power of parameters", named)))
        terms["params_exponent"] = "log(params)"
        fit = ols(log_y, np.column_stack([design, np.log(params)]), list(terms))
        estimates, covariance = fit.params, fit.cov_params()
    else:
        b, b_sd = EXPONENT_PRIOR
        x = np.log(params)
        how = ", ".join(filter(None, (f"power of parameters, exponent {b} ± {b_sd} assumed", named)))
        fit = ols(log_y - b * x, design, list(terms))
        terms["params_exponent"] = "log(params)"
        moved = np.append(-np.linalg.lstsq(design, x, rcond=None)[0], 1.0)  # change of the estimates per unit of b
        estimates = np.append(fit.params, b)
        covariance = np.pad(fit.cov_params(), (0, 1)) + b_sd**2 * np.outer(moved, moved)
    return {
        "name": how,
        "weight": 1.0,
        "per": "run",
        "terms": terms,
        "params": dict(zip(terms, map(float, estimates), strict=True)),
        "param_names": list(terms),
        "covariance": covariance.tolist(),
        "df": int(fit.df_resid),
        "sigma": float(np.sqrt(fit.scale)),
    }


def _free(design: Array, x: Array) -> bool:
    """Return whether sizes vary beyond what the effects explain, with enough runs."""
    wider = np.column_stack([design, x])
    return len(x) > wider.shape[1] + 1 and bool(np.linalg.matrix_rank(wider) == wider.shape[1])
