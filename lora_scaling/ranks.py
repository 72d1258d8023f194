"""Find out which of several processes this is (`torchrun`, `accelerate launch`)."""

import os

from lora_scaling.errors import UserError


def world_size() -> int:
    """Return the number of processes of a distributed launch, one per device; 1 otherwise."""
    return _whole_number("WORLD_SIZE", 1)


def rank() -> int:
    """Return the index of this process among them; process 0 writes the records."""
    return _whole_number("RANK", 0)


# What Slurm, Open MPI and MPICH call the index of a process among those on its host.
_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")


def local_rank() -> int:
    """Return the index of this process among those of the launch on its host, and so of its device.

    Raises:
        UserError: there are several, and no variable says which this is: all would use the first device.
    """
    for variable in _LOCAL_RANKS:
        if os.environ.get(variable, "").strip() and (variable == "LOCAL_RANK" or world_size() > 1):
            return _whole_number(variable, 0)
    if world_size() > 1:
        raise UserError(
            f"LOCAL_RANK: missing while WORLD_SIZE is {world_size()}; have the launcher set it for each process "
            "(torchrun does), or all would use the first device"
        )
    return 0


def local_world_size() -> int:
    if not os.environ.get("LOCAL_WORLD_SIZE", "").strip() and world_size() > 1:
        return _whole_number("SLURM_NTASKS_PER_NODE", world_size())
    return _whole_number("LOCAL_WORLD_SIZE", world_size())


def _whole_number(variable: str, default: int) -> int:
    """Read a launcher's variable; one that is empty counts as unset."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise UserError(f"{variable}: got {text!r}; launchers set it to a whole number: unset it for a run of its own")
    return int(text)
