"""Write one self-contained HTML page with all results, verdicts first.

The page opens from disk and fetches nothing. A section that cannot be made says why; the others are shown.
"""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from lora_scaling.claim_defaults import LEVEL, MARGIN
from lora_scaling.errors import UserError
from lora_scaling.records import write_text
from lora_scaling.version import __version__

from ..claims.verdicts import Options
from ..energy_model.response_kind import kind_of
from ..tables.gains import gains_of
from ..tables.table import RunTable
from .answers import costs_section, first_screen
from .estimates import estimates_section, read_estimates
from .findings import Findings, collect_findings
from .gains import gains_section
from .page import Section, page
from .sections import (
    emissions_section,
    figures_section,
    methods_section,
    predictions_section,
    runs_section,
    sources_section,
    verdicts_section,
    warnings_section,
)

FILE_NAME = "report.html"


def report(
    runs: RunTable,
    *,
    out: str | Path = "report",
    targets: Sequence[str] = (),
    estimates: Sequence[str | Path] = (),
    margin: float = MARGIN,
    level: float = LEVEL,
) -> Path:
    """Write all results of a table of runs to one page, as `python -m analysis report` does, and return its path.

        report(load_runs("runs"), out="report", targets=["model=llama-2-70b method=full samples=21300"])

    `targets` are runs to predict, each with its overrides in one string. `estimates` are files with the output of
    `python -m lora_scaling.estimate … --json`. A section that cannot be made says why.

    Raises:
        UserError: `margin` or `level` is out of range, a target or a file of estimates cannot be read, or the folder
            `out` cannot be written.
    """
    findings = collect_findings(
        runs,
        Options(margin=margin, level=level),
        [split_words(target) for target in targets],
        estimates=read_estimates(estimates),
    )
    return write_report(findings, out)


def write_report(findings: Findings, out: str | Path) -> Path:
    """Write the page into a folder and return its path."""
    path = Path(out) / FILE_NAME
    write_text(path, render(findings), setting="out")
    return path


def split_words(target: str) -> list[str]:
    """Split the overrides of a target as a shell would.

    Raises:
        UserError: a quotation mark is left open.
    """
    try:
        return shlex.split(target)
    except ValueError as error:
        raise UserError(f"target: got {target!r}, which cannot be read ({error}); give overrides in quotes") from None


def render(findings: Findings) -> str:
    """Render the page."""
    builders: list[tuple[str, Callable[[Findings], Section]]] = [
        ("In short", first_screen),
        ("Larger runs", costs_section),
        ("Verdicts", verdicts_section),
        ("Figures", figures_section),
        ("Predictions", predictions_section),
        *([("Estimates", lambda it: estimates_section(it.estimates))] if findings.estimates else []),
        ("Measured and modelled", sources_section),
        ("Emissions", emissions_section),
        *([("Cost against gain", gains_section)] if gains_of(findings.table.frame) else []),
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
    kind = kind_of(findings.table.response).name
    response = kind[:1].upper() + kind[1:]
    name = ", ".join(Path(source).name or source for source in findings.table.sources)
    return page(
        title=f"{response} scaling: {name}",
        subtitle=f"lora-scaling {__version__}",
        sections=sections,
    )
