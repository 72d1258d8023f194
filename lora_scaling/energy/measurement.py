"""Define the energy of one run: phases, components, the source of each figure, and the timeline.

All energies are joules, rounded to the microjoule, so that sums over bins, phases and components agree exactly. Unknown
values are None, with a reason; a component that does not exist has the source "none".
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_scaling.records import TIMELINE_NAME, write_text
from lora_scaling.records.timeline import COMPONENTS, TIMELINE_COLUMNS

SHORT_S = 1.0


def utc(timestamp: float) -> datetime:
    """Convert seconds since 1970 to an aware UTC datetime."""
    return datetime.fromtimestamp(timestamp, UTC)


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


def add(values: Iterable[float]) -> float:
    """Sum in microjoules, so that the result does not depend on the order."""
    return round(math.fsum(values), 6)


def spread(total_j: float | None, weights: list[float]) -> list[float | None]:
    """Spread a total over bins in proportion to the weights. The running sum is rounded, so that nothing is lost."""
    if total_j is None:
        return [None] * len(weights)
    whole = math.fsum(weights)
    if whole <= 0:
        weights, whole = [1.0] * len(weights), float(len(weights))
    pieces: list[float | None] = []
    given, running = 0, 0.0
    target = round(total_j * 1e6)
    for i, weight in enumerate(weights):
        running += weight
        upto = target if i == len(weights) - 1 else min(round(target * running / whole), target)
        pieces.append((upto - given) / 1e6)
        given = upto
    return pieces


@dataclass(frozen=True, kw_only=True)
class ComponentEnergy:
    """One component over one stretch: joules, or None with the reason."""

    joules: float | None
    source: str
    uncertainty_joules: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "joules": self.joules,
            "source": self.source,
            "uncertainty_joules": self.uncertainty_joules,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class GpuEnergy:
    """One GPU over one phase. `uuid` identifies it across processes."""

    index: int
    uuid: str | None
    joules: float | None
    source: str
    uncertainty_joules: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"index": self.index, "uuid": self.uuid, "joules": self.joules, "source": self.source,
                "uncertainty_joules": self.uncertainty_joules, "reason": self.reason}  # fmt: skip

    @property
    def component(self) -> ComponentEnergy:
        """The same figures as a part of the component `gpu`."""
        return ComponentEnergy(
            joules=self.joules, source=self.source, uncertainty_joules=self.uncertainty_joules, reason=self.reason
        )


@dataclass(frozen=True, kw_only=True)
class PhaseEnergy:
    """One window. `short`: below one second, which is too short to be called measured."""

    name: str
    started_at: datetime
    ended_at: datetime
    seconds: float
    components: dict[str, ComponentEnergy]
    gpus: tuple[GpuEnergy, ...] = ()
    codecarbon_joules: dict[str, float | None] = field(default_factory=dict)

    @property
    def short(self) -> bool:
        return self.seconds < SHORT_S

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
            "seconds": self.seconds,
            "components": {name: part.to_dict() for name, part in self.components.items()},
            "gpus": [gpu.to_dict() for gpu in self.gpus],
            "codecarbon_joules": dict(self.codecarbon_joules),
            "short": self.short,
        }


@dataclass(frozen=True, kw_only=True)
class TimelineBin:
    """A stretch of about a second within one phase, with the joules of each component (None: unknown)."""

    start: datetime
    end: datetime
    phase: str
    joules: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class IdleBaseline:
    """Power of the idle machine: watts per component and in total."""

    power_w: float | None
    components_w: dict[str, float | None]
    seconds: float
    measured_at: datetime
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "power_w": self.power_w,
            "components_w": dict(self.components_w),
            "seconds": self.seconds,
            "measured_at": iso(self.measured_at),
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class EnergyAccount:
    """The `energy` section of a run record, with its timeline."""

    host: str
    phases: tuple[PhaseEnergy, ...]
    bins: tuple[TimelineBin, ...] = ()
    idle: IdleBaseline | None = None
    exclusive: bool | None = None
    conditions: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[dict[str, str], ...] = ()
    parts: tuple[dict[str, Any], ...] = ()  # of a run that was continued by other processes

    @property
    def components(self) -> dict[str, ComponentEnergy]:
        """Each component over all phases; None if any phase is."""
        return {name: add_components([p.components[name] for p in self.phases]) for name in COMPONENTS}

    @property
    def joules(self) -> float | None:
        """The sum of all known phases and components; None if nothing is known."""
        known = [c.joules for p in self.phases for c in p.components.values() if c.joules is not None]
        return add(known) if known else None

    @property
    def complete(self) -> bool:
        """Whether every component that exists is known in every phase."""
        return all(c.joules is not None or c.source == "none" for p in self.phases for c in p.components.values())

    @property
    def uncertainty_joules(self) -> float | None:
        """The sum of the bounds, added linearly because the edges of neighbouring windows are not independent."""
        known = [c for p in self.phases for c in p.components.values() if c.joules is not None]
        if not known or any(c.uncertainty_joules is None for c in known):
            return None
        return add(c.uncertainty_joules for c in known if c.uncertainty_joules is not None)

    @property
    def seconds(self) -> float:
        return math.fsum(p.seconds for p in self.phases)

    @property
    def above_idle_joules(self) -> float | None:
        """Energy above the idle baseline; None without one, if it was not idle, or if a part is unknown."""
        if self.idle is None or self.idle.reason is not None or not self.complete:
            return None
        parts = self.components
        if any(part.joules is not None and self.idle.components_w.get(name) is None for name, part in parts.items()):
            return None
        above = math.fsum(
            part.joules - (self.idle.components_w[name] or 0.0) * self.seconds
            for name, part in parts.items()
            if part.joules is not None
        )
        return round(above, 6) if above >= 0 else None

    def phase_joules(self, name: str) -> float | None:
        """Return the energy of all phases of this name; None if no phase has it or a part is unknown."""
        chosen = [c for p in self.phases if p.name == name for c in p.components.values() if c.source != "none"]
        if not chosen or any(c.joules is None for c in chosen):
            return None
        return add(c.joules for c in chosen if c.joules is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return the `energy` section of run.json."""
        return {
            "host": self.host,
            "phases": [phase.to_dict() for phase in self.phases],
            "joules": self.joules,
            "complete": self.complete,
            "components": {name: part.to_dict() for name, part in self.components.items()},
            "uncertainty_joules": self.uncertainty_joules,
            "idle": self.idle.to_dict() if self.idle else None,
            "above_idle_joules": self.above_idle_joules,
            "exclusive": self.exclusive,
            "conditions": self.conditions,
            "timeline": TIMELINE_NAME if self.bins else None,
            **({"parts": [dict(part) for part in self.parts]} if self.parts else {}),
            "warnings": [dict(warning) for warning in self.warnings],
        }

    def write_timeline(self, path: Path | str, max_bins: int = 4000) -> None:
        """Write the bins as CSV, atomically. Neighbours within a phase are merged, down to about `max_bins`.

        Raises:
            UserError: the folder cannot be written or the disk is full.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(TIMELINE_COLUMNS)
        for piece in merge_bins(self.bins, max_bins):
            cells = ["" if j is None else f"{j:.6f}" for j in (piece.joules.get(c) for c in COMPONENTS)]
            writer.writerow([iso(piece.start), iso(piece.end), piece.phase, *cells])
        write_text(Path(path), text.getvalue())


def add_components(parts: list[ComponentEnergy]) -> ComponentEnergy:
    """Sum the components of phases, devices or processes; None, with the reason, if any of them is unknown."""
    if not parts:
        return ComponentEnergy(joules=None, source="none", reason="no phase was measured")
    there = [part for part in parts if part.source != "none"]
    if not there:
        return ComponentEnergy(joules=None, source="none", reason=parts[0].reason)
    source = "+".join(sorted({name for part in there for name in part.source.split("+")}))
    missing = next((part for part in there if part.joules is None), None)
    if missing is not None:
        return ComponentEnergy(joules=None, source=source, reason=missing.reason)
    bounds = [part.uncertainty_joules for part in there]
    return ComponentEnergy(
        joules=add(part.joules for part in there if part.joules is not None),
        source=source,
        uncertainty_joules=None if None in bounds else add(b for b in bounds if b is not None),
    )


def merge_bins(bins: tuple[TimelineBin, ...], max_bins: int) -> list[TimelineBin]:
    """Merge neighbouring bins of one phase, so that the file of a day-long run stays small."""
    group = max(1, math.ceil(len(bins) / max_bins))
    merged: list[TimelineBin] = []
    held: list[TimelineBin] = []
    for piece in bins:
        if held and (held[0].phase != piece.phase or held[-1].end != piece.start or len(held) == group):
            merged.append(_join(held))
            held = []
        held.append(piece)
    return [*merged, _join(held)] if held else merged


def _join(held: list[TimelineBin]) -> TimelineBin:
    joules: dict[str, float | None] = {}
    for name in COMPONENTS:
        values = [piece.joules.get(name) for piece in held]
        joules[name] = None if None in values else add(v for v in values if v is not None)
    return TimelineBin(start=held[0].start, end=held[-1].end, phase=held[0].phase, joules=joules)
