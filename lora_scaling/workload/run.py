"""Compute the expected work of one run before it starts."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

from lora_scaling.workload.flops import Flops, training_flops
from lora_scaling.workload.lengths import Batching, BatchStatistics, Lengths, epochs_and_passes, step_count
from lora_scaling.workload.shape import ModelShape, Tuning


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The work of a run. Counts cover the training phase; evaluation and warm-up come on top.

    `samples` is the size of the training set, which is shown `epochs` times. Expected token counts come from `lengths`.
    """

    shape: ModelShape
    tuning: Tuning
    samples: int
    epochs: int
    lengths: Lengths
    batching: Batching
    gradient_accumulation: int = 1
    max_steps: int | None = None
    checkpointing: bool = False

    @cached_property
    def statistics(self) -> BatchStatistics:
        # If the training set is smaller than a batch, the batches are smaller.
        batching = replace(self.batching, batch_size=min(self.batching.batch_size, self.samples))
        return self.lengths.statistics(batching, self.samples)

    @property
    def rows(self) -> int:
        """Number of rows of the training set: samples, or packed sequences."""
        return max(1, math.ceil(self.samples * self.statistics.rows))

    @property
    def steps(self) -> int:
        return step_count(
            self.rows,
            epochs=self.epochs,
            batch_size=self.batching.batch_size,
            gradient_accumulation=self.gradient_accumulation,
            max_steps=self.max_steps,
        )

    @property
    def micro_steps(self) -> int:
        """Number of forward-and-backward passes."""
        return self.micro_steps_on(1)

    def micro_steps_on(self, devices: int) -> int:
        """Count the passes per device if this many devices share each epoch; it must divide `gradient_accumulation`."""
        an_epoch = math.ceil(self._micro_steps_an_epoch / devices)
        epochs, passes = epochs_and_passes(self.steps, an_epoch, self.gradient_accumulation // devices)
        return epochs * an_epoch + passes

    @property
    def samples_seen(self) -> float:
        """Number of samples shown over all epochs; fewer than samples × epochs if `max_steps` ends the run early."""
        epochs, passes = self._shown
        rows = min(passes * self.batching.batch_size, self.rows)
        return min(self.samples * self.epochs, epochs * self.samples + rows / self.statistics.rows)

    @property
    def _micro_steps_an_epoch(self) -> int:
        return math.ceil(self.rows / self.batching.batch_size)

    @property
    def _shown(self) -> tuple[int, int]:
        """Whole epochs, and the passes of an epoch that `max_steps` cuts short."""
        return epochs_and_passes(self.steps, self._micro_steps_an_epoch, self.gradient_accumulation)

    @property
    def tokens_seen(self) -> float:
        return self.samples_seen * self.statistics.tokens

    @property
    def tokens_padded(self) -> float:
        return self.samples_seen * self.statistics.padding

    @property
    def trainable_params(self) -> int:
        return self.tuning.trainable_params(self.shape)

    @cached_property
    def flops(self) -> Flops:
        return training_flops(
            self.shape,
            self.tuning,
            tokens=round(self.samples_seen * self.statistics.processed),
            pairs=round(self.samples_seen * self.statistics.pairs),
            checkpointing=self.checkpointing,
        )
