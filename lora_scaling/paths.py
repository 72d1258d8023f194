"""Find the YAML files: inside the installed package, or at the top of a checkout."""

import os
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def config_root() -> Path:
    """Return the folder that holds `conf/` and `sweeps/`: the package in a wheel, otherwise the checkout."""
    packaged = _PACKAGE / "conf" / "config.yaml"
    return _PACKAGE if packaged.is_file() else _PACKAGE.parent


def config_dir() -> Path:
    return config_root() / "conf"


def sweeps_dir() -> Path:
    return config_root() / "sweeps"


# Options of these groups that describe no particular model or device.
NOT_PRESETS = {"model": ("gguf", "hub", "shape"), "hardware": ("auto", "custom")}


def presets(group: str) -> list[str]:
    """Return the names of the models, or of the devices, that have a preset."""
    return [name for name in choices(group) if name not in NOT_PRESETS[group]]


def user_cache() -> Path:
    return in_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def in_home(path: str) -> Path:
    """Expand a path that may begin with ~; use the temporary folder if the user has no home, as in some containers."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / path.lstrip("~/")


def choices(group: str) -> list[str]:
    """Return the names of the options in a configuration group, for messages."""
    folder = sweeps_dir() if group == "sweeps" else config_dir() / group
    return sorted(path.stem for path in folder.glob("*.yaml"))
