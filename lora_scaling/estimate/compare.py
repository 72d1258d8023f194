"""Estimate the same job with several methods, models or software stacks, on several devices, or in several zones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from lora_scaling.config import RunConfig, compose
from lora_scaling.config.build import suggest
from lora_scaling.config.devices import preset
from lora_scaling.errors import UserError
from lora_scaling.estimate.estimator import Price, estimate
from lora_scaling.estimate.fit_file import Fit
from lora_scaling.estimate.measured import Measured
from lora_scaling.estimate.priors import DEFAULT_STACK, load_priors
from lora_scaling.estimate.result import LEVEL, Estimate
from lora_scaling.paths import choices

METHODS = ("lora", "qlora", "full")
GPUS = ("rtx-a4000", "rtx-4090", "a10g", "l40s", "a100-80gb", "h100-sxm", "h200", "b200", "mi300x")
ZONES = ("NO", "SE", "FR", "DK1", "GB", "DE", "US", "PL", "IN")
_MODELS = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "qwen3-14b", "llama-3.1-70b")
_DEFAULTS = {
    "method": METHODS,
    "gpus": GPUS,
    "zones": ZONES,
    "models": _MODELS,
    "stacks": tuple(load_priors().stacks),
}
_ALSO = {"methods": "method", "gpu": "gpus", "hardware": "gpus", "zone": "zones", "model": "models", "stack": "stacks"}


def compare(
    config: RunConfig,
    what: str,
    *,
    level: float = LEVEL,
    fit: Fit | None = None,
    price: Price | None = None,
    stack: str = DEFAULT_STACK,
    measured: Measured | None = None,
) -> list[tuple[str, Estimate]]:
    """Return (label, estimate) of each alternative. `what`: method, gpus, zones, models or stacks, or e.g.
    `gpus:rtx-4090,2xh100-sxm`.

    Raises:
        UserError: an alternative is unknown or cannot be estimated.
    """
    kind, _, listed = what.partition(":")
    kind = _ALSO.get(kind, kind)
    if kind not in _DEFAULTS:
        raise UserError(
            f"compare: got {what!r}; choose method, gpus, zones, models or stacks, or list them: compare=gpus:t4,l4"
        )
    chosen: Sequence[str] = [name for name in listed.split(",") if name] or _DEFAULTS[kind]
    changes = {"method": _with_method, "gpus": _with_gpus, "zones": _with_zone, "models": _with_model}
    change = changes.get(kind)
    if measured is not None and measured.config is None:  # it was this run that was measured, not its alternatives
        measured = dataclasses.replace(measured, config=config)
    return [
        (
            name,
            estimate(
                config if change is None else change(config, name),
                level=level,
                fit=fit,
                price=price,
                stack=name if kind == "stacks" else stack,
                measured=measured,
            ),
        )
        for name in chosen
    ]


def not_ordered_by_size(rows: Sequence[tuple[str, Estimate]]) -> str | None:
    """Return a sentence if, of models that are compared, a larger one is quicker than a smaller one; None otherwise."""
    timed = [
        (answer.work["params"], answer.time_s.estimate, name) for name, answer in rows if answer.time_s is not None
    ]
    for params, seconds, name in sorted(timed):
        slower = next((other for size, time, other in sorted(timed) if size > params and time < seconds), None)
        if slower is not None:
            return (
                f"{slower} is larger than {name} and quicker: a step of few tokens lasts as long as the launches of "
                "its layers, of which the larger model has fewer (as LitGPT measured of phi-1.5 and StableLM-3B)"
            )
    return None


def _with_method(config: RunConfig, name: str) -> RunConfig:
    if name not in METHODS:
        raise UserError(f"compare: got the method {name!r}; choose from {', '.join(METHODS)}")
    values: dict[str, Any] = {"name": name, "learning_rate": config.method.learning_rate}
    sharding = "none" if name == "qlora" else config.sharding  # a run would refuse to split its weights
    lora = dataclasses.replace(config.lora, use_dora=config.lora.use_dora and name != "full")
    method = dataclasses.replace(config.method, **values)
    return dataclasses.replace(
        config, method=method, lora=lora, sharding=sharding, pure_bf16=config.pure_bf16 and name == "full"
    )


def _with_gpus(config: RunConfig, name: str) -> RunConfig:
    count, times, device = name.partition("x")
    several = times == "x" and count.isdigit()
    hardware = preset(device if several else name)
    number = int(count) if several else config.hardware.count
    return dataclasses.replace(config, hardware=dataclasses.replace(hardware, count=number))


def _with_model(config: RunConfig, name: str) -> RunConfig:
    if name not in choices("model"):
        raise UserError(f"compare: got the model {name!r}; {suggest(name, choices('model'))}")
    return dataclasses.replace(config, model=compose([f"model={name}"]).model)


def _with_zone(config: RunConfig, name: str) -> RunConfig:
    grid = dataclasses.replace(config.grid, zone=name, provider="auto", intensity_g_per_kwh=None)
    return dataclasses.replace(config, grid=grid)
