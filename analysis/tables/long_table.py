"""Tables of one value a row, with its name and perhaps its unit beside it: turned so that each run is a row."""

import re
from collections.abc import Sequence

import pandas as pd

from lora_scaling.errors import RecordError, UserError
from lora_scaling.records.row import COLUMNS

from .column_names import QUANTITIES, meaning_of, unit_factor, unit_of_name, unit_target
from .likely_names import likely_meaning
from .numbered_columns import amount
from .parsing import RunWarning, texts_of

_NAMES = frozenset("metric metric_name variable key measure quantity parameter indicator field attribute name "
                   "kennzahl messgröße maling måling".split())  # fmt: skip
_VALUES = frozenset("value values val metric_value amount reading result wert vaerdi værdi valeur valor".split())
_UNITS = re.compile(r"(?:(.+?)[ _.]+)?(?:units?|uom|einheit|enhed|unité|unite|unidad)(?:[ _.]+(?:of[ _.]+)?(.+))?")
_MOMENTS = ("step", "timestamp", "time_stamp", "wall_time", "is_nan")  # of a value, and no part of a run's name
_KINDS = {"kWh": "energy", "s": "duration", "g": "emissions"}
MOST_NAMES = 200


def from_long(raw: pd.DataFrame, sources: Sequence[str]) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Make a row of each run of a table with a name and a value in each row; another table stays as it is.

    Raises:
        RecordError: nothing tells which values are of one run.
    """
    by_name = {str(name).strip().lower(): str(name) for name in raw.columns}
    named, valued = ([by_name[word] for word in words if word in by_name] for words in (_NAMES, _VALUES))
    if not named or len(valued) != 1 or raw.empty:
        return raw, []
    named = [name for name in named if _holds_names(raw[name])]
    if len(named) != 1:
        return raw, []
    name, value = named[0], valued[0]
    unit = next((column for column in map(str, raw.columns) if _UNITS.fullmatch(column.strip().lower())), None)
    moments = [by_name[word] for word in _MOMENTS if word in by_name]
    ids = [str(column) for column in raw.columns if column not in (name, value, unit, "_place", *moments)]
    rows = raw.assign(_run=raw.groupby(ids, sort=False, dropna=False).ngroup() if ids else 0)
    if rows.duplicated(["_run", name]).any():
        if not moments or not ids:
            raise RecordError(
                f"{', '.join(sources)}: a table of a value in each row (`{name}`, `{value}`), in which nothing tells "
                f"which values are of one run; add a column with the run's name, or turn it so that each run is a row"
            )
        by = [column for column in moments if column.lower() != "is_nan"]
        order = rows[by].apply(pd.to_numeric, errors="coerce").sort_values(by, kind="stable").index
        rows = rows.loc[order].drop_duplicates(["_run", name], keep="last").sort_index()
    if unit is not None:
        rows = rows.assign(**{value: _with_units(rows[value], rows[unit])})
    cells = rows.pivot(index="_run", columns=name, values=value)
    cells.columns = [str(column) for column in cells.columns]
    first = rows.drop_duplicates("_run").set_index("_run")[[*ids, "_place"]]
    clash = [column for column in cells.columns if column in ids]
    turned = pd.concat([first.drop(columns=clash), cells], axis=1).reset_index(drop=True)
    message = (
        f"A table of a value in each row (`{name}`, `{value}`): turned into a row for each "
        f"{'run (' + ', '.join(f'`{column}`' for column in ids) + ')' if ids else 'file'}."
    )
    return turned, [RunWarning(kind="long_table", message=message)]


def _holds_names(cells: pd.Series) -> bool:
    """Whether a column holds names of columns: among them an energy, a time or the number of samples."""
    names = [str(cell) for cell in cells.dropna().unique()[: MOST_NAMES + 1]]
    if not 1 <= len(names) <= MOST_NAMES:
        return False
    return any(
        QUANTITIES.get(name.strip().lower())
        or name in COLUMNS
        or amount(name)
        or ((meaning := meaning_of(name, COLUMNS) or likely_meaning(name)) and meaning.column == "samples")
        for name in names
    )


def _with_units(values: pd.Series, units: pd.Series) -> pd.Series:
    """Return the texts of values with their units, of those that have one of energy, time or mass."""
    names = texts_of(units)
    known = names.map({name: _is_unit(name) for name in names.unique()}) & values.notna()
    texts = values.astype(str) + " " + names
    return values.astype(object).where(~known, texts)


def _is_unit(text: str) -> bool:
    return unit_target(text)[0] in (*_KINDS, "GB", "") and bool(text)


def with_units_beside(raw: pd.DataFrame, kept: frozenset[str]) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Write the units that stand in a column of their own into the cells that they are of: `24.1` and `Wh`.

    `kept`: columns whose unit is said otherwise.

    Raises:
        UserError: the unit contradicts the name of the column that it is of, or may be milli or mega.
    """
    notes: list[RunWarning] = []
    for name in map(str, raw.columns):
        found = _UNITS.fullmatch(name.strip().lower())
        units = [str(cell).strip() for cell in raw[name].dropna().unique()] if found else []
        units = [unit for unit in units if unit]
        if not found or not units or not all(_is_unit(unit) for unit in units):
            continue
        kinds = {unit_target(unit)[0] for unit in units}
        if "" in kinds or len(kinds) > 1:
            unclear = next((unit for unit in units if unit_target(unit)[0] == ""), "")
            if unclear:
                raise UserError(f"{name}: got {unclear!r}, which may be milli or mega; write {_written(unclear)}")
            continue
        column = _valued(raw, name, found[1] or found[2] or "", kinds.pop(), units, kept)
        if column is None:
            continue
        cells = _with_units(raw[column], raw[name])
        target = _KINDS.get(unit_target(units[0])[0], column)
        renamed = target if column.strip().lower() in _VALUES and target not in raw.columns else column
        raw = raw.assign(**{column: cells}).rename(columns={column: renamed}).drop(columns=name)
        notes.append(RunWarning(kind="unit_column", message=f"The units of `{column}` are those in `{name}`."))
    return raw, notes


def _written(unit: str) -> str:
    return "mWh or MWh" if "w" in unit.lower() else "mJ or MJ"


def _valued(
    raw: pd.DataFrame, name: str, stem: str, kind: str, units: Sequence[str], kept: frozenset[str]
) -> str | None:
    """Return the column that a column of units is of; None where nobody can know."""
    columns = [str(column) for column in raw.columns if column not in (name, "_place")]
    bare = [
        column
        for column in columns
        if not unit_of_name(column)
        and ((QUANTITIES.get(column.strip().lower(), "").endswith(f"_{kind.lower()}"))
             or column.strip().lower() in _VALUES or column in kept)
    ]  # fmt: skip
    if stem:
        return next((column for column in columns if column.strip().lower() == stem and column in bare), None)
    if len(bare) == 1:
        return bare[0]
    if bare:
        before = columns[list(map(str, raw.columns)).index(name) - 1] if name != str(raw.columns[0]) else ""
        return before if before in bare else None
    own = [column for column in columns if (meaning := amount(column)) and meaning.column.endswith(f"_{kind.lower()}")]
    for column in own if len(own) == 1 else ():
        said = unit_of_name(column) or kind
        target = own_column(column)
        if any(unit_factor(target, unit) != unit_factor(target, said) for unit in units) and column not in kept:
            raise UserError(
                f"{column}: got the unit {units[0]!r} in `{name}`, and its own name says {said}; give --ignore {name}, "
                f"or the right one as --column '{target}={column}:{units[0]}'"
            )
    return None


def own_column(name: str) -> str:
    """Return our column of an amount."""
    meaning = amount(name)
    return meaning.column if meaning is not None else name
