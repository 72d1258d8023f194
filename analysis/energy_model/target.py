"""The run that a prediction is asked for: its exact work, and what had to be taken from the runs to know it."""

import math
import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from lora_scaling.config import HardwareConfig, RunConfig, compose
from lora_scaling.config.devices import is_processor, listed_as, preset, same_device
from lora_scaling.config.model_names import preset_model
from lora_scaling.errors import UserError
from lora_scaling.estimate.plan import make_plan, peak_interval
from lora_scaling.estimate.priors import load_priors
from lora_scaling.estimate.result import LEVEL
from lora_scaling.estimate.target import target_of
from lora_scaling.estimate.terms import Target
from lora_scaling.paths import choices, presets
from lora_scaling.workload import Counting, Lengths, Workload

from ..tables.overrides import NUMBER_OF, TRUTH_OF, commonest, further_overrides
from ..tables.run_quantities import Work, group_levels
from .energy_fit import EnergyFit

OF_A_MODEL = ("params", "trainable_params", "tokens", "flops", "flops_per_token", "params_samples_seen")
MOST_CUT, BISECTIONS = 20.0, 20  # of samples' lengths before they were cut, and steps to find their mean
Z_90 = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True, kw_only=True)
class PlannedTarget:
    """A planned run: its configuration, exact work, the fit's target, and the assumptions behind them.

    `precision` is what the run would compute in; `device` the device's facts from the hardware table (None where
    it is not in there) and `same_hardware` whether the fit knows it. `model` is its name, None where it is the runs'
    own, which they do not tell: `config` and `workload` then hold another in its place, of which nothing may be read.
    """

    config: RunConfig
    model: str | None
    workload: Workload
    target: Target
    precision: str
    device: HardwareConfig | None
    same_hardware: bool
    assumptions: tuple[str, ...]


def plan_target(overrides: Sequence[str], frame: pd.DataFrame, fitted: EnergyFit) -> PlannedTarget:
    """Compose the target from overrides, with the settings, token lengths and device of the runs where not given.

    Raises UserError for overrides that make no run, or a run whose work cannot be known.
    """
    given = settings_in(overrides)
    own = own_settings(frame, overrides)
    config = compose([*own, *overrides], given=overrides)
    named = given.keys() | settings_in(own).keys()
    model = _model(config, named, frame, fitted.explained.work)
    _refuse_unknown(config, given, named, frame, fitted.explained.work)
    lengths, sentence = _lengths(config, given, frame)
    workload = config.workload(lengths)
    if workload.steps == 0:
        raise UserError(
            "max_steps: got 0, which leaves no training to extrapolate to; give a target of at least one step"
        )
    target = target_of(config, workload, counting=fitted.explained.work.counting)
    values = dict(target.values)
    if model is None:
        values = {name: value for name, value in values.items() if name not in OF_A_MODEL}
        assumptions = [_describe_like(config)]
    else:
        assumptions = [_describe(config, workload, target, fitted.explained.work.counting), sentence]
    labels = dict(target.labels)
    precision = _precision(config, fitted, assumptions)
    labels["precision"] = precision
    same, device = _device(config, fitted, labels, assumptions)
    labels |= _unsized(model, given.get("data"), fitted.explained.work, assumptions)
    assumptions += _differences(config, frame)
    return PlannedTarget(
        config=config,
        model=model,
        workload=workload,
        target=Target(values=values, labels=labels),
        precision=precision,
        device=device,
        same_hardware=same,
        assumptions=tuple(assumptions),
    )


def settings_in(overrides: Sequence[str]) -> dict[str, str]:
    """The settings that overrides name, and the text of each."""
    return {name.lstrip("+~"): text for name, _, text in (word.partition("=") for word in overrides)}


def own_settings(frame: pd.DataFrame, overrides: Sequence[str] = ()) -> list[str]:
    """What `overrides` leave open, as most of the runs had it: those of the model and method that are asked for."""
    given = settings_in(overrides)
    if "experiment" in given:  # it states a whole run
        return []
    for column in ("model", "method"):
        alike = frame[column].isin(_same_names(frame[column], given.get(column) or commonest(frame[column])))
        frame = frame[alike] if alike.any() else frame
    words: list[str] = []
    for group in ("model", "data", "method"):
        again = commonest(frame[f"{group}_override"]) if f"{group}_override" in frame else None
        name = commonest(frame[group])
        if again is not None:  # records say how to choose a file or a checkpoint again, which a name does not
            words += shlex.split(again)
        elif group == "model" and isinstance(name, str) and (preset := preset_model(name)) is not None:
            words.append(f"model={preset}")
        elif group == "method" and name in choices(group):
            words.append(f"{group}={name}")
    for name, column in NUMBER_OF.items():
        if (number := commonest(frame[column])) is not None and number > 0:
            words.append(f"{name}={number:.0f}")
    for name, column in TRUTH_OF.items():
        if (flag := commonest(frame[column])) is not None:
            words.append(f"{name}={str(bool(flag)).lower()}")
    words += shlex.split(" ".join(further_overrides(frame)))
    settings = settings_in(words)
    return [
        f"{name}={text}"
        for name, text in settings.items()
        if name not in given and not (name.partition(".")[0] in given and name.startswith(("model.", "data.")))
    ]


def _same_names(column: pd.Series, name: str | None) -> list[str]:
    """Return the values of a column that mean this model or method."""
    wanted = None if name is None else preset_model(name) or name
    return [value for value in column.dropna().unique() if (preset_model(value) or value) == wanted]


def _model(config: RunConfig, named: Set[str], frame: pd.DataFrame, work: Work) -> str | None:
    """The target's model; None where neither the overrides nor the runs name one and nothing depends on its size.

    Raises UserError for a model of which the runs say nothing.
    """
    chosen = any(name.partition(".")[0] in ("model", "experiment") for name in named)
    seen = sorted(set(frame["model"].iloc[work.row].dropna()))
    if work.size is not None:
        if chosen:
            return config.model.name
        usual = commonest(frame["model"])
        theirs = "the runs do not name theirs" if usual is None else f"the runs' own, {usual}, is none of the presets"
        raise UserError(
            f"model: missing, and {theirs}; give model=NAME of the run to predict, or --set model=NAME of the runs"
        )
    if not chosen:
        return None
    if config.model.name in {preset_model(name) or name for name in seen}:
        return config.model.name
    name = config.model.name
    of = f"are of {', '.join(seen)}" if seen else "do not name their model"
    raise UserError(
        f"model: got {name}; the runs {of} and tell no sizes, so that nothing is known of another: add `params`, or "
        "`tokens_seen` and `flops`, to the table, or say with --set model=NAME of what preset they are"
        + ("" if len(seen) > 1 else ", or leave model= out to predict a run of the same model")
    )


def _refuse_unknown(
    config: RunConfig, given: Mapping[str, str], named: Set[str], frame: pd.DataFrame, work: Work
) -> None:
    """Raise UserError for a method of which the runs say nothing, and for a default that cannot have been the runs'."""
    if work.size is None and "method" in given and frame["method"].isna().all():
        raise UserError(
            f"method: got {given['method']}; the runs do not tell theirs, nor their FLOPs, so that nothing is known "
            "of another: add `method` to the table, or leave method= out to predict a run of the same"
        )
    measured = tokens_per_sample(frame)
    if "max_seq_len" not in named and measured is not None and measured > config.max_seq_len:
        raise UserError(
            f"max_seq_len: missing, and its default of {config.max_seq_len} would cut the runs' "
            f"{measured:.4g} tokens a sample; give that of the runs"
        )


def _describe_like(config: RunConfig) -> str:
    return (
        f"The target: {config.samples:,} samples × {config.epochs} epoch{'s' * (config.epochs > 1)} of the runs' own "
        "model and settings, which they do not name: taken by the sample."
    )


def _describe(config: RunConfig, workload: Workload, target: Target, counting: Counting) -> str:
    tuned = config.method.name + (f" of rank {config.lora.r}" if config.tuning.adapted else " fine-tuning")
    return (
        f"The target: {config.model.name} ({workload.shape.params / 1e9:.3g} B parameters), {tuned}, "
        f"{config.samples:,} samples × {config.epochs} epoch{'s' * (config.epochs > 1)}, batch {config.batch_size}, "
        f"{target.values['tokens']:,.0f} tokens {'with' if counting.padding else 'without'} padding, "
        f"{target.values['flops']:.3g} FLOPs. "
        "Settings that were not given are the runs' own, or else the configuration's defaults."
    )


def _lengths(config: RunConfig, settings: Mapping[str, str], frame: pd.DataFrame) -> tuple[Lengths, str]:
    """Token lengths: as given by data.tokens_per_sample, else those of the runs, else the data set's own."""
    given = config.data.tokens_per_sample
    if given is not None and "data.tokens_per_sample" in settings:
        return Lengths.lognormal(given, config.data.tokens_cv), f"{given:g} tokens a sample, as given."
    measured = tokens_per_sample(frame)
    if measured is not None:
        cut_before = frame["tokens_truncated"].isna().all() and _as_cut_as_the_runs(config, settings, frame)
        limit = config.max_seq_len if cut_before else math.inf
        return (
            _kept_lengths(measured, config.data.tokens_cv, limit),
            f"{measured:.4g} tokens a sample on average, as in the runs (data.tokens_per_sample=… overrides it); "
            f"spread of the lengths: cv {config.data.tokens_cv:g}.",
        )
    if given is not None:
        sentence = f"{given:g} tokens a sample, the default of data={config.data.name}: the runs do not tell."
        return Lengths.lognormal(given, config.data.tokens_cv), sentence
    raise UserError(
        "data.tokens_per_sample: got null, and the runs do not tell their tokens; give data.tokens_per_sample=NUMBER"
    )


def _as_cut_as_the_runs(config: RunConfig, settings: Mapping[str, str], frame: pd.DataFrame) -> bool:
    """Return whether the target's samples are cut where the runs' were: nobody asked for another `max_seq_len`."""
    return "max_seq_len" not in settings or commonest(frame["max_seq_len"]) == config.max_seq_len


def _kept_lengths(mean: float, cv: float, limit: float) -> Lengths:
    """Return log-normal lengths that have this mean after they are cut at `limit`, as the runs' tokens were counted."""
    low, high = mean, MOST_CUT * mean
    found = Lengths.lognormal(mean, cv)
    if not limit < found.values[-1]:
        return found
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        found = Lengths.lognormal(middle, cv)
        kept = sum(min(value, limit) for value in found.values) / len(found.values)
        low, high = (middle, high) if kept < mean else (low, middle)
    return found


def tokens_per_sample(frame: pd.DataFrame) -> float | None:
    """Mean length of the runs' samples before truncation; None where tokens are unknown."""
    seen, samples = frame["tokens_seen"].to_numpy(dtype=float), frame["samples_seen"].to_numpy(dtype=float)
    cut = frame["tokens_truncated"].to_numpy(dtype=float) if "tokens_truncated" in frame else np.zeros(len(frame))
    known = np.isfinite(seen) & (seen > 0) & (samples > 0)
    if not known.any():
        return None
    return float((seen[known] + np.nan_to_num(cut[known])).sum() / samples[known].sum())


def _precision(config: RunConfig, fitted: EnergyFit, assumptions: list[str]) -> str:
    seen = fitted.fit.precisions
    if config.precision != "auto":
        return config.precision
    if len(seen) == 1:
        assumptions.append(f"Precision {seen[0]}, as in the runs.")
        return seen[0]
    if not seen:
        return "bf16"
    values, counts = np.unique(fitted.explained.work.labels["precision"].astype(str), return_counts=True)
    common = str(values[int(np.argmax(counts))])
    assumptions.append(f"Precision {common}, the commonest of the runs (precision=… overrides it).")
    return common


def _unsized(model: str | None, data: str | None, work: Work, assumptions: list[str]) -> dict[str, str]:
    """Return the model and the data set of the target, where their sizes are unknown: those given, or the commonest."""
    found: dict[str, str] = {}
    for name, given in (("model", model), ("data", data)):
        if name not in work.labels:
            continue
        values, counts = np.unique(work.labels[name].astype(str), return_counts=True)
        own = [value for value in values if given in (value, preset_model(value) if name == "model" else None)]
        own = own if given is not None else []
        found[name] = str(own[0] if own else values[int(np.argmax(counts))])
        if not own and len(values) > 1:
            noun = {"model": "model", "data": "data set"}[name]
            assumptions.append(f"The {noun} is {found[name] or 'one without a name'}, the commonest of the runs.")
    return found


def _device(
    config: RunConfig, fitted: EnergyFit, labels: dict[str, str], assumptions: list[str]
) -> tuple[bool, HardwareConfig | None]:
    """Whether the fit knows the target's device, and that device's row of the hardware table."""
    seen, name = fitted.fit.hardware, config.hardware.name
    if name == "auto":
        labels.pop("hardware", None)
        if not seen:
            assumptions.append("The runs do not name their device: the target is taken to run on the same.")
            return True, None
        values, counts = np.unique(fitted.explained.work.labels["hardware"].astype(str), return_counts=True)
        common = str(values[int(np.argmax(counts))])
        labels["hardware"] = common
        assumptions.append(f"On {common}, as {'the' if len(seen) == 1 else 'most'} runs were.")
        return True, _with_own_numbers(find_device(common), config.hardware)
    device = _with_own_numbers(find_device(name), config.hardware)
    for known in seen:
        if same_device(name, known):
            labels["hardware"] = known
            return True, device
    labels.pop("hardware", None)
    return not seen, device


def _with_own_numbers(sheet: HardwareConfig | None, asked: HardwareConfig) -> HardwareConfig | None:
    """Return the data sheet of a listed device with the numbers that the target gives in its place."""
    if sheet is None:
        return None
    names = (
        "memory_gb",
        "board_power_w",
        "idle_power_w",
        "bandwidth_gb_s",
        "link_gb_s",
        "network_gb_s",
        "host_power_w",
    )
    own = {name: value for name in names if (value := getattr(asked, name)) is not None}
    peaks = {precision: value for precision, value in asked.peak_tflops.items() if value is not None}
    return replace(sheet, **own, peak_tflops={**sheet.peak_tflops, **peaks})


def find_device(name: str) -> HardwareConfig | None:
    """The data sheet of a device, by any of its names; None where it is not listed."""
    listed = name if name in presets("hardware") else listed_as(name)
    return None if listed is None else preset(listed)


def _differences(config: RunConfig, frame: pd.DataFrame) -> list[str]:
    """Settings that no run had and that the FLOPs do not express."""
    found = []
    accumulation = frame["gradient_accumulation"].dropna()
    if len(accumulation) and config.gradient_accumulation not in set(accumulation):
        levels = ", ".join(f"{value:g}" for value in group_levels(accumulation.to_numpy(dtype=float))[0])
        found.append(
            f"gradient_accumulation is {config.gradient_accumulation} in the target and {levels} in the runs: "
            "taken to make no difference."
        )
    return found


def peak_memory(planned: PlannedTarget) -> dict[str, Any]:
    """{"estimate", "low", "high", "fits", "available_gb", "shards"} in GB of one device, as the estimator counts it.

    All null where the model is not known.
    """
    if planned.model is None:
        return dict.fromkeys(("estimate", "low", "high", "fits", "available_gb", "shards"))
    config, priors = planned.config, load_priors()
    if planned.device is not None:
        config = replace(config, hardware=replace(planned.device, count=config.hardware.count))
    elif is_processor(planned.target.labels.get("hardware", "")):
        config = replace(config, hardware=replace(config.hardware, kind="cpu"))
    plan = make_plan(config, planned.workload, planned.precision, priors)
    available = config.hardware.memory_gb
    return {
        **peak_interval(plan, priors, Z_90, available).to_dict(),
        "fits": None if available is None else bool(plan.needed_gb <= available),
        "available_gb": available,
        "shards": plan.shards,
    }
