"""Compute the exact work of a fine-tuning run from shapes alone: parameters, FLOPs, tokens, steps and memory.

Standard library only: no model is built and nothing is downloaded.
"""

from lora_scaling.workload.architectures import ARCHITECTURES, shape_of
from lora_scaling.workload.counting import Counting, flops_per_param_token
from lora_scaling.workload.flops import Flops, training_flops
from lora_scaling.workload.lengths import Batching, BatchStatistics, Lengths, epochs_and_passes, step_count
from lora_scaling.workload.memory import MemorySetup, MemoryUse, largest_batch, training_memory
from lora_scaling.workload.run import Workload
from lora_scaling.workload.shape import ATTENTION, LINEAR, MLP, Matmul, ModelShape, Tuning

__all__ = [
    "ARCHITECTURES",
    "ATTENTION",
    "LINEAR",
    "MLP",
    "BatchStatistics",
    "Batching",
    "Counting",
    "Flops",
    "Lengths",
    "Matmul",
    "MemorySetup",
    "MemoryUse",
    "ModelShape",
    "Tuning",
    "Workload",
    "epochs_and_passes",
    "flops_per_param_token",
    "largest_batch",
    "shape_of",
    "step_count",
    "training_flops",
    "training_memory",
]
