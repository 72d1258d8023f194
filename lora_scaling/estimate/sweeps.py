"""All runs of a sweep as configurations, from the arguments that would start it; their estimates, and the sum."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_scaling.config import RunConfig, check_overrides
from lora_scaling.config.compose import compose_by_hydra
from lora_scaling.config.overrides import parse_override
from lora_scaling.config.sweep import SweepDesign, plan
from lora_scaling.errors import UserError
from lora_scaling.estimate.estimator import Price, estimate
from lora_scaling.estimate.fit_file import Fit
from lora_scaling.estimate.hardware import resolve_hardware
from lora_scaling.estimate.measured import Measured
from lora_scaling.estimate.plan import resolve_precision
from lora_scaling.estimate.priors import DEFAULT_STACK
from lora_scaling.estimate.result import LEVEL, SCHEMA_VERSION, Estimate, Interval
from lora_scaling.paths import choices, config_dir, option_file

# What changes no run: a sweep over it would be the same runs again, of which only the first is kept.
_COMPARED = {"hardware": "gpus", "grid": "zones"}
_EXAMPLES = {"gpus": "gpus:l4,2xh100-sxm", "zones": "zones:DK1,PL"}


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


def estimates_of(
    runs: Sequence[RunConfig],
    *,
    level: float = LEVEL,
    fit: Fit | None = None,
    price: Price | None = None,
    one_process: bool = True,
    stack: str = DEFAULT_STACK,
    measured: Measured | None = None,
) -> list[Estimate]:
    """The estimate of each run, in their order; in one process a model that the run before left is not set up again.

    Raises:
        UserError: a run cannot be estimated.
    """
    found: list[Estimate] = []
    here: str | None = None
    for run in runs:
        run = dataclasses.replace(run, hardware=resolve_hardware(run.hardware, run.device))
        model = _shared_model(run) if one_process else None
        again = model is not None and model == here
        found.append(
            estimate(run, level=level, fit=fit, price=price, reuses_model=again, stack=stack, measured=measured)
        )
        here = model
    return found


def _shared_model(run: RunConfig) -> str | None:
    """What distinguishes the models that a process keeps for its next run; None for one that it does not keep."""
    if not run.shares_base_model:
        return None
    precision = resolve_precision(run, run.hardware.kind, run.hardware.peak_tflops)
    return run.base_model_key(run.device, precision)


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
        UserError: an override cannot be read, a point of the sweep is no run, or what is swept changes no run.
    """
    _refuse_compared(arguments)
    return [run.config for run in plan(_design(arguments), arguments, compose_by_hydra)]


def _refuse_compared(arguments: Sequence[str]) -> None:
    check_overrides(arguments)
    for argument in arguments:
        override = parse_override(argument)
        name = override.get_key_element().lstrip("+~")
        what = _COMPARED.get(name.partition(".")[0])
        if what is not None and override.is_sweep_override():
            raise UserError(
                f"{name}: got {argument.partition('=')[2]} in a sweep, whose runs it does not change: "
                f"estimate them beside each other with compare={what}, or a list such as compare={_EXAMPLES[what]}"
            )


def _design(arguments: Sequence[str]) -> SweepDesign:
    """The sweeper's settings: defaults, overlaid by those of `+sweeps=NAME`."""
    from omegaconf import OmegaConf

    settings = OmegaConf.load(config_dir() / "hydra" / "sweeper" / "design.yaml")
    for argument in arguments:
        key, _, name = argument.partition("=")
        if key.lstrip("+") != "sweeps":
            continue
        path = option_file("sweeps", name)
        if path is None:
            raise UserError(f"sweeps: got {name!r}; choose one of {', '.join(choices('sweeps'))}")
        settings = OmegaConf.merge(settings, OmegaConf.select(OmegaConf.load(path), "hydra.sweeper", default={}))
    values = OmegaConf.to_container(settings)
    assert isinstance(values, dict)
    return SweepDesign(**{str(key): value for key, value in values.items() if key != "_target_"})
