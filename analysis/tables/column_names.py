"""The names and units that other programs give to the columns of a runs table.

A column is renamed only where its name leaves no doubt about what it holds and in which unit. A name without a unit
(`energy`, `total_energy`) is left alone: read in the wrong unit it would be wrong by a thousand.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lora_scaling.errors import UserError
from lora_scaling.settings import SETTINGS
from lora_scaling.units import JOULES_PER_KWH

from .durations import seconds_of
from .parsing import FIRST_CELLS, RunWarning, parse_numbers, texts_of

# What others call the columns that hold no unit; the settings' own aliases are in the table of settings.
_PLAIN = {
    "samples": "n_samples num_samples nr_samples train_samples num_train_samples n_train nrows n_rows num_rows "
    "dataset_size train_size training_samples samples_per_epoch",
    "epochs": "num_train_epochs num_epochs n_epochs nr_epochs",
    "rank": "r adapter_rank peft_r",
    "batch_size": "bs train_batch_size per_device_train_batch_size",
    "gradient_accumulation": "gradient_accumulation_steps grad_accum accumulation_steps",
    "max_seq_len": "max_seq_length sequence_length",
    "model": "model_name base_model base_model_name base_model_name_or_path model_name_or_path model_id",
    "hardware": "gpu_name gpu_model gpu_type device_name accelerator",
    "gpu_count": "num_gpus n_gpus",
    "method": "peft_type peft_method tuning_method finetuning_type finetuning_method",
    "data": "dataset_name data_name dataset_id",
    "params": "num_params n_params parameters num_parameters total_params num_total_params",
    "trainable_params": "num_trainable_params n_trainable_params trainable_parameters",
    "tokens_seen": "num_tokens n_tokens total_tokens num_input_tokens_seen train_tokens",
    "flops": "total_flos total_flops",
    "steps": "global_step max_steps_done num_steps total_steps",
    "replicate": "repeat repetition rep trial",
    "started_at": "start_time started created_at",
    "status": "state",
    "run_id": "run_name",
    "train_loss": "final_train_loss",
    "eval_loss_after": "eval_loss",
}
# Quantities with a unit: the column and what others call it, without the unit.
_ENERGIES = {
    "energy_kwh": "energy total_energy energy_total energy_consumed energy_consumption consumed_energy energy_used "
    "power_consumption electricity",
    "energy_train_kwh": "train_energy training_energy energy_train",
    "energy_gpu_kwh": "gpu_energy energy_gpu",
    "energy_cpu_kwh": "cpu_energy energy_cpu",
    "energy_ram_kwh": "ram_energy energy_ram",
}
_TIMES = {
    "train_s": "train_time training_time train_runtime train_duration training_duration",
    "total_s": "total_time runtime run_time duration elapsed elapsed_time wall_time walltime varighed dauer",
}
_GRAMS = {"emissions_g": "emissions co2_emissions co2 co2e co2eq co2_eq carbon carbon_emissions"}
_BYTES = {"peak_memory_gb": "peak_memory max_memory peak_vram max_vram peak_gpu_memory max_gpu_memory"}
_ENERGY_UNITS = {
    "kwh": 1.0,
    "wh": 1e-3,
    "j": 1 / JOULES_PER_KWH,
    "joules": 1 / JOULES_PER_KWH,
    "joule": 1 / JOULES_PER_KWH,
    "watthours": 1e-3,
    "watthour": 1e-3,
    "kilowatthours": 1.0,
    "kilowatthour": 1.0,
    "kilojoules": 1e3 / JOULES_PER_KWH,
    "kj": 1e3 / JOULES_PER_KWH,
    "ws": 1 / JOULES_PER_KWH,
    "uj": 1e-6 / JOULES_PER_KWH,
    "gwh": 1e6,
    # Upper and lower case tell mega from milli.
    "MWh": 1e3,
    "mWh": 1e-6,
    "MJ": 1e6 / JOULES_PER_KWH,
    "mJ": 1e-3 / JOULES_PER_KWH,
}
_TIME_UNITS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0, "ms": 1e-3, "min": 60.0, "mins": 60.0,
               "minutes": 60.0, "h": 3600.0, "hours": 3600.0}  # fmt: skip
_GRAM_UNITS = {"g": 1.0, "grams": 1.0, "kg": 1e3, "mg": 1e-3, "t": 1e6, "lb": 453.59237, "lbs": 453.59237}
_GRAM_UNITS |= {f"{mass}co2{e}": _GRAM_UNITS[mass] for mass in ("g", "kg", "t", "lb", "lbs") for e in ("", "e", "eq")}
_BYTE_UNITS = {"gb": 1.0, "mb": 1e-3, "bytes": 1e-9, "gib": 1.073741824, "mib": 1.073741824 / 1024}
_UNITS = {
    **dict.fromkeys(_ENERGIES, _ENERGY_UNITS),
    **dict.fromkeys(_TIMES, _TIME_UNITS),
    **dict.fromkeys(_GRAMS, _GRAM_UNITS),
    **dict.fromkeys(_BYTES, _BYTE_UNITS),
}
# Programs that write these say no unit: the Trainer's and Slurm's seconds, Slurm's joules.
_SECONDS = {"train_runtime": "train_s", "elapsed_raw": "total_s"}
_JOULES = {"consumed_energy_raw": "energy_kwh"}
AMBIGUOUS_UNITS = ("mj", "mwh")  # milli or mega, in lower case
SAME = 0.02  # two columns of one quantity may differ by so much, as they are rounded
_CASED_UNIT = re.compile(r"(?<![A-Za-z])(MWh|mWh|MJ|mJ)\W*$")
_WITH_UNIT = re.compile(r"([+-]?[\d.,]*\d(?:[eE][+-]?\d+)?)\s*([A-Za-z\u00b5\u03bc]+)")
OK_STATUSES = frozenset(
    {
        "",
        "ok",
        "finished",
        "success",
        "successful",
        "succeeded",
        "completed",
        "complete",
        "done",
        "passed",
        "completed successfully",
        "f\u00e6rdig",
        "afsluttet",
        "fertig",
        "abgeschlossen",
        "termin\u00e9",
        "completado",
    }
)


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a column of another program holds: our column, and the factor from its unit to ours."""

    column: str
    factor: float = 1.0
    unit: str = ""


def _plain_names() -> dict[str, str]:
    names = {alias: s.column for s in SETTINGS if s.column for alias in s.aliases}
    return names | {alias: column for column, aliases in _PLAIN.items() for alias in aliases.split()}


PLAIN_NAMES = _plain_names()
QUANTITIES = {
    name: column
    for group in (_ENERGIES, _TIMES, _GRAMS, _BYTES)
    for column, names in group.items()
    for name in names.split()
}


def meaning_of(name: str, ours: Iterable[str]) -> Meaning | None:
    """Say what a column of this name holds; None if it is one of `ours` already, or nobody can know."""
    ours = set(ours)
    if name in ours or "±" in name or "+/-" in name:
        return None
    plain, unit = _split_unit(name)
    if not unit:
        if plain in ours:
            return Meaning(column=plain)
        if column := PLAIN_NAMES.get(plain) or _SECONDS.get(plain):
            return Meaning(column=column)
        if column := _JOULES.get(plain):
            return Meaning(column=column, factor=1 / JOULES_PER_KWH, unit="J")
        return None
    if f"{plain}_{unit}" in ours:  # Energy (kWh)
        return Meaning(column=f"{plain}_{unit}", unit=unit)
    column = QUANTITIES.get(plain)
    factor = _UNITS[column].get(unit) if column else None
    return Meaning(column=column, factor=factor, unit=unit) if column and factor else None


def unit_factor(column: str, unit: str) -> float | None:
    """Return the factor from a unit to that of one of our columns; None if nobody can know."""
    kinds = ((_ENERGY_UNITS, "_kwh"), (_TIME_UNITS, "_s"), (_GRAM_UNITS, "_g"), (_BYTE_UNITS, "_gb"))
    return next((units.get(_unit_key(unit)) for units, ending in kinds if column.endswith(ending)), None)


# Endings of names that are units wherever they stand; `_t` or `_h` may be anything.
_ENDING_UNITS = frozenset(
    "kwh wh j kj joules mwh mj ms sec secs seconds s min mins minutes hours g kg grams gb mb gib mib bytes usd eur dkk "
    "gbp watts w kw btu kcal lb lbs uj litres liters".split()
)


def unit_of_name(name: str) -> str:
    """Return the unit that a column's name holds: in brackets, or as its last part; "" if none."""
    if found := re.fullmatch(r".+?\s*[(\[]\s*([^()\[\]]+?)\s*[)\]]", name.strip()):
        return found[1]
    if cased := _CASED_UNIT.search(name):
        return cased[1]
    last = _snake(name).rpartition("_")[2]
    return last if last != _snake(name) and last in _ENDING_UNITS else ""


def unit_target(unit: str) -> tuple[str, float]:
    """Return the unit in which values of this unit are kept, and the factor to it; ("", 0) for milli or mega."""
    key = _unit_key(unit.strip())
    if key in AMBIGUOUS_UNITS:
        return "", 0.0
    kinds = ((_ENERGY_UNITS, "kWh"), (_TIME_UNITS, "s"), (_GRAM_UNITS, "g"), (_BYTE_UNITS, "GB"))
    return next(((name, units[key]) for units, name in kinds if key in units), (unit.strip(), 1.0))


def _unit_key(unit: str) -> str:
    """Return a unit as the tables of units have it: in lower case, unless its case tells mega from milli."""
    unit = unit.replace("\u00b5", "u").replace("\u03bc", "u")
    return unit if _CASED_UNIT.fullmatch(unit) else re.sub(r"[^a-z0-9]+", "", unit.lower())


def _split_unit(name: str) -> tuple[str, str]:
    """Split a name into its plain form and its unit: `Energy (kWh)` is (energy, kwh), `config.lora_r` (lora_r, "")."""
    text = re.sub(
        r"^((config|params|parameters|hparams|args|summary|metrics|train|sys)[./]|(params|user_attrs)_(?=[a-z]))+",
        "",
        name.strip(),
        flags=re.I,
    )
    if match := re.fullmatch(r"(.+?)\s*[(\[]\s*([^()\[\]]+?)\s*[)\]]", text):
        return _snake(match[1]), re.sub(r"[^A-Za-z0-9]+", "", _unit_key(match[2]))
    if cased := _CASED_UNIT.search(text):
        return _snake(text[: cased.start()]), cased[1]
    plain = _snake(text)
    head, _, last = plain.rpartition("_")
    units = {unit for table in _UNITS.values() for unit in table} | set(AMBIGUOUS_UNITS)
    head = head.removesuffix("_in")
    return (head, last) if last in units and head in QUANTITIES else (plain, "")


def _snake(text: str) -> str:
    text = re.sub(r"(?<=[a-z])KWh", "_kwh", text.strip())
    text = re.sub(r"kwh", "kwh", text, flags=re.I)
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", text)
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def rename_columns(raw: pd.DataFrame, ours: Sequence[str]) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Give the columns of other programs our names, and convert their units; say which.

    Raises:
        UserError: two columns could be the same one of ours.
    """
    meanings = {
        str(name): meaning for name in raw.columns if (meaning := meaning_of(str(name), ours)) and name != "_place"
    }
    meanings |= _by_units_in_cells(raw, {*ours, *meanings})
    _refuse_contradictions(raw, meanings)
    meanings = {name: meaning for name, meaning in meanings.items() if meaning.column not in raw.columns}
    for column in {meaning.column for meaning in meanings.values()}:
        names = [name for name, meaning in meanings.items() if meaning.column == column]
        if len(names) > 1:
            shown = ", ".join(f"`{name}`" for name in names)
            raise UserError(f"{column}: could be any of {shown}; choose one, such as --column {column}={names[0]}")
    return apply_meanings(raw, meanings)


def _refuse_contradictions(raw: pd.DataFrame, meanings: Mapping[str, Meaning]) -> None:
    """Raise UserError where a column beside one of ours holds the same quantity (`energy_wh`) with other values."""
    for name, meaning in meanings.items():
        if meaning.column not in raw.columns or meaning.column not in _UNITS:
            continue
        ids = pd.Series("", index=raw.index)
        ours, theirs = (parse_numbers(raw[column], run_ids=ids).values for column in (meaning.column, name))
        theirs = theirs * meaning.factor
        differing = (ours - theirs).abs() > SAME * ours.abs().clip(lower=theirs.abs())
        if differing.any():
            row = differing[differing].index[0]
            raise UserError(
                f"{meaning.column}: got {ours[row]:.4g}, and `{name}` says {theirs[row]:.4g} in the same unit, in "
                f"{int(differing.sum())} of {len(raw)} rows; leave one out, such as --ignore {name}"
            )


def _by_units_in_cells(raw: pd.DataFrame, known: set[str]) -> dict[str, Meaning]:
    """Return the meanings of quantities whose names hold no unit, where every cell does: `energy` of 24.1 Wh."""
    found = {}
    for name in map(str, raw.columns):
        column = None if name in known else QUANTITIES.get(_split_unit(name)[0])
        clock = column in _TIMES and seconds_of(raw[name]) is not None
        if column and (clock or _cell_units(raw[name], column) is not None):
            found[name] = Meaning(column=column)
    return found


def convert_cells(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Convert the columns of quantities whose every cell has its own unit (`24.1 Wh`) to numbers in our unit."""
    converted, notes = {}, []
    for name in (name for name in raw.columns if name in _UNITS):
        if name in _TIMES and (seconds := seconds_of(raw[name])) is not None:
            converted[name] = seconds
            notes.append(f"`{name}` (h:mm:ss)")
            continue
        parts = _cell_units(raw[name], str(name))
        if parts is None:
            continue
        numbers, units = parts
        factors = units.map(lambda unit, name=name: unit_factor(str(name), unit), na_action="ignore")
        parsed = parse_numbers(numbers, run_ids=pd.Series("", index=numbers.index))
        if not parsed.unreadable:
            converted[name] = parsed.values * factors.astype(float)
            notes.append(f"`{name}` ({', '.join(sorted(set(units.dropna())))})")
    if not converted:
        return raw, []
    message = f"Every cell has a unit of its own, from which it was converted: {', '.join(notes)}."
    return raw.assign(**converted), [RunWarning(kind="cell_units", message=message)]


def _cell_units(cells: pd.Series, column: str) -> tuple[pd.Series, pd.Series] | None:
    """Return the numbers and the units of cells that all have one of the column's kind, blank ones aside; else None."""
    first = cells.dropna().head(FIRST_CELLS).astype(str).str.strip()
    if not first[first != ""].str.fullmatch(_WITH_UNIT).all():  # of a million cells, most have none
        return None
    text = texts_of(cells)
    text = text.where(text != "")
    found = text.str.extract(f"^{_WITH_UNIT.pattern}$")
    units = found[1].dropna()
    if units.empty or len(units) < text.notna().sum() or any(unit_factor(column, one) is None for one in set(units)):
        return None
    return found[0], found[1]


def apply_meanings(raw: pd.DataFrame, meanings: Mapping[str, Meaning]) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Rename these columns, convert their units, and say so."""
    if not meanings:
        return raw, []
    raw, notes = raw.copy(), []
    for name, meaning in meanings.items():
        if meaning.factor != 1:
            raw[name] = _converted(raw[name], meaning.factor)
        from_unit = f" (from {meaning.unit})" if meaning.factor != 1 else ""
        notes.append(f"`{name}` as `{meaning.column}`{from_unit}")
    raw = raw.rename(columns={name: meaning.column for name, meaning in meanings.items()})
    message = f"Columns read under our names: {', '.join(notes)}."
    return raw, [RunWarning(kind="renamed_columns", message=message)]


def _converted(cells: pd.Series, factor: float) -> pd.Series:
    """Multiply the numbers among the cells; what is no number stays as it is, to be named later."""
    parsed = parse_numbers(cells, run_ids=pd.Series("", index=cells.index))
    numbers = (parsed.values * factor).astype(object)
    return numbers.where(~cells.index.isin(list(parsed.unreadable)), cells)
