"""The meter of this process: its sensors, opened once, and one recording at a time."""

from __future__ import annotations

import os
from collections.abc import Callable

from lora_scaling.energy.recording import Recording
from lora_scaling.energy.sensors import Sensors
from lora_scaling.energy.settings import MeteringSettings


class EnergyMeter(Sensors):
    """The sensors, and the recordings made with them."""

    def __init__(self, settings: MeteringSettings, synchronize: Callable[[], None] | None = None):
        super().__init__(settings, synchronize)
        self._current: Recording | None = None

    def recording(self) -> Recording:
        """A new run. One at a time: one that is still open ends here, which its account says."""
        if self._current is not None:
            self._current.give_way()
        self._current = Recording(self)
        return self._current

    def close(self) -> None:
        """Let go of the sensors; a later open_meter starts anew."""
        for key in [key for key, meter in _meters.items() if meter is self]:
            del _meters[key]
        if self.nvml is not None:
            self.nvml.close()


_meters: dict[tuple[int, MeteringSettings, str | None], EnergyMeter] = {}


def open_meter(
    settings: MeteringSettings, synchronize: Callable[[], None] | None = None, *, gpu_expected: bool = False
) -> EnergyMeter:
    """This process's meter for these settings and visible GPUs; the first call takes 1.5 to 3 s to find the sensors.

    synchronize: waits until the device has finished its work (torch.cuda.synchronize), called at every edge.
    gpu_expected: the work is done on a GPU: its energy is unknown, not absent, where no sensor of it can be read.
    Raises nothing because of a sensor: what cannot be measured is None with a reason in every record.
    """
    # The runs of a sweep may be on different devices; a run on a GPU hides the others from then on.
    key = (os.getpid(), settings, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if key not in _meters:
        _meters[key] = EnergyMeter(settings, synchronize)
    _meters[key].synchronize = synchronize
    _meters[key].gpu_expected = gpu_expected
    return _meters[key]
