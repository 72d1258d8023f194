"""Arguments that the commands share, and what they say about runs that were left out."""

import argparse
import sys
from collections.abc import Sequence

from lora_scaling.claim_defaults import LEVEL, MARGIN
from lora_scaling.commands.cli import split_settings
from lora_scaling.errors import UserError

from ..tables.column_options import ColumnOptions, assignments
from ..tables.response_column import RESPONSES
from ..tables.table import RunTable, load_runs


def add_runs(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    """RUNS, --exclude and (where a command prints a document) --json."""
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of run records, or tables")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="RUN_ID",
        help="leave a run out, as RUN_ID or STUDY/RUN_ID (may be repeated)",
    )  # fmt: skip
    add_column_options(parser)
    parser.epilog = "Settings beside RUNS say what the runs of a table were: model=llama-3.2-1b max_seq_len=1024"
    if json:
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def add_column_options(parser: argparse.ArgumentParser) -> None:
    """--samples-from and the other options that say what the columns of a table from elsewhere mean."""
    parser.add_argument(
        "--response", default=None, metavar="WHAT",
        help=f"what is explained: {', '.join(RESPONSES)} (energy in all, of training, of the GPUs; training's time) or "
        "a column of the table, with its unit after a colon if its name has none, such as cost:USD (default: total, or "
        "time where the runs' program records no energy)",
    )  # fmt: skip
    group = parser.add_argument_group("tables from elsewhere")
    for name in ("samples", "epochs"):
        group.add_argument(
            f"--{name}-from", default=None, metavar="COLUMN:REGEX",
            help=f"read {name} from a column of text; the first group is the number",
        )  # fmt: skip
    group.add_argument(
        "--set", action="append", default=[], metavar="COLUMN=VALUE", help="one value, or a setting, for all rows"
    )
    group.add_argument(
        "--column", action="append", default=[], metavar="OURS=THEIRS[:UNIT]", help="the table's name of a column"
    )
    group.add_argument("--join", default=None, metavar="FILE", help="a table with more columns of the same runs")
    group.add_argument("--on", default=None, metavar="COLUMN", help="the column to join by")
    group.add_argument("--ignore", action="append", default=[], metavar="COLUMN", help="a column that does not matter")


def add_options(parser: argparse.ArgumentParser) -> None:
    """--margin and --level of the claims."""
    parser.add_argument("--margin", type=float, default=MARGIN, help="what counts as equal, as a share")
    parser.add_argument("--level", type=float, default=LEVEL, help="1 − the error rate of a verdict")


def split_overrides(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split what was given in place of RUNS into (RUNS, overrides of a target)."""
    runs, overrides = split_settings(given)
    if not runs:
        raise UserError("RUNS: missing; name folders of run records or a table before the overrides")
    return runs, overrides


def _column_options(args: argparse.Namespace, settings: Sequence[str]) -> ColumnOptions:
    """Read what `args` say about the columns."""
    return ColumnOptions(
        samples_from=args.samples_from,
        epochs_from=args.epochs_from,
        constants=assignments("set", args.set),
        columns=assignments("column", args.column),
        join=args.join,
        on=args.on,
        ignore=args.ignore,
        settings=settings,
    )


def load(args: argparse.Namespace) -> RunTable:
    """Read the runs that `args` name; print to stderr what was left out or had to be interpreted."""
    table = load_quietly(args)
    tell(table)
    return table


def load_quietly(args: argparse.Namespace) -> RunTable:
    """Read the runs that `args` name. Settings beside them say what the runs were, unless a command took them."""
    runs, settings = split_overrides(args.runs)
    options = _column_options(args, settings)
    return load_runs(runs, response=args.response, exclude=args.exclude, options=options)


def tell(table: RunTable) -> None:
    """Left-out runs and warnings, on stderr."""
    for item in table.excluded[:10]:
        print(f"left out: {item.run_id}: {item.reason}", file=sys.stderr)
    if len(table.excluded) > 10:
        print(f"left out: {len(table.excluded) - 10} more", file=sys.stderr)
    for warning in table.warnings:
        print(f"warning: {warning.message}", file=sys.stderr)
