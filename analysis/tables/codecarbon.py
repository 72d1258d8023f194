"""CodeCarbon's `emissions.csv` (1.x to 3.x) under our names: kWh stay, kg become grams, the end becomes the start.

Column meanings: https://docs.codecarbon.io, "Output"; `timestamp` is written when the tracker stops.
"""

import pandas as pd

from .parsing import RunWarning, parse_numbers

SIGNATURE = frozenset({"timestamp", "project_name", "duration", "emissions", "energy_consumed"})
PARTS = ("cpu", "gpu", "ram")


def is_codecarbon(raw: pd.DataFrame) -> bool:
    """Whether a table has the columns that every version since 1.2 writes."""
    return set(raw.columns) >= SIGNATURE


def from_codecarbon(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Give CodeCarbon's columns our names and units; say what they hold and what they do not."""
    numbers = {name: _numbers(raw, name) for name in ("duration", "emissions", "energy_consumed", "pue", "cpu_power")}
    grams = 1000 * numbers["emissions"]
    columns = {
        "energy_kwh": numbers["energy_consumed"],
        "total_s": numbers["duration"],
        "emissions_g": grams,
        "intensity_g_per_kwh": grams / numbers["energy_consumed"].where(numbers["energy_consumed"] > 0),
        "started_at": _starts(raw, numbers["duration"]),
        "hardware": _text(raw, "gpu_model").where(_text(raw, "gpu_model") != "", _text(raw, "cpu_model")),
    }
    columns |= {f"energy_{part}_kwh": _numbers(raw, f"{part}_energy") for part in PARTS if f"{part}_energy" in raw}
    warnings = [
        RunWarning(
            kind="codecarbon",
            message="A file of CodeCarbon: `energy_consumed` is the energy, `emissions` were kg, and `duration` is the "
            "time of the whole tracked block.",
        )
    ]
    if "energy_gpu_kwh" in columns:
        absent = (_text(raw, "gpu_model") != "") & ~(columns["energy_gpu_kwh"] > 0)
        columns["energy_gpu_kwh"] = columns["energy_gpu_kwh"].where(~absent)
        if absent.any():
            message = f"{int(absent.sum())} rows name a GPU and have no energy of it: their energy leaves the GPU out."
            warnings.append(RunWarning(kind="gpu_energy_missing", message=message))
    of_process = _text(raw, "tracking_mode").str.lower() == "process"
    columns["energy_source_gpu"] = pd.Series("nvml_counter", index=raw.index, dtype=object).where(
        (_numbers(raw, "gpu_energy") > 0) & ~of_process, "unknown"
    )
    constant = numbers["cpu_power"].notna().all() and numbers["cpu_power"].nunique() == 1 and len(raw) > 2
    columns["energy_source_cpu"] = pd.Series("constant_model" if constant else "unknown", index=raw.index)
    columns["energy_source_ram"] = pd.Series("constant_model", index=raw.index)
    if of_process.any():
        message = f"{int(of_process.sum())} rows are of tracking_mode=process: the share of a process is modelled."
        warnings.append(RunWarning(kind="process_share", message=message))
    pue = numbers["pue"]
    if (pue.notna() & (pue != 1)).any():
        message = f"The energies hold a PUE of up to {pue.max():.3g}: they are the data centre's, not the device's."
        warnings.append(RunWarning(kind="pue", message=message))
    return raw.assign(**{name: values for name, values in columns.items() if name not in raw.columns}), warnings


def _numbers(raw: pd.DataFrame, name: str) -> pd.Series:
    if name not in raw:
        return pd.Series(float("nan"), index=raw.index)
    return parse_numbers(raw[name], run_ids=pd.Series("", index=raw.index)).values


def _text(raw: pd.DataFrame, name: str) -> pd.Series:
    if name not in raw:
        return pd.Series("", index=raw.index, dtype=object)
    return raw[name].where(raw[name].notna(), "").astype(str).str.strip()


def _starts(raw: pd.DataFrame, duration_s: pd.Series) -> pd.Series:
    ends = pd.to_datetime(_text(raw, "timestamp"), errors="coerce", format="ISO8601", utc=True)
    starts = ends - pd.to_timedelta(duration_s, unit="s")
    return starts.map(lambda start: None if pd.isna(start) else start.isoformat()).astype(object)
