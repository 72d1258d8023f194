"""Look up yearly carbon intensities: a country's from the data of the installed CodeCarbon, or the world's.

CodeCarbon is located but not imported, because its import takes seconds; only its JSON file is read.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scaling.grid.series import Definition
from lora_scaling.grid.settings import GridSettings
from lora_scaling.grid.source import define
from lora_scaling.grid.zones import countries, find_place

WORLD_G_PER_KWH = 475.0
WORLD_SOURCE = "IEA, Global Energy & CO2 Status Report 2019 (world average of 2018)"


@dataclass(frozen=True, kw_only=True)
class StaticIntensity:
    """A yearly mean in g/kWh, with the year of the data (None: unknown), its source and the definition of its grams.

    place: "Denmark" or "world"; notice: why it is not that of the requested country, else None.
    """

    g_per_kwh: float
    year: int | None
    source: str
    definition: str
    place: str
    meaning: Definition
    notice: str | None = None


def static_of(settings: GridSettings) -> StaticIntensity:
    """Return the single value used without hourly data: the user's own, or the yearly value of the place."""
    if settings.intensity_g_per_kwh is not None:
        return given_intensity(settings.intensity_g_per_kwh)
    return static_intensity(settings.place.zone if settings.place else None)


def static_intensity(zone_or_iso: str | None = None) -> StaticIntensity:
    """Return the yearly value of a zone's country (DK1, DK, DNK …), or the world's for None.

    A country without a usable value gets the world's, labelled, with a notice. Raises UserError for an unknown zone.
    """
    place = find_place(zone_or_iso) if zone_or_iso is not None else None
    if place is None or place.alpha2 is None or place.alpha3 is None:
        return _world(None)
    name = countries()[place.alpha2][1]
    try:
        table, origin = _codecarbon_table()
        entry = table.get(place.alpha3)
        # In that file, 0.0 means a country without data; no grid has a life-cycle value of 0.
        if entry is None or not entry["carbon_intensity"] > 0:
            return _world(f"no yearly value for {name} ({origin}), so the world's is used")
        g_per_kwh, year = float(entry["carbon_intensity"]), int(entry["year"])
    except Exception as error:  # in another release of CodeCarbon, that file may contain anything
        return _world(f"the yearly values cannot be read ({type(error).__name__}), so the world's is used")
    meaning = define("CO2e", "production", "lifecycle", f"yearly mean of {name}'s generation in {year}",
                     includes_losses=False)  # fmt: skip
    return StaticIntensity(
        g_per_kwh=g_per_kwh,
        year=year,
        source=f"Our World in Data / Ember, through {origin}",
        definition=meaning.sentence,
        place=name,
        meaning=meaning,
    )


def given_intensity(g_per_kwh: float) -> StaticIntensity:
    """Wrap a number given by the user, about which nothing else is known."""
    sentence = f"{g_per_kwh:g} g/kWh as given by the user (grid.intensity_g_per_kwh); its definition is not known"
    return StaticIntensity(
        g_per_kwh=g_per_kwh,
        year=None,
        source="grid.intensity_g_per_kwh",
        definition=sentence,
        place="as given",
        meaning=Definition(
            gas=None, signal="average", accounting=None, scope=None, includes_losses=None, sentence=sentence
        ),
    )


def _world(notice: str | None) -> StaticIntensity:
    meaning = define("CO2", "production", "direct", "world mean of electricity generation in 2018 (IEA 2019)")
    return StaticIntensity(
        g_per_kwh=WORLD_G_PER_KWH,
        year=2018,
        source=WORLD_SOURCE,
        definition=meaning.sentence,
        place="world",
        meaning=meaning,
        notice=notice,
    )


@functools.cache
def _codecarbon_table() -> tuple[dict[str, Any], str]:
    """Return ({ISO alpha-3: entry}, origin); the table is empty if CodeCarbon or its file is missing."""
    spec = importlib.util.find_spec("codecarbon")
    if spec is None or spec.origin is None:
        return {}, "CodeCarbon is not installed"
    path = Path(spec.origin).parent / "data" / "private_infra" / "global_energy_mix.json"
    origin = f"CodeCarbon {importlib.metadata.version('codecarbon')}"
    try:
        return json.loads(path.read_text(encoding="utf-8")), f"{origin}'s {path.name}"
    except (OSError, ValueError):
        return {}, f"{origin} carries no readable {path.name}"
