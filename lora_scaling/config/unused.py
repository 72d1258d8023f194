"""Refuse settings that the chosen option of their group, or another setting, leaves without effect.

Hydra accepts `model.id=ORG/NAME` beside `model=ladder-1m`: the ladder model would be trained, and recorded under its
own name. Only settings that the user gave are checked; defaults and files may hold what an option ignores.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from lora_scaling.config.overrides import parse_override
from lora_scaling.config.run import RunConfig
from lora_scaling.errors import UserError

Given = Mapping[str, Any]  # setting → value, as dotted names


def given_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the settings and options that overrides give, by dotted name; the last one wins."""
    given: dict[str, Any] = {}
    for override in map(parse_override, overrides):
        if override.is_delete() or override.is_sweep_override():
            continue
        given.update(_flat(override.get_key_element().lstrip("+"), override.value()))
    return given


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and name != "data.fields":
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    else:
        yield name, value


def refuse_unused(config: RunConfig, overrides: Sequence[str], *, methods: Collection[str] = ()) -> None:
    """Refuse a setting among `overrides` that the run they make does not use.

    methods: those of the sweep that the run is part of, to which a setting may have been given.

    Raises:
        UserError: it names the setting, the option of the group, and the option that uses the setting.
    """
    given = given_settings(overrides)
    methods = {config.method.name, *methods}
    for name, value in given.items():
        option, remedy = _unused_by_setting(name, config)
        if remedy is None:
            option = _option(name.partition(".")[0], config, given)
            remedy = _unused_by_option(name, value, config, given, methods)
        if remedy is not None and value is not None:
            shown = str(value).lower() if isinstance(value, bool) else value
            raise UserError(f"{name}: got {shown}; {option} does not use it, {remedy}")


def _option(group: str, config: RunConfig, given: Given) -> str:
    """Write the option that is chosen for a group, as an override."""
    if group in ("lora", "pure_bf16"):
        return f"method={config.method.name}"
    return f"{group}={given.get(group) or getattr(getattr(config, group, None), 'name', None)}"


def _unused_by_option(name: str, value: Any, config: RunConfig, given: Given, methods: Collection[str]) -> str | None:
    """Return what to do about a setting that the chosen option of its group does not use; None if it does."""
    if name == "pure_bf16" and value and "full" not in methods:
        return "its frozen weights are in the precision of the run: use method=full, or leave it out"
    if name.startswith("lora.") and methods == {"full"}:
        return "it trains all weights and has no adapters: use method=lora or qlora, or leave it out"
    if name.startswith("model."):
        return _unused_by_model(name, value, config, given)
    if name.startswith("score.") and config.score.name == "none":
        return "it scores no tasks: use score=lm_eval or score=euroeval"
    if name == "score.command" and config.score.name == "lm_eval":
        return "it runs in this process: use score=euroeval, or leave it out"
    if name.startswith("data."):
        return _unused_by_data(name, value, config)
    return None


def _unused_by_setting(name: str, config: RunConfig) -> tuple[str, str | None]:
    """Return the setting that leaves another without effect, as an override, and what to do; None for the latter if
    it has its effect."""
    if name == "checkpoint_minutes" and config.resume == "never":
        return "resume=never", "it writes no checkpoints: use resume=auto, or leave it out"
    if name == "data.eval_path" and config.eval_samples == 0 and config.data.kind != "synthetic":
        return "eval_samples=0", "it evaluates nothing: give eval_samples, or leave it out"
    if name.startswith("metering.") and name != "metering.enabled" and not config.metering.enabled:
        return "metering.enabled=false", "it measures nothing: leave one of the two out"
    if name == "grid.file" and config.grid.resolved_provider != "file":
        return f"grid.provider={config.grid.provider}", "it reads no file: use grid.provider=file, or leave it out"
    return "", None


def _unused_by_model(name: str, value: Any, config: RunConfig, given: Given) -> str | None:
    model = config.model
    if name == "model.gguf_file" and given.get("model") == "hub":
        return f"it loads model.id: use model=gguf model.gguf_file={value}"
    if name in ("model.id", "model.revision") and model.gguf_file is not None and given.get("model") != "hub":
        return f"it loads {model.gguf_file}: leave it out, or use model=hub"
    if name not in ("model.id", "model.gguf_file", "model.revision"):
        return None
    if model.weights == "pretrained" or model.shape is None or "model.weights" in given:
        return None
    use = {
        "model.id": f"model=hub model.id={value}",
        "model.gguf_file": f"model=gguf model.gguf_file={value}",
        "model.revision": f"model=hub model.id=ORG/NAME model.revision={value}",
    }
    return f"it has random weights of its own shape: use {use[name]}"


def _unused_by_data(name: str, value: Any, config: RunConfig) -> str | None:
    data = config.data
    if data.kind == "file" and name == "data.split":
        return "it reads the whole file: leave it out"
    if data.kind != "synthetic":
        return None
    if name == "data.path":
        return f"its samples are made: use data=file data.path={value}, or data=hub for a set of the hub"
    if name in ("data.eval_path", "data.split", "data.layout", "data.fields", "data.repeat"):
        return "its samples are made: use data=file data.path=PATH, or data=hub for a set of the hub"
    if name == "data.bytes_per_sample" and data.tokens_per_sample is not None:
        return "its samples have a length in tokens: use data.tokens_per_sample"
    return None
