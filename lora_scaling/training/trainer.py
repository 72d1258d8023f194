"""`transformers.Trainer` as a measured run needs it: it counts what it is fed and reports nothing anywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from lora_scaling.training.batches import IGNORED, Collator, batch_counts
from lora_scaling.training.device import Device
from lora_scaling.workload import step_count

_COUNTS = "batch_counts"

# Called after each optimizer step with (steps done, steps in all).
Progress = Callable[[int, int], None]


@dataclass
class Counted:
    """What the training phase processed on this process: tokens, padding, query-key pairs and micro-batches."""

    tokens: int = 0
    padding: int = 0
    pairs: int = 0
    rows: int = 0
    micro_steps: int = 0


class CountingCollator:
    """The collator with each batch's counts beside it, taken while it is still in host memory."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(rows)
        return {**batch, _COUNTS: batch_counts(batch)}


class MeteredTrainer(Trainer):
    """Trains as its parent does; adds up what it trained on in `counted`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counted = Counted()
        self.remove_callback(PrinterCallback)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        counts = inputs.pop(_COUNTS)
        if model.training:
            self.counted.tokens += counts.tokens
            self.counted.padding += counts.padding
            self.counted.pairs += counts.pairs
            self.counted.rows += len(inputs["input_ids"])
            self.counted.micro_steps += 1
        return super().compute_loss(model, inputs, *args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        # The parent walks all parameters on every step for an estimate; ours is exact and made once, from `counted`.
        return 0

    def warm_up(self, steps: int) -> None:
        """Forward and backward passes that are thrown away: kernels get chosen, caches and the allocator filled."""
        if steps == 0:
            return
        model: Any = self.model
        model.train()
        if self.args.activation_checkpointing:  # the parent turns it on only as training starts
            model.activation_checkpointing_enable(
                activation_checkpointing_kwargs=self.args.activation_checkpointing_kwargs
            )
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        done = 0
        while done < steps:
            for inputs in self.get_train_dataloader():
                self.training_step(model, inputs)
                done += 1
                if done >= steps:
                    break
        model.zero_grad()
        if self.args.activation_checkpointing:
            # Turned on twice in a row, it would leave hooks behind.
            model.activation_checkpointing_disable()
            model.disable_input_require_grads()
        self.counted = Counted()

    def counted_everywhere(self) -> Counted:
        """The counts of all processes of a distributed launch together (micro-steps: of this one)."""
        mine = self.counted
        sums = _over_processes(torch.tensor([mine.tokens, mine.padding, mine.pairs, mine.rows]), self.args.device)
        tokens, padding, pairs, rows = (int(value) for value in sums)
        return Counted(tokens=tokens, padding=padding, pairs=pairs, rows=rows, micro_steps=mine.micro_steps)

    @torch.no_grad()
    def evaluation_loss(self) -> float | None:
        """Mean loss a trained token of the held-out samples; None where there are none."""
        if self.eval_dataset is None:
            return None
        assert self.model is not None
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for inputs in self.get_eval_dataloader():
            inputs.pop(_COUNTS)
            with self.accelerator.autocast():
                # With one item a batch, the model returns the sum over its label tokens instead of their mean.
                loss = self.model(**inputs, num_items_in_batch=1).loss
            labels = int((inputs["labels"][:, 1:] != IGNORED).sum())
            total += torch.tensor([float(loss), float(labels)], dtype=torch.float64)
        total = _over_processes(total, self.args.device)
        return float(total[0] / total[1]) if total[1] else None


def _over_processes(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The sum of a vector over all processes of a distributed launch."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        values = values.to(device)
        torch.distributed.all_reduce(values)
    return values.cpu()


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
    """A trainer for this run, writing nothing and reporting to no one but `progress`."""
    args = training_arguments(config, device, folder)
    if config.max_steps is not None and config.max_steps >= _steps_of_all_epochs(config, len(rows)):
        args.max_steps = -1  # Trainer would show the data again until so many steps were made
    return MeteredTrainer(
        model=network,  # type: ignore[arg-type]
        args=args,
        train_dataset=rows,  # type: ignore[arg-type]
        eval_dataset=held_out or None,  # type: ignore[arg-type]
        data_collator=CountingCollator(collator),
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
    """The run's settings in `transformers`' words."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=local_accumulation(config.gradient_accumulation),
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": config.sharding == "fsdp"}},
        learning_rate=config.learning_rate or config.method.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=_optimizer(config, device),
        bf16=device.precision == "bf16",
        fp16=device.precision == "fp16",
        use_cpu=device.kind == "cpu",
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        train_sampling_strategy="group_by_length" if config.group_by_length and not config.packing else "random",
        length_column_name="length",
        remove_unused_columns=False,
        # Only a mixture of experts has weights that a batch may leave out; looking for them costs a pass.
        ddp_find_unused_parameters=config.model.shape is None or config.model.shape.experts > 1,
        dataloader_pin_memory=device.kind == "cuda",
        seed=config.seed,
        data_seed=config.seed,
        prediction_loss_only=True,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )


def local_accumulation(asked: int) -> int:
    """Micro-batches a process accumulates so that the global batch stays what was asked.

    Raises:
        UserError: the processes do not divide them.
    """
    processes = world_size()
    if asked % processes:
        raise UserError(
            f"`gradient_accumulation` was {asked}; {processes} processes share it: give a multiple of {processes}, "
            "so that the global batch is the same as on one"
        )
    return asked // processes


def _optimizer(config: RunConfig, device: Device) -> str:
    if config.optimizer == "adamw_8bit":
        return "adamw_bnb_8bit"
    return "adamw_torch" if device.kind == "mps" else "adamw_torch_fused"
