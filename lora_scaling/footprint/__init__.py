"""Measure the footprint of any training code, in three lines.

    from lora_scaling import footprint
    with footprint("my-run", samples=1000, epochs=2):
        train()

or, for a transformers Trainer or a TRL SFTTrainer,

    from lora_scaling.footprint import FootprintCallback
    trainer.add_callback(FootprintCallback("my-run"))     # predict=True: says what the whole training will take
    trainer.train()

Both write `runs/footprint/my-run-…/run.json` and the energy timeline, like a run of this project:
`python -m lora_scaling.emissions runs` computes its grams, and `python -m analysis` reads it. Measuring never stops or
changes the training: if a sensor or a disk fails, the record has a null with a reason, or the log has a line.
Importing this module imports neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lora_scaling.callable_module import make_callable
from lora_scaling.footprint.block import Facts, Footprint, footprint

if TYPE_CHECKING:
    from lora_scaling.footprint.callback import FootprintCallback as FootprintCallback

__all__ = ["Facts", "Footprint", "FootprintCallback", "footprint"]


def __getattr__(name: str) -> Any:
    if name == "FootprintCallback":  # transformers takes seconds to import
        return importlib.import_module("lora_scaling.footprint.callback").FootprintCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


make_callable(__name__, lambda: footprint)  # `from lora_scaling import footprint` is this package
