"""The least energy and time that training can take: no device does a FLOP for less than its sheet says at its best."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lora_scaling.config import HardwareConfig
from lora_scaling.config.devices import listed_as, preset
from lora_scaling.paths import presets

from ..arrays import Array
from ..tables.run_quantities import Work

EIGHT_BIT = ("fp8", "int8")  # peaks that only runs of that precision reach
MOST_BELOW = 0.05  # share of runs below a floor above which the floor is wrong for them


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The least joules for a FLOP, and the least seconds for a FLOP of one device; `source` says whose."""

    energy_j_per_flop: float
    time_s_per_flop: float
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Return `floor` of fit.json."""
        return {
            "energy_j_per_flop": self.energy_j_per_flop,
            "time_s_per_flop": self.time_s_per_flop,
            "source": self.source,
        }


def floor_of(work: Work) -> Floor | None:
    """Return the floor of the runs' devices at their precisions; None if their FLOPs are unknown.

    If a device is unknown, it is taken to be as good as the best that is listed.
    """
    if work.size != "flops_per_token":
        return None
    eight_bit = bool(np.isin(work.labels["precision"].astype(str), EIGHT_BIT).any())
    names = sorted(set(work.labels["hardware"].astype(str)))
    sheets = [preset(listed) if (listed := listed_as(name)) else None for name in names]
    known = [_per_flop(sheet, eight_bit) if sheet is not None else None for sheet in sheets]
    if all(item is not None for item in known):
        found, source = [item for item in known if item is not None], f"data sheet of {', '.join(names)}"
    else:
        found, source = _listed(eight_bit), "the best of all listed devices: not all of the runs' are listed"
    return Floor(
        energy_j_per_flop=min(joules for joules, _ in found),
        time_s_per_flop=min(seconds for _, seconds in found),
        source=source,
    )


def floor_of_device(device: HardwareConfig | None, precision: str) -> Floor | None:
    """Return the floor of one device at a precision; None if its sheet is not known."""
    found = None if device is None else _per_flop(device, precision in EIGHT_BIT)
    if device is None or found is None:
        return None
    return Floor(energy_j_per_flop=found[0], time_s_per_flop=found[1], source=f"data sheet of {device.name}")


def contradicted(work: Work, per_flop: float, devices: Array | float = 1.0) -> bool:
    """Tell whether runs lie below a floor: their unit, FLOPs or device are then not what they seem."""
    least = per_flop * work.values["flops"] / devices
    return float(np.mean(np.exp(work.log_y) < least)) > MOST_BELOW


@cache
def _listed(eight_bit: bool) -> list[tuple[float, float]]:
    found = [_per_flop(preset(name), eight_bit) for name in presets("hardware")]
    return [item for item in found if item is not None]


def _per_flop(sheet: HardwareConfig, eight_bit: bool) -> tuple[float, float] | None:
    """Return (joules, seconds) per FLOP at the dense peak and board power; None if the sheet lacks either."""
    peaks = [peak for name, peak in sheet.peak_tflops.items() if peak and (eight_bit or name not in EIGHT_BIT)]
    if not peaks or not sheet.board_power_w:
        return None
    return sheet.board_power_w / (max(peaks) * 1e12), 1 / (max(peaks) * 1e12)
