"""Measure the energy of a run, and say what was measured, what was modelled, and how uncertain each part is.

    meter = open_meter(MeteringSettings(), synchronize=torch.cuda.synchronize)
    recording = meter.recording()
    with recording.phase("train"):
        ...
    account = recording.close()          # account.to_dict() is the `energy` section of a run record
    account.write_timeline("timeline.csv")

CodeCarbon, pynvml and psutil are imported on first use, and torch never. The meter itself is also loaded on first use,
because a configuration, or an analysis that reads one, needs only the settings.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lora_scaling.energy.settings import MeteringSettings, settings_for_rank, settings_on

if TYPE_CHECKING:
    from lora_scaling.energy.idle import idle_baseline, measure_idle
    from lora_scaling.energy.measurement import (
        ComponentEnergy,
        EnergyAccount,
        GpuEnergy,
        IdleBaseline,
        PhaseEnergy,
        TimelineBin,
    )
    from lora_scaling.energy.meter import EnergyMeter, open_meter
    from lora_scaling.energy.ranks import combine
    from lora_scaling.energy.recording import Recording
    from lora_scaling.energy.sensors import unused_gpu_warnings

__all__ = [
    "ComponentEnergy",
    "EnergyAccount",
    "EnergyMeter",
    "GpuEnergy",
    "IdleBaseline",
    "MeteringSettings",
    "PhaseEnergy",
    "Recording",
    "TimelineBin",
    "combine",
    "idle_baseline",
    "measure_idle",
    "open_meter",
    "settings_for_rank",
    "settings_on",
    "unused_gpu_warnings",
]

_HOME = {
    **dict.fromkeys(
        ("ComponentEnergy", "EnergyAccount", "GpuEnergy", "IdleBaseline", "PhaseEnergy", "TimelineBin"), "measurement"
    ),
    **dict.fromkeys(("idle_baseline", "measure_idle"), "idle"),
    **dict.fromkeys(("EnergyMeter", "open_meter"), "meter"),
    "Recording": "recording",
    "unused_gpu_warnings": "sensors",
    "combine": "ranks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
