"""`python -m analysis claims RUNS`: the seven claims, decided on one table."""

import argparse
from dataclasses import dataclass, replace
from typing import Any

from .checks import check_rows, suspicious
from .claims_doubling import doubling
from .claims_effects import full_vs_lora, rank_effect, size_exponent
from .claims_linear import linear
from .claims_pairs import interchangeable
from .claims_series import is_series, series_claims
from .claims_text import render
from .claims_warnings import disturbed
from .curve_set import CurveSet
from .jsonout import dumps
from .parsing import RunWarning
from .response import Response, choose_response
from .table import RESPONSES, Excluded, RunTable, load_runs
from .verdicts import Claim, Options, holm

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ClaimsReport:
    """All seven claims with what they rest on; `document()` is the contract's JSON."""

    options: Options
    table: RunTable
    response: Response
    warnings: tuple[RunWarning, ...]
    claims: tuple[Claim, ...]

    def document(self) -> dict[str, Any]:
        """The document of `claims --json`."""
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


def decide(table: RunTable, options: Options) -> ClaimsReport:
    """Decide every claim on a table; claims that cannot be tested are `undecided` with the reason."""
    response = choose_response(table)
    row_warnings = check_rows(response.frame)
    suspects = suspicious(row_warnings, len(response.frame))
    curves = CurveSet(response, options, suspects)
    if is_series(response):
        claims = series_claims(response, options)
        return ClaimsReport(
            options=options,
            table=table,
            response=response,
            warnings=(*table.warnings, *response.warnings, *row_warnings),
            claims=tuple(claims),
        )
    claims = [
        linear(curves, "samples"),
        linear(curves, "epochs"),
        doubling(curves),
        interchangeable(curves),
        rank_effect(response, options, suspects),
        size_exponent(response, options, suspects),
        full_vs_lora(response, options, suspects),
    ]
    warnings = (*table.warnings, *response.warnings, *row_warnings, *disturbed(curves, claims))
    return ClaimsReport(
        options=options,
        table=table,
        response=response,
        warnings=warnings,
        claims=tuple(_adjusted(claims, options)),
    )


def _adjusted(claims: list[Claim], options: Options) -> list[Claim]:
    """Holm over the claims tested: a decision that does not survive becomes `undecided`."""
    tested = sum(claim.estimate is not None for claim in claims)
    stands = holm([claim.p_value for claim in claims], options.alpha, tested)
    adjusted = []
    for claim, stays in zip(claims, stands, strict=True):
        if claim.p_value is None or stays:
            adjusted.append(claim)
            continue
        reason = (
            f"Undecided: alone this would be {claim.verdict}, but {tested} claims were tested on these runs "
            f"and it is not clear enough to stand among them. {claim.reason}"
        )
        tests = {**claim.tests, "before_holm": claim.verdict, "claims_tested": tested}
        adjusted.append(replace(claim, verdict="undecided", reason=reason, tests=tests, p_value=None))
    return adjusted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m analysis claims`."""
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of run records, or tables")
    parser.add_argument("--margin", type=float, default=0.05, help="what counts as equal, as a share")
    parser.add_argument("--level", type=float, default=0.95, help="1 − the error rate of a verdict")
    parser.add_argument("--response", choices=tuple(RESPONSES), default="total", help="what is explained")
    parser.add_argument("--exclude", action="append", default=[], metavar="RUN_ID", help="leave a run out")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Decide the claims and print them."""
    options = Options(margin=args.margin, level=args.level, response=args.response)
    table = load_runs(args.runs, response=args.response, exclude=args.exclude)
    report = decide(table, options)
    print(dumps(report.document()) if args.json else render(report.document(), report.table.sources))
    return 0


__all__ = ["ClaimsReport", "Excluded", "add_arguments", "decide", "run"]
