"""Groups that may differ: models, devices, data sets and other recorded settings each decide a claim alone.

Runs that differ in such a setting share an exponent (or an effect) only after a test says that they may. The test is
one of poolability: as in the stability guideline ICH Q1E it rejects at 0.25, because at 0.05 it would miss differences
that matter where each group is known badly. If it rejects, a verdict stands only if every group alone reaches it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lora_scaling.text import shown

from ..regression.curve_analysis import CELL_COLUMNS
from ..regression.estimate import POOLING_P, from_interval, welch_p
from ..tables.checks import group_noun
from .context import ClaimContext
from .next_runs import joined
from .verdicts import Claim, Needs, Options, Verdict

MOST_GROUPS = 20  # with more, groups are too small to be decided alone
Ask = Callable[[ClaimContext], Claim]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How the estimates of groups are listed: what they are, and how one is written."""

    of: str
    write: Callable[[float], str]


EXPONENTS = Wording(of="exponents", write=lambda value: shown(value, ".3f"))
DOUBLINGS = Wording(of="what a doubling multiplies it by", write=lambda value: shown(2**value, ".2f"))
RATIOS = Wording(of="ratios", write=lambda value: shown(value, ".2f"))
CHANGES = Wording(of="changes", write=lambda value: shown(100 * value, "+.1f") + " %")


def in_groups(
    ask: Ask, without: tuple[str, ...] = (), pooling_at: float = POOLING_P, wording: Wording = EXPONENTS
) -> Ask:
    """Return a claim that is decided for all runs together only if no setting's groups differ in it.

    `without` are the columns whose groups the claim itself compares. A test with p at or below `pooling_at` keeps
    groups apart.
    """

    def decide(context: ClaimContext) -> Claim:
        claim = ask(context)
        return claim if claim.estimate is None else _by_groups(ask, context, claim, without, pooling_at, wording)

    return decide


def _by_groups(
    ask: Ask, context: ClaimContext, claim: Claim, without: tuple[str, ...], pooling_at: float, wording: Wording
) -> Claim:
    """Decide each group of each setting alone; return the claim, or what the setting that matters most makes of it."""
    found: dict[str, dict[str, Claim]] = {}
    divided: set[bytes] = set()
    for column in CELL_COLUMNS:
        division = pd.factorize(context.response.frame[column].astype(object))[0].tobytes()
        if column in without or division in divided:  # settings that always changed together are one
            continue
        divided.add(division)
        if (parts := context.parts(column)) and len(parts) <= MOST_GROUPS:
            found[column] = {name: ask(part) for name, part in parts.items()}
    p_values = {column: p for column, claims in found.items() if (p := pooling_p(claims, context.options)) is not None}
    if not p_values:
        return claim
    column = min(p_values, key=lambda name: p_values[name])
    p = min(1.0, len(p_values) * p_values[column])
    groups = {name: _summary(own) for name, own in found[column].items()}
    tests = claim.tests | {"group_by": column, "groups_alike_p": p, "by_group": groups}
    against = {"supported": "refuted", "refuted": "supported"}.get(claim.verdict)
    if p <= pooling_at or any(own.verdict == against for own in found[column].values()):
        return _apart(context, replace(claim, tests=tests), column, found[column], p, wording)
    return replace(claim, tests=tests)


def pooling_p(claims: Mapping[str, Claim], options: Options) -> float | None:
    """Return Welch's p of one value for all groups, from what each alone says; None with fewer than two."""
    return welch_p(
        [
            from_interval(own.estimate, own.ci, own.tests.get("df") or 0, options.ci_level)
            for own in claims.values()
            if own.estimate is not None and own.ci is not None
        ]
    )


def _summary(claim: Claim) -> dict[str, Any]:
    return {"verdict": claim.verdict, "estimate": claim.estimate, "ci": claim.ci, "p": claim.p_value}


def _apart(
    context: ClaimContext, claim: Claim, column: str, groups: Mapping[str, Claim], p: float, wording: Wording
) -> Claim:
    """Decide from the groups alone: a verdict stands if all have it that can be judged alone, with the largest p.

    Groups whose runs were not made for the question have no say, as they had none in the pooled estimate.
    """
    own = {name: each for name, each in groups.items() if each.estimate is not None}
    verdicts: set[Verdict] = {each.verdict for each in own.values()}
    verdict = verdicts.pop() if len(verdicts) == 1 else "undecided"
    listed = f"{wording.of}: " + ", ".join(f"{name} {_shown(each, wording)}" for name, each in own.items())
    if others := [name for name in groups if name not in own]:
        listed += f"; not judged, for want of such runs: {', '.join(others)}"
    sure = p <= context.options.alpha
    noun = group_noun(column)
    if verdict == "undecided":
        reason = f"Undecided: it {'depends' if sure else 'may depend'} on the {noun} (p = {p:.2g}); {listed}."
        return replace(claim, verdict=verdict, reason=reason, p_value=None, needs=_needs(own, noun))
    differ = "differ" if sure else "may differ"
    reason = f"{claim.reason} By {noun} (they {differ}, p = {p:.2g}); {listed}."
    p_value = max((each.p_value for each in own.values() if each.p_value is not None), default=None)
    if verdict != claim.verdict:
        reason = f"On each {noun} alone it is {verdict} (they {differ}, p = {p:.2g}); {listed}."
    return replace(claim, verdict=verdict, reason=reason, p_value=p_value, needs=None)


def _shown(claim: Claim, wording: Wording) -> str:
    """Write a group's own answer: its estimate, interval and verdict."""
    if claim.estimate is None or claim.ci is None:
        return f"({claim.verdict})"
    ends = " to ".join(map(wording.write, claim.ci))
    return f"{wording.write(claim.estimate)} ({ends}; {claim.verdict})"


def _needs(own: Mapping[str, Claim], noun: str) -> Needs:
    """Ask for what the undecided groups need; if the others contradict each other, no more runs settle it."""
    if {"supported", "refuted"} <= {each.verdict for each in own.values()}:
        message = f"No more runs settle it: each {noun} has an answer of its own. Decide it on a table of one {noun}."
        return Needs(message=message)
    parts = [
        replace(each.needs, message=f"{name}: {each.needs.message}")
        for name, each in own.items()
        if each.verdict == "undecided" and each.needs is not None
    ]
    return joined(parts) if parts else Needs(message=f"More runs of each {noun} alone.")
