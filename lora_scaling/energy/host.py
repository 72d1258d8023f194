"""Find out what else the machine was doing: CPU time of other processes, and their use of the GPUs."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CpuTimes:
    """CPU seconds since boot: of all processes, of ours, and of all cores together (busy or not)."""

    busy_s: float
    total_s: float
    own_s: float
    at_s: float


def system_times() -> tuple[float, float]:
    """Return (busy, total) CPU seconds of the machine since boot, as CodeCarbon's load model counts them."""
    import psutil

    times = psutil.cpu_times()
    total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total_s - times.idle - getattr(times, "iowait", 0.0), total_s


def sees_all_cores() -> bool:
    """Return whether the load is that of all cores: some containers (lxcfs) see only their own."""
    try:
        import psutil

        with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
            spans = [span.split("-") for span in file.read().strip().split(",")]
        online = sum(int(span[-1]) - int(span[0]) + 1 for span in spans)
        return online <= (psutil.cpu_count() or 0)
    except (OSError, ValueError):
        return False


def relatives(ranks: bool) -> list[Any]:
    """Return the descendants of this process (psutil); with `ranks`, those of its launcher, the other ranks."""
    import psutil

    me = psutil.Process()
    top = (me.parent() or me) if ranks else me
    return [process for process in top.children(recursive=True) if process.pid != me.pid]


def cpu_times(ranks: bool = False) -> CpuTimes | None:
    """Read the CPU times now; None if the system does not report them. `ranks`: the run's processes are ours."""
    try:
        import psutil

        busy_s, total_s = system_times()
        own = os.times()
        own_s = own.user + own.system + own.children_user + own.children_system
        for process in relatives(ranks):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                own_s += times.user + times.system
    except Exception:
        return None
    return CpuTimes(busy_s=busy_s, total_s=total_s, own_s=own_s, at_s=time.perf_counter())


def other_load_cores(start: CpuTimes | None, end: CpuTimes | None) -> float | None:
    """Return the mean number of cores that other processes kept busy between two readings; None if unknown."""
    if start is None or end is None or end.at_s - start.at_s < 0.2:
        return None
    others_s = (end.busy_s - start.busy_s) - (end.own_s - start.own_s)
    return max(others_s, 0.0) / (end.at_s - start.at_s)


def busy_limit_cores() -> float:
    """Return the load of others above which a run is not alone: a tenth of the cores, at most one core."""
    return max(0.2, min(1.0, 0.1 * (os.cpu_count() or 1)))


def own_pids(ranks: bool = False) -> set[int]:
    """Return this process and its descendants; with `ranks`, those of its launcher."""
    pids = {os.getpid()}
    with contextlib.suppress(Exception):
        pids.update(process.pid for process in relatives(ranks))
    return pids


def judge_gpu_processes(seen: set[int], own: set[int]) -> tuple[bool | None, list[int]]:
    """Return (whether the GPU was ours alone, processes of others), from the pids NVML saw on one GPU.

    NVML uses the process numbers of the host. In a container, our own process then looks like a foreign one. So a
    single foreign process may be us, and the answer is None.
    """
    others = sorted(seen - own)
    if not others:
        return True, []
    if not seen & own and len(others) == 1 and _in_container():
        return None, others
    return False, others


def _in_container() -> bool:
    """Return whether process numbers differ from the host's: then process 2 is not the kernel thread daemon."""
    try:
        with open("/proc/2/comm", encoding="ascii") as file:
            return file.read().strip() != "kthreadd"
    except OSError:
        return os.path.isdir("/proc/self")


def cpu_shape(source: str, busy_share: float) -> float:
    """Return the relative CPU power at a load from 0 to 1, to spread the CPU energy of a phase over its bins.

    For the load model, this is CodeCarbon's own formula (external/hardware.py). For a measured total, it is only a
    plausible shape.
    """
    load = min(max(busy_share, 0.0), 1.0)
    if source == "load_model":
        return 0.1 + 0.9 * load**3
    if source in ("constant_model", "none"):
        return 1.0
    return 0.3 + 0.7 * load
