"""Handle settings that no run had; their spread is stated, not estimated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lora_scaling.config import HardwareConfig
from lora_scaling.errors import UserError
from lora_scaling.estimate.fit_file import UNSEEN_LABEL_SD, Fit, Prediction

from ..tables.run_quantities import Work
from .diagnostics import MISFIT_P
from .energy_fit import EnergyFit
from .family import identifies
from .target import Z_90, PlannedTarget, find_device

UNSEEN_DEVICE_SD = math.log(2.0) / Z_90  # a factor 2 in each direction at 90 %, after scaling by the data sheets
UNSEEN_COUNT_SD = math.log(1.5) / Z_90
UNSEEN_RECOMPUTATION_SD = math.log(1.2) / Z_90
LEAST_MISFIT = 0.03  # relative: less needs no wider interval


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
    reason: str | None = None

    @property
    def why_not_validated(self) -> str:
        """Say why a backtest of the runs says nothing of the target."""
        return self.reason or f"{self.variable} {self.value} is a scenario: no run had it"

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


def scenarios_of(planned: PlannedTarget, fitted: EnergyFit, frame: pd.DataFrame) -> list[Scenario]:
    """Return what the target has and no run of the table had: method, precision, device, number of devices and more.

    Raises UserError for another device if a data sheet is missing.
    """
    fit, gpu_counts = fitted.fit, fitted.document["gpu_counts"]
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
    others = (_together(planned, fitted.explained.work), _recomputation(planned, frame), _misfit(fitted))
    return [*found, *(scenario for scenario in others if scenario is not None)]


def _recomputation(planned: PlannedTarget, frame: pd.DataFrame) -> Scenario | None:
    """Return the scenario of a target that recomputes activations though no run did, or the reverse.

    The FLOPs of the second forward pass are counted; that they take as much each as the others is an assumption.
    """
    given, seen = planned.config.gradient_checkpointing, set(frame["gradient_checkpointing"].dropna().astype(bool))
    if not seen or given in seen:
        return None
    words = {True: "recomputes activations", False: "keeps all activations"}
    return Scenario(
        variable="gradient_checkpointing",
        value=str(given).lower(),
        seen=(str(not given).lower(),),
        spread_sd=UNSEEN_RECOMPUTATION_SD,
        sentence=f"The target {words[given]} and no run did: its FLOPs are counted, but not what else that changes",
    )


def _misfit(fitted: EnergyFit) -> Scenario | None:
    """Return the scenario of runs that no form of the family fits, with what they lie off as its spread."""
    lack = fitted.document["diagnostics"][fitted.kind.name]["lack_of_fit"]
    if lack is None or lack["p"] >= MISFIT_P or lack["largest_departure"] < LEAST_MISFIT:
        return None
    off = lack["largest_departure"]
    return Scenario(
        variable="form",
        value=fitted.explained.best.form.name,
        seen=(),
        spread_sd=math.log1p(off) / Z_90,
        sentence=f"No form fits these runs: repeated ones lie up to {100 * off:.0f} % off the best "
        f"(p = {lack['p']:.1g})",
        reason=f"no form fits the runs: they lie up to {100 * off:.0f} % off the best",
    )


def _together(planned: PlannedTarget, work: Work) -> Scenario | None:
    """Return settings that runs had, but never together, if the runs do not identify their separate effects either.

    LoRA on one device and full fine-tuning on another say nothing about full fine-tuning on the first.
    """
    counts = work.values["gpu_count"]
    count = planned.config.hardware.count
    count = count if count in counts else counts[0]  # otherwise a separate scenario
    labels = planned.target.labels
    given = {name: labels[name] for name in work.labels if name in labels and labels[name] in work.labels[name]}
    if identifies(work, given, count):
        return None
    names = [name for name in given if identifies(work, {k: v for k, v in given.items() if k != name}, count)]
    runs = {name: work.labels[name].astype(str) for name in names or given}
    asked = {name: given[name] for name in runs}
    if len(runs) < 2:
        runs["hardware.count"] = np.array([f"{number:g}" for number in counts])
        asked["hardware.count"] = f"{count:g}"
    value = " with ".join(asked.values())
    seen = sorted({" with ".join(each) for each in zip(*runs.values(), strict=True)})
    spread = {"hardware": UNSEEN_DEVICE_SD, "hardware.count": UNSEEN_COUNT_SD}
    return Scenario(
        variable=" with ".join(runs),
        value=value,
        seen=tuple(seen),
        spread_sd=max(spread.get(name, UNSEEN_LABEL_SD) for name in runs),
        sentence=f"No run had {value}, and the runs ({', '.join(seen)}) do not show what each of these does by itself",
    )


def too_large(memory: dict[str, Any], count: int, gpu_counts: Sequence[int]) -> Scenario:
    """Return the scenario of a target that does not fit on one device: it needs several, or offloading."""
    needed = count * math.ceil(memory["estimate"] / memory["available_gb"])
    return Scenario(
        variable="devices needed",
        value=str(needed),
        seen=tuple(str(count) for count in gpu_counts),
        spread_sd=UNSEEN_COUNT_SD * math.sqrt(math.log2(max(2.0, needed / max(gpu_counts)))),
        sentence=f"The run needs {memory['estimate']:.3g} GB on each device, which has {memory['available_gb']:g}: it "
        f"takes {needed} devices or more, or offloading, which no run had",
    )


def _other_device(planned: PlannedTarget, fit: Fit) -> Scenario:
    """Return the scenario of another device, scaled by joules and seconds per FLOP at the peaks of the data sheets."""
    name = planned.config.hardware.name
    own = find_device(fit.hardware[0]) if fit.hardware else None
    sheet, own_sheet = _sheet(planned.device, planned.precision), _sheet(own, planned.precision)
    if sheet is None or own_sheet is None:
        raise UserError(
            f"hardware: got {name}; the runs were on {', '.join(fit.hardware)}, and without a data sheet of both "
            "nothing carries over: leave hardware out, or use lora-scaling estimate for that device"
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
    """Return (board power in W, peak in TFLOP/s at this precision) if the table has both."""
    if facts is None or not facts.board_power_w:
        return None
    peak = facts.peak_tflops.get(precision)
    return (facts.board_power_w, peak) if peak else None


def widen(
    prediction: Prediction, scenarios: Sequence[Scenario], factor_name: str, least: float = 0.0
) -> dict[str, float]:
    """Apply the scenarios: factors to the estimate, stated spreads to the interval, in logs.

    The fit itself has already widened unseen labels (`built_in`). Nothing goes below `least`, what the device can do.
    """
    factor = math.prod(getattr(scenario, factor_name) for scenario in scenarios)
    extra = Z_90 * math.hypot(*(s.spread_sd for s in scenarios if not s.built_in), 0.0)
    down = math.hypot(math.log(prediction.estimate / max(prediction.low, 1e-300)), extra)
    up = math.hypot(math.log(prediction.high / prediction.estimate), extra)
    estimate = prediction.estimate * factor
    found = {"estimate": estimate, "low": estimate * math.exp(-down), "high": estimate * math.exp(up)}
    return {name: max(value, least) for name, value in found.items()}
