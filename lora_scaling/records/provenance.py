"""Collect what is needed to repeat a run: versions, commit, command, host."""

import functools
import platform
import re
import socket
import subprocess
import sys
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


def provenance() -> dict[str, Any]:
    """Collect versions, commit and dirty flag (null outside a checkout), interpreter, platform and command line."""
    return {**_unchanging(), "command": [*_program(Path(sys.argv[0])), *map(_without_login, sys.argv[1:])]}


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
