"""Write, read and find the files of records: `<runs_dir>/<study>/<run_id>/run.json` and `timeline.csv`.

A file is written whole or not at all.
"""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lora_scaling.errors import RecordError, UnwritableError, UserError
from lora_scaling.records.schema import RunRecord, from_json, to_json

RECORD_NAME = "run.json"
TIMELINE_NAME = "timeline.csv"
MOST_BYTES = (
    64_000_000  # of a file from elsewhere; a record of ours has some 10 kB, and a timeline a row for each second
)


def record_path(runs_dir: str | Path, study: str, run_id: str) -> Path:
    """Return the path of the record of a run."""
    return Path(runs_dir) / study / run_id / RECORD_NAME


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write atomically, so that either the old record or the new one exists, whatever happens in between.

    Raises:
        UnwritableError: the folder cannot be written or the disk is full; the text says which.
    """
    write_text(path, to_json(record))


def write_text(path: Path, content: str | bytes, *, setting: str = "runs_dir") -> None:
    """Write a text or bytes atomically. `setting` is what chose the path, for the error.

    Raises:
        UnwritableError: the folder cannot be written or the disk is full; the text says which.
    """
    temporary: str | None = None
    data = content.encode() if isinstance(content, str) else content
    try:
        if setting != "runs_dir":  # typed by the user: it may be /dev/stdout, or a link
            if path.exists() and not path.is_file() and not path.is_dir():
                path.write_bytes(data)
                return
            path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if not isinstance(error, OSError):  # an interruption
            raise
        if setting != "runs_dir":
            raise UnwritableError(
                f"{setting}: got {path}, which cannot be written ({error.strerror}); give another path"
            ) from None
        raise unwritable(path.parent, error) from None


def _umask() -> int:
    """Ask for the permissions that the user withholds from new files; the system tells them only when they are set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def remove_stale_temporary_files(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, whose lock the caller holds."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def unwritable(folder: Path, error: OSError) -> UnwritableError:
    """Return the error that says why nothing can be written under `runs_dir`, and what to do."""
    if error.errno == errno.ENOSPC:
        return UnwritableError(f"runs_dir: the disk of {folder} is full; free some space or give another runs_dir")
    return UnwritableError(
        f"runs_dir: {folder} cannot be written ({error.strerror}); give a folder that can, runs_dir=PATH"
    )


def read_record(path: Path) -> RunRecord:
    """Read one record, in the shape of `schema.RunRecord`.

    Raises:
        RecordError: it cannot be read, is not JSON, has a schema that this version does not know, or is damaged.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not a run record: not valid JSON ({error})") from None
    return from_json(text, str(path))


def read_text(path: Path) -> str:
    """Read a file that may come from elsewhere.

    Raises:
        OSError: it cannot be read, is a pipe or a device, which may never end, or has more than `MOST_BYTES`.
        UnicodeDecodeError: it is not UTF-8.
    """
    check_plain(path)
    return path.read_text(encoding="utf-8")


def check_plain(path: Path) -> None:
    """Raise an OSError for a pipe, a device or a file of more than `MOST_BYTES`; follow links, as `open` does."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a plain file")
    if found.st_size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"{found.st_size:,} bytes; at most {MOST_BYTES:,} are read")


def find_records(paths: Iterable[str | Path]) -> list[Path]:
    """Find all record files below the given folders (or the files themselves), in order of path.

    Raises:
        UserError: a path does not exist.
    """
    found: set[Path] = set()
    for given in map(Path, paths):
        if given.is_file():
            found.add(given)
        elif given.is_dir():
            for folder, folders, files in os.walk(given):
                if RECORD_NAME in files or RECORD_NAME in folders:  # whatever has the name, a broken link too, is named
                    found.add(Path(folder, RECORD_NAME))
        else:
            raise UserError(f"RUNS: got {given}, which does not exist; give a folder of run records")
    return sorted(found)


def finished_record(path: Path) -> RunRecord | None:
    """Read the record of a complete run; None for anything unreadable or unfinished, which has to be run again."""
    try:
        record = read_record(path)
    except RecordError:
        return None
    return record if record["status"] == "ok" else None


def is_finished(path: Path) -> bool:
    """Return whether a complete run is recorded there."""
    return finished_record(path) is not None
