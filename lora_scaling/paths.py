"""Where the YAML is: inside the installed package, or at the top of a checkout."""

import os
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def config_root() -> Path:
    """The folder that holds `conf/` and `sweeps/`: the package in a wheel, the checkout otherwise."""
    packaged = _PACKAGE / "conf" / "config.yaml"
    return _PACKAGE if packaged.is_file() else _PACKAGE.parent


def config_dir() -> Path:
    return config_root() / "conf"


def sweeps_dir() -> Path:
    return config_root() / "sweeps"


# Options of these groups that hold no model or device of their own.
NOT_PRESETS = {"model": ("gguf", "hub", "shape"), "hardware": ("auto", "custom")}


def presets(group: str) -> list[str]:
    """Names of the models, or of the devices, that are described."""
    return [name for name in choices(group) if name not in NOT_PRESETS[group]]


def user_cache() -> Path:
    return in_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def in_home(path: str) -> Path:
    """A path that may begin with ~; among the temporary files where the user has no home, as in some containers."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / path.lstrip("~/")


def choices(group: str) -> list[str]:
    """Names of the options in a configuration group, for messages."""
    folder = sweeps_dir() if group == "sweeps" else config_dir() / group
    return sorted(path.stem for path in folder.glob("*.yaml"))
