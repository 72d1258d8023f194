"""Names of columns over several rows: a title above them, groups in merged cells, units in a row of their own."""

import re
from collections.abc import Sequence

import pandas as pd

from lora_scaling.errors import RecordError
from lora_scaling.records.row import COLUMNS

from .column_names import meaning_of, unit_of_name, unit_target
from .likely_names import likely_meaning
from .parsing import RunWarning

_NO_UNIT = re.compile(r"[(\[]?(-|–|#|n|count|1|int|number|text|string|name|none|n/?a|date|)[)\]]?", re.IGNORECASE)
MOST_TITLES = 5
MARKS = ",;\t|"


def known_names(names: Sequence[str]) -> int:
    """Return how many of these names are those of columns of ours, as they are or in other words."""
    return sum(name in COLUMNS or bool(meaning_of(name, COLUMNS) or likely_meaning(name)) for name in set(names))


def with_units_below(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[RunWarning, ...]]:
    """Write the units of a first row that holds nothing else into the names of the columns.

    Raises:
        RecordError: a unit contradicts the one in the column's name.
    """
    if len(frame) < 2:
        return frame, ()
    cells = ["" if cell is None or cell != cell else str(cell).strip() for cell in frame.iloc[0]]
    units = [re.sub(r"^[(\[]\s*|\s*[)\]]$", "", cell) for cell in cells]
    known = [bool(unit) and unit_target(unit)[0] in ("kWh", "s", "g", "GB", "") for unit in units]
    if not any(known) or any(not one and not _NO_UNIT.fullmatch(cell) for one, cell in zip(known, cells, strict=True)):
        return frame, ()
    names = []
    for name, unit, one in zip(map(str, frame.columns), units, known, strict=True):
        said = unit_of_name(name)
        if one and said and unit_target(said) != unit_target(unit):
            raise RecordError(
                f"{name}: its unit is {said} by its name and {unit} by the row below; correct one of them"
            )
        names.append(f"{name} ({unit})" if one and not said else name)
    message = f"The row below the names holds their units ({', '.join(dict.fromkeys(u for u in units if u))})."
    rest = frame.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
    return rest, (RunWarning(kind="unit_row", message=message),)


def with_group(above: Sequence[str], names: Sequence[str]) -> list[str]:
    """Put the names of groups in merged cells above columns before the columns' own, where these alone say nothing."""
    filled = [place for place, cell in enumerate(above) if cell]
    if not filled or filled == [0]:  # a title
        return list(names)
    group, full = "", []
    for cell, name in zip(above, names, strict=True):
        group = cell or group
        full.append(name if not group or known_names([name]) else f"{group} {name}")
    return full


def titles_above(lines: Sequence[str]) -> int:
    """Return how many lines of text stand above the line of names of a delimited table."""
    beginning = [line for line in lines if line.strip()][:4]
    for mark in MARKS:
        counts = {line.count(mark) for line in beginning}
        if len(counts) == 1 and counts != {0}:  # the first line has as many cells as the others
            return 0
    for first in range(1, min(MOST_TITLES, len(lines) - 2) + 1):
        below = [line for line in lines[first:] if line.strip()][:3]
        if len(below) < 3 or not lines[first].strip():
            continue
        for mark in MARKS:
            counts = {line.count(mark) for line in below}
            width = counts.pop()
            if counts or width < 2 or any(line.count(mark) * 2 > width for line in lines[:first]):
                continue
            words = [cell for cell in below[0].split(mark) if re.search(r"[^\W\d_]", cell)]
            if 2 * len(words) > width:
                return first
    return 0
