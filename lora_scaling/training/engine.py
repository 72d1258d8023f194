"""Carry out one run: load, tokenise, evaluate, warm up, train, evaluate; each in its own measured window."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import nn

from lora_scaling.config import RunConfig
from lora_scaling.energy import Recording
from lora_scaling.energy.parts import Parts
from lora_scaling.errors import UserError
from lora_scaling.ranks import world_size
from lora_scaling.signals import uninterrupted
from lora_scaling.training.adapters import adapted_modules
from lora_scaling.training.attention import takes_bounds, used_kernel
from lora_scaling.training.batches import Collator
from lora_scaling.training.checkpoints import quantization_of
from lora_scaling.training.compiling import CompileFirst, compile_network
from lora_scaling.training.device import Device, explain_out_of_memory
from lora_scaling.training.fetching import fetch_weights
from lora_scaling.training.model_cache import ModelCache, Tokens
from lora_scaling.training.models import DTYPES, BaseModel, attach, detach, parameter_counts, quantized_params
from lora_scaling.training.packing_check import refuse_mixing
from lora_scaling.training.ranks import broadcast_from_rank0, gather_from_ranks, on_all_ranks
from lora_scaling.training.resuming import Resuming, newest_checkpoint
from lora_scaling.training.saving import save_trained
from lora_scaling.training.scoring import Scorer, TaskScore, make_scorer, mean_points
from lora_scaling.training.sharding import held_params, shard
from lora_scaling.training.tokens import TokenizedDataset
from lora_scaling.training.trainer import Counted, MeteredTrainer, make_trainer
from lora_scaling.training.watch import Seen, Watch
from lora_scaling.workload import ModelShape, training_flops

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()  # it would be drawn over our own


@dataclass
class RunFacts:
    """What is known about a run so far, in the sections of its record, so that a failed run keeps it."""

    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    work: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    setup_reused: list[str] = field(default_factory=list)
    saved: dict[str, Any] | None = None
    peak_memory_gb: float | None = None
    warnings: list[dict[str, str]] = field(default_factory=list)


class Progress(Protocol):
    """Called with (phase, steps done, all steps), and in training with what looks at it."""

    def __call__(self, phase: str, done: int, total: int, seen: Callable[[], Seen] | None = None, /) -> None: ...


def execute(
    config: RunConfig,
    device: Device,
    models: ModelCache,
    recording: Recording,
    facts: RunFacts,
    *,
    folder: Path,
    progress: Progress,
    parts: Parts | None = None,
) -> None:
    """Carry out the run, filling `facts` on the way. `progress` is called with (phase, steps done, all steps).

    parts: what earlier processes did of this run, and where checkpoints are kept; None to begin and end in this one.

    Raises:
        UserError: the request cannot be carried out.
        OutOfMemory: the device did not have enough memory.
    """
    models.make_room(config, device)
    fetch_weights(config)
    device.reset_peak_memory()
    network: nn.Module | None = None
    base: BaseModel | None = None
    facts.training |= {"precision": device.precision, "gradient_checkpointing": config.gradient_checkpointing}
    try:
        with explain_out_of_memory(config, device):
            with recording.phase("setup"):
                progress("setup", 0, 0)
                base, tokens = _prepare(config, device, models, facts)
                network = attach(base, config)
                if config.sharding == "fsdp":
                    shard(network, base.model, device, gathered=_gathered_type(config, device))
                _describe_model(facts, config, network, base)
                if config.packing:
                    table: Any = base.model.get_input_embeddings()
                    refuse_mixing(
                        network, config, device, vocabulary=table.num_embeddings, bounded=takes_bounds(base.model)
                    )
                if config.torch_compile:
                    compile_network(network, device)
                trainer = _trainer(config, device, network, base, tokens, folder=folder, progress=progress)
                scorer = make_scorer(config, device, network, base)
            resuming = None if parts is None else _resuming(config, device, parts, recording, facts)
            _phases(config, trainer, tokens.train, base.shape, recording, facts, progress, resuming, scorer)
        if config.save_adapter:
            _save(network, base, folder, facts)
    finally:
        peak = device.peak_memory_bytes()
        facts.peak_memory_gb = None if peak is None else max(0, peak - models.idle_bytes) / 1e9
        allocated = device.peak_allocated_bytes()
        facts.training["peak_allocated_gb"] = None if allocated is None else allocated / 1e9
        if network is not None and base is not None and models.keeps(base):
            detach(network, base)


def _save(network: nn.Module, base: BaseModel, folder: Path, facts: RunFacts) -> None:
    """Save what was trained, between the windows. What was measured is worth more: a failure is a warning."""
    try:
        with uninterrupted():
            facts.saved = save_trained(network, base, folder)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        facts.warnings.append({"kind": "unsaved", "message": f"What was trained could not be saved: {reason}"})


def _gathered_type(config: RunConfig, device: Device) -> torch.dtype | None:
    """Return the type in which a sharded model's layers are gathered, if not that of its weights.

    Autocast would otherwise have each device keep a 16-bit copy of all weights.
    """
    return DTYPES[device.precision] if not config.tuning.adapted and device.precision != "fp32" else None


def _prepare(config: RunConfig, device: Device, models: ModelCache, facts: RunFacts) -> tuple[BaseModel, Tokens]:
    base, model_reused = models.base(config, device)
    tokens, tokens_reused = models.tokens(config, base)
    facts.setup_reused = [name for name, reused in (("model", model_reused), ("tokens", tokens_reused)) if reused]
    lengths = tokens.train.sample_lengths
    facts.data = {
        "name": config.data.name,
        "kind": config.data.kind,
        "path": config.data.path,
        "fingerprint": tokens.fingerprint,
        "available": tokens.available,
        "skipped": tokens.skipped,
        "tokenizer": base.tokenizer_name,
        "tokens_per_sample": sum(lengths) / len(lengths),
        "longest": max(lengths),
        "held_out": tokens.held_out.samples,
    }
    facts.warnings += [
        {"kind": kind, "message": text} for kind, text in (*tokens.train.warnings, *tokens.held_out.warnings)
    ]
    return base, tokens


def _resuming(
    config: RunConfig, device: Device, parts: Parts, recording: Recording, facts: RunFacts
) -> Resuming | None:
    """Find the checkpoint to continue from, and prepare to write others.

    Raises:
        UserError: it was made under other conditions, or cannot be read.
    """
    if config.max_steps == 0:
        return None
    same = {
        "precision": device.precision,
        "device": device.kind,
        "data": facts.data["fingerprint"],
        "processes": world_size(),
    }
    found = broadcast_from_rank0(on_all_ranks(lambda: newest_checkpoint(parts.folder, same)))
    if found is not None:
        parts.continue_from(found.step, found.kept)
    return Resuming(
        parts=parts,
        recording=recording,
        every_s=60 * config.checkpoint_minutes,
        same=same,
        training=facts.training,
        found=found,
    )


def _describe_model(facts: RunFacts, config: RunConfig, network: nn.Module, base: BaseModel) -> None:
    """Count the parameters of the network itself. If its shape is known, the computed numbers must agree exactly."""
    params, trainable = parameter_counts(network)
    shape = base.shape
    if config.tuning.adapted:
        facts.training["adapted_modules"] = adapted_modules(network)
    facts.training["pure_bf16"] = not config.tuning.adapted and config.pure_bf16
    facts.training["attn_implementation"] = used_kernel(base.model)
    facts.model = {
        "name": config.model.name,
        "id": config.model.id or config.model.gguf_file,
        "weights": config.model.weights,
        "params": params,
        "trainable_params": trainable,
        "layers": shape.layers if shape else getattr(network.config, "num_hidden_layers", None),
        "hidden_size": shape.hidden_size if shape else getattr(network.config, "hidden_size", None),
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "quantization": quantization_of(network),
    }
    if facts.model["quantization"]:
        facts.model["quantized_params"] = quantized_params(network)
    if base.unused:
        kept = ", ".join(base.unused[:3])
        facts.warnings.append(
            {
                "kind": "unused_weights",
                "message": f"{len(base.unused)} weights of the checkpoint belong to no part of the model: {kept}",
            }
        )
    if config.sharding == "fsdp":
        facts.model["held_params"] = gather_from_ranks(held_params(network))
    expected = (shape.params, config.tuning.trainable_params(shape)) if shape else (params, trainable)
    if expected != (params, trainable):
        facts.warnings.append(
            {
                "kind": "parameter_count",
                "message": f"the network has {params} parameters, {trainable} trainable; "
                f"its shape gives {expected[0]} and {expected[1]}: FLOPs may be off",
            }
        )


def _trainer(
    config: RunConfig,
    device: Device,
    network: nn.Module,
    base: BaseModel,
    tokens: Tokens,
    *,
    folder: Path,
    progress: Progress,
) -> MeteredTrainer:
    pad = base.tokenizer.pad_token_id
    trainer = make_trainer(
        network,
        tokens.train.rows,
        tokens.held_out.rows,
        Collator(pad if isinstance(pad, int) else 0, config, bounded=takes_bounds(base.model)),
        config=config,
        device=device,
        progress=lambda done, total: progress("train", done, total, watch.look),
        folder=folder,
    )
    watch = Watch(lambda: trainer.counted, device.torch_device)
    return trainer


def _phases(
    config: RunConfig,
    trainer: MeteredTrainer,
    dataset: TokenizedDataset,
    shape: ModelShape | None,
    recording: Recording,
    facts: RunFacts,
    progress: Progress,
    resuming: Resuming | None,
    scorer: Scorer | None,
) -> None:
    found = None if resuming is None else resuming.found
    if found is None:
        _evaluate(config, trainer, recording, facts, "before", progress)
        _score(scorer, "before", recording, facts, progress)
    else:
        facts.training |= found.training
    first = None
    if config.torch_compile and config.warmup_steps and config.max_steps != 0:
        first = CompileFirst(trainer, recording, lambda: progress("train", 0, 0), resumed=found is not None)
    elif config.warmup_steps:  # also in runs of zero steps, which must cost the same as the others apart from training
        progress("warmup", 0, 0)
        with recording.phase("warmup"):
            trainer.warm_up(config.warmup_steps)
    transformers.set_seed(config.seed)
    counted = None
    try:
        if config.max_steps != 0:
            opened = "train" if first is None else "warmup"
            progress(opened, 0, 0)
            with recording.phase(opened if found is None else "checkpoint"):
                trainer.continue_training(resuming, first=first)
        counted = trainer.counted_everywhere()
        if config.max_steps != 0:
            _enter_loss(facts, "train_loss", counted.mean_loss)
    finally:
        # A process that failed must not wait for the others, which do not know about the failure.
        facts.work |= _work(config, trainer, dataset, shape, counted or trainer.counted)
        facts.warnings += [] if resuming is None else resuming.warnings
        _enter_skipped(facts, trainer)
    _evaluate(config, trainer, recording, facts, "after", progress)
    _score(scorer, "after", recording, facts, progress)


def _evaluate(
    config: RunConfig,
    trainer: MeteredTrainer,
    recording: Recording,
    facts: RunFacts,
    when: str,
    progress: Progress,
) -> None:
    if config.eval_samples == 0:
        return
    progress("eval", 0, 0)
    with recording.phase("eval"):
        held_out = trainer.evaluate_held_out()
    _enter_loss(facts, f"eval_loss_{when}", held_out.loss)
    facts.training[f"eval_accuracy_{when}"] = held_out.accuracy


def _score(scorer: Scorer | None, when: str, recording: Recording, facts: RunFacts, progress: Progress) -> None:
    """Score the model in a window of its own. After training, a failure is a warning: the run is worth more."""
    if scorer is None:
        return
    progress("score", 0, 0)
    found, reason = dict[str, TaskScore](), None
    with recording.phase("score"):
        try:
            found = scorer.score(trained=when == "after")
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
        told = gather_from_ranks((found, reason))  # what fails in one process fails in all
    found, reason = told[0][0], next((why for _, why in told if why is not None), None)
    if reason is not None:
        if when == "before":
            raise UserError(f"score.tasks: got {', '.join(scorer.tasks)}, which cannot be scored: {reason}") from None
        facts.warnings.append({"kind": "unscored", "message": f"The trained model could not be scored: {reason}"})
        return
    scores = facts.training.setdefault("scores", {"by": scorer.name, "version": scorer.version, "tasks": {}})
    for task, result in found.items():
        scores["tasks"].setdefault(task, {"metric": result.metric, "samples": result.samples})
        scores["tasks"][task] |= {when: result.points, f"{when}_stderr": result.stderr}
    facts.training[f"score_{when}"] = mean_points(found)


def _enter_skipped(facts: RunFacts, trainer: MeteredTrainer) -> None:
    """Enter how many of the steps changed no weight, because the scaler of fp16 was still looking for its scale."""
    skipped = facts.training["skipped_steps"] = trainer.skipped_steps
    if skipped:
        text = (
            f"{skipped} of {trainer.state.global_step} optimizer steps were computed and skipped by the scaler of fp16."
        )
        facts.warnings.append({"kind": "skipped_steps", "message": text})


def _enter_loss(facts: RunFacts, key: str, loss: float | None) -> None:
    """Enter a loss, which is null if it is unknown or not finite; the latter is also a warning."""
    finite = loss is None or math.isfinite(loss)
    facts.training[key] = loss if finite else None
    if not finite and "not_finite" not in [warning["kind"] for warning in facts.warnings]:
        if key == "eval_loss_before":
            why = "the model gives none before it is trained; look at its weights, or try another precision"
        else:
            why = (
                "the training diverged, and what it learned is no result; "
                "try a smaller learning_rate, or precision=bf16 in place of fp16"
            )
        facts.warnings.append({"kind": "not_finite", "message": f"{key} is {loss}: {why}"})


def _work(
    config: RunConfig,
    trainer: MeteredTrainer,
    dataset: TokenizedDataset,
    shape: ModelShape | None,
    counted: Counted,
) -> dict[str, Any]:
    """Sum what was processed, batch by batch, over all processes. The FLOPs are exact for these batches."""
    share = counted.tokens / dataset.tokens  # epochs shown: whole, unless max_steps or an interruption ended them
    flops = None
    if shape is not None:
        flops = training_flops(
            shape,
            config.tuning,
            tokens=counted.tokens + counted.padding,
            pairs=counted.pairs,
            checkpointing=config.gradient_checkpointing,
        )
    return {
        "samples_seen": round(config.samples * counted.rows / len(dataset.rows)),
        "tokens_seen": counted.tokens,
        "tokens_padded": counted.padding,
        "tokens_truncated": round(dataset.truncated * share),
        "tokens_trained": counted.labels,
        "steps": trainer.state.global_step,
        "micro_steps": counted.micro_steps,
        "flops": flops.total if flops else None,
        "model_flops": flops.model if flops else None,
    }
