"""A whole run from priors: phases, energy, and the spread that the constants' own spreads make."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..config import RunConfig
from ..units import JOULES_PER_KWH
from .answer import Part
from .physics import Load, Machine, mean_power_w, step_time
from .plan import Plan
from .priors import Priors

_UNCERTAIN = (
    "eta", "half_tokens", "traffic_factor", "layer_launch_s", "cpu_layer_s", "module_launch_s", "dequant_bytes",
    "update_bytes", "comm_share", "software",
)  # fmt: skip
_NUDGE = 0.02


@dataclass(frozen=True, kw_only=True)
class Modelled:
    """Medians of a run's time and energy, and the standard deviations of their logarithms."""

    seconds: float
    energy_kwh: float
    power_w: float
    time_log_sd: float
    energy_log_sd: float
    parts: Mapping[str, Part]
    drivers: Mapping[str, float]


def model_run(config: RunConfig, plan: Plan, machine: Machine, priors: Priors, tokens_log_sd: float) -> Modelled:
    """Time, power and energy of a run on this machine."""
    c, load = priors.values, plan.load
    step = step_time(load, machine, c)
    boards_w, host_w = mean_power_w(step, load, machine, c)
    train_s = load.steps * step.total
    micro_s = step.total / load.accumulation if load.accumulation else _passes_alone(load, machine, priors)
    seconds = {
        "setup": _setup_s(config, plan, machine, priors),
        "warmup": config.warmup_steps * micro_s,
        "train": train_s,
        # One forward pass of all held-out samples before training and one after.
        "eval": 2 * math.ceil(config.eval_samples / config.batch_size) / load.gpus * micro_s / load.passes,
    }
    idle_w = load.gpus * machine.idle_power_w + host_w if machine.kind != "cpu" else host_w
    parts = {
        name: Part(seconds=s, energy_kwh=s * (idle_w if name == "setup" else boards_w + host_w) / JOULES_PER_KWH)
        for name, s in seconds.items()
    }
    total_s, kwh = sum(p.seconds for p in parts.values()), sum(p.energy_kwh for p in parts.values())
    variances = _train_variances(load, machine, priors) | {"tokens": tokens_log_sd**2}
    start = priors.log_sd["start_cpu_s" if machine.kind == "cpu" else "start_s"]
    power = priors.log_sd["power"] if machine.kind != "cpu" else priors.log_sd["cpu_core_w"]
    running = (total_s - seconds["setup"]) / total_s
    energetic = (kwh - parts["setup"].energy_kwh) / kwh
    train_sd = math.sqrt(sum(variances.values()))
    total = sum(variances.values()) or 1.0
    return Modelled(
        seconds=total_s,
        energy_kwh=kwh,
        power_w=kwh * JOULES_PER_KWH / total_s,
        time_log_sd=math.hypot(running * train_sd, (1 - running) * start),
        energy_log_sd=math.hypot(energetic * train_sd, (1 - energetic) * start, power),
        parts=parts,
        drivers={name: value / total for name, value in variances.items() if value > 0.01 * total},
    )


def _setup_s(config: RunConfig, plan: Plan, machine: Machine, priors: Priors) -> float:
    c = priors.values
    start = c["start_cpu_s"] if machine.kind == "cpu" else c["start_s"]
    read = 0.0 if config.model.weights == "random" else 2.0 * plan.workload.shape.params
    return start + read / c["load_bytes_per_s"]


def _passes_alone(load: Load, machine: Machine, priors: Priors) -> float:
    """Seconds of one pass where no step is taken at all (max_steps=0): evaluation still makes some."""
    return step_time(dataclasses.replace(load, steps=1, accumulation=1), machine, priors.values).total


def _train_variances(load: Load, machine: Machine, priors: Priors) -> dict[str, float]:
    """Variance of log step time by constant: (elasticity · its spread)², elasticities by a small nudge."""
    if load.steps == 0:
        return {}
    base = math.log(step_time(load, machine, priors.values).total)
    found = {}
    for name in _UNCERTAIN:
        nudged = {**priors.values, name: priors.values[name] * (1 + _NUDGE)}
        elasticity = (math.log(step_time(load, machine, nudged).total) - base) / math.log1p(_NUDGE)
        found[name] = (elasticity * priors.log_sd[name]) ** 2
    return found
