"""Adapt `transformers.Trainer` to measured runs: it counts its input and reports to no service."""

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

# Called after each optimizer step with (steps done, all steps).
Progress = Callable[[int, int], None]


@dataclass
class Counted:
    """The tokens, padding, query-key pairs and micro-batches that this process handled in the training phase."""

    tokens: int = 0
    padding: int = 0
    pairs: int = 0
    rows: int = 0
    micro_steps: int = 0


class CountingCollator:
    """A collator that also counts each batch while it is still in host memory."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(rows)
        return {**batch, _COUNTS: batch_counts(batch)}


class MeteredTrainer(Trainer):
    """A Trainer that adds up what it trained on in `counted`."""

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
            # Turning it on twice in a row would leave hooks behind.
            model.activation_checkpointing_disable()
            model.disable_input_require_grads()
        self.counted = Counted()

    def counted_everywhere(self) -> Counted:
        """Sum the counts over all processes of a launch (except micro-steps, which are those of this process)."""
        mine = self.counted
        sums = _over_processes(torch.tensor([mine.tokens, mine.padding, mine.pairs, mine.rows]), self.args.device)
        tokens, padding, pairs, rows = (int(value) for value in sums)
        return Counted(tokens=tokens, padding=padding, pairs=pairs, rows=rows, micro_steps=mine.micro_steps)

    @torch.no_grad()
    def evaluation_loss(self) -> float | None:
        """Return the mean loss per trained token of the held-out samples, or None if none are held out."""
        if self.eval_dataset is None:
            return None
        assert self.model is not None
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for inputs in self.get_eval_dataloader():
            inputs.pop(_COUNTS)
            with self.accelerator.autocast():
                # With one item per batch, the model returns the sum over its label tokens instead of their mean.
                loss = self.model(**inputs, num_items_in_batch=1).loss
            labels = int((inputs["labels"][:, 1:] != IGNORED).sum())
            total += torch.tensor([float(loss), float(labels)], dtype=torch.float64)
        total = _over_processes(total, self.args.device)
        return float(total[0] / total[1]) if total[1] else None


def _over_processes(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Sum a vector over all processes of a distributed launch."""
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
    """Make a trainer for this run that writes nothing and reports only to `progress`."""
    args = training_arguments(config, device, folder)
    if config.max_steps is not None and config.max_steps >= _steps_of_all_epochs(config, len(rows)):
        args.max_steps = -1  # otherwise Trainer would repeat the data until that many steps were made
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
    """Translate the run's settings into `transformers.TrainingArguments`."""
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
        # Only a mixture of experts has weights that a batch may not use; searching for them costs a pass.
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


def _optimizer(config: RunConfig, device: Device) -> str:
    if config.optimizer == "adamw_8bit":
        return "adamw_bnb_8bit"
    return "adamw_torch" if device.kind == "mps" else "adamw_torch_fused"
