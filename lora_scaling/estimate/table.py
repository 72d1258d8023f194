"""Format estimates for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_scaling import terminal
from lora_scaling.estimate.result import LEVEL, Estimate, Interval, figure_rows
from lora_scaling.estimate.sweeps import Total
from lora_scaling.text import ENERGY, MASS, MEMORY, MONEY, TIME, UNKNOWN, Quantity, number

_BASES = {
    "priors": "priors only: published runs, no measurement of yours (measured='2300 tokens/s', pilot=60s or fit=PATH "
    "narrow it)",
    "measured": "one figure of an earlier run, in place of the level of its software",
    "pilot": "a pilot on this device",
    "fit": "a fit of your own runs",
}
_WIDEST = 40


def one(estimate: Estimate) -> str:
    """Format the whole answer for one run."""
    e = estimate
    lines = [e.title, f"Basis: {_BASES[e.basis]}", ""]
    rows = [("", "estimate", f"{e.level:.0%} interval", ""), *figure_rows(e)]
    lines.append(terminal.table(rows, left=4))
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
    shown = labelled[:_WIDEST]
    estimates = [e for _, e in shown]
    listed = [
        _column("time", TIME, [e.time_s for e in estimates]),
        _column("energy", ENERGY, [e.energy_kwh for e in estimates]),
        _column("emissions", MASS, [e.emissions_g.grams if e.emissions_g else None for e in estimates]),
    ]
    if any(e.cost is not None for e in estimates):
        listed.append(_column("cost", MONEY, [e.cost for e in estimates]))
    heads, *peaks = _column("memory", MEMORY, [e.memory.peak_gb for e in estimates])
    fits = [" DOES NOT FIT" if e.memory.fits is False else "" for e in estimates]
    memory = [heads, *(peak + not_fitting for peak, not_fitting in zip(peaks, fits, strict=True))]
    labels = [heading, *(label for label, _ in shown)]
    lines = [terminal.table(list(zip(labels, *listed, memory, strict=True)))]
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
    grams = f", {_between(total.emissions_g, MASS)}" if total.emissions_g else ""
    cost = f", cost {_between(total.cost, MONEY)}" if total.cost else ""
    line = (
        f"{total.runs} runs: {_between(total.time_s, TIME)} one after the other, "
        f"{_between(total.energy_kwh, ENERGY)}{grams}{cost}"
    )
    return line + (f"; {total.not_fitting} do not fit into memory" if total.not_fitting else "")


def _between(interval: Interval, quantity: Quantity) -> str:
    return quantity.between(interval.estimate, interval.low, interval.high, to="…")


def _column(title: str, quantity: Quantity, intervals: Sequence[Interval | None]) -> list[str]:
    """Format intervals in one unit, which the column's title names."""
    unit = quantity.column_unit(None if each is None else each.estimate for each in intervals)
    cells = [
        UNKNOWN if i is None else f"{unit.number(i.estimate)} ({unit.number(i.low)} … {unit.number(i.high)})"
        for i in intervals
    ]
    return [f"{title} ({unit.name})" if unit.name else title, *cells]


def _work(e: Estimate) -> str:
    w = e.work
    share = w["trainable_params"] / w["params"]
    return (
        f"Work, counted: {w['flops']:.4g} FLOPs, {w['tokens']:,.0f} tokens (+{w['tokens_padded']:,.0f} padding), "
        f"{w['steps']:,.0f} steps, {w['trainable_params']:,.0f} trainable parameters ({share:.2%})"
    )


def _beyond(item: Mapping[str, Any]) -> str:
    factor = item["factor"]
    return f"{item['variable']} (not in the data)" if factor is None else f"{item['variable']} ×{number(factor)}"
