"""Format estimates for a terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_scaling.estimate.result import LEVEL, Estimate, Interval, figure_rows
from lora_scaling.estimate.sweeps import Total
from lora_scaling.text import duration, energy, mass, memory, number

_BASES = {
    "priors": "priors only: published runs, no measurement of yours (pilot=60s or fit=PATH narrow it)",
    "pilot": "a pilot on this device",
    "fit": "a fit of your own runs",
}
_WIDEST = 40


def one(estimate: Estimate) -> str:
    """Format the whole answer for one run."""
    e = estimate
    lines = [e.title, f"Basis: {_BASES[e.basis]}", ""]
    rows = [("", "estimate", f"{e.level:.0%} interval", ""), *figure_rows(e)]
    lines += _columns(rows)
    lines += ["", _work(e)]
    if e.extrapolates:
        lines.append("Extrapolates: " + ", ".join(_beyond(item) for item in e.extrapolates))
    if e.reason:
        lines.append(f"No time and no energy: {e.reason}")
    if e.drivers:
        most = sorted(e.drivers.items(), key=lambda item: -item[1])[:3]
        lines.append("Spread of time mostly from: " + ", ".join(f"{name} {share:.0%}" for name, share in most))
    lines += ["Assumed:", *(f"  - {text}" for text in e.assumptions)]
    if e.advice:
        lines.append(e.advice)
    return "\n".join(lines)


def many(labelled: Sequence[tuple[str, Estimate]], total: Total | None = None, *, heading: str = "run") -> str:
    """Format one line per run or alternative, and the sum of a sweep."""
    priced = any(e.cost is not None for _, e in labelled)
    rows: list[tuple[str, ...]] = [(heading, "time", "energy", "emissions", *(["cost"] if priced else []), "memory")]
    shown = labelled[:_WIDEST]
    for label, e in shown:
        grams = e.emissions_g.grams if e.emissions_g else None
        cells = [_between(e.time_s, duration), _between(e.energy_kwh, energy), _between(grams, mass)]
        if priced:
            cells.append(_between(e.cost, number))
        peak = memory(e.memory.peak_gb.estimate) + (" DOES NOT FIT" if e.memory.fits is False else "")
        rows.append((label, *cells, peak))
    lines = _columns(rows)
    if len(labelled) > len(shown):
        lines.append(f"… and {len(labelled) - len(shown)} more")
    if total is not None:
        lines += ["", total_line(total)]
    level = labelled[0][1].level if labelled else LEVEL
    lines.append(f"Median (and {level:.0%} interval); basis: {', '.join(sorted({e.basis for _, e in labelled}))}.")
    return "\n".join(lines)


def total_line(total: Total) -> str:
    """Format the line that a sweep prints before it starts."""
    if total.energy_kwh is None or total.time_s is None:
        return f"{total.runs} runs: time and energy are unknown for {total.unknown} of them"
    grams = f", {_between(total.emissions_g, mass)}" if total.emissions_g else ""
    cost = f", cost {_between(total.cost, number)}" if total.cost else ""
    line = (
        f"{total.runs} runs: {_between(total.time_s, duration)} one after the other, "
        f"{_between(total.energy_kwh, energy)}{grams}{cost}"
    )
    return line + (f"; {total.not_fitting} do not fit into memory" if total.not_fitting else "")


def _between(interval: Interval | None, show: Callable[[float], str]) -> str:
    if interval is None:
        return "unknown"
    return f"{show(interval.estimate)} ({show(interval.low)} … {show(interval.high)})"


def _work(e: Estimate) -> str:
    w = e.work
    share = w["trainable_params"] / w["params"]
    return (
        f"Work, counted: {w['flops']:.4g} FLOPs, {w['tokens']:,.0f} tokens (+{w['tokens_padded']:,.0f} padding), "
        f"{w['steps']:,.0f} steps, {w['trainable_params']:,.0f} trainable parameters ({share:.2%})"
    )


def _beyond(item: Mapping[str, Any]) -> str:
    factor = item["factor"]
    return f"{item['variable']} (not in the data)" if factor is None else f"{item['variable']} ×{factor:.3g}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
