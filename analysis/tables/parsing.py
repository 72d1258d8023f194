"""From cells as people write them to numbers, without guessing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

UNKNOWN = ("", "na", "n/a", "nan", "null", "none", "-", "?")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
AMBIGUOUS = "or thousands?"  # in the reason of a cell that can be read in two ways
POINT_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+")
# Blanks and apostrophes between groups of three digits, as in Switzerland and France, are no decimal mark.
# Both marks in one number leave no doubt: the last one is the decimal mark.
BOTH_POINT = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+\.\d+")
BOTH_COMMA = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+,\d+")
WITH_ERROR = re.compile(r"([+-]?[\d.,]*\d(?:[eE][+-]?\d+)?)\s*(?:\u00b1|\+/-|\+-)\s*[\d.,]*\d(?:[eE][+-]?\d+)?\s*")
GROUPED = re.compile(r"[+-]?\d{1,3}(?P<mark>[ '\u2019\u00a0\u2009\u202f])\d{3}(?:(?P=mark)\d{3})*(?:[.,]\d+)?")
THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+")
FIRST_CELLS = 20  # that are looked at before all are


@dataclass(frozen=True, kw_only=True)
class RunWarning:
    """What a reader must know: a kind for machines, a sentence for people, the runs concerned."""

    kind: str
    message: str
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """Numbers (NaN where unknown), why each unreadable cell (by row label) is so, and a note if any."""

    values: pd.Series
    unreadable: dict[int, str]
    warning: RunWarning | None


def texts_of(cells: pd.Series) -> pd.Series:
    """Return cells as texts without blanks around them, empty where there is nothing."""
    return cells.where(cells.notna(), "").astype(str).str.strip()


def numbers_of(cells: pd.Series) -> pd.Series:
    """Return the numbers of cells, NaN where one holds none, whatever the reason."""
    return parse_numbers(cells, run_ids=pd.Series("", index=cells.index)).values


def parse_numbers(
    cells: pd.Series, *, run_ids: pd.Series, beside_commas: bool = False, beside_points: bool = False
) -> Parsed:
    """Read one column of numbers; text with a unit or an ambiguous comma is unreadable, not guessed.

    `beside_commas`: other columns of the table have decimal commas, so that 1.000 may be a thousand. `beside_points`:
    they have decimal points alone, so that 1,000 can only be one.
    """
    if pd.api.types.is_bool_dtype(cells):
        return Parsed(values=cells.astype(float), unreadable={}, warning=None)
    if pd.api.types.is_numeric_dtype(cells):
        return Parsed(values=cells.astype(float), unreadable={}, warning=None)
    text = texts_of(cells)
    values = pd.to_numeric(text, errors="coerce").astype(float)
    stated = False
    if (odd := values.isna() & (text != "")).any():
        text, stated, pointed = _plainer(text, text[odd])
        beside_points = beside_points or (pointed and not beside_commas)
        values = pd.to_numeric(text, errors="coerce").astype(float)
    if (grouped := values.isna() & text.str.fullmatch(GROUPED)).any():
        text = text.where(~grouped, text.str.replace(r"[ '\u2019\u00a0\u2009\u202f]", "", regex=True))
        values = pd.to_numeric(text, errors="coerce").astype(float)
    if beside_commas and (grouped := text[text.str.fullmatch(POINT_THOUSANDS)]).size:
        return Parsed(values=values, unreadable={_row(r): _point(cells, c) for r, c in grouped.items()}, warning=None)
    open_ = values.isna() & ~text.str.lower().isin(UNKNOWN)
    if not open_.any():
        message = f"`{cells.name}` has values with their uncertainty (±), which is not used."
        note = RunWarning(kind="uncertainty", message=message) if stated else None
        return Parsed(values=values, unreadable={}, warning=note)
    left = text[open_]
    if beside_points and left.str.fullmatch(THOUSANDS).all():
        values[open_] = left.str.replace(",", "", regex=False).astype(float)
        message = f"`{cells.name}` has commas between thousands ({left.iloc[0]}), as the table's decimals are points."
        return Parsed(values=values, unreadable={}, warning=RunWarning(kind="thousands", message=message))
    if _is_decimal_comma(list(left)):
        values[open_] = left.str.replace(",", ".", regex=False).astype(float)
        warning = RunWarning(
            kind="decimal_comma",
            message=f"`{cells.name}` has decimal commas ({left.iloc[0]}), read as decimal points.",
            run_ids=tuple(str(run_ids.loc[row]) for row in left.index),
        )
        return Parsed(values=values, unreadable={}, warning=warning)
    return Parsed(
        values=values,
        unreadable={_row(row): _why(str(cells.name), cell) for row, cell in left.items()},
        warning=None,
    )


def _plainer(text: pd.Series, odd: pd.Series) -> tuple[pd.Series, bool, bool]:
    """Return the texts without uncertainties and without marks between thousands where these leave no doubt.

    Says as well whether there were uncertainties, and whether points are the decimal marks.
    """
    if stated := bool((error := odd.str.fullmatch(WITH_ERROR)).any()):
        odd = odd.where(~error, odd.str.replace(WITH_ERROR, lambda found: found[1], regex=True))
    point, comma = odd.str.fullmatch(BOTH_POINT), odd.str.fullmatch(BOTH_COMMA)
    pointed = bool(point.any() and not comma.any())
    if pointed:
        odd = odd.where(~point, odd.str.replace(",", "", regex=False))
    elif comma.any() and not point.any():
        odd = odd.where(~comma, odd.str.replace(".", "", regex=False))
    text = text.copy()
    text[odd.index] = odd
    return text, stated, pointed


def has_decimal_commas(cells: pd.Series) -> bool:
    """Whether a column of text is written with decimal commas."""
    if pd.api.types.is_numeric_dtype(cells):
        return False
    text = cells.dropna().astype(str).str.strip()
    text = text[text.str.contains(",", regex=False)]
    return bool(text.size) and _is_decimal_comma(list(text))


def has_decimal_points(cells: pd.Series) -> bool:
    """Whether a column is written with decimal points and no commas."""
    if pd.api.types.is_numeric_dtype(cells):
        return pd.api.types.is_float_dtype(cells)
    text = cells.dropna().astype(str).str.strip()
    both = text[text.str.contains(",", regex=False)]
    if both.str.fullmatch(BOTH_POINT).any() and not both.str.fullmatch(BOTH_COMMA).any():
        return True
    return bool(text.str.contains(".", regex=False).any()) and not bool(text.str.contains(",", regex=False).any())


def _row(label: object) -> int:
    return int(str(label))


def _point(cells: pd.Series, cell: str) -> str:
    return f"{cells.name}: got {cell!r} beside decimal commas: a decimal point {AMBIGUOUS} Write it without the point"


def _is_decimal_comma(texts: Sequence[str]) -> bool:
    """Every such cell is digits, one comma, digits, and at least one cannot be thousands."""
    return all(DECIMAL_COMMA.fullmatch(text) for text in texts) and any(
        not THOUSANDS.fullmatch(text) or text.lstrip("+-").startswith("0") for text in texts
    )


def _why(column: str, cell: str) -> str:
    shown = cell if len(cell) <= 40 else cell[:37] + "..."
    if DECIMAL_COMMA.fullmatch(cell) or THOUSANDS.fullmatch(cell):
        return f"{column}: got {shown!r}: a decimal comma {AMBIGUOUS} Write it with a decimal point"
    return f"{column}: got {shown!r}; allowed is a plain number in the column's unit"


def parse_truth(cells: pd.Series) -> list[bool | None]:
    """True, False or unknown from booleans, 0/1 and the words people use."""
    words = {
        "true": True,
        "1": True,
        "1.0": True,
        "yes": True,
        "false": False,
        "0": False,
        "0.0": False,
        "no": False,
    }
    return [
        None if cell is None or (isinstance(cell, float) and np.isnan(cell)) else words.get(str(cell).strip().lower())
        for cell in cells
    ]
