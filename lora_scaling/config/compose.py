"""Compose a configuration from YAML and overrides. Outside the command line, only this module knows Hydra."""

import contextlib
import copy
import dataclasses
import functools
import importlib.util
import itertools
import os
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from lora_scaling.config.build import ALL_LISTED, Interpolated, build, close_names, did_you_mean, suggest
from lora_scaling.config.elsewhere import not_a_setting
from lora_scaling.config.overrides import parse_override
from lora_scaling.config.run import RunConfig
from lora_scaling.config.unused import refuse_unused
from lora_scaling.errors import UserError
from lora_scaling.paths import choices, config_dir, config_root, is_group, sweeps_dir, user_folders


def compose(
    overrides: Sequence[str],
    *,
    config_name: str = "config",
    given: Sequence[str] | None = None,
    methods: Sequence[str] = (),
) -> RunConfig:
    """Compose the configuration that the command line with these overrides would run.

    given: those of the overrides that the user gave, if not all of them; none of these may be unused.
    methods: further methods for which the configuration will be taken, and a setting may have been given.

    Raises:
        UserError: an override cannot be read, does not name a setting, has a value that is not allowed, or sets what
            the chosen option of its group does not use.
    """
    check_overrides(overrides)
    with friendly_hydra_errors():
        node = _composed_before(config_name, overrides)
        config = from_omegaconf(compose_by_hydra(overrides, config_name) if node is None else node)
    refuse_unused(config, overrides if given is None else given, methods=methods)
    return config


def compose_by_hydra(overrides: Sequence[str], config_name: str = "config") -> Any:
    """Have Hydra compose these overrides to an OmegaConf node, which takes some 70 ms."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_plugins()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(config_name, list(overrides))


def _composed_before(config_name: str, overrides: Sequence[str]) -> Any:
    """Set single values on a copy of what Hydra composed for the same choices of groups, as it would do itself.

    Returns:
        None: an override is neither a choice nor a value, or cannot be set; what Hydra says of it is the answer.
    """
    from hydra.core.override_parser.types import OverrideType
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    choices_made, values = [], []
    for override in map(parse_override, overrides):
        key, value = override.key_or_group, override.value()
        if override.package is not None or override.is_sweep_override():
            return None
        if is_group(key):
            if override.is_delete() or not isinstance(value, str) or "${" in value:
                return None
            choices_made.append(override.input_line)
        elif override.type is OverrideType.CHANGE and key in setting_names():
            values.append((key, value))
        else:
            return None
    node = copy.deepcopy(
        _choices_composed(config_name, tuple(choices_made), (config_dir(), *user_folders()), _last_change())
    )
    try:
        for key, value in values:
            OmegaConf.update(node, key, value, merge=True)
    except OmegaConfBaseException:
        return None
    return node


@functools.lru_cache(maxsize=128)
def _choices_composed(
    config_name: str, choices_made: tuple[str, ...], folders: tuple[Path, ...], last_change: int
) -> Any:
    """Compose these choices of groups, without Hydra's own section. Kept until a file in `folders` changes."""
    from omegaconf import OmegaConf

    composed = compose_by_hydra(choices_made, config_name)
    own = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
    OmegaConf.set_struct(own, True)  # a name that is no setting stays an error
    return own


def _last_change() -> int:
    """Return when a YAML file was last written, added or removed (ns)."""
    tops = [config_dir(), *user_folders()]
    folders = [*tops, sweeps_dir(), *(path for top in tops for path in top.iterdir() if path.is_dir())]
    entries = [entry for folder in folders for entry in (folder, *os.scandir(folder))]
    return max(entry.stat().st_mtime_ns for entry in entries if Path(entry).exists())  # not links to nowhere


_FILES = ("experiment", "sweeps")  # groups of files that hold overrides, of which one is chosen
_LONGEST = 4000  # characters of an override


def check_overrides(overrides: Sequence[str]) -> None:
    """Check that each override is `name=value` in Hydra's grammar, which lets a nameless one pass and fails later.

    Raises:
        UserError: one of them is not.
    """
    for word in overrides:
        if len(word) > _LONGEST:  # Hydra fails on numbers of more digits than Python reads
            name = word.partition("=")[0][:40]
            raise UserError(f"{name}: got {len(word):,} characters; give at most {_LONGEST:,}")
    _check_spaces(overrides)
    with friendly_hydra_errors():
        for override in map(parse_override, overrides):
            if not override.key_or_group:
                raise UserError(f"{override.input_line}: names no setting; write name=value, such as samples=64")
            value = override.value()
            if isinstance(value, str):
                _check_plugin(override.key_or_group, value)
            elif override.is_delete() and value is not None and is_group(override.key_or_group):  # Hydra fails on it
                raise UserError(f"{override.input_line}: cannot be read; write ~{override.key_or_group}")
            if override.is_sweep_override() or override.is_delete() or not is_group(override.key_or_group):
                continue
            if not isinstance(value, str if override.key_or_group in _FILES else (str, list, dict)):
                text = (override.input_line or "").partition("=")[2]
                allowed = choices(override.key_or_group)
                near = close_names(text, allowed) if isinstance(value, (int, float)) else ()  # hardware=4090
                remedy = f"{did_you_mean(near)}{ALL_LISTED}" if near else f"choose one of {', '.join(allowed)}"
                raise UserError(f"{override.key_or_group}: got {text}; {remedy}")


def _check_spaces(words: Sequence[str]) -> None:
    """Raise UserError where spaces around `=` have cut an override into words."""
    for place, (word, after) in enumerate(itertools.pairwise([*words, ""])):
        before = words[place - 1] if place else ""
        name = word.removesuffix("=") or before
        if word == "=" and before and after:
            value = after
        elif word.startswith("=") and len(word) > 1 and before and "=" not in before:
            name, value = before, word[1:]
        elif word.endswith("=") and after and "=" not in after:
            value = after
        else:
            continue
        raise UserError(f"{name}: got spaces around =; write {name}={value}")


# Hydra's launchers and sweepers that come with packages of their own, and how these are installed.
_SLURM = ("hydra_plugins.hydra_submitit_launcher", "'lora-scaling[slurm]'")
_PLUGINS = {
    ("hydra/launcher", "slurm_local"): _SLURM,
    ("hydra/launcher", "submitit_slurm"): _SLURM,
    ("hydra/launcher", "submitit_local"): _SLURM,
    ("hydra/launcher", "joblib"): ("hydra_plugins.hydra_joblib_launcher", "'lora-scaling[joblib]'"),
    ("hydra/launcher", "ray"): ("ray", "'lora-scaling[ray]'"),
    ("hydra/sweeper", "optuna"): ("hydra_plugins.hydra_optuna_sweeper", "'lora-scaling[optuna]'"),
    ("hydra/sweeper", "ax"): ("hydra_plugins.hydra_ax_sweeper", "hydra-ax-sweeper"),
    ("hydra/sweeper", "nevergrad"): ("hydra_plugins.hydra_nevergrad_sweeper", "hydra-nevergrad-sweeper"),
}


def _plugins(group: str) -> list[str]:
    """List what the packages of Hydra's plugins add to a group, and what Hydra has itself."""
    return ["basic"] * (group in ("hydra/launcher", "hydra/sweeper")) + [name for of, name in _PLUGINS if of == group]


def _check_plugin(group: str, name: str) -> None:
    """Raise UserError for a launcher or sweeper whose package is not installed."""
    if missing := _missing_plugin(group, name):
        raise UserError(missing)


def _missing_plugin(group: str, name: str) -> str | None:
    """Say that the package of a launcher or sweeper is not installed, and how to install it; None if all is there."""
    if (group, name) not in _PLUGINS:
        return None
    module, package = _PLUGINS[group, name]
    with contextlib.suppress(ModuleNotFoundError, ValueError):  # of the namespace that all of Hydra's plugins share
        if importlib.util.find_spec(module) is not None:
            return None
    return f"{group}: got {name}, which is not installed; pip install {package}"


def check_launcher(target: str) -> None:
    """Raise UserError for a launcher, named by its class, whose package is not installed: a file may have chosen it."""
    for (group, name), (module, _) in _PLUGINS.items():
        if target.startswith(f"{module}."):
            _check_plugin(group, name)


def is_single_value(word: str) -> bool:
    """Return whether a word is an override of one value in Hydra's grammar: no function of it, and no list to sweep."""
    from hydra.errors import HydraException

    if len(word) > _LONGEST:
        return False
    try:
        return not parse_override(word).is_sweep_override()
    except HydraException:
        return False


def register_plugins() -> None:
    """Tell Hydra where `sweeps/` is, and OmegaConf the functions that the YAML uses."""
    from hydra.core.plugins import Plugins

    Plugins.instance().register(_sweeps_search_path())
    register_resolvers()


@functools.cache  # Hydra searches the folder once for each class that names it, and would know one more each time
def _sweeps_search_path() -> type[Any]:
    """Return the plugin that adds the folder of `sweeps/`, and those of the user, to Hydra's search path."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class SweepsSearchPath(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in (config_root(), *user_folders()):
                search_path.append("lora_scaling", f"file://{folder}")

    return SweepsSearchPath


def register_resolvers() -> None:
    """Register the functions that the YAML uses: file_stem and div."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("file_stem", lambda path: PurePath(str(path)).stem, replace=True)
    OmegaConf.register_new_resolver("div", lambda a, b: a // b, replace=True)


def from_omegaconf(node: Any) -> RunConfig:
    """Build the dataclasses from a composed OmegaConf node (its `hydra` section, if any, is ignored)."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    own = OmegaConf.masked_copy(node, [key for key in node if key != "hydra"]) if "hydra" in node else node
    try:
        values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if missing := re.search(r"Missing mandatory value: ([\w.]+)", str(error)):
            raise UserError(f"{missing[1]}: missing; give it a value, {missing[1]}=…") from None
        if variable := re.search(r"Environment variable '([^']+)' not found", str(error)):
            raise UserError(f"{error.full_key}: got ${{oc.env:{variable[1]}}}, which is not set; export it") from None
        raise UserError(f"{error.full_key}: no value: {_first_line(error)}") from None
    assert isinstance(values, dict)
    for key in values:
        if key not in _fields():
            raise UserError(_not_a_setting(str(key)))
    return build(RunConfig, {str(key): _marked(own, key, value) for key, value in values.items()}, "")


def _marked(parent: Any, key: Any, value: Any) -> Any:
    """Return the value of a node with the texts that interpolations gave marked as such."""
    from omegaconf import OmegaConf

    if OmegaConf.is_interpolation(parent, key):
        return Interpolated(value) if isinstance(value, str) else value
    if isinstance(value, dict):
        node = parent._get_node(key)
        return {name: _marked(node, name, item) for name, item in value.items()}
    return value


@contextlib.contextmanager
def friendly_hydra_errors() -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors about overrides into a `UserError` of one sentence."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error)) from None


def _explain(error: BaseException) -> str:
    from hydra.errors import OverrideParseException

    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if several := re.search(r"Ambiguous value for argument '([^=']+)=(.*?)' 1\.", text):
        key, values = several.groups()
        if re.fullmatch(r"\d{1,3}(,\d{3})+", values):
            return f"{key}: got {values}; write {values.replace(',', '')} for one number, or -m for a sweep"
        return f"{key}: got {values}; give one value, [{values}] for a list, or -m for a sweep over them"
    if sweep := re.search(r"Sweep parameters '([^']+)' requires? --multirun", text):
        key, _, values = sweep[1].partition("=")
        return f"{key}: got {values}, which is a sweep; add -m, or give one value"
    if absent := re.search(r"Could not delete (?:from config\. )?'([^']+)'", text):
        return f"~{absent[1]}: names nothing that could be deleted; leave it out"
    if other := re.search(r"Could not delete from config. The value of '([^']+)' is (.*) and not ", text):
        return f"~{other[1]}: got another value than the {other[2]} that it has; write ~{other[1]}"
    if taken := re.search(r"Could not append to config\. An item is already at '([^']+)'\. .*?: '([^']+)'", text):
        return f"{taken[1]}: got + before it, and has a value already; write {taken[2]}"
    if chosen := re.search(r"Multiple values for (\S+)\. To override a value use 'override \S+: (.*?)'", text):
        return f"{chosen[1]}: got + before it, and is chosen already; write {chosen[1]}={chosen[2]}"
    if missing := re.search(r"Could not find '([^']+)'", text):
        return _no_choice(missing[1])
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", text) or re.search(
        r"Could not override '([^']+)'", text
    )
    if unknown:
        full = re.search(r"Could not override '([^']+)'", text)
        key = (full or unknown).group(1)
        return _not_a_setting(key)
    return text


def _no_choice(path: str) -> str:
    """Say that a group has no such option, and which setting takes what was given in its place."""
    groups = (group for group in _groups() if path.startswith(f"{group}/"))
    group = max(groups, key=len, default=path.partition("/")[0])
    name = path.removeprefix(f"{group}/")
    given = f"{group}: got {name!r}"
    if missing := _missing_plugin(group, name):
        return missing
    if group == "model" and name.lower().endswith(".gguf"):
        return f"{given}, a file; write model.gguf_file={name} beside the preset of its shape, or model=gguf"
    if group == "model" and "/" in name:
        return f"{given}, which names a checkpoint or a folder; write model=hub model.id={name}"
    if group == "data" and PurePath(name).suffix.lower() in _DATA_FILES:
        return f"{given}, a file; write data=file data.path={name}"
    if group == "data" and "/" in name:
        return f"{given}, which names a data set of the hub; write data=hub data.path={name}"
    if group == "method" and name.lower() == "dora":
        return f"{given}; write method=lora lora.use_dora=true"
    known = list(dict.fromkeys([*choices(group), *_plugins(group)]))
    return f"{given}; {suggest(name, known, listed=ALL_LISTED)}"


def _groups() -> list[str]:
    """List the groups of files, Hydra's own among them."""
    return [*_FILES, *(p.relative_to(config_dir()).as_posix() for p in config_dir().rglob("*") if p.is_dir()),
            *(p.name for folder in user_folders() for p in folder.iterdir() if p.is_dir()),
            "hydra/launcher", "hydra/sweeper"]  # fmt: skip


_DATA_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz", ".txt")


def _fields() -> list[str]:
    return [field.name for field in dataclasses.fields(RunConfig)]


def _not_a_setting(key: str) -> str:
    return not_a_setting(key, setting_names(), _fields())


@functools.cache
def setting_names() -> tuple[str, ...]:
    """Return all settings and groups of settings, as dotted names."""
    return tuple(_names(RunConfig))


def _names(cls: type, prefix: str = "") -> Iterator[str]:
    """Yield every setting below this dataclass, as a dotted name."""
    for field, hint in typing.get_type_hints(cls).items():
        yield f"{prefix}{field}"
        for option in (hint, *typing.get_args(hint)):  # a group may be null
            if dataclasses.is_dataclass(option) and isinstance(option, type):
                yield from _names(option, f"{prefix}{field}.")


def _unreadable(override: str) -> str:
    if override and "=" not in override:
        return f"{override}: no value; write name=value, such as samples=64"
    name, _, value = override.partition("=")
    if missing := _unclosed(value):
        return f"{override}: cannot be read; {missing} is not closed"
    if re.fullmatch(r"[\w.+@-]+", name) and value.strip() == value and not re.search(r"""["'\[\]{}]""", value):
        # Hydra reads a path such as ~/data or /data/træning only in quotation marks.
        return f"""{override}: cannot be read; quote the value: '{name}="{value}"'"""
    return (
        f"{override}: cannot be read; write name=value without spaces around =, "
        """and quote a value with spaces or brackets of its own: 'name="a value"'"""
    )


def _unclosed(text: str) -> str | None:
    """Return the first bracket of a value that is not closed, or is not opened; None if all are."""
    pairs = {")": "(", "]": "[", "}": "{"}
    opened: list[str] = []
    for sign in text:
        if sign in pairs.values():
            opened.append(sign)
        elif sign in pairs and (not opened or opened.pop() != pairs[sign]):
            return None  # closed, but never opened: quoted, it may be text
    return opened[-1] if opened else None


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]
