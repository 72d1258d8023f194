"""The seven claims, decided on one table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_scaling import templates
from lora_scaling.callable_module import make_callable

from ..tables.checks import check_rows, suspicious
from ..tables.parsing import RunWarning
from ..tables.response import Response, choose_response
from ..tables.table import RunTable
from ..tables.unknown_columns import separation
from .context import ClaimContext, warmed_up_alike
from .registry import CLAIMS, Question
from .run_warnings import run_warnings
from .verdicts import Claim, Needs, Options, holm
from .windows import is_series, series_claims

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ClaimsReport:
    """All claims with what they rest on; `document()` is the contract's JSON."""

    options: Options
    table: RunTable
    response: Response
    warnings: tuple[RunWarning, ...]
    claims: tuple[Claim, ...]

    def _repr_html_(self) -> str:
        """Show the verdicts as a table in a notebook."""
        return templates.render(
            "analysis.claims",
            "claims.html.j2",
            noun=self.response.noun,
            runs=len(self.table.frame),
            options=self.options,
            claims=self.claims,
            warnings=self.warnings,
        )

    def document(self) -> dict[str, Any]:
        """Return the document of `claims --json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "margin": self.options.margin,
            "level": self.options.level,
            "response": self.response.noun,
            "runs_used": len(self.table.frame),
            "runs_excluded": [{"run_id": e.run_id, "reason": e.reason} for e in self.table.excluded],
            "warnings": [{"kind": w.kind, "message": w.message, "run_ids": list(w.run_ids)} for w in self.warnings],
            "claims": [
                {
                    "id": claim.id,
                    "title": claim.title,
                    "verdict": claim.verdict,
                    "estimate": claim.estimate,
                    "ci": claim.ci,
                    "quantity": claim.quantity,
                    "reason": claim.reason,
                    "tests": claim.tests,
                    "needs": claim.needs,
                }
                for claim in self.claims
            ],
        }


def decide(table: RunTable, options: Options, asked: Sequence[Question] = CLAIMS) -> ClaimsReport:
    """Decide every claim on a table; claims that cannot be tested are `undecided` with the reason."""
    response = choose_response(table)
    row_warnings = check_rows(response.frame)
    suspects = suspicious(row_warnings, len(response.frame))
    warnings = [*table.warnings, *response.warnings, *row_warnings]
    context = ClaimContext(response, options, suspects, idle_alike=warmed_up_alike(response.frame))
    if is_series(response):
        claims = series_claims(response, options, [one.id for one in asked])
    else:
        claims = [one.decide(context) for one in asked]
        warnings += run_warnings(context, claims)
        claims = _adjusted(claims, asked, context)
    claims = [_unless_unnamed(claim, table) for claim in claims]
    titles = [claim.title or one.title.format(response.noun) for claim, one in zip(claims, asked, strict=True)]
    return ClaimsReport(
        options=options,
        table=table,
        response=response,
        warnings=tuple(warnings),
        claims=tuple(
            replace(claim, title=title[0].upper() + title[1:]) for claim, title in zip(claims, titles, strict=True)
        ),
    )


def _unless_unnamed(claim: Claim, table: RunTable) -> Claim:
    """Leave a tested claim undecided while a column of unknown meaning separates runs compared as the same work."""
    if not table.separating or claim.estimate is None:
        return claim
    why = "; ".join(separation(name) for name in table.separating)
    tests = {**claim.tests, "before_naming": claim.verdict, "unnamed_columns": list(table.separating)}
    return replace(claim, verdict="undecided", reason=f"Undecided: {why}.", tests=tests, needs=None, p_value=None)


def _adjusted(claims: Sequence[Claim], asked: Sequence[Question], context: ClaimContext) -> list[Claim]:
    """Apply Holm's test to the claims: a decision that does not survive becomes `undecided`."""
    tested, alpha = sum(claim.estimate is not None for claim in claims), context.options.alpha
    stands = holm([claim.p_value for claim in claims], alpha, tested)
    level = 1 - alpha / max(tested, 1)
    strict = replace(context, options=replace(context.options, level=level))
    adjusted = []
    for claim, one, stays in zip(claims, asked, stands, strict=True):
        if claim.p_value is None or stays:
            adjusted.append(claim)
            continue
        reason = (
            f"Undecided: alone this would be {claim.verdict}, but {tested} claims were tested on these runs "
            f"and it is not clear enough to stand among them. {claim.reason}"
        )
        tests = {**claim.tests, "before_holm": claim.verdict, "claims_tested": tested}
        needs = _to_stand(one.decide(strict).needs, tested, level)
        adjusted.append(replace(claim, verdict="undecided", reason=reason, tests=tests, needs=needs, p_value=None))
    return adjusted


def _to_stand(needs: Needs | None, tested: int, level: float) -> Needs:
    """Say what would decide a claim at the level left to each of the claims tested together."""
    lead = f"To stand among {tested} claims it has to be decided at level {100 * level:.4g} %"
    return (
        Needs(message=f"{lead}: more runs like these.")
        if needs is None
        else replace(needs, message=f"{lead}. {needs.message}")
    )


# For one version, `from analysis.claims import decide` gives the function that it was in 0.1.
make_callable(__name__, lambda: decide, deprecated="analysis.claims.decide has moved: `from analysis import decide`")
