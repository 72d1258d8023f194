"""The words of a command line that choose a recorded run's model, data and settings again."""

import functools
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from lora_scaling.config.compose import register_resolvers
from lora_scaling.config.run import device_kind
from lora_scaling.paths import choices, config_dir, presets
from lora_scaling.settings import SETTINGS, value_at

# Settings that a table has no column for, as `settings_override` gives them.
_WORDS = tuple(setting for setting in SETTINGS if setting.repeat == "words")


def override_columns(record: Mapping[str, Any]) -> dict[str, str | None]:
    """The columns `records.row.OVERRIDE_COLUMNS` of a record, as words for a shell; None where that is unknown."""
    config = record.get("config") or {}
    return {
        "model_override": _model_override(_mapping(config.get("model"))),
        "data_override": _data_override(_mapping(config.get("data"))),
        "settings_override": _settings_override(config),
    }


def _model_override(model: Mapping[str, Any]) -> str | None:
    name = model.get("name")
    if name is None:
        return None
    unlisted = "gguf" if model.get("gguf_file") else "shape" if model.get("id") is None else "hub"
    return _group_override("model", name if name in presets("model") else unlisted, json.dumps(model))


def _data_override(data: Mapping[str, Any]) -> str | None:
    kind, name = data.get("kind"), data.get("name")
    if kind is None:
        return None
    listed = name in choices("data") and _yaml(f"data/{name}")["kind"] == kind
    return _group_override("data", str(name if listed else kind), json.dumps(data))


@functools.lru_cache(maxsize=256)
def _group_override(group: str, option: str, section: str) -> str | None:
    """The words that choose an option of a group, and whatever a record's section of it (as JSON) has otherwise.

    None for a section with `${` in its text: a record is data, and nothing in it is resolved.
    """
    from omegaconf import OmegaConf

    if "${" in section or option not in choices(group):
        return None
    register_resolvers()
    own, listed = json.loads(section), _yaml(f"{group}/{option}")
    # What the option computes from its other settings, it will compute from the record's.
    stated = OmegaConf.to_container(OmegaConf.create({group: _overlaid(listed, own)}), resolve=True)
    assert isinstance(stated, dict)
    return " ".join([f"{group}={option}", *_differing(f"{group}.", listed, stated[group], own)])


def _overlaid(listed: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An option with the record's values wherever it computes none."""
    result: dict[str, Any] = {}
    for name, value in listed.items():
        other = own.get(name, value)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            result[name] = _overlaid(value, other)
        else:
            result[name] = value if "${" in str(value) and not isinstance(value, Mapping) else other
    return result


def _differing(
    prefix: str, listed: Mapping[str, Any], stated: Mapping[str, Any], own: Mapping[str, Any]
) -> Iterator[str]:
    for name, value in own.items():
        before = listed.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and value.keys() <= before.keys():
            yield from _differing(f"{prefix}{name}.", before, stated[name], value)
        elif value != (stated.get(name) if "${" in str(before) else before):
            yield f"{prefix}{name}={_word(value)}"


@functools.cache
def _yaml(name: str) -> Mapping[str, Any]:
    """The settings of a file of conf/, unresolved."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.load(config_dir() / f"{name}.yaml"), resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _settings_override(config: Mapping[str, Any]) -> str | None:
    """The words for the further settings that are not at their defaults; "" where all are."""
    if "group_by_length" not in config:  # another program's work, or none
        return None
    words = []
    for setting in _WORDS:
        default = value_at(_yaml("config"), setting.name)
        value = value_at(config, setting.name, default)  # an earlier version did not have it
        if setting.name == "device":
            value = device_kind(str(value))
        if "${" in str(value):
            return None
        if value != default:
            words.append(f"{setting.name}={_word(value)}")
    return " ".join(words)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _word(value: Any) -> str:
    """A value as an override writes it, for a shell."""
    if isinstance(value, Mapping):
        pairs = (
            f'{key}: "{item}"' if isinstance(item, str) else f"{key}: {_word(item)}" for key, item in value.items()
        )
        return shlex.quote(f"{{{', '.join(pairs)}}}")
    if isinstance(value, list):
        return shlex.quote(f"[{','.join(map(str, value))}]")
    if isinstance(value, str):
        return shlex.quote(f'"{value}"' if re.fullmatch(r"[\d_.eE+-]+", value) else value)  # 12e3 may be a revision
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
