"""Compare energy and grams with everyday things, each with its source (equivalents.json)."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Equivalent:
    """The `quantity` of `unit` that equals an energy or grams, with a sentence, the source and its year."""

    name: str
    quantity: float
    unit: str
    sentence: str
    source: str
    year: int

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def equivalents(energy_kwh: float | None = None, grams: float | None = None) -> list[Equivalent]:
    """List what an energy (kWh) and an amount of grams compare to; leave out what is None or not finite."""
    amounts = {"kwh": energy_kwh, "g": grams}
    found = []
    for entry in _entries():
        amount = amounts[entry["per"]]
        if amount is None or not math.isfinite(amount):
            continue
        quantity = amount / entry["one"]
        sentence = entry["sentence"].format(quantity=_short(quantity), duration=_duration(quantity))
        found.append(
            Equivalent(
                name=entry["name"],
                quantity=quantity,
                unit=entry["unit"],
                sentence=sentence,
                source=entry["source"],
                year=entry["year"],
            )
        )
    return found


@functools.cache
def _entries() -> list[dict[str, Any]]:
    """Read the data file, in which `one` is the kWh or grams of one `unit`."""
    text = resources.files("lora_scaling.grid").joinpath("equivalents.json").read_text(encoding="utf-8")
    return json.loads(text)


def _short(value: float) -> str:
    """Format with at most three digits if there are decimals, and a thousands separator: 239, 0.54, 1,240."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _duration(minutes: float) -> str:
    """Format minutes in the unit that reads best."""
    for size, unit in ((365.25 * 1440, "years"), (1440.0, "days"), (60.0, "hours"), (1.0, "minutes")):
        if minutes >= 1.5 * size:
            return f"{_short(minutes / size)} {unit}"
    return f"{_short(minutes * 60)} seconds"
