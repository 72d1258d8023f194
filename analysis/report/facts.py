"""Say what a study is, for the head of its page: what was run, where, when, by what meter, and how much it took."""

from dataclasses import dataclass

import pandas as pd

from lora_scaling.records.sources import source_kind
from lora_scaling.text import ENERGY, MASS, TIME, counted

from ..tables.response import source_kinds
from .findings import Findings

MOST_NAMED = 3
MOST_WRITTEN_OUT = 1e15
# What the sources of energy are called by people; others go by their own names.
METERS = {
    "nvml_counter": "the device's energy counter (NVML)",
    "nvml_power": "samples of the device's power (NVML)",
    "rapl": "the processor's energy counter (RAPL)",
    "rapl_dram": "the memory's energy counter (RAPL)",
    "amdsmi_counter": "the device's energy counter (AMD SMI)",
    "amdsmi_power": "samples of the device's power (AMD SMI)",
    "load_model": "load × rated power",
    "constant_model": "a constant power",
    "constant": "a constant power",
    "tdp": "rated power",
    "cpu_load": "load × rated power",
}
_COMPONENTS = (("gpu", "GPU"), ("cpu", "CPU"), ("ram", "memory"))


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact with its name; `note` says what it rests on."""

    name: str
    value: str
    note: str = ""


def facts_of(findings: Findings) -> list[Fact]:
    """Return what was run, where, when and by what meter; what the table does not say is said to be unknown."""
    frame = findings.table.frame
    hosts = _names(frame["host"])
    device = _names(frame["hardware"]) or "device not recorded"
    return [
        Fact(name="What", value=_what(frame)),
        Fact(name="Where", value=f"{device}, host {hosts}" if hosts else device),
        Fact(name="When", value=_when(frame)),
        Fact(name="Meter", value=_meter(frame) + _slurm(frame)),
    ]


def _what(frame: pd.DataFrame) -> str:
    models = frame["model"].dropna().astype(str).unique()
    kinds = f"{len(models)} models ({_names(frame['model'])})" if len(models) > 1 else _names(frame["model"])
    parts = [counted(len(frame), "run"), kinds or "model not recorded", _names(frame["method"])]
    ranges = [_range(frame, "samples"), _range(frame, "epochs")]
    return " · ".join(part for part in [*parts, " × ".join(one for one in ranges if one)] if part)


def _range(frame: pd.DataFrame, column: str) -> str:
    known = frame[column].dropna()
    if known.empty:
        return ""
    low, high = float(known.min()), float(known.max())
    return counted(high, column.removesuffix("s")) if low == high else f"{_count(low)} to {_count(high)} {column}"


def _count(x: float) -> str:
    return f"{x:,.0f}" if x.is_integer() and x < MOST_WRITTEN_OUT else f"{x:,.6g}"


def _names(values: pd.Series) -> str:
    """Return the distinct names, the commonest first, and how many more there are."""
    names = values.dropna().astype(str).value_counts().index
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _when(frame: pd.DataFrame) -> str:
    times = pd.to_datetime(frame["started_at"], errors="coerce", utc=True, format="ISO8601").dropna()
    if times.empty:
        return "date not recorded"
    first, last = times.min(), times.max()
    day = f"{first.day} {first:%B %Y}"
    return day if first.date() == last.date() else f"{day} to {last.day} {last:%B %Y}"


def _meter(frame: pd.DataFrame) -> str:
    """Say by what the energy of each component is known, and whether that measures."""
    if frame["energy_kwh"].isna().all():
        return "the table holds no energy"
    said = []
    for component, name in _COMPONENTS:
        sources = [str(source) for source in frame[f"energy_source_{component}"].dropna().unique()]
        sources = [source for source in sources if source_kind(source) != "none"]
        if not sources:
            if (source_kinds(frame, component) == "unknown").any():
                said.append(f"{name}: not recorded")
            continue
        kinds = {source_kind(source) for source in sources}
        kind = kinds.pop() if len(kinds) == 1 else "partly measured"
        means = " or ".join(METERS.get(source, source) for source in sources[:MOST_NAMED])
        said.append(f"{name} {kind if kind != 'unknown' else 'of unknown kind'}: {means}")
    return "; ".join(said) or "not recorded"


def _slurm(frame: pd.DataFrame) -> str:
    """Say what Slurm itself counted for runs whose energy is known here, and what that is; nothing without any."""
    both = frame[["slurm_energy_kwh", "energy_kwh"]].apply(pd.to_numeric, errors="coerce").dropna()
    if both.empty:
        return ""
    theirs, ours = (ENERGY.show(float(both[name].sum())) for name in ("slurm_energy_kwh", "energy_kwh"))
    runs = counted(len(both), "run")
    return f" (Slurm's own count for the nodes of {runs}: {theirs}, where this table has {ours})"


def totals_of(findings: Findings) -> list[Fact]:
    """Return what all runs took together: energy, grams and time."""
    frame = findings.table.frame
    return [_energy(frame), _grams(findings), _time(frame)]


def _energy(frame: pd.DataFrame) -> Fact:
    known = frame["energy_kwh"].dropna()
    if known.empty:
        return Fact(name="Energy", value="unknown", note="not in the table")
    return Fact(name="Energy", value=ENERGY.show(float(known.sum())), note=_of_all(len(known), len(frame)))


def _grams(findings: Findings) -> Fact:
    frame = findings.table.frame
    known = frame.loc[frame["emissions_g"].notna()]
    definitions = findings.provenance.definitions
    if known.empty:
        return Fact(name="Emissions", value="unknown", note="no grams in the table")
    if len(definitions) > 1:
        return Fact(name="Emissions", value="not summed", note="the grams of these runs are defined differently")
    gas = definitions[0][0].partition(",")[0] if definitions else "definition not recorded"
    mean = mean_intensity(frame)
    note = _joined(gas, "" if mean is None else f"{mean:.4g} g/kWh", _of_all(len(known), len(frame)))
    return Fact(name="Emissions", value=MASS.show(float(known["emissions_g"].sum())), note=note)


def mean_intensity(frame: pd.DataFrame) -> float | None:
    """Return the mean g/kWh of the runs whose grams and energy are known; None without any."""
    known = frame[["emissions_g", "energy_kwh"]].dropna()
    energy = float(known["energy_kwh"].sum())
    return float(known["emissions_g"].sum()) / energy if energy > 0 else None


def _time(frame: pd.DataFrame) -> Fact:
    for column, note in (("total_s", ""), ("train_s", "training alone")):
        known = frame[column].dropna()
        if len(known):
            note = _joined(note, _of_all(len(known), len(frame)))
            return Fact(name="Time", value=TIME.show(float(known.sum())), note=note)
    return Fact(name="Time", value="unknown", note="not in the table")


def _of_all(known: int, runs: int) -> str:
    return "" if known == runs else f"{known:,} of {runs:,} runs"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
