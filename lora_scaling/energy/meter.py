"""Open the meter of this process: its sensors, once, and one recording at a time."""

from __future__ import annotations

import os
from collections.abc import Callable

from lora_scaling.energy.recording import Recording
from lora_scaling.energy.sensors import Sensors
from lora_scaling.energy.settings import MeteringSettings


class EnergyMeter(Sensors):
    """The sensors of this process, and the recordings made with them."""

    def __init__(self, settings: MeteringSettings, synchronize: Callable[[], None] | None = None):
        super().__init__(settings, synchronize)
        self._current: Recording | None = None

    def recording(self) -> Recording:
        """Start recording a new run. A recording that is still open ends here, and says so."""
        if self._current is not None:
            self._current.supersede()
        self._current = Recording(self)
        return self._current

    def close(self) -> None:
        """Release the sensors; a later open_meter starts again."""
        for key in [key for key, meter in _meters.items() if meter is self]:
            del _meters[key]
        if self.nvml is not None:
            self.nvml.close()


_meters: dict[tuple[int, MeteringSettings, str | None], EnergyMeter] = {}


def open_meter(
    settings: MeteringSettings, synchronize: Callable[[], None] | None = None, *, gpu_expected: bool = False
) -> EnergyMeter:
    """Return this process's meter for these settings and visible GPUs. The first call searches sensors for 1.5 to 3 s.

    synchronize: waits until the device has finished its work (torch.cuda.synchronize); called at every edge.
    gpu_expected: the work is done on a GPU, so if no sensor can read it, its energy is unknown and not absent.
    Sensors raise no error: what cannot be measured is None, with a reason, in every record.
    """
    # The runs of a sweep may use different devices; from then on, a run on a GPU hides the others.
    key = (os.getpid(), settings, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if key not in _meters:
        _meters[key] = EnergyMeter(settings, synchronize)
    _meters[key].synchronize = synchronize
    _meters[key].gpu_expected = gpu_expected
    return _meters[key]
