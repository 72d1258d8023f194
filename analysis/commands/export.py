"""`python -m analysis export RUNS --format …`: the runs and what they say, for other programs and for papers."""

import argparse
import sys
from pathlib import Path

from lora_scaling.records import write_text

from ..tables.table import RunTable
from .arguments import add_options, add_runs, load, split_overrides

FORMATS = {
    "extra-p": "one JSON object a run, for Extra-P (`extrap --json`)",
    "csv": "the table as used, with fitted values and what was left out",
    "markdown": "verdicts, coefficients and a paragraph on methods",
    "latex": "the same for LaTeX",
    "model-card": "the hub's co2_eq_emissions block",
    "boamps": "a BoAmps report",
    "record": "one line a run without names and paths, for others to learn from (CONTRIBUTING.md)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m analysis export`."""
    add_runs(parser, json=False)
    add_options(parser)
    what = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser.add_argument("--format", choices=tuple(FORMATS), default="extra-p", help=what)
    parser.add_argument("--out", type=Path, default=None, help="a file; default stdout")


def run(args: argparse.Namespace) -> int:
    """Write the export; what was left out is said on stderr."""
    table = load(args)
    text, exported = _text(table, args)
    if args.out is None:
        sys.stdout.write(text)
    else:
        write_text(args.out, text, setting="out")
    left_out = table.rows_read - exported
    print(f"{exported} runs exported, {left_out} left out (unusable or without training).", file=sys.stderr)
    return 0


def _text(table: RunTable, args: argparse.Namespace) -> tuple[str, int]:
    """Return the export and the number of runs in it; each format imports what it needs alone."""
    if args.format == "extra-p":
        from ..export.extra_p import extrap_lines

        lines = list(extrap_lines(table.frame, table.response))
        return "".join(f"{line}\n" for line in lines), len(lines)
    if args.format == "record":
        from ..export.record_line import record_lines

        lines = list(record_lines(split_overrides(args.runs)[0]))
        return "".join(f"{line}\n" for line in lines), len(lines)
    count = len(table.frame)
    if args.format == "csv":
        from ..export.used_table import to_csv, used_table

        return to_csv(used_table(table)), count
    if args.format == "model-card":
        from ..export.model_card import model_card

        return model_card(table), count
    if args.format == "boamps":
        from ..export.boamps import boamps

        return boamps(table), count
    from ..claims.decide import decide
    from ..claims.verdicts import Options
    from ..export.documents import latex, markdown

    report = decide(table, Options(margin=args.margin, level=args.level))
    return (markdown if args.format == "markdown" else latex)(report), count
