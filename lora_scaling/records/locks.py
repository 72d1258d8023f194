"""Lock the folders of runs, so that only one process at a time makes a run."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lora_scaling.records.files import unwritable

# Mount options and file systems with which a lock is seen on its own host alone, or by nobody.
_OWN_HOST_OPTIONS = {"nfs": ("nolock", "local_lock=flock", "local_lock=all"), "lustre": ("localflock", "noflock")}
_OWN_HOST_TYPES = ("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.goofys", "9p", "vboxsf")


def doubts_about_locks(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """Test whether locks in a folder keep processes apart; return why they may not, for a warning, or None.

    On this host that is tried. Whether other hosts see the locks, the way in which the folder is mounted tells.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A file of this process's own: one that all share is removed by another between the two openings.
        first, path = tempfile.mkstemp(prefix=".lock-test-", dir=folder)
        second = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return f"locks in {folder} keep no two processes apart, so two commands may make the same run"
    except OSError as error:
        raise unwritable(folder, error) from None
    finally:
        os.close(first)
        os.close(second)
        with contextlib.suppress(OSError):
            os.unlink(path)
    kind, options = _mounted(folder, mounts)
    bad = [option for option in _OWN_HOST_OPTIONS.get(kind.rstrip("4"), ()) if option in options]
    if not bad and kind not in _OWN_HOST_TYPES:
        return None
    how = f"{kind} with {bad[0]}" if bad else kind
    return (
        f"{folder} is mounted as {how}, whose locks other hosts do not see: start the sweep from one host at a time, "
        "or two may make the same run"
    )


def _mounted(folder: Path, mounts: Path) -> tuple[str, list[str]]:
    """Return the kind of file system that holds a folder, and its mount options; empty if that is unknown."""
    found = ("", "", "")
    here = str(folder.resolve())
    with contextlib.suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
            _, place, kind, options, *_ = [*line.split(), "", "", "", ""]
            place = place.replace("\\040", " ")
            inside = here == place or here.startswith(place.rstrip("/") + "/")
            if inside and len(place) >= len(found[0]):
                found = (place, kind, options)
    return found[1], found[2].split(",")


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a folder, mostly a run's, for this process; yields False if another process holds it.

    wait: wait until no other process does. The lock ends with its process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            mine = False
        except OSError as error:  # a file system that does not support locks
            raise unwritable(folder, error) from None
        else:
            mine = True
        yield mine
    finally:
        os.close(handle)
