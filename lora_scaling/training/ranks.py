"""The processes of one distributed run as a group that can exchange objects."""

import logging
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch

from lora_scaling.errors import UserError
from lora_scaling.ranks import world_size
from lora_scaling.training.device import local_gpu

T = TypeVar("T")

# A rank that is lost for so long is not coming back: the others fail instead of waiting on. The first one may take
# half an hour to load a model of 70 B, for which all wait that share it.
_PATIENCE = timedelta(minutes=60)


def init_group(kind: str) -> None:
    """Meet the other processes of the launch; nothing for one alone. `kind` is the device's."""
    if world_size() == 1 or torch.distributed.is_initialized():
        return
    if kind == "cuda":
        torch.cuda.set_device(local_gpu())
    torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=_PATIENCE)


def destroy_group() -> NoReturn:
    """Part from the group, and end this process well.

    A sharded model holds on to its group, whose threads hold on to tensors: an interpreter that winds down beside
    them now and then aborts ("terminate called without an active exception", pytorch#190489), and the launcher would
    count a finished run as failed. So it does not wind down.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


# What gloo, NCCL and torch's store write when another process of the group has gone.
_GONE = (
    "connection closed by peer", "connection reset by peer", "broken pipe", "gloo/transport", "remote process exited",
    "socket timeout", "recvvalue failed", "nccl communicator was aborted", "connection was likely closed",
)  # fmt: skip


def lost_process(error: BaseException) -> str | None:
    """Return a sentence for an error that means that another process of the run is gone; None for any other."""
    if world_size() == 1 or not isinstance(error, (RuntimeError, OSError)):
        return None
    text = " ".join(str(error).split())
    if not any(words in text.lower() for words in _GONE):
        return None
    return (
        f"another of the run's {world_size()} processes was lost, and what it printed last says why; the same command "
        f"makes the run again ({type(error).__name__}: {text[:120]})"
    )


def gather_from_ranks(mine: T) -> list[T]:
    """What each process gave, in order of rank, on all of them."""
    if world_size() == 1:
        return [mine]
    everyone: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def on_all_ranks(work: Callable[[], T]) -> T:
    """Do something in every process, and refuse in all what one refuses, so that none waits for it.

    Raises:
        UserError: that of the first process that raised one.
    """
    result: T | UserError
    try:
        result = work()
    except UserError as error:
        result = error
    refused = gather_from_ranks(result if isinstance(result, UserError) else None)
    for error in refused:
        if error is not None:
            raise error
    assert not isinstance(result, UserError)
    return result


def broadcast_from_rank0(mine: T) -> T:
    """What the first process gave, on all of them."""
    return gather_from_ranks(mine)[0]
