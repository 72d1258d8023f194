"""CodeCarbon's `emissions.csv` (1.x to 3.x) under our names: kWh stay, kg become grams, the end becomes the start.

Column meanings: https://docs.codecarbon.io, "Output"; `timestamp` is written when the tracker stops or is flushed.
"""

from collections.abc import Sequence

import pandas as pd

from ..parsing import RunWarning
from .recognised import Recognised, added, isoformat, moments, named_runs, numbers, text

KIND = "CodeCarbon's emissions file"
PARTS = ("cpu", "gpu", "ram")
LEAST_KG_PER_KWH, MOST_KG_PER_KWH = 0.001, 2.0  # of a grid: what tells kg and kWh from other units
COLUMNS = frozenset(
    "timestamp project_name run_id experiment_id task_name duration emissions emissions_rate cpu_power gpu_power "
    "ram_power cpu_energy gpu_energy ram_energy energy_consumed water_consumed country_name country_iso_code region "
    "cloud_provider cloud_region os python_version codecarbon_version cpu_count cpu_model gpu_count gpu_model "
    "longitude latitude ram_total_size tracking_mode cpu_utilization_percent gpu_utilization_percent "
    "ram_utilization_percent ram_used_gb on_cloud pue wue".split()
)
_OF_2_0 = (
    "timestamp project_name run_id duration emissions emissions_rate cpu_power gpu_power ram_power cpu_energy "
    "gpu_energy ram_energy energy_consumed country_name country_iso_code region cloud_provider cloud_region os "
    "python_version cpu_count cpu_model gpu_count gpu_model longitude latitude ram_total_size tracking_mode on_cloud"
).split()
_OF_2_1 = [*_OF_2_0[:20], "codecarbon_version", *_OF_2_0[20:]]
_OF_2_2 = [*_OF_2_1, "pue"]
_OF_2_4 = [*_OF_2_2[:3], "experiment_id", *_OF_2_2[3:]]
_OF_3_3 = (
    "timestamp project_name run_id experiment_id duration emissions emissions_rate cpu_power gpu_power ram_power "
    "cpu_energy gpu_energy ram_energy energy_consumed water_consumed country_name country_iso_code region "
    "cloud_provider cloud_region os python_version codecarbon_version cpu_count cpu_model gpu_count gpu_model "
    "longitude latitude ram_total_size tracking_mode cpu_utilization_percent gpu_utilization_percent "
    "ram_utilization_percent ram_used_gb on_cloud pue wue"
).split()
# What a row of so many cells holds, where a newer version appended it to the file of an older one.
LAYOUTS = {len(names): names for names in (_OF_2_0, _OF_2_1, _OF_2_2, _OF_2_4, _OF_3_3)}


def is_codecarbon(raw: pd.DataFrame) -> bool:
    """Whether a table has CodeCarbon's columns, and emissions that are kg where the energy is in kWh."""
    if not {"duration", "emissions", "energy_consumed"} <= set(raw.columns):
        return False
    ratio = (numbers(raw, "emissions") / numbers(raw, "energy_consumed")).median()
    whole = {"timestamp", "project_name"} <= set(raw.columns) and not ratio > MOST_KG_PER_KWH
    return bool(whole or LEAST_KG_PER_KWH <= ratio <= MOST_KG_PER_KWH)


def with_ragged_rows(
    raw: pd.DataFrame, ragged: Sequence[tuple[int, list[str]]]
) -> tuple[pd.DataFrame, list[tuple[int, list[str]]]]:
    """Append rows that a newer version wrote under an older header; return those that fit no version as well."""
    rows, rest = [], []
    for number, cells in ragged:
        row = dict(zip(LAYOUTS.get(len(cells), ()), (cell.strip() for cell in cells), strict=False))
        if row and _is_number(row["duration"]) and _is_number(row["energy_consumed"]):
            rows.append(row)
        else:
            rest.append((number, cells))
    return (pd.concat([raw, pd.DataFrame(rows)], ignore_index=True) if rows else raw), rest


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def from_codecarbon(raw: pd.DataFrame) -> Recognised:
    """Give CodeCarbon's columns our names and units; say what they hold and what they do not."""
    raw, left_out, warnings = _last_snapshots(raw)
    duration, energy = numbers(raw, "duration"), numbers(raw, "energy_consumed")
    grams = 1000 * numbers(raw, "emissions")
    gpu_model = text(raw, "gpu_model")
    columns = {
        "energy_kwh": energy,
        "total_s": duration,
        "emissions_g": grams,
        "intensity_g_per_kwh": grams / energy.where(energy > 0),
        "intensity_source": "codecarbon " + text(raw, "country_iso_code"),
        "started_at": isoformat(moments(text(raw, "timestamp")) - pd.to_timedelta(duration, unit="s")),
        "hardware": gpu_model.where(gpu_model != "", text(raw, "cpu_model")),
    }
    columns |= {f"energy_{part}_kwh": numbers(raw, f"{part}_energy") for part in PARTS if f"{part}_energy" in raw}
    message = (
        "A file of CodeCarbon: `energy_consumed` is the energy, `emissions` were kg, and `duration` is the time of the "
        "whole tracked block."
    )
    warnings = [RunWarning(kind="codecarbon", message=message), *warnings]
    if "energy_gpu_kwh" in columns:
        warnings += _without_gpu_energy(columns, gpu_model)
    of_process = text(raw, "tracking_mode").str.lower() == "process"
    columns["energy_source_gpu"] = pd.Series("nvml_counter", index=raw.index, dtype=object).where(
        (numbers(raw, "gpu_energy") > 0) & ~of_process, "unknown"
    )
    no_gpu = (gpu_model == "") & ~(numbers(raw, "gpu_energy") > 0)
    columns["energy_source_gpu"] = columns["energy_source_gpu"].where(~no_gpu, "none")
    power = numbers(raw, "cpu_power")
    constant = power.notna().all() and power.nunique() == 1 and len(raw) > 2
    columns["energy_source_cpu"] = pd.Series("constant_model" if constant else "unknown", index=raw.index)
    columns["energy_source_ram"] = pd.Series("constant_model", index=raw.index)
    if of_process.any():
        message = f"{int(of_process.sum())} rows are of tracking_mode=process: the share of a process is modelled."
        warnings.append(RunWarning(kind="process_share", message=message))
    pue = numbers(raw, "pue")
    if (pue.notna() & (pue != 1)).any():
        message = f"The energies hold a PUE of up to {pue.max():.3g}: they are the data centre's, not the device's."
        warnings.append(RunWarning(kind="pue", message=message))
    if text(raw, "run_id").duplicated().any() or "run_id" not in raw:
        ids = named_runs(raw, "run_id", "task_name", "project_name")  # all tasks of a tracker have its run_id
        raw = raw.assign(run_id=ids)
    return Recognised(
        kind=KIND, frame=added(raw, columns), warnings=tuple(warnings), left_out=tuple(left_out), understood=COLUMNS
    )


def _without_gpu_energy(columns: dict[str, pd.Series], gpu_model: pd.Series) -> list[RunWarning]:
    """Make the energy of a GPU that is named and has none unknown, and the totals without it where others have one."""
    absent = (gpu_model != "") & ~(columns["energy_gpu_kwh"] > 0)
    if not absent.any():
        return []
    columns["energy_gpu_kwh"] = columns["energy_gpu_kwh"].where(~absent)
    message = f"{int(absent.sum())} rows name a GPU and have no energy of it: their energy leaves the GPU out"
    if absent.all():
        return [RunWarning(kind="gpu_energy_missing", message=f"{message}; `--response time` judges the times.")]
    for name in ("energy_kwh", "emissions_g", "intensity_g_per_kwh"):
        columns[name] = columns[name].where(~absent)
    return [RunWarning(kind="gpu_energy_missing", message=f"{message} and is taken as unknown.")]


def _last_snapshots(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]], list[RunWarning]]:
    """Keep the last of the rows that one tracker wrote as it was flushed, with a duration and energy since its start.

    Rows of one `run_id` are snapshots of one block where duration and energy only rise and all go back to one start, as
    far as they tell their times.
    """
    if "run_id" not in raw or "task_name" in raw or "timestamp" not in raw:
        return raw, [], []
    duration, energy = numbers(raw, "duration"), numbers(raw, "energy_consumed")
    start = moments(text(raw, "timestamp")).map(lambda time: time.timestamp() if pd.notna(time) else float("nan"))
    rows = pd.DataFrame(
        {"run": text(raw, "run_id"), "s": duration, "kwh": energy, "end": start, "start": start - duration}
    )
    before = rows.groupby("run").shift(1)
    allowed = 2.0 + 0.02 * rows["s"]  # the time stamps are of whole seconds
    follows = (
        (rows["run"] != "") & (rows["s"] >= before["s"]) & (rows["kwh"] >= before["kwh"])
        & (((rows["start"] - before["start"]).abs() <= allowed) | (start.isna() & before["end"].isna()))
    )  # fmt: skip
    earlier = follows.groupby(rows["run"]).shift(-1, fill_value=False).astype(bool)
    if not earlier.any():
        return raw, [], []
    runs = tuple(dict.fromkeys(rows["run"][earlier]))
    message = (
        f"{int(earlier.sum())} rows are earlier readings of {len(runs)} trackers that were flushed while they ran: the "
        "last reading is the run's."
    )
    left_out = [(run, "an earlier reading of the same run") for run in rows["run"][earlier]]
    warning = RunWarning(kind="cumulative", message=message, run_ids=runs)
    return raw[~earlier].reset_index(drop=True), left_out, [warning]
