"""Find the YAML files: inside the installed package, or at the top of a checkout; and those of the user."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lora_scaling.errors import UserError

_PACKAGE = Path(__file__).resolve().parent


def config_root() -> Path:
    """Return the folder that holds `conf/` and `sweeps/`: the package in a wheel, otherwise the checkout."""
    packaged = _PACKAGE / "conf" / "config.yaml"
    return _PACKAGE if packaged.is_file() else _PACKAGE.parent


def config_dir() -> Path:
    return config_root() / "conf"


def sweeps_dir() -> Path:
    return config_root() / "sweeps"


_user_folders: tuple[Path, ...] = ()


def user_folders() -> tuple[Path, ...]:
    """Return the user's folders with groups of options (`model/`, `sweeps/` …), beside those of this program."""
    return _user_folders


@contextlib.contextmanager
def searching(folders: Sequence[Path]) -> Iterator[None]:
    """Have options found in these folders as well, after those of this program."""
    global _user_folders
    before = _user_folders
    _user_folders = (*before, *folders)
    try:
        yield
    finally:
        _user_folders = before


def option_file(group: str, name: str) -> Path | None:
    """Return the file of an option, of this program or of the user; None if there is none."""
    files = (folder / f"{name}.yaml" for folder in _folders(group))
    return next((file for file in files if file.is_file()), None)


def is_group(name: str) -> bool:
    """Return whether this is the name of a group of options."""
    return any(folder.is_dir() for folder in _folders(name))


def shipped_options() -> list[str]:
    """Return the path of each YAML file of this program within a folder of options: `model/ladder-1m.yaml`."""
    files = [path.relative_to(config_dir()) for path in config_dir().rglob("*.yaml")]
    return [path.as_posix() for path in (*files, *(Path("sweeps", path.name) for path in sweeps_dir().glob("*.yaml")))]


def _folders(group: str, *, shipped: bool = False) -> list[Path]:
    """Return where the options of a group lie, those of this program first; shipped: these alone."""
    ours = sweeps_dir() if group == "sweeps" else config_dir() / group
    return [ours, *(() if shipped else (folder / group for folder in _user_folders))]


# Options of these groups that describe no particular model or device.
NOT_PRESETS = {"model": ("gguf", "hub", "shape"), "hardware": ("auto", "custom")}


def presets(group: str, *, shipped: bool = False) -> list[str]:
    """Return the names of the models, or of the devices, that have a preset; shipped: without those of the user."""
    return [name for name in choices(group, shipped=shipped) if name not in NOT_PRESETS[group]]


def user_cache() -> Path:
    return in_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def in_home(path: str) -> Path:
    """Expand a path that may begin with ~; use the temporary folder if the user has no home, as in some containers."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / path.lstrip("~/")


def gguf_path(name: str) -> Path:
    """Return the path of a GGUF file.

    Raises:
        UserError: there is no such file.
    """
    path = in_home(name)
    if not path.is_file():
        raise UserError(f"model.gguf_file: got {name}, which does not exist; give a GGUF file")
    return path


def choices(group: str, *, shipped: bool = False) -> list[str]:
    """Return the names of the options in a configuration group; shipped: without those of the user."""
    return sorted({path.stem for folder in _folders(group, shipped=shipped) for path in folder.glob("*.yaml")})
