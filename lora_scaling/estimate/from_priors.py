"""Estimate a whole run from priors: phases, energy, and the spread that follows from the spreads of the constants."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lora_scaling.config import ModelConfig, RunConfig
from lora_scaling.estimate.physics import Constants, Load, Machine, mean_power_w, step_time
from lora_scaling.estimate.plan import RunPlan
from lora_scaling.estimate.priors import Priors
from lora_scaling.estimate.result import Part
from lora_scaling.units import JOULES_PER_KWH

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


def model_run(
    config: RunConfig,
    plan: RunPlan,
    machine: Machine,
    priors: Priors,
    tokens_log_sd: float,
    *,
    reuses_model: bool,
    reference: tuple[Load, Machine] | None = None,
) -> Modelled:
    """Compute time, power and energy of a run on this machine. reuses_model: an earlier run left its model.

    reference: work and machine of a run whose speed was measured, and to which `priors` are scaled. A constant that
        matters as much there as here then adds nothing to the spread.
    """
    c = priors.values
    setup = _setup_s(config, plan, machine, c, reuses_model=reuses_model)
    idle_w = machine.host_power_w * c["power"]
    if machine.kind != "cpu":
        idle_w += plan.load.gpus * machine.idle_power_w
    parts = {"setup": _part(sum(setup.values()), idle_w)}
    for name, load in (("warmup", plan.warmup), ("train", plan.load), ("eval", plan.evaluation)):
        step = step_time(load, machine, c)
        parts[name] = _part(load.steps * step.total, sum(mean_power_w(step, load, machine, c)))
    total_s, kwh = sum(p.seconds for p in parts.values()), sum(p.energy_kwh for p in parts.values())
    variances = _variances(plan, machine, priors, reference) | {"tokens": tokens_log_sd**2}
    power = priors.log_sd["power"] if machine.kind != "cpu" else priors.log_sd["cpu_core_w"]
    train_sd = math.sqrt(sum(variances.values()))
    total = sum(variances.values()) or 1.0
    setup_sd = math.hypot(*(s * priors.log_sd[name] for name, s in setup.items())) / parts["setup"].seconds

    def log_sd(share: float) -> float:
        """Return the spread of the whole run, of which set-up is this share."""
        return math.hypot((1 - share) * train_sd, share * setup_sd)

    return Modelled(
        seconds=total_s,
        energy_kwh=kwh,
        power_w=kwh * JOULES_PER_KWH / total_s,
        time_log_sd=log_sd(parts["setup"].seconds / total_s),
        energy_log_sd=math.hypot(log_sd(parts["setup"].energy_kwh / kwh), power),
        parts=parts,
        drivers={name: value / total for name, value in variances.items() if value > 0.01 * total},
    )


def _part(seconds: float, watts: float) -> Part:
    return Part(seconds=seconds, energy_kwh=seconds * watts / JOULES_PER_KWH)


def weights_from(model: ModelConfig) -> str:
    """Return where the weights come from: random, pretrained, or gguf (unpacked while they are read)."""
    return "gguf" if model.gguf_file is not None and model.weights == "pretrained" else model.weights


def _setup_s(
    config: RunConfig, plan: RunPlan, machine: Machine, c: Constants, *, reuses_model: bool
) -> dict[str, float]:
    """Compute the seconds of set-up, by the constant that determines them."""
    if reuses_model:
        return {"reuse_s": c["reuse_s"]}
    start = "start_cpu_s" if machine.kind == "cpu" else "start_s"
    rate = f"{weights_from(config.model)}_weights_per_s"
    return {start: c[start], rate: plan.workload.shape.params / c[rate]}


def _variances(
    plan: RunPlan, machine: Machine, priors: Priors, reference: tuple[Load, Machine] | None
) -> dict[str, float]:
    """Compute the variance of log step time, by constant: (elasticity · spread)², with numerical elasticities.

    If the run does not train, the step of its evaluation or warm-up is used instead.
    """
    load = next((load for load in (plan.load, plan.evaluation, plan.warmup) if load.steps), None)
    if load is None:
        return {}
    found = {}
    for name in _UNCERTAIN:
        elasticity = _elasticity(name, load, machine, priors)
        beyond = {"eta": machine.peak_log_sd, "comm_share": machine.link_log_sd}.get(name, 0.0)
        if reference is not None and name != "software":
            elasticity -= _elasticity(name, *reference, priors)
        found[name] = (elasticity * math.hypot(priors.log_sd[name], beyond)) ** 2
    return found


def _elasticity(name: str, load: Load, machine: Machine, priors: Priors) -> float:
    """Return by how many per cent a step takes longer if a constant rises by one per cent."""
    nudged = {**priors.values, name: priors.values[name] * (1 + _NUDGE)}
    before, after = (step_time(load, machine, values).total for values in (priors.values, nudged))
    return math.log(after / before) / math.log1p(_NUDGE)
