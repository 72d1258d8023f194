"""`python -m analysis design RUNS`: the next runs worth their energy, as a command line.

For the curve's claims the candidates are levels in and beyond the range run, and runs of zero steps;
each step takes the candidate with the largest drop in the variance of the exponent per expected kWh
(c-optimality on the fitted curve, greedy), until the interval is expected to decide with 80 % power.
The other claims bring the runs that `claims` says they need. The number of looks is fixed beforehand:
one more look at these runs spends half of the error rate (Bonferroni over two looks).
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .checks import check_rows, suspicious
from .claims import ClaimsReport, decide
from .curve_plan import plan_exponent
from .curve_set import CurveSet
from .jsonout import dumps
from .table import load_runs
from .verdicts import Options

SCHEMA_VERSION = 1
CURVE_CLAIMS = {"linear_in_samples": "samples", "linear_in_epochs": "epochs"}


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


def plan(report: ClaimsReport, curves: CurveSet) -> list[Plan]:
    """A plan for each undecided claim that further runs can decide, the cheapest first."""
    plans = []
    for claim in report.claims:
        if claim.verdict != "undecided" or claim.needs is None:
            continue
        needs, widths = claim.needs, (None, None)
        factor = CURVE_CLAIMS.get(claim.id)
        if factor is not None and claim.estimate is not None:
            margin = report.options.margin
            made = plan_exponent(curves, factor, claim.estimate, 1 - margin, 1 + margin)
            widths = (made.half_width_now, made.half_width_then) if made is not None else widths
        plans.append(
            Plan(
                claim=claim.id,
                message=needs.message,
                runs=needs.runs or 0,
                settings=needs.settings,
                energy_kwh=needs.energy_kwh,
                commands=tuple(needs.command.split(" && ")) if needs.command else (),
                half_width_now=widths[0],
                half_width_then=widths[1],
            )
        )
    return sorted(plans, key=lambda p: (p.energy_kwh is None, p.energy_kwh or 0.0))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m analysis design`."""
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of run records, or tables")
    parser.add_argument("--margin", type=float, default=0.05, help="what counts as equal, as a share")
    parser.add_argument("--level", type=float, default=0.95, help="1 − the error rate of a verdict")
    parser.add_argument("--exclude", action="append", default=[], metavar="RUN_ID", help="leave a run out")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Print the plans, cheapest first."""
    options = Options(margin=args.margin, level=args.level)
    report = decide(load_runs(args.runs, exclude=args.exclude), options)
    frame = report.response.frame
    curves = CurveSet(report.response, options, suspicious(check_rows(frame), len(frame)))
    plans = plan(report, curves)
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
        lines.append(f"{made.claim}: {made.runs} runs{cost}. {made.message}")
        if made.half_width_now is not None and made.half_width_then is not None:
            lines.append(f"  exponent known to ±{made.half_width_now:.3f} now, to ±{made.half_width_then:.3f} then")
        lines += [f"  {command}" for command in made.commands] + [""]
    rest = [claim for claim in undecided if claim not in {made.claim for made in plans}]
    if rest:
        lines.append(f"No further runs settle by themselves: {', '.join(rest)} (see `claims` for the reason).")
    return "\n".join(lines).rstrip()
