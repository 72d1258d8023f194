"""Read NVIDIA's management library directly. Every call can fail; a failure is a SensorError with a reason.

pynvml is imported on first use. Energies in joules, powers in watts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# nvml.h: nvmlReturn_t
NOT_SUPPORTED, NOT_FOUND, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, GPU_IS_LOST = 3, 6, 9, 12, 15

INSTANT_S, MEAN_S = 0.1, 1.0  # over how long a power reading is a mean

# nvml.h: nvmlClocksEventReasons; the last column says whether it causes a warning.
THROTTLE_REASONS = (
    (0x01, "idle", False),
    (0x02, "application_clocks", False),
    (0x04, "power_cap", False),
    (0x08, "hardware_slowdown", True),
    (0x10, "sync_boost", False),
    (0x20, "thermal_software", True),
    (0x40, "thermal_hardware", True),
    (0x80, "power_brake", True),
    (0x100, "display_clocks", False),
)
ALARMING = frozenset(name for _, name, alarming in THROTTLE_REASONS if alarming)


class SensorError(Exception):
    """A failed reading. `code` is NVML's return value, or None if the library itself is not usable."""

    def __init__(self, text: str, code: int | None = None):
        super().__init__(text)
        self.code = code

    @property
    def no_gpu(self) -> bool:
        """Whether the failure means that there is no GPU: no library, no driver or no device. Others mean nothing."""
        return self.code in (None, NOT_FOUND, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One physical GPU as listed by NVML. `handle` is NVML's and valid only in this process."""

    index: int
    uuid: str | None
    name: str | None
    handle: Any


class Nvml:
    """The opened library and its GPUs in NVML (PCI bus) order."""

    name = "nvml"

    def __init__(self, library: Any, gpus: tuple[Gpu, ...], missing: dict[int, str]):
        self._nvml = library
        self.gpus = gpus
        self.missing = missing  # index → why this GPU cannot be read
        self._instant: dict[int, bool] = {}  # index → whether it shows its power of the moment

    @classmethod
    def open(cls) -> Nvml:
        """Load the library and list its GPUs. Raises SensorError if there is no library, driver or GPU."""
        try:
            import pynvml

            pynvml.nvmlInit()
            count = int(pynvml.nvmlDeviceGetCount())
        except Exception as error:
            raise _sensor_error(error) from error
        gpus, missing = [], {}
        for index in range(count):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            except Exception as error:
                missing[index] = str(error)
                continue
            uuid = _optional(lambda h=handle: _text(pynvml.nvmlDeviceGetUUID(h)))
            name = _optional(lambda h=handle: _text(pynvml.nvmlDeviceGetName(h)))
            gpus.append(Gpu(index=index, uuid=uuid, name=name, handle=handle))
        if not gpus and not missing:
            raise SensorError("NVML lists no GPU")
        return cls(pynvml, tuple(gpus), missing)

    def energy_j(self, gpu: Gpu) -> float:
        """Read the energy counter: joules since the driver was loaded."""
        return self._read(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle) / 1000.0)

    def power_w(self, gpu: Gpu) -> float:
        """Read the power: of the moment where the driver shows it, otherwise see `power_lag_s`."""
        if self.power_lag_s(gpu) < MEAN_S:
            watts = _optional(lambda: self._instant_power_w(gpu))
            if watts is not None:
                return watts
        return self._read(lambda: self._nvml.nvmlDeviceGetPowerUsage(gpu.handle) / 1000.0)

    def power_lag_s(self, gpu: Gpu) -> float:
        """Return over how many seconds the power readings may be a mean.

        From Ampere on (except GA100), nvmlDeviceGetPowerUsage is a mean over the last second (nvml.h); drivers since
        530 also show the power of the moment, which is sampled every 100 ms at the most (arXiv 2312.02741).
        """
        if gpu.index not in self._instant:
            self._instant[gpu.index] = bool(_optional(lambda: self._instant_power_w(gpu)))
        return INSTANT_S if self._instant[gpu.index] else MEAN_S

    def _instant_power_w(self, gpu: Gpu) -> float | None:
        """Return the power of the moment; None if the driver does not show it."""
        [value] = self._nvml.nvmlDeviceGetFieldValues(gpu.handle, [self._nvml.NVML_FI_DEV_POWER_INSTANT])
        known = value.nvmlReturn == 0 and value.valueType == self._nvml.NVML_VALUE_TYPE_UNSIGNED_INT
        return value.value.uiVal / 1000.0 if known else None

    def mig_parent(self, uuid: str) -> Gpu | None:
        """Return the GPU that contains the MIG device with this UUID, or None if NVML does not know it."""
        nvml = self._nvml
        try:
            mig = nvml.nvmlDeviceGetHandleByUUID(uuid)
            index = nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig))
        except Exception:
            return None
        return next((gpu for gpu in self.gpus if gpu.index == index), None)

    def driver(self) -> str | None:
        return _optional(lambda: _text(self._nvml.nvmlSystemGetDriverVersion()))

    def power_limit_w(self, gpu: Gpu) -> float | None:
        return _optional(lambda: self._nvml.nvmlDeviceGetEnforcedPowerLimit(gpu.handle) / 1000.0)

    def temperature_c(self, gpu: Gpu) -> float | None:
        return _optional(lambda: float(self._nvml.nvmlDeviceGetTemperature(gpu.handle, 0)))

    def sm_clock_mhz(self, gpu: Gpu) -> float | None:
        return _optional(lambda: float(self._nvml.nvmlDeviceGetClockInfo(gpu.handle, self._nvml.NVML_CLOCK_SM)))

    def memory_clock_mhz(self, gpu: Gpu) -> float | None:
        return _optional(lambda: float(self._nvml.nvmlDeviceGetClockInfo(gpu.handle, self._nvml.NVML_CLOCK_MEM)))

    def throttle_reasons(self, gpu: Gpu) -> frozenset[str] | None:
        """Return why the clocks are below their maximum. If the call fails, its older name is tried."""
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        for name in names:
            mask = _optional(lambda n=name: int(getattr(self._nvml, n)(gpu.handle)))
            if mask is not None:
                return frozenset(reason for bit, reason, _ in THROTTLE_REASONS if mask & bit)
        return None

    def compute_pids(self, gpu: Gpu) -> frozenset[int] | None:
        """Return the processes with a compute context, with the process numbers of the host (not of a container)."""
        return _optional(
            lambda: frozenset(int(p.pid) for p in self._nvml.nvmlDeviceGetComputeRunningProcesses(gpu.handle))
        )

    def mig_enabled(self, gpu: Gpu) -> bool:
        return bool(_optional(lambda: self._nvml.nvmlDeviceGetMigMode(gpu.handle)[0] == 1))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._nvml.nvmlShutdown()

    def _read(self, call: Callable[[], float]) -> float:
        try:
            return float(call())
        except Exception as error:
            raise _sensor_error(error) from error


def _sensor_error(error: Exception) -> SensorError:
    return SensorError(f"NVML: {error}", getattr(error, "value", None))


def _optional(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or None if the driver, the device or the library does not support it."""
    try:
        return call()
    except Exception:
        return None


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
