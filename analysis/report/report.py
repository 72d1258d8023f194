"""`report`: one self-contained HTML page with everything the runs say, verdicts first.

    python -m analysis report RUNS [--out DIR] [--target "model=llama-2-70b method=full samples=21300"]
                              [--estimates FILE]      what `python -m lora_scaling.estimate … --json` printed

It opens from disk and fetches nothing. A section that cannot be made says why; the others stand.
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from lora_scaling import __version__
from lora_scaling.errors import UserError
from lora_scaling.records import write_text

from ..claims.verdicts import Options
from ..commands.arguments import add_options, add_runs, load
from .answers import answers_section
from .estimates import estimates_section, read_estimates
from .findings import Findings, collect_findings
from .html import Section, page
from .sections import (
    emissions_section,
    figures_section,
    forecast_section,
    methods_section,
    runs_section,
    sources_section,
    verdicts_section,
    warnings_section,
)


def render(findings: Findings) -> str:
    """The page."""
    builders: list[tuple[str, Callable[[Findings], Section]]] = [
        ("In short", answers_section),
        ("Verdicts", verdicts_section),
        ("Figures", figures_section),
        ("Predictions", forecast_section),
        *([("Estimates", lambda found: estimates_section(found.estimates))] if findings.estimates else []),
        ("Measured and modelled", sources_section),
        ("Emissions", emissions_section),
        ("Warnings", warnings_section),
        ("Runs", runs_section),
        ("Methods", methods_section),
    ]
    sections = []
    for title, build in builders:
        try:
            sections.append(build(findings))
        except Exception as error:
            sections.append(Section(title=title, reason=f"could not be made: {type(error).__name__}: {error}"))
    used = len(findings.table.frame)
    name = ", ".join(Path(source).name or source for source in findings.table.sources)
    return page(
        title=f"Energy scaling: {name}", subtitle=f"{used} runs · lora-scaling {__version__}", sections=sections
    )


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


def _words(target: str) -> list[str]:
    try:
        return shlex.split(target)
    except ValueError as error:
        raise UserError(f"`target` was {target!r}, which cannot be read ({error}); give overrides in quotes") from None


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    options = Options(margin=args.margin, level=args.level)
    targets = [_words(target) for target in args.target]
    table = load(args)
    command = "python -m analysis report " + shlex.join(sys.argv[2:])
    estimates = read_estimates(args.estimates)
    findings = collect_findings(table, options, targets, command, estimates)
    path = Path(args.out) / "report.html"
    write_text(path, render(findings))
    claims = findings.claims.claims
    print(f"{path}: {sum(c.verdict != 'undecided' for c in claims)} of {len(claims)} claims decided")
    return 0
