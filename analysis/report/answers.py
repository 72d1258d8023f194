"""Write the first screen of the report: common questions, each with its answer and its certainty."""

from typing import Any

from lora_scaling.text import shown

from ..claims.verdicts import Claim, Options
from ..energy_model.extrapolate import Extrapolation
from .estimates import sentence
from .findings import Findings
from .page import Section, section
from .sections import WORDS, basis, distance_from_data, interval_of, plain_reason, split_noun, split_of

MOST_COSTS = 8  # the others are in their own section
QUESTIONS = {
    "linear_in_samples": "Is {} linear in the number of samples?",
    "linear_in_epochs": "Is {} linear in the number of epochs?",
    "doubling_doubles": "Do twice the {factor} cost twice the {}?",
    "rank_effect": "Is {} the same at every LoRA rank?",
    "size_exponent": "Is the {} of a token proportional to its FLOPs?",
    "full_vs_lora": "Does full fine-tuning cost more than LoRA?",
}


def answers_section(findings: Findings) -> Section:
    """Write the answers question by question, and then the cost of larger runs."""
    claims = {claim.id: claim for claim in findings.claims.claims}
    noun, options = findings.claims.response.noun, findings.claims.options
    doubled = claims["doubling_doubles"].tests.get("factor", "samples")  # absent if it could not be tested
    answers = [
        {
            "question": text.format(noun, factor=doubled),
            "verdict": claims[name].verdict,
            "certainty": _certainty(claims[name], options),
            **_answer(claims[name]),
        }
        for name, text in QUESTIONS.items()
    ]
    costs = [sentence(quote) for quote in findings.estimates if quote.document["peak_memory_gb"]["fits"] is not False]
    more = [f"… and {len(costs) - MOST_COSTS} more under Estimates."] if len(costs) > MOST_COSTS else []
    costs = costs[:MOST_COSTS] + more + [_predicted(forecast) for forecast in findings.forecasts]
    return section("In short", "answers.html.j2", basis=basis(findings), answers=answers, costs=costs)


def _answer(claim: Claim) -> dict[str, str]:
    """Write the verdict, with the size from which doubling doubles, or with the answer for each model."""
    if own := split_of(claim):
        each = "; ".join(
            f"{WORDS[one['verdict']].lower()} for {name}: {_size(claim, one)}" for name, one in own.items()
        )
        return {"word": f"It depends on the {split_noun(claim)}", "detail": f"{each[0].upper() + each[1:]}."}
    word = WORDS[claim.verdict]
    if claim.id != "doubling_doubles" or claim.verdict == "undecided":
        return {"word": word, "detail": ""}
    _, _, rest = plain_reason(claim).partition(", ")
    return {"word": word, "detail": rest[0].upper() + rest[1:]}


def _size(claim: Claim, own: dict[str, Any]) -> str:
    """Write one group's ratio, its change in per cent for each doubling of the rank, or exponent, with the interval."""
    if "ratio" not in own:
        if own["estimate"] is None or own["ci"] is None:
            return "not enough runs"
        form = "+.3f" if claim.id == "rank_effect" else ".2f"
        value, low, high = (shown(number, form) for number in (own["estimate"], *own["ci"]))
        return f"{value} ({low} to {high})"
    numbers = (own["ratio"], *own["ci"])
    if claim.id == "rank_effect":
        change, low, high = (shown(100 * (number - 1), "+.1f") for number in numbers)
        return f"{change} % ({low} to {high})"
    ratio, low, high = map(shown, numbers)
    return f"{ratio} times ({low} to {high})"


def _certainty(claim: Claim, options: Options) -> str:
    equal = f"equal means ±{100 * options.margin:.3g} %"
    if split_of(claim):
        return f"{claim.quantity}, {100 * options.ci_level:.3g} % intervals; {equal}."
    known = interval_of(claim, options)
    if known is None:
        return plain_reason(claim)
    return f"{claim.quantity}: {known[0]}, {known[1]}; {equal}."


def _predicted(forecast: Extrapolation) -> str:
    document = forecast.document
    kind, label = forecast.validated.fitted.kind, document["validation"]["label"]
    predicted = document[f"{kind.name}_{kind.suffix}"]
    value, ends = kind.quantity.interval(predicted["estimate"], predicted["low"], predicted["high"])
    return (
        f"{' '.join(document['target']['overrides'])}, from these runs: {value} "
        f"({ends}, 90 % interval; {distance_from_data(document)}; {label})."
    )
