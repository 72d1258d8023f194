"""Hold the energy of processors and memory against what they must draw under their load, and can draw at the most."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

# A processor under full load draws half of its rated power or more; an idle one about a tenth (SPECpower_ssj2008).
BUSY_SHARE, LEAST_SHARE = 0.5, 0.2
# Short bursts reach twice the rated power, desktop boards without a limit stay there.
LASTING_FACTOR, LASTING_S = 2.0, 5.0
LEAST_S = 0.5
# What the sensors that only CodeCarbon reads may show, watts: Apple's largest chips draw 200 W, a Raspberry Pi 15.
MOST_W = {"powermetrics": 400.0, "raspberry_pmic": 50.0, "windows_emi": 3000.0, "power_gadget": 3000.0}
# Modules in use draw 0.3 to 0.4 W a gigabyte, in self-refresh about 0.01 W.
DRAM_BASE_W, DRAM_W_PER_GB, DRAM_LEAST_W_PER_GB = 5.0, 0.6, 0.003


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """By how many joules an energy may be off beyond its usual bound, and why."""

    joules: float
    reason: str


def check_processor(
    joules: float, seconds: float, *, busy: float | None, least_rated_w: float | None, rated_w: float | None
) -> Doubt | None:
    """Return how far the energy of a processor is from what its load explains; None if it is not.

    busy: share of its cores that were busy, at least.
    least_rated_w, rated_w: the smallest and the largest of the figures that are known for its rated power.
    """
    if seconds <= 0:
        return None
    watts = joules / seconds
    if busy is not None and least_rated_w is not None and busy >= BUSY_SHARE:
        expected_w = busy * least_rated_w
        if watts < LEAST_SHARE * expected_w:
            return Doubt(
                joules=(expected_w - watts) * seconds,
                reason=f"showed {watts:.1f} W while {busy:.0%} of the cores were busy, at a rated power of "
                f"{least_rated_w:.0f} W",
            )
    if rated_w is not None and seconds >= LASTING_S and watts > LASTING_FACTOR * rated_w:
        return Doubt(
            joules=(watts - rated_w) * seconds,
            reason=f"showed {watts:.0f} W for {seconds:.0f} s, at a rated power of {rated_w:.0f} W",
        )
    return None


def busy_of_each(busy: float | None, packages: int) -> float | None:
    """Return the share of its cores that each package had busy at least, if all were busy to this share."""
    return None if busy is None else max(packages * busy - (packages - 1), 0.0)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A second or so of a window: joules, and the share of the cores that was busy."""

    seconds: float
    joules: float
    busy: float | None


def check_stretches(stretches: Sequence[Stretch], *, packages: int, least_rated_w: float) -> Doubt | None:
    """Return by how much some stretches fall short of their load, where the window as a whole may not show it.

    packages: among how many the load is divided, of which these joules are one's.
    """
    checked = [
        check_processor(
            s.joules, s.seconds, busy=busy_of_each(s.busy, packages), least_rated_w=least_rated_w, rated_w=None
        )
        for s in stretches
        if s.seconds >= LEAST_S
    ]
    short = [doubt for doubt in checked if doubt is not None]
    if not short:
        return None
    return Doubt(joules=sum(d.joules for d in short), reason=f"{short[0].reason} ({len(short)} such readings)")


def stretches(moments: Sequence[tuple[float, float, float | None, float | None]]) -> list[Stretch]:
    """Return the stretches between (moment, joules, busy CPU seconds, CPU seconds in all), one after the other."""
    found = []
    for (at_s, joules, busy_s, total_s), (next_s, next_j, next_busy_s, next_total_s) in itertools.pairwise(moments):
        busy = None
        if None not in (busy_s, total_s, next_busy_s, next_total_s) and next_total_s > total_s:  # type: ignore[operator]
            busy = (next_busy_s - busy_s) / (next_total_s - total_s)  # type: ignore[operator]
        found.append(Stretch(seconds=next_s - at_s, joules=next_j - joules, busy=busy))
    return found


def most_dram_w(size_gb: float | None, packages: int, largest_w: float) -> float:
    """Return what the memory of one package may draw for a moment, watts."""
    if not size_gb:
        return largest_w
    return min(3 * (DRAM_BASE_W + DRAM_W_PER_GB * size_gb / max(packages, 1)), largest_w)


def too_little_for_dram(joules: float, seconds: float, size_gb: float | None) -> str | None:
    """Say why the energy of the memory cannot be true; None if it can."""
    if not size_gb or seconds < LASTING_S or joules >= DRAM_LEAST_W_PER_GB * size_gb * seconds:
        return None
    return f"its counter shows {joules / seconds:.2g} W for {size_gb:.0f} GB, less than memory draws at rest"


def beyond_any(source: str, joules: float, seconds: float) -> str | None:
    """Say why the energy that this sensor gives cannot be true; None if it can, or the source is no such sensor."""
    most_w = MOST_W.get(source)
    if most_w is None or seconds < LEAST_S or joules <= most_w * seconds:
        return None
    return f"it shows {joules / seconds:.0f} W, and no such chip draws more than {most_w:.0f} W ({source})"
