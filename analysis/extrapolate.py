"""`extrapolate`: predict a run that was not made, with an interval, and say how far from the data it lies.

    python -m analysis extrapolate RUNS model=llama-2-70b method=full samples=21300 [--json]

The prediction is `lora_scaling.estimate.fitted`'s: the estimator with this fit gives the same numbers. A method,
precision, device or number of devices that no run had is a scenario: its spread is stated, not estimated.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_scaling.config import HardwareConfig
from lora_scaling.errors import LoraScalingError, UserError
from lora_scaling.estimate.fitted import UNSEEN_LABEL_SD, Fit, Prediction
from lora_scaling.grid import static_intensity

from . import jsonout
from .backtest import HORIZON_LIMIT, Backtest, summary
from .commandline import add_runs, load, split_overrides
from .fit import ValidatedFit, validated_fit
from .hull import hull_factor
from .model import evaluate
from .regression import Array
from .table import RunTable
from .target import Planned, find_device, peak_memory, plan_target
from .work import Work

LEVEL = 0.9
Z_90 = 1.6448536269514722
UNSEEN_DEVICE_SD = math.log(2.0) / Z_90  # a factor 2 either way at 90 %, after scaling by the data sheets
UNSEEN_COUNT_SD = math.log(1.5) / Z_90


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A setting that no run had: the factors applied to energy and time, and the stated log-scale spread."""

    variable: str
    value: str
    seen: tuple[str, ...]
    spread_sd: float
    energy_factor: float = 1.0
    time_factor: float = 1.0
    built_in: bool = False
    sentence: str | None = None

    def to_dict(self) -> dict[str, Any]:
        spread = math.exp(Z_90 * self.spread_sd)
        return {
            "variable": self.variable,
            "value": self.value,
            "seen": list(self.seen),
            "energy_factor": self.energy_factor,
            "spread_factor": spread,
            "sentence": (self.sentence or f"No run had {self.variable} {self.value} (seen: {', '.join(self.seen)})")
            + f": a scenario, with a stated spread of a factor {spread:.2g} either way.",
        }


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """A prediction (`document` is the contract's JSON) with the fit, backtest and target behind it."""

    document: dict[str, Any]
    planned: Planned
    validated: ValidatedFit


def extrapolate(table: RunTable, overrides: Sequence[str]) -> Extrapolation:
    """Predict the run that `overrides` describe from the runs of a table.

    Raises UserError for overrides that make no run, or runs that make no fit.
    """
    result = validated_fit(table)
    return predict_target(table, result, overrides)


def predict_target(table: RunTable, result: ValidatedFit, overrides: Sequence[str]) -> Extrapolation:
    """The same with a fit that is there already."""
    fitted = result.fitted
    planned = plan_target(overrides, table.frame, fitted)
    memory = peak_memory(planned)
    scenarios = _scenarios(planned, fitted.fit, fitted.document["gpu_counts"])
    if memory["fits"] is False:
        scenarios.append(_too_large(memory, planned.config.hardware.count, fitted.document["gpu_counts"]))
    energy = _widen(fitted.fit.predict(planned.target, LEVEL), scenarios, "energy_factor")
    time = fitted.fit.predict_time(planned.target, LEVEL)
    outside = _outside(fitted.fit, planned, fitted.energy.work)
    leverage = _leverage(result, planned)
    if not outside and leverage["target"] > leverage["largest_in_fit"] * (1 + 1e-9):
        outside = [{"variable": "leverage", "factor": leverage["target"] / leverage["largest_in_fit"]}]
    assumptions = [*planned.assumptions, *_assumptions(result, planned)]
    document = {
        "schema_version": 1,
        "level": LEVEL,
        "basis": "fit",
        "time_s": _widen(time, scenarios, "time_factor") if time is not None else None,
        "energy_kwh": energy,
        "emissions_g": _emissions(table, planned, overrides, energy),
        "peak_memory_gb": memory,
        "extrapolates": outside,
        "scenarios": [scenario.to_dict() for scenario in scenarios],
        "leverage": leverage,
        "validation": validation(result.backtest, fitted.energy.work, planned, scenarios),
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


def _scenarios(planned: Planned, fit: Fit, gpu_counts: Sequence[int]) -> list[Scenario]:
    found = [
        Scenario(variable=label, value=given, seen=seen, spread_sd=UNSEEN_LABEL_SD, built_in=True)
        for label, seen in (("method", fit.methods), ("precision", fit.precisions))
        if seen and (given := planned.target.labels.get(label)) is not None and given not in seen
    ]
    if not planned.same_hardware:
        found.append(_other_device(planned, fit))
    count = planned.config.hardware.count
    if count not in gpu_counts:
        seen = tuple(str(number) for number in gpu_counts)
        spread = UNSEEN_COUNT_SD * math.sqrt(abs(math.log2(count / max(gpu_counts))))
        found.append(
            Scenario(
                variable="hardware.count",
                value=str(count),
                seen=seen,
                spread_sd=spread,
                time_factor=max(gpu_counts) / count,
            )
        )
    return found


def _too_large(memory: dict[str, Any], count: int, gpu_counts: Sequence[int]) -> Scenario:
    """A target that one device cannot hold needs several, or offloading: another regime than any run's."""
    needed = count * math.ceil(memory["estimate"] / memory["available_gb"])
    return Scenario(
        variable="devices needed",
        value=str(needed),
        seen=tuple(str(count) for count in gpu_counts),
        spread_sd=UNSEEN_COUNT_SD * math.sqrt(math.log2(max(2.0, needed / max(gpu_counts)))),
        sentence=f"The run needs {memory['estimate']:.3g} GB on each device, which has {memory['available_gb']:g}: it "
        f"takes {needed} devices or more, or offloading, which no run had",
    )


def _other_device(planned: Planned, fit: Fit) -> Scenario:
    """Another device: scaled by joules and seconds per FLOP at the data sheets' peaks, where both are listed."""
    name = planned.config.hardware.name
    own = find_device(fit.hardware[0]) if fit.hardware else None
    sheet, own_sheet = _sheet(planned.device, planned.precision), _sheet(own, planned.precision)
    if sheet is None or own_sheet is None:
        raise UserError(
            f"`hardware` was {name}; the runs were on {', '.join(fit.hardware)}, and without a data sheet of both "
            "nothing carries over: leave hardware out, or use python -m lora_scaling.estimate for that device."
        )
    (power, peak), (own_power, own_peak) = sheet, own_sheet
    return Scenario(
        variable="hardware",
        value=name,
        seen=fit.hardware,
        spread_sd=UNSEEN_DEVICE_SD,
        energy_factor=(power / peak) / (own_power / own_peak),
        time_factor=own_peak / peak,
    )


def _sheet(facts: HardwareConfig | None, precision: str) -> tuple[float, float] | None:
    """(board power in W, peak in TFLOP/s at this precision), where the table has both."""
    if facts is None or not facts.board_power_w:
        return None
    peak = facts.peak_tflops.get(precision)
    return (facts.board_power_w, peak) if peak else None


def _widen(prediction: Prediction, scenarios: Sequence[Scenario], factor_name: str) -> dict[str, float]:
    """Apply the scenarios: factors to the estimate, stated spreads to the interval, in logs.

    Unseen labels were widened by the fit itself (`built_in`).
    """
    factor = math.prod(getattr(scenario, factor_name) for scenario in scenarios)
    extra = Z_90 * math.hypot(*(s.spread_sd for s in scenarios if not s.built_in), 0.0)
    down = math.hypot(math.log(prediction.estimate / max(prediction.low, 1e-300)), extra)
    up = math.hypot(math.log(prediction.high / prediction.estimate), extra)
    estimate = prediction.estimate * factor
    return {"estimate": estimate, "low": estimate * math.exp(-down), "high": estimate * math.exp(up)}


def _outside(fit: Fit, planned: Planned, work: Work) -> list[dict[str, Any]]:
    """Variables outside the data by name and factor, and combinations outside the convex hull of the runs."""
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


def _leverage(result: ValidatedFit, planned: Planned) -> dict[str, float]:
    """Leverage of the target in the best model (its mean's variance over σ²), and the largest in the fit."""
    best = result.fitted.energy.best
    values = {name: np.array([value]) for name, value in planned.target.values.items()}
    labels = {name: np.array([value], dtype=object) for name, value in planned.target.labels.items()}
    labels |= {name: np.array([""], dtype=object) for name in ("method", "hardware", "precision") if name not in labels}
    gradient = np.array(
        [evaluate(term, best.params[name], values, labels)[1][0] for name, term in best.form.terms.items()]
    )
    variance = float(gradient @ best.covariance @ gradient)
    return {
        "target": variance / best.sigma**2 if best.sigma > 0 else float("nan"),
        "largest_in_fit": float(best.leverage.max()),
    }


def validation(graded: Backtest, work: Work, planned: Planned, scenarios: Sequence[Scenario] = ()) -> dict[str, Any]:
    """Whether the backtest reached far enough to speak for this target: NOT VALIDATED beyond twice its horizon."""
    asked, tested, reasons = {}, {}, []
    for name in dict.fromkeys(n for n in (work.total, work.size, work.per) if n):
        value = planned.target.values.get(name)
        if value is None or not value > 0:
            continue
        asked[name] = _factor_beyond(value, work.values[name])
        tested[name] = graded.horizon(name)
        if math.log(asked[name]) > HORIZON_LIMIT * math.log(tested[name]) + 1e-9:
            reached = f"the backtest reached {tested[name]:.3g}×" if tested[name] > 1.01 else "no backtest reached any"
            reasons.append(f"{asked[name]:.3g}× beyond the data in {name.replace('_', ' ')}; {reached}")
    if not graded.made:
        reasons.append("no backtest could be made")
    reasons += [
        f"in the backtest by {split.name} only {100 * split.coverage:.0f} % of the runs lay inside their 90 % interval"
        for split in graded.failed
    ]
    reasons += [f"{scenario.variable} {scenario.value} is a scenario: no run had it" for scenario in scenarios]
    label = "NOT VALIDATED" if reasons else "validated"
    return {"label": label, "validated": not reasons, "reasons": reasons, "asked": asked, "backtest": tested}


def _factor_beyond(value: float, seen: Array) -> float:
    return float(max(1.0, value / seen.max(), seen.min() / value))


def _assumptions(result: ValidatedFit, planned: Planned) -> list[str]:
    document, fit = result.fitted.document, result.fitted.fit
    found = list(document["notes"])
    sd = fit.form_sd(planned.target)
    if sd > 0.005:
        found.append(
            f"Beyond the data the form itself is unknown: a factor {math.exp(Z_90 * sd):.3g} either way was added "
            "(from the backtest's own errors, or a stated spread where the runs say nothing of a slope)."
        )
    fixed = document["fixed"]["energy_j"]
    if fixed is None:
        found.append("Set-up, warm-up and evaluation are not added: the runs do not tell them apart from training.")
    elif fixed.get("models"):
        how = fixed["models"][0]["name"]
        found.append(f"Set-up, warm-up and evaluation by the size of the model ({how}), for as many held-out samples.")
    found.append("The device's efficiency is as in the runs: same software, clocks, batch and kernels.")
    return found


def _emissions(table: RunTable, planned: Planned, overrides: Sequence[str], energy: dict[str, float]) -> dict[str, Any]:
    intensity, definition = _intensity(table, planned, overrides)
    grams = {key: value * intensity for key, value in energy.items()}
    return {**grams, "intensity_g_per_kwh": intensity, "definition": definition}


def _intensity(table: RunTable, planned: Planned, overrides: Sequence[str]) -> tuple[float, str]:
    """g/kWh and what it is: that of the runs, unless the target names a grid of its own."""
    frame, zone = table.frame, planned.config.grid.zone
    known = frame[(frame["intensity_g_per_kwh"] > 0) & (frame["energy_kwh"] > 0)]
    if len(known) and not any(text.lstrip("+").startswith("grid.zone=") for text in overrides):
        grams = (known["intensity_g_per_kwh"] * known["energy_kwh"]).sum()
        sources = ", ".join(sorted({str(source) for source in known["intensity_source"].dropna()})) or "unknown source"
        text = f"energy-weighted mean of the {len(known)} runs' own intensities ({sources})"
        meaning = _recorded_definition(table.sources)
        return float(grams / known["energy_kwh"].sum()), text + (f"; {meaning}" if meaning else "")
    static = static_intensity(zone)
    notice = f" ({static.notice})" if static.notice else ""
    return static.g_per_kwh, f"{static.definition}{notice}"


def _recorded_definition(sources: Sequence[str]) -> str | None:
    """The definition that the first record with one gives; None for tables."""
    from lora_scaling.records import find_records, read_record

    for source in sources:
        for path in find_records([source])[:20] if Path(source).is_dir() else []:
            try:
                definition = (read_record(path).get("emissions") or {}).get("definition")
            except (LoraScalingError, OSError):
                continue
            if definition:
                return str(definition)
    return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis extrapolate`."""
    add_runs(parser)
    parser.epilog = "Overrides of the target go beside RUNS: model=llama-2-70b method=full samples=21300"


def run(args: argparse.Namespace) -> int:
    """Print the prediction as JSON or in words."""
    args.runs, overrides = split_overrides(args.runs)
    result = extrapolate(load(args), overrides)
    print(jsonout.dumps(result.document) if args.json else "\n".join(describe(result)))
    return 0


def describe(result: Extrapolation) -> list[str]:
    """The prediction in a few sentences."""
    d = result.document
    e, grams, memory = d["energy_kwh"], d["emissions_g"], d["peak_memory_gb"]
    lines = [d["assumptions"][0], ""]
    lines.append(f"Energy     {e['estimate']:.4g} kWh (90 % interval {e['low']:.3g} to {e['high']:.3g})")
    if d["time_s"]:
        t = d["time_s"]
        lines.append(f"Time       {_hours(t['estimate'])} ({_hours(t['low'])} to {_hours(t['high'])})")
    lines.append(
        f"Emissions  {grams['estimate']:.4g} g ({grams['low']:.3g} to {grams['high']:.3g}) at "
        f"{grams['intensity_g_per_kwh']:.4g} g/kWh: {grams['definition']}"
    )
    fits = {True: "fits", False: "does NOT fit", None: "limit unknown"}[memory["fits"]]
    lines.append(f"Memory     {memory['estimate']:.3g} GB at the peak ({fits})")
    for item in d["extrapolates"]:
        lines.append(f"Outside    {item['variable'].replace('_', ' ')}: {item['factor']:.3g}× beyond the data")
    lines += [f"Scenario   {item['sentence']}" for item in d["scenarios"]]
    lines.append(f"Backtest   {d['validation']['label']}" + "".join(f"; {r}" for r in d["validation"]["reasons"]))
    lines += [f"           {line}" for line in summary(result.validated.backtest)]
    return [*lines, "", *(f"- {text}" for text in d["assumptions"][1:])]


def _hours(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
