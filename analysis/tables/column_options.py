"""What a user says about the columns of a table that is not in our form: where samples stand, what a column means."""

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lora_scaling.config.compose import setting_names
from lora_scaling.errors import UserError
from lora_scaling.paths import presets

from .column_names import Meaning, apply_meanings, meaning_of, unit_factor
from .parsing import RunWarning
from .readers import read_sources
from .run_settings import COLUMN_OF, fill_columns


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """`samples_from`, `epochs_from`: `COLUMN:REGEX`, whose first group is the number, e.g. `project_name:n(\\d+)`.

    constants: our columns with one value for all rows. columns: our columns with the table's, and the unit after a
    colon if it is not ours (`{"energy_kwh": "used:Wh"}`). join, on: a table to join by a column that both have.
    ignore: columns that do not matter. settings: what the runs were, as a run's own settings (`model=llama-3.2-1b`).
    """

    samples_from: str | None = None
    epochs_from: str | None = None
    constants: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    join: str | Path | None = None
    on: str | None = None
    ignore: Sequence[str] = ()
    settings: Sequence[str] = ()

    @property
    def all_settings(self) -> tuple[str, ...]:
        """The settings, and those among the constants that have no column, or name the preset of a model."""
        named = [
            f"{name}={value}"
            for name, value in self.constants.items()
            if (name in setting_names() and name not in COLUMN_OF) or (name == "model" and value in presets("model"))
        ]
        return *named, *self.settings

    @property
    def sources(self) -> frozenset[str]:
        """The table's columns that are given a name of ours, as they are written, with their unit and without."""
        return frozenset(part for text in self.columns.values() for part in (text, text.rpartition(":")[0]) if part)

    @property
    def used(self) -> frozenset[str]:
        """The table's columns whose meaning these options say."""
        sources = (text.partition(":")[0] for text in (self.samples_from, self.epochs_from) if text)
        return frozenset((*sources, *((self.on,) if self.on else ())))


def assignments(option: str, given: Sequence[str]) -> dict[str, str]:
    """Read `NAME=VALUE` options into a mapping.

    Raises:
        UserError: one has no name or no value, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(f"{option}: got {text!r}; give COLUMN=VALUE")
        if name in found:
            raise UserError(f"{option}: given twice for {name!r}; give it once")
        found[name] = value
    return found


def apply_options(
    raw: pd.DataFrame, options: ColumnOptions, ours: Sequence[str]
) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Join, name, extract, set and leave out columns, in this order.

    Raises:
        UserError: an option names a column that does not exist, or cannot be used on this table.
    """
    raw = _join(raw, options)
    original = raw
    raw, warnings = _rename(raw, options.columns, ours)
    for column, source in (("samples", options.samples_from), ("epochs", options.epochs_from)):
        if source is not None:
            raw = raw.assign(**{column: _extracted(original, column, source)})
    for name, value in options.constants.items():
        column = COLUMN_OF.get(name, name)
        if column in ours:
            raw = raw.assign(**{column: value})
        elif name not in setting_names():
            _check_ours("set", column, ours)
    raw, filled = fill_columns(raw, options.all_settings)
    for column in options.ignore:
        _check_present("ignore", column, raw)
    return raw.drop(columns=list(options.ignore)), [*warnings, *filled]


def with_unit_for_all(raw: pd.DataFrame, options: ColumnOptions) -> tuple[pd.DataFrame, ColumnOptions]:
    """Write the unit of `energy_kwh=energy_*:Wh` into the names of all columns that are meant.

    Raises:
        UserError: no column is like that, or the unit is missing or unknown.
    """
    columns = dict(options.columns)
    for column, text in options.columns.items():
        pattern, _, unit = text.rpartition(":")
        if "*" not in text or text in raw.columns or pattern in raw.columns:
            continue
        names = [str(name) for name in raw.columns if fnmatch.fnmatchcase(str(name), pattern)]
        if not names or unit_factor(column, unit) is None:
            raise UserError(
                f"column: got {column}={text!r}; give the beginning of columns that there are, and their unit, such as "
                "energy_kwh=energy_*:Wh"
            )
        raw = raw.rename(columns={name: f"{name} ({unit})" for name in names})
        del columns[column]
    return raw, dataclasses.replace(options, columns=columns)


def _join(raw: pd.DataFrame, options: ColumnOptions) -> pd.DataFrame:
    if options.join is None:
        if options.on is not None:
            raise UserError(f"on: got {options.on!r} without a table to join; give --join FILE as well")
        return raw
    other = read_sources([Path(options.join)]).frame.drop(columns="_place")
    on = options.on if options.on is not None else _common_id(raw, other, options)
    for table in (raw, other):
        _check_present("on", on, table)
    keys, others = (table[on].astype(str).str.strip() for table in (raw, other))
    if others.duplicated().any():
        first = others[others.duplicated()].iloc[0]
        raise UserError(f"on: got {on!r}, which has {first!r} more than once in {options.join}; join by an id")
    if not keys.isin(set(others)).any():
        raise UserError(
            f"join: got {str(options.join)!r}, of which no row has the same {on!r} as a run "
            f"({keys.iloc[0]!r} against {others.iloc[0]!r}); join by another column"
        )
    new = [name for name in other.columns if name not in raw.columns]
    return raw.assign(**{name: keys.map(dict(zip(others, other[name], strict=True))) for name in new})


def _common_id(raw: pd.DataFrame, other: pd.DataFrame, options: ColumnOptions) -> str:
    """Return the one column that names the same runs in both tables."""
    found = []
    for name in raw.columns:
        if name in other.columns:
            keys, others = (table[name].astype(str).str.strip() for table in (raw, other))
            if not others.duplicated().any() and keys.nunique() > 1 and keys.isin(set(others)).all():
                found.append(str(name))
    if len(found) != 1:
        raise UserError(
            f"join: got {str(options.join)!r} without a column; give --on COLUMN, which both tables have"
            + (f": one of {', '.join(found)}" if found else "")
        )
    return found[0]


def _rename(
    raw: pd.DataFrame, columns: Mapping[str, str], ours: Sequence[str]
) -> tuple[pd.DataFrame, list[RunWarning]]:
    meanings: dict[str, Meaning] = {}
    for column, text in columns.items():
        _check_ours("column", column, ours)
        name, _, unit = (text, "", "") if text in raw.columns else text.rpartition(":")
        name = name or text
        _check_present("column", name, raw)
        factor = unit_factor(column, unit) if unit else 1.0
        if factor is None:
            raise UserError(f"column: got {column}={text}, whose unit {unit!r} is not known for `{column}`")
        meanings[name] = Meaning(column=column, factor=factor, unit=unit)
    given = [meaning.column for name, meaning in meanings.items() if name != meaning.column]
    return apply_meanings(raw.drop(columns=[column for column in given if column in raw.columns]), meanings)


def _extracted(raw: pd.DataFrame, column: str, source: str) -> pd.Series:
    option = f"{column}-from"
    name, colon, pattern = source.partition(":")
    if not (name and colon and pattern):
        raise UserError(f"{option}: got {source!r}; give COLUMN:REGEX, e.g. 'project_name:n(\\d+)'")
    if name not in raw.columns:  # under the name that we give it, as other messages do
        theirs = [str(one) for one in raw.columns if (found := meaning_of(str(one), ())) and found.column == name]
        name = theirs[0] if len(theirs) == 1 else name
    _check_present(option, name, raw)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{option}: got {source!r}, which is no regular expression ({error}); see Python's re"
        ) from None
    if compiled.groups < 1:
        raise UserError(f"{option}: got {source!r} without a group; put the number in parentheses, e.g. n(\\d+)")
    cells = raw[name].astype(str)
    found = cells.map(lambda cell: match[1] if (match := compiled.search(cell)) else None)
    if found.isna().all():
        raise UserError(f"{option}: got {source!r}, which matches no row; `{name}` is e.g. {cells.iloc[0]!r}")
    return found


def _check_present(option: str, column: str, raw: pd.DataFrame) -> None:
    if column not in raw.columns:
        names = ", ".join(str(name) for name in raw.columns[:40] if name != "_place")
        raise UserError(f"{option}: got {column!r}, which is no column of the table; choose one of {names}")


def _check_ours(option: str, column: str, ours: Sequence[str]) -> None:
    if column not in ours:
        raise UserError(
            f"{option}: got {column!r}, which is no column of a runs table; choose one of {', '.join(ours[:40])} …"
        )
