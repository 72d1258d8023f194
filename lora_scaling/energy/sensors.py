"""Find the sensors of this process: which are available, which are not, and why."""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Callable
from typing import Any

from lora_scaling.energy.amd import Amd, visible_amd_gpus
from lora_scaling.energy.counter_check import AGREE, AGREE_MODULE, CounterCheck
from lora_scaling.energy.gpu import GpuEnergyMeter, probe_step
from lora_scaling.energy.measurement import IdleBaseline
from lora_scaling.energy.nvml import Gpu, Nvml, SensorError
from lora_scaling.energy.settings import MeteringSettings
from lora_scaling.energy.tracker import Tracker
from lora_scaling.energy.visible_gpus import select_gpus, share_of

SUPERCHIP = re.compile(r"\bG[HB][23]00\b")  # Grace with Hopper or Blackwell: GH200 480GB, GB200


def is_superchip(name: str | None) -> bool:
    """Return whether the counter of a GPU of this name covers the processor and memory beside it (zeus PR#172)."""
    return bool(SUPERCHIP.search(name or ""))


def unused_gpu_warnings() -> list[dict[str, str]]:
    """Return a warning if NVML lists GPUs that are visible, for work that went to the processor without being asked."""
    try:
        nvml = Nvml.open()
    except SensorError:
        return []
    try:
        gpus = select_gpus(nvml.gpus, os.environ, mig_parent=nvml.mig_parent).gpus
    finally:
        nvml.close()
    if not gpus:
        return []
    text = (
        f"This machine has {gpus[0].name or 'a GPU'}, but torch cannot use it: the work was done on the processor, and "
        "the GPU was not measured; install a torch that is built for its driver, or say device=cpu."
    )
    return [{"kind": "gpu_unused", "message": text}]


class Sensors:
    """The sensors of this process, opened once. A missing one is None, with the reason."""

    def __init__(self, settings: MeteringSettings, synchronize: Callable[[], None] | None = None):
        self.settings = settings
        self.synchronize = synchronize
        self.idle: IdleBaseline | None = None
        self.nvml: Nvml | Amd | None = None
        self.gpus: tuple[Gpu, ...] = ()
        self.unreadable: dict[int, str] = {}  # index → why, of the chosen GPUs
        self.gpu_expected = False
        self.gpu_reason: str | None = None
        self.gpu_hidden = False  # NVML failed in a way that does not mean that there is no GPU
        self.tracker: Tracker | None = None
        self.tracker_reason: str | None = None
        self.warnings: list[dict[str, str]] = []
        self.gpu_meters: tuple[GpuEnergyMeter, ...] = ()
        self.constants: dict[str, Any] = {}
        if settings.enabled:
            self._open_gpus()
            self._open_tracker()
            self._describe()

    def _open_gpus(self) -> None:
        if "gpu" not in self.settings.components:
            self.gpu_reason = "GPU energy is not measured by this process"
            return
        if self.settings.gpu_ids == ():
            self.gpu_reason = "no GPU is in use: the work is done on the processor"
            return
        try:
            self.nvml = Nvml.open()
        except SensorError as error:
            self._open_amd()
            if self.nvml is None:
                # With an empty CUDA_VISIBLE_DEVICES no GPU is this process's, whatever NVML knows.
                hidden = self.gpu_hidden or not error.no_gpu
                self.gpu_hidden = hidden and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
                self.gpu_reason = self.gpu_reason or (f"{error}" if self.gpu_hidden else f"no GPU ({error})")
                return
        missing = self.nvml.missing
        if isinstance(self.nvml, Nvml):
            listed = [*self.nvml.gpus, *(Gpu(index=index, uuid=None, name=None, handle=None) for index in missing)]
            selection = select_gpus(
                sorted(listed, key=lambda gpu: gpu.index),
                os.environ,
                gpu_ids=self.settings.gpu_ids,
                share=self.settings.gpu_share,
                one_gpu=self.settings.one_gpu,
                mig_parent=self.nvml.mig_parent,
                computing=self.settings.gpu_uuid,
            )
            chosen = selection.gpus
            self.warnings.extend(selection.warnings)
        else:
            chosen = visible_amd_gpus(self.nvml.gpus, os.environ, self.settings.gpu_ids)
            chosen = share_of(chosen, self.settings.gpu_share, one_each=self.settings.one_gpu)
        self.gpus = tuple(gpu for gpu in chosen if gpu.index not in missing)
        self.unreadable = {gpu.index: missing[gpu.index] for gpu in chosen if gpu.index in missing}
        for index, why in missing.items():
            self.warnings.append({"kind": "gpu_unreadable", "message": f"GPU {index} cannot be read: {why}"})
        if not self.gpus:
            self.gpu_reason = "no GPU is visible to this process"
        told = {warning["message"] for warning in self.warnings if warning["kind"] == "mig"}
        for gpu in self.gpus:
            if self.nvml.mig_enabled(gpu) and not any(f"GPU {gpu.index}:" in message for message in told):
                what = "it is divided (MIG), and its counter covers all slices, with whatever runs on them."
                text = f"GPU {gpu.index}: {what}"
                self.warnings.append({"kind": "mig", "message": text})
        self.gpu_meters = tuple(
            GpuEnergyMeter(
                sensor=self.nvml,
                gpu=gpu,
                library=self.nvml.name,
                read_limit=functools.partial(self.nvml.power_limit_w, gpu),
                check=CounterCheck(
                    agree=AGREE_MODULE if is_superchip(gpu.name) else AGREE, lag_s=self.nvml.power_lag_s(gpu)
                ),
            )
            for gpu in self.gpus
        )
        for meter in self.gpu_meters:
            meter.open()
        probe_step(self.gpu_meters)

    @property
    def divided_board(self) -> str | None:
        """Return the UUID of the board that is metered, if it is divided (MIG): its counter is that of all slices."""
        divided = [gpu.uuid for gpu in self.gpus if self.nvml is not None and self.nvml.mig_enabled(gpu)]
        return divided[0] if divided else None

    def _open_amd(self) -> None:
        try:
            self.nvml = Amd.open()
        except SensorError as error:
            if not error.no_gpu:
                self.gpu_hidden, self.gpu_reason = True, f"{error}"

    def _open_tracker(self) -> None:
        gpu_ids = [gpu.index for gpu in self.gpus]
        try:
            self.tracker = Tracker(self.settings.country_iso, gpu_ids)
            if self.settings.cpu_power_w is not None:
                self.tracker.use_cpu_power(self.settings.cpu_power_w)
        except Exception as error:
            self.tracker_reason = f"CodeCarbon could not be started: {error!r}"
            self.warnings.append({"kind": "tracker", "message": self.tracker_reason})

    def _describe(self) -> None:
        self.constants = {
            "driver": self.nvml.driver() if self.nvml else None,
            "counter_step_s": [round(m.step_s, 4) if not m.by_power else None for m in self.gpu_meters],
            "platform": platform.platform(),
            "hardware": self.tracker.hardware if self.tracker else None,
            "cpu_model": self.tracker.sources()["cpu"].detail if self.tracker else None,
        }
