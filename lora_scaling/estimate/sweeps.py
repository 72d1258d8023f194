"""All runs of a sweep as configurations, from the same arguments that would start it; and the sum of their estimates.

Composing one configuration takes Hydra some 70 ms, so runs that differ only in single settings share a composition.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import RunConfig, friendly_hydra_errors, from_omegaconf, run_id
from ..errors import UserError
from ..paths import choices, config_dir, sweeps_dir
from .answer import SCHEMA_VERSION, Estimate, Interval


@dataclass(frozen=True, kw_only=True)
class Total:
    """The sum over a sweep. Errors are taken to go together (the same priors), so interval ends are added."""

    runs: int
    time_s: Interval | None
    energy_kwh: Interval | None
    emissions_g: Interval | None
    cost: Interval | None
    peak_memory_gb: float
    not_fitting: int
    unknown: int

    def to_dict(self) -> dict[str, Any]:
        figures = {name: getattr(self, name) for name in ("time_s", "energy_kwh", "emissions_g", "cost")}
        return {
            "schema_version": SCHEMA_VERSION,
            "runs": self.runs,
            **{name: None if figure is None else figure.to_dict() for name, figure in figures.items()},
            "peak_memory_gb": self.peak_memory_gb,
            "runs_not_fitting": self.not_fitting,
            "runs_unknown": self.unknown,
        }


def total_of(estimates: Sequence[Estimate]) -> Total:
    """Add up the estimates of a sweep; a figure that is unknown for any run is unknown in the sum."""
    return Total(
        runs=len(estimates),
        time_s=_sum([e.time_s for e in estimates]),
        energy_kwh=_sum([e.energy_kwh for e in estimates]),
        emissions_g=_sum([e.emissions_g.grams if e.emissions_g else None for e in estimates]),
        cost=_sum([e.cost for e in estimates]),
        peak_memory_gb=max((e.memory.peak_gb.estimate for e in estimates), default=0.0),
        not_fitting=sum(e.memory.fits is False for e in estimates),
        unknown=sum(e.energy_kwh is None for e in estimates),
    )


def _sum(figures: Sequence[Interval | None]) -> Interval | None:
    total = Interval(estimate=0.0, low=0.0, high=0.0)
    for figure in figures:
        if figure is None:
            return None
        total = total.plus(figure)
    return total


def expand(arguments: Sequence[str]) -> list[RunConfig]:
    """The configurations of every run of the sweep, replicates and centre points included, each once.

    Raises:
        UserError: an override cannot be read, or a point of the sweep is no run.
    """
    from ..sweep import shuffled, with_centre

    sweeper = _sweep_file(arguments)
    params = [f"{key}={value}" for key, value in sweeper["params"].items()]
    with friendly_hydra_errors():
        points = [*_combinations([*params, *arguments]), *_extra(arguments, sweeper["extra"])]
        composer = _Composer()
        first = composer.config(points[0])
        ordered = shuffled(points, replicates=first.replicates, seed=first.order_seed)
        ordered = with_centre(ordered, points[0], sweeper["centre"], sweeper["centre_every"], first.replicates)
        runs: dict[str, RunConfig] = {}
        for point in ordered:
            config = composer.config(point)
            runs.setdefault(run_id(config), config)
    return list(runs.values())


def _sweep_file(arguments: Sequence[str]) -> dict[str, Any]:
    """The sweeper's settings: defaults, overlaid by those of `+sweeps=NAME`."""
    from omegaconf import OmegaConf

    settings = OmegaConf.load(config_dir() / "hydra" / "sweeper" / "design.yaml")
    for argument in arguments:
        key, _, name = argument.partition("=")
        if key.lstrip("+") != "sweeps":
            continue
        path = sweeps_dir() / f"{name}.yaml"
        if not path.is_file():
            raise UserError(f"`sweeps` was {name!r}; choose one of {', '.join(choices('sweeps'))}")
        settings = OmegaConf.merge(settings, OmegaConf.load(path).get("hydra", {}).get("sweeper", {}))
    values = OmegaConf.to_container(settings)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _parse(overrides: Sequence[str]) -> list[Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(list(overrides))


def _combinations(overrides: Sequence[str]) -> list[list[str]]:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    [points] = BasicSweeper.split_arguments(_parse(overrides), None)
    return [list(point) for point in points]


def _extra(arguments: Sequence[str], extra: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Further points, on top of what the command line fixes."""
    fixed = [o.input_line for o in _parse(arguments) if not o.is_sweep_override()]
    for point in extra:
        yield [*fixed, *point]


class _Composer:
    """Composes once for each choice of groups, and sets single values on copies of that."""

    def __init__(self) -> None:
        self.composed: dict[tuple[str, ...], Any] = {}

    def config(self, overrides: Sequence[str]) -> RunConfig:
        import copy

        from omegaconf import OmegaConf

        groups, values = [], []
        for override in _parse(overrides):
            key = override.get_key_element()
            simple = key[0] not in "+~" and not (config_dir() / key).is_dir()
            if simple and not key.startswith("hydra."):
                values.append(override)
            else:
                groups.append(override.input_line)
        chosen = tuple(groups)
        if chosen not in self.composed:
            self.composed[chosen] = self._compose([*chosen, *(o.input_line for o in values)])
        node = copy.deepcopy(self.composed[chosen])
        for override in values:
            OmegaConf.update(node, override.get_key_element(), override.value())
        return from_omegaconf(node)

    def _compose(self, overrides: Sequence[str]) -> Any:
        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        from ..config import register_plugins

        register_plugins()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose("config", list(overrides))
