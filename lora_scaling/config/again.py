"""Write the words of a command line that choose a recorded run's model, data and settings again."""

import dataclasses
import functools
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from lora_scaling.config.compose import register_resolvers
from lora_scaling.config.run import device_kind
from lora_scaling.paths import choices, config_dir, presets
from lora_scaling.settings import SETTINGS, value_at, was_pure_bf16
from lora_scaling.workload import ModelShape

_MISSING = object()
# Settings without a column in the table, as `settings_override` gives them.
_WORDS = tuple(setting for setting in SETTINGS if setting.repeat == "words")


def override_columns(record: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the columns `records.row.OVERRIDE_COLUMNS` of a record, as words for a shell; None if unknown."""
    config = record.get("config") or {}
    return {
        "model_override": _model_override(_mapping(config.get("model"))),
        "data_override": _data_override(_mapping(config.get("data"))),
        "settings_override": _settings_override(config, record),
    }


def _model_override(model: Mapping[str, Any]) -> str | None:
    name = model.get("name")
    if name is None:
        return None
    unlisted = "gguf" if model.get("gguf_file") else "shape" if model.get("id") is None else "hub"
    return _group_override("model", name if name in _presets() else unlisted, json.dumps(model))


def _data_override(data: Mapping[str, Any]) -> str | None:
    kind, name = data.get("kind"), data.get("name")
    if kind is None:
        return None
    listed = name in _choices("data") and _yaml(f"data/{name}")["kind"] == kind
    return _group_override("data", str(name if listed else kind), json.dumps(data))


@functools.lru_cache(maxsize=256)
def _group_override(group: str, option: str, section: str) -> str | None:
    """Return the words that choose an option of a group and the settings in which a record's section (as JSON) differs.

    None for a section that contains `${`, because a record is data and nothing in it is resolved.
    """
    from omegaconf import OmegaConf

    if "${" in section or option not in _choices(group):
        return None
    register_resolvers()
    own, listed = json.loads(section), _yaml(f"{group}/{option}")
    if isinstance(own.get("shape"), Mapping) and isinstance(listed.get("shape"), Mapping):
        own["shape"] = _beyond_defaults(own["shape"], listed["shape"])
    # The option will compute its derived settings from those of the record.
    stated = OmegaConf.to_container(OmegaConf.create({group: _overlaid(listed, own)}), resolve=True)
    assert isinstance(stated, dict)
    return " ".join([f"{group}={option}", *_differing(f"{group}.", listed, stated[group], own)])


def _beyond_defaults(shape: Mapping[str, Any], listed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a shape without what the preset leaves out and has all the same, by default."""
    defaults = {field.name: field.default for field in dataclasses.fields(ModelShape)}
    return {name: value for name, value in shape.items() if name in listed or value != defaults.get(name)}


def _overlaid(listed: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return an option with the record's values, except for settings that it computes."""
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
def _presets() -> frozenset[str]:
    return frozenset(presets("model", shipped=True))


@functools.cache
def _choices(group: str) -> frozenset[str]:
    return frozenset(choices(group, shipped=True))


@functools.cache
def _yaml(name: str) -> Mapping[str, Any]:
    """Return the unresolved settings of a file in conf/."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.load(config_dir() / f"{name}.yaml"), resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _settings_override(config: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    """Return the words for the other settings that are not at their defaults; "" if all are."""
    if "group_by_length" not in config:  # work of another program, or no work
        return None
    words = []
    full = value_at(config, "method.name") == "full"
    for name, default in _defaults().items():
        if full and name.startswith("lora."):
            continue
        value = value_at(config, name, _MISSING)
        if value is _MISSING:  # an earlier version did not have it
            value = was_pure_bf16(record) if name == "pure_bf16" else default
        if name == "device":
            value = device_kind(str(value))
        if value != default:
            if "${" in str(value):
                return None
            words.append(f"{name}={_word(value)}")
    return " ".join(words)


@functools.cache
def _defaults() -> Mapping[str, Any]:
    return {setting.name: value_at(_yaml("config"), setting.name) for setting in _WORDS}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _word(value: Any) -> str:
    """Write a value as an override, for a shell."""
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
