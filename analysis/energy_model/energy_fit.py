"""Fit a table of runs: weighted models of training energy and time, or of time alone, and the fixed part of a run.

The document is the content of `fit.json`; `lora_scaling.estimate.fit_file` evaluates it. It contains everything that a
reader needs to doubt it: n, ranges, covariances, diagnostics, and what was left out and why.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_scaling.errors import UserError
from lora_scaling.estimate.fit_file import SCHEMA_VERSION, Fit, fit_from_dict
from lora_scaling.estimate.pilot import RUN_TO_RUN_SD, RUN_TO_RUN_SD_CPU

from ..arrays import Array
from ..regression.least_squares import Results
from ..tables.response_column import is_energy, noun_of
from ..tables.run_quantities import Work, ranges_of, work_of
from ..tables.table import Excluded
from .diagnostics import diagnose
from .family import identified, label_effects
from .fixed_part import fixed_part, idle_kwh
from .floor import contradicted, floor_of
from .regressions import FormFit
from .response_fit import ResponseFit, fit_response
from .response_kind import ENERGY_KIND, TIME_KIND, ResponseKind, is_physical, kind_of

LEAST_RUNS = 3
MANY_SESSIONS = 10  # fewer are too few to estimate the spread between sessions
# Log-scale spread for each factor e beyond the data if the runs do not determine a slope: in the published rows,
# utilisation rises tenfold from launch-bound to saturated over e^5 in size.
UNKNOWN_SLOPE_SD = {"flops_per_token": 0.25, "params": 0.25, "tokens": 0.1, "samples_seen": 0.1}


@dataclass(frozen=True, kw_only=True)
class EnergyFit:
    """A fit in three forms: the document, its evaluator, and the underlying regressions.

    `explained` is the fit of the response, `time` that of the training time beside an energy; `response` is the column
    that the first explains.
    """

    document: dict[str, Any]
    fit: Fit
    explained: ResponseFit
    time: ResponseFit | None
    response: str
    notes: tuple[str, ...]

    @property
    def results(self) -> Results:
        """statsmodels' results object of the response's best form: summary(), conf_int(), get_prediction() …"""
        return self.explained.results

    @property
    def kind(self) -> ResponseKind:
        """Whether the response is an energy or a time."""
        return kind_of(self.response)


def fit_table(
    frame: pd.DataFrame,
    excluded: Sequence[Excluded] = (),
    *,
    response: str = "energy_kwh",
    path: str = "fit.json",
    with_time: bool = True,
    training: "TrainingResponse | None" = None,
) -> EnergyFit:
    """Fit the nested family to a table of runs (columns as `load_runs` gives them).

    `response` is the column to explain: an energy, beside which time is fitted, too, or the time alone. `training`
    gives the part of it that is of training, if the table is a part of one with more information.

    Raises UserError if fewer than three runs trained with a known response.
    """
    training = training or training_response(frame, response)
    kind = kind_of(training.response)
    work, left_out, assumed = work_of(frame, training.values)
    if len(work) < LEAST_RUNS:
        raise UserError(
            f"RUNS: got {len(work)} that trained with a known {kind.name}; a fit needs at least {LEAST_RUNS}: make more"
        )
    time, _, _ = work_of(frame, frame["train_s"].to_numpy(dtype=float))
    floor = _floor(work, time, kind, assumed) if is_physical(training.response) else None
    per_device = floor["time_s_per_flop"] / work.values["gpu_count"].max() if floor else 0.0
    of_energy = floor["energy_j_per_flop"] if floor else 0.0
    explained = fit_response(work, per_device if kind is TIME_KIND else of_energy)
    with_time = with_time and kind is not TIME_KIND and len(time) >= LEAST_RUNS and time.per == work.per
    time_fit = fit_response(time, per_device) if with_time else None
    aliased = label_effects(work)[1]
    if aliased:
        assumed.append(f"The effect of {', '.join(aliased)} cannot be separated from that of others: taken together.")
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": f"{kind.name}_fit" if kind in (ENERGY_KIND, TIME_KIND) else "quantity_fit",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "response": training.response,
        "response_unit": kind.base,
        "n": len(work),
        "models": [_model(weight, fit, explained) for weight, fit in explained.weighted],
        "time": {
            "response": "train_s",
            "response_unit": "s",
            "n": len(time) if time_fit else 0,
            "models": [_model(weight, fit, time_fit) for weight, fit in time_fit.weighted] if time_fit else [],
        },
        "fixed": fixed_part(frame, training.response, apart=training.apart, alone=training.alone),
        "floor": floor,
        "counting": asdict(work.counting),
        "ranges": ranges_of(work),
        "beyond": beyond_rates(work),
        "methods": _seen(work, "method"),
        "hardware": _seen(work, "hardware"),
        "precisions": _seen(work, "precision"),
        "gpu_counts": sorted({int(count) for count in work.values["gpu_count"]}),
        "diagnostics": {
            "energy": None,
            "time": diagnose(time_fit) if time_fit else None,
            kind.name: diagnose(explained),
        },
        "excluded": [{"run_id": item.run_id, "reason": item.reason} for item in (*excluded, *left_out)],
        "notes": [*training.notes, *assumed],
    }
    return EnergyFit(
        document=document,
        fit=fit_from_dict(document, path),
        explained=explained,
        time=time_fit,
        response=training.response,
        notes=tuple(document["notes"]),
    )


@dataclass(frozen=True, kw_only=True)
class TrainingResponse:
    """What training took: joules or seconds (n,) of each run of a table, and the column they come from.

    `apart`: the other costs of a run, as measured by runs of zero steps, were subtracted. `alone`: only training is
    asked for, so that nothing is added to it. `notes` are the assumptions.
    """

    response: str
    values: Array
    apart: bool
    notes: tuple[str, ...]
    alone: bool = False

    def take(self, rows: NDArray[np.integer]) -> "TrainingResponse":
        """Return the values of some rows of the table."""
        return replace(self, values=self.values[rows])


def training_response(frame: pd.DataFrame, response: str = "energy_kwh") -> TrainingResponse:
    """Return what training took of a response column.

    Of the time or of the energy of training, that is all of it. Of a total, it is the energy of the training phase, or
    the total minus that of runs of zero steps, or the total.
    """
    base = kind_of(response).per_unit
    if response in ("train_s", "energy_train_kwh"):
        values = frame[response].to_numpy(dtype=float) * base
        alone = response == "energy_train_kwh"
        notes = ("The energy is that of training alone, without set-up and evaluation.",) if alone else ()
        return TrainingResponse(response=response, values=values, apart=True, notes=notes, alone=alone)
    train = frame["energy_train_kwh"].to_numpy(dtype=float)
    trained = (frame["samples_seen"] > 0).to_numpy()
    if response == "energy_kwh" and np.isfinite(train[trained]).sum() >= 0.5 * trained.sum() > 0:
        return TrainingResponse(response="energy_train_kwh", values=train * base, apart=True, notes=())
    total, idle = frame[response].to_numpy(dtype=float), idle_kwh(frame, response)
    whole = "energy" if is_energy(response) else "time" if response == "total_s" else noun_of(response)
    owner = "GPUs' " if response == "energy_gpu_kwh" else ""
    noun = f"{owner}training {whole}"
    if idle is not None:
        count = int((~trained & np.isfinite(total)).sum())
        note = (
            f"The {noun} is unknown: taken as the total minus the mean of {count} runs of zero steps, "
            "each of the same model, method and hardware."
        )
        return TrainingResponse(response=response, values=(total - idle) * base, apart=True, notes=(note,))
    note = f"The {noun} is unknown: the whole run's {whole} is modelled, its fixed part included."
    return TrainingResponse(response=response, values=total * base, apart=False, notes=(note,))


def _floor(work: Work, time: Work, kind: ResponseKind, notes: list[str]) -> dict[str, Any] | None:
    """Return `floor` of fit.json: 0 for a response whose runs lie below theirs, which is noted.

    Of a fit of times, that of energy is unknown.
    """
    floor = floor_of(work)
    if floor is None:
        return None
    document = floor.to_dict()
    of_energy = [("energy_j_per_flop", work, "energy")] if kind is not TIME_KIND else []
    for name, runs, noun in (*of_energy, ("time_s_per_flop", time, "time")):
        devices = runs.values["gpu_count"] if noun == "time" else 1.0
        if len(runs) and contradicted(runs, document[name], devices):
            document[name] = 0.0
            notes.append(
                f"Runs took less {noun} than their FLOPs take at the device's peak ({floor.source}): their unit, FLOPs "
                "or device are in doubt, and no physical limit is applied."
            )
    return document if of_energy else document | {"energy_j_per_flop": None}


def beyond_rates(work: Work) -> dict[str, float]:
    """Return the spread, per factor e beyond the data, of quantities whose slope is not determined, else 0."""
    names = [name for name in (work.size, work.per) if name]
    return {name: 0.0 if identified(work, name) else UNKNOWN_SLOPE_SD[name] for name in names}


def between_sessions(frame: pd.DataFrame) -> dict[str, Any] | None:
    """Return `session` of fit.json: the spread that another session adds to the scatter of these runs.

    None if sessions are unknown, or so many that the scatter of the runs includes it. The spread is assumed to be that
    of a pilot.
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
