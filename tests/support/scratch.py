"""Folders for what helpers of the tests write, where pytest keeps its own and clears old ones away."""

import tempfile
from pathlib import Path

_top: Path | None = None


def place(top: Path) -> None:
    """Put the folders of this process below `top`; conftest.py does at the start."""
    global _top
    _top = top


def folder(prefix: str) -> Path:
    """Make a folder."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_top))
