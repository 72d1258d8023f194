"""`report`: one self-contained HTML page with everything the runs say, verdicts first.

    python -m analysis report RUNS [--out DIR] [--target "model=llama-2-70b method=full samples=21300"]
                              [--estimates FILE]      what `python -m lora_scaling.estimate … --json` printed

It opens from disk and fetches nothing. A section that cannot be made says why; the others stand.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lora_scaling import __version__
from lora_scaling.errors import LoraScalingError, UserError
from lora_scaling.records import write_text

from ..claims.decide import ClaimsReport, decide
from ..claims.verdicts import Options
from ..commands.arguments import add_options, add_runs, load
from ..energy_model.extrapolate import Extrapolation, predict_target
from ..energy_model.fit import ValidatedFit, validated_fit
from ..energy_model.target import own_settings
from ..figures.plot import figures
from ..figures.style import Drawn, Skipped
from ..tables.table import RunTable
from .answers import answers_section
from .estimates import Quote, estimates_section, read_estimates
from .html import Section, page
from .provenance import Provenance, provenance_of
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

FAR = 10
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a report tells; what could not be had is None or empty, with the reason in `failures`."""

    table: RunTable
    claims: ClaimsReport
    provenance: Provenance
    fit: ValidatedFit | None = None
    forecasts: tuple[Extrapolation, ...] = ()
    figures: tuple[Drawn | Skipped, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    estimates: tuple[Quote, ...] = ()
    command: str = ""


def find(
    table: RunTable,
    options: Options,
    targets: Sequence[Sequence[str]],
    command: str = "",
    estimates: tuple[Quote, ...] = (),
) -> Findings:
    """Analyse a table in every way; a part that fails leaves its reason and stops no other."""
    failures: dict[str, str] = {}

    def attempt(part: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except LoraScalingError as error:
            failures[part] = str(error)
        except Exception as error:  # a page with a gap and its reason is worth more than no page
            failures[part] = f"{type(error).__name__}: {error}"
        return None

    fit = attempt("fit", lambda: validated_fit(table))
    forecasts: list[Extrapolation] = []
    if fit is not None:
        default = None if targets else attempt("forecast", lambda: _default_target(table))
        for overrides in targets or ([default] if default else []):
            made = attempt(f"forecast of {' '.join(overrides)}", lambda o=overrides: predict_target(table, fit, o))
            forecasts += [made] if made is not None else []
    first = forecasts[0] if forecasts else None
    drawn = attempt("figures", lambda: figures(table, fit, extrapolation=first, margin=options.margin))
    return Findings(
        table=table,
        claims=decide(table, options),
        provenance=provenance_of(table.sources),
        fit=fit,
        forecasts=tuple(forecasts),
        figures=tuple(drawn or ()),
        failures=failures,
        estimates=estimates,
        command=command,
    )


def _default_target(table: RunTable) -> list[str]:
    """Ten times the largest training set that was run, once shown, with the commonest model and method."""
    return [f"samples={FAR * int(table.frame['samples'].max())}", "epochs=1", *own_settings(table.frame)]


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
    findings = find(table, options, targets, command, estimates)
    path = Path(args.out) / "report.html"
    write_text(path, render(findings))
    claims = findings.claims.claims
    print(f"{path}: {sum(c.verdict != 'undecided' for c in claims)} of {len(claims)} claims decided")
    return 0
