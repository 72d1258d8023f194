"""Write the sections of the report: each turns the findings into what its template shows."""

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lora_scaling.grid import equivalents
from lora_scaling.records.sources import source_kind
from lora_scaling.text import ENERGY, counted, number

from ..claims.verdicts import Claim, Options
from ..energy_model.backtest import summary
from ..energy_model.extrapolate import Extrapolation
from ..figures.style import DrawnFigure
from ..tables.checks import group_noun
from ..tables.response import NOTHING_METERED, source_kinds
from ..tables.response_column import is_energy
from .facts import mean_intensity
from .findings import Findings
from .page import Picture, Section, picture, section

MOST_ROWS = 1000
MOST_PRINTED = 300  # about three pages
MOST_NAMED = 30
ENDING = re.compile(r" (n = [\d,]+ runs?\. .*)$", re.DOTALL)  # of a caption: n, model, source
ROUNDING = 0.01  # of the energy: the components may leave out this much
SAID_ABOVE = "For the reason at the head of the page."
WORDS = {"supported": "Yes", "refuted": "No", "undecided": "Not decided"}
RUN_COLUMNS = (
    "run_id", "model", "method", "rank", "samples", "epochs", "tokens_seen", "train_s", "energy_kwh",
    "energy_train_kwh", "emissions_g", "train_loss", "eval_loss_before", "eval_loss_after", "peak_memory_gb",
)  # fmt: skip


def verdicts_section(findings: Findings) -> Section:
    """Write a summary, and then a card for each claim, decided ones first."""
    claims = sorted(findings.claims.claims, key=lambda claim: claim.verdict == "undecided")
    counts = Counter(claim.verdict for claim in claims)
    tally = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("supported", "refuted", "undecided"))
    options = findings.claims.options
    lead = (
        f"{len(claims)} claims about {findings.claims.response.noun}, tested on "
        f"{counted(len(findings.table.frame), 'run')}: {tally}. "
        f"“Yes” and “No” are each wrong in at most {100 * options.alpha:.3g} % of such studies; what counts as equal "
        f"is ±{100 * options.margin:.3g} %."
    )
    cause = common_cause(findings)
    cards = [_card(claim, options, cause) for claim in claims]
    return section("Verdicts", "verdicts.html.j2", lead=lead, basis=basis(findings).sentence, cards=cards)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One reason that leaves several questions undecided: it is said once, and the claims refer to it."""

    text: str
    ids: tuple[str, ...]
    kinds: tuple[str, ...] = ()  # of the warnings that say the same


def common_cause(findings: Findings) -> Cause | None:
    """Return the reason that most of the undecided claims share, if two or more do, with the rows and what to do."""
    ids: dict[str, list[str]] = {}
    for claim in findings.claims.claims:
        if claim.verdict == "undecided" and not split_of(claim):
            ids.setdefault(plain_reason(claim), []).append(claim.id)
    text, shared = max(ids.items(), key=lambda item: len(item[1]), default=("", []))
    if len(shared) < 2:
        return None
    said = [w for w in findings.claims.warnings if w.kind == "unnamed_column"]
    if said and findings.table.separating:  # the same sentence with the column's values
        return Cause(text=" ".join(w.message for w in said), ids=tuple(shared), kinds=("unnamed_column",))
    return Cause(text=text, ids=tuple(shared))


def _card(claim: Claim, options: Options, cause: Cause | None) -> dict[str, str | None]:
    interval, needs = interval_of(claim, options), claim.needs
    cost = "" if needs is None or needs.energy_kwh is None else f" About {ENERGY.show(needs.energy_kwh)}."
    return {
        "id": claim.id,
        "verdict": claim.verdict,
        "word": f"Depends on the {split_noun(claim)}" if split_of(claim) else WORDS[claim.verdict],
        "title": claim.title,
        "interval": None if interval is None else f"{claim.quantity}: {interval[0]} ({interval[1]})",
        "reason": SAID_ABOVE if cause and claim.id in cause.ids else plain_reason(claim),
        "needs": None if needs is None else needs.message + cost,
        "command": None if needs is None else needs.command,
    }


def split_of(claim: Claim) -> dict[str, dict[str, Any]]:
    """Return each group's own answer if a claim is undecided because groups differ, and otherwise nothing."""
    if not claim.reason.startswith(f"Undecided: it depends on the {split_noun(claim)} "):
        return {}
    return claim.tests.get("by_group") or claim.tests["by_model"]


def split_noun(claim: Claim) -> str:
    """Return what the groups are that a claim may depend on: models, unless it was tested for another setting."""
    return group_noun(claim.tests.get("group_by", "model"))


def interval_of(claim: Claim, options: Options) -> tuple[str, str] | None:
    """Write a claim's number, and its interval with the interval level; None if it has no number."""
    if claim.estimate is None or claim.ci is None or not all(map(math.isfinite, claim.ci)) or split_of(claim):
        return None
    numbers = (claim.estimate, *claim.ci)
    if claim.quantity.startswith("relative change"):
        value, low, high = (f"{100 * number:+.1f} %" for number in numbers)
    else:
        value, low, high = (f"{number:.3g}" for number in numbers)
    return value, f"{100 * options.ci_level:.3g} % interval {low} to {high}"


def plain_reason(claim: Claim) -> str:
    """Return the reason without the verdict, which the card shows, and without what the whole page rests on."""
    text = claim.reason.removeprefix(f"{claim.verdict.capitalize()}: ").replace(NOTHING_METERED, "")
    return text[0].upper() + text[1:]


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What the response consists of: a sentence for the place where it matters most, and words for a cell."""

    sentence: str
    words: str


def basis(findings: Findings) -> Basis:
    """Say what was metered of the response, and what is time × a modelled power."""
    response = findings.claims.response
    if not is_energy(findings.table.response):
        return Basis(
            sentence=f"The verdicts are about {response.noun}, not about energy.",
            words=response.noun.removeprefix("training "),
        )
    shares = _shares(findings.table.frame)
    measured, modelled = (f"{100 * shares[kind]:.3g} %" for kind in ("measured", "modelled"))
    if response.modelled or (shares["modelled"] > 0 and shares["measured"] + shares["unknown"] == 0):
        text = "None of this energy was measured: it is time × a modelled power, so the verdicts are about time."
        return Basis(sentence=text, words="modelled")
    if shares["measured"] + shares["modelled"] == 0:
        text = "The table does not say whether this energy was measured or modelled (time × an assumed power)."
        return Basis(sentence=text, words="not recorded")
    if shares["unknown"] > 0:
        text = f"{measured} of this energy was measured, {modelled} modelled; of the rest it is not known."
        return Basis(sentence=text, words=f"{measured} measured")
    if shares["modelled"] == 0:
        return Basis(sentence="All of this energy was measured.", words="measured")
    return Basis(
        sentence=f"{measured} of this energy was measured; the rest is modelled.", words=f"{measured} measured"
    )


def _shares(frame: pd.DataFrame) -> dict[str, float]:
    """Return the shares of the energy that were measured, modelled, or unknown.

    The part of a run's total that the components leave out, beyond rounding, also counts as unknown.
    """
    joined = dict.fromkeys(("measured", "modelled", "unknown"), 0.0)
    unattributed = frame["energy_kwh"].copy()
    for component in ("gpu", "cpu", "ram"):
        energy = frame[f"energy_{component}_kwh"].fillna(0.0)
        kinds = source_kinds(frame, component)
        for kind in joined:
            joined[kind] += float(energy[kinds == kind].sum())
        unattributed -= energy.where(kinds.isin(list(joined)), 0.0)
    rest = float(unattributed.clip(lower=0.0).sum())
    if rest > ROUNDING * frame["energy_kwh"].sum():
        joined["unknown"] += rest
    total = sum(joined.values())
    return {kind: energy / total if total > 0 else 0.0 for kind, energy in joined.items()}


def figures_section(findings: Findings) -> Section:
    """Show every figure that the runs support, and say why the others are missing."""
    if not findings.figures:
        return Section(title="Figures", reason=findings.failures.get("figures", findings.failures.get("fit")))
    pictures, missing = [], []
    for place, item in enumerate(findings.figures):
        if not isinstance(item, DrawnFigure):
            missing.append(f"{item.title}: {item.reason}")
            continue
        try:
            pictures.append(picture(item, salt=f"f{place}"))
        except Exception as error:
            missing.append(f"{item.title}: could not be drawn ({error})")
    shared, pictures = _without_shared_ending(pictures)
    summary = f"{counted(len(missing), 'figure')} that these runs cannot support"
    return section(
        "Figures", "figures.html.j2", pictures=pictures, shared=shared, missing=missing, missing_summary=summary
    )


def _without_shared_ending(pictures: list[Picture]) -> tuple[str, list[Picture]]:
    """Return what most captions end on, from their number of runs on, and the pictures without it; it is said once."""
    endings = Counter(found[1] for one in pictures if (found := ENDING.search(one.caption)))
    shared, times = max(endings.items(), key=lambda item: item[1], default=("", 0))
    if times < 2:
        return "", pictures
    return shared, [replace(one, caption=one.caption.removesuffix(shared).rstrip()) for one in pictures]


def predictions_section(findings: Findings) -> Section:
    """Write the predictions, each with its interval, what lies outside the data, and the backtest."""
    if findings.fit is None:
        return Section(title="Predictions", reason=f"None: {findings.failures.get('fit')}")
    return section(
        "Predictions",
        "predictions.html.j2",
        predictions=[_prediction(forecast) for forecast in findings.forecasts],
        failures=[f"{part}: {why}" for part, why in findings.failures.items() if part.startswith("forecast")],
        backtest=summary(findings.fit.backtest),
    )


def _prediction(forecast: Extrapolation) -> dict[str, Any]:
    document, grams = forecast.document, forecast.document["emissions_g"]
    rows = [
        _interval_row("Energy, kWh", document["energy_kwh"]),
        _interval_row(document["response"], document["value"]),
        _interval_row("Time, s", document["time_s"]),
        _interval_row("Emissions, g", grams),
        _interval_row("Peak memory, GB", document["peak_memory_gb"]),
    ]
    beyond, validation = distance_from_data(document), document["validation"]
    reasons = f": {'; '.join(validation['reasons'])}" if validation["reasons"] else ""
    return {
        "title": " ".join(document["target"]["overrides"]),
        "rows": [row for row in rows if row],
        "reach": f"90 % intervals. {beyond[0].upper()}{beyond[1:]}.{_intensity_of(grams)}",
        "validation": f"{validation['label']}{reasons}. {forecast.validated.fits}",
        "assumptions": document["assumptions"],
    }


def _intensity_of(grams: dict[str, Any] | None) -> str:
    return f" The grams are at {grams['intensity_g_per_kwh']:.4g} g/kWh: {grams['definition']}." if grams else ""


def distance_from_data(document: dict[str, Any]) -> str:
    """Say how far a prediction leaves the data, by variable."""
    outside = [f"{item['variable'].replace('_', ' ')} {number(item['factor'])}×" for item in document["extrapolates"]]
    return f"outside the data: {', '.join(outside)}" if outside else "inside the data"


def _interval_row(name: str, interval: dict[str, Any] | None) -> tuple[str, ...] | None:
    if not interval or interval.get("estimate") is None:
        return None
    return (name, *(_cell(interval.get(key)) for key in ("estimate", "low", "high")))


def sources_section(findings: Findings) -> Section:
    """Write where the energy of each component came from, and how much it was."""
    frame = findings.table.frame
    if frame[["energy_kwh", *(f"energy_{part}_kwh" for part in ("gpu", "cpu", "ram"))]].isna().all(axis=None):
        return Section(title="Measured and modelled", reason="The table holds no energy.")
    rows = []
    for component, name in (("gpu", "GPU"), ("cpu", "CPU"), ("ram", "memory")):
        groups = frame.groupby(frame[f"energy_source_{component}"].fillna("unknown"))
        for source, group in groups:
            energy = group[f"energy_{component}_kwh"]
            total = _cell(energy.sum()) if energy.notna().any() else "–"
            kind = source_kind(str(source))
            rows.append((name, str(source), "not there" if kind == "none" else kind, str(len(group)), total))
    if not rows:
        return Section(title="Measured and modelled", reason="The table does not say where its energy came from.")
    return section("Measured and modelled", "sources.html.j2", rows=rows)


def emissions_section(findings: Findings) -> Section:
    """Write the grams, their definition, and what they compare to."""
    frame = findings.table.frame
    energy, grams = frame["energy_kwh"], frame["emissions_g"]
    if energy.isna().all():
        return Section(title="Emissions", reason="Unknown: the table holds no energy.")
    known, origin = grams.notna(), findings.provenance
    lead, total = f"{_cell(energy.sum())} kWh in all", None
    if not known.any():
        lead += ". Grams are unknown: the table has no emissions_g."
        definitions = []
    else:
        if len(origin.definitions) > 1:
            lead += f"; the grams of {int(known.sum())} runs are known, but not all mean the same: they are not summed."
        else:
            total, mean = float(grams.sum()), mean_intensity(frame)
            lead += f"; {_cell(total)} g for the {int(known.sum())} runs whose grams are known"
            lead += "." if mean is None else f", {mean:.4g} g/kWh on average."
        statuses = frame["intensity_status"].fillna("unknown").value_counts()
        lead += f" Status: {', '.join(f'{n} {status}' for status, n in statuses.items())}."
        definitions = [f"{text} ({counted(n, 'run')})" for text, n in origin.definitions]
        definitions += [f"Data: {text}" for text, _ in origin.attributions]
        if not definitions:
            definitions = ["The table does not say how its grams are defined; compare them with nothing."]
    familiar = equivalents(energy_kwh=float(energy.sum()), grams=total)
    return section(
        "Emissions",
        "emissions.html.j2",
        lead=lead,
        definitions=definitions,
        equivalents=[f"{e.sentence} ({e.source}, {e.year})" for e in familiar],
    )


def warnings_section(findings: Findings) -> Section:
    """Write what is doubtful about the runs, and which were left out and why."""
    cause = common_cause(findings)
    said = {"modelled_energy", *(cause.kinds if cause else ())}  # at the head of the page
    excluded = [f"{e.run_id}: {e.reason}" for e in findings.table.excluded]
    more = [f"… and {len(excluded) - MOST_NAMED} more"] if len(excluded) > MOST_NAMED else []
    return section(
        "Warnings",
        "warnings.html.j2",
        warnings=[f"{w.message}{_named(w.run_ids)}" for w in findings.claims.warnings if w.kind not in said],
        left_out=excluded[:MOST_NAMED] + more,
        left_out_title=f"{counted(len(excluded), 'row')} left out",
        failures=[f"{part}: {reason}" for part, reason in findings.failures.items()],
    )


def _named(run_ids: tuple[str, ...]) -> str:
    if not run_ids:
        return ""
    more = f" and {len(run_ids) - 3} more" if len(run_ids) > 3 else ""
    return f" ({', '.join(run_ids[:3])}{more})"


def runs_section(findings: Findings) -> Section:
    """Write the runs as a table that sorts on a click; of a very long table, the first thousand."""
    frame = findings.table.frame
    columns = [name for name in RUN_COLUMNS if name in frame and frame[name].notna().any()]
    rows = [[_cell(value) for value in row] for row in frame[columns].head(MOST_ROWS).itertuples(index=False)]
    note = f"The first {MOST_ROWS:,} of {len(frame):,} runs." if len(frame) > MOST_ROWS else ""
    header = [column.replace("_", " ") for column in columns]
    return section("Runs", "runs.html.j2", header=header, rows=rows, note=note, printed=MOST_PRINTED)


def methods_section(findings: Findings) -> Section:
    """Write how it was done, with which versions, and the commands that do it again."""
    origin = findings.provenance
    origins = (
        ("The runs", origin.commands),
        ("Devices", origin.devices),
        ("Versions", origin.versions),
        ("Commits", origin.commits),
    )
    note = f"Read from {origin.read} of {origin.found} records." if origin.found > origin.read else ""
    return section(
        "Methods",
        "methods.html.j2",
        command=findings.command,
        origins=[
            (title, "\n".join(f"{text}   ({counted(n, 'run')})" for text, n in values))
            for title, values in origins
            if values
        ],
        note=note,
    )


def _cell(value: Any) -> str:
    """Write a cell: text as it is, numbers to four digits, unknown values as a dash."""
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return number(float(value), 4)
