"""Compile a model with torch.compile."""

import os
import shutil
from importlib.util import find_spec

from torch import nn

from lora_scaling.errors import UserError
from lora_scaling.training.device import Device

_COMPILERS = ("g++", "clang++", "cl")


def compile_network(network: nn.Module, device: Device) -> None:
    """Have a network compiled at its first passes, those of the training window among them.

    It stays the same object, so that its weights keep their names. What warm-up compiled is compiled again where the
    Trainer has replaced `forward`, so the training of a short run is mostly compiling.

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
    network.compile()
