"""Lock the folders of runs, so that only one process at a time makes a run."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from lora_scaling.records.files import unwritable


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a run for this process; yields False if another process holds it. The lock ends with its process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mine = False
        except OSError as error:  # a file system that does not support locks
            raise unwritable(folder, error) from None
        else:
            mine = True
        yield mine
    finally:
        os.close(handle)
