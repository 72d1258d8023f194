"""`python -m analysis design RUNS`: the next runs worth their energy, as a command line.

For the curve's claims the candidates are levels in and beyond the range run, and runs of zero steps;
each step takes the candidate with the largest drop in the variance of the exponent per expected kWh
(c-optimality on the fitted curve, greedy), until the interval is expected to decide with 80 % power.
The other claims bring the runs that `claims` says they need.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..commands.arguments import add_options, add_runs
from ..jsonout import dumps
from ..tables.table import load_runs
from .decide import ClaimsReport, decide
from .verdicts import Options

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Runs for one claim: what they are, what they cost, and the half-width they are expected to reach."""

    claim: str
    message: str
    runs: int
    settings: tuple[dict[str, Any], ...]
    energy_kwh: float | None
    commands: tuple[str, ...]
    half_width_now: float | None = None
    half_width_then: float | None = None


def plan(report: ClaimsReport) -> list[Plan]:
    """A plan for each undecided claim that further runs can decide, the cheapest first."""
    plans = [
        Plan(
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m analysis design`."""
    add_runs(parser)
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plans, cheapest first."""
    options = Options(margin=args.margin, level=args.level)
    report = decide(load_runs(args.runs, exclude=args.exclude), options)
    plans = plan(report)
    undecided = [claim.id for claim in report.claims if claim.verdict == "undecided"]
    if args.json:
        print(
            dumps(
                {
                    "schema_version": SCHEMA_VERSION,
                    "margin": options.margin,
                    "level": options.level,
                    "undecided": undecided,
                    "plans": plans,
                }
            )
        )
        return 0
    print(_text(plans, undecided))
    return 0


def _text(plans: Sequence[Plan], undecided: Sequence[str]) -> str:
    if not undecided:
        return "Every claim is decided on these runs; nothing more is needed."
    lines = [f"{len(undecided)} claims are undecided: {', '.join(undecided)}.", ""]
    for made in plans:
        cost = "" if made.energy_kwh is None else f", about {made.energy_kwh:g} kWh"
        runs = f"{made.runs} runs{cost}. " if made.runs else ""
        lines.append(f"{made.claim}: {runs}{made.message}")
        if made.half_width_now is not None and made.half_width_then is not None:
            lines.append(f"  exponent known to ±{made.half_width_now:.3f} now, to ±{made.half_width_then:.3f} then")
        lines += [f"  {command}" for command in made.commands] + [""]
    rest = [claim for claim in undecided if claim not in {made.claim for made in plans}]
    if rest:
        lines.append(f"No further runs settle by themselves: {', '.join(rest)} (see `claims` for the reason).")
    return "\n".join(lines).rstrip()
