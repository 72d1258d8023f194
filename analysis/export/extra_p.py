"""`python -m analysis export RUNS`: the table in the JSON-lines format of Extra-P (`extrap --json …`)."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ..tables.table import RESPONSES, load_runs

PARAMETERS = ("samples", "epochs", "rank", "params")


def extrap_lines(frame: pd.DataFrame, response: str) -> Iterator[str]:
    """One JSON object a run: `params` are the factors that vary, `metric` and `value` the response.

    Runs of zero steps are left out: Extra-P's model terms have no value at 0 samples.
    """
    rows = frame[frame["samples_seen"] > 0]
    varied = [name for name in PARAMETERS if rows[name].notna().all() and rows[name].nunique() > 1]
    names = varied or ["samples"]
    for _, row in rows.iterrows():
        callpath = "/".join(str(row[name]) for name in ("model", "method", "hardware") if isinstance(row[name], str))
        yield json.dumps(
            {
                "params": {name: float(row[name]) for name in names},
                "callpath": callpath or "run",
                "metric": response,
                "value": float(row[response]),
            }
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m analysis export`."""
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of run records, or tables")
    parser.add_argument("--response", choices=tuple(RESPONSES), default="total", help="what is exported")
    parser.add_argument("--out", type=Path, default=None, help="a file; default stdout")


def run(args: argparse.Namespace) -> int:
    """Write the lines and count what was left out on stderr."""
    table = load_runs(args.runs, response=args.response)
    lines = list(extrap_lines(table.frame, table.response))
    text = "".join(f"{line}\n" for line in lines)
    if args.out is None:
        sys.stdout.write(text)
    else:
        args.out.write_text(text, encoding="utf-8")
    left_out = table.rows_read - len(lines)
    print(f"{len(lines)} runs exported, {left_out} left out (unusable or without training).", file=sys.stderr)
    return 0
