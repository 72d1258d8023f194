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

from lora_scaling.energy.counter_check import (
    AGREE,
    LEAST_LIMIT_W,
    LIMIT_FACTOR,
    UNKNOWN_LIMIT_W,
    CounterCheck,
)
from lora_scaling.energy.edges import Edge
from lora_scaling.energy.nvml import GPU_IS_LOST, Gpu, SensorError
from lora_scaling.records.sources import relative_bound

DEFAULT_STEP_S = 0.1
SMOOTH_STEP_S = 0.01  # a counter that moves this often needs no interpolation
# A reset or a jump hides what was counted since the last reading. The power readings around it replace it, with half of
# their energy as the bound.
BRIDGE_BOUND = 0.5
# Power sensors of GPUs without a counter average over up to 100 ms (arXiv 2312.02741).
POWER_LAG_S = 0.1
POWER_RESOLUTION = 0.005
STANDING_S = 1.0  # a counter that does not move for so long is not counting
STEP_JITTER = 0.03  # by this share of a step a counter moves early or late
JITTER_S = 0.05  # a reading may be late by so much
COARSE_PROBE_S = 2.5  # counters that move only every second are looked at for longer
BORNE_OUT_S = 2.5  # power that is averaged over a second says little of a shorter window
EVEN_SHARE = 0.5  # of a window's energy, from which how counter and power differ is known
PATIENCE_S = 5.0  # if readings fail for longer than this, the GPU is lost


class GpuSensor(Protocol):
    """The readings of a GPU: joules since some moment, and watts now. Raises SensorError."""

    def energy_j(self, gpu: Gpu) -> float: ...

    def power_w(self, gpu: Gpu) -> float: ...


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
    read_limit: Callable[[], float | None] = lambda: None  # the enforced power limit, watts
    check: CounterCheck = field(default_factory=CounterCheck)
    library: str = "nvml"  # which the names of sources begin with
    readable: bool = False  # it was, when it was opened
    bridged_j: float = 0.0  # what power readings gave in the place of the counter
    faults: dict[str, str] = field(default_factory=dict)  # kind → what the counter did, for a warning
    highest_w: float = 0.0
    lowest_w: float = float("inf")
    _limit_w: float | None = None
    _counter_j: float | None = None
    _error: str | None = None
    _failing_since_s: float | None = None
    _at_s: float | None = None
    _moved: tuple[float, float] | None = None  # between which moments the counter last moved
    _seen_s: float = 0.0  # when the counter's value was first seen
    _moved_after_s: float = 0.0  # the last reading before that
    _gap_s: float = 0.0  # longest time between two readings since the counter last moved
    _step_w: float | None = None  # mean power over the counter's last step, if every step was seen
    _power_then: tuple[float | None, int] = (None, 0)  # of the check, when the counter was last read
    _settling: bool = False  # after a reset until the counter moves, during which it lags behind the power
    _edges: list[Edge] = field(default_factory=list)
    _followed: list[Edge] = field(default_factory=list)

    def open(self) -> None:
        """Take the first reading, and choose between counter and power."""
        self._at_s = self._seen_s = self._moved_after_s = self.clock()
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
        if self.power_w is not None:
            self._compare(self.power_w)
        self.readable = self.lost is None

    @property
    def source(self) -> str:
        return f"{self.library}_{'power' if self.by_power else 'counter'}"

    def begin(self) -> None:
        """Start a new recording: what was wrong in the one before is of no concern to it."""
        self.bound_j = 0.0
        self.faults = {}

    @property
    def limit_w(self) -> float:
        """Return what the board may draw: its enforced limit, or the most that any board does."""
        if self._limit_w is None:
            self._limit_w = self.read_limit() or 0.0
        return self._limit_w if self._limit_w >= LEAST_LIMIT_W else UNKNOWN_LIMIT_W

    def read(self, *, edge: bool = False, with_power: bool = True) -> None:
        """Update `joules` to now. Without `edge`, the next reading makes up for a failed one."""
        if self.lost:
            return
        now_s = self.clock()
        counter_j = None if self.by_power else self._counter()
        fault = None if counter_j is None else self._fault(counter_j, now_s)
        steady = counter_j is not None and self._counter_j is not None and fault is None and not self._settling
        if counter_j is None and not self.by_power and not edge and not self.lost:
            if with_power and (power_w := self._power()) is not None:
                self.power_w = power_w
                self._compare(power_w, fresh=False)
            return
        power_w = self._power() if with_power or not steady else None
        if self.lost or (not steady and power_w is None and self._waits(now_s, edge)):
            return
        if steady and counter_j is not None:
            self._follow(counter_j, now_s)
        else:
            self._integrate(now_s, power_w, fault)
        if self.lost:
            return
        stepped = self.step_s > SMOOTH_STEP_S
        self._settling = stepped and (fault is not None or (self._settling and counter_j == self._counter_j))
        self._counter_j, self._at_s = counter_j, now_s
        self.power_w = self.power_w if power_w is None else power_w
        if power_w is not None:
            self._compare(power_w)
        self._power_then = (self.check.power_j, self.check.gaps)

    def sample_edge(self, at_s: float, *, edge_of_phase: bool = True) -> Edge:
        """Return the energy at `at_s`, a moment ago, where a bin or a phase begins or ends.

        The energy used between `at_s` and the reading (other GPUs were read first) is subtracted.
        """
        self.read(edge=edge_of_phase)
        read_s = self._at_s if self._at_s is not None else at_s
        range_w, worst_j = max(self.highest_w - self.lowest_w, 0.0), self.check.worst_j
        highest_w = max(self.highest_w, self.power_w or 0.0) or self.limit_w
        if edge_of_phase:
            self.check.close(self.step_s)
            worst_j, self.check.worst_j = self.check.worst_j, 0.0
            if self.power_w is not None:
                self.highest_w = self.lowest_w = self.power_w
        # Without a power reading, the board may draw as much as it is allowed to.
        power_w = self.limit_w if self.power_w is None else self.power_w
        late_j = power_w * max(read_s - at_s, 0.0)
        reading_j = power_w * max(self.clock() - at_s, 0.0)
        stale_j = (self.step_s + read_s - self._seen_s) * highest_w
        stepped = not self.by_power and not self._settling and self.step_s > SMOOTH_STEP_S
        edge = Edge(
            at_s=at_s,
            raw_j=self.joules,
            joules=self.joules if stepped else self.joules - late_j,
            range_w=range_w,
            power_j=self.check.power_j,
            gap_j=self.check.gap_j,
            apart_j=self.check.apart_j,
            worst_j=worst_j,
            slack_j=self.check.slack_j,
            even_j=self.check.even_j,
            even_apart_j=self.check.even_apart_j,
            even_slack_j=self.check.even_slack_j,
            bridged_j=self.bridged_j,
            bound_j=reading_j + (0.0 if self.by_power else stale_j),
            pending=stepped and self.lost is None,
            watched=edge_of_phase,
            before_w=self._step_w if read_s - self._seen_s < 1.5 * self.step_s else None,
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
        return any(edge.watched for edge in self._edges) or (self._settling and not self.lost)

    @property
    def settled(self) -> bool:
        """Return whether every edge is as precise as it can become."""
        return not self.watching and (not self._followed or self.lost is not None)

    def watch(self) -> None:
        """Read only the counter, to see it move."""
        self.read(with_power=False)

    def window_bound_j(self, start: Edge, end: Edge, first_w: float | None, last_w: float | None) -> float:
        """Return the half-width of the energy between two marks. `first_w`, `last_w`: mean power next to them, inside.

        The bounds of the two edges are added. The calibration error of the board's sensor (NVIDIA: 5 %) is the same for
        every run on a GPU and is not included.
        """
        used_j = end.joules - start.joules
        assumed_j = (relative_bound(self.source) or 0.0) * used_j
        if self.by_power:
            lag_j = POWER_LAG_S * end.range_w + POWER_RESOLUTION * used_j
            return start.bound_j + end.bound_j + lag_j + assumed_j
        first_w, last_w = start.inner_w(first_w, opens=True), end.inner_w(last_w, opens=False)
        return start.bound(first_w, self.step_s) + end.bound(last_w, self.step_s) + assumed_j

    def implausible(self, start: Edge, end: Edge) -> str | None:
        """Say why the energy between two edges cannot be true; None if it can."""
        seconds, counted_j = end.at_s - start.at_s, end.joules - start.joules
        if seconds <= 0:
            return None
        if self.by_power:
            return f"its power reads 0 W for {seconds:.1f} s" if counted_j <= 0 else None
        if counted_j > LIMIT_FACTOR * self.limit_w * (seconds + 2 * self.step_s):
            return (
                f"its energy counter rose by {counted_j:.0f} J in {seconds:.1f} s, at a limit of {self.limit_w:.0f} W"
            )
        if end.raw_j == start.raw_j and seconds >= max(STANDING_S, 5 * self.step_s):
            power_j = None if start.power_j is None or end.power_j is None else end.power_j - start.power_j
            at = "" if power_j is None else f" at {power_j / seconds:.0f} W"
            return f"its energy counter stood still for {seconds:.1f} s{at}"
        return None

    def disagreement_j(self, start: Edge, end: Edge, bound_j: float) -> float | None:
        """Return by how much counter and power readings differ over a window, if by more than both explain.

        bound_j: what the edges leave open. A counter that froze or jumped for a moment in a long window shows in the
        stretches of the check. What both explain is included, so that truth lies no further away.
        """
        if self.by_power or start.power_j is None or end.power_j is None:
            return None
        counted_j = end.joules - start.joules - (end.gap_j - start.gap_j)
        power_j = end.power_j - start.power_j
        explained_j = self.check.explained_j(counted_j, power_j, end.at_s - start.at_s, end.range_w)
        whole_j = abs(counted_j - power_j)
        whole_j = whole_j + explained_j if whole_j > explained_j + bound_j else 0.0
        parts_j = max(abs(end.apart_j - start.apart_j), end.worst_j)
        return max(whole_j, parts_j + end.slack_j - start.slack_j if parts_j else 0.0) or None

    def difference_j(self, start: Edge, end: Edge) -> float:
        """Return by how much counter and power differ over a window, as they do while the power is even.

        Healthy sensors differ by up to a tenth, so that this is no fault; but which of the two is right is not known.
        In a short window it is all that a fault of the counter could hide in.
        """
        if self.by_power or start.power_j is None or end.power_j is None or self.check.agree > AGREE:
            return 0.0
        if (seconds := end.at_s - start.at_s) < BORNE_OUT_S:
            counted_j, power_j = end.joules - start.joules, end.power_j - start.power_j
            return abs(counted_j - power_j) + self.check.explained_j(counted_j, power_j, seconds, end.range_w)
        whole_j, even_j = max(end.joules - start.joules, end.power_j - start.power_j), end.even_j - start.even_j
        if even_j < EVEN_SHARE * whole_j:
            return 0.0
        apart_j = abs(end.even_apart_j - start.even_apart_j)
        slack_j = end.even_slack_j - start.even_slack_j + POWER_RESOLUTION * even_j
        return (apart_j + slack_j) / even_j * whole_j if apart_j > slack_j else 0.0

    def _fault(self, counter_j: float, now_s: float) -> str | None:
        """Return what is wrong with this reading of the counter: it fell, or rose by more than the board can draw."""
        if self._counter_j is None:
            return None
        if counter_j < self._counter_j:
            return "went backwards"
        rise_j, seconds = counter_j - self._counter_j, now_s - self._moved_after_s + 2 * self.step_s + JITTER_S
        if rise_j <= LIMIT_FACTOR * self.limit_w * seconds:
            return None
        self._limit_w = None  # it may have been raised since
        return f"jumped by {rise_j:.0f} J" if rise_j > LIMIT_FACTOR * self.limit_w * seconds else None

    def _follow(self, counter_j: float, now_s: float) -> None:
        """Add what the counter rose by, and learn from when it moved."""
        assert self._counter_j is not None
        assert self._at_s is not None
        self._gap_s = max(self._gap_s, now_s - self._at_s)
        if counter_j > self._counter_j:
            moved_j = counter_j - self._counter_j
            every_step = self._gap_s < 0.95 * self.step_s
            self._moved = self._placed(self._at_s, self.clock(), one_step=every_step)
            self._step_w = moved_j / self.step_s if self.step_s > 0 and every_step else None
            for edge in self._followed:
                edge.follows, edge.after_w = False, self._step_w
            self._followed = []
            self._moved_after_s, self._seen_s, self._gap_s = self._at_s, now_s, 0.0
            self.joules += moved_j
            for edge in self._edges:
                if edge.pending and self.joules > edge.raw_j:
                    edge.refine(self.joules, max(self._moved[0], edge.at_s), self._moved[1], self.step_s)
                    if edge.follows:
                        self._followed.append(edge)

    def _placed(self, after_s: float, before_s: float, *, one_step: bool) -> tuple[float, float]:
        """Return between which moments a move seen in between happened: a step after the one before, if it was seen."""
        if one_step and self._moved is not None:
            slack_s = STEP_JITTER * self.step_s
            first_s = max(after_s, self._moved[0] + self.step_s - slack_s)
            last_s = min(before_s, self._moved[1] + self.step_s + slack_s)
            if first_s <= last_s:
                return first_s, last_s
        return after_s, before_s

    def _compare(self, power_w: float, *, fresh: bool = True) -> None:
        self.check.add(self.clock(), power_w, self.joules, self.step_s, fresh=fresh)

    def _counter(self) -> float | None:
        try:
            return self.sensor.energy_j(self.gpu)
        except SensorError as error:
            self._note(error)
            return None

    def _power(self) -> float | None:
        try:
            power_w = self.sensor.power_w(self.gpu)
            if not 0 <= power_w <= LIMIT_FACTOR * self.limit_w:
                self._limit_w = None  # it may have been raised since
                if not 0 <= power_w <= LIMIT_FACTOR * self.limit_w:
                    raise SensorError(f"its power reads {power_w:.0f} W, at a limit of {self.limit_w:.0f} W", 0)
        except SensorError as error:
            self._note(error)
            return None
        self._failing_since_s = None
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

    def _integrate(self, now_s: float, power_w: float | None, fault: str | None) -> None:
        """Integrate the power since the last reading by the trapezoidal rule, if the counter gives nothing.

        Power readings in between are used. Without a current power the last one is kept, with its whole energy as the
        bound.
        """
        assert self._at_s is not None  # `open` ran first
        before_w = power_w if self.power_w is None else self.power_w
        assert before_w is not None  # otherwise `read` would have waited
        after_w = before_w if power_w is None else power_w
        dt_s = now_s - self._at_s
        gap_j = (after_w + before_w) / 2 * dt_s
        sum_j, (then_j, gaps) = self.check.upto(now_s, after_w), self._power_then
        if not self.by_power and sum_j is not None and then_j is not None and gaps == self.check.gaps:
            gap_j = sum_j - then_j
        self.joules += gap_j
        self.bound_j += abs(after_w - before_w) / 2 * dt_s + (gap_j if power_w is None else 0.0)
        for edge in [*self._edges, *self._followed]:
            edge.pending = edge.follows = False  # this addition is not a move of the counter
        self._followed, self._step_w = [], None
        if self.by_power:
            return
        self._moved_after_s, self._seen_s, self._gap_s = self._at_s, now_s, 0.0
        self.bound_j += BRIDGE_BOUND * gap_j
        self.bridged_j += gap_j
        if fault is None:
            if not self._settling:
                self.faults.setdefault("counter_unread", f"could not be read ({self._error})")
            return
        self.faults.setdefault("counter_reset" if fault == "went backwards" else "counter_jump", fault)
        # What the last value lacked: the energy since it appeared, or half a step's if that was not seen.
        lacked_s, open_s = self.step_s / 2, self.step_s / 2
        if self._moved is not None:
            lacked_s = min(max(self._at_s - sum(self._moved) / 2, 0.0), self.step_s)
            open_s = min((self._moved[1] - self._moved[0]) / 2 + 0.2 * self.step_s, open_s)
        self.joules += before_w * lacked_s
        self.bound_j += before_w * open_s
        self._moved = None


def probe_step(meters: Sequence[GpuEnergyMeter], limit_s: float = 0.6, moves: int = 4) -> None:
    """Measure how often each counter moves and set `step_s`. Takes up to `limit_s`, before anything is measured.

    If a counter hardly moves, it takes longer: up to COARSE_PROBE_S.
    """
    by_counter = [m for m in meters if not m.lost and not m.by_power]
    moved_at: dict[int, list[float]] = {id(m): [] for m in by_counter}
    last: dict[int, float] = {}
    polls = 0
    start_s = time.perf_counter()
    while by_counter:
        waited_s = time.perf_counter() - start_s
        seldom = any(len(times) < 2 for times in moved_at.values())
        if waited_s >= (COARSE_PROBE_S if seldom else limit_s):
            break
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
