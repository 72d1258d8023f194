"""Estimate a run: exact work first, then time, power, energy, grams and money, with intervals."""

import dataclasses
import math
from dataclasses import dataclass
from operator import attrgetter
from statistics import NormalDist

from lora_scaling.config import RunConfig
from lora_scaling.errors import UserError
from lora_scaling.estimate.fit_file import UNSEEN_LABEL_FACTOR, Fit
from lora_scaling.estimate.from_priors import Modelled, model_run
from lora_scaling.estimate.hardware import machine_of, resolve_hardware, unknown_link
from lora_scaling.estimate.lengths import LengthBasis, lengths_of
from lora_scaling.estimate.measured import Measured, parse_measured, scale_to_measured
from lora_scaling.estimate.physics import Machine
from lora_scaling.estimate.pilot import PilotMeasurement, refuse_elsewhere, refuse_several, scale_pilot
from lora_scaling.estimate.plan import RunPlan, make_plan, peak_interval, resolve_precision
from lora_scaling.estimate.priors import DEFAULT_STACK, Priors, load_priors
from lora_scaling.estimate.remedies import remedy
from lora_scaling.estimate.result import LEVEL, MEMORY_PARTS, Emissions, Estimate, Interval, Memory
from lora_scaling.estimate.shapes import with_shape
from lora_scaling.estimate.target import target_of
from lora_scaling.grid import static_of
from lora_scaling.settings import SETTINGS
from lora_scaling.units import JOULES_PER_KWH
from lora_scaling.workload import Lengths

_COUNTED = "counted exactly from the model's shape"


@dataclass(frozen=True, kw_only=True)
class Price:
    """Money per hour of all devices, or per kWh, in any one currency."""

    per_hour: float | None = None
    per_kwh: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A run with its device and shape resolved, laid out, and the numbers of its machine (None: `missing` says why)."""

    config: RunConfig
    asked: int
    lengths: LengthBasis
    plan: RunPlan
    machine: Machine | None
    missing: str | None


def _planned(config: RunConfig, priors: Priors, pilot: PilotMeasurement | None = None) -> _Planned:
    asked = config.hardware.count
    hardware = resolve_hardware(config.hardware, config.device)
    config = dataclasses.replace(config, hardware=hardware, model=with_shape(config.model))
    lengths = _lengths(config, priors, pilot)
    precision = resolve_precision(config, hardware.kind, hardware.peak_tflops)
    plan = make_plan(config, config.workload(lengths.lengths), precision, priors)
    machine, missing = machine_of(hardware, precision, priors)
    return _Planned(config=config, asked=asked, lengths=lengths, plan=plan, machine=machine, missing=missing)


def estimate(
    config: RunConfig,
    *,
    level: float = LEVEL,
    fit: Fit | None = None,
    pilot: PilotMeasurement | None = None,
    price: Price | None = None,
    reuses_model: bool = False,
    stack: str = DEFAULT_STACK,
    measured: Measured | str | None = None,
) -> Estimate:
    """Estimate what this run will cost, before it starts.

    Nothing is loaded or run. For a model without a preset, only its config.json is fetched. Without `fit`, `pilot` and
    `measured`, the answer rests on priors; with several of them, it is the one with the narrowest interval.

    reuses_model: an earlier run of the same process leaves its model to this one, so that almost no set-up remains
        (by priors; a fit has its own set-up).
    stack: the software that will run it: hf, unsloth, torchtune, litgpt, llm-foundry, megatron or other.
    measured: one figure of an earlier run of this stack, which replaces what `stack` says: "2300 tokens/s",
        "0.9 s/step", "31 % MFU", or the path of a record.

    Raises:
        UserError: the model's shape or the data's lengths are unknown, the file has too few samples, the zone does not
            exist, or the fit or the pilot belongs to other hardware or another number of devices. A run that does not
            fit into memory is not an error: see `Estimate.memory`.
    """
    priors = load_priors().of_stack(stack)
    if pilot is not None:
        refuse_several(config)
        refuse_elsewhere(config, pilot.device, pilot.kind)
    planned = _planned(config, priors, pilot)
    config, plan, hardware = planned.config, planned.plan, planned.config.hardware
    z = NormalDist().inv_cdf(0.5 + level / 2)
    base = Estimate(
        name=_name(config),
        level=level,
        basis="priors",
        hardware=hardware.name,
        gpu_count=hardware.count,
        stack=stack,
        work=_work(plan),
        memory=_memory(config, plan, priors, z),
        assumptions=_assumptions(planned, priors),
        sources={"work": _COUNTED, "peak_memory_gb": "modelled: tensors counted, allocator overhead assumed"},
    )
    answers: list[Estimate] = []
    if fit is not None:
        answers.append(_from_fit(base, config, plan, fit, level))
    if pilot is not None:
        answers.append(_from_pilot(base, config, plan, pilot, level))
    if measured is not None:
        answers.append(_from_measured(base, planned, measured, priors, z, reuses_model=reuses_model))
    if not answers:
        if planned.machine is None:
            return dataclasses.replace(base, reason=planned.missing)
        log_sd = planned.lengths.log_sd
        run = model_run(config, plan, planned.machine, priors, log_sd, reuses_model=reuses_model)
        answers.append(_from_priors(base, run, z, hardware.kind))
    best = min(answers, key=lambda answer: answer.energy_kwh.ratio if answer.energy_kwh else float("inf"))
    if len(answers) > 1:
        said = f"of {' and '.join(sorted(a.basis for a in answers))}, the narrower interval: {best.basis}"
        best = dataclasses.replace(best, assumptions=(*best.assumptions, said))
    return _priced(_with_grams(best, config, priors, z), price)


def _lengths(config: RunConfig, priors: Priors, pilot: PilotMeasurement | None) -> LengthBasis:
    """Return the lengths of the samples, as the pilot counted them or as far as they are known without it."""
    if pilot is not None and pilot.lengths:
        counted = Lengths(tuple(pilot.lengths))
        return LengthBasis(
            lengths=counted, log_sd=0.0, sentence=f"{counted.mean:.3g} tokens a sample, counted by the pilot"
        )
    found = lengths_of(config.data, priors)
    if found.available is not None:
        from lora_scaling.data.samples import check_enough

        check_enough(config.data, config.samples, config.eval_samples, found.available)
    return found


def _name(config: RunConfig) -> str:
    rank = f" r={config.lora.r}" if config.tuning.adapted else ""
    steps = config.max_steps
    cut = "" if steps is None else f", at most {steps:,} steps" if steps else ", no training"
    return f"{config.model.name} {config.method.name}{rank}, {config.samples:,} samples × {config.epochs}{cut}"


def _work(plan: RunPlan) -> dict[str, float]:
    w, flops = plan.workload, plan.workload.flops
    return {
        "params": w.shape.params,
        "trainable_params": w.trainable_params,
        "samples_seen": w.samples_seen,
        "tokens": w.tokens_seen,
        "tokens_padded": w.tokens_padded,
        "tokens_truncated": w.samples_seen * w.statistics.truncated,
        "steps": plan.load.steps,
        "micro_steps": plan.micro_steps,
        "flops": flops.total,
        "model_flops": flops.model,
    }


def _memory(config: RunConfig, plan: RunPlan, priors: Priors, z: float) -> Memory:
    use, available = plan.memory, config.hardware.memory_gb
    peak = peak_interval(plan, priors, z, available)
    fits = None if available is None else plan.fits
    parts = {name: getattr(use, name) / 1e9 for name in MEMORY_PARTS}
    return Memory(
        peak_gb=peak,
        allocated_gb=use.peak / 1e9,
        available_gb=available,
        fits=fits,
        largest_batch=None if plan.budget_bytes is None else plan.largest_batch(),
        shards=plan.shards,
        parts=parts,
        remedy=remedy(config, plan, priors) if fits is False else None,
    )


def _assumptions(planned: _Planned, priors: Priors) -> tuple[str, ...]:
    config, plan, lengths, asked = planned.config, planned.plan, planned.lengths, planned.asked
    w, hardware = plan.workload, config.hardware
    said = [lengths.sentence]
    if hardware.count != asked:
        said.append(f"hardware.count {asked} is left out: {hardware.name}, which is here, counts as one device")
    cut = w.statistics.truncated / max(1e-9, lengths.lengths.mean)
    if cut > 0.02:
        said.append(f"max_seq_len {config.max_seq_len} cuts {cut:.0%} of the tokens")
    if w.statistics.padding > 0.01 * w.statistics.tokens:
        said.append(f"padding adds {w.statistics.padding / w.statistics.tokens:.0%} to the tokens processed")
    if config.method.name == "qlora" and w.shape.experts > 1:
        said.append("the experts stay in 16 bit: they are held in fused tensors, which bitsandbytes does not quantise")
    said += [s.uncounted for s in SETTINGS if s.uncounted and attrgetter(s.name)(config) == s.uncounted_at]
    if config.precision == "auto":
        said.append(f"precision auto taken as {plan.precision}")
    if config.method.name == "full" and plan.precision == "bf16":
        said.append(
            "full fine-tuning in pure bf16: weights, gradients and AdamW's moments in 16 bit"
            if config.pure_bf16
            else "full fine-tuning of 32-bit weights, computed in bf16 (pure_bf16=true: of 16-bit weights)"
        )
    if plan.precision == "fp8":
        said.append("FP8 for the products of the layers' own matrices; weights, adapters, attention and head in 16 bit")
    link = unknown_link(hardware, priors) if plan.load.comm_bytes else None
    return (*said, *plan.notes, *([link] if link else []))


def _from_priors(base: Estimate, run: Modelled, z: float, kind: str) -> Estimate:
    host = "CPU and RAM as CodeCarbon models them; no PUE, no losses of the power supply"
    device = "processor measured here, " if kind == "cpu" else "peak and board power by the sheet, "
    return dataclasses.replace(
        base,
        time_s=Interval.lognormal(run.seconds, run.time_log_sd, z),
        energy_kwh=Interval.lognormal(run.energy_kwh, run.energy_log_sd, z),
        power_w=run.power_w,
        parts=run.parts,
        drivers=run.drivers,
        sources={**base.sources, "time_s": "modelled from priors", "energy_kwh": "modelled from priors"},
        assumptions=(*base.assumptions, f"{device}efficiencies from published runs (priors.json)", host),
    )


def _from_measured(
    base: Estimate, planned: _Planned, measured: Measured | str, priors: Priors, z: float, *, reuses_model: bool
) -> Estimate:
    """Estimate with the constants scaled to one measured figure, in place of the level of the software stack."""
    given = parse_measured(measured) if isinstance(measured, str) else measured
    earlier = planned if given.config is None else _planned(given.config, priors)
    if given.config is None and given.overrides:
        raise UserError(
            "measured: got settings after @, which only a command line can add; give Measured(..., config=...) instead"
        )
    if planned.machine is None or earlier.machine is None:
        return dataclasses.replace(base, reason=planned.missing or earlier.missing)
    scaled = scale_to_measured(given, earlier.config, earlier.plan, earlier.machine, planned.plan, priors)
    run = model_run(
        planned.config, planned.plan, planned.machine, scaled.priors, planned.lengths.log_sd,
        reuses_model=reuses_model, reference=(earlier.plan.load, earlier.machine),
    )  # fmt: skip
    answer = _from_priors(base, run, z, planned.config.hardware.kind)
    source = f"scaled to {given.text.strip()}"
    return dataclasses.replace(
        answer,
        basis="measured",
        sources={**answer.sources, "time_s": source, "energy_kwh": source},
        assumptions=(*answer.assumptions, *scaled.assumptions),
    )


def _from_fit(base: Estimate, config: RunConfig, plan: RunPlan, fit: Fit, level: float) -> Estimate:
    if plan.workload.steps == 0:
        raise UserError(
            "max_steps: got 0; a fit speaks of training: estimate a run without steps by priors, without fit="
        )
    if config.hardware.kind == "auto":
        fit.refuse_unrecognised()
    fit.refuse_count(config.hardware.count)
    # For an unrecognised device, the precision that precision=auto becomes is unknown.
    precision = None if config.hardware.kind == "auto" else plan.precision
    target = target_of(config, plan.workload, precision, fit.counting)
    energy, seconds = fit.predict(target, level), fit.predict_time(target, level)
    kwh = Interval(estimate=energy.estimate, low=energy.low, high=energy.high)
    time_s = None if seconds is None else Interval(estimate=seconds.estimate, low=seconds.low, high=seconds.high)
    unseen = [str(item["variable"]) for item in energy.extrapolates if item["factor"] is None]
    said = [f"fitted on {fit.n} runs of {', '.join(fit.hardware) or 'a device not named'}"]
    if unseen:
        said.append(
            f"the fit has not seen this {' and '.join(unseen)}: "
            f"its interval is widened {UNSEEN_LABEL_FACTOR:g} times for each"
        )
    return dataclasses.replace(
        base,
        basis="fit",
        time_s=time_s,
        energy_kwh=kwh,
        power_w=None if time_s is None else kwh.estimate * JOULES_PER_KWH / time_s.estimate,
        extrapolates=energy.extrapolates,
        sources={**base.sources, "time_s": f"fit ({fit.path})", "energy_kwh": f"fit ({fit.path})"},
        assumptions=(*base.assumptions, *said),
    )


def _from_pilot(base: Estimate, config: RunConfig, plan: RunPlan, pilot: PilotMeasurement, level: float) -> Estimate:
    scaled = scale_pilot(pilot, plan, level)
    return dataclasses.replace(
        base,
        basis="pilot",
        hardware=pilot.device,
        time_s=scaled.time_s,
        energy_kwh=scaled.energy_kwh,
        power_w=scaled.energy_kwh.estimate * JOULES_PER_KWH / scaled.time_s.estimate,
        parts=scaled.parts,
        extrapolates=scaled.extrapolates,
        sources={**base.sources, "time_s": "pilot, scaled", "energy_kwh": f"pilot, scaled ({pilot.energy_source})"},
        assumptions=(*base.assumptions, *scaled.assumptions),
    )


def _with_grams(answer: Estimate, config: RunConfig, priors: Priors, z: float) -> Estimate:
    if answer.energy_kwh is None:
        return answer
    intensity = static_of(config.grid)
    given = config.grid.intensity_g_per_kwh is not None
    spread = 0.0 if given else z * priors.log_sd["intensity_static"]
    kwh, grams = answer.energy_kwh, intensity.g_per_kwh * config.grid.pue
    emissions = Emissions(
        grams=Interval(
            estimate=kwh.estimate * grams,
            low=kwh.estimate * grams / _together(kwh.estimate / kwh.low, spread),
            high=kwh.estimate * grams * _together(kwh.high / kwh.estimate, spread),
        ),
        g_per_kwh=intensity.g_per_kwh,
        definition=intensity.definition,
        source=intensity.source,
        year=intensity.year,
    )
    said = f"{intensity.g_per_kwh:.4g} g/kWh, {intensity.place}" + (f" {intensity.year}" if intensity.year else "")
    notes = [said if given else f"{said}: a yearly mean, of which an hour may differ by a factor 1.6"]
    if intensity.notice:
        notes.append(intensity.notice)
    if config.grid.pue != 1.0:
        notes.append(f"grams include PUE {config.grid.pue:g}; kWh do not")
    return dataclasses.replace(answer, emissions_g=emissions, assumptions=(*answer.assumptions, *notes))


def _together(factor: float, log_spread: float) -> float:
    """Combine two independent relative spreads into one factor."""
    return math.exp(math.hypot(math.log(factor), log_spread)) if factor > 0 else 1.0


def _priced(answer: Estimate, price: Price | None) -> Estimate:
    if price is None or answer.energy_kwh is None:
        return answer
    cost = Interval(estimate=0.0, low=0.0, high=0.0)
    if price.per_hour is not None:
        if answer.time_s is None:
            return answer
        cost = cost.plus(answer.time_s.scaled(price.per_hour / 3600))
    if price.per_kwh is not None:
        cost = cost.plus(answer.energy_kwh.scaled(price.per_kwh))
    return dataclasses.replace(answer, cost=cost)
