"""Turn a record into its row of the runs table."""

from collections.abc import Iterable, Mapping
from typing import Any

from lora_scaling.records.schema import PhaseSection
from lora_scaling.records.timeline import COMPONENTS
from lora_scaling.settings import SETTINGS, value_at
from lora_scaling.text import printable
from lora_scaling.units import JOULES_PER_KWH

_PHASES = ("setup", "warmup", "train", "eval", "score", "checkpoint", "lost")
_IDENTITY = ("run_id", "study", "status", "error", "replicate", "order", "session", "started_at", "host", "exclusive")
# The words of a command line that choose the run's model, data and other settings again; `config.again` makes them.
OVERRIDE_COLUMNS = ("model_override", "data_override", "settings_override")
_SETTINGS = tuple(s.column for s in SETTINGS if s.column and s.column not in _IDENTITY)
_QUANTITIES = (
    "samples_seen", "tokens_seen", "tokens_padded", "tokens_truncated", "tokens_trained", "steps", "trainable_params",
    "params", "layers", "hidden_size", "flops", "setup_reused",
    *(f"{name}_s" for name in (*_PHASES, "total")),
    "energy_kwh", *(f"energy_{name}_kwh" for name in (*_PHASES, *COMPONENTS)),
    "energy_uncertainty_kwh", "energy_above_idle_kwh", "idle_power_w", "slurm_energy_kwh",
    *(f"energy_source_{name}" for name in COMPONENTS),
    "intensity_g_per_kwh", "intensity_source", "intensity_status", "emissions_g",
    "train_loss", "eval_loss_before", "eval_loss_after", "eval_accuracy_before", "eval_accuracy_after", "score_before",
    "score_after", "peak_memory_gb", "mfu", "gpu_temperature_c",
)  # fmt: skip
COLUMNS = (*_IDENTITY, *_SETTINGS, *OVERRIDE_COLUMNS, *_QUANTITIES)

TEXT_COLUMNS = (
    "run_id", "study", "status", "error", "session", "started_at", "host",
    *(s.column for s in SETTINGS if s.column in _SETTINGS and s.kind == "text"),
    *OVERRIDE_COLUMNS,
    *(f"energy_source_{name}" for name in COMPONENTS), "intensity_source", "intensity_status",
)  # fmt: skip
TRUTH_COLUMNS = ("exclusive", *(s.column for s in SETTINGS if s.column and s.kind == "truth"), "setup_reused")
NUMERIC_COLUMNS = tuple(name for name in COLUMNS if name not in TEXT_COLUMNS and name not in TRUTH_COLUMNS)


def record_to_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Make one row of the table, with every column; unknown is None.

    The columns of `OVERRIDE_COLUMNS` are None: they depend on the configuration's files (`config.again`).
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    for section in ("work", "training", "model"):
        row.update({key: _cell(value) for key, value in _section(record, section).items() if key in row})
    row.update({key: _cell(value) for key, value in record.items() if key in row})
    row |= _setting_columns(record)
    row["setup_reused"] = bool(record["setup_reused"]) if "setup_reused" in record else None
    return row | _energy_columns(record) | _emission_columns(record)


def _setting_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the run really had."""
    config = _section(record, "config")
    own = "group_by_length" in config  # a run of this project, whose settings from before a version are known
    method = config.get("method")  # in our records a group of settings; in another program's, a name
    method = method if isinstance(method, str) else value_at(config, "method.name")
    columns: dict[str, Any] = {}
    for setting in SETTINGS:
        if setting.column is None:
            continue
        value = value_at(record, setting.recorded or f"config.{setting.name}")
        if value is None and own and setting.has_older and value_at(config, setting.name) is None:
            value = setting.before(record)
        unused = method == "full" and setting.field == "lora"
        columns[setting.column] = None if unused else _cell(value)
    return columns | {"method": _cell(method)}


def _cell(value: Any) -> Any:
    """Return a value that fits into a cell, text as it may be shown; leave out lists and objects of other programs."""
    if isinstance(value, str):
        return printable(value)
    return None if isinstance(value, (dict, list)) else value


def _energy_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    energy = _section(record, "energy")
    phases = energy.get("phases") or []
    columns: dict[str, Any] = {}
    for name in _PHASES:
        windows = [phase for phase in phases if phase.get("name") == name]
        columns[f"{name}_s"] = _sum(phase.get("seconds") for phase in windows) if windows else None
        columns[f"energy_{name}_kwh"] = _kwh(_sum(map(_phase_joules, windows))) if windows else None
    components = _section(energy, "components")
    for name in COMPONENTS:
        component = _section(components, name)
        columns[f"energy_{name}_kwh"] = _kwh(component.get("joules"))
        columns[f"energy_source_{name}"] = _cell(component.get("source"))
    conditions, idle = _section(energy, "conditions"), _section(energy, "idle")
    # Of a run that was continued by another job, Slurm's figure is that of the last job alone.
    slurm = {} if was_continued(energy) else _section(record, "slurm_energy")
    return columns | {
        "slurm_energy_kwh": _kwh(slurm.get("joules")),
        "energy_kwh": _kwh(energy.get("joules")) if _is_whole(record) else None,
        "energy_uncertainty_kwh": _kwh(energy.get("uncertainty_joules")),
        "energy_above_idle_kwh": _kwh(energy.get("above_idle_joules")),
        "idle_power_w": idle.get("power_w"),
        "gpu_temperature_c": conditions.get("gpu_temperature_c"),
    }


def was_continued(energy: Mapping[str, Any]) -> bool:
    """Return whether a run's energy is of several processes, each of which went on from the last one's checkpoint."""
    parts = energy.get("parts")
    return isinstance(parts, list) and len(parts) > 1


def _emission_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    emissions = _section(record, "emissions")
    return {
        "emissions_g": emissions.get("grams") if _is_whole(record) else None,
        "intensity_g_per_kwh": emissions.get("intensity_g_per_kwh"),
        "intensity_source": _cell(emissions.get("provider")),
        "intensity_status": _cell(emissions.get("status")),
    }


def _is_whole(record: Mapping[str, Any]) -> bool:
    """Return whether the energy is complete. What is left after a GPU was lost is not the energy of the run."""
    return bool(_section(record, "energy").get("complete", True))


def missing_part(record: Mapping[str, Any]) -> str | None:
    """Name the components whose energy should be in the record but is unknown; None if nothing is missing."""
    if _is_whole(record):
        return None
    parts = _section(_section(record, "energy"), "components").items()
    return " and ".join(name for name, part in parts if part.get("joules") is None and part.get("source") != "none")


def _phase_joules(phase: PhaseSection) -> float | None:
    """Sum the energy of a phase over its components; None if the energy of an existing component is unknown."""
    parts = [part for part in (phase.get("components") or {}).values() if part.get("source") != "none"]
    return _sum(part.get("joules") for part in parts) if parts else None


def _sum(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _kwh(joules: float | None) -> float | None:
    return None if joules is None else joules / JOULES_PER_KWH


def _section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}
