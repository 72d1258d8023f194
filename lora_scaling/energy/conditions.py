"""Record the conditions of a measurement: temperature, clocks, throttling, and other processes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from lora_scaling.energy import host
from lora_scaling.energy.amd import Amd
from lora_scaling.energy.nvml import ALARMING, Gpu, Nvml


@dataclass
class GpuConditions:
    """Readings of one GPU during a run, a few seconds apart."""

    gpu: Gpu
    temperatures_c: list[float] = field(default_factory=list)
    sm_clocks_mhz: list[float] = field(default_factory=list)
    memory_clocks_mhz: list[float] = field(default_factory=list)
    throttle: set[str] = field(default_factory=set)
    pids: set[int] = field(default_factory=set)

    def read(self, nvml: Nvml | Amd) -> None:
        for value, series in (
            (nvml.temperature_c(self.gpu), self.temperatures_c),
            (nvml.sm_clock_mhz(self.gpu), self.sm_clocks_mhz),
            (nvml.memory_clock_mhz(self.gpu), self.memory_clocks_mhz),
        ):
            if value is not None:
                series.append(value)
        self.throttle |= nvml.throttle_reasons(self.gpu) or frozenset()
        self.pids |= nvml.compute_pids(self.gpu) or frozenset()


class ConditionsLog:
    """Collects readings over one recording; `summary` gives the `conditions` section, `exclusive` and warnings."""

    def __init__(self, nvml: Nvml | Amd | None, gpus: tuple[Gpu, ...], constants: dict[str, Any], ranks: bool):
        self._nvml = nvml
        self._gpus = [GpuConditions(gpu=gpu) for gpu in gpus]
        self._constants = constants
        self._ranks = ranks
        self._own: set[int] = set()  # processes of the run that were seen on a GPU, also those that have ended
        self._cpu_start = host.cpu_times(ranks)

    def read(self) -> None:
        if self._nvml is not None:
            known = {pid for gpu in self._gpus for pid in gpu.pids}
            for gpu in self._gpus:
                gpu.read(self._nvml)
            if {pid for gpu in self._gpus for pid in gpu.pids} - known:
                self._own |= host.own_pids(self._ranks)

    def summary(self, *, gpu_in_use: bool = False) -> tuple[dict[str, Any], bool | None, list[dict[str, str]]]:
        """Return the section, whether the machine was ours alone, and warnings.

        gpu_in_use: the run computed on a GPU. If its own process was then seen on none, as under WSL2 or MIG, others
        would not have been seen either.
        """
        warnings: list[dict[str, str]] = []
        verdicts: list[bool | None] = []
        own = self._own | host.own_pids(self._ranks) if self._gpus else set()
        blind = gpu_in_use and not any(entry.pids & own for entry in self._gpus)
        gpus = []
        for entry in self._gpus:
            alone, others = host.judge_gpu_processes(entry.pids, own)
            # The processes of a divided board (MIG) are only seen from within their own slice.
            verdicts.append(None if alone and (blind or self._is_divided(entry.gpu)) else alone)
            gpus.append(self._describe(entry, others))
            if alone is False:
                warnings.append(_warning("shared_gpu", f"GPU {entry.gpu.index} was also used by processes {others}."))
            alarming = sorted(entry.throttle & ALARMING)
            if alarming:
                warnings.append(_warning("throttled", f"GPU {entry.gpu.index} was slowed down: {', '.join(alarming)}."))
        load_cores = host.other_load_cores(self._cpu_start, host.cpu_times(self._ranks))
        verdicts.append(None if load_cores is None else load_cores <= host.busy_limit_cores())
        if verdicts[-1] is False:
            warnings.append(
                _warning("cpu_load", f"Other processes kept {load_cores:.2f} CPU cores busy during the run.")
            )
        exclusive = False if False in verdicts else None if None in verdicts else True
        temperatures = [t for entry in self._gpus for t in entry.temperatures_c]
        section = {
            **self._constants,
            "other_cpu_load_cores": None if load_cores is None else round(load_cores, 3),
            "gpu_temperature_c": round(statistics.fmean(temperatures), 1) if temperatures else None,
            "gpus": gpus,
        }
        return section, exclusive, warnings

    def _is_divided(self, gpu: Gpu) -> bool:
        return self._nvml is not None and self._nvml.mig_enabled(gpu)

    def _describe(self, entry: GpuConditions, others: list[int]) -> dict[str, Any]:
        assert self._nvml is not None  # there are no entries without it
        return {
            "index": entry.gpu.index,
            "uuid": entry.gpu.uuid,
            "name": entry.gpu.name,
            "power_limit_w": self._nvml.power_limit_w(entry.gpu),
            "temperature_c": _range(entry.temperatures_c),
            "sm_clock_mhz": _range(entry.sm_clocks_mhz),
            "memory_clock_mhz": _range(entry.memory_clocks_mhz),
            "throttle_reasons": sorted(entry.throttle),
            "other_processes": others,
            "mig": self._nvml.mig_enabled(entry.gpu),
        }


def _range(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    mean = round(statistics.fmean(values), 1)
    return {"first": values[0], "last": values[-1], "min": min(values), "mean": mean, "max": max(values)}


def _warning(kind: str, message: str) -> dict[str, str]:
    return {"kind": kind, "message": message}
