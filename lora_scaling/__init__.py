"""lora-scaling: measure, test and predict the energy and carbon of fine-tuning language models.

    from lora_scaling import compose, estimate, footprint, run

    config = compose(["model=ladder-1m", "samples=64"])  # settings as on the command line
    print(estimate(config).energy_kwh)                   # what would it cost?
    outcome = run(config)                                # run and measure it
    with footprint("my-run", samples=64):                # measure code of your own
        ...

`analysis` takes the records of the runs further. Importing this package loads none of its rooms.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lora_scaling.version import __version__

if TYPE_CHECKING:
    from lora_scaling.config import compose as compose
    from lora_scaling.estimate import estimate as estimate
    from lora_scaling.footprint import footprint as footprint
    from lora_scaling.runs.run import run as run

__all__ = ["__version__", "compose", "estimate", "footprint", "run"]

_HOMES = {"compose": "lora_scaling.config", "run": "lora_scaling.runs.run"}
_CALLABLE_MODULES = ("estimate", "footprint")


def __getattr__(name: str) -> Any:
    if name in _CALLABLE_MODULES:
        return importlib.import_module(f"lora_scaling.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
