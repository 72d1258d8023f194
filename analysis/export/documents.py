"""Verdicts, coefficients and methods as Markdown and as LaTeX."""

from collections.abc import Sequence

import pandas as pd

from lora_scaling.errors import UserError

from ..claims.decide import ClaimsReport
from ..energy_model.energy_fit import EnergyFit, fit_table
from ..tables.table import RunTable
from .methods import paragraph, references, verdict_rows

LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
     "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "−": "$-$"}
)  # fmt: skip


def markdown(report: ClaimsReport) -> str:
    """Return the verdicts, coefficients and methods as Markdown with footnote-free citations (pandoc's `[@key]`)."""
    rows = verdict_rows(report)
    lines = [
        "# Verdicts",
        "",
        *_pipe_table(["claim", "verdict", "estimate", "interval"], [_cells(row) for row in rows]),
    ]
    fitted = _fit(report.table)
    if fitted is not None:
        table = _coefficients(fitted)
        head = ["coefficient", *map(str, table.columns)]
        cells = [
            [str(name), *(f"{value:.4g}" for value in row)]
            for name, row in zip(table.index, table.to_numpy(), strict=True)
        ]
        lines += ["", "# Coefficients", "", _form(fitted), "", *_pipe_table(head, cells)]
    lines += ["", "# Methods", "", _plain(paragraph(report, cite="[@{}]")), "", "```bibtex", references(), "```", ""]
    return "\n".join(lines)


def latex(report: ClaimsReport) -> str:
    """Return the same for LaTeX with the package booktabs."""
    cells = [[_escaped(cell) for cell in _cells(row)] for row in verdict_rows(report)]
    lines = ["% needs \\usepackage{booktabs}", *_tabular(["Claim", "Verdict", "Estimate", "Interval"], "llrr", cells)]
    fitted = _fit(report.table)
    if fitted is not None:
        table = _coefficients(fitted)
        rows = [
            [_escaped(str(name)), *(f"{value:.4g}" for value in row)]
            for name, row in zip(table.index, table.to_numpy(), strict=True)
        ]
        head = ["Coefficient", *(_escaped(str(name)) for name in table.columns)]
        lines += ["", f"% {_form(fitted)}", *_tabular(head, "l" + "r" * table.shape[1], rows)]
    text = _escaped(paragraph(report, cite="CITE{}CITE"))
    for key in ("lora_scaling", "schuirmann1987", "holm1979", "seabold2010"):
        text = text.replace(f"CITE{_escaped(key)}CITE", rf"\cite{{{key}}}")
    bibtex = "\n".join(f"% {line}" for line in references().splitlines())
    return "\n".join([*lines, "", text, "", "% References, for the .bib file:", bibtex, ""])


def _cells(row: dict[str, object]) -> list[str]:
    estimate, low, high = (row[name] for name in ("estimate", "low", "high"))
    interval = f"{low:.3g} to {high:.3g}" if low is not None and high is not None else "–"
    return [str(row["claim"]), str(row["verdict"]), f"{estimate:.3g}" if estimate is not None else "–", interval]


def _fit(table: RunTable) -> EnergyFit | None:
    try:
        return fit_table(table.frame, table.excluded, response=table.response)
    except UserError:
        return None


def _form(fitted: EnergyFit) -> str:
    return f"{fitted.explained.best.form.name}: {fitted.explained.best.form.formula()}"


def _coefficients(fitted: EnergyFit) -> pd.DataFrame:
    """Return estimates, standard errors and 95 % intervals of the best form."""
    results = fitted.results
    interval = results.conf_int(0.05)
    names = list(results.model.exog_names)
    return pd.DataFrame(
        {"estimate": results.params, "std. error": results.bse, "low": interval[:, 0], "high": interval[:, 1]},
        index=names,
    )


def _pipe_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    shown = [[_plain(cell).replace("|", r"\|") for cell in row] for row in (head, *rows)]
    return [f"| {' | '.join(row)} |" for row in (shown[0], ["---"] * len(head), *shown[1:])]


def _plain(text: str) -> str:
    """Return text in which Markdown sees no HTML: names come from the table."""
    return text.replace("<", r"\<")


def _tabular(head: Sequence[str], columns: str, rows: Sequence[Sequence[str]]) -> list[str]:
    body = [f"{' & '.join(row)} \\\\" for row in rows]
    return [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", f"{' & '.join(head)} \\\\", r"\midrule", *body,
            r"\bottomrule", r"\end{tabular}"]  # fmt: skip


def _escaped(text: str) -> str:
    return text.translate(LATEX)
