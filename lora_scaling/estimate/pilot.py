"""Scale a minute of the real run to the whole run: pure arithmetic on the measurements of a pilot.

Each optimizer step of the pilot is a pair (seconds, FLOPs of its own batches). Time is fitted as
`micro-steps · a + FLOPs · b` with a, b ≥ 0, so that a pilot with long batches does not overestimate a run with short
ones. Energy is that time multiplied by the pilot's mean power in its training window. Set-up and evaluation are added
as measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_scaling.config import RunConfig
from lora_scaling.config.devices import listed_as, same_device
from lora_scaling.errors import UserError
from lora_scaling.estimate.plan import RunPlan
from lora_scaling.estimate.quantiles import t_quantile
from lora_scaling.estimate.result import Interval, Part
from lora_scaling.units import JOULES_PER_KWH

# Runs differ from each other by more than a minute shows: temperature, clocks, other load (log standard deviation).
# On the two cores of a virtual machine, 67 repeated runs scattered by 6 % if they took under 20 s and by 3 % over 30 s
# (docs/study, linear). A pilot is as short as the former. For graphics cards the value is assumed.
RUN_TO_RUN_SD = 0.025
RUN_TO_RUN_SD_CPU = 0.065
_DEVICE_DRIFT_SD = 0.01
_SHARED_SD = 0.12  # other processes were running, and what they do later is unknown
_FLAT = 0.02


@dataclass(frozen=True, kw_only=True)
class PilotStep:
    """One measured optimizer step: its seconds, its forward and backward passes, and their FLOPs."""

    seconds: float
    micro_steps: int
    flops: float


@dataclass(frozen=True, kw_only=True)
class PilotPhase:
    """A measured window: seconds, and joules of all components."""

    seconds: float
    joules: float


@dataclass(frozen=True, kw_only=True)
class PilotMeasurement:
    """The measurements of a pilot on this device (`kind`: cpu, cuda, mps) with the data layout of the run.

    whole_flops, whole_micro_steps: exact for the training phase of the whole run; None: as planned.
    warmup, train, evaluation: the windows of the pilot (`evaluation`: before and after training, as in the run).
    lengths: tokens of each sample of the run.
    random_weights: whether random weights of the right shape were used.
    exclusive: False if other processes used the device or the processor meanwhile.
    """

    device: str
    kind: str
    energy_source: str
    setup: PilotPhase
    warmup: PilotPhase | None
    train: PilotPhase
    evaluation: PilotPhase | None
    steps: Sequence[PilotStep]
    whole_flops: float | None = None
    whole_micro_steps: int | None = None
    lengths: Sequence[int] = ()
    random_weights: bool = False
    exclusive: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """The whole run, scaled from its pilot."""

    time_s: Interval
    energy_kwh: Interval
    parts: Mapping[str, Part]
    extrapolates: tuple[Mapping[str, Any], ...]
    assumptions: tuple[str, ...]


def refuse_several(config: RunConfig) -> None:
    """Refuse a run on several devices, because a pilot measures one, and not how several share the work.

    Raises:
        UserError: the run uses several devices.
    """
    if config.hardware.count > 1:
        raise UserError(
            f"hardware.count: got {config.hardware.count} with pilot=, which measures one device and not how several "
            "share the work; leave one of the two out"
        )


def refuse_elsewhere(config: RunConfig, device: str, kind: str) -> None:
    """Refuse another device than the pilot's, because its seconds and joules do not carry over.

    Raises:
        UserError: `hardware` names another device.
    """
    hardware = config.hardware
    if hardware.kind == "auto":
        return
    of_kind = "cuda" if hardware.kind == "rocm" else hardware.kind  # as PyTorch calls it
    if of_kind != kind or (listed_as(hardware.name) is not None and not same_device(hardware.name, device)):
        raise UserError(
            f"hardware: got {hardware.name} with pilot=, which measures {device}; leave hardware= out, or run the "
            "pilot on a machine that has it"
        )


def scale_pilot(pilot: PilotMeasurement, plan: RunPlan, level: float) -> Scaled:
    """Scale to time and energy of the whole run, with the interval of a single run.

    Raises:
        ValueError: the pilot took no step.
    """
    if not pilot.steps:
        raise ValueError("a pilot needs at least one step")
    flops = pilot.whole_flops if pilot.whole_flops is not None else plan.workload.flops.total / plan.load.gpus
    micro = pilot.whole_micro_steps if pilot.whole_micro_steps is not None else plan.micro_steps
    per_pass, per_flop, log_sd = fit_steps(pilot.steps)
    # Work done once in training (optimizer, data loader, first batch) is in the window but in no step.
    once_s = max(0.0, pilot.train.seconds - sum(step.seconds for step in pilot.steps))
    train_s = once_s + micro * per_pass + flops * per_flop
    power_w = pilot.train.joules / pilot.train.seconds
    phases = {
        "setup": pilot.setup,
        "warmup": pilot.warmup or PilotPhase(seconds=0.0, joules=0.0),
        "train": PilotPhase(seconds=train_s, joules=train_s * power_w),
        "eval": pilot.evaluation or PilotPhase(seconds=0.0, joules=0.0),
    }
    parts = {name: Part(seconds=p.seconds, energy_kwh=p.joules / JOULES_PER_KWH) for name, p in phases.items()}
    total_s, kwh = sum(p.seconds for p in parts.values()), sum(p.energy_kwh for p in parts.values())
    run_to_run = RUN_TO_RUN_SD_CPU if pilot.kind == "cpu" else RUN_TO_RUN_SD
    between_runs = _SHARED_SD if pilot.exclusive is False else run_to_run
    sd = math.hypot(log_sd, between_runs, _DEVICE_DRIFT_SD * math.log(max(1.0, train_s / pilot.train.seconds)))
    quantile = t_quantile(0.5 + level / 2, max(2, len(pilot.steps) - 2))
    done = sum(step.flops for step in pilot.steps)
    factor = flops / done if done else math.inf
    return Scaled(
        time_s=Interval.lognormal(total_s, sd, quantile),
        energy_kwh=Interval.lognormal(kwh, sd, quantile),
        parts=parts,
        extrapolates=({"variable": "train_flops", "factor": factor},) if factor > 1 else (),
        assumptions=_notes(pilot, factor, power_w),
    )


def fit_steps(steps: Sequence[PilotStep]) -> tuple[float, float, float]:
    """Fit (seconds per pass, seconds per FLOP, log standard deviation of a total) by non-negative least squares."""
    seconds, passes, flops = (sum(getattr(s, name) for s in steps) for name in ("seconds", "micro_steps", "flops"))
    ratio = seconds / flops
    spread = [s.flops / s.micro_steps for s in steps]
    mean = sum(spread) / len(spread)
    flat = math.sqrt(sum((x - mean) ** 2 for x in spread) / len(spread)) < _FLAT * mean
    a, b = (0.0, ratio) if flat or len(steps) < 4 else _least_squares(steps)
    if b < 0 or a < 0:
        a, b = (seconds / passes, 0.0) if b < 0 else (0.0, ratio)
    residuals = [s.seconds - a * s.micro_steps - b * s.flops for s in steps]
    n = len(steps)
    if n < 3:
        return a, b, 0.1
    cv = math.sqrt(sum(r * r for r in residuals) / (n - 2)) / (seconds / n)
    return a, b, cv / math.sqrt(n)


def _least_squares(steps: Sequence[PilotStep]) -> tuple[float, float]:
    """Minimise Σ (seconds − a·passes − b·flops)²."""
    scale = max(s.flops for s in steps)
    pp = sum(s.micro_steps**2 for s in steps)
    ff = sum((s.flops / scale) ** 2 for s in steps)
    pf = sum(s.micro_steps * s.flops / scale for s in steps)
    pt = sum(s.micro_steps * s.seconds for s in steps)
    ft = sum(s.flops / scale * s.seconds for s in steps)
    determinant = pp * ff - pf * pf
    if determinant <= 1e-12 * pp * ff:
        return 0.0, sum(s.seconds for s in steps) / sum(s.flops for s in steps)
    return (pt * ff - ft * pf) / determinant, (ft * pp - pt * pf) / determinant / scale


def _notes(pilot: PilotMeasurement, factor: float, power_w: float) -> tuple[str, ...]:
    notes = [
        f"pilot of {pilot.train.seconds:.3g} s, {len(pilot.steps)} steps at {power_w:.3g} W ({pilot.energy_source}), "
        f"scaled {factor:.3g} times by exact FLOPs"
    ]
    if pilot.exclusive is False:
        notes.append("other processes were running during the pilot: its interval is widened")
    if pilot.random_weights:
        notes.append("random weights of the right shape: reading the real ones from disk comes on top")
    return tuple(notes)
