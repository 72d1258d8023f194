"""Say by how much a run does not fit into memory, and what would make it fit."""

import dataclasses
from collections.abc import Iterator

from lora_scaling.config import RunConfig
from lora_scaling.config.devices import memory_of_presets, preset
from lora_scaling.estimate.plan import RunPlan, make_plan, resolve_precision
from lora_scaling.estimate.priors import Priors

_SHARDS = (2, 4, 8, 16)
_COMPUTERS = ("apple", "dgx-spark", "jetson")  # whole machines, with memory to spare but too slow to be advised


def remedy(config: RunConfig, plan: RunPlan, priors: Priors) -> str:
    """Write one sentence that says how much is missing and what would make the run fit."""
    available = config.hardware.memory_gb
    assert available is not None
    needed = plan.needed_gb
    options = list(_options(config, plan, priors))
    advice = "; ".join(options) if options else "nothing short of a much larger device would do"
    return (
        f"batch_size: got {config.batch_size}: {config.model.name} {config.method.name} needs about {needed:.3g} GB "
        f"on each device, {needed - available:.3g} GB more than the {available:.3g} GB of {config.hardware.name}; "
        f"what would fit: {advice}"
    )


def _options(config: RunConfig, plan: RunPlan, priors: Priors) -> Iterator[str]:
    largest = plan.largest_batch()
    if largest:
        yield f"batch_size={largest}"
    for words, changes in _changes(config, plan.precision):
        changed = _changed(config, plan, changes, priors)
        if changed.fits:
            yield words + _split(config, changed)
        elif not largest and (rows := changed.largest_batch()):
            yield f"{words} with batch_size={rows}"
    yield from _sharded(config, plan, largest, priors)
    yield from _larger(config, plan, priors)


def _changes(config: RunConfig, precision: str) -> Iterator[tuple[str, dict[str, object]]]:
    if not config.gradient_checkpointing:
        yield "gradient_checkpointing=true", {"gradient_checkpointing": True}
    if config.method.name != "qlora":
        words = "method=qlora" if config.sharding == "none" else "method=qlora sharding=none"
        words += " pure_bf16=false" if config.pure_bf16 else ""
        changes = {"method": dataclasses.replace(config.method, name="qlora"), "sharding": "none", "pure_bf16": False}
        yield words, changes
        if not config.gradient_checkpointing:
            yield f"{words} gradient_checkpointing=true", {**changes, "gradient_checkpointing": True}
    if config.method.name == "full" and precision == "bf16" and not config.pure_bf16:
        yield "pure_bf16=true", {"pure_bf16": True}
    if config.method.name == "full" and config.optimizer == "adamw" and config.sharding == "none":
        yield "optimizer=adamw_8bit", {"optimizer": "adamw_8bit"}
    if not config.optimizer.startswith("paged") and config.hardware.kind == "cuda" and config.sharding == "none":
        yield "optimizer=paged_adamw_8bit", {"optimizer": "paged_adamw_8bit"}


def _sharded(config: RunConfig, plan: RunPlan, largest: int, priors: Priors) -> Iterator[str]:
    """Find the fewest GPUs that can hold the run if it is sharded, and what else has to change for that."""
    if config.hardware.kind not in ("cuda", "rocm"):
        return
    words: list[str] = []
    changes: dict[str, object] = {"sharding": "fsdp"}
    if config.method.name == "qlora":
        words.append("method=lora")
        changes["method"] = dataclasses.replace(config.method, name="lora")
    if config.optimizer != "adamw":
        words.append("optimizer=adamw")
        changes["optimizer"] = "adamw"
    if config.sharding == "none":
        words.append("sharding=fsdp")
    devices = config.hardware.count
    if words and devices > 1:
        changed = _changed(config, plan, changes, priors)
        if changed.fits:
            yield " ".join(words)
            return
        if not largest and (rows := changed.largest_batch()):
            yield f"{' '.join(words)} with batch_size={rows}"
    for count in _SHARDS:
        hardware = dataclasses.replace(config.hardware, count=count)
        if count > devices and _changed(config, plan, {**changes, "hardware": hardware}, priors).fits:
            yield " ".join([f"hardware.count={count}", *words])
            return


def advised_devices() -> list[tuple[float, str]]:
    """Return (memory in GB, name) of the listed devices that are advised where memory is short, the smallest first."""
    return sorted((gb, name) for name, gb in memory_of_presets().items() if not name.startswith(_COMPUTERS))


def _larger(config: RunConfig, plan: RunPlan, priors: Priors) -> Iterator[str]:
    """Find the listed device with the least memory that can hold the run, in its own precision if that is auto."""
    available = config.hardware.memory_gb or 0.0
    for gb, name in advised_devices():
        if gb < available:
            continue
        hardware = dataclasses.replace(preset(name), count=config.hardware.count)
        precision = resolve_precision(config, hardware.kind, hardware.peak_tflops)
        if hardware.peak_tflops.get(precision) is None:
            continue
        changed = _changed(config, plan, {"hardware": hardware}, priors, precision)
        if changed.fits:
            yield f"hardware={name}{_split(config, changed)} ({gb:g} GB)"
            return


def _split(config: RunConfig, changed: RunPlan) -> str:
    """Return the settings to ask for if only a sharded model fits."""
    return " sharding=fsdp" if changed.shards > 1 and config.sharding == "none" else ""


def _changed(
    config: RunConfig, plan: RunPlan, changes: dict[str, object], priors: Priors, precision: str | None = None
) -> RunPlan:
    changed = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
    return make_plan(changed, changed.workload(plan.workload.lengths), precision or plan.precision, priors)
