"""From a table of runs to a fit: weighted models of training energy and time, and the fixed part of a run.

The document is what `fit.json` holds; `lora_scaling.estimate.fit_file` evaluates it. Everything that a reader
needs in order to doubt it is in there: n, ranges, covariances, diagnostics, what was left out and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_scaling.errors import UserError
from lora_scaling.estimate.fit_file import SCHEMA_VERSION, Fit, fit_from_dict
from lora_scaling.estimate.pilot import RUN_TO_RUN_SD, RUN_TO_RUN_SD_CPU
from lora_scaling.units import JOULES_PER_KWH

from ..regression.least_squares import Array
from ..tables.run_quantities import Work, ranges_of, work_of
from ..tables.table import Excluded
from .diagnostics import diagnose
from .fixed_part import fixed_part, idle_kwh
from .form_fit import FormFit, fit_forms, weigh
from .forms import family, identified, label_effects

LEAST_RUNS = 3
NOISE_LEAST_RUNS = 20
NOISE_P = 0.01
NOISE_LIMIT = 0.75
COVARIATES = ("adapter_rank", "batch_size")
MANY_SESSIONS = 10  # fewer are no sample of sessions
COVARIATE_GAIN = 4.0  # AICc that an optional factor must gain to enter
# Log-scale spread for each factor e beyond the data where the runs say nothing of a slope: utilisation in the
# published rows (reference of estimator.md) rises tenfold from launch-bound to saturated over e^5 in size.
UNKNOWN_SLOPE_SD = {"flops_per_token": 0.25, "params": 0.25, "tokens": 0.1, "samples_seen": 0.1}


@dataclass(frozen=True, kw_only=True)
class ResponseFit:
    """A weighted family for one response. `noise` is (exponent, reference) where the spread varies with the work."""

    work: Work
    weighted: tuple[tuple[float, FormFit], ...]
    noise: tuple[float, float] | None
    weights: Array

    @property
    def best(self) -> FormFit:
        return self.weighted[0][1]

    @property
    def fitted(self) -> Array:
        """log of the best form's fitted response (n,)."""
        return self.work.log_y - self.best.resid


@dataclass(frozen=True, kw_only=True)
class EnergyFit:
    """A fit in three shapes: the document, what evaluates it, and the runs it came from."""

    document: dict[str, Any]
    fit: Fit
    energy: ResponseFit
    time: ResponseFit | None
    response: str
    notes: tuple[str, ...]


def fit_table(
    frame: pd.DataFrame,
    excluded: Sequence[Excluded] = (),
    *,
    path: str = "fit.json",
    with_time: bool = True,
    training: "Training | None" = None,
) -> EnergyFit:
    """Fit the nested family to a table of runs (columns as `load_runs` gives them).

    `training` is what these runs' training took, where the table is a part of one that tells more.

    Raises UserError where fewer than three runs trained with a known energy.
    """
    training = training or training_energy(frame)
    work, left_out, assumed = work_of(frame, training.joules)
    if len(work) < LEAST_RUNS:
        raise UserError(
            f"`runs` that trained with a known energy were {len(work)}; a fit needs at least {LEAST_RUNS}: make more."
        )
    energy = fit_response(work)
    time, _, _ = work_of(frame, frame["train_s"].to_numpy(dtype=float))
    time_fit = fit_response(time) if with_time and len(time) >= LEAST_RUNS and time.per == work.per else None
    aliased = label_effects(work)[1]
    if aliased:
        assumed.append(f"The effect of {', '.join(aliased)} cannot be told from that of other labels: taken together.")
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": "energy_fit",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "response": training.response,
        "response_unit": "J",
        "n": len(work),
        "models": [_model(weight, fit, energy) for weight, fit in energy.weighted],
        "time": {
            "response": "train_s",
            "response_unit": "s",
            "n": len(time) if time_fit else 0,
            "models": [_model(weight, fit, time_fit) for weight, fit in time_fit.weighted] if time_fit else [],
        },
        "fixed": fixed_part(frame, training.response, apart=training.apart),
        "ranges": ranges_of(work),
        "beyond": beyond_rates(work),
        "methods": _seen(work, "method"),
        "hardware": _seen(work, "hardware"),
        "precisions": _seen(work, "precision"),
        "gpu_counts": sorted({int(count) for count in work.values["gpu_count"]}),
        "diagnostics": {"energy": diagnose(energy), "time": diagnose(time_fit) if time_fit else None},
        "excluded": [{"run_id": item.run_id, "reason": item.reason} for item in (*excluded, *left_out)],
        "notes": [*training.notes, *assumed],
    }
    return EnergyFit(
        document=document,
        fit=fit_from_dict(document, path),
        energy=energy,
        time=time_fit,
        response=training.response,
        notes=tuple(document["notes"]),
    )


@dataclass(frozen=True, kw_only=True)
class Training:
    """What training took: joules (n,) of each run of a table, and the column they come from.

    `apart`: what a run costs besides was taken off as runs of zero steps measured it; `notes` say what was assumed.
    """

    response: str
    joules: Array
    apart: bool
    notes: tuple[str, ...]

    def take(self, rows: NDArray[np.integer]) -> "Training":
        """The same of some rows of the table."""
        return replace(self, joules=self.joules[rows])


def training_energy(frame: pd.DataFrame) -> Training:
    """The energy of the training phase; else the total less that of runs of zero steps; else the total."""
    train = frame["energy_train_kwh"].to_numpy(dtype=float)
    trained = (frame["samples_seen"] > 0).to_numpy()
    if np.isfinite(train[trained]).sum() >= 0.5 * trained.sum() > 0:
        return Training(response="energy_train_kwh", joules=train * JOULES_PER_KWH, apart=True, notes=())
    total, idle = frame["energy_kwh"].to_numpy(dtype=float), idle_kwh(frame)
    if idle is not None:
        count = int((~trained & np.isfinite(total)).sum())
        note = (
            f"Training energy is unknown: taken as the total minus the mean of {count} runs of zero steps, "
            "each of the same model, method and hardware."
        )
        return Training(response="energy_kwh", joules=(total - idle) * JOULES_PER_KWH, apart=True, notes=(note,))
    note = "Training energy is unknown: the whole run's energy is modelled, its fixed part included."
    return Training(response="energy_kwh", joules=total * JOULES_PER_KWH, apart=False, notes=(note,))


def fit_response(work: Work) -> ResponseFit:
    """Weigh the family on one response; twice where the first residuals show that noise varies with the work."""
    weights = np.ones(len(work))
    weighted, covariates = _fit_family(work, weights, None)
    noise = _noise_trend(work, weighted[0][1])
    if noise is not None:
        weights = (work.values[work.total] / noise[1]) ** (-2 * noise[0])
        weighted, _ = _fit_family(work, weights, covariates)
    return ResponseFit(work=work, weighted=tuple(weighted), noise=noise, weights=weights)


def _fit_family(
    work: Work, weights: Array, covariates: Sequence[str] | None
) -> tuple[list[tuple[float, FormFit]], Sequence[str]]:
    """The weighted family, with the optional factors that earn their place (or those given)."""
    fits = fit_forms(work, family(work, covariates or ()), weights)
    chosen = list(covariates or ())
    for name in COVARIATES if covariates is None else ():
        if not np.isfinite(work.values[name]).all() or work.levels(name) < 3:
            continue
        wider = fit_forms(work, family(work, [*chosen, name]), weights)
        if wider and min(f.aicc for f in wider) < min(f.aicc for f in fits) - COVARIATE_GAIN:
            fits, chosen = wider, [*chosen, name]
    return weigh(fits), chosen


def _noise_trend(work: Work, fit: FormFit) -> tuple[float, float] | None:
    """(exponent, reference): sigma ∝ work^exponent, where log squared residuals say so at p < NOISE_P.

    The log of a squared standard normal has variance π²/2, so the slope's standard error is known.
    """
    x = np.log(work.values[work.total])
    centred = x - x.mean()
    spread = float(centred @ centred)
    if len(work) < NOISE_LEAST_RUNS or spread < 1e-9 or fit.sigma < 1e-9:
        return None
    scaled = fit.resid / np.sqrt(np.maximum(1 - fit.leverage, 1e-3))
    floor = 1e-4 * fit.sigma**2
    slope = float(centred @ np.log(scaled**2 + floor)) / spread
    if abs(slope) / np.sqrt(np.pi**2 / 2 / spread) < -_normal_quantile(NOISE_P / 2):
        return None
    return float(np.clip(slope / 2, -NOISE_LIMIT, NOISE_LIMIT)), float(np.exp(x.mean()))


def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))


def beyond_rates(work: Work) -> dict[str, float]:
    """Spread a factor e beyond the data for quantities whose slope these runs leave open, else 0."""
    names = [name for name in (work.size, work.per) if name]
    return {name: 0.0 if identified(work, name) else UNKNOWN_SLOPE_SD[name] for name in names}


def between_sessions(frame: pd.DataFrame) -> dict[str, Any] | None:
    """`session` of fit.json: what a run in a process of its own may differ by, beyond what these runs scatter by.

    None where sessions are not known, or so many that the runs' scatter holds it. The spread is assumed: as a pilot's.
    """
    sessions = frame["session"]
    if sessions.isna().any() or sessions.nunique() >= MANY_SESSIONS:
        return None
    on_gpu = bool((frame["gpu_count"] > 0).any())
    return {
        "sd": RUN_TO_RUN_SD if on_gpu else RUN_TO_RUN_SD_CPU,
        "seen": int(sessions.nunique()),
        "source": "assumed: the spread between runs of different times, as in lora_scaling.estimate.pilot",
    }


def _model(weight: float, fit: FormFit, response: ResponseFit) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": fit.form.name,
        "weight": weight,
        "form": fit.form.formula(),
        "per": fit.form.per,
        "terms": dict(fit.form.terms),
        "params": dict(fit.params),
        "se": {name: float(np.sqrt(fit.covariance[i, i])) for i, name in enumerate(fit.params)},
        "param_names": list(fit.params),
        "covariance": fit.covariance.tolist(),
        "df": fit.df,
        "sigma": fit.sigma,
        "aicc": fit.aicc,
    }
    if response.noise is not None:
        x = response.work.values[response.work.total]
        document["noise"] = {
            "variable": response.work.total,
            "reference": response.noise[1],
            "exponent": response.noise[0],
            "range": [float(x.min()), float(x.max())],
        }
    return document


def _seen(work: Work, label: str) -> list[str]:
    return sorted({str(value) for value in work.labels[label] if value})
