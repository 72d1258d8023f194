"""Which column is explained: one of ours by a short name, or any positive column of the table, with its unit."""

import re
from collections.abc import Sequence

import pandas as pd

from lora_scaling.errors import UserError
from lora_scaling.settings import POINT_COLUMNS

from .column_names import meaning_of, unit_of_name, unit_target
from .parsing import RunWarning, parse_numbers

RESPONSES = {
    "total": "energy_kwh",
    "train": "energy_train_kwh",
    "gpu": "energy_gpu_kwh",
    "time": "train_s",
}
OWN_UNIT = "own unit"
MOST_NAMED = 20
_FOREIGN = re.compile(r"(.+) \(([^()]+)\)")
_ENDINGS = {"kwh": "kWh", "s": "s", "g": "g", "gb": "GB", "w": "W"}


def unit_of(column: str) -> str:
    """Return the unit of a response column: of one of ours by its ending, of others as it stands in brackets."""
    if found := _FOREIGN.fullmatch(column):
        return "" if found[2] == OWN_UNIT else found[2]
    ending = column.rpartition("_")[2]
    return _ENDINGS.get(ending, "") if "_" in column else ""


def is_energy(column: str) -> bool:
    """Return whether a response is an energy of runs, of training or of the GPUs, whose metered part may be known."""
    return column in (RESPONSES["total"], RESPONSES["train"], RESPONSES["gpu"])


def noun_of(column: str) -> str:
    """Name a response column in a sentence: its own name, without the unit."""
    if found := _FOREIGN.fullmatch(column):
        return found[1].replace("_", " ")
    if column == "emissions_g":
        return "emission"
    head, _, ending = column.rpartition("_")
    return (head if head and ending in _ENDINGS else column).replace("_", " ")


def add_response(
    raw: pd.DataFrame, given: str, named: Sequence[str], ours: Sequence[str]
) -> tuple[pd.DataFrame, str, list[RunWarning]]:
    """Return the table with the column that `given` names, that column's name in it, and what to say of its unit.

    `given` is a short name, one of our columns, or a column as the table calls it (`named`, before it was renamed),
    with its unit after a colon. A column of the table that is not ours is added under its name and unit in brackets:
    `cost (USD)`. Energies, times, grams and bytes are converted to kWh, s, g and GB.

    Raises:
        UserError: there is no such column, or its unit is not known.
    """
    if given in RESPONSES:
        return raw, RESPONSES[given], []
    name, _, unit = (given, "", "") if given in {*named, *map(str, raw.columns)} else given.rpartition(":")
    name = name or given
    if name not in raw.columns and name in named and (meaning := meaning_of(name, ours)) is not None:
        name = meaning.column
    if name in (*POINT_COLUMNS, "samples_seen", "run_id"):
        raise UserError(f"response: got {given!r}, by which runs are compared; choose what they took, such as total")
    if name not in raw.columns or name == "_place":
        others = [column for column in map(str, raw.columns) if column not in (*ours, "_place")]
        listed = ", ".join(others[:MOST_NAMED]) or "none beside ours"
        raise UserError(
            f"response: got {given!r}; choose one of {', '.join(RESPONSES)}, or a column of the table ({listed}), "
            "such as cost:USD"
        )
    if name in ours and not unit:
        return raw, name, []
    said = unit or unit_of_name(name)
    target, factor = unit_target(said) if said else (OWN_UNIT, 1.0)
    if target == "":
        raise UserError(
            f"response: got {given!r}, whose unit {said!r} may be milli or mega; write mJ, MJ, mWh or MWh after a colon"
        )
    text = name.partition("(")[0].partition("[")[0].strip() or name
    head, _, last = text.rpartition("_")
    text = head if said and head and last.lower() == said.lower() else text
    column = f"{text.replace('(', '').replace(')', '')} ({target})"
    what = f"in {target}" + (f" (from {said})" if factor != 1.0 else "") if said else "whose unit is not known"
    notes = [RunWarning(kind="response_column", message=f"What is explained: `{name}`, {what}.")]
    if factor == 1.0:
        return raw.rename(columns={name: column}), column, notes
    parsed = parse_numbers(raw[name], run_ids=pd.Series("", index=raw.index))
    return raw.assign(**{name: parsed.values * factor}).rename(columns={name: column}), column, notes
