"""Whether a fit explains energy, time or another quantity: its units, and the parts of fit.json that apply to it."""

import re
from dataclasses import dataclass

import numpy as np

from lora_scaling.text import ENERGY, MASS, MEMORY, POWER, TIME, Quantity
from lora_scaling.units import JOULES_PER_KWH

from ..tables.response_column import OWN_UNIT, is_energy, noun_of, unit_of


@dataclass(frozen=True, kw_only=True)
class ResponseKind:
    """A kind of response: its `name`, and the units in which it is fitted (`base`) and tabulated (`unit`).

    `per_unit` base units are one unit. `quantity` shows values in that unit to people.
    """

    name: str
    base: str
    unit: str
    per_unit: float
    quantity: Quantity

    @property
    def fixed_key(self) -> str:
        """The key of `fixed` in fit.json, which knows two kinds; other quantities are kept as energies are."""
        if self.key == "value":
            return "energy_j"
        return f"{self.name}_{self.base.lower()}"

    @property
    def predicted_key(self) -> str:
        """The key of the prediction in an extrapolation's document."""
        return "value" if self.key == "value" else f"{self.key}_{self.suffix}"

    @property
    def key(self) -> str:
        """Return `energy`, `time`, or `value` for another quantity: for keys and file names."""
        return self.name if self.name in ("energy", "time") else "value"

    @property
    def suffix(self) -> str:
        """The end of a column's name in that unit: `kwh`, `s`."""
        return re.sub(r"[^a-z0-9]+", "_", self.unit.lower()).strip("_") or "value"

    def best_unit(self, values: np.ndarray) -> tuple[float, str]:
        """Choose the unit in which the largest of these values is a plain number: (factor from `unit`, name)."""
        chosen = self.quantity.unit(float(np.nanmax(np.asarray(values, dtype=float))))
        return 1 / chosen.size, chosen.name or OWN_UNIT


ENERGY_KIND = ResponseKind(name="energy", base="J", unit="kWh", per_unit=JOULES_PER_KWH, quantity=ENERGY)
TIME_KIND = ResponseKind(name="time", base="s", unit="s", per_unit=1.0, quantity=TIME)


def kind_of(column: str) -> ResponseKind:
    """Return the kind of a response column."""
    unit = unit_of(column)
    if unit in ("kWh", "s"):
        return {"kWh": ENERGY_KIND, "s": TIME_KIND}[unit]
    quantity = {"g": MASS, "GB": MEMORY, "W": POWER}.get(unit, Quantity(((0.0, 1.0, unit),)))
    return ResponseKind(name=noun_of(column), base=unit, unit=unit, per_unit=1.0, quantity=quantity)


def is_physical(column: str) -> bool:
    """Whether a device's peak and power bound a response from below: energies of devices, and times of training."""
    return is_energy(column) or column in ("train_s", "total_s")
