"""Compute the grams of a predicted run, at the intensity of the runs or of the grid that the target names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lora_scaling.errors import LoraScalingError
from lora_scaling.grid import static_of
from lora_scaling.records import find_records, read_record

from ..tables.table import RunTable
from .target import PlannedTarget, settings_in


def emissions(
    table: RunTable, planned: PlannedTarget, overrides: Sequence[str], energy: dict[str, float]
) -> dict[str, Any]:
    intensity, definition = _intensity(table, planned, overrides)
    pue = planned.config.grid.pue
    if pue != 1:
        definition += f"; energy × a PUE of {pue:g}"
    grams = {key: value * pue * intensity for key, value in energy.items()}
    return {**grams, "intensity_g_per_kwh": intensity, "definition": definition}


def _intensity(table: RunTable, planned: PlannedTarget, overrides: Sequence[str]) -> tuple[float, str]:
    """Return g/kWh and its definition: those of the runs, unless the target names a number or a grid."""
    frame, given = table.frame, planned.config.grid.intensity_g_per_kwh
    if given is not None:
        return given, "grid.intensity_g_per_kwh of the target"
    known = frame[(frame["intensity_g_per_kwh"] > 0) & (frame["energy_kwh"] > 0)]
    if len(known) and not settings_in(overrides).keys() & {"grid.zone", "grid.provider"}:
        return _of_runs(known, table.sources)
    static = static_of(planned.config.grid)
    notice = f" ({static.notice})" if static.notice else ""
    return static.g_per_kwh, f"{static.definition}{notice}"


def _of_runs(known: pd.DataFrame, sources: Sequence[str]) -> tuple[float, str]:
    """Return the energy-weighted mean over the runs with the most common definition; a mean over several has none."""
    recorded = _recorded_definitions(sources)
    source = known["intensity_source"].astype(object).fillna("unknown source").astype(str)
    definition = pd.Series(
        [
            recorded.get((study, run), where)
            for study, run, where in zip(known["study"], known["run_id"], source, strict=True)
        ],
        index=known.index,
    )
    commonest = definition.value_counts().index[0]
    alike = definition == commonest
    grams = (known["intensity_g_per_kwh"] * known["energy_kwh"])[alike].sum()
    count = f"the {len(known)} runs' own intensities"
    if not alike.all():
        count = f"the intensities of {alike.sum()} of the {len(known)} runs, those of the commonest definition"
    text = f"energy-weighted mean of {count} ({', '.join(sorted(set(source[alike])))})"
    return float(grams / known["energy_kwh"][alike].sum()), text + (
        "" if commonest in set(source) else f"; {commonest}"
    )


def _recorded_definitions(sources: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return the definition of each run's grams, by study and id, if its record gives one; tables have none."""
    found: dict[tuple[str, str], str] = {}
    for source in sources:
        for path in find_records([source]) if Path(source).is_dir() else []:
            try:
                record = read_record(path)
            except LoraScalingError:
                continue  # the table has already named it
            if definition := (record.get("emissions") or {}).get("definition"):
                found[str(record.get("study")), str(record["run_id"])] = str(definition)
    return found
