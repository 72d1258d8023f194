"""`python -m analysis export RUNS`: the table in the JSON-lines format of Extra-P (`extrap --json …`)."""

import argparse
import sys
from pathlib import Path

from lora_scaling.records import write_text

from ..export.extra_p import extrap_lines
from ..tables.table import load_runs
from .arguments import add_column_options, column_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m analysis export`."""
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of run records, or tables")
    add_column_options(parser)
    parser.add_argument("--out", type=Path, default=None, help="a file; default stdout")


def run(args: argparse.Namespace) -> int:
    """Write the lines and count what was left out on stderr."""
    table = load_runs(args.runs, response=args.response, options=column_options(args))
    lines = list(extrap_lines(table.frame, table.response))
    text = "".join(f"{line}\n" for line in lines)
    if args.out is None:
        sys.stdout.write(text)
    else:
        write_text(args.out, text, setting="--out")
    left_out = table.rows_read - len(lines)
    print(f"{len(lines)} runs exported, {left_out} left out (unusable or without training).", file=sys.stderr)
    return 0
