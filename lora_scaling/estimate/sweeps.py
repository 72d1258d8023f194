"""All runs of a sweep as configurations, from the arguments that would start it; and the sum of their estimates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config import RunConfig, register_plugins
from ..errors import UserError
from ..paths import choices, config_dir, sweeps_dir
from ..planning import Design, plan
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
    return [run.config for run in plan(_design(arguments), arguments, _compose)]


def _compose(overrides: list[str]) -> Any:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_plugins()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", overrides)


def _design(arguments: Sequence[str]) -> Design:
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
        settings = OmegaConf.merge(settings, OmegaConf.select(OmegaConf.load(path), "hydra.sweeper", default={}))
    values = OmegaConf.to_container(settings)
    assert isinstance(values, dict)
    return Design(**{str(key): value for key, value in values.items() if key != "_target_"})
