"""Define the result of an estimate: figures with intervals, their basis, and the assumptions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lora_scaling import templates
from lora_scaling.text import ENERGY, MASS, MEMORY, MONEY, POWER, TIME, Quantity
from lora_scaling.units import GB_PER_GIB
from lora_scaling.workload import MemoryUse

SCHEMA_VERSION = 1
LEVEL = 0.9  # the default interval level
# Parts of the peak memory, in the order of the answer; `MemoryUse` explains them.
MEMORY_PARTS = tuple(part.name for part in fields(MemoryUse))


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A median with the ends of its interval."""

    estimate: float
    low: float
    high: float

    @classmethod
    def lognormal(cls, estimate: float, log_sd: float, z: float) -> "Interval":
        """Build an interval of ±z standard deviations of the logarithm."""
        factor = math.exp(z * log_sd)
        return cls(estimate=estimate, low=estimate / factor, high=estimate * factor)

    def scaled(self, factor: float) -> "Interval":
        return Interval(estimate=self.estimate * factor, low=self.low * factor, high=self.high * factor)

    def plus(self, other: "Interval") -> "Interval":
        """Add a figure whose error is shared: the ends are added, which is the cautious choice."""
        return Interval(estimate=self.estimate + other.estimate, low=self.low + other.low, high=self.high + other.high)

    @property
    def ratio(self) -> float:
        return self.high / self.low if self.low > 0 else math.inf

    def to_dict(self) -> dict[str, float]:
        return {"estimate": self.estimate, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak per device, as the allocator reserves it. fits: None if the memory of the device is unknown.

    allocated_gb: of the tensors alone. parts: GB by purpose.

    remedy: if it does not fit, by how much, and what would make it fit.
    """

    peak_gb: Interval
    available_gb: float | None
    fits: bool | None
    largest_batch: int | None
    shards: int
    parts: Mapping[str, float]
    allocated_gb: float
    remedy: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.peak_gb.to_dict(),
            "allocated_gb": self.allocated_gb,
            "fits": self.fits,
            "available_gb": self.available_gb,
            "largest_batch_size": self.largest_batch,
            "shards": self.shards,
            "parts_gb": dict(self.parts),
            "remedy": self.remedy,
        }


@dataclass(frozen=True, kw_only=True)
class Emissions:
    """Grams, with the interval of the energy widened by that of the intensity."""

    grams: Interval
    g_per_kwh: float
    definition: str
    source: str
    year: int | None

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.grams.to_dict(),
            "intensity_g_per_kwh": self.g_per_kwh,
            "definition": self.definition,
            "source": self.source,
            "static_year": self.year,
        }


@dataclass(frozen=True, kw_only=True)
class Part:
    """One phase of the run: medians of seconds and kWh."""

    seconds: float
    energy_kwh: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The estimated cost of one run. None means unknown, and `reason` says why.

    basis: fit, pilot, measured or priors. stack: the software stack of the priors.
    work: exact counts.
    parts: setup, warmup, train, eval (with `priors`).
    drivers: the share of the variance of time that each uncertain constant contributes.
    assumptions: sentences.
    advice: when, in the next hours, the run would emit least, or why this is unknown; None if not asked for.
    """

    name: str
    level: float
    basis: str
    hardware: str
    gpu_count: int
    stack: str
    work: Mapping[str, float]
    memory: Memory
    assumptions: tuple[str, ...]
    time_s: Interval | None = None
    energy_kwh: Interval | None = None
    emissions_g: Emissions | None = None
    cost: Interval | None = None
    power_w: float | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    drivers: Mapping[str, float] = field(default_factory=dict)
    extrapolates: tuple[Mapping[str, Any], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    advice: str | None = None

    @property
    def title(self) -> str:
        """The run and its devices."""
        return f"{self.name}, on {f'{self.gpu_count} × ' if self.gpu_count > 1 else ''}{self.hardware}"

    def _repr_html_(self) -> str:
        """Show the figures as a table in a notebook."""
        return templates.render(
            "lora_scaling.estimate", "estimate.html.j2", estimate=self, title=self.title, rows=figure_rows(self)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of `--json`: the fields of the contract first, then the others."""
        return {
            "schema_version": SCHEMA_VERSION,
            "level": self.level,
            "basis": self.basis,
            "time_s": _or_none(self.time_s),
            "energy_kwh": _or_none(self.energy_kwh),
            "emissions_g": _or_none(self.emissions_g),
            "peak_memory_gb": self.memory.to_dict(),
            "extrapolates": [dict(item) for item in self.extrapolates],
            "assumptions": list(self.assumptions),
            "name": self.name,
            "hardware": self.hardware,
            "gpu_count": self.gpu_count,
            "stack": self.stack,
            "cost": _or_none(self.cost),
            "mean_power_w": self.power_w,
            "work": dict(self.work),
            "parts": {
                name: {"seconds": part.seconds, "energy_kwh": part.energy_kwh} for name, part in self.parts.items()
            },
            "drivers": dict(self.drivers),
            "sources": dict(self.sources),
            "reason": self.reason,
            "advice": self.advice,
        }


def figure_rows(e: Estimate) -> list[tuple[str, str, str, str]]:
    """Write each figure of an estimate: its name, the median, its interval, and where it comes from."""
    rows = []
    if e.time_s is not None:
        rows.append(("time", *_figure(e.time_s, TIME), e.sources.get("time_s", "")))
    if e.energy_kwh is not None:
        rows.append(("energy", *_figure(e.energy_kwh, ENERGY), e.sources.get("energy_kwh", "")))
    if e.emissions_g is not None:
        where = f"{e.emissions_g.g_per_kwh:.4g} g/kWh" + (f" ({e.emissions_g.year})" if e.emissions_g.year else "")
        rows.append(("emissions", *_figure(e.emissions_g.grams, MASS), where))
    if e.cost is not None:
        rows.append(("cost", *_figure(e.cost, MONEY), "from the price given"))
    rows.append(("memory", *_figure(e.memory.peak_gb, MEMORY), _memory_source(e)))
    if e.power_w is not None:
        rows.append(("mean power", POWER.show(e.power_w), "", _power_source(e)))
    return rows


def _figure(interval: Interval, quantity: Quantity) -> tuple[str, str]:
    return quantity.interval(interval.estimate, interval.low, interval.high, to="…")


def _memory_source(e: Estimate) -> str:
    m = e.memory
    if m.available_gb is None:
        return "modelled; the device's memory is unknown"
    room = "fits" if m.fits else "DOES NOT FIT"
    if m.fits and m.peak_gb.high > m.available_gb * GB_PER_GIB * (1 + 1e-9):
        room = "probably fits"
    largest = f"; batch_size up to {m.largest_batch}" if m.largest_batch else ""
    shared = f", sharded over {m.shards}" if m.shards > 1 else ""
    return f"modelled; {room} in {MEMORY.show(m.available_gb)}{shared}{largest}"


def _power_source(e: Estimate) -> str:
    source = e.sources.get("energy_kwh", "")
    return "measured in the pilot" if e.basis == "pilot" else "energy over time" if e.basis == "fit" else source


def _or_none(value: Any) -> Any:
    return None if value is None else value.to_dict()
