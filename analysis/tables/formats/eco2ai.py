"""eco2AI's `emission.csv` under our names: energy in kWh, kg become grams.

https://github.com/sb-ai-lab/Eco2AI: the CPU's energy is its load × rated power, memory's a constant, a GPU's is
read from its driver.
"""

import re

import pandas as pd

from ..parsing import RunWarning
from .recognised import Recognised, added, isoformat, moments, named_runs, numbers, text

KIND = "eco2AI's emission file"


def is_eco2ai(raw: pd.DataFrame) -> bool:
    """Whether a table has the columns by which eco2AI's file differs from all others."""
    return _column(raw, "power_consumption") is not None and _column(raw, "CO2_emissions") is not None


def _column(raw: pd.DataFrame, begins: str) -> str | None:
    """Return the column of this quantity; the unit after it was written in several ways."""
    pattern = re.compile(rf"{begins}\s*\((k[Ww]T?h|kg|s)\)", re.IGNORECASE)
    return next((name for name in raw.columns if pattern.fullmatch(str(name))), None)


def from_eco2ai(raw: pd.DataFrame) -> Recognised:
    """Give eco2AI's columns our names and units."""
    raw = _one_row_a_training(raw)
    names = {part: _column(raw, part) or "" for part in ("power_consumption", "CO2_emissions", "duration")}
    energy, grams = numbers(raw, names["power_consumption"]), 1000 * numbers(raw, names["CO2_emissions"])
    gpu = text(raw, "GPU_name")
    on_gpu = (gpu != "") & ~gpu.str.match(r"^0 device")
    columns = {
        "energy_kwh": energy,
        "emissions_g": grams,
        "intensity_g_per_kwh": grams / energy.where(energy > 0),
        "total_s": numbers(raw, names["duration"]),
        "started_at": isoformat(moments(text(raw, "start_time"))),
        "hardware": gpu.where(on_gpu, text(raw, "CPU_name")),
        "run_id": named_runs(raw, "id", "experiment_description"),
        "energy_source_gpu": pd.Series("nvml_power", index=raw.index, dtype=object).where(on_gpu, "none"),
        "energy_source_cpu": pd.Series("load_model", index=raw.index, dtype=object),
        "energy_source_ram": pd.Series("constant_model", index=raw.index, dtype=object),
    }
    own = frozenset({"id", "project_name", "experiment_description", "start_time", "CPU_name", "GPU_name", "OS",
                     "region/country", "cost", "epoch", *names.values()})  # fmt: skip
    message = (
        "A file of eco2AI: `power_consumption(kWh)` is the energy, `CO2_emissions` were kg, and `epoch` is a note on "
        "what was run, not the number of epochs."
    )
    # Its own names would pass for ours: a row's number of the epoch is not how many there were.
    raw = raw.rename(columns={"epoch": "epoch_note"})
    return Recognised(
        kind=KIND,
        frame=added(raw, columns),
        warnings=(RunWarning(kind="eco2ai", message=message),),
        understood=own | {"epoch_note"},
    )


def _one_row_a_training(raw: pd.DataFrame) -> pd.DataFrame:
    """Sum the rows that `start_training` writes for each epoch of one id; the number of its rows is that of epochs."""
    epoch = text(raw, "epoch").str.match(r"epoch: ?\d+")
    ids = text(raw, "id")
    parts = (epoch & (ids != "")).groupby(ids).transform("all") & ids.duplicated(keep=False)
    if not parts.any():
        return raw
    rows = raw.copy()
    for name in (_column(raw, part) for part in ("duration", "power_consumption", "CO2_emissions")):
        if name is not None:
            rows[name] = numbers(raw, name).groupby(ids).transform("sum").where(parts, raw[name])
    if "epochs" not in raw:
        rows["epochs"] = ids.groupby(ids).transform("size").where(parts)
    return rows[~(parts & ids.duplicated())].reset_index(drop=True)
