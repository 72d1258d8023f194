"""Predict a run that was not made, with an interval, and say how far from the data it lies.

`lora_scaling.estimate.fit_file` computes the prediction, so the estimator gives the same numbers with this fit. A
method, precision, device or number of devices that no run had is a scenario: its spread is stated, not estimated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_scaling import templates
from lora_scaling.estimate.fit_file import Fit, predictive_mixture
from lora_scaling.estimate.result import LEVEL
from lora_scaling.estimate.terms import Target
from lora_scaling.text import number
from lora_scaling.units import JOULES_PER_KWH

from ..arrays import Array
from ..tables.run_quantities import Work
from ..tables.table import RunTable
from .backtest import HORIZON_LIMIT, Backtest
from .energy_fit import EnergyFit
from .family import target_of_runs
from .fixed_part import GROWTH
from .floor import floor_of_device
from .groups import SURE_P, factor_words, own_group, runs_of_group, sentence
from .hull import hull_factor
from .response_kind import ENERGY_KIND, TIME_KIND
from .scenarios import Scenario, scenarios_of, too_large, widen
from .target import Z_90, PlannedTarget, peak_memory, plan_target
from .target_emissions import emissions
from .validated_fit import ValidatedFit, validated_fit

SAME_LEVEL = 1.02  # a value within this factor of the runs' is one of theirs
MOST_BELOW_FLOOR = 0.1  # of a prediction: with more, the device's limits decide and not the runs
REGIME_FACTOR = 1.5  # in efficiency


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """A prediction (`document` is the contract's JSON) with the fit, backtest and target behind it."""

    document: dict[str, Any]
    planned: PlannedTarget
    validated: ValidatedFit

    def _repr_html_(self) -> str:
        """Show the prediction as a table in a notebook."""
        return templates.render(
            "analysis.energy_model",
            "extrapolation.html.j2",
            document=self.document,
            fits=self.validated.fits,
            number=number,
        )


def extrapolate(table: RunTable, overrides: Sequence[str]) -> Extrapolation:
    """Predict the run that `overrides` describe from the runs of a table.

    Raises UserError if the overrides do not describe a run, or the runs do not allow a fit.
    """
    result = validated_fit(table)
    return predict_target(table, result, overrides)


def predict_target(table: RunTable, result: ValidatedFit, overrides: Sequence[str]) -> Extrapolation:
    """Predict the run that `overrides` describe, with an existing fit.

    If the exponent depends on the model, device or data set, the runs of the target's own are fitted alone.
    """
    fitted = result.fitted
    planned = plan_target(overrides, table.frame, fitted)
    groups = fitted.document["groups"]
    own = own_group(groups, planned) if groups else None
    if groups and own is not None:
        alone = runs_of_group(table, groups["column"], own)
        if len(alone.frame) < len(table.frame):
            found = predict_target(alone, validated_fit(alone), overrides)
            found.document["assumptions"].insert(1, f"{sentence(groups)} Only the runs of {own} are used.")
            found.document["runs_of"] = {"column": groups["column"], "value": own}
            return found
    memory = peak_memory(planned)
    scenarios = scenarios_of(planned, fitted, table.frame)
    if memory["fits"] is False:
        scenarios.append(too_large(memory, planned.config.hardware.count, fitted.document["gpu_counts"]))
    least_j, least_s = _least(planned, fitted)
    energy = value = None
    if fitted.kind is not TIME_KIND:
        found = widen(fitted.fit.predict(planned.target, LEVEL), scenarios, "energy_factor", least_j / JOULES_PER_KWH)
        if fitted.kind is ENERGY_KIND:
            energy = found
        else:  # the evaluator takes every base unit for a joule
            value = {name: end * JOULES_PER_KWH for name, end in found.items()}
    time = fitted.fit.predict_time(planned.target, LEVEL)
    outside = _outside(fitted.fit, planned, fitted.explained.work)
    leverage = _leverage(result, planned)
    if not outside and leverage["target"] > leverage["largest_in_fit"] * (1 + 1e-9):
        outside = [{"variable": "leverage", "factor": leverage["target"] / leverage["largest_in_fit"]}]
    assumptions = [*planned.assumptions, *_assumptions(result, planned)]
    document = {
        "schema_version": 1,
        "level": LEVEL,
        "basis": "fit",
        "response": table.response,
        "response_unit": fitted.kind.unit,
        "time_s": widen(time, scenarios, "time_factor", least_s) if time is not None else None,
        "energy_kwh": energy,
        "value": value,
        "emissions_g": emissions(table, planned, overrides, energy) if energy is not None else None,
        "peak_memory_gb": memory,
        "extrapolates": outside,
        "scenarios": [scenario.to_dict() for scenario in scenarios],
        "leverage": leverage,
        "runs_of": None,
        "validation": validation(result.backtest, fitted, planned.target, scenarios),
        "assumptions": assumptions,
        "models": [
            {"name": model["name"], "weight": model["weight"], "form": model["form"]}
            for model in fitted.document["models"]
        ],
        "runs_used": fitted.document["n"],
        "target": {"overrides": list(overrides), "values": dict(planned.target.values)},
        "backtest": result.backtest.to_dict(runs=False),
    }
    return Extrapolation(document=document, planned=planned, validated=result)


def _least(planned: PlannedTarget, fitted: EnergyFit) -> tuple[float, float]:
    """Return the least joules and seconds that the target's FLOPs take on its own devices; 0 if that is not known.

    Runs that contradict their own device's limit cast doubt on any, as they do in the fit.
    """
    flops, document = planned.target.values.get("flops"), fitted.document["floor"]
    floor = floor_of_device(planned.device, planned.precision)
    if flops is None or floor is None or document is None:
        return 0.0, 0.0
    joules = floor.energy_j_per_flop * flops if (document["energy_j_per_flop"] or 0.0) > 0 else 0.0
    seconds = floor.time_s_per_flop * flops / planned.config.hardware.count
    return joules, seconds if document["time_s_per_flop"] > 0 else 0.0


def _outside(fit: Fit, planned: PlannedTarget, work: Work) -> list[dict[str, Any]]:
    """Return variables outside the data, by name and factor, and combinations outside the convex hull of the runs."""
    found = [item for item in fit.extrapolates(planned.target) if item["factor"] is not None]
    names = [name for name in (work.size, work.per) if name and name in planned.target.values]
    if not {item["variable"] for item in found} & set(names):
        factor = hull_factor(
            np.column_stack([np.log(work.values[name]) for name in names]),
            np.array([math.log(planned.target.values[name]) for name in names]),
        )
        if factor is not None:
            found.append({"variable": " with ".join(names), "factor": factor})
    return found


def _leverage(result: ValidatedFit, planned: PlannedTarget) -> dict[str, float]:
    """Return the leverage of the target in the best model (variance of its mean over σ²), and the fit's largest."""
    best = result.fitted.explained.best
    variance = float(result.fitted.fit.explained[0].mean_variance(planned.target))
    return {
        "target": variance / best.sigma**2 if best.sigma > 0 else float("nan"),
        "largest_in_fit": float(best.leverage.max()),
    }


def validation(
    graded: Backtest, fitted: EnergyFit, target: Target, scenarios: Sequence[Scenario] = ()
) -> dict[str, Any]:
    """Return whether the backtest reached far enough to validate this target.

    `validated` within its horizon; PARTLY VALIDATED up to twice as far (in logs), because a change of regime in between
    would not have been seen; NOT VALIDATED beyond, and for scenarios.
    """
    asked, tested, reasons, remarks = {}, {}, _other_regime(fitted, target), []
    work = fitted.explained.work
    for name in dict.fromkeys(n for n in (work.total, work.size, work.per) if n):
        value = target.values.get(name)
        if value is None or not value > 0:
            continue
        asked[name] = _factor_beyond(value, work.values[name])
        tested[name] = graded.horizon(name)
        if asked[name] > SAME_LEVEL and math.log(asked[name]) > HORIZON_LIMIT * math.log(tested[name]):
            reached = (
                f"the backtest reached {number(tested[name])}×" if tested[name] > 1.01 else "no backtest reached any"
            )
            reasons.append(f"{number(asked[name])}× beyond the data in {name.replace('_', ' ')}; {reached}")
        elif asked[name] > 1.01 * tested[name]:
            remarks.append(
                f"{number(asked[name])}× beyond the data in {name.replace('_', ' ')}, where the backtest reached "
                f"{number(tested[name])}×: a change of regime in between would not have been seen"
            )
    if not graded.made:
        reasons.append("no backtest could be made")
    reasons += [
        f"in the backtest by {split.name} only {100 * split.coverage:.0f} % of the runs lay inside their 90 % interval"
        for split in graded.failed
    ]
    reasons += [scenario.why_not_validated for scenario in scenarios]
    groups = fitted.document.get("groups")
    if groups and groups["p"] <= SURE_P:
        reasons.append(
            f"the exponent of {factor_words(groups)} differs between {groups['noun']}s, and the target's is not known "
            "alone"
        )
    return {
        "label": "NOT VALIDATED" if reasons else "PARTLY VALIDATED" if remarks else "validated",
        "validated": not reasons,
        "reasons": [*reasons, *remarks],
        "asked": asked,
        "backtest": tested,
    }


def _other_regime(fitted: EnergyFit, target: Target) -> list[str]:
    """Say why the target lies in another regime than the runs: in how far it would exhaust the device."""
    log_floor = fitted.fit.log_floor(target)
    if log_floor is None:
        return []
    reasons = []
    below = float(predictive_mixture(fitted.fit.explained, target).cdf(log_floor)[0])
    if below > MOST_BELOW_FLOOR:
        reasons.append(f"{100 * below:.0f} % of what the models predict is less than the device can do at its best")
    work = fitted.explained.work
    floors = fitted.fit.log_floor(target_of_runs(work))
    assert floors is not None
    reached = float(np.quantile(np.exp(floors - work.log_y), 0.95))
    needed = float(np.exp(log_floor) / fitted.fit.training(target).estimate[0])
    if needed > REGIME_FACTOR * reached:
        reasons.append(
            f"the prediction reaches {100 * needed:.2g} % of the device's best efficiency, and the runs at most "
            f"{100 * reached:.2g} %: another regime than theirs"
        )
    return reasons


def _factor_beyond(value: float, seen: Array) -> float:
    return float(max(1.0, value / seen.max(), seen.min() / value))


def _assumptions(result: ValidatedFit, planned: PlannedTarget) -> list[str]:
    document, fit = result.fitted.document, result.fitted.fit
    found = list(document["notes"])
    sd = fit.form_sd(planned.target)
    if sd > 0.005:
        found.append(
            f"Beyond the data the form itself is unknown: a factor {number(math.exp(Z_90 * sd))} either way was added "
            "(from the backtest's own errors, or a stated spread where the runs say nothing of a slope)."
        )
    if session := document["session"]:
        found.append(
            f"The run is one of another session, and these were of {session['seen']}: a factor "
            f"{math.exp(Z_90 * session['sd']):.3g} either way was added (assumed)."
        )
    if floor := _other_regime(result.fitted, planned.target):
        found.append(
            f"The runs say little of how this target uses the device ({'; '.join(floor)}): the prediction leans on the "
            f"device's limits ({document['floor']['source']})."
        )
    kind = result.fitted.kind
    fixed = document["fixed"][kind.fixed_key]
    if fixed is None:
        if result.fitted.response == "energy_train_kwh" != result.table.response or kind is TIME_KIND:
            # Otherwise the model includes them, or nobody asked for them, as the notes say.
            found.append("Set-up, warm-up and evaluation are not added: the runs do not separate them from training.")
    elif fixed.get("models"):
        how = fixed["models"][0]["name"]
        found.append(
            f"Set-up, warm-up and evaluation as these runs had them ({how}; {fixed['note']}), for as many held-out "
            "samples."
        )
        if any(item["variable"] == "params" for item in fit.extrapolates(planned.target)):
            found.append(
                f"How they grow with the model's size beyond these is averaged over three forms: a constant, "
                f"{GROWTH[kind.fixed_key][0]:.0e} {kind.base} more for each parameter (within a factor 10, "
                "assumed), and a power of the size."
            )
    found.append("The device's efficiency is as in the runs: same software, clocks, batch and kernels.")
    return found
