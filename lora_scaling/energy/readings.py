"""Hold the readings of a measurement: of one moment (`Tick`) and of a whole phase (`Window`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from lora_scaling.energy.gpu import Edge
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
    task: TaskEnergy | None = None
    sources: dict[str, ComponentSource] = field(default_factory=dict)
    checked: int = 0  # ticks before this one are thinned out, and their bins are in `apart_j`
    apart_j: list[float] = field(default_factory=list)  # by how much counter and power of each GPU differed in bins
    rapl: list[RaplCounter] = field(default_factory=list)
    rapl_faults: list[str] = field(default_factory=list)

    def add(self, tick: Tick, bin_apart_j: Callable[[int, Edge, Edge], float]) -> None:
        """Append a tick. Above MOST_TICKS, every second of the older ones is dropped, so a run of days stays small.

        bin_apart_j: joules by which counter and power of a GPU differ in one bin; asked once for each bin.
        """
        self.ticks.append(tick)
        if len(self.ticks) <= MOST_TICKS:
            return
        last = len(self.ticks) - NEWEST_TICKS  # the counters may not have moved past the newest yet
        self.apart_j = [
            before + found
            for before, found in zip(
                self.apart_j or [0.0] * len(tick.edges), self.bins_apart_j(bin_apart_j, until=last), strict=True
            )
        ]
        thinned = self.ticks[:last][::-2][::-1]
        self.checked = len(thinned)
        self.ticks = thinned + self.ticks[last:]

    def bins_apart_j(self, bin_apart_j: Callable[[int, Edge, Edge], float], until: int | None = None) -> list[float]:
        """Return the joules by which counter and power of each GPU differ, summed over the bins not yet checked."""
        ticks = [self.start, *self.ticks[:until]]
        if until is None and self.end is not None:
            ticks.append(self.end)
        pairs = list(itertools.pairwise(ticks[self.checked :]))
        return [sum(bin_apart_j(i, a.edges[i], b.edges[i]) for a, b in pairs) for i in range(len(self.start.edges))]
