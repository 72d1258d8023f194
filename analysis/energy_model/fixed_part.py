"""Fit what a run costs besides training: set-up, warm-up and evaluation.

How that grows with the model's size shows only if the runs' models differ much, and beyond them it matters most. So
three forms are averaged: a constant, a constant with a share that is proportional to the parameters, and a power of the
parameters. The last two take all values of their shape that the runs leave open, weighted by a prior.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_scaling.units import JOULES_PER_KWH

from ..arrays import Array
from ..regression.least_squares import ols
from ..tables.response_column import is_energy
from ..tables.run_quantities import one_name_each
from .response_kind import kind_of

# Joules or seconds that a set-up takes for each parameter, and the spread (log scale) of that: weights of two bytes,
# read and moved at about 1 GB/s on a machine that draws 150 W. From a cached file to a network or a quantisation on the
# way, it is a tenth to ten times as much (90 %).
GROWTH = {"energy_j": (3e-7, 1.4), "time_s": (2e-9, 1.4)}
EXPONENT = (0.5, 0.3)  # of the power of the parameters: between one cost for all and in proportion
CONSTANT, GROWING, POWER = 0.25, 0.5, 0.25  # the forms' weights before any run
GRID = 200  # values of a form's shape that are weighed
VALUES_KEPT = 12  # of each form, in the document, each with the same share of its weight
LEAST_SHARE = 0.01  # of the weight that a form must have
LEAST_SCATTER = 1e-3  # of the log of repeated runs; the likelihood takes none to be less
SCATTER_OF_ONE = 0.3  # assumed for the log of the fixed part if only one run tells of it


def fixed_part(frame: pd.DataFrame, response: str, *, apart: bool, alone: bool = False) -> dict[str, Any]:
    """Return `fixed` of fit.json: {"energy_j", "time_s"}, each {"mean", "sd", "n", "models", "note"} or None.

    `response` is the column that the training models explain. If that is the total, it includes the fixed part, unless
    this was subtracted (`apart`) as measured by runs of zero steps. If training `alone` is asked for, or its time, then
    no energy is added to it.
    """
    params = frame["params"].to_numpy(dtype=float)
    trained = (frame["samples_seen"] > 0).to_numpy()
    train = frame["energy_train_kwh"].to_numpy(dtype=float)
    total, took_s = (
        _on_its_own(frame, *names) for names in (("energy_kwh", "energy_setup_kwh"), ("total_s", "setup_s"))
    )
    if response == "energy_gpu_kwh":
        total = frame[response].to_numpy(dtype=float)
    if alone or response == "train_s":
        energy, rows = np.full(len(frame), np.nan), trained
    elif response == "energy_train_kwh":
        energy, rows = (total - train) * JOULES_PER_KWH, trained
    else:
        energy, rows = total * JOULES_PER_KWH, ~trained & apart
    seconds = took_s - frame["train_s"].to_numpy(dtype=float)
    note = _note(frame)
    labels = pd.DataFrame({"hardware": one_name_each(frame["hardware"]), "method": frame["method"]})
    found = {
        "energy_j": _spread(energy, rows, params, labels, note, GROWTH["energy_j"]),
        "time_s": _spread(seconds, trained, params, labels, note, GROWTH["time_s"]),
    }
    if not is_energy(response) and response != "train_s":  # what runs of zero steps had of it, if that was subtracted
        kind = kind_of(response)
        own, idle = frame[response].to_numpy(dtype=float) * kind.per_unit, ~trained & apart
        unsized = np.full(len(frame), np.nan)  # nobody knows how it grows with the model
        found[kind.fixed_key] = _spread(own, idle, unsized, labels, note, GROWTH["energy_j"])
    return found


def idle_kwh(frame: pd.DataFrame, column: str = "energy_kwh") -> Array | None:
    """Return the mean energy (n,) of the runs of zero steps with each run's model, method and hardware.

    None if no run of zero steps matches some run that trained, or if only one exists.
    """
    trained = (frame["samples_seen"] > 0).to_numpy()
    idle = frame[column].where(~trained & np.isfinite(frame[column]))
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
    values: Array, rows: NDArray[np.bool_], params: Array, labels: pd.DataFrame, note: str, growth: tuple[float, float]
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
    if sized:
        document["models"] = _sized_models(np.log(chosen), params[rows], effects, growth)
    elif len(chosen) >= 2 and effects:
        document["models"] = [_of_labels(np.log(chosen), effects)]
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


def _named(form: str, effects: Mapping[str, Array]) -> str:
    labels = dict.fromkeys(term.partition("=")[0] for term in effects)
    return ", ".join(filter(None, (form, "by " + " and ".join(labels) if labels else "")))


@dataclass(frozen=True, kw_only=True)
class _Form:
    """log F = alpha + effects + shift of the run by the held parameter, for each `value` (m,) of a grid of it.

    `shift` is (n, m). With `of_alpha`, the prior (mean, sd) is of alpha at each value, otherwise of the value itself.
    """

    name: str
    per: str
    held: str
    term: str
    value: Array
    shift: Array
    prior: tuple[float, float]
    of_alpha: bool


def _sized_models(
    log_y: Array, params: Array, effects: Mapping[str, Array], growth: tuple[float, float]
) -> list[dict[str, Any]]:
    """Return models of both forms at the values that the runs leave open, by their share of the posterior.

    A value's likelihood is that of the regression on constant and effects with it held.
    """
    n, design = len(log_y), np.column_stack([np.ones(len(log_y)), *effects.values()])
    df = n - design.shape[1]
    forms = (
        (_constant(n), CONSTANT),
        (_constant_and_growth(log_y, params, growth), GROWING),
        (_power(params), POWER),
    )
    densities, fits = [], []
    for form, prior in forms:
        response = log_y[:, None] - form.shift
        estimates = np.linalg.lstsq(design, response, rcond=None)[0]
        rss = np.sum((response - design @ estimates) ** 2, axis=0)
        z = ((estimates[0] if form.of_alpha else form.value) - form.prior[0]) / form.prior[1]
        step = np.ptp(form.value) / (len(z) - 1) / form.prior[1] / math.sqrt(2 * math.pi) if len(z) > 1 else 1.0
        densities.append(math.log(prior * step) - 0.5 * z**2 - 0.5 * df * np.log(rss + n * LEAST_SCATTER**2))
        fits.append((estimates, rss))
    largest = max(float(density.max()) for density in densities)
    total = sum(float(np.exp(density - largest).sum()) for density in densities)
    models = []
    for (form, _), (estimates, rss), density in zip(forms, fits, densities, strict=True):
        part = np.exp(density - largest) / total
        if part.sum() < LEAST_SHARE:
            continue
        middles = part.sum() * (np.arange(VALUES_KEPT) + 0.5) / VALUES_KEPT
        kept, count = np.unique(np.searchsorted(np.cumsum(part), middles), return_counts=True)
        for i, times in zip(kept, count, strict=True):
            # With no run to spare, the scatter is assumed.
            sigma = math.sqrt(rss[i] / df) if df > 0 else SCATTER_OF_ONE
            covariance = np.asarray(sigma**2 * np.linalg.inv(design.T @ design), dtype=float)
            models.append(
                {
                    "name": _named(form.name, effects),
                    "weight": float(part.sum() * times / VALUES_KEPT),
                    "per": form.per,
                    **_parameters(effects, estimates[:, i], covariance),
                    "df": df if df > 0 else None,
                    "sigma": sigma,
                }
            )
            models[-1]["terms"][form.held] = form.term
            models[-1]["params"][form.held] = float(form.value[i])
            models[-1]["param_names"].append(form.held)
            models[-1]["covariance"] = np.pad(models[-1]["covariance"], (0, 1)).tolist()
    weight = sum(model["weight"] for model in models)
    return sorted((m | {"weight": m["weight"] / weight} for m in models), key=lambda m: -m["weight"])


def _parameters(effects: Mapping[str, Array], estimates: Array, covariance: Array) -> dict[str, Any]:
    """Return terms, params, param_names and covariance of fit.json, for a constant and effects."""
    terms = {"alpha": "1"} | {term.replace("=", "[", 1) + "]": term for term in effects}
    return {
        "terms": terms,
        "params": dict(zip(terms, map(float, estimates), strict=True)),
        "param_names": list(terms),
        "covariance": covariance.tolist(),
    }


def _constant(n: int) -> _Form:
    """F = e^alpha, as a power of 0."""
    return _Form(
        name="a constant",
        per="run",
        held="params_exponent",
        term="log(params)",
        value=np.zeros(1),
        shift=np.zeros((n, 1)),
        prior=(0.0, 1.0),
        of_alpha=False,
    )


def _constant_and_growth(log_y: Array, params: Array, growth: tuple[float, float]) -> _Form:
    """F = e^alpha · (params + e^log_constant): from proportional to size in these runs to a growth that none show."""
    log_n, prior = np.log(params), (math.log(growth[0]), growth[1])
    high = max(log_n.max() + math.log(10.0), log_y.max() - (prior[0] - 2.5 * prior[1]))
    value = np.linspace(log_n.min() - math.log(30.0), high, GRID)
    return _Form(
        name="a constant and a share that grows with the model's size",
        per="params",
        held="log_constant",
        term="saturation(params)",
        value=value,
        shift=log_n[:, None] + np.logaddexp(0.0, value - log_n[:, None]),
        prior=prior,
        of_alpha=True,
    )


def _power(params: Array) -> _Form:
    """F = e^alpha · params^b, with b up to three standard deviations from its prior."""
    value = np.linspace(EXPONENT[0] - 3 * EXPONENT[1], EXPONENT[0] + 3 * EXPONENT[1], GRID)
    return _Form(
        name="power of the model's size",
        per="run",
        held="params_exponent",
        term="log(params)",
        value=value,
        shift=np.log(params)[:, None] * value,
        prior=EXPONENT,
        of_alpha=False,
    )


def _of_labels(log_y: Array, effects: Mapping[str, Array]) -> dict[str, Any]:
    """Return the model of fixed parts that differ by device and method, of models whose sizes are unknown."""
    fit = ols(log_y, np.column_stack([np.ones(len(log_y)), *effects.values()]), ["alpha", *effects])
    return {
        "name": _named("", effects),
        "weight": 1.0,
        "per": "run",
        **_parameters(effects, np.asarray(fit.params), np.asarray(fit.cov_params())),
        "df": int(fit.df_resid),
        "sigma": float(np.sqrt(fit.scale)),
    }
