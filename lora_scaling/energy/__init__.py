"""Energy of a run: what was measured, what was modelled, and how uncertain each part is.

    meter = open_meter(MeteringSettings(), synchronize=torch.cuda.synchronize)
    recording = meter.recording()
    with recording.phase("train"):
        ...
    account = recording.close()          # account.to_dict() is the `energy` section of a run record
    account.write_timeline("timeline.csv")

CodeCarbon, pynvml and psutil are imported on first use; torch never.
"""

from lora_scaling.energy.account import (
    ComponentEnergy,
    EnergyAccount,
    GpuEnergy,
    IdleBaseline,
    PhaseEnergy,
    TimelineBin,
)
from lora_scaling.energy.combine import combine
from lora_scaling.energy.idle import idle_baseline, measure_idle
from lora_scaling.energy.meter import EnergyMeter, Recording, open_meter
from lora_scaling.energy.settings import MeteringSettings, settings_for_rank

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
]
