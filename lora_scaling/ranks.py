"""Find out which of several processes this is (`torchrun`, `accelerate launch`)."""

import os

from lora_scaling.errors import UserError


def world_size() -> int:
    """Return the number of processes of a distributed launch, one per device; 1 otherwise."""
    return _whole_number("WORLD_SIZE", 1)


def rank() -> int:
    """Return the index of this process among them; process 0 writes the records."""
    return _whole_number("RANK", 0)


def local_rank() -> int:
    return _whole_number("LOCAL_RANK", 0)


def local_world_size() -> int:
    return _whole_number("LOCAL_WORLD_SIZE", world_size())


def _whole_number(variable: str, default: int) -> int:
    """Read a launcher's variable; one that is empty counts as unset."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise UserError(f"{variable}: got {text!r}; launchers set it to a whole number: unset it for a run of its own")
    return int(text)
