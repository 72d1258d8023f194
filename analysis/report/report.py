"""One self-contained HTML page with everything the runs say, verdicts first.

It opens from disk and fetches nothing. A section that cannot be made says why; the others stand.
"""

from collections.abc import Callable
from pathlib import Path

from lora_scaling import __version__

from .answers import answers_section
from .estimates import estimates_section
from .findings import Findings
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


def render(findings: Findings) -> str:
    """Render the page."""
    builders: list[tuple[str, Callable[[Findings], Section]]] = [
        ("In short", answers_section),
        ("Verdicts", verdicts_section),
        ("Figures", figures_section),
        ("Predictions", predictions_section),
        *([("Estimates", lambda it: estimates_section(it.estimates))] if findings.estimates else []),
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
