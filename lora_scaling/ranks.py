"""Find out which of several processes this is (`torchrun`, `accelerate launch`)."""

import os


def world_size() -> int:
    """Return the number of processes of a distributed launch, one per device; 1 otherwise."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the index of this process among them; process 0 writes the records."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))
