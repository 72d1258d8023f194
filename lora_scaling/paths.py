"""Where the YAML is: inside the installed package, or at the top of a checkout."""

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


def choices(group: str) -> list[str]:
    """Names of the options in a configuration group, for messages."""
    folder = sweeps_dir() if group == "sweeps" else config_dir() / group
    return sorted(path.stem for path in folder.glob("*.yaml"))
