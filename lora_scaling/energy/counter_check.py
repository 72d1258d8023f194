"""Hold the energy counter of a GPU against its power readings, stretch by stretch, on a clock of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# No board draws more than this share of its limit for long; the largest module of 2026 draws 2,700 W.
LIMIT_FACTOR, UNKNOWN_LIMIT_W, LEAST_LIMIT_W = 1.5, 3000.0, 5.0
STANDING_W = 1.0  # a board that is on draws more
# Power is a mean over up to a second on many boards, and some sample it only a part of the time (arXiv 2312.02741): it
# lags behind a change by up to LAG_S, and what remains may differ by a tenth.
AGREE, LAG_S = 0.1, 1.0
# The power of a superchip may be that of its GPU alone, while its counter covers the module.
AGREE_MODULE = 0.5
STRETCH_S, LEAST_S = 1.0, 0.2
EVEN = 0.1  # power that changes by less hides nothing
GAP_S = 1.0  # between two power readings this far apart anything may have happened


@dataclass
class CounterCheck:
    """Sums of power and of what the counter differs from it.

    power_j: trapezoid of the readings that followed each other closely; None before the first.
    gap_j: what the counter rose by while no power was read.
    apart_j: signed sum over the stretches in which counter and power differ by more than both explain; worst_j: the
        largest of them since the last edge of a phase; slack_j: what both explain in these stretches.
    even_j, even_apart_j: power, and what the counter differs from it, over the stretches of even power; even_slack_j:
        what the steps of the counter leave open there, once for stretches that follow each other.
    """

    agree: float = AGREE
    lag_s: float = LAG_S
    power_j: float | None = None
    gap_j: float = 0.0
    apart_j: float = 0.0
    worst_j: float = 0.0
    slack_j: float = 0.0
    even_j: float = 0.0
    even_apart_j: float = 0.0
    even_slack_j: float = 0.0
    gaps: int = 0
    _was_even: bool = False
    _last: tuple[float, float, float] | None = None  # (moment, watts, the counter's joules)
    _start: tuple[float, float, float] | None = None  # (moment, power_j, the counter's joules)
    # (moment, watts) of the readings in this stretch, and before it for as long as a reading lags
    _recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=256))

    def upto(self, now_s: float, watts: float) -> float | None:
        """Return what `power_j` would be after a reading now; None after a gap."""
        if self._last is None or self.power_j is None or now_s - self._last[0] > GAP_S:
            return None
        return self.power_j + (self._last[1] + watts) / 2 * (now_s - self._last[0])

    def add(self, now_s: float, watts: float, counter_j: float, step_s: float, *, fresh: bool = True) -> None:
        """Take a power reading, and the joules that the counter has given until now; not `fresh`: unreadable now."""
        power_j = self.upto(now_s, watts)
        self._recent.append((now_s, watts))
        if power_j is None:
            if self._last is not None:
                self.gap_j += counter_j - self._last[2]
                self.gaps += 1
            self.power_j = self.power_j or 0.0
            self._was_even = False
            self._last = (now_s, watts, counter_j)
            self._begin()
            return
        self.power_j = power_j
        self._last = (now_s, watts, counter_j)
        if fresh and self._start is not None and now_s - self._start[0] >= STRETCH_S:
            self.close(step_s)

    def close(self, step_s: float) -> None:
        """End a stretch here, and begin the next. Counters are stale by up to a step at its ends."""
        if self._last is None or self._start is None or self.power_j is None:
            return
        seconds = self._last[0] - self._start[0]
        if seconds >= LEAST_S:
            counted_j, power_j = self._last[2] - self._start[2], self.power_j - self._start[1]
            watts = [w for _, w in self._recent]
            explained_j = self.explained_j(counted_j, power_j, seconds, max(watts) - min(watts)) + step_s * max(watts)
            if abs(counted_j - power_j) > explained_j:
                self.apart_j += counted_j - power_j
                self.worst_j = max(self.worst_j, abs(counted_j - power_j))
                self.slack_j += explained_j
            even = max(watts) - min(watts) <= EVEN * max(watts)
            if even:
                self.even_j += power_j
                self.even_apart_j += counted_j - power_j
                self.even_slack_j += 0.0 if self._was_even else 2 * step_s * max(watts)
            self._was_even = even
        self._begin()

    def _begin(self) -> None:
        assert self._last is not None
        at_s, _, counter_j = self._last
        self._start = (at_s, self.power_j or 0.0, counter_j)
        while self._recent[0][0] < at_s - self.lag_s:
            self._recent.popleft()

    def explained_j(self, counted_j: float, power_j: float, seconds: float, range_w: float) -> float:
        """Return by how much an honest counter and honest power readings may differ.

        range_w: the highest minus the lowest of the readings.
        """
        return self.agree * max(counted_j, power_j) + self.lag_s * range_w + STANDING_W * seconds
