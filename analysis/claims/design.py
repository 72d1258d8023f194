"""The next runs worth their energy, as a command line.

For the curve's claims the candidates are levels in and beyond the range run, and runs of zero steps;
each step takes the candidate with the largest drop in the variance of the exponent per expected kWh
(c-optimality on the fitted curve, greedy), until the interval is expected to decide with 80 % power.
The other claims bring the runs that `claims` says they need.
"""

from dataclasses import dataclass
from typing import Any

from .decide import ClaimsReport


@dataclass(frozen=True, kw_only=True)
class NextRunsPlan:
    """Runs for one claim: what they are, what they cost, and the half-width they are expected to reach."""

    claim: str
    message: str
    runs: int
    settings: tuple[dict[str, Any], ...]
    energy_kwh: float | None
    commands: tuple[str, ...]
    half_width_now: float | None = None
    half_width_then: float | None = None


def plan(report: ClaimsReport) -> list[NextRunsPlan]:
    """Plan the runs for each undecided claim that further runs can decide, the cheapest first."""
    plans = [
        NextRunsPlan(
            claim=claim.id,
            message=claim.needs.message,
            runs=claim.needs.runs or 0,
            settings=claim.needs.settings,
            energy_kwh=claim.needs.energy_kwh,
            commands=tuple(claim.needs.command.split(" && ")) if claim.needs.command else (),
            half_width_now=claim.needs.half_width_now,
            half_width_then=claim.needs.half_width_then,
        )
        for claim in report.claims
        if claim.verdict == "undecided" and claim.needs is not None
    ]
    return sorted(plans, key=lambda p: (p.energy_kwh is None, p.energy_kwh or 0.0))
