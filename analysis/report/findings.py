"""Collect the content of a report: verdicts, fit, predictions and figures of one table, or why a part is missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lora_scaling.errors import LoraScalingError

from ..claims.decide import ClaimsReport, decide
from ..claims.verdicts import Options
from ..energy_model.extrapolate import Extrapolation, predict_target
from ..energy_model.target import own_settings
from ..energy_model.validated_fit import ValidatedFit, validated_fit
from ..figures.headline import question_figure
from ..figures.plot import figures
from ..figures.style import DrawnFigure, SkippedFigure
from ..tables.table import RunTable
from .estimates import Quote
from .provenance import Provenance, provenance_of

FAR = 10
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that a report shows. A missing part is None or empty, with its reason in `failures`."""

    table: RunTable
    claims: ClaimsReport
    provenance: Provenance
    fit: ValidatedFit | None = None
    forecasts: tuple[Extrapolation, ...] = ()
    headline: DrawnFigure | SkippedFigure | None = None
    figures: tuple[DrawnFigure | SkippedFigure, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    estimates: tuple[Quote, ...] = ()
    command: str = ""


def collect_findings(
    table: RunTable,
    options: Options,
    targets: Sequence[Sequence[str]],
    command: str = "",
    estimates: tuple[Quote, ...] = (),
) -> Findings:
    """Analyse a table in every way. A part that fails leaves its reason in `failures` and does not stop the others."""
    failures: dict[str, str] = {}

    def attempt(part: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except LoraScalingError as error:
            failures[part] = str(error)
        except Exception as error:  # a page with a gap and its reason is better than no page
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
    claims = decide(table, options)
    headline = attempt("the question's figure", lambda: question_figure(claims, first))
    drawn = attempt("figures", lambda: figures(table, fit, extrapolation=first, margin=options.margin))
    return Findings(
        table=table,
        claims=claims,
        provenance=provenance_of(table.sources),
        fit=fit,
        forecasts=tuple(forecasts),
        headline=headline,
        figures=tuple(drawn or ()),
        failures=failures,
        estimates=estimates,
        command=command,
    )


def _default_target(table: RunTable) -> list[str]:
    """Return ten times the largest training set, shown once, with the most common model and method."""
    return [f"samples={FAR * int(table.frame['samples'].max())}", "epochs=1", *own_settings(table.frame)]
