"""Figures as people read them: three digits, no powers of ten, one unit for an interval and for a column; tables."""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

UNKNOWN = "unknown"

# What a terminal obeys or hides instead of showing it: control characters (escape sequences begin with one), marks that
# reverse the direction of text, invisible characters, lone surrogates. Line feed and tab are apart: text has them.
_UNPRINTABLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
)
_STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(\d[\d,]*\.?\d*|\.\d+)([eE][+-]?\d+)?|-|[+-]?(inf|nan)", re.ASCII)
_IN_A_CELL = re.compile(f"[\t\n{_UNPRINTABLE}]")
_IN_LINES = re.compile(f"(?!\r\n)[{_UNPRINTABLE}]")


def number(x: float, digits: int = 3) -> str:
    """Format with so many significant digits and thousands separators: 0.0617, 5.62, 21,300."""
    if not math.isfinite(x):
        return "?"
    if x == 0:
        return "0"
    rounded = float(f"{x:.{digits}g}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    text = f"{rounded:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True)
class Unit:
    """A unit, `size` base units large."""

    size: float
    name: str

    def number(self, x: float | None, digits: int = 3) -> str:
        return UNKNOWN if x is None or math.isnan(x) else number(x / self.size, digits)

    def show(self, x: float | None, digits: int = 3) -> str:
        return UNKNOWN if x is None or math.isnan(x) else f"{number(x / self.size, digits)} {self.name}".rstrip()


@dataclass(frozen=True)
class Quantity:
    """A kind of figure and its units, smallest first, as (from this value on, size, name) in base units."""

    units: tuple[tuple[float, float, str], ...]

    def unit(self, x: float) -> Unit:
        """Return the unit in which this value reads best."""
        fitting = [unit for unit in self.units if abs(x) >= unit[0]] or self.units[:1]
        return Unit(*fitting[-1][1:])

    def show(self, x: float | None) -> str:
        """Format one value with its unit; what is not known says so."""
        return UNKNOWN if x is None or math.isnan(x) else self.unit(x).show(x)

    def interval(self, estimate: float, low: float, high: float, *, to: str = "to", digits: int = 3) -> tuple[str, str]:
        """Format (estimate, range) in the estimate's unit: ("0.94 kWh", "0.512 to 1.73 kWh")."""
        unit = self.unit(estimate)
        return unit.show(estimate, digits), f"{unit.number(low, digits)} {to} {unit.show(high, digits)}"

    def between(self, estimate: float, low: float, high: float, *, to: str = "to") -> str:
        """Format an estimate with its interval: 0.94 kWh (0.512 to 1.73 kWh)."""
        value, ends = self.interval(estimate, low, high, to=to)
        return f"{value} ({ends})"

    def column_unit(self, values: Iterable[float | None]) -> Unit:
        """Return the unit for a column: the one in which its median reads best."""
        known = sorted(x for x in values if x is not None and math.isfinite(x) and x != 0)
        return self.unit(known[len(known) // 2] if known else 0.0)


# The estimator's page (estimate/templates/page_ui.js) has the same units.
TIME = Quantity(((0.0, 1.0, "s"), (100.0, 60.0, "min"), (5400.0, 3600.0, "h"), (172800.0, 86400.0, "days")))
ENERGY = Quantity(  # kWh
    ((0.0, 1e-6, "mWh"), (1e-5, 1e-3, "Wh"), (0.1, 1.0, "kWh"), (1e3, 1e3, "MWh"), (1e6, 1e6, "GWh"))
)
MASS = Quantity(((0.0, 1e-3, "mg"), (0.01, 1.0, "g"), (1e3, 1e3, "kg"), (1e6, 1e6, "t")))  # grams
POWER = Quantity(((0.0, 1.0, "W"), (1e3, 1e3, "kW")))
MEMORY = Quantity(((0.0, 1.0, "GB"),))
MONEY = Quantity(((0.0, 1.0, ""),))


def duration(seconds: float | None) -> str:
    """Format a time that has passed or is left: 5 s, 2 min 30 s, 2 h 03 min."""
    if seconds is None:
        return UNKNOWN
    if seconds < 100:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def counted(count: float, noun: str) -> str:
    """Format a count with its noun: 1 epoch, 2 epochs, 10,000 epochs."""
    shown = f"{round(count):,}" if count == round(count) else f"{count:g}"
    return f"{shown} {noun}" + ("" if count == 1 else "s")


def printable(text: str) -> str:
    """Escape what a terminal would obey or hide, as in JSON (`\\u001b`): for text from elsewhere within one line."""
    return text if text.isascii() and text.isprintable() else _IN_A_CELL.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """Escape the same in text of several lines: line feeds, tabs and carriage returns at the end of a line stay."""
    return _IN_LINES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code > 0xFFFF:  # as JSON writes it, so that the text of a JSON document stays one
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"


def inert(cell: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run as a formula; numbers, such as -3.2, stay as they are.

    For every table that is written for other programs (OWASP, "CSV injection").
    """
    return f"'{cell}" if cell.lstrip(" ").startswith(_STARTS_FORMULA) and not _NUMBER.fullmatch(cell.strip()) else cell


def shown(x: float, form: str = ".2f") -> str:
    """Format a number in a sentence; a question mark where it is infinite or unknown."""
    return format(x, form) if math.isfinite(x) else "?"


def columns(rows: Sequence[Sequence[str]], *, left: int = 1, right: Collection[int] | None = None) -> list[str]:
    """Align rows of cells, the header first: figures to the right, words to the left.

    Figures are in the columns from `left` on, or in those that `right` names.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    figures = range(left, len(widths)) if right is None else right
    return [
        "  ".join(
            cell.rjust(width) if i in figures else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
