"""Plan a configuration as exact work on each device: FLOPs, bytes, passes, memory. Nothing is guessed here."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from lora_scaling.config import RunConfig
from lora_scaling.estimate.physics import Load
from lora_scaling.estimate.priors import Priors
from lora_scaling.estimate.result import Interval
from lora_scaling.units import GB_PER_GIB
from lora_scaling.workload import MemorySetup, MemoryUse, ModelShape, Tuning, Workload, largest_batch, training_memory
from lora_scaling.workload.memory import cast_bytes, gathered_bytes, layer_activation_bytes

_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 2}  # FP8 is for products alone: weights stay in 16 bit

# Both moments of AdamW on the device, per trained parameter. Paged ones leave a full device.
_STATE_BYTES = {"adamw_8bit": 2.0, "paged_adamw_32bit": 0.0, "paged_adamw_8bit": 0.0}
# A loss computed in chunks holds the logits of a chunk, and the gradient of the hidden states.
CHUNKED_LOGITS_BYTES = 1.0
_SPLIT_4BIT = (
    "this program does not run 4-bit weights that are split; others do (bitsandbytes' bnb_4bit_quant_storage=bfloat16)"
)


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run laid out on its devices.

    load: training; warmup: the passes before it; evaluation: the forward passes before and after it, each as its own
        step.
    micro_steps: forward and backward passes per device; row_tokens: of the longest row, which sets the peak.
    shards: devices over which weights are split (1: each device holds all of them).
    budget_bytes: memory available per device to what is counted (None: unknown), of which what comes and goes in a pass
        takes `overhead` times its size.
    needed_gb: the least that the allocator has to hold at the peak. held_gb: what it will hold if there is room: of
        several lengths, blocks of each. least_gb: needed_gb, or that of a stack that computes the loss in chunks and
        offloads what checkpointing keeps, if nobody knows whether the stack does. varying: the constant that lengths
        which vary multiply it by; None where they do not.
    """

    workload: Workload
    precision: str
    load: Load
    warmup: Load
    evaluation: Load
    setup: MemorySetup
    memory: MemoryUse
    micro_steps: int
    row_tokens: int
    budget_bytes: float | None
    overhead: float
    needed_gb: float
    held_gb: float
    least_gb: float
    varying: str | None
    notes: tuple[str, ...]

    @property
    def shards(self) -> int:
        return self.setup.shards

    @property
    def fits(self) -> bool:
        return self.budget_bytes is None or self.memory.reserved(self.overhead) <= self.budget_bytes

    def largest_batch(self) -> int:
        """The most rows of a micro-batch that fit; 0 if not even one does."""
        assert self.budget_bytes is not None
        w = self.workload
        return largest_batch(
            w.shape, w.tuning, self.setup,
            row_tokens=self.row_tokens, budget_bytes=self.budget_bytes, factor=self.overhead,
        )  # fmt: skip


def resolve_precision(config: RunConfig, kind: str, peaks: Mapping[str, float | None]) -> str:
    """Resolve `precision=auto` for this device as the training engine does."""
    if config.precision != "auto":
        return config.precision
    if kind in ("cuda", "rocm"):
        return "fp16" if peaks.get("bf16") is None and peaks.get("fp16") is not None else "bf16"
    return "fp32" if kind in ("cpu", "mps") else "bf16"


def make_plan(config: RunConfig, workload: Workload, precision: str, priors: Priors) -> RunPlan:
    """Lay out a run on `hardware.count` devices. Each holds the model or, with sharding=fsdp, a share of it.

    If none of several devices could hold the whole model, the plan assumes the sharding that the run would need.
    """
    plan = _lay_out(config, workload, precision, priors)
    if plan.fits or config.hardware.count == 1 or not config.can_shard or config.sharding == "fsdp":
        return plan
    split = _lay_out(dataclasses.replace(config, sharding="fsdp"), workload, precision, priors)
    if not split.fits:
        return plan
    return dataclasses.replace(
        split, notes=("no device could hold the whole model: ask for sharding=fsdp", *split.notes)
    )


def _lay_out(config: RunConfig, workload: Workload, precision: str, priors: Priors) -> RunPlan:
    devices = config.hardware.count
    accumulation = max(1, config.gradient_accumulation // devices)
    workload = dataclasses.replace(workload, gradient_accumulation=accumulation * devices)
    rows = min(workload.batching.batch_size, workload.rows)
    longest = _longest_row(workload)
    notes: list[str] = []
    setup = _memory_setup(config, precision, priors, accumulates=accumulation > 1)
    memory = training_memory(workload.shape, workload.tuning, setup, rows=rows, row_tokens=longest)
    least = memory
    if not priors.habits_known:
        frugal = dataclasses.replace(setup, logits_bytes=CHUNKED_LOGITS_BYTES, offloads=True, fused=True)
        least = training_memory(workload.shape, workload.tuning, frugal, rows=rows, row_tokens=longest)
    if setup.shards > 1:
        notes.append(f"weights sharded over {devices} devices (FSDP), gathered for every pass")
        if config.method.name == "qlora":
            notes.append(_SPLIT_4BIT)
    elif devices > 1:
        notes.append(f"{devices} devices each hold the whole model (DDP)")
    elif config.sharding == "fsdp":
        notes.append("one device holds the whole model: sharding=fsdp needs two or more (hardware.count)")
    if workload.gradient_accumulation != config.gradient_accumulation:
        notes.append(
            f"gradient_accumulation {config.gradient_accumulation} is not a multiple of {devices} devices, which the "
            f"run refuses: give a multiple; {accumulation} a device is assumed, a global batch of "
            f"{accumulation * devices * config.batch_size} rows"
        )
    micro_steps = workload.micro_steps_on(devices)
    load = _load(workload, setup, devices, micro_steps)
    overhead, varying = priors.values["memory"], _varying(workload, config.hardware.kind)
    return RunPlan(
        workload=workload,
        precision=precision,
        load=load,
        warmup=_warmup(config, workload, setup, load),
        evaluation=_evaluation(config, workload, setup, load),
        setup=setup,
        memory=memory,
        micro_steps=micro_steps,
        row_tokens=longest,
        budget_bytes=_budget_bytes(config, priors),
        overhead=overhead,
        needed_gb=_reserved_gb(memory, overhead, priors),
        held_gb=_reserved_gb(memory, overhead * (1.0 if varying is None else priors.values[varying]), priors),
        least_gb=_reserved_gb(least, overhead, priors),
        varying=varying,
        notes=tuple(notes),
    )


def _varying(workload: Workload, kind: str) -> str | None:
    """Name the constant of memory for lengths that vary; None where all rows are as long as the longest.

    That is if they are packed, padded to it, or of samples of one length. A processor's allocator keeps fewer blocks.
    """
    batching, shortest = workload.batching, min(workload.lengths.values[0], workload.batching.max_seq_len)
    if batching.packing or batching.padding == "max_length" or shortest == _longest_row(workload):
        return None
    return "memory_varying_cpu" if kind == "cpu" else "memory_varying"


def _reserved_gb(memory: MemoryUse, overhead: float, priors: Priors) -> float:
    """Return what the allocator holds at the peak: tensors, with rounding and fragmentation, and workspaces."""
    return memory.reserved(overhead) / 1e9 * priors.values["memory_stack"] + priors.values["memory_fixed_gb"]


def peak_interval(plan: RunPlan, priors: Priors, z: float, available_gb: float | None) -> Interval:
    """Return the reserved memory, in GB, on a device that has this much of it (None: unknown).

    If lengths vary, blocks of each length are kept besides those that are needed, as long as there is memory for them:
    at most as many GiB as the sheet gives GB.
    """
    quantized = plan.workload.tuning.method == "qlora"
    log_sd = math.hypot(priors.log_sd["memory"], priors.log_sd["memory_qlora"] if quantized else 0.0)
    upwards = log_sd if plan.varying is None else math.hypot(log_sd, priors.log_sd[plan.varying])
    needed, held = plan.needed_gb, plan.held_gb
    room = math.inf if available_gb is None else available_gb
    estimate = min(held, max(needed, room))
    return Interval(
        estimate=estimate,
        low=plan.least_gb / math.exp(z * log_sd),
        high=min(held * math.exp(z * upwards), max(needed * math.exp(z * log_sd), room * GB_PER_GIB)),
    )


def _budget_bytes(config: RunConfig, priors: Priors) -> float | None:
    """Return the memory available to tensors. Sheets give GB but devices hold GiB; the driver gets the difference."""
    if config.hardware.memory_gb is None:
        return None
    return (config.hardware.memory_gb - priors.values["memory_fixed_gb"]) * 1e9 / priors.values["memory_stack"]


def _memory_setup(config: RunConfig, precision: str, priors: Priors, *, accumulates: bool) -> MemorySetup:
    compute = _BYTES[precision]
    pure = config.pure_bf16 and not config.tuning.adapted and precision in ("bf16", "fp8")
    trainable = compute if pure else 4
    return MemorySetup(
        compute_bytes=compute,
        trainable_bytes=trainable,
        state_bytes=_STATE_BYTES.get(config.optimizer, 2.0 * trainable),
        checkpointing=config.gradient_checkpointing,
        accumulates=accumulates,
        shards=config.hardware.count if config.sharding == "fsdp" else 1,
        buckets=config.hardware.count > 1 and config.sharding == "none",
        logits_bytes=CHUNKED_LOGITS_BYTES if config.use_liger_kernel or priors.chunked_loss else None,
        offloads=priors.offloads,
        fused=config.use_liger_kernel or priors.fused,
    )


def _longest_row(workload: Workload) -> int:
    batching = workload.batching
    if batching.packing or batching.padding == "max_length":
        return batching.max_seq_len
    return min(batching.max_seq_len, workload.lengths.values[-1])


def _load(workload: Workload, setup: MemorySetup, devices: int, micro_steps: int) -> Load:
    shape, tuning, steps = workload.shape, workload.tuning, workload.steps
    # The work of a micro-step is the mean over the whole data set, wherever max_steps ends the run.
    whole = dataclasses.replace(workload, max_steps=None)
    tokens = whole.samples_seen * whole.statistics.processed / whole.micro_steps
    accumulation = micro_steps / steps if steps else 0.0
    return Load(
        gpus=devices,
        steps=steps,
        accumulation=accumulation,
        passes=3.0 if setup.checkpointing else 2.0,
        tokens=max(tokens, 1.0),
        flops=whole.flops.total / whole.micro_steps,
        matrix_flops=min(whole.flops.total, whole.flops.matrices * _matrix_passes(setup, tuning)) / whole.micro_steps,
        activation_bytes=tokens * _kept_bytes(shape, tuning, setup) + cast_bytes(shape, tuning, setup),
        weight_bytes=float(shape.params * setup.compute_bytes),
        layers=shape.layers,
        modules=tuning.adapted_modules(shape) if tuning.adapted else 0,
        quantized=float(shape.linear_params) if tuning.method == "qlora" else 0.0,
        trainable=workload.trainable_params / setup.shards,
        comm_bytes=_sent_bytes(workload, setup, devices, accumulation),
    )


def _matrix_passes(setup: MemorySetup, tuning: Tuning) -> int:
    """Count how often the layers' own matrices are multiplied: forward, for both gradients, and when run again."""
    return (2 if tuning.adapted else 3) + int(setup.checkpointing)


def _warmup(config: RunConfig, workload: Workload, setup: MemorySetup, load: Load) -> Load:
    """Build the load of passes that update nothing. Each sends as much as a step of one pass."""
    sent = _sent_bytes(workload, setup, load.gpus, 1.0)
    return dataclasses.replace(load, steps=config.warmup_steps, accumulation=1.0, trainable=0.0, comm_bytes=sent)


def _evaluation(config: RunConfig, workload: Workload, setup: MemorySetup, load: Load) -> Load:
    """Build the load of the forward passes over the held-out samples, which are batched like the training set."""
    held_out = dataclasses.replace(workload, samples=max(1, config.eval_samples), epochs=1, max_steps=None)
    batches = held_out.micro_steps if config.eval_samples else 0
    tokens = held_out.samples_seen * held_out.statistics.processed / held_out.micro_steps
    gathered = gathered_bytes(workload.shape, workload.tuning, setup) * (1 - 1 / setup.shards)
    return dataclasses.replace(
        load,
        steps=2 * math.ceil(batches / load.gpus),
        accumulation=1.0,
        passes=1.0,
        tokens=max(tokens, 1.0),
        flops=held_out.flops.forward / held_out.micro_steps,
        matrix_flops=held_out.flops.matrices / held_out.micro_steps,
        activation_bytes=tokens * _kept_bytes(workload.shape, workload.tuning, setup)
        + cast_bytes(workload.shape, workload.tuning, setup),
        trainable=0.0,
        comm_bytes=gathered,
    )


def _kept_bytes(shape: ModelShape, tuning: Tuning, setup: MemorySetup) -> float:
    """Return the bytes per token kept for the backward pass, in all layers and at the loss."""
    return shape.layers * layer_activation_bytes(shape, tuning, setup) + setup.loss_bytes * shape.vocab_size


def _sent_bytes(workload: Workload, setup: MemorySetup, devices: int, accumulation: float) -> float:
    """Return the bytes that each device sends in a step of this many passes."""
    trained, ring = workload.trainable_params * setup.trainable_bytes, (devices - 1) / devices
    if setup.shards > 1:
        # Weights are gathered before the forward and the backward pass; gradients are scattered once.
        return accumulation * (2 * gathered_bytes(workload.shape, workload.tuning, setup) + trained) * ring
    return 2 * trained * ring
