"""The first screen of the report: the questions people come with, each with its answer and how sure it is."""

from typing import TYPE_CHECKING

from .extrapolate import Extrapolation
from .report_estimates import sentence
from .report_html import Section, escape
from .report_sections import WORDS, basis, interval_of, plain_reason, reach
from .verdicts import Claim, Options

if TYPE_CHECKING:
    from .report import Findings

MOST_COSTS = 8  # the others are in their own section
QUESTIONS = {
    "linear_in_samples": "Is {} linear in the number of samples?",
    "linear_in_epochs": "Is {} linear in the number of epochs?",
    "doubling_doubles": "Do twice the samples cost twice the {}?",
    "rank_effect": "Is {} the same at every LoRA rank?",
    "size_exponent": "Is the energy of a token proportional to its FLOPs?",
    "full_vs_lora": "Does full fine-tuning cost more than LoRA?",
}


def answers_section(found: "Findings") -> Section:
    """Question by question; then what a dear run would cost."""
    claims = {claim.id: claim for claim in found.claims.claims}
    noun, options = found.claims.response.noun, found.claims.options
    rows = [
        (text.format(noun), _answer(claims[name]), _sure(claims[name], options)) for name, text in QUESTIONS.items()
    ]
    costs = [sentence(quote) for quote in found.estimates if quote.document["peak_memory_gb"]["fits"] is not False]
    costs = costs[:MOST_COSTS] + [_predicted(forecast) for forecast in found.forecasts]
    body = "".join(
        f'<div class="{claims[name].verdict}"><dt>{escape(question)}</dt>'
        f'<dd>{answer} <span class="quiet">{escape(sure)}</span></dd></div>'
        for name, (question, answer, sure) in zip(QUESTIONS, rows, strict=True)
    )
    if costs:
        listed = "".join(f"<li>{escape(cost)}</li>" for cost in costs)
        body += f"<div><dt>What would dearer runs cost?</dt><dd><ul>{listed}</ul></dd></div>"
    return Section(title="In short", html=f'{basis(found)}<dl class="answers">{body}</dl>')


def _answer(claim: Claim) -> str:
    """The verdict's word; beside it from which size on doubling doubles, where that is the question."""
    word = f"<strong>{WORDS[claim.verdict]}.</strong>"
    if claim.id != "doubling_doubles" or claim.verdict == "undecided":
        return word
    _, _, rest = plain_reason(claim).partition(", ")
    return f"{word} {escape(rest[0].upper() + rest[1:])}"


def _sure(claim: Claim, options: Options) -> str:
    known = interval_of(claim, options)
    if known is None:
        return plain_reason(claim)
    return f"{claim.quantity}: {known[0]}, {known[1]}; equal means ±{100 * options.margin:.3g} %."


def _predicted(forecast: Extrapolation) -> str:
    document = forecast.document
    energy = document["energy_kwh"]
    return (
        f"{' '.join(document['target']['overrides'])}, from these runs: {energy['estimate']:.3g} kWh "
        f"({energy['low']:.3g} to {energy['high']:.3g}, 90 % interval; {reach(document)})."
    )
