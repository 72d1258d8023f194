"""Adapt `transformers.Trainer` to measured runs: it counts its input and reports to no service."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lora_scaling.config import RunConfig
from lora_scaling.errors import UserError
from lora_scaling.ranks import world_size
from lora_scaling.training.batches import IGNORED, BatchCounts, Collator, batch_counts
from lora_scaling.training.device import Device
from lora_scaling.training.models import shape_of_config
from lora_scaling.training.ranks import broadcast_from_rank0
from lora_scaling.training.resuming import Resuming
from lora_scaling.workload import step_count

_COUNTS = "batch_counts"

# Called after each optimizer step with (steps done, all steps).
Progress = Callable[[int, int], None]


@dataclass
class Counted:
    """The tokens, padding, query-key pairs and micro-batches that this process handled in the training phase.

    labels: tokens that were predicted; loss: the sum of their losses, which stays on the device until it is asked for.
    """

    tokens: int = 0
    padding: int = 0
    pairs: int = 0
    rows: int = 0
    labels: int = 0
    micro_steps: int = 0
    loss: torch.Tensor | float = 0.0

    @property
    def mean_loss(self) -> float | None:
        """The mean loss of a predicted token; None if none was predicted."""
        return float(self.loss) / self.labels if self.labels else None


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Of the held-out samples; None if there are none, or the model gives no logits.

    loss: the mean of a trained token. accuracy: the share of trained tokens that are predicted right.
    """

    loss: float | None = None
    accuracy: float | None = None


class CountingCollator:
    """A collator that also counts each batch while it is still in host memory.

    masked: whether the model needs to be told what is padding. A causal model that is padded on the right does not,
        because no token attends to what follows it; without a mask, attention has faster kernels and nothing waits for
        the device.
    """

    def __init__(self, collator: Collator, *, masked: bool) -> None:
        self.collator = collator
        self.masked = masked

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(rows)
        counts = batch_counts(batch)
        if not self.masked:
            batch.pop("attention_mask", None)
        return {**batch, _COUNTS: counts}


class MeteredTrainer(Trainer):
    """A Trainer that adds up what it trained on in `counted`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counted = Counted()
        self._warming_up = False
        self.resuming: Resuming | None = None
        self.skipped_steps = 0  # of the optimizer, by the scaler of fp16
        self.remove_callback(PrinterCallback)
        self.add_callback(_Outputs(self))
        if world_size() > 1:
            self.add_callback(_SameOrder())
        self._keep_allocator()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the loss as the parent does, and add up what it is the loss of.

        A step whose samples have no answer left has no loss, where the parent would divide by 0.
        """
        counts = inputs.pop(_COUNTS)
        if num_items_in_batch is not None:
            num_items_in_batch = torch.as_tensor(num_items_in_batch).clamp(min=1)
        result: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if model.training:
            self._count(counts, len(inputs["input_ids"]), result[0] if return_outputs else result, num_items_in_batch)
        return result

    def _count(self, counts: BatchCounts, rows: int, loss: torch.Tensor, items: torch.Tensor | None) -> None:
        done = self.counted
        done.tokens += counts.tokens
        done.padding += counts.padding
        done.pairs += counts.pairs
        done.labels += counts.labels
        done.rows += rows
        done.micro_steps += 1
        if counts.labels:
            # The parent gives each process's loss as if it were that of all: it is averaged over them afterwards.
            share = counts.labels if items is None else items / world_size()
            precise = torch.float32 if loss.device.type == "mps" else torch.float64
            done.loss = done.loss + loss.detach().to(precise) * share

    def _keep_allocator(self) -> None:
        """Let training begin with the memory that warm-up has filled the allocator with.

        As training starts, the parent has accelerate forget what it prepared before, which also empties the cache:
        the first steps of the measured window would fill it again.
        """
        accelerator = self.accelerator

        def forget(*objects: Any) -> tuple[Any, ...]:
            for name in ("_schedulers", "_optimizers", "_models", "_dataloaders"):
                setattr(accelerator, name, [])
            accelerator.step = 0
            return objects

        accelerator.free_memory = forget  # type: ignore[method-assign]

    def compute_loss_context_manager(self) -> contextlib.ExitStack:
        """Compute in the types of training, which the parent sets up only as training starts."""
        stack = super().compute_loss_context_manager()
        if self._warming_up:
            stack.enter_context(self.accelerator.autocast())
        return stack

    def continue_training(self, resuming: Resuming | None, *, first: TrainerCallback | None = None) -> None:
        """Train, from the checkpoint that was found, if any, and writing others; `first` is called before them."""
        self.resuming = resuming
        if first is not None:
            self.add_callback(first)
        if resuming is None:
            self.train()
            return
        self.add_callback(resuming)
        self.train(resume_from_checkpoint=None if resuming.found is None else str(resuming.found.folder))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        assert self.resuming is not None  # only it asks for checkpoints
        self.resuming.write(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        assert self.resuming is not None
        self.resuming.load(self)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.resuming is not None:
            self.resuming.load_optimizer(self)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        # The parent visits all parameters on every step for an estimate; ours is exact and made once, from `counted`.
        return 0

    def warm_up(self, steps: int) -> None:
        """Make passes that are discarded, so that kernels are chosen and caches and the allocator are filled."""
        if steps == 0:
            return
        model: Any = self.model
        model.train()
        if self.args.activation_checkpointing:  # the parent turns it on only when training starts
            model.activation_checkpointing_enable(
                activation_checkpointing_kwargs=self.args.activation_checkpointing_kwargs
            )
        done = 0
        self._warming_up = True
        while done < steps:
            for inputs in self.get_train_dataloader():
                self._pass(model, inputs)
                done += 1
                if done >= steps:
                    break
        self._warming_up = False
        model.zero_grad()
        if self.args.activation_checkpointing:
            # Turning it on twice in a row would leave hooks behind.
            model.activation_checkpointing_disable()
            model.disable_input_require_grads()
        self.counted = Counted()

    def _pass(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        """Compute gradients as a step of training does."""
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self.training_step(model, inputs, self._get_num_items_in_batch([inputs], self.args.device))

    def pass_all_shapes(self) -> None:
        """Make discarded passes of the smallest and largest batches of the training, as the training will make them.

        To be called as training starts, after the model was wrapped. What was counted and the random numbers stay.
        """
        counted, self.counted = self.counted, Counted()
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        model = cast(nn.Module, self.model_wrapped)
        with torch.random.fork_rng(devices):
            for rows in self._extreme_batches():
                self._pass(model, self.data_collator(rows))
        model.zero_grad()
        self.counted = counted

    def anywhere(self, happened: bool) -> bool:
        """Return whether something happened in any process of a launch."""
        return bool(_over_processes(torch.tensor([float(happened)]), self.args.device)[0])

    def _extreme_batches(self) -> list[list[dict[str, Any]]]:
        """Return the batches of the shortest and of the longest rows, as large as those of the training are."""
        ordered: Any = sorted(cast(Any, self.train_dataset), key=lambda row: len(row["input_ids"]))
        size = min(self.args.per_device_train_batch_size, len(ordered))
        sizes = [size]
        if world_size() == 1 and len(ordered) % size:  # several processes fill the last batch with rows of the first
            sizes.append(len(ordered) % size)
        return [rows for size in sizes for rows in (ordered[:size], ordered[-size:])]

    def counted_everywhere(self) -> Counted:
        """Sum the counts over all processes of a launch (except micro-steps, which are those of this process)."""
        mine = self.counted
        counts = torch.tensor([mine.tokens, mine.padding, mine.pairs, mine.rows, mine.labels])
        sums = _over_processes(counts, self.args.device)
        tokens, padding, pairs, rows, labels = (int(value) for value in sums)
        loss = _over_processes(torch.tensor([float(mine.loss)]), self.args.device)
        return Counted(
            tokens=tokens,
            padding=padding,
            pairs=pairs,
            rows=rows,
            labels=labels,
            micro_steps=mine.micro_steps,
            loss=float(loss),
        )

    @torch.no_grad()
    def evaluate_held_out(self) -> HeldOut:
        """Return the mean loss of a trained token of the held-out samples, and the share that is predicted right."""
        if self.eval_dataset is None:
            return HeldOut()
        assert self.model is not None
        self.model.eval()
        total = torch.zeros(3, dtype=torch.float64)  # loss, tokens, tokens predicted right
        scored = True
        for inputs in self.get_eval_dataloader():
            labels = inputs.pop(_COUNTS).labels
            # With one item per batch, the model returns the sum over its label tokens instead of their mean.
            one_item = {"num_items_in_batch": 1} if self.model_accepts_loss_kwargs else {}
            with self.accelerator.autocast():
                output = self.model(**inputs, **one_item)
            loss, logits = float(output.loss), getattr(output, "logits", None)
            scored = scored and logits is not None
            if labels:
                right = 0.0 if logits is None else _predicted_right(logits, inputs["labels"])
                total += torch.tensor([loss if one_item else loss * labels, float(labels), right], dtype=torch.float64)
        total = _over_processes(total, self.args.device)
        if not total[1]:
            return HeldOut()
        return HeldOut(loss=float(total[0] / total[1]), accuracy=float(total[2] / total[1]) if scored else None)


def _predicted_right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Count the trained tokens to which a model gives the highest probability. (B, T, V) and (B, T)"""
    wanted = labels[:, 1:]
    return float(((logits[:, :-1].argmax(dim=-1) == wanted) & (wanted != IGNORED)).sum())


def _over_processes(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Sum a vector over all processes of a distributed launch."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        values = values.to(device)
        torch.distributed.all_reduce(values)
    return values.cpu()


class _SameOrder(TrainerCallback):
    """Have all processes draw the same order of samples, of which each takes its share.

    It is drawn from the random numbers of the CPU, of which dropout on a CPU has used as many as its rows needed.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        torch.set_rng_state(broadcast_from_rank0(torch.get_rng_state()))


class _Outputs(TrainerCallback):
    """Keep the logits as the model gives them, and count the steps that the scaler of fp16 skips.

    Accelerate copies all outputs to 32 bits, which for a vocabulary of 150,000 is the largest tensor of a run. The loss
    is computed from 32 bits within the model in any case.
    """

    def __init__(self, trainer: MeteredTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: Any = self.trainer.accelerator.unwrap_model(kwargs["model"], keep_fp32_wrapper=True)
        converting = getattr(model.forward, "__wrapped__", None)
        computing = getattr(converting, "model_forward", None)
        if computing is not None:
            model.forward = MethodType(computing, model) if hasattr(model.forward, "__func__") else computing

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.skipped_steps += bool(getattr(kwargs.get("optimizer"), "step_was_skipped", False))


class _Reporting(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps)


def make_trainer(
    network: nn.Module,
    rows: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
    collator: Collator,
    *,
    config: RunConfig,
    device: Device,
    progress: Progress,
    folder: Path,
) -> MeteredTrainer:
    """Make a trainer for this run that writes nothing and reports only to `progress`."""
    args = training_arguments(config, device, folder)
    if config.max_steps is not None and config.max_steps >= _steps_of_all_epochs(config, len(rows)):
        args.max_steps = -1  # otherwise Trainer would repeat the data until that many steps were made
    return MeteredTrainer(
        model=network,  # type: ignore[arg-type]
        args=args,
        train_dataset=rows,  # type: ignore[arg-type]
        eval_dataset=held_out or None,  # type: ignore[arg-type]
        data_collator=CountingCollator(collator, masked=shape_of_config(network.config) is None),  # type: ignore[arg-type]
        callbacks=[_Reporting(progress)],
    )


def _steps_of_all_epochs(config: RunConfig, rows: int) -> int:
    return step_count(
        rows,
        epochs=config.epochs,
        batch_size=config.batch_size,
        gradient_accumulation=config.gradient_accumulation,
        max_steps=None,
    )


def training_arguments(config: RunConfig, device: Device, folder: Path) -> TrainingArguments:
    """Translate the run's settings into `transformers.TrainingArguments`."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=local_accumulation(config.gradient_accumulation),
        accelerator_config={
            "gradient_accumulation_kwargs": {"sync_each_batch": config.sharding == "fsdp"},
            "non_blocking": device.kind == "cuda",  # together with pinned memory: copies overlap with computing
        },
        learning_rate=config.learning_rate or config.method.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=_optimizer(config, device),
        bf16=device.precision == "bf16",
        fp16=device.precision == "fp16",
        use_liger_kernel=_liger(config, device),
        use_cpu=device.kind == "cpu",
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        train_sampling_strategy="group_by_length" if config.group_by_length and not config.packing else "random",
        length_column_name="length",
        remove_unused_columns=False,
        # Only a mixture of experts has weights that a batch may not use; searching for them costs a pass.
        ddp_find_unused_parameters=config.model.shape is None or config.model.shape.experts > 1,
        dataloader_pin_memory=device.kind == "cuda",
        seed=config.seed,
        data_seed=config.seed,
        prediction_loss_only=True,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # a loss that is no number shall be seen, and looking for it waits for the device
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )


def local_accumulation(asked: int) -> int:
    """Return the micro-batches per process that keep the global batch as asked.

    Raises:
        UserError: the number of processes does not divide them.
    """
    processes = world_size()
    if asked % processes:
        raise UserError(
            f"gradient_accumulation: got {asked}; {processes} processes share it: give a multiple of {processes}, "
            "so that the global batch is the same as on one"
        )
    return asked // processes


_patched_by_liger = False  # it replaces functions of transformers' modules, for all models that follow


def _liger(config: RunConfig, device: Device) -> bool:
    """Return whether Liger's kernels are used.

    Raises:
        UserError: they are asked for and cannot be, or were used by an earlier run of this process.
    """
    global _patched_by_liger
    if config.use_liger_kernel and (device.kind != "cuda" or find_spec("liger_kernel") is None):
        raise UserError(
            "use_liger_kernel: got true; it needs a GPU and the package liger-kernel, which are not both here: "
            "leave it out, or pip install 'lora-scaling[liger]'"
        )
    if _patched_by_liger and not config.use_liger_kernel:
        raise UserError(
            "use_liger_kernel: got false; an earlier run of this process used Liger's kernels, which stay in the "
            "code of transformers: give each of the two a command of its own"
        )
    _patched_by_liger = config.use_liger_kernel
    return config.use_liger_kernel


def _optimizer(config: RunConfig, device: Device) -> str:
    if config.optimizer.startswith("paged"):
        if device.kind != "cuda":
            raise UserError(
                f"optimizer: got {config.optimizer}, which pages states out of an NVIDIA GPU; use optimizer=adamw here"
            )
        return config.optimizer
    if config.optimizer == "adamw_8bit":
        return "adamw_bnb_8bit"
    return "adamw_torch" if device.kind == "mps" else "adamw_torch_fused"
