"""Grams of a predicted run: at the intensity of the runs, or of the grid that the target names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_scaling.errors import LoraScalingError
from lora_scaling.grid import static_of

from .table import RunTable
from .target import Planned


def emissions(table: RunTable, planned: Planned, overrides: Sequence[str], energy: dict[str, float]) -> dict[str, Any]:
    intensity, definition = _intensity(table, planned, overrides)
    pue = planned.config.grid.pue
    if pue != 1:
        definition += f"; energy × a PUE of {pue:g}"
    grams = {key: value * pue * intensity for key, value in energy.items()}
    return {**grams, "intensity_g_per_kwh": intensity, "definition": definition}


def _intensity(table: RunTable, planned: Planned, overrides: Sequence[str]) -> tuple[float, str]:
    """g/kWh and what it is: that of the runs, unless the target names a number or a grid of its own."""
    frame, given = table.frame, planned.config.grid.intensity_g_per_kwh
    if given is not None:
        return given, "grid.intensity_g_per_kwh of the target"
    known = frame[(frame["intensity_g_per_kwh"] > 0) & (frame["energy_kwh"] > 0)]
    if len(known) and not any(text.lstrip("+").startswith(("grid.zone=", "grid.provider=")) for text in overrides):
        grams = (known["intensity_g_per_kwh"] * known["energy_kwh"]).sum()
        sources = ", ".join(sorted({str(source) for source in known["intensity_source"].dropna()})) or "unknown source"
        text = f"energy-weighted mean of the {len(known)} runs' own intensities ({sources})"
        meaning = _recorded_definition(table.sources)
        return float(grams / known["energy_kwh"].sum()), text + (f"; {meaning}" if meaning else "")
    static = static_of(planned.config.grid)
    notice = f" ({static.notice})" if static.notice else ""
    return static.g_per_kwh, f"{static.definition}{notice}"


def _recorded_definition(sources: Sequence[str]) -> str | None:
    """The definition that the first record with one gives; None for tables."""
    from lora_scaling.records import find_records, read_record

    for source in sources:
        for path in find_records([source])[:20] if Path(source).is_dir() else []:
            try:
                definition = (read_record(path).get("emissions") or {}).get("definition")
            except (LoraScalingError, OSError):
                continue
            if definition:
                return str(definition)
    return None
