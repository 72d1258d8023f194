"""A GPU in simulated time: its power follows a law, its counter may lie, and a meter reads it as a recording does."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from lora_scaling.energy import EnergyAccount, MeteringSettings
from lora_scaling.energy.counter_check import CounterCheck
from lora_scaling.energy.gpu import SMOOTH_STEP_S, GpuEnergyMeter
from lora_scaling.energy.nvml import Gpu, SensorError
from lora_scaling.energy.readings import Tick, Window
from lora_scaling.energy.windows import make_account

UNREADABLE = SensorError("Unknown Error", 999)


@dataclass(frozen=True, kw_only=True)
class Power:
    """Watts that change at given moments; seconds of simulated time."""

    points: tuple[tuple[float, float], ...]  # (from then on, watts), the first at or before 0

    def at(self, time_s: float) -> float:
        return self.points[max(bisect.bisect_right(self.points, (time_s, math.inf)) - 1, 0)][1]

    def joules(self, start_s: float, end_s: float) -> float:
        cuts = [start_s, *(t for t, _ in self.points if start_s < t < end_s), end_s]
        return math.fsum(self.at(a) * (b - a) for a, b in itertools.pairwise(cuts))


@dataclass
class Liar:
    """A sensor of a law, and what it shows instead. Counter and power are functions of time after each change.

    lag_s: the power reading is the mean over so many seconds, as on Ampere and newer.
    """

    power: Power
    step_s: float = 0.1
    phase_s: float = 0.0
    lag_s: float = 0.0
    lies: Sequence[Callable[[float, float], float]] = ()  # (time, shown joules) → shown joules
    power_lies: Sequence[Callable[[float, float], float]] = ()
    now_s: float = 0.0
    offset_j: float = 5e6

    def energy_j(self, gpu: Gpu) -> float:
        time_s = self.now_s
        if self.step_s:
            time_s = math.floor((time_s - self.phase_s) / self.step_s) * self.step_s + self.phase_s
        joules = self.offset_j + self.power.joules(-10.0, max(time_s, -10.0))
        for lie in self.lies:
            joules = lie(self.now_s, joules)
        return joules

    def power_w(self, gpu: Gpu) -> float:
        watts = self.power.at(self.now_s)
        if self.lag_s:
            watts = self.power.joules(self.now_s - self.lag_s, self.now_s) / self.lag_s
        for lie in self.power_lies:
            watts = lie(self.now_s, watts)
        return watts


@dataclass
class Bench:
    """Meters of several liars, read as `Recording` reads them, with the truth of each phase."""

    liars: Sequence[Liar]
    limit_w: float | None = 400.0
    interval_s: float = 1.0
    lag_known: bool = True
    late_s: Sequence[float] = (0.0,)  # by how much the thread is late, in turn: a busy machine
    meters: tuple[GpuEnergyMeter, ...] = field(init=False)
    now_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._late = itertools.cycle(self.late_s)
        self.meters = tuple(
            GpuEnergyMeter(
                sensor=liar,
                gpu=Gpu(index=i, uuid=f"GPU-{i}", name="Simulated", handle=None),
                clock=lambda: self.now_s,
                step_s=max(liar.step_s, 1e-3),
                read_limit=lambda: self.limit_w,
                check=CounterCheck(lag_s=max(liar.lag_s, 0.1) if self.lag_known else 1.0),
            )
            for i, liar in enumerate(self.liars)
        )
        for meter in self.meters:
            meter.open()

    def _go(self, to_s: float) -> None:
        self.now_s = max(to_s, self.now_s)
        for liar in self.liars:
            liar.now_s = self.now_s

    def _sample(self, at_s: float, *, edge: bool) -> Tick:
        edges = tuple(meter.sample_edge(at_s, edge_of_phase=edge) for meter in self.meters)
        return Tick(at_s=at_s, edges=edges, cpu_busy_s=None, cpu_total_s=None, wall_s=1e9 + at_s)

    def record(self, cuts: Sequence[float]) -> EnergyAccount:
        """Record one phase after the other, from the first moment to the last."""
        windows: list[Window] = []
        for meter in self.meters:
            meter.begin()
        for number, (start_s, end_s) in enumerate(itertools.pairwise(cuts)):
            self._go(start_s)
            window = Window(name=f"phase{number}", start_wall_s=1e9 + start_s, start=self._sample(start_s, edge=True))
            bounds = [-meter.bound_j for meter in self.meters]
            next_tick_s, next_check_s = start_s + self.interval_s, start_s
            while self.now_s < end_s:
                if self.now_s >= next_tick_s:
                    window.add(self._sample(self.now_s, edge=False))
                    next_tick_s += self.interval_s
                watching = False
                for meter in self.meters:
                    if meter.by_power:
                        meter.read()
                    elif meter.watching:
                        watching = True
                        meter.watch()
                if self.now_s >= next_check_s:
                    shortest_s = min(0.7 * m.step_s if m.step_s > SMOOTH_STEP_S else 0.2 for m in self.meters)
                    next_check_s = self.now_s + min(max(shortest_s, 0.05), 0.2)
                    for meter in self.meters:
                        if not meter.by_power:
                            meter.read()
                by_power_s = 0.025 if any(m.by_power for m in self.meters) else 1.0
                pause_s = 0.002 if watching else max(min(next_check_s - self.now_s, by_power_s), 0.001)
                self._go(min(self.now_s + pause_s + next(self._late), end_s))
            window.end = self._sample(end_s, edge=True)
            window.bounds_j = tuple(b + m.bound_j for b, m in zip(bounds, self.meters, strict=True))
            window.lost = tuple(m.lost for m in self.meters)
            window.gpu_faults = tuple(dict(m.faults) for m in self.meters)
            windows.append(window)
        deadline_s = self.now_s + 2.5 * max(m.step_s for m in self.meters)
        while self.now_s < deadline_s and not all(m.settled for m in self.meters):
            self._go(self.now_s + 0.002)
            for meter in self.meters:
                meter.watch()
        sensors: Any = SimpleNamespace(
            settings=MeteringSettings(components=("gpu",)), nvml=object(), gpu_meters=self.meters, unreadable={},
            gpu_expected=True, gpu_hidden=False, gpu_reason=None, tracker_reason=None,
        )  # fmt: skip
        return make_account(sensors, windows, idle=None, exclusive=None, conditions={}, warnings=[])


Lie = Callable[[float, float], float]


class _Held:
    """A value kept from the first time that it is asked for."""

    def __init__(self) -> None:
        self.value: float | None = None

    def keep(self, value: float) -> float:
        self.value = value if self.value is None else self.value
        return self.value


def frozen(from_s: float, to_s: float) -> Lie:
    """Stand still, and go on later without what was missed."""
    first, last = _Held(), _Held()

    def lie(time_s: float, joules: float) -> float:
        if time_s < from_s:
            return joules
        if time_s < to_s:
            return first.keep(joules)
        return first.keep(joules) + joules - last.keep(joules)

    return lie


def held_back(from_s: float, to_s: float) -> Lie:
    """Stand still, and catch up later."""
    first = _Held()
    return lambda time_s, joules: first.keep(joules) if from_s <= time_s < to_s else joules


def jump(at_s: float, by_j: float) -> Lie:
    return lambda time_s, joules: joules + by_j if time_s >= at_s else joules


def scaled(factor: float, from_s: float = 0.0) -> Lie:
    first = _Held()

    def lie(time_s: float, joules: float) -> float:
        if time_s < from_s:
            return joules
        return first.keep(joules) + factor * (joules - first.keep(joules))

    return lie


def restart(at_s: float, to_j: float = 0.0) -> Lie:
    first = _Held()
    return lambda time_s, joules: joules if time_s < at_s else to_j + joules - first.keep(joules)


def unreadable(from_s: float, to_s: float) -> Lie:
    def lie(time_s: float, joules: float) -> float:
        if from_s <= time_s < to_s:
            raise UNREADABLE
        return joules

    return lie


def square(period_s: float, low_w: float, high_w: float, *, until_s: float, phase_s: float = 0.0) -> Power:
    waves = int(until_s / period_s) + 1
    ups = ((phase_s + i * period_s, high_w) for i in range(waves))
    downs = ((phase_s + (i + 0.5) * period_s, low_w) for i in range(waves))
    return Power(points=((-100.0, low_w), *sorted((*ups, *downs))))
