"""Collect what is needed to repeat a run: versions, commit, command, host."""

import contextlib
import functools
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "lora-scaling", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "codecarbon", "tokenizers",
    "datasets", "numpy", "nvidia-ml-py", "hydra-core", "omegaconf",
)  # fmt: skip


def host() -> str:
    """Name this machine."""
    return socket.gethostname()


@functools.cache
def machine() -> str:
    """Name this machine so that no other has the name: containers may share a host's, and hosts a container's."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        started = ""
    return f"{host()}/{started}"


def provenance() -> dict[str, Any]:
    """Collect versions, commit and dirty flag (null outside a checkout), interpreter, platform and command line.

    In a job of Slurm also its numbers and its place; null elsewhere.
    """
    script, *words = _user_command() or sys.argv
    command = [*_program(Path(script)), *map(_without_login, words)]
    return {**_unchanging(), "command": command, "slurm": slurm_job()}


_COMMAND = "LORA_SCALING_COMMAND"


@contextlib.contextmanager
def command_for_launchers(words: Sequence[str]) -> Iterator[None]:
    """Tell the user's command to the processes of launchers started inside, whose own command line is another."""
    os.environ[_COMMAND] = json.dumps(list(words))
    try:
        yield
    finally:
        os.environ.pop(_COMMAND, None)


def _user_command() -> list[str] | None:
    with contextlib.suppress(ValueError):
        words = json.loads(os.environ.get(_COMMAND, "null"))
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            return words
    return None


def slurm_job() -> dict[str, str | None] | None:
    """Return what Slurm calls the job that this process is part of; None outside of Slurm."""
    if not os.environ.get("SLURM_JOB_ID"):
        return None
    names = (
        "job_id", "array_job_id", "array_task_id", "cluster_name", "job_partition", "job_nodelist", "restart_count",
    )  # fmt: skip
    return {name: os.environ.get(f"SLURM_{name.upper()}") for name in names}


def _without_login(word: str) -> str:
    """Mask the login in an address, such as that of grid.base_url."""
    return re.sub(r"//[^/@\s]+@", "//***@", word)


def _program(script: Path) -> list[str]:
    """Return how the process was started; for `python -m PACKAGE`, Python gives only the path of `__main__.py`."""
    return ["python", "-m", script.parent.name] if script.name == "__main__.py" else [script.name]


@functools.cache
def _unchanging() -> dict[str, Any]:
    commit, dirty = _commit()
    return {
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": commit,
        "dirty": dirty,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> tuple[str | None, bool | None]:
    """Ask git for the commit of this code, and whether files differ from it."""
    here = Path(__file__).resolve().parent
    try:
        tracked = _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
        head = _git(here, "rev-parse", "HEAD") if tracked else None
        return head, bool(_git(here, "status", "--porcelain", "--untracked-files=no")) if head else None
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return run.stdout.strip()
