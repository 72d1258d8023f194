"""Run CodeCarbon. Only this module starts it and reads its private attributes.

CPU and RAM energy, and the energy of GPUs that NVML does not know, come from CodeCarbon. It does not report whether a
figure was measured or modelled; only its private attributes show this (3.3.2). They are read here and nowhere else,
defensively. tests/energy/test_tracker.py fails if an upgrade moves them.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lora_scaling.energy.rapl import RaplCounter, counters_of
from lora_scaling.units import JOULES_PER_KWH

# CPU._mode (codecarbon/external/hardware.py, core/resource_tracker.py)
CPU_SOURCES = {
    "intel_rapl": "rapl",
    "cpu_load": "load_model",
    "constant": "constant_model",
    "windows_emi": "windows_emi",
    "intel_power_gadget": "power_gadget",
}
NO_APPLE_GPU = "CodeCarbon reads an Apple GPU only through powermetrics, which it does not use here"
# Rated power per thread: 1.9 W (EPYC 9965) to 8 W (desktops). CodeCarbon takes 4 W for a processor it does not know.
UNKNOWN_CPU_BOUND = 2.0


@dataclass(frozen=True, kw_only=True)
class ComponentSource:
    """The source of a component's energy, and details worth recording.

    relative_bound: half-width of its error, if it is not the usual one of the source.
    """

    name: str
    reason: str | None = None
    detail: str | None = None
    relative_bound: float | None = None


@dataclass(frozen=True, kw_only=True)
class TaskEnergy:
    """One task window of CodeCarbon in joules; all None, with a reason, if it failed."""

    joules: dict[str, float | None]
    reason: str | None = None


NOTHING: dict[str, float | None] = {"gpu": None, "cpu": None, "ram": None}


def tracker_arguments(country_iso: str, gpu_ids: Sequence[int], output_dir: str) -> dict[str, Any]:
    """Return every parameter of OfflineEmissionsTracker, because unset ones are read from CODECARBON_* or a dotfile.

    `electricitymaps_api_token` is empty and not None, which would look for a token and use the network. A forced
    intensity skips the country tables; the grams are not used. PUE is applied by this project, once and visibly.
    """
    return {
        "project_name": "lora-scaling", "experiment_id": "none", "experiment_name": "none",
        "measure_power_secs": 1.0, "tracking_mode": "machine", "gpu_ids": list(gpu_ids),
        "pue": 1.0, "wue": 0.0, "force_carbon_intensity_g_co2e_kwh": 0.0,
        "force_cpu_power": None, "force_ram_power": None, "force_mode_cpu_load": False,
        "rapl_include_dram": False, "rapl_prefer_psys": False, "allow_multiple_runs": True,
        "output_methods": [], "output_handlers": [], "output_dir": output_dir,
        "output_file": "emissions.csv", "on_csv_write": "append", "metadata": None,
        "api_call_interval": -1, "api_endpoint": "", "api_key": "", "emissions_endpoint": None,
        "electricitymaps_api_token": "", "logging_logger": None, "prometheus_url": "",
        "log_level": "critical", "logger_preamble": "",
        "country_iso_code": country_iso, "country_2letter_iso_code": None, "region": None,
        "cloud_provider": None, "cloud_region": None,
    }  # fmt: skip


class Tracker:
    """CodeCarbon's task windows. Only tasks are used, because `start()` together with `start_task()` loses energy."""

    def __init__(self, country_iso: str, gpu_ids: Sequence[int]):
        """Detect the hardware and run one empty task, which takes 1 to 3 s. Raises what CodeCarbon raises."""
        from codecarbon import OfflineEmissionsTracker

        # Its constructor logs before it reads `log_level`.
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        self._open = False
        self._cpu_power_w: float | None = None
        self._rapl: tuple[tuple[str, ...], list[RaplCounter]] = ((), [])
        with _whole_host():
            self._tracker = OfflineEmissionsTracker(**tracker_arguments(country_iso, gpu_ids, tempfile.gettempdir()))
            # Its __init__ suppresses every exception; a broken object shows only here, where it detects the hardware.
            self._tracker.start_task("detect")
            if self._tracker.stop_task() is None:
                raise RuntimeError("CodeCarbon could not run a task")
            for part in self._tracker._hardware:
                if type(part).__name__ == "RAM":  # otherwise it asks Slurm at every measurement
                    part.memory_size = part.machine_memory_GB
        self.hardware = hardware_of(self._tracker)

    def use_cpu_power(self, watts: float) -> None:
        """Let the CPU model take `watts` as the rated power of the processor. Sensors are not affected."""
        for part in self._tracker._hardware:
            if type(part).__name__ == "CPU" and part._mode in ("cpu_load", "constant"):
                part._tdp = watts
                self._cpu_power_w = watts

    def rapl_counters(self) -> list[RaplCounter]:
        """Return the counters of the domains that CodeCarbon would read; empty if it does not use RAPL."""
        try:
            parts = [p for p in self._tracker._hardware if type(p).__name__ == "CPU" and p._mode == "intel_rapl"]
            files = tuple(file.path for part in parts for file in part._intel_interface._rapl_files)
            if files != self._rapl[0]:
                rated_w = None
                if parts:
                    rated_w = registered_power_w(parts[0]._model) if parts[0]._is_generic_tdp else parts[0]._tdp
                self._rapl = (files, counters_of(files, rated_w, memory_gb()))
        except Exception:  # the attributes have moved: CodeCarbon's own figure is used then
            return []
        return self._rapl[1]

    def start(self) -> str | None:
        """Open a task window, after closing an open one. Return the reason if it could not be opened."""
        if self._open:  # start_task during an active task only writes a line to a log
            self.stop()
        try:
            self._tracker.start_task(None)
        except Exception as error:
            return f"CodeCarbon's start_task failed: {error!r}"
        self._open = True
        return None

    def poll_rapl(self) -> str | None:
        """Make CodeCarbon read a RAPL counter now. Call this at least every few minutes while a window is open.

        Its figure only stands beside ours, but is to be comparable: it reads the counter at the beginning and end of a
        task, so it sees at most one wrap. Readings in between go into its totals, and the task is their difference.
        Return the reason if it failed; None for other sources, which do not need this.
        """
        if not self._open or self.sources()["cpu"].name != "rapl":
            return None
        try:
            self._tracker._measure_power_and_energy()
        except Exception as error:
            return f"CodeCarbon could not read the RAPL counter within a window: {error!r}"
        return None

    def stop(self) -> TaskEnergy:
        """Close the window and return its joules per component."""
        if not self._open:
            return TaskEnergy(joules=dict(NOTHING), reason="CodeCarbon's window was not open")
        self._open = False
        try:
            data = self._tracker.stop_task()
            joules: dict[str, float | None] = {
                name: float(getattr(data, f"{name}_energy")) * JOULES_PER_KWH for name in NOTHING
            }
        except Exception as error:
            return TaskEnergy(joules=dict(NOTHING), reason=f"CodeCarbon's stop_task failed: {error!r}")
        # CodeCarbon keeps finished tasks by name, for a final report that is never made.
        with contextlib.suppress(Exception):
            self._tracker._tasks.clear()
        return TaskEnergy(joules=joules)

    def sources(self) -> dict[str, ComponentSource]:
        """Return how CodeCarbon obtains each component now (a GPU may lose its counter during a run)."""
        try:
            return sources_of(self._tracker, self._cpu_power_w)
        except Exception as error:
            unknown = ComponentSource(name="unknown", reason=f"CodeCarbon's attributes have moved: {error!r}")
            return dict.fromkeys(NOTHING, unknown)


def sources_of(tracker: Any, cpu_power_w: float | None = None) -> dict[str, ComponentSource]:
    """Return the source of each component, from the tracker's list of hardware. Raises AttributeError if that moved.

    cpu_power_w: the rated power that the user gave for the processor.
    """
    found = {
        "gpu": ComponentSource(name="none", reason="no GPU"),
        "cpu": ComponentSource(name="none", reason="CodeCarbon tracks no CPU here"),
        "ram": ComponentSource(name="none", reason="CodeCarbon tracks no RAM here"),
    }
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        found["gpu"] = ComponentSource(name="none", reason=NO_APPLE_GPU)
    for part in tracker._hardware:
        kind = type(part).__name__
        if kind == "RAM":
            found["ram"] = ComponentSource(name="constant_model", detail="power by memory size")
        elif kind == "CPU":
            found["cpu"] = _cpu_source(part, cpu_power_w)
        elif kind == "AppleSiliconChip":
            found[part.chip_part.lower()] = ComponentSource(name="powermetrics")
        elif kind == "Raspberry":
            found[part.chip_part.lower()] = ComponentSource(name="raspberry_pmic")
        elif kind == "GPU":
            found["gpu"] = _gpu_source(part)
    return found


def _cpu_source(part: Any, cpu_power_w: float | None) -> ComponentSource:
    name = CPU_SOURCES.get(part._mode, "unknown")
    if part._mode not in ("cpu_load", "constant"):
        return ComponentSource(name=name, detail=str(part._mode))
    if cpu_power_w is not None:
        return ComponentSource(name=name, detail=f"{part._mode}, {part._tdp:g} W by metering.cpu_power_w")
    model = getattr(part, "_model", None)
    if model is not None and registered_power_w(model) is None:
        detail = f"{part._mode}, rated power of {model!r} unknown: {part._tdp:g} W assumed (metering.cpu_power_w)"
        return ComponentSource(name=name, detail=detail, relative_bound=UNKNOWN_CPU_BOUND)
    return ComponentSource(name=name, detail=f"{part._mode}, TDP {part._tdp:g} W")


def memory_gb() -> float | None:
    """Return the memory of this machine in GiB; None if the system does not say."""
    try:
        import psutil

        return psutil.virtual_memory().total / 1024**3
    except Exception:
        return None


@functools.cache
def registered_power_w(model: str | None) -> float | None:
    """Return the rated power that CodeCarbon's table names for a processor; None if it does not know it."""
    from codecarbon.core.cpu import TDP

    try:
        watts = object.__new__(TDP)._get_cpu_power_from_registry(model) if model else None
    except Exception:  # the table has moved: unknown
        return None
    return float(watts) if watts else None


@contextlib.contextmanager
def _whole_host() -> Iterator[None]:
    """Let CodeCarbon look at the host, as it does without Slurm.

    Within a Slurm job it calls `scontrol`, which containers lack: every figure is then lost (codecarbon#462, #569).
    With `scontrol`, it multiplies the load of the host by the job's share of cores, which is neither (codecarbon#96).
    """
    from codecarbon.core import util
    from codecarbon.external import ram

    before = [(module, module.SLURM_JOB_ID) for module in (util, ram) if hasattr(module, "SLURM_JOB_ID")]
    for module, _ in before:
        setattr(module, "SLURM_JOB_ID", None)  # noqa: B010
    try:
        yield
    finally:
        for module, job in before:
            setattr(module, "SLURM_JOB_ID", job)  # noqa: B010


def _gpu_source(part: Any) -> ComponentSource:
    tracked = [device for device in part.devices.devices if device.gpu_index in part.gpu_ids]
    if not tracked:
        return ComponentSource(name="none", reason="no GPU")
    library = "amdsmi" if any("AMD" in type(device).__name__ for device in tracked) else "nvml"
    by_counter = all(device._has_counter and not device._use_power_fallback for device in tracked)
    errors = [device._counter_error for device in tracked if device._counter_error]
    return ComponentSource(
        name=f"{library}_{'counter' if by_counter else 'power'}", reason=errors[0] if errors else None
    )


def hardware_of(tracker: Any) -> dict[str, Any]:
    """Return the hardware that CodeCarbon found, for the record only."""
    conf = getattr(tracker, "_conf", {})
    keys = (
        "cpu_model",
        "cpu_count",
        "cpu_physical_count",
        "ram_total_size",
        "gpu_model",
        "codecarbon_version",
    )
    return {key: conf.get(key) for key in keys}
