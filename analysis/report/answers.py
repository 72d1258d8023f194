"""Write the first screen of the report: facts, totals, the question's figure, answers, and what to run next."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lora_scaling.text import ENERGY, MASS, counted, number, shown

from ..claims.verdicts import Claim, Options
from ..energy_model.extrapolate import Extrapolation
from ..figures.style import DrawnFigure
from .estimates import sentence
from .facts import Fact, facts_of, mean_intensity, totals_of
from .findings import Findings
from .page import Section, picture, section
from .sections import (
    WORDS,
    Cause,
    basis,
    common_cause,
    distance_from_data,
    interval_of,
    plain_reason,
    split_noun,
    split_of,
)

MOST_COSTS = 8  # the others are in their own section
MOST_NEXT = 3
QUESTIONS = {
    "linear_in_samples": "Is {} linear in the number of samples?",
    "linear_in_epochs": "Is {} linear in the number of epochs?",
    "doubling_doubles": "Do twice the {factor} cost twice the {}?",
    "samples_epochs_interchangeable": "Are samples and epochs interchangeable?",
    "rank_effect": "Is {} the same at every LoRA rank?",
    "size_exponent": "Is the {} of a token proportional to its FLOPs?",
    "full_vs_lora": "Does full fine-tuning cost more than LoRA?",
}


@dataclass(frozen=True)
class Reading:
    """How a claim whose `quantity` begins so reads: `lead`, then the estimate changed and written, with its suffix."""

    quantity: str
    lead: str
    change: Callable[[float], float]
    form: str
    suffix: str


_READINGS = {
    "linear_in_samples": Reading(
        "exponent b of samples in", "on top of the fixed cost, twice the samples", lambda b: 2**b, ".2f", " times"
    ),
    "linear_in_epochs": Reading(
        "exponent b of epochs in", "on top of the fixed cost, twice the epochs", lambda b: 2**b, ".2f", " times"
    ),
    "doubling_doubles": Reading("elasticity", "twice as many", lambda b: 100 * (2**b - 1), "+.0f", " %"),
    "samples_epochs_interchangeable": Reading(
        "", "epochs in place of samples", lambda b: 100 * (2**b - 1), "+.1f", " %"
    ),
    "rank_effect": Reading("relative change", "each doubling", lambda change: 100 * change, "+.1f", " %"),
    "size_exponent": Reading("exponent", "10 times the FLOPs", lambda b: 10**b, ".1f", " times"),
    "full_vs_lora": Reading("", "full ÷ LoRA", lambda ratio: ratio, ".2f", " times"),
}


def first_screen(findings: Findings) -> Section:
    """Write what was run and what it took, the answers question by question beside the figure, and the next runs."""
    claims = {claim.id: claim for claim in findings.claims.claims}
    noun, options = findings.claims.response.noun, findings.claims.options
    subject = "energy" if noun.startswith("energy") else noun  # without its small print, which is said once
    doubled = claims["doubling_doubles"].tests.get("factor", "samples")  # absent if it could not be tested
    rests_on, cause = basis(findings), common_cause(findings)
    answers = [
        {
            "id": name,
            "question": text.format(subject, factor=doubled),
            "verdict": claims[name].verdict,
            "rests_on": rests_on.words,
            **_answer(claims[name], options, cause),
        }
        for name, text in QUESTIONS.items()
    ]
    going_on, steps = _going_on(findings)
    drawn = _question_of(findings)
    return section(
        "In short",
        "answers.html.j2",
        facts=facts_of(findings),
        totals=[*totals_of(findings), going_on],
        basis=rests_on.sentence,
        cause=cause.text if cause else None,
        blocked=counted(len(cause.ids), "question") if cause else "",
        meaning=f"“{subject.capitalize()}” is {noun}. " if subject != noun else "",
        level=f"{100 * options.ci_level:.3g} %",
        margin=f"{100 * options.margin:.3g} %",
        answers=answers,
        picture=None if drawn is None else picture(drawn, salt="q"),
        steps=steps,
    )


def _question_of(findings: Findings) -> DrawnFigure | None:
    """Return the figure of the question: against samples or epochs, or else against the first factor that varied."""
    if isinstance(findings.headline, DrawnFigure):
        return findings.headline
    return next((one for one in findings.figures if isinstance(one, DrawnFigure) and one.panels), None)


def costs_section(findings: Findings) -> Section:
    """Write the cost of larger runs, estimated and predicted."""
    costs = [sentence(quote) for quote in findings.estimates if quote.document["peak_memory_gb"]["fits"] is not False]
    more = [f"… and {len(costs) - MOST_COSTS} more under Estimates."] if len(costs) > MOST_COSTS else []
    costs = costs[:MOST_COSTS] + more + [_predicted(forecast) for forecast in findings.forecasts]
    reason = None if costs else findings.failures.get("forecast", findings.failures.get("fit", "No run was predicted."))
    return section("Larger runs", "costs.html.j2", costs=costs, reason=reason)


def _answer(claim: Claim, options: Options, cause: Cause | None) -> dict[str, str]:
    """Write the verdict and its number, or the answer for each model; why there is none where nothing was tested."""
    if cause and claim.id in cause.ids:
        return {"word": "Not decided", "number": "for the reason above"}
    if own := split_of(claim):
        each = "; ".join(
            f"{WORDS[one['verdict']].lower()} for {name}: {_size(claim, one)}" for name, one in own.items()
        )
        return {"word": f"It depends on the {split_noun(claim)}", "number": f"{each[0].upper() + each[1:]}."}
    if claim.estimate is None:
        return {"word": "Not tested", "number": plain_reason(claim)}
    text = _number(claim, options)
    holds = claim.tests.get("holds_from") if claim.id == "doubling_doubles" and claim.verdict == "refuted" else None
    if holds and math.isfinite(holds):
        text += f"; yes from about {number(holds)} {claim.tests['factor']} on"
    return {"word": WORDS[claim.verdict], "number": text}


def _number(claim: Claim, options: Options) -> str:
    """Write a claim's number in plain words, with its interval."""
    numbers = _numbers(claim)
    if numbers is None or not all(map(math.isfinite, numbers)):
        known = interval_of(claim, options)
        return plain_reason(claim) if known is None else f"{claim.quantity}: {known[0]} ({known[1]})"
    reading = _READINGS[claim.id]
    value, low, high = (shown(reading.change(value), reading.form) for value in numbers)
    return f"{reading.lead}: {value}{reading.suffix} ({low} to {high})"


def _numbers(claim: Claim) -> tuple[float, float, float] | None:
    """Return the estimate with its interval as `_READINGS` takes it; None if the claim's number is another one."""
    reading, pairs = _READINGS[claim.id], claim.tests.get("matched_pairs")
    if pairs and claim.id == "samples_epochs_interchangeable":  # what the claim's own sentence names
        return math.log2(pairs["ratio"]), math.log2(pairs["ci"][0]), math.log2(pairs["ci"][1])
    if claim.estimate is None or claim.ci is None or not claim.quantity.startswith(reading.quantity):
        return None
    return claim.estimate, *claim.ci


def _size(claim: Claim, own: dict[str, Any]) -> str:
    """Write one group's ratio, its change in per cent for each doubling of the rank, or exponent, with the interval."""
    if "ratio" not in own:
        if own["estimate"] is None or own["ci"] is None:
            return "not enough runs"
        form = "+.3f" if claim.id == "rank_effect" else ".2f"
        value, low, high = (shown(value, form) for value in (own["estimate"], *own["ci"]))
        return f"{value} ({low} to {high})"
    numbers = (own["ratio"], *own["ci"])
    if claim.id == "rank_effect":
        change, low, high = (shown(100 * (value - 1), "+.1f") for value in numbers)
        return f"{change} % ({low} to {high})"
    ratio, low, high = map(shown, numbers)
    return f"{ratio} times ({low} to {high})"


def _going_on(findings: Findings) -> tuple[Fact, list[dict[str, str]]]:
    """Return what it would cost to decide the open questions, and the runs to make next, the cheapest first."""
    open_claims = [claim for claim in findings.claims.claims if claim.verdict == "undecided"]
    if not open_claims:
        return Fact(name="To go on", value="nothing open", note="every question is decided"), []
    asked = [(claim, claim.needs) for claim in open_claims if claim.needs is not None and claim.needs.command]
    asked.sort(key=lambda pair: math.inf if pair[1].energy_kwh is None else pair[1].energy_kwh)
    steps = [
        {
            "id": claim.id,
            "question": claim.title,
            "runs": needs.message,
            "cost": _cost(needs.energy_kwh, findings),
            "command": needs.command or "",
        }
        for claim, needs in asked
    ]
    known = [needs.energy_kwh for _, needs in asked if needs.energy_kwh is not None]
    open_questions = counted(len(open_claims), "open question")
    if not known:
        return Fact(name="To go on", value="unknown", note=f"no cost is known for {open_questions}"), steps[:MOST_NEXT]
    note = f"to decide {len(known)} of {open_questions}" if len(known) < len(open_claims) else f"for {open_questions}"
    return Fact(name="To go on", value=_cost(sum(known), findings), note=note), steps[:MOST_NEXT]


def _cost(energy_kwh: float | None, findings: Findings) -> str:
    """Write an energy with the grams that it would be at the runs' own mean intensity."""
    if energy_kwh is None:
        return "cost unknown"
    mean = mean_intensity(findings.table.frame)
    if len(findings.provenance.definitions) > 1 or mean is None:
        return ENERGY.show(energy_kwh)
    return f"{ENERGY.show(energy_kwh)}, {MASS.show(energy_kwh * mean)}"


def _predicted(forecast: Extrapolation) -> str:
    document = forecast.document
    kind, label = forecast.validated.fitted.kind, document["validation"]["label"]
    predicted = document[kind.predicted_key]
    value, ends = kind.quantity.interval(predicted["estimate"], predicted["low"], predicted["high"])
    return (
        f"{' '.join(document['target']['overrides'])}, from these runs: {value} "
        f"({ends}, 90 % interval; {distance_from_data(document)}; {label}). {forecast.validated.fits}"
    )
