"""Make a module callable, for a function that shares its name with the package or module it comes from.

`lora_scaling.estimate` is a package, and `from lora_scaling import estimate` should give something to call. A function
in its place would not last: importing any part of the package sets `lora_scaling.estimate` to the package again. So
the module itself takes calls, and both imports give the same object in whatever order they come.
"""

import inspect
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(module: str, function: Callable[[], Callable[..., Any]], *, deprecated: str = "") -> None:
    """Let the module of this name pass calls on to what `function()` returns, which is asked for at each call.

    `deprecated`: what a DeprecationWarning says when the module is called.
    """

    class CallableModule(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if deprecated:
                warnings.warn(deprecated, DeprecationWarning, stacklevel=2)
            return function()(*args, **kwargs)

        @property
        def __signature__(self) -> inspect.Signature:
            return inspect.signature(function())

    sys.modules[module].__class__ = CallableModule
