"""A paragraph on methods to paste into a paper, with its references as BibTeX."""

from typing import Any

from lora_scaling import __version__
from lora_scaling.text import counted

from ..claims.decide import ClaimsReport

BIBTEX = {
    "schuirmann1987": """@article{schuirmann1987,
  author  = {Schuirmann, Donald J.},
  title   = {A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence of
             average bioavailability},
  journal = {Journal of Pharmacokinetics and Biopharmaceutics},
  volume  = {15},
  pages   = {657--680},
  year    = {1987},
}""",
    "holm1979": """@article{holm1979,
  author  = {Holm, Sture},
  title   = {A simple sequentially rejective multiple test procedure},
  journal = {Scandinavian Journal of Statistics},
  volume  = {6},
  pages   = {65--70},
  year    = {1979},
}""",
    "seabold2010": """@inproceedings{seabold2010,
  author    = {Seabold, Skipper and Perktold, Josef},
  title     = {statsmodels: Econometric and statistical modeling with {Python}},
  booktitle = {Proceedings of the 9th Python in Science Conference},
  year      = {2010},
}""",
}


def paragraph(report: ClaimsReport, *, cite: str) -> str:
    """Say how the verdicts were reached; `cite` is the pattern of a citation, such as `[@{}]`."""
    table, options = report.table, report.options
    names = {key: cite.format(key) for key in (*BIBTEX, "lora_scaling")}
    measured = "It was modelled from time, not metered. " if report.response.modelled else ""
    count, left = len(table.frame), len(table.excluded)
    return (
        f"We analysed {counted(count, 'run')} ({left} left out) with lora-scaling {__version__} "
        f"{names['lora_scaling']}. The response is {report.response.noun} (column {table.response}). {measured}A claim "
        f"counts as supported if the whole {100 * options.ci_level:g} % interval of its estimate lies within the "
        f"equivalence margin of ±{100 * options.margin:g} % (two one-sided tests at level {options.alpha:g} "
        f"{names['schuirmann1987']}), as refuted if the interval lies outside, and as undecided otherwise; the "
        f"decisions are adjusted for the number of claims tested {names['holm1979']}. Regressions are those of "
        f"statsmodels {names['seabold2010']}."
    )


def references() -> str:
    """Return the BibTeX of what the paragraph cites."""
    own = (
        "@software{lora_scaling,\n  author  = {{The lora-scaling authors}},\n  title   = {lora-scaling: the energy and "
        f"carbon of fine-tuning language models, measured, tested and predicted}},\n  version = {{{__version__}}},\n"
        "  year    = {2026},\n}"
    )
    return "\n\n".join([own, *BIBTEX.values()])


def verdict_rows(report: ClaimsReport) -> list[dict[str, Any]]:
    """Return what a table of verdicts shows of each claim."""
    return [
        {
            "claim": claim.title,
            "verdict": claim.verdict,
            "quantity": claim.quantity,
            "estimate": claim.estimate,
            "low": claim.ci[0] if claim.ci else None,
            "high": claim.ci[1] if claim.ci else None,
        }
        for claim in report.claims
    ]
