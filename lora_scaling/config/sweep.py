"""The runs of a sweep, from the arguments that start it: every combination × replicates, in their order, each once.

Composing one configuration takes Hydra some 70 ms, so points that differ only in single settings share a composition.
"""

import contextlib
import copy
import functools
import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_scaling.config import (
    RunConfig,
    check_overrides,
    friendly_hydra_errors,
    from_omegaconf,
    refuse_unused,
    run_id,
)
from lora_scaling.config.build import with_values
from lora_scaling.config.overrides import parse_override
from lora_scaling.errors import UserError
from lora_scaling.paths import choices, is_group
from lora_scaling.records import finished_record, record_path
from lora_scaling.records.schema import RunRecord

# From overrides to a composed OmegaConf node.
Compose = Callable[[list[str]], Any]


@dataclass(frozen=True, kw_only=True)
class SweepDesign:
    """What a sweep varies (`hydra.sweeper` of the YAML).

    params: override → comma-separated levels; the command line wins over them.
    extra: further points, each a list of overrides on top of what the command line fixes.
    centre: overrides of a point that is repeated every `centre_every` runs to reveal drift; none if empty.
    """

    params: dict[str, Any] = field(default_factory=dict)
    extra: list[list[str]] = field(default_factory=list)
    centre: list[str] = field(default_factory=list)
    centre_every: int = 6


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a sweep: the overrides that make it, its configuration and its name."""

    overrides: tuple[str, ...]
    config: RunConfig
    run_id: str

    @property
    def record_path(self) -> Path:
        """Where its record is, or will be."""
        return record_path(self.config.runs_dir, self.config.study, self.run_id)

    def kept_record(self) -> RunRecord | None:
        """Read the record of a finished run that may be kept; None without one."""
        return finished_record(self.record_path) if self.config.on_existing == "skip" else None


def plan(design: SweepDesign, arguments: Sequence[str], compose: Compose) -> list[PlannedRun]:
    """All runs of the sweep in the order in which they are to be made, the same at every start.

    Raises:
        UserError: an override cannot be read, or a point of the sweep is no run.
    """
    check_overrides(arguments)
    with friendly_hydra_errors():
        _refuse_replicate(design, arguments)
        points = _points(design, arguments)
        composer = _Composer(compose)
        first = composer.config(points[0])
        ordered = shuffled(points, replicates=first.replicates, seed=first.order_seed)
        ordered = with_centre(ordered, points[0], design.centre, design.centre_every, first.replicates)
        runs: dict[str, PlannedRun] = {}
        configs = [composer.config(point) for point in ordered]
        methods = {config.method.name for config in configs}
        for point, config in zip(ordered, configs, strict=True):
            refuse_unused(config, point, methods=methods)
            if config.model.shape is not None:
                config.tuning.trainable_params(config.model.shape)  # a rank that does not fit is found here
            name = run_id(config)
            if name not in runs:  # several ranks of method=full are one run: it has none
                overrides = (*point, f"order={len(runs)}")
                runs[name] = PlannedRun(overrides=overrides, config=config, run_id=name)
    return list(runs.values())


def shuffled(points: Sequence[Sequence[str]], *, replicates: int, seed: int) -> list[list[str]]:
    """Replicates as blocks that each hold every point once, in an order drawn anew for each block."""
    ordered: list[list[str]] = []
    for replicate in range(replicates):
        block = [[*point, f"replicate={replicate}"] for point in points]
        random.Random(f"{seed}/{replicate}").shuffle(block)
        ordered += block
    return ordered


def with_centre(
    ordered: list[list[str]], first: Sequence[str], centre: Sequence[str], every: int, replicates: int
) -> list[list[str]]:
    """The order with a centre point at every `every`-th place, its replicates numbered after the design's own."""
    if not centre:
        return ordered
    swept = {text.partition("=")[0] for text in centre}
    fixed = [text for text in first if text.partition("=")[0] not in swept]
    numbers = itertools.count(replicates)
    result: list[list[str]] = []
    for place, run in enumerate(ordered):
        if place % every == 0:
            result.append([*fixed, *centre, f"replicate={next(numbers)}"])
        result.append(run)
    return result


def _points(design: SweepDesign, arguments: Sequence[str]) -> list[list[str]]:
    """The full factorial of what is swept, then the extra points on top of what the command line fixes."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    swept = [parse_override(f"{key}={value}") for key, value in design.params.items()]
    swept += map(parse_override, arguments)
    for override in swept:
        _check_sweep(override)
    [points] = BasicSweeper.split_arguments(swept, None)
    fixed = [override.input_line for override in map(parse_override, arguments) if not override.is_sweep_override()]
    return [list(point) for point in points] + [[*fixed, *point] for point in design.extra]


def _check_sweep(override: Any) -> None:
    """Raise UserError for a pattern that matches no option, and for what this sweeper cannot sweep over."""
    from hydra.core.override_parser.types import Glob, IntervalSweep

    key, _, given = str(override.input_line).partition("=")
    value = override.value()
    if isinstance(value, Glob) and not list(override.sweep_iterator()):
        raise UserError(f"{key}: got {given}, which matches none; choose among {', '.join(choices(key.lstrip('+')))}")
    if isinstance(value, IntervalSweep):
        raise UserError(f"{key}: got {given}, from which hydra/sweeper=optuna draws; give values, or range(1,9,2)")


def _refuse_replicate(design: SweepDesign, arguments: Sequence[str]) -> None:
    """Raise where a repetition is numbered by hand: the sweep numbers them, and another run would be made."""
    given = [*(f"{key}={value}" for key, value in design.params.items()), *arguments, *design.centre]
    for override in map(parse_override, [*given, *itertools.chain.from_iterable(design.extra)]):
        if override.get_key_element() == "replicate":
            value = str(override.input_line).partition("=")[2]
            raise UserError(f"replicate: got {value} in a sweep, which numbers its repetitions; use replicates=3")


class _Composer:
    """Composes once for each choice of groups and names of settings, and sets single values on copies of that."""

    def __init__(self, compose: Compose) -> None:
        self.compose = compose
        self.composed: dict[tuple[str, ...], _Composition] = {}
        self.is_group = functools.cache(is_group)  # which looks into folders

    def config(self, overrides: Sequence[str]) -> RunConfig:
        groups, values = [], []
        for override in map(parse_override, overrides):
            key = override.get_key_element()
            simple = key[0] not in "+~" and not key.startswith("hydra.") and not self.is_group(key)
            # A mapping joins what is there: the one of another point must not be.
            simple = simple and not isinstance(override.value(), dict)
            (values if simple else groups).append(override)
        chosen = tuple(override.input_line for override in groups)
        # Every value that a composition holds must be one that each of its points sets anew.
        alike = (*chosen, *sorted(override.get_key_element() for override in values))
        if alike not in self.composed:
            self.composed[alike] = _Composition(self.compose([*chosen, *(override.input_line for override in values)]))
        return self.composed[alike].with_values({override.get_key_element(): override.value() for override in values})


class _Composition:
    """What Hydra composed for one point, from which points that differ in single values follow."""

    def __init__(self, node: Any) -> None:
        from omegaconf import OmegaConf

        self.node = node
        self.first = from_omegaconf(node)
        computed = " ".join(_texts(OmegaConf.to_container(node, resolve=False)))
        self.names = frozenset(re.findall(r"\w+", computed))
        self.paths = frozenset(re.findall(r"[\w.]+", computed))

    def with_values(self, values: Mapping[str, Any]) -> RunConfig:
        """Return the configuration with these values; OmegaConf sets those from which others are computed."""
        plain = all(
            type(value) in (bool, int, float, str, type(None)) and "${" not in str(value) for value in values.values()
        )
        if plain and not any(map(self._is_computed_from, values)):
            with contextlib.suppress(UserError, KeyError):  # of which OmegaConf's way says what is wrong
                return with_values(self.first, values)
        from omegaconf import OmegaConf

        node = copy.deepcopy(self.node)
        for key, value in values.items():
            OmegaConf.update(node, key, value)
        return from_omegaconf(node)

    def _is_computed_from(self, key: str) -> bool:
        """Return whether other settings may be computed from this one, or from a group that holds it."""
        *groups, name = key.split(".")
        return name in self.names or any(path in self.paths for path in itertools.accumulate(groups, "{}.{}".format))


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of a composition that computes something from other settings."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "hydra":
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str) and "${" in value:
        yield value
