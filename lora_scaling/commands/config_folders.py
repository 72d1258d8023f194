"""The user's own folders of options, which every command takes: `--config-dir DIR`, or `hydra.searchpath=[…]`.

Hydra takes both for a run. Here they are taken off the words of every command, so that all know the same options.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lora_scaling.errors import UserError
from lora_scaling.paths import shipped_options

_OPTIONS = ("--config-dir", "-cd")
_SETTING = "hydra.searchpath"


def take_config_folders(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the folders that the words name, and the other words.

    Raises:
        UserError: one is no folder, or would hide or be hidden by an option of this program.
    """
    folders: list[Path] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name in _OPTIONS:
            folders.append(_folder(name, value if equals else next(left, "")))
        elif equals and name.lstrip("+") == _SETTING:
            folders += (_folder(_SETTING, place) for place in _places(word))
        else:
            rest.append(word)
    return folders, rest


def _folder(name: str, place: str) -> Path:
    path = _package(name, place) if place.startswith("pkg://") else Path(place.removeprefix("file://")).expanduser()
    if not place or not path.is_dir():
        raise UserError(
            f"{name}: got {place!r}, which is not a folder; give one with folders of options, such as model/"
        )
    path = path.absolute()
    if hidden := next((file for file in shipped_options() if (path / file).is_file()), None):
        raise UserError(f"{name}: got {place!r}, whose {hidden} has the name of an option of this program; rename it")
    return path


def _package(name: str, place: str) -> Path:
    """Return the folder of `pkg://package.folder`."""
    module, _, rest = place.removeprefix("pkg://").partition("/")
    try:
        spec = importlib.util.find_spec(module.strip("."))
    except (ImportError, ValueError):
        spec = None
    found = next(iter(spec.submodule_search_locations or []), None) if spec is not None else None
    if found is None:
        raise UserError(f"{name}: got {place!r}, which is no installed package; give a folder, such as file://conf")
    return Path(found, rest)


def _places(word: str) -> Iterator[str]:
    """Read the list of an override of `hydra.searchpath`, interpolations resolved."""
    from omegaconf import OmegaConf

    from lora_scaling.config import check_overrides, friendly_hydra_errors
    from lora_scaling.config.overrides import parse_override

    check_overrides([word])
    with friendly_hydra_errors():
        node = OmegaConf.create({"places": parse_override(word).value()})
        value: Any = OmegaConf.to_container(node, resolve=True)
    places = value["places"]
    for place in places if isinstance(places, list) else [places]:
        if not isinstance(place, str):
            raise UserError(f"{_SETTING}: got {place!r}; give folders, as in {_SETTING}=[file://conf]")
        yield place
