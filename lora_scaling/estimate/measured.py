"""Take one figure of an earlier run in place of the level of its software stack: `measured=`.

The figure is a speed with its unit, and the settings in which the earlier run differed from this one, if any:

    measured="2300 tokens/s"
    measured="0.9 s/step @ model=llama-3.2-1b batch_size=2"
    measured="31 % MFU"
    measured="4.2 h"                        of the whole training
    measured=runs/mine/RUN/run.json         a record: the seconds of its training

tokens/s counts the tokens of samples, without padding, on all devices together.
"""

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scaling.config import RunConfig, compose
from lora_scaling.config.again import override_columns
from lora_scaling.config.devices import listed_as
from lora_scaling.errors import RecordError, UserError
from lora_scaling.estimate.physics import Machine, mean_power_w, step_time
from lora_scaling.estimate.plan import RunPlan
from lora_scaling.estimate.priors import Priors
from lora_scaling.records import RECORD_NAME, read_record, record_to_row
from lora_scaling.units import JOULES_PER_KWH

_COUNTED = {
    "tokens": ("tokens", "token", "tok"),
    "samples": ("samples", "sample", "examples", "sequences"),
    "steps": ("steps", "step", "iterations", "iteration", "iter", "it"),
    "tflop": ("tflops", "tflop"),
}
_SECONDS = {
    "ms": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "min": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hour": 3600.0, "hours": 3600.0,
}  # fmt: skip
_OF_DEVICES = ("tokens", "tflop")  # also per device, and then per second


def _units() -> Iterator[tuple[str, tuple[str, float]]]:
    """Yield (how a unit is written, its name here and what its number is multiplied by)."""
    yield from (("mfu", ("mfu", 1.0)), ("tps", ("tokens_per_s", 1.0)))
    for time, seconds in _SECONDS.items():
        yield time, ("s_per_run", seconds)
        for thing, words in _COUNTED.items():
            for word in words:
                yield f"{word}/{time}", (f"{thing}_per_s", 1 / seconds)
                for device in ("gpu", "device") if thing in _OF_DEVICES and seconds == 1.0 else ():
                    found = (f"{thing}_per_s_device", 1.0)
                    yield from ((f"{word}/{time}/{device}", found), (f"{word}/{device}/{time}", found))
                if thing in ("samples", "steps"):
                    yield f"{time}/{word}", (f"s_per_{thing.removesuffix('s')}", seconds)


# A figure is a number and a unit, in either order. `per` and `_per_` are written for the stroke as well.
_NAMES = dict(_units())
_NUMBER = r"[0-9]+(?:[.,][0-9]+)*(?:e[+-]?[0-9]+)?|\.[0-9]+"
_EXAMPLES = "measured='2300 tokens/s', '0.9 s/step', '31 % MFU', or the folder of a run"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure of an earlier run: its unit (`tokens_per_s`, `s_per_step`, `s_per_run`, `mfu`, …) and its value.

    overrides: settings of the earlier run that differ from those of the estimate.
    config: the whole configuration of the earlier run, if it is known instead.
    joules_per_step: energy of an optimizer step, if that was measured.
    """

    text: str
    unit: str
    value: float
    overrides: tuple[str, ...] = ()
    config: RunConfig | None = None
    joules_per_step: float | None = None


def parse_measured(text: str) -> Measured:
    """Read the value of `measured=`: a figure with its unit, or the path of a record.

    Raises:
        UserError: it is neither, or the record has no training to take the time of.
    """
    figure, _, settings = text.partition("@")
    words = tuple(settings.split())
    found = _figure(figure)
    if found is not None:
        return Measured(text=text, unit=found[0], value=found[1], overrides=words)
    path = Path(text)
    if path.exists():
        return _from_record(path)
    raise UserError(f"measured: got {text!r}; give a number with its unit, or a record: {_EXAMPLES}")


def _figure(text: str) -> tuple[str, float] | None:
    squeezed = re.sub(r"\s+per\s+|_per_", "/", text.lower())
    squeezed = re.sub(r"\s+", "", squeezed).replace("=", ":").removeprefix("train_")
    match = re.fullmatch(rf"({_NUMBER})(k?)(%?):?([a-z/]+)|([a-z/]+):?({_NUMBER})(k?)(%?)", squeezed)
    if match is None:
        return None
    number, thousand, percent, unit = match.groups()[:4] if match[1] else (match[6], match[7], match[8], match[5])
    if unit not in _NAMES:
        return None
    name, scale = _NAMES[unit]
    if "," in number:
        raise UserError(f"measured: got {text.strip()!r}; write the number without commas, such as 2300 or 0.9")
    value = float(number) * scale * (1000 if thousand else 1) / (100 if percent else 1)
    if name == "mfu" and not percent and value > 1:
        value /= 100  # nobody reaches an MFU above 1: these are per cent
    if not 0 < value < 1e12 or (name == "mfu" and value > 1) or (percent and name != "mfu"):
        raise UserError(f"measured: got {text.strip()!r}; give a number above 0 with its unit: {_EXAMPLES}")
    return name, value


def _from_record(path: Path) -> Measured:
    file = path / RECORD_NAME if path.is_dir() else path
    try:
        record = read_record(file)
    except (OSError, RecordError) as error:
        raise UserError(f"measured: got {path}, which is no record of a run ({error}); give RUNS/STUDY/RUN") from None
    row = record_to_row(record)
    seconds, steps, kwh = row["train_s"], row["steps"], row["energy_train_kwh"]
    if not seconds or not steps:
        raise UserError(f"measured: got {path}, whose record has no time of a training; give a finished run")
    return Measured(
        text=str(path),
        unit="s_per_step",
        value=seconds / steps,
        config=compose(_words(record, row)),
        joules_per_step=None if kwh is None else kwh * JOULES_PER_KWH / steps,
    )


def _words(record: Any, row: Mapping[str, Any]) -> list[str]:
    """Write the overrides that make the configuration of a record again, with the device that it ran on."""
    config = record["config"]
    words = [word for column in override_columns(record).values() if column for word in shlex.split(column)]
    words += [f"{name}={config[name]}" for name in ("samples", "epochs")] + [f"method={config['method']['name']}"]
    if config["method"]["name"] != "full":
        words.append(f"lora.r={config['lora']['r']}")
    if config["max_steps"] is not None:
        words.append(f"max_steps={config['max_steps']}")
    if row["tokens_seen"] and row["samples_seen"]:
        words.append(f"data.tokens_per_sample={row['tokens_seen'] / row['samples_seen']:.6g}")
    listed = None if row["hardware"] is None else listed_as(str(row["hardware"]))
    if listed is not None:
        words += [f"hardware={listed}", f"hardware.count={row['gpu_count'] or 1}"]
    return words


def earlier_run(measured: Measured, overrides: Sequence[str]) -> Measured:
    """Complete a figure with the configuration of its run: `overrides` and the measured run's own.

    Raises:
        UserError: one of its settings cannot be read.
    """
    if not measured.overrides:
        return measured
    named = {word.partition("=")[0].lstrip("+") for word in measured.overrides}
    first = [word for word in overrides if word.partition("=")[0].lstrip("+") not in named]
    return dataclasses.replace(measured, config=compose([*first, *measured.overrides]))


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Priors scaled to a measured run, and what is assumed."""

    priors: Priors
    assumptions: tuple[str, ...]


def scale_to_measured(
    measured: Measured, config: RunConfig, plan: RunPlan, machine: Machine, target: RunPlan, priors: Priors
) -> Scaled:
    """Scale the constants so that the run that was measured (config, plan, machine) takes as long as it did.

    Raises:
        UserError: it does not train, or it would have been faster than its device can be.
    """
    if plan.load.steps == 0:
        raise UserError("measured: got a run of no steps; give max_steps= or samples= of the run that was measured")
    dense = _dense_peak(config, plan, machine)
    seconds = _step_s(measured, plan, dense)
    # Of the layers' own matrices alone: a kernel may skip half of the attention scores that are counted.
    least = plan.load.matrix_flops * plan.load.accumulation / dense
    if seconds < least:
        raise UserError(
            f"measured: got {measured.text.strip()}, which is {least / seconds:.3g} times the peak of "
            f"{config.hardware.name}; give the settings it was for after @, such as @ batch_size=1"
        )
    values = {**priors.values, "software": 1.0}
    step = step_time(plan.load, machine, values)
    software = seconds / step.total
    same = dataclasses.replace(target.load, steps=plan.load.steps) == plan.load
    values["software"] = software
    log_sd = {**priors.log_sd, "software": priors.log_sd["measured" if same else "measured_elsewhere"]}
    said = [f"one earlier run took {software:.3g} times as long as a perfect stack; its level replaces that of stack="]
    if measured.joules_per_step is not None:
        values["power"] = measured.joules_per_step / (seconds * sum(mean_power_w(step, plan.load, machine, values)))
        log_sd["power"] = log_sd["cpu_core_w"] = priors.log_sd["measured"]
        said.append("the power is that of the earlier run, scaled")
    return Scaled(priors=dataclasses.replace(priors, values=values, log_sd=log_sd), assumptions=tuple(said))


def _dense_peak(config: RunConfig, plan: RunPlan, machine: Machine) -> float:
    """Return the FLOP/s of the sheet for this precision, as MFU counts them; a processor's is measured."""
    tflops = config.hardware.peak_tflops.get(plan.precision)
    return machine.peak if tflops is None else tflops * 1e12


def _step_s(measured: Measured, plan: RunPlan, dense: float) -> float:
    """Return the seconds of one optimizer step of the measured run."""
    w, steps, value = plan.workload, plan.load.steps, measured.value
    samples = w.samples_seen / steps
    seconds = {"s_per_run": value / steps, "s_per_step": value, "s_per_sample": value * samples}.get(measured.unit)
    if seconds is not None:
        return seconds
    thing, _, device = measured.unit.partition("_per_s")
    per_step = {
        "tokens": w.tokens_seen / steps,
        "samples": samples,
        "steps": 1.0,
        "tflop": w.flops.model / steps / 1e12,
        "mfu": w.flops.model / steps / dense,
    }[thing]
    devices = plan.load.gpus if device or thing == "mfu" else 1
    return per_step / (value * devices)
