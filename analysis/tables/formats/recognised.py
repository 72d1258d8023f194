"""What a reader of one kind of file returns, and helpers that the readers share."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..parsing import RunWarning, numbers_of, texts_of

MOST_DEPTH = 4  # of mappings in a row


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """Rows of another program under our names.

    kind: what the file is, for messages. left_out: rows that are no run of their own (name, reason). understood: the
    program's own columns, whose meaning is known and which need no mention.
    """

    kind: str
    frame: pd.DataFrame
    warnings: tuple[RunWarning, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    understood: frozenset[str] = field(default_factory=frozenset)


def flat(row: Mapping[str, Any], *, whole: Collection[str] = (), depth: int = 0) -> dict[str, Any]:
    """Return a row with the entries of mappings in it under joined names; those named in `whole` stay as they are."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping) and set(value) == {"value", "unit"}:
            cells[str(name)] = f"{value['value']} {value['unit']}"
        elif isinstance(value, Mapping) and depth < MOST_DEPTH and name not in whole:
            cells |= {f"{name}.{key}": cell for key, cell in flat(value, whole=whole, depth=depth + 1).items()}
        else:
            cells[str(name)] = value
    return cells


def numbers(raw: pd.DataFrame, name: str) -> pd.Series:
    """Return a column's numbers, NaN where it has none."""
    if name not in raw:
        return pd.Series(float("nan"), index=raw.index)
    return numbers_of(raw[name])


def text(raw: pd.DataFrame, name: str) -> pd.Series:
    """Return a column's text without blanks around it, empty where it has none."""
    if name not in raw:
        return pd.Series("", index=raw.index, dtype=object)
    return texts_of(raw[name])


def moments(cells: pd.Series) -> pd.Series:
    """Return times as UTC moments; NaT where a cell is none."""
    return pd.to_datetime(cells, errors="coerce", format="ISO8601", utc=True)


def isoformat(times: pd.Series) -> pd.Series:
    """Return moments as text; None where unknown."""
    return times.map(lambda time: None if pd.isna(time) else time.isoformat()).astype(object)


def added(raw: pd.DataFrame, columns: dict[str, pd.Series]) -> pd.DataFrame:
    """Add columns under our names where the table has none of that name."""
    return raw.assign(**{name: values for name, values in columns.items() if name not in raw.columns})


def named_runs(raw: pd.DataFrame, *names: str) -> pd.Series:
    """Return the first of these columns that names each row differently, as run ids; empty texts where none does."""
    for name in names:
        found = text(raw, name)
        if len(found) and (found != "").all() and not found.duplicated().any():
            return found
    return pd.Series("", index=raw.index, dtype=object)
