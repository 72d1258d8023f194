"""Read sensors in a background thread: the timeline about once a second, power without a counter, and edges."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

WATCH_S = 0.002  # how often a counter is read while an edge waits for it to move
CHECK_S = 0.2  # how often power is read to hold a counter against it
CHECK_SHARE, LEAST_CHECK_S = 0.7, 0.05  # of a counter's step, in which it is to be read at least once
POWER_S = 0.025  # how often power is read if it has to be integrated


class Sampler:
    """A daemon thread that calls `tick` every `interval_s`, and `watch` as often as `watch_interval()` asks.

    Both are called with the lock held. The thread never raises.
    """

    def __init__(
        self,
        *,
        interval_s: float,
        tick: Callable[[], None],
        watch: Callable[[], None],
        watch_interval: Callable[[], float | None],
    ):
        self.lock = threading.RLock()
        self.failure: str | None = None
        self._wake = threading.Condition(self.lock)
        self._interval_s = interval_s
        self._tick, self._watch, self._watch_interval = tick, watch, watch_interval
        self._next_tick_s: float | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start_ticking(self) -> None:
        """Start ticking for a new window; the first tick comes one interval from now."""
        with self._wake:
            self._next_tick_s = time.perf_counter() + self._interval_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lora-scaling-energy", daemon=True)
                self._thread.start()
            self._wake.notify()

    def stop_ticking(self) -> None:
        with self._wake:
            self._next_tick_s = None
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        with self._wake:
            while not self._stopped:
                try:
                    self._wake.wait(self._step())
                except Exception as error:
                    self.failure = repr(error)
                    self._next_tick_s = None
                    self._wake.wait()

    def _step(self) -> float | None:
        """Do what is due, and return the seconds until the next action; None: wait until woken."""
        now_s = time.perf_counter()
        if self._next_tick_s is not None and now_s >= self._next_tick_s:
            self._tick()
            missed = int((now_s - self._next_tick_s) // self._interval_s)
            self._next_tick_s += (missed + 1) * self._interval_s
        pause_s = self._watch_interval()
        if pause_s is not None:
            self._watch()
            pause_s = self._watch_interval()
        if self._next_tick_s is None:
            return pause_s
        until_tick_s = max(self._next_tick_s - time.perf_counter(), 0.0)
        return until_tick_s if pause_s is None else min(pause_s, until_tick_s)
