"""Who may use a device: locks that keep two measured runs of a host apart."""

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lora_scaling.errors import UnwritableError
from lora_scaling.records.provenance import host


@contextlib.contextmanager
def devices_held(
    names: Sequence[str], *, wait: bool, waiting: Callable[[], None] = lambda: None, folder: Path | None = None
) -> Iterator[Callable[[], bool]]:
    """Hold this host's devices for a measured run; yields a function that says whether no other run holds them.

    wait: wait until the devices are free, and keep others out. Otherwise share them; the answer, to be asked for
        at the end, may be False then (who came and went in between is not seen by the one that was there first).
    The locks die with their process. They are files of the temporary folder: a device is in one host.
    """
    place = folder or Path(tempfile.gettempdir()) / "lora-scaling-locks"
    handles: list[int] = []
    shared = False
    try:
        for name in sorted(set(names)):  # everyone in the same order: no two wait for each other
            handles.append(_lock_file(place, f"{host()}-{name}"))
        for handle in handles:
            free = _taken_now(handle)
            if wait and not free:
                waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            elif not wait:
                shared = shared or not free
                fcntl.flock(handle, fcntl.LOCK_SH)  # waits only for a run that wants the device to itself
        yield lambda: wait or not (shared or any(not _taken_now(handle) for handle in handles))
    finally:
        for handle in handles:
            os.close(handle)


def _taken_now(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_file(folder: Path, name: str) -> int:
    """Open the file of a lock, made if it is not there."""
    path = folder / re.sub(r"[^\w.-]", "_", name)
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            folder.chmod(0o1777)  # other users of the host measure, too
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UnwritableError(
            f"{folder}: cannot hold the locks of the devices ({error.strerror}); make it a folder that can be written, "
            "or set TMPDIR to another one"
        ) from None
