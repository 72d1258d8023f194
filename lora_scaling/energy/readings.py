"""Hold the readings of a measurement: of one moment (`Tick`) and of a whole phase (`Window`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from lora_scaling.energy.edges import Edge
from lora_scaling.energy.rapl import RaplCounter, RaplMark
from lora_scaling.energy.tracker import ComponentSource, TaskEnergy

MOST_TICKS, NEWEST_TICKS = 8000, 100  # a record's timeline has at most half as many bins


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Readings at one moment: the cumulative energy of each GPU and RAPL domain, and the machine's CPU seconds."""

    at_s: float  # perf_counter
    edges: tuple[Edge, ...]
    cpu_busy_s: float | None
    cpu_total_s: float | None
    wall_s: float | None = None  # seconds since 1970 at the same moment
    rapl: tuple[RaplMark, ...] = ()

    @property
    def gpu_j(self) -> tuple[float, ...]:
        """Joules per GPU; more precise once the counters have moved."""
        return tuple(edge.joules for edge in self.edges)


@dataclass
class Window:
    """All readings of one phase; `windows.py` turns them into energies."""

    name: str
    start_wall_s: float
    start: Tick
    ticks: list[Tick] = field(default_factory=list)
    end: Tick | None = None
    lost: tuple[str | None, ...] = ()
    bounds_j: tuple[float, ...] = ()
    gpu_faults: tuple[dict[str, str], ...] = ()  # of each GPU's counter: kind → what it did
    task: TaskEnergy | None = None
    sources: dict[str, ComponentSource] = field(default_factory=dict)
    rapl: list[RaplCounter] = field(default_factory=list)
    rapl_faults: list[str] = field(default_factory=list)
    memory_gb: float | None = None  # of the machine
    whole_load: bool = False  # the CPU seconds of the ticks are those of all cores

    def add(self, tick: Tick) -> None:
        """Append a tick. Above MOST_TICKS, every second of the older ones is dropped, so a run of days stays small."""
        self.ticks.append(tick)
        if len(self.ticks) > MOST_TICKS:
            last = len(self.ticks) - NEWEST_TICKS  # the counters may not have moved past the newest yet
            self.ticks = self.ticks[:last][::-2][::-1] + self.ticks[last:]
