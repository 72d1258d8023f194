"""Whether a fit explains energy or time: its units in files and results, and the parts of fit.json that apply to it."""

from dataclasses import dataclass

import numpy as np

from lora_scaling.text import ENERGY, TIME, Quantity
from lora_scaling.units import JOULES_PER_KWH


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
        """The key of `fixed` in fit.json."""
        return f"{self.name}_{self.base.lower()}"

    @property
    def suffix(self) -> str:
        """The end of a column's name in that unit: `kwh`, `s`."""
        return self.unit.lower()

    def best_unit(self, values: np.ndarray) -> tuple[float, str]:
        """Choose the unit in which the largest of these values is a plain number: (factor from `unit`, name)."""
        chosen = self.quantity.unit(float(np.nanmax(np.asarray(values, dtype=float))))
        return 1 / chosen.size, chosen.name


ENERGY_KIND = ResponseKind(name="energy", base="J", unit="kWh", per_unit=JOULES_PER_KWH, quantity=ENERGY)
TIME_KIND = ResponseKind(name="time", base="s", unit="s", per_unit=1.0, quantity=TIME)


def kind_of(column: str) -> ResponseKind:
    """Return the kind of a response column."""
    return TIME_KIND if column == "train_s" else ENERGY_KIND
