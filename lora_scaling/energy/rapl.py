"""Follow the energy counters of the processor and its memory (RAPL, as Linux shows it under powercap).

A counter wraps to zero at its range, and drivers restart it, freeze it or return nonsense. So every step is held
against what the domain can draw. A step that cannot be true is replaced by the power before it, with a bound that holds
everything the domain could have drawn; a window that consists mostly of such steps is unknown.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lora_scaling.energy.measurement import ComponentEnergy
from lora_scaling.energy.processor_check import most_dram_w
from lora_scaling.records.sources import relative_bound

READ_S = 1.0  # a counter of 262 kJ wraps after minutes, one of 65 kJ after a minute under heavy load
LIMIT_FACTOR = 3.0  # short bursts reach twice the rated power
UNKNOWN_PACKAGE_W = 500.0  # the largest server processors of 2026
DRAM_W = 200.0  # the memory of one socket, 2 TB of it, if its size is not known
UPDATE_S = 0.02  # a reading may be older by the time between two updates, which is about 1 ms
STANDING_S = 1.0  # a working counter moves every millisecond
SLOW_SHARE = 0.5  # after standing still, a step of less mean power than this share of the power before is a loss
BRIDGED_SHARE = 0.5  # more of a window than this bridged: unknown
MIRROR_J = 1.0  # two files are read one after the other


@dataclass(frozen=True, kw_only=True)
class RaplMark:
    """The state of one counter at one moment: cumulative joules and bound, seconds bridged, and the raw value."""

    joules: float
    bound_j: float
    bridged_s: float
    raw_j: float | None
    stale_j: float  # what the counter may not show yet
    fresh: bool  # it was readable at this moment


@dataclass
class RaplCounter:
    """The cumulative energy of one domain. `read` it at least every minute while a window is open."""

    name: str
    energy_file: Path
    range_j: float | None
    limit_w: float
    kind: str = "package"
    rated_w: tuple[float, float] | None = None  # the smallest and the largest figure that is known
    joules: float = 0.0
    bound_j: float = 0.0
    bridged_s: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)  # kind → sentence
    _raw_j: float | None = None
    _moved_s: float = 0.0
    _power_w: float | None = None
    _fresh: bool = False

    def begin(self, now_s: float) -> None:
        """Take the value from which a new window counts."""
        self._raw_j = self._value()
        self._moved_s = now_s
        self._fresh = self._raw_j is not None
        self.faults = {}

    def read(self, now_s: float) -> None:
        """Add what was used since the counter last moved. A reading that fails is made up for by the next."""
        raw_j = self._value()
        self._fresh = raw_j is not None
        if raw_j is None:
            return
        if self._raw_j is None:
            self._raw_j, self._moved_s = raw_j, now_s
            return
        seconds = now_s - self._moved_s
        if raw_j == self._raw_j or seconds <= 0:
            return
        self._add(raw_j, seconds)
        self._raw_j, self._moved_s = raw_j, now_s

    def mark(self, now_s: float) -> RaplMark:
        still_s = now_s - self._moved_s if self._raw_j is not None else 0.0
        return RaplMark(
            joules=self.joules,
            bound_j=self.bound_j,
            bridged_s=self.bridged_s,
            raw_j=self._raw_j,
            stale_j=(self._power_w or 0.0) * max(still_s, 0.0),
            fresh=self._fresh,
        )

    def energy(self, start: RaplMark, end: RaplMark, seconds: float) -> ComponentEnergy:
        """Return the energy between two marks; None, with the reason, if the counter does not show it."""
        source = "rapl" if self.kind == "package" else "rapl_dram"

        def unknown(reason: str) -> ComponentEnergy:
            return ComponentEnergy(joules=None, source=source, reason=f"RAPL {self.name}: {reason}")

        used_j, bridged_s = end.joules - start.joules, end.bridged_s - start.bridged_s
        if not (start.fresh and end.fresh):
            counted = f"; {used_j:.0f} J of this phase were counted until then" if start.fresh and used_j > 0 else ""
            return unknown(f"its counter could not be read{counted}")
        if start.raw_j == end.raw_j and used_j == 0:
            return unknown(f"its counter stood still for {seconds:.1f} s")
        if bridged_s > BRIDGED_SHARE * seconds:
            return unknown("; ".join(self.faults.values()) or f"its counter was wrong for {bridged_s:.1f} s")
        bound_j = (relative_bound(source) or 0.0) * used_j + end.bound_j - start.bound_j + start.stale_j + end.stale_j
        return ComponentEnergy(joules=round(used_j, 6), source=source, uncertainty_joules=round(bound_j, 6))

    def _value(self) -> float | None:
        try:
            joules = float(self.energy_file.read_text(encoding="ascii")) / 1e6
        except (OSError, ValueError):
            return None
        return joules if 0 <= joules < float("inf") else None

    def _add(self, raw_j: float, seconds: float) -> None:
        assert self._raw_j is not None
        step_j = raw_j - self._raw_j
        most_j = self.limit_w * (seconds + UPDATE_S)
        if self.range_j is not None and most_j > self.range_j:
            self._bridge(seconds, "gap", f"no reading for {seconds:.0f} s, in which its counter may have wrapped twice")
            return
        if step_j < 0:
            wrapped_j = step_j + self.range_j if self.range_j is not None else None
            if wrapped_j is None or not 0 <= wrapped_j <= most_j:
                self._bridge(seconds, "restart", "its counter went backwards by more than a wrap explains")
                return
            step_j = wrapped_j
        if step_j > most_j:
            self._bridge(seconds, "jump", f"its counter rose by {step_j:.0f} J in {seconds:.1f} s")
            return
        if seconds > STANDING_S + READ_S and step_j / seconds < SLOW_SHARE * (self._power_w or 0.0):
            self._bridge(seconds, "still", f"its counter stood still for about {seconds:.1f} s and lost what was used")
            return
        self.joules += step_j
        if seconds > READ_S / 10:
            self._power_w = step_j / seconds

    def _bridge(self, seconds: float, kind: str, sentence: str) -> None:
        likely_w = self._power_w if self._power_w is not None else self.limit_w / LIMIT_FACTOR / 2
        self.joules += likely_w * seconds
        self.bound_j += max(likely_w, self.limit_w - likely_w) * seconds
        self.bridged_s += seconds
        self.faults.setdefault(kind, sentence)


def counters_of(
    energy_files: Iterable[str], table_w: float | None, memory_gb: float | None = None
) -> list[RaplCounter]:
    """Return a counter for each package domain that these files belong to, and for the memory domains below them.

    table_w: rated power of a package by a table; its own constraints come first.
    memory_gb: of the whole machine.
    """
    counters = []
    files = [Path(file).parent for file in energy_files]
    packages = [folder for folder in files if _text(folder / "name") != "dram"]  # memory is found below its package
    dram_w = most_dram_w(memory_gb, len(packages), DRAM_W)
    for folder in packages:
        known = _rated_w(folder)
        rated_w = max(known, default=table_w or UNKNOWN_PACKAGE_W)
        figures = [*known, *([table_w] if table_w else [])]
        counter = _counter(folder, "package", LIMIT_FACTOR * rated_w)
        counter.rated_w = (min(figures), max(figures)) if figures else None
        counters.append(counter)
        for below in sorted(folder.glob("*:*")):
            if _text(below / "name") == "dram" and _text(below / "energy_uj") is not None:
                counters.append(_counter(below, "dram", dram_w))
    return counters


def add_domains(
    counters: list[RaplCounter], starts: tuple[RaplMark, ...], ends: tuple[RaplMark, ...], kind: str, seconds: float
) -> list[tuple[RaplCounter, ComponentEnergy]]:
    """Return the domains of one kind with their energies; empty if memory is not measured for every package.

    Processors of several dies show one socket's counter once for each die (codecarbon#1274): files whose values are the
    same at both ends of a window are counted once.
    """
    chosen = [(c, a, b) for c, a, b in zip(counters, starts, ends, strict=True) if c.kind == kind]
    packages = sum(c.kind == "package" for c in counters)
    if kind == "dram" and len(chosen) < packages:
        return []
    found: list[tuple[RaplMark, RaplMark]] = []
    energies = []
    for counter, start, end in chosen:
        if any(_same(start, a) and _same(end, b) and start.raw_j != end.raw_j for a, b in found):
            continue
        found.append((start, end))
        energies.append((counter, counter.energy(start, end, seconds)))
    return energies


def tick_weights(cuts: list[tuple[RaplMark, ...]], counters: list[RaplCounter], kind: str) -> list[float]:
    """Return the joules of one kind of domain between neighbouring readings, for the shape of the timeline."""
    sums = [sum(m.joules for m, c in zip(marks, counters, strict=True) if c.kind == kind) for marks in cuts]
    return [max(b - a, 0.0) for a, b in itertools.pairwise(sums)]


def _same(one: RaplMark, other: RaplMark) -> bool:
    if one.raw_j is None or other.raw_j is None:
        return False
    return abs(one.raw_j - other.raw_j) <= max(MIRROR_J, 1e-6 * max(one.raw_j, other.raw_j))


def _counter(folder: Path, kind: str, limit_w: float) -> RaplCounter:
    range_uj = _number(folder / "max_energy_range_uj")
    return RaplCounter(
        name=_text(folder / "name") or folder.name,
        energy_file=folder / "energy_uj",
        range_j=range_uj / 1e6 if range_uj else None,
        limit_w=limit_w,
        kind=kind,
    )


def _rated_w(folder: Path) -> list[float]:
    """Return the long-term powers that the domain's constraints name, watts."""
    named = [_number(folder / f"constraint_0_{name}_uw") for name in ("max_power", "power_limit")]
    return [uw / 1e6 for uw in named if uw is not None and 1e6 <= uw <= 2e9]


def _number(file: Path) -> float | None:
    text = _text(file)
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
