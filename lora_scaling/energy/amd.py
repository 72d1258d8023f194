"""Read AMD's management library (`amdsmi`, part of ROCm), with the interface of `nvml.Nvml`.

The calls are those of CodeCarbon 3.3 (core/gpu_amd.py). No AMD GPU was available for testing. Energies in joules,
powers in watts.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_scaling.energy.nvml import MEAN_S, Gpu, SensorError

UNREADABLE = 999  # as NVML's unknown error: neither "no GPU" nor "lost"
VISIBLE = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


class Amd:
    """The opened library and its GPUs, in its own order."""

    name = "amdsmi"

    def __init__(self, library: Any, gpus: tuple[Gpu, ...], missing: dict[int, str]):
        self._smi = library
        self.gpus = gpus
        self.missing = missing  # index → why this GPU cannot be read

    @classmethod
    def open(cls) -> Amd:
        """Load the library and list its GPUs. Raises SensorError if there is no library, driver or GPU."""
        try:
            import amdsmi  # pyright: ignore[reportMissingImports]
        except Exception as error:
            raise SensorError(f"amdsmi: {error}") from error
        try:
            amdsmi.amdsmi_init()
            handles = list(amdsmi.amdsmi_get_processor_handles())
        except Exception as error:
            raise SensorError(f"amdsmi: {error}", UNREADABLE) from error
        if not handles:
            raise SensorError("amdsmi lists no GPU")
        gpus = [
            Gpu(
                index=index,
                uuid=_text(_optional(lambda h=handle: amdsmi.amdsmi_get_gpu_device_uuid(h))),
                name=_text(_optional(lambda h=handle: amdsmi.amdsmi_get_gpu_asic_info(h)["market_name"])),
                handle=handle,
            )
            for index, handle in enumerate(handles)
        ]
        library = cls(amdsmi, (), {})
        library.gpus = tuple(gpu for gpu in gpus if not library.is_counted_with_its_neighbour(gpu))
        return library

    def is_counted_with_its_neighbour(self, gpu: Gpu) -> bool:
        """Return whether this is the second half of a double chip, which shows nothing: the first half shows both."""
        name = (gpu.name or "").upper()
        if gpu.index % 2 == 0 or "MI210" in name or not ("MI2" in name or "MI3" in name):
            return False
        shown = (_optional(lambda: self.energy_j(gpu)), _optional(lambda: self.power_w(gpu)))
        return not any(shown)

    def energy_j(self, gpu: Gpu) -> float:
        """Read the energy counter: joules since some moment."""
        count = self._read(lambda: dict(self._smi.amdsmi_get_energy_count(gpu.handle)))
        value = count.get("energy_accumulator", count.get("power"))
        resolution_uj = count.get("counter_resolution")
        if not _is_number(value) or not _is_number(resolution_uj) or value * resolution_uj <= 0:
            raise SensorError(f"amdsmi: the energy counter reads {value!r} × {resolution_uj!r} µJ", UNREADABLE)
        return value * resolution_uj / 1e6

    def power_w(self, gpu: Gpu) -> float:
        """Read the power of the socket."""
        power = self._read(lambda: dict(self._smi.amdsmi_get_power_info(gpu.handle)))
        for field in ("current_socket_power", "socket_power", "average_socket_power"):
            if _is_number(power.get(field)) and power[field] > 0:
                return float(power[field])
        raise SensorError("amdsmi: no power is shown", UNREADABLE)

    def power_lag_s(self, gpu: Gpu) -> float:
        """Return over how many seconds the power readings may be a mean."""
        return MEAN_S

    def power_limit_w(self, gpu: Gpu) -> float | None:
        return _optional(lambda: self._smi.amdsmi_get_power_cap_info(gpu.handle)["power_cap"] / 1e6)

    def mig_parent(self, uuid: str) -> Gpu | None:
        return None

    def mig_enabled(self, gpu: Gpu) -> bool:
        return False

    def driver(self) -> str | None:
        """Return the version of the driver that the first GPU names."""
        if not self.gpus:
            return None
        version = _optional(lambda: self._smi.amdsmi_get_gpu_driver_info(self.gpus[0].handle)["driver_version"])
        return _text(version)

    def temperature_c(self, gpu: Gpu) -> float | None:
        smi = self._smi
        shown = _optional(
            lambda: smi.amdsmi_get_temp_metric(
                gpu.handle, smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
            )
        )
        if not _is_number(shown) or not shown > 0:
            return None
        return shown / 1000 if shown > 1000 else float(shown)  # older versions: thousandths

    def sm_clock_mhz(self, gpu: Gpu) -> float | None:
        return None

    def memory_clock_mhz(self, gpu: Gpu) -> float | None:
        return None

    def throttle_reasons(self, gpu: Gpu) -> frozenset[str] | None:
        return None

    def compute_pids(self, gpu: Gpu) -> frozenset[int] | None:
        return _optional(lambda: frozenset(int(p["pid"]) for p in self._smi.amdsmi_get_gpu_process_list(gpu.handle)))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._smi.amdsmi_shut_down()

    def _read(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            raise SensorError(f"amdsmi: {error}", UNREADABLE) from error


def visible_amd_gpus(
    gpus: Sequence[Gpu], environ: Mapping[str, str], gpu_ids: Sequence[str | int] | None
) -> tuple[Gpu, ...]:
    """Return the GPUs that `gpu_ids`, or else ROCm's variables, name by index; all without either."""
    if gpu_ids is not None:
        entries = [str(item) for item in gpu_ids]
    else:
        listed = next((environ[name] for name in VISIBLE if name in environ), None)
        if listed is None:
            return tuple(gpus)
        entries = listed.split(",")
    chosen = [gpu for entry in entries for gpu in gpus if entry.strip() in (str(gpu.index), gpu.uuid)]
    return tuple({gpu.index: gpu for gpu in chosen}.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _optional(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception:
        return None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
