"""Draw a comparison: medians and intervals side by side, as an SVG. Standard library only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lora_scaling.errors import UserError
from lora_scaling.estimate.result import Estimate, Interval
from lora_scaling.records import write_text
from lora_scaling.text import ENERGY, MASS, TIME, Quantity

# Okabe and Ito's blue and vermilion, which every kind of colour vision distinguishes; shapes differ as well.
_FITS, _BAND, _DOES_NOT = "#0072b2", "#a6cee3", "#d55e00"
_INK, _SOFT, _GRID = "#1a1a1a", "#555555", "#dddddd"
_ROW, _TOP, _LABELS, _PANEL, _GAP, _FIGURE = 30, 92, 128, 300, 34, 88
_DIGITS = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9))


@dataclass(frozen=True, kw_only=True)
class _Panel:
    title: str
    quantity: Quantity
    values: Sequence[Interval | None]


def write_plot(path: str | Path, rows: Sequence[tuple[str, Estimate]], *, what: str) -> Path:
    """Draw (label, estimate) rows of `compare(config, what)`.

    Raises:
        UserError: the path does not end in .svg, or cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".svg":
        raise UserError(f"plot: got {path}; give a path that ends in .svg")
    write_text(target, draw(rows, what=what), setting="plot")
    return target


def draw(rows: Sequence[tuple[str, Estimate]], *, what: str) -> str:
    """Return the SVG as text. Zones differ only in grams, so a comparison of zones shows only grams."""
    panels = _panels(rows, zones=what.startswith("zone"))
    width = _LABELS + len(panels) * (_PANEL + _FIGURE + _GAP)
    bottom = _TOP + _ROW * len(rows)
    first = rows[0][1]
    parts = [
        _text(20, 30, _title(first, what), size=17, weight="bold"),
        _text(20, 50, _legend(rows), fill=_SOFT),
    ]
    parts += [_text(_LABELS - 10, _middle(i), label, anchor="end", size=14) for i, (label, _) in enumerate(rows)]
    for place, panel in enumerate(panels):
        parts += _panel(panel, rows, left=_LABELS + place * (_PANEL + _FIGURE + _GAP), bottom=bottom)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 38}" width="{width}" '
        f'height="{bottom + 38}" font-family="system-ui, Helvetica, Arial, sans-serif" role="img">\n'
        f"<title>{escape(first.name)}, compared by {escape(what)}</title>\n"
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _title(run: Estimate, what: str) -> str:
    """Return what the rows have in common; in a comparison of methods, this excludes the method."""
    if not what.startswith("method"):
        return run.name
    count = f"{run.gpu_count} × " if run.gpu_count > 1 else ""
    return f"{run.name.partition(' ')[0]} on {count}{run.hardware}, {run.name.partition(', ')[2]}"


def _legend(rows: Sequence[tuple[str, Estimate]]) -> str:
    bases = ", ".join(sorted({e.basis for _, e in rows}))
    open_marks = " Open diamond: does not fit into memory." if any(e.memory.fits is False for _, e in rows) else ""
    return f"Dot: median; bar: {rows[0][1].level:.0%} interval; logarithmic scale; basis: {bases}.{open_marks}"


def _panels(rows: Sequence[tuple[str, Estimate]], *, zones: bool) -> list[_Panel]:
    grams = [e.emissions_g.grams if e.emissions_g else None for _, e in rows]
    emissions = _Panel(title="Emissions", quantity=MASS, values=grams)
    if zones:
        return [emissions]
    return [
        _Panel(title="Time", quantity=TIME, values=[e.time_s for _, e in rows]),
        _Panel(title="Energy", quantity=ENERGY, values=[e.energy_kwh for _, e in rows]),
    ]


def _panel(panel: _Panel, rows: Sequence[tuple[str, Estimate]], *, left: float, bottom: float) -> list[str]:
    """Draw a panel: a logarithmic axis, one interval per row, and its value next to it."""
    known = [value for value in panel.values if value is not None]
    parts = [_text(left, _TOP - 14, panel.title, size=14, weight="bold")]
    if not known:
        return [*parts, _text(left, _middle(0), "unknown", fill=_SOFT)]
    low, high = math.log(min(v.low for v in known)) - 0.1, math.log(max(v.high for v in known)) + 0.1

    def at(value: float) -> float:
        return left + _PANEL * (math.log(value) - low) / (high - low)

    unit = panel.quantity.unit(math.exp((low + high) / 2))
    for tick in _ticks(math.exp(low) / unit.size, math.exp(high) / unit.size):
        x = at(tick * unit.size)
        parts.append(f'<path d="M{x:.1f} {_TOP - 4}V{bottom + 4:.1f}" stroke="{_GRID}"/>')
        parts.append(_text(x, bottom + 20, unit.show(tick * unit.size), anchor="middle", fill=_SOFT, size=12))
    for i, (value, (_, estimate)) in enumerate(zip(panel.values, rows, strict=True)):
        figure = left + _PANEL + 10
        if value is None:
            parts.append(_text(figure, _middle(i), "unknown", fill=_SOFT))
            continue
        y, middle = _middle(i) - 5, at(value.estimate)
        parts.append(
            f'<path d="M{at(value.low):.1f} {y}H{at(value.high):.1f}" stroke="{_BAND}" stroke-width="9" '
            'stroke-linecap="round"/>'
        )
        parts.append(_mark(middle, y, fits=estimate.memory.fits is not False))
        parts.append(_text(figure, _middle(i), unit.show(value.estimate), size=14))
    return parts


def _mark(x: float, y: float, *, fits: bool) -> str:
    if fits:
        return f'<circle cx="{x:.1f}" cy="{y}" r="6" fill="{_FITS}"/>'
    return f'<path d="M{x:.1f} {y - 7}l7 7l-7 7l-7 -7z" fill="#ffffff" stroke="{_DOES_NOT}" stroke-width="2.5"/>'


def _ticks(low: float, high: float) -> list[float]:
    """Return three to five round values between the ends."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    inside: list[float] = []
    for digits in _DIGITS:
        inside = [d * power for power in powers for d in digits if low <= d * power <= high]
        if len(inside) >= 3:
            break
    while len(inside) > 5:
        inside = inside[::2]
    return inside


def _middle(row: int) -> float:
    return _TOP + _ROW * row + 20


def _text(
    x: float, y: float, words: str, *, size: int = 13, anchor: str = "start", fill: str = _INK, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )
