"""Count the work of a planned run as the runs of a table were counted, so that both are measured by one yardstick."""

from dataclasses import dataclass

from lora_scaling.workload.flops import training_flops
from lora_scaling.workload.lengths import Batching
from lora_scaling.workload.run import Workload


@dataclass(frozen=True, kw_only=True)
class Counting:
    """How tokens and FLOPs were counted.

    padding: whether tokens and FLOPs include padding. by_parameters: FLOPs are 4 × parameters × tokens (6 × for full
    fine-tuning) instead of those of each matrix.
    """

    padding: bool = True
    by_parameters: bool = False

    def tokens_and_flops(self, workload: Workload) -> tuple[float, float]:
        """Return the tokens processed and the FLOPs of a planned run, counted in this way."""
        if self.padding:
            tokens, flops = workload.tokens_seen + workload.tokens_padded, float(workload.flops.total)
        else:
            tokens, flops = workload.tokens_seen, _unpadded_flops(workload)
        if self.by_parameters:
            flops = flops_per_param_token(workload.tuning.method) * workload.shape.params * tokens
        return float(tokens), float(flops)


def flops_per_param_token(method: str) -> float:
    """2 forward and 2 backward, and 2 more for the gradients of weights that are trained.

    Kaplan et al. 2020, sec. 2.1 (6 N a token for full training) and Hu et al. 2021 (no weight gradients: 4 N).
    """
    return 6.0 if method.lower() == "full" else 4.0


def _unpadded_flops(workload: Workload) -> float:
    statistics = workload.statistics
    if not workload.batching.packing:  # packed rows have no padding, but pairs of tokens from different samples
        alone = Batching(batch_size=1, max_seq_len=workload.batching.max_seq_len)
        statistics = workload.lengths.statistics(alone, workload.samples)
    flops = training_flops(
        workload.shape,
        workload.tuning,
        tokens=round(workload.samples_seen * statistics.tokens),
        pairs=round(workload.samples_seen * statistics.pairs),
        checkpointing=workload.checkpointing,
    )
    return float(flops.total)
