"""Measure the energy of one GPU from a counter that moves in steps, or from its power if it has no counter.

A counter is stale by up to one step (about 100 ms on current GPUs): at 300 W, each edge is uncertain by 30 J. So after
an edge the counter is watched until it moves, and the energy at the edge is interpolated between the two values. The
watching happens in the background and does not slow down the run.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lora_scaling.energy.nvml import GPU_IS_LOST, Gpu, SensorError

DEFAULT_STEP_S = 0.1
SMOOTH_STEP_S = 0.01  # a counter that moves this often needs no interpolation
# A reset hides what was counted since the last reading. The power readings around it replace it, with half of their
# energy as the bound.
RESET_BOUND = 0.5
# Power sensors of GPUs without a counter average over up to 100 ms (arXiv 2312.02741).
POWER_LAG_S = 0.1
POWER_RESOLUTION = 0.005
# A counter that lies shows what cannot be: more energy than its board is allowed to draw, or none at some power.
LIMIT_FACTOR = 1.5
STANDING_S, STANDING_W = 1.0, 1.0
# Power is a mean over up to a second on many boards, and some sample it only a part of the time (arXiv 2312.02741):
# only far differences mean something, and less so within one bin of the timeline.
COMPARE_S, COMPARE_FACTOR = 2.0, 1.3
BIN_S, BIN_FACTOR = 0.5, 2.5
PATIENCE_S = 5.0  # if readings fail for longer than this, the GPU is lost


class GpuSensor(Protocol):
    """The readings of a GPU: joules since some moment, and watts now. Raises SensorError."""

    def energy_j(self, gpu: Gpu) -> float: ...

    def power_w(self, gpu: Gpu) -> float: ...


@dataclass
class Edge:
    """The cumulative energy of one GPU at one moment, refined when the counter next moves."""

    at_s: float
    raw_j: float
    joules: float
    bound_j: float
    range_w: float = 0.0
    power_j: float | None = None  # what the power readings alone add up to, None without one
    step_power_w: float | None = None  # mean power over the counter step that contains the edge
    spread_s: float = 0.0
    pending: bool = False
    next_j: float = 0.0  # the counter's next value
    moved_at_s: float = 0.0  # when it appeared

    def refine(self, now_j: float, before_s: float, after_s: float, step_s: float) -> None:
        """Refine the edge: the counter moved to `now_j` in (before_s, after_s], and that step contains this edge."""
        self.pending = False
        moved = now_j - self.raw_j
        self.next_j, self.moved_at_s = now_j, (before_s + after_s) / 2
        if after_s - self.at_s > 2 * step_s:
            self.bound_j = moved  # seen too late to know which step it was
            return
        share = min(max((self.moved_at_s - self.at_s) / step_s, 0.0), 1.0)
        self.joules = now_j - moved * share
        self.step_power_w = moved / step_s
        self.spread_s = (after_s - before_s) / 2

    def extrapolate(self, inside_w: float | None, step_s: float, *, opens: bool) -> None:
        """Use the mean power on the inner side of the edge: power often jumps when a window opens or closes."""
        if self.step_power_w is None or inside_w is None:
            return
        if opens:
            joules = self.next_j - inside_w * (self.moved_at_s - self.at_s)
        else:
            joules = self.raw_j + inside_w * (self.at_s - (self.moved_at_s - step_s))
        self.joules = min(max(joules, self.raw_j), self.next_j)

    def bound(self, inside_w: float | None, step_s: float) -> float:
        """Return the half-width of the energy at this edge, given the mean power next to it inside the window."""
        if self.step_power_w is None:
            return self.bound_j
        jump = abs(self.step_power_w - inside_w) if inside_w is not None else self.step_power_w
        loose = self.step_power_w * (self.spread_s + 0.05 * step_s) + jump * step_s
        hard = max(self.joules - self.raw_j, self.next_j - self.joules)
        return min(hard, loose) + 0.002  # the counter counts in millijoules


@dataclass
class GpuEnergyMeter:
    """Meter of the cumulative joules of one GPU since it was opened. Never decreases, and never stops a run.

    `lost` holds the reason once the GPU can no longer be read; from then on, nothing is known.
    """

    sensor: GpuSensor
    gpu: Gpu
    clock: Callable[[], float] = time.perf_counter
    step_s: float = DEFAULT_STEP_S
    joules: float = 0.0
    bound_j: float = 0.0
    power_w: float | None = None
    by_power: bool = False
    lost: str | None = None
    limit_w: float | None = None  # enforced power limit
    power_j: float | None = None  # trapezoid of the power readings, to hold the counter against
    readable: bool = False  # it was, when it was opened
    resets: int = 0
    highest_w: float = 0.0
    lowest_w: float = float("inf")
    _counter_j: float | None = None
    _error: str | None = None
    _failing_since_s: float | None = None
    _last_power: tuple[float, float] | None = None  # (moment, watts)
    _at_s: float | None = None
    _moved_s: float | None = None  # when the counter last moved, if seen precisely
    _settling: bool = False  # after a reset until the counter moves, during which it lags behind the power
    _edges: list[Edge] = field(default_factory=list)

    def open(self) -> None:
        """Take the first reading, and choose between counter and power."""
        self._at_s = self.clock()
        try:
            self._counter_j = self.sensor.energy_j(self.gpu)
        except SensorError as error:
            self.by_power = error.code != GPU_IS_LOST
            self._note(error)
        self.power_w = self._power()
        if self._counter_j is None and self.power_w is None:
            self.power_w = self._power()  # try again: one failed reading says nothing about the next
        if self._counter_j is None and self.power_w is None:
            self.lost = self._why()
        self.readable = self.lost is None

    def read(self, *, edge: bool = False, with_power: bool = True) -> None:
        """Update `joules` to now. Without `edge`, the next reading makes up for a failed one."""
        if self.lost:
            return
        now_s = self.clock()
        counter_j = None if self.by_power else self._counter()
        falling = counter_j is not None and self._counter_j is not None and counter_j < self._counter_j
        steady = counter_j is not None and self._counter_j is not None and not falling and not self._settling
        if counter_j is None and not self.by_power and not edge and not self.lost:
            return
        power_w = self._power() if with_power or not steady else self.power_w
        if self.lost or (not steady and power_w is None and self._waits(now_s, edge)):
            return
        if steady and counter_j is not None and self._counter_j is not None:
            if counter_j > self._counter_j:
                seen = self._at_s is not None and now_s - self._at_s < self.step_s / 4
                self._moved_s = now_s if seen else None
            self.joules += counter_j - self._counter_j
            self._refine_edges(self.clock())
        else:
            self._integrate(now_s, power_w, falling)
        if self.lost:
            return
        stepped = self.step_s > SMOOTH_STEP_S
        self._settling = stepped and (falling or (self._settling and counter_j == self._counter_j))
        self._counter_j, self._at_s = counter_j, now_s
        self.power_w = self.power_w if power_w is None else power_w

    def sample_edge(self, at_s: float, *, edge_of_phase: bool = True) -> Edge:
        """Return the energy at `at_s`, a moment ago, where a bin or a phase begins or ends.

        The energy used between `at_s` and the reading (other GPUs were read first) is subtracted.
        """
        self.read(edge=edge_of_phase)
        read_s = self._at_s if self._at_s is not None else at_s
        range_w = max(self.highest_w - self.lowest_w, 0.0)
        if self.power_w is not None and edge_of_phase:
            self.highest_w = self.lowest_w = self.power_w
        late_j = max(self.power_w or 0.0, 0.0) * max(read_s - at_s, 0.0)
        reading_j = max(self.power_w or 0.0, 0.0) * max(self.clock() - at_s, 0.0)
        stale_j = self.step_s * max(self.power_w or 0.0, 0.0)
        stepped = not self.by_power and not self._settling and self.step_s > SMOOTH_STEP_S
        edge = Edge(
            at_s=at_s,
            raw_j=self.joules,
            joules=self.joules if stepped else self.joules - late_j,
            range_w=range_w,
            power_j=self.power_j,
            bound_j=reading_j + (0.0 if self.by_power else stale_j),
            pending=stepped and self.lost is None,
        )
        if edge.pending:
            self._edges.append(edge)
        return edge

    @property
    def watching(self) -> bool:
        """Return whether an edge still waits for the counter to move: for at most half a second or three steps."""
        patience_s = max(0.5, 3 * self.step_s)
        if self.lost:
            self._edges.clear()
        self._edges = [e for e in self._edges if e.pending and self.clock() - e.at_s < patience_s]
        return bool(self._edges) or (self._settling and not self.lost)

    def check(self) -> None:
        """Read only the power, against which the counter is held."""
        if not self.lost and not self.by_power:
            self._power()

    def watch(self) -> None:
        """Read only the counter, to see it move."""
        self.read(with_power=False)

    def _refine_edges(self, now_s: float) -> None:
        for edge in self._edges:
            if edge.pending and self.joules > edge.raw_j:
                edge.refine(self.joules, max(self._at_s or edge.at_s, edge.at_s), now_s, self.step_s)

    def window_bound_j(self, start: Edge, end: Edge, first_w: float | None, last_w: float | None) -> float:
        """Return the half-width of the energy between two marks. `first_w`, `last_w`: mean power next to them, inside.

        The bounds of the two edges are added. The calibration error of the board's sensor (NVIDIA: 5 %) is the same for
        every run on a GPU and is not included.
        """
        if self.by_power:
            used_j = end.joules - start.joules
            return start.bound_j + end.bound_j + POWER_LAG_S * end.range_w + POWER_RESOLUTION * used_j
        return start.bound(first_w, self.step_s) + end.bound(last_w, self.step_s)

    def implausible(self, start: Edge, end: Edge) -> str | None:
        """Say why the counter's energy between two edges cannot be true; None if it can."""
        seconds, counted_j = end.at_s - start.at_s, end.joules - start.joules
        if self.by_power or seconds <= 0:
            return None
        if self.limit_w is not None and counted_j > LIMIT_FACTOR * self.limit_w * (seconds + 2 * self.step_s):
            return (
                f"its energy counter rose by {counted_j:.0f} J in {seconds:.1f} s, at a limit of {self.limit_w:.0f} W"
            )
        if start.power_j is None or end.power_j is None or seconds < max(STANDING_S, 5 * self.step_s):
            return None
        power_w = (end.power_j - start.power_j) / seconds
        if end.raw_j == start.raw_j and power_w > STANDING_W:
            return f"its energy counter stood still for {seconds:.1f} s at {power_w:.0f} W"
        return None

    def disagreement_j(self, start: Edge, end: Edge, bins_j: float) -> float | None:
        """Return by how much counter and power readings differ over a window, if by more than both explain.

        bins_j: the same summed over its bins: a counter that freezes or jumps for a moment shows there.
        """
        if self.by_power or self.resets:
            return None
        return max(_apart_j(start, end, COMPARE_S, COMPARE_FACTOR), bins_j) or None

    def bin_apart_j(self, start: Edge, end: Edge) -> float:
        """Return the joules by which counter and power readings differ within one bin, if by far."""
        return 0.0 if self.by_power else _apart_j(start, end, max(BIN_S, 5 * self.step_s), BIN_FACTOR)

    def _counter(self) -> float | None:
        try:
            return self.sensor.energy_j(self.gpu)
        except SensorError as error:
            self._note(error)
            return None

    def _power(self) -> float | None:
        try:
            power_w = self.sensor.power_w(self.gpu)
        except SensorError as error:
            self._note(error)
            return None
        self._failing_since_s = None
        now_s = self.clock()
        before_s, before_w = self._last_power or (now_s, power_w)
        self.power_j = (self.power_j or 0.0) + (before_w + power_w) / 2 * (now_s - before_s)
        self._last_power = (now_s, power_w)
        self.highest_w, self.lowest_w = max(self.highest_w, power_w), min(self.lowest_w, power_w)
        return power_w

    def _note(self, error: SensorError) -> None:
        self._error = str(error)
        if error.code == GPU_IS_LOST:
            self.lost = self._why()

    def _why(self) -> str:
        return f"GPU {self.gpu.index} could not be read{' any more' if self.readable else ''} ({self._error})"

    def _waits(self, now_s: float, edge: bool) -> bool:
        """Return whether the next reading can make up for one that gave neither counter nor power.

        An edge cannot wait, so the last power is kept there. If readings fail for too long, the GPU is lost.
        """
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if self.power_w is None or now_s - self._failing_since_s > PATIENCE_S:
            self.lost = self._why()
        return self.lost is not None or not edge

    def _integrate(self, now_s: float, power_w: float | None, reset: bool) -> None:
        """Integrate the power since the last reading by the trapezoidal rule, if the counter gives nothing.

        Without a current power the last one is kept, with its whole energy as the bound.
        """
        assert self._at_s is not None  # `open` ran first
        before_w = power_w if self.power_w is None else self.power_w
        assert before_w is not None  # otherwise `read` would have waited
        after_w = before_w if power_w is None else power_w
        dt_s = now_s - self._at_s
        gap_j = (after_w + before_w) / 2 * dt_s
        self.joules += gap_j
        self.bound_j += abs(after_w - before_w) / 2 * dt_s + (gap_j if power_w is None else 0.0)
        for edge in self._edges:
            edge.pending = False  # this addition is not a move of the counter
        if self.by_power:
            return
        self.bound_j += RESET_BOUND * gap_j
        if reset:  # what the last value lacked: half a step on average, unless its move was seen
            seen_s = None if self._moved_s is None else min(self._at_s - self._moved_s, self.step_s)
            self.joules += before_w * (self.step_s / 2 if seen_s is None else seen_s)
            self.bound_j += before_w * self.step_s * (0.5 if seen_s is None else 0.2)
            self.resets += 1


def _apart_j(start: Edge, end: Edge, least_s: float, factor: float) -> float:
    """Return by how much counter and power differ between two edges; 0 if the window is short or they are near."""
    if end.at_s - start.at_s < least_s or start.power_j is None or end.power_j is None:
        return 0.0
    counted_j, power_j = end.joules - start.joules, end.power_j - start.power_j
    if max(counted_j, power_j) <= max(factor * max(min(counted_j, power_j), 0.0), STANDING_W * (end.at_s - start.at_s)):
        return 0.0
    return abs(counted_j - power_j)


def probe_step(meters: Sequence[GpuEnergyMeter], limit_s: float = 0.6, moves: int = 4) -> None:
    """Measure how often each counter moves and set `step_s`. Takes up to `limit_s`, before anything is measured."""
    by_counter = [m for m in meters if not m.lost and not m.by_power]
    moved_at: dict[int, list[float]] = {id(m): [] for m in by_counter}
    last: dict[int, float] = {}
    polls = 0
    start_s = time.perf_counter()
    while by_counter and time.perf_counter() - start_s < limit_s:
        for meter in by_counter:
            try:
                now_j = meter.sensor.energy_j(meter.gpu)
            except SensorError:
                continue
            if id(meter) in last and now_j != last[id(meter)]:
                moved_at[id(meter)].append(time.perf_counter())
            last[id(meter)] = now_j
        polls += 1
        if all(len(times) >= moves for times in moved_at.values()):
            break
        time.sleep(0.001)
    for meter in by_counter:
        times = moved_at[id(meter)]
        if len(times) >= 2:
            between_s = statistics.median(b - a for a, b in itertools.pairwise(times))
            # A counter that moved at every reading, on however busy a machine, does not move in steps.
            always = len(times) >= polls - 1 and between_s < DEFAULT_STEP_S / 2
            meter.step_s = min(between_s, SMOOTH_STEP_S) if always else between_s
