"""The exact arithmetic of a fine-tuning run: parameters, FLOPs, tokens, steps and memory, from shapes alone.

Standard library only: no model is built and nothing is downloaded.
"""

from .flops import Flops, training_flops
from .lengths import Batching, BatchStatistics, Lengths, step_count
from .memory import MemorySetup, MemoryUse, largest_batch, training_memory
from .run import Workload
from .shape import ATTENTION, LINEAR, MLP, Matmul, ModelShape, Tuning

__all__ = [
    "ATTENTION",
    "LINEAR",
    "MLP",
    "BatchStatistics",
    "Batching",
    "Flops",
    "Lengths",
    "Matmul",
    "MemorySetup",
    "MemoryUse",
    "ModelShape",
    "Tuning",
    "Workload",
    "largest_batch",
    "step_count",
    "training_flops",
    "training_memory",
]
