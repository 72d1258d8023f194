"""Compile a model with torch.compile, before the window of the training opens."""

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_scaling.energy import Recording
from lora_scaling.errors import UserError
from lora_scaling.training.device import Device

_COMPILERS = ("g++", "clang++", "cl")
_MOST_GRAPHS = 64  # of one run: evaluation, training, and what each shape adds; far more than there are
_MOST_ROUNDS = 8


def compile_network(network: nn.Module, device: Device) -> None:
    """Have a network compiled at its first passes.

    It stays the same object, so that its weights keep their names. Each run compiles for itself: beyond a number of
    graphs in one process, torch would go on without compiling.

    Raises:
        UserError: there is nothing here to compile with.
    """
    if device.kind == "cuda":
        missing = None if find_spec("triton") is not None else "the package triton"
    else:
        found = any(map(shutil.which, (os.environ.get("CXX", ""), *_COMPILERS)))
        missing = None if found else f"a C++ compiler ({', '.join(_COMPILERS)})"
    if missing is not None:
        raise UserError(f"torch_compile: got true, which needs {missing}; install it, or use torch_compile=false")
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = _MOST_GRAPHS
    network.compile()


class CompileFirst(TrainerCallback):
    """Compiles in the window of warm-up, and opens that of training when nothing is left to compile.

    It does so as training starts, because the Trainer wraps the model only then, and what was compiled of it before
    would be compiled again. Passes of the smallest and largest batches make the lengths and rows variables of the
    compiled code; they are repeated until a round compiles nothing.
    """

    def __init__(self, trainer: Any, recording: Recording, opened: Callable[[], None], *, resumed: bool) -> None:
        self._trainer, self._recording, self._opened, self._resumed = trainer, recording, opened, resumed

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._resumed:  # then the window of reading the checkpoint is open
            self._recording.begin_phase("warmup")
        for _ in range(_MOST_ROUNDS):
            before = _graphs()
            self._trainer.pass_all_shapes()
            if not self._trainer.anywhere(_graphs() > before):
                break
        self._opened()
        self._recording.begin_phase("train")


def _graphs() -> int:
    """Count the frames that this process has compiled so far."""
    from torch._dynamo.utils import counters

    return counters["frames"]["total"]
