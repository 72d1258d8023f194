"""`python -m analysis claims RUNS`: the seven claims, decided on one table."""

import argparse

from ..claims.decide import decide
from ..claims.text import render
from ..claims.verdicts import Options
from ..jsonout import dumps
from .arguments import add_options, add_runs, load_quietly


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m analysis claims`."""
    add_runs(parser)
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Decide the claims and print them."""
    options = Options(margin=args.margin, level=args.level)
    table = load_quietly(args)
    report = decide(table, options)
    print(dumps(report.document()) if args.json else render(report.document(), report.table.sources))
    return 0
