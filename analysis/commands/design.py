"""`python -m analysis design RUNS`: the next runs worth their energy, as a command line."""

import argparse
from collections.abc import Sequence

from lora_scaling.text import ENERGY

from ..claims.decide import decide
from ..claims.design import NextRunsPlan, plan
from ..claims.verdicts import Options
from ..jsonout import dumps
from .arguments import add_options, add_runs, load

SCHEMA_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m analysis design`."""
    add_runs(parser)
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plans, cheapest first."""
    options = Options(margin=args.margin, level=args.level)
    table = load(args)
    report = decide(table, options)
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


def _text(plans: Sequence[NextRunsPlan], undecided: Sequence[str]) -> str:
    if not undecided:
        return "Every claim is decided on these runs; nothing more is needed."
    lines = [f"{len(undecided)} claims are undecided: {', '.join(undecided)}.", ""]
    for made in plans:
        cost = "" if made.energy_kwh is None else f", about {ENERGY.show(made.energy_kwh)}"
        runs = f"{made.runs} runs{cost}. " if made.runs else ""
        lines.append(f"{made.claim}: {runs}{made.message}")
        if made.half_width_now is not None and made.half_width_then is not None:
            lines.append(f"  exponent known to ±{made.half_width_now:.3f} now, to ±{made.half_width_then:.3f} then")
        lines += [f"  {command}" for command in made.commands] + [""]
    rest = [claim for claim in undecided if claim not in {made.claim for made in plans}]
    if rest:
        lines.append(f"No further runs settle by themselves: {', '.join(rest)} (see `claims` for the reason).")
    return "\n".join(lines).rstrip()
