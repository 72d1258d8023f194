"""Record the phases of one run.

At each edge of a phase, the device is synchronised, and the wall clock, the NVML counters and the CPU times are read.
The CodeCarbon task opens just before the first edge and closes just after the last, so its own cost lies outside the
window.
"""

from __future__ import annotations

import time
from dataclasses import replace
from types import TracebackType

from lora_scaling.energy import host
from lora_scaling.energy.conditions import ConditionsLog
from lora_scaling.energy.gpu import SMOOTH_STEP_S
from lora_scaling.energy.measurement import EnergyAccount, IdleBaseline
from lora_scaling.energy.rapl import READ_S as RAPL_S
from lora_scaling.energy.rapl import RaplCounter
from lora_scaling.energy.readings import Tick, Window
from lora_scaling.energy.sampler import CHECK_S, CHECK_SHARE, LEAST_CHECK_S, POWER_S, WATCH_S, Sampler
from lora_scaling.energy.sensors import Sensors
from lora_scaling.energy.tracker import TaskEnergy, memory_gb
from lora_scaling.energy.windows import make_account, rough_joules
from lora_scaling.records.timeline import COMPONENTS

GOLDEN_RATIO = 0.618
LONGEST_CLOSE_S = 2.0
CONDITIONS_S = 5.0  # temperature, clocks and processes change slowly and cost more to read


class Recording:
    """The recording of one run: phases one after the other, then `close`."""

    def __init__(self, meter: Sensors):
        self._meter = meter
        self.warnings: list[dict[str, str]] = list(meter.warnings)
        self._windows: list[Window] = []
        self._open: Window | None = None
        self._last_conditions_s = 0.0
        self._rapl: list[RaplCounter] = []
        self._last_rapl_s = self._last_poll_s = self._next_check_s = 0.0
        self._checks = 0
        self._account: EnergyAccount | None = None
        for gpu in meter.gpu_meters:
            gpu.begin()
        self._conditions = ConditionsLog(
            meter.nvml, meter.gpus, meter.constants, ranks=meter.settings.gpu_share is not None
        )
        self._sampler = Sampler(
            interval_s=meter.settings.interval_s,
            tick=self._tick,
            watch=self._watch,
            watch_interval=self._watch_interval,
        )

    def phase(self, name: str) -> PhaseWindow:
        """Record a window as a context manager, which closes and keeps its energy whatever the body raises."""
        return PhaseWindow(self, name)

    def begin_phase(self, name: str) -> None:
        """Open a window. An open one is closed first, so phases never overlap. Does nothing after `close`."""
        if self._account is not None:
            return
        if self._open is not None:
            self.end_phase()
        self._synchronize()
        with self._sampler.lock:
            if time.perf_counter() - self._last_conditions_s > CONDITIONS_S / 5:
                self._read_conditions()
        task_failure = self._start_task()
        with self._sampler.lock:
            wall_s, at_s = _both_clocks()
            self._rapl = self._rapl_counters()
            for counter in self._rapl:
                counter.begin(at_s)
            self._last_rapl_s = self._last_poll_s = at_s
            tick = self._sample(wall_s, at_s, edge_of_phase=True)
            self._open = Window(name=name, start_wall_s=wall_s, start=tick, rapl=self._rapl)
            if self._rapl:
                self._open.memory_gb, self._open.whole_load = memory_gb(), host.sees_all_cores()
            self._open.bounds_j = tuple(-gpu.bound_j for gpu in self._meter.gpu_meters)
            if task_failure:
                self._open.task = TaskEnergy(joules={}, reason=task_failure)
        if self._meter.settings.enabled:
            self._sampler.start_ticking()

    def end_phase(self) -> None:
        """Close the open window, if any."""
        window = self._open
        if window is None:
            return
        self._synchronize()
        self._sampler.stop_ticking()
        with self._sampler.lock:
            window.end = self._sample(*_both_clocks(), edge_of_phase=True)
            window.gpu_faults = tuple(dict(gpu.faults) for gpu in self._meter.gpu_meters)
            window.rapl_faults = [f"{c.name}: {text}" for c in self._rapl for text in c.faults.values()]
            self._rapl = []
            self._open = None
        if self._meter.tracker is not None and window.task is None:
            window.task = self._meter.tracker.stop()
            window.sources = self._meter.tracker.sources()
        meters = self._meter.gpu_meters
        window.bounds_j = tuple(b + m.bound_j for b, m in zip(window.bounds_j, meters, strict=True))
        window.lost = tuple(m.lost for m in meters)
        self._windows.append(window)

    def joules_so_far(self) -> float | None:
        """Return the energy of the finished phases plus the GPU energy of the open one; None if unknown.

        This is cheap, because it only adds existing readings; it is meant for a progress line.
        """
        windows = [*self._windows, self._open] if self._open else list(self._windows)
        return rough_joules(windows, self._meter)

    def so_far(self) -> EnergyAccount:
        """Return the energy up to now, with the open window as if it ended here; it stays open.

        CodeCarbon gives the energy of its models only when a window ends: those of the open one are taken at the mean
        power of the windows before, and are unknown without any.
        """
        if self._account is not None:
            return self._account
        windows = list(self._windows)
        if self._open is not None:
            windows.append(self._ended_here(self._open))
        return make_account(
            self._meter,
            windows,
            idle=self._meter.idle,
            exclusive=None,
            conditions={},
            warnings=list(self.warnings),
        )

    def _ended_here(self, window: Window) -> Window:
        meters = self._meter.gpu_meters
        with self._sampler.lock:
            end = self._sample(*_both_clocks(), edge_of_phase=False)
            ended = replace(window, ticks=list(window.ticks), end=end)
            ended.gpu_faults = tuple(dict(m.faults) for m in meters)
            ended.bounds_j = tuple(b + m.bound_j for b, m in zip(window.bounds_j, meters, strict=True))
            ended.lost = tuple(m.lost for m in meters)
        if self._meter.tracker is not None and ended.task is None:
            seconds = ended.end.at_s - ended.start.at_s if ended.end is not None else 0.0
            joules = {name: None if w is None else w * seconds for name, w in self._mean_powers_w().items()}
            ended.task = TaskEnergy(joules=joules)
            ended.sources = self._meter.tracker.sources()
        return ended

    def _mean_powers_w(self) -> dict[str, float | None]:
        """Return the mean power of each component by CodeCarbon, over the windows that have ended."""
        powers_w: dict[str, float | None] = {}
        for name in COMPONENTS:
            known = [w for w in self._windows if w.end is not None and w.task and w.task.joules.get(name) is not None]
            seconds = sum(w.end.at_s - w.start.at_s for w in known if w.end is not None)
            joules = sum(w.task.joules[name] or 0.0 for w in known if w.task is not None)
            powers_w[name] = joules / seconds if seconds > 0 else None
        return powers_w

    def power_j(self, gpu: int) -> float | None:
        """Return what the power readings of a GPU add up to over the last phase, joules; None without readings."""
        if not self._windows or self._windows[-1].end is None:
            return None
        window = self._windows[-1]
        before_j, after_j = window.start.edges[gpu].power_j, self._windows[-1].end.edges[gpu].power_j
        return None if before_j is None or after_j is None else after_j - before_j

    def close(self, idle: IdleBaseline | None = None) -> EnergyAccount:
        """Return the energy of the run. `idle` defaults to the meter's last baseline. May be called again."""
        if self._account is not None:
            return self._account
        self.end_phase()
        self._await_counters()
        self._sampler.close()
        conditions, exclusive, warnings = self._conditions.summary(gpu_in_use=self._meter.gpu_expected)
        self.warnings.extend(warnings)
        if self._sampler.failure:
            self._warn("sampler", f"The timeline's readings stopped: {self._sampler.failure}")
        self._account = make_account(
            self._meter,
            self._windows,
            idle=idle if idle is not None else self._meter.idle,
            exclusive=exclusive if self._meter.settings.enabled else None,
            conditions=conditions,
            warnings=self.warnings,
        )
        return self._account

    def supersede(self) -> None:
        """End, because another recording begins in this process with the same sensors."""
        if self._account is None:
            self._warn("recording_ended", "Another recording began in this process: nothing after that is in this one.")
            self.close()

    def _await_counters(self) -> None:
        """Wait for the counters to move past the last edges, and once more: up to two steps."""
        longest_s = max((m.step_s for m in self._meter.gpu_meters), default=0.0)
        deadline_s = time.perf_counter() + min(2.5 * longest_s, LONGEST_CLOSE_S)
        while time.perf_counter() < deadline_s:
            with self._sampler.lock:
                if all(m.settled for m in self._meter.gpu_meters):
                    return
                for meter in self._meter.gpu_meters:
                    meter.watch()
            time.sleep(WATCH_S)

    def _start_task(self) -> str | None:
        tracker = self._meter.tracker
        return tracker.start() if tracker is not None else None

    def _synchronize(self) -> None:
        if self._meter.synchronize is None:
            return
        try:
            self._meter.synchronize()
        except Exception as error:
            self._warn("synchronize", f"The device could not be synchronised at a window's edge: {error!r}")

    def _sample(self, wall_s: float, at_s: float, *, edge_of_phase: bool) -> Tick:
        edges = tuple(meter.sample_edge(at_s, edge_of_phase=edge_of_phase) for meter in self._meter.gpu_meters)
        self._read_rapl(at_s)
        marks = tuple(counter.mark(at_s) for counter in self._rapl)
        busy_s = total_s = None
        if self._meter.settings.enabled and "cpu" in self._meter.settings.components:
            try:
                busy_s, total_s = host.system_times()
            except Exception:
                busy_s = total_s = None
        return Tick(at_s=at_s, edges=edges, cpu_busy_s=busy_s, cpu_total_s=total_s, wall_s=wall_s, rapl=marks)

    def _rapl_counters(self) -> list[RaplCounter]:
        settings, tracker = self._meter.settings, self._meter.tracker
        if tracker is None or not settings.enabled or not {"cpu", "ram"} & set(settings.components):
            return []
        return tracker.rapl_counters()

    def _read_rapl(self, now_s: float) -> None:
        self._last_rapl_s = now_s
        for counter in self._rapl:
            counter.read(now_s)

    def _tick(self) -> None:
        if self._open is None:
            return
        tick = self._sample(*_both_clocks(), edge_of_phase=False)
        self._open.add(tick)
        if tick.at_s - self._last_conditions_s >= CONDITIONS_S:
            self._read_conditions()

    def _read_conditions(self) -> None:
        self._last_conditions_s = time.perf_counter()
        self._conditions.read()

    def _watch(self) -> None:
        for meter in self._meter.gpu_meters:
            if meter.by_power:
                meter.read()
            elif meter.watching:
                meter.watch()
        now_s = time.perf_counter()
        if self._open is not None and now_s >= self._next_check_s:
            self._next_check_s = now_s + self._check_interval()
            for meter in self._meter.gpu_meters:
                if not meter.by_power:
                    meter.read()
        if self._rapl and now_s - self._last_rapl_s >= RAPL_S:
            self._read_rapl(now_s)
        if self._rapl and now_s - self._last_poll_s >= CONDITIONS_S and self._meter.tracker is not None:
            self._last_poll_s = now_s
            if (failure := self._meter.tracker.poll_rapl()) is not None:
                self._warn("tracker", failure)

    def _watch_interval(self) -> float | None:
        meters = self._meter.gpu_meters
        if any(m.watching for m in meters):
            return WATCH_S
        if self._open is not None and any(m.by_power and not m.lost for m in meters):
            return POWER_S
        if self._open is None:
            return None
        if any(not m.by_power and not m.lost for m in meters):
            return max(self._next_check_s - time.perf_counter(), 0.001)
        return RAPL_S if self._rapl else None

    def _check_interval(self) -> float:
        """Return when to read counters and power next: irregularly, as the load may have a rhythm of its own.

        A counter that moves in steps is read within each of them, so that each step is seen.
        """
        self._checks += 1
        steps = [m.step_s for m in self._meter.gpu_meters if not m.by_power and m.step_s > SMOOTH_STEP_S]
        shortest_s = min((max(CHECK_SHARE * step_s, LEAST_CHECK_S) for step_s in steps), default=CHECK_S)
        return min(shortest_s, CHECK_S) * (0.85 + 0.3 * (self._checks * GOLDEN_RATIO % 1.0))

    def _warn(self, kind: str, message: str) -> None:
        if not any(w["kind"] == kind for w in self.warnings):
            self.warnings.append({"kind": kind, "message": message})


class PhaseWindow:
    """`with recording.phase(name):`"""

    def __init__(self, recording: Recording, name: str):
        self._recording, self._name = recording, name

    def __enter__(self) -> PhaseWindow:
        self._recording.begin_phase(self._name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._recording.end_phase()


def _both_clocks() -> tuple[float, float]:
    """Read (seconds since 1970, perf_counter) of one moment; read again if the process was suspended in between."""
    before_s, at_s, after_s = time.time(), time.perf_counter(), time.time()
    for _ in range(5):
        if after_s - before_s < 0.0005:
            break
        before_s, at_s, after_s = time.time(), time.perf_counter(), time.time()
    return (before_s + after_s) / 2, at_s
