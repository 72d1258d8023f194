"""Zeus's measurements under our names: the log of a ZeusMonitor, or Measurements as JSON; joules become kWh.

https://ml.energy/zeus: a window's energy is that of its GPUs, by the driver's counter.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lora_scaling.units import JOULES_PER_KWH

from ..parsing import RunWarning
from .recognised import Recognised, added, isoformat, named_runs, numbers

KIND = "measurements of Zeus"
PARTS = {"gpu_energy": "gpu", "cpu_energy": "cpu", "dram_energy": "ram"}
MEASUREMENT = {"time", "gpu_energy"}
MOST_WINDOWS = 20_000  # of which each is compared with those that hold it


def is_zeus(raw: pd.DataFrame) -> bool:
    """Whether a table is the log of a ZeusMonitor, or holds its Measurements."""
    names = set(raw.columns)
    return {"window_name", "elapsed_time"} <= names or (
        names >= MEASUREMENT and all(isinstance(cell, Mapping) for cell in raw["gpu_energy"])
    )


def from_zeus(raw: pd.DataFrame) -> Recognised:
    """Sum the joules of each row's devices, and give times and names our names."""
    per_device = [name for name in raw.columns if str(name).startswith(("gpu", "cpu", "dram")) and "_energy" in name]
    joules = {part: _joules(raw, name, per_device) for name, part in PARTS.items()}
    known = {part: values / JOULES_PER_KWH for part, values in joules.items() if values.notna().any()}
    columns = {f"energy_{part}_kwh": values for part, values in known.items()}
    columns |= {f"energy_source_{part}": pd.Series(source, index=raw.index, dtype=object) for part, source in
                (("gpu", "nvml_counter"), ("cpu", "rapl"), ("ram", "rapl")) if part in known}  # fmt: skip
    warnings = []
    if known:
        columns["energy_kwh"] = sum(known.values(), start=pd.Series(0.0, index=raw.index))
        parts = " + ".join(part.upper() for part in known)
        message = f"A file of Zeus: joules, as kWh. The energy is {parts} alone, not the whole machine's."
        warnings.append(RunWarning(kind="gpu_only" if set(known) == {"gpu"} else "zeus", message=message))
    columns["total_s"] = numbers(raw, "elapsed_time" if "elapsed_time" in raw else "time")
    started = pd.to_datetime(numbers(raw, "start_time"), unit="s", utc=True, errors="coerce")
    columns |= {"started_at": isoformat(started), "run_id": named_runs(raw, "window_name")}
    columns |= _windows(raw)
    own = frozenset({"window_name", "elapsed_time", "time", "start_time", "soc_energy", "window", "inside_windows",
                     *per_device, *PARTS})  # fmt: skip
    raw = raw.drop(columns=["start_time"], errors="ignore")  # seconds since 1970 are no time of ours
    kind = KIND if known else f"{KIND} without the energy of any device"
    return Recognised(kind=kind, frame=added(raw, columns), warnings=tuple(warnings), understood=own)


def _joules(raw: pd.DataFrame, name: str, per_device: list[str]) -> pd.Series:
    """Return the joules of one kind of device, NaN where it was not measured."""
    if name in raw and raw[name].map(lambda cell: isinstance(cell, Mapping)).any():
        return raw[name].map(_sum_of)
    prefix = name.removesuffix("_energy")
    devices = [column for column in per_device if column.startswith(prefix) and column[len(prefix)].isdigit()]
    parts = [numbers(raw, column) for column in devices or ([name] if name in raw else [])]
    return sum(parts[1:], start=parts[0]) if parts else pd.Series(float("nan"), index=raw.index)


def _sum_of(cell: Any) -> float:
    if not isinstance(cell, Mapping) or not cell:
        return float("nan")
    values = [value for value in cell.values() if isinstance(value, int | float)]
    return float(sum(values)) if len(values) == len(cell) else float("nan")


def _windows(raw: pd.DataFrame) -> dict[str, pd.Series]:
    """Name each row's window by its start, and those that it lies in: the energy of an epoch is in its training's."""
    start, elapsed = (numbers(raw, name).to_numpy() for name in ("start_time", "elapsed_time"))
    if len(raw) > MOST_WINDOWS or not (np.isfinite(start) & np.isfinite(elapsed)).all():
        return {}
    end, names = start + elapsed, [f"{moment:.6f}" for moment in start]
    order = np.lexsort((-end, start))
    open_windows: list[int] = []
    inside = [""] * len(raw)
    for row in map(int, order):
        open_windows = [other for other in open_windows if end[other] >= start[row]]
        inside[row] = " ".join(names[other] for other in open_windows if end[other] >= end[row])
        open_windows.append(row)
    return {"window": pd.Series(names, index=raw.index), "inside_windows": pd.Series(inside, index=raw.index)}
