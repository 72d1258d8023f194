"""Compute grams = Σ E_i · I_i from energy bins and intensity slots, and fill short gaps between slots."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lora_scaling.grid.series import KINDS, Slot
from lora_scaling.grid.timeline import EnergyBin
from lora_scaling.units import JOULES_PER_KWH

# A gap between two values is filled with their mean, up to the first limit. A gap before the first or after the last
# value is filled with that value, up to the second limit. Longer gaps are not filled.
GAP_LIMIT = timedelta(hours=1)
EDGE_LIMIT = timedelta(minutes=15)


@dataclass(frozen=True, kw_only=True)
class Integral:
    """Joules by the kind of slot that covers them, the grams of these joules, and the joules that no slot covers."""

    joules: dict[str, float]
    grams: float
    missing_joules: float

    @property
    def covered_joules(self) -> float:
        """Joules that a slot covers."""
        return math.fsum(self.joules.values())


def fill_gaps(slots: Sequence[Slot], start: datetime, end: datetime) -> tuple[Slot, ...]:
    """Return the slots, with `estimated` ones in the short gaps of `[start, end)`."""
    if not slots:
        return ()
    filled: list[Slot] = []
    first, last = slots[0], slots[-1]
    if timedelta(0) < first.start - start <= EDGE_LIMIT:
        filled.append(Slot(start, first.start, first.g_per_kwh, "estimated"))
    for slot, after in zip(slots, [*slots[1:], None], strict=True):
        filled.append(slot)
        if after is not None and timedelta(0) < after.start - slot.end <= GAP_LIMIT:
            mean = (slot.g_per_kwh + after.g_per_kwh) / 2
            filled.append(Slot(slot.end, after.start, mean, "estimated"))
    if timedelta(0) < end - last.end <= EDGE_LIMIT:
        filled.append(Slot(last.end, end, last.g_per_kwh, "estimated"))
    return tuple(filled)


def integrate(bins: Sequence[EnergyBin], slots: Sequence[Slot]) -> Integral:
    """Compute Σ E_i · I_i. A bin that crosses the edge of a slot is split in proportion to time.

    bins: joules, drawn evenly within each bin; slots: g/kWh, increasing, without overlap.
    """
    starts = [slot.start for slot in slots]
    joules: dict[str, list[float]] = {kind: [] for kind in KINDS}
    grams: list[float] = []
    missing: list[float] = []
    for bin_ in bins:
        length, left = bin_.end - bin_.start, bin_.end - bin_.start
        first = max(0, bisect.bisect_right(starts, bin_.start) - 1)
        for i in range(first, bisect.bisect_left(starts, bin_.end)):
            slot = slots[i]
            overlap = min(bin_.end, slot.end) - max(bin_.start, slot.start)
            if overlap > timedelta(0):
                part = bin_.joules * (overlap / length)
                joules[slot.kind].append(part)
                grams.append(part / JOULES_PER_KWH * slot.g_per_kwh)
                left -= overlap
        if left > timedelta(0):
            missing.append(bin_.joules * (left / length))
    return Integral(
        joules={kind: math.fsum(parts) for kind, parts in joules.items()},
        grams=math.fsum(grams),
        missing_joules=math.fsum(missing),
    )
