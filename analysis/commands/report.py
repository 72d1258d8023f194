"""`python -m analysis report RUNS`: one self-contained HTML page with everything the runs say.

python -m analysis report RUNS [--out DIR] [--target "model=llama-2-70b method=full samples=21300"]
                          [--estimates FILE]      what `python -m lora_scaling.estimate … --json` printed
"""

import argparse
import shlex
import sys

from ..claims.verdicts import Options
from ..report.estimates import read_estimates
from ..report.findings import collect_findings
from ..report.report import split_words, write_report
from .arguments import add_options, add_runs, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis report`."""
    add_runs(parser, json=False)
    parser.add_argument("--out", default="report", metavar="DIR", help="folder for report.html")
    add_options(parser)
    parser.add_argument(
        "--target", action="append", default=[], metavar="OVERRIDES",
        help='a run to predict, quoted: "model=llama-2-70b method=full" (may be repeated)',
    )  # fmt: skip
    parser.add_argument(
        "--estimates", action="append", default=[], metavar="FILE",
        help="JSON of lora_scaling.estimate to show beside the runs (may be repeated)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    options = Options(margin=args.margin, level=args.level)
    targets = [split_words(target) for target in args.target]
    table = load(args)
    given = sys.argv[1:]
    given = given[given.index("report") + 1 :] if "report" in given else given
    command = shlex.join(["lora-scaling", "analyse", "report", *given])
    estimates = read_estimates(args.estimates)
    findings = collect_findings(table, options, targets, command, estimates)
    path = write_report(findings, args.out)
    claims = findings.claims.claims
    print(f"{path}: {sum(c.verdict != 'undecided' for c in claims)} of {len(claims)} claims decided")
    return 0
