"""Convert between frozen dataclasses and plain mappings, strictly.

An unknown key, a missing key, a wrong type and an impossible choice are each a `UserError` of one sentence.
"""

import contextlib
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from lora_scaling.errors import UserError
from lora_scaling.paths import config_dir

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    """Build a dataclass from a mapping that holds every field, of its type, and nothing else.

    Raises:
        UserError: a key is unknown or missing, or a value has the wrong type. `path` precedes the name of the field.
    """
    hints = _hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise UserError(f"{path}{key}: not a setting; {suggest(str(key), names, listed=ALL_LISTED)}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{path}{missing[0]}: missing; give it a value ({_describe(hints[missing[0]])})")
    return cls(**{key: _convert(value, hints[key], f"{path}{key}") for key, value in values.items()})


def shipped_option(cls: type[T], group: str, name: str) -> T:
    """Build what one of this program's own files of options describes, which refers to no other setting."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.load(config_dir() / group / f"{name}.yaml"), resolve=True)
    assert isinstance(values, dict)
    return build(cls, {str(key): value for key, value in values.items()}, f"{group}.")


class Interpolated(str):
    """A text that an interpolation gave, such as `${oc.env:N}`: it may stand for a number, a truth value or null."""

    def literal(self) -> Any:
        words = {"true": True, "false": False, "null": None}
        if self.lower() in words:
            return words[self.lower()]
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(self)
        return str(self)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def with_values(made: T, values: Mapping[str, Any], path: str = "") -> T:
    """Return a dataclass with other values of the fields with these dotted names, checked as `build` does.

    Raises:
        UserError: a value has the wrong type.
        KeyError: a name is not that of a field.
    """
    hints = _hints(type(made))
    own = {name: _convert(value, hints[name], f"{path}{name}") for name, value in values.items() if "." not in name}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if "." in name:
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = value
    for group, inner in groups.items():
        if not dataclasses.is_dataclass(part := getattr(made, group, None)):
            raise KeyError(group)
        own[group] = with_values(part, inner, f"{path}{group}.")
    return dataclasses.replace(made, **own)  # type: ignore[type-var]


def _convert(value: Any, hint: Any, path: str) -> Any:
    if isinstance(value, Interpolated):
        try:
            return _convert(str(value), hint, path)
        except UserError:
            return _convert(value.literal(), hint, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        failure: UserError | None = None
        for option in arguments:
            if option is type(None):
                continue
            try:
                return _convert(value, option, path)
            except UserError as error:
                failure = error if failure is None or dataclasses.is_dataclass(option) else failure
        if sum(option is not type(None) for option in arguments) == 1 and failure is not None:
            raise failure
        raise _wrong(value, hint, path)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        same = [str(a) for a in arguments if _plain(str(a)) == _plain(str(value))]  # BF16
        raise UserError(f"{path}: got {value!r}; {did_you_mean(same)}choose one of {', '.join(map(str, arguments))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(item, arguments[0], f"{path}[{i}]") for i, item in enumerate(value))
    if origin is not None and isinstance(value, dict) and issubclass(origin, Mapping):
        return {str(key): _convert(item, arguments[1], f"{path}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value, f"{path}.")  # type: ignore[arg-type]
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            digits = str(value)
            raise UserError(f"{path}: got {digits[:6]}… ({len(digits)} digits); give a smaller number") from None
        if not math.isfinite(number):
            raise UserError(f"{path}: got {value}; give a finite number")
        return number
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise _wrong(value, hint, path)


_THOUSANDS = re.compile(r"(\d{1,6}(?:\.\d{1,6})?) ?([kKmM])")
_SCALES = {"k": 1_000, "m": 1_000_000}


def _wrong(value: Any, hint: Any, path: str) -> UserError:
    written = ""
    if dataclasses.is_dataclass(hint):
        parts = ", ".join(f"{path}.{field.name}" for field in dataclasses.fields(hint))
        return UserError(f"{path}: got {value!r}, and is a group; give one of its settings: {parts}")
    whole = "whole number" in _describe(hint)
    if isinstance(value, float) and value.is_integer() and whole:  # 1e4 is no whole number
        written = f", written {int(value)}"
    elif isinstance(value, str) and whole and (said := _THOUSANDS.fullmatch(value)):
        written = f", written {round(float(said[1]) * _SCALES[said[2].lower()])}"
    return UserError(f"{path}: got {value!r}; give {_describe(hint)}{written}")


def _describe(hint: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        type(None): "null",
    }
    if hint in names:
        return names[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(a) for a in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        return f"a list, each {_describe(arguments[0])}"
    return "a group of settings"


def plain(value: Any) -> Any:
    """Convert dataclasses, mappings and sequences to plain JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def _plain(name: str) -> str:
    """Return a name without what people write differently: case, dashes and the like."""
    return "".join(filter(str.isalnum, name.lower()))


def close_names(given: str, allowed: Sequence[str]) -> list[str]:
    """Return the names that the user may have meant; those that contain the given one come first."""
    plain = {name: _plain(name) for name in allowed}
    wanted = _plain(given)
    alike = [name for name in allowed if plain[name] == wanted]
    containing = [name for name in allowed if len(wanted) > 1 and wanted in plain[name]]
    close = difflib.get_close_matches(given.lower(), allowed, n=3, cutoff=0.6)
    return alike or list(dict.fromkeys([*containing, *close]))[:3]


def did_you_mean(names: Sequence[str]) -> str:
    """Ask whether one of these names is meant, before those that are allowed; nothing if there are none."""
    return f"did you mean {' or '.join(names)}? " if names else ""


_MOST_LISTED = 12  # names beside a guess: more would hide it
ALL_LISTED = "lora-scaling --help lists all"


def suggest(given: str, allowed: Sequence[str], *, listed: str | None = None) -> str:
    """Suggest what the user may have meant, for the end of an error.

    listed: where all names are listed, which is named in place of a long list if there is a guess.
    """
    return guess(close_names(given, allowed), allowed, listed=listed)


def guess(names: Sequence[str], allowed: Sequence[str], *, listed: str | None = None) -> str:
    """Ask whether one of these names is meant, and say which are allowed, as in `suggest`."""
    if names and listed is not None and len(allowed) > _MOST_LISTED:
        return f"{did_you_mean(names)}{listed}"
    return f"{did_you_mean(names)}Allowed: {', '.join(allowed)}"
