"""The sections of the report, each from the findings to HTML."""

import math
from collections import Counter
from typing import Any

import pandas as pd

from lora_scaling.grid import equivalents
from lora_scaling.records.sources import source_kind

from ..claims.verdicts import Claim, Options
from ..energy_model.backtest import summary
from ..energy_model.extrapolate import Extrapolation
from ..figures.style import Drawn
from ..tables.response import source_kinds
from ..text import counted
from .findings import Findings
from .html import Section, bullets, code, details, escape, paragraph, picture, table

MOST_ROWS = 1000
MOST_NAMED = 30
ROUNDING = 0.01  # of the energy: so much may its components leave out
WORDS = {"supported": "Yes", "refuted": "No", "undecided": "Not decided"}
RUN_COLUMNS = (
    "run_id", "model", "method", "rank", "samples", "epochs", "tokens_seen", "train_s", "energy_kwh",
    "energy_train_kwh", "emissions_g", "train_loss", "eval_loss_before", "eval_loss_after", "peak_memory_gb",
)  # fmt: skip


def verdicts_section(found: Findings) -> Section:
    """A sentence that sums up, then a card per claim, decided ones first."""
    claims = sorted(found.claims.claims, key=lambda claim: claim.verdict == "undecided")
    counts = Counter(claim.verdict for claim in claims)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("supported", "refuted", "undecided"))
    options = found.claims.options
    lead = (
        f"{len(claims)} claims about {found.claims.response.noun}, tested on "
        f"{counted(len(found.table.frame), 'run')}: {said}. "
        f"“Yes” and “No” are each wrong in at most {100 * options.alpha:.3g} % of such studies; what counts as equal "
        f"is ±{100 * options.margin:.3g} %."
    )
    cards = "".join(_card(claim, options) for claim in claims)
    return Section(title="Verdicts", html=f'{paragraph(lead, "lead")}{basis(found)}<div class="cards">{cards}</div>')


def _card(claim: Claim, options: Options) -> str:
    word = "Depends on the model" if split_of(claim) else WORDS[claim.verdict]
    interval = ""
    if (known := interval_of(claim, options)) is not None:
        interval = paragraph(f"{claim.quantity}: {known[0]} ({known[1]})", "figure")
    needs = ""
    if claim.needs is not None:
        cost = "" if claim.needs.energy_kwh is None else f" About {claim.needs.energy_kwh:.3g} kWh."
        command = code(claim.needs.command) if claim.needs.command else ""
        needs = details("What would decide it", paragraph(claim.needs.message + cost) + command)
    return (
        f'<article class="card {claim.verdict}"><p class="verdict">{word}'
        f"<span> · {claim.verdict}</span></p><h3>{escape(claim.title)}</h3>{interval}"
        f"{paragraph(plain_reason(claim))}{needs}</article>"
    )


def split_of(claim: Claim) -> dict[str, dict[str, Any]]:
    """Each model's own answer where a claim is undecided because they differ; else none."""
    return claim.tests["by_model"] if claim.reason.startswith("Undecided: it depends on the model") else {}


def interval_of(claim: Claim, options: Options) -> tuple[str, str] | None:
    """A claim's number and its interval with the interval's level, in words; None where it has none of its own."""
    if claim.estimate is None or claim.ci is None or not all(map(math.isfinite, claim.ci)) or split_of(claim):
        return None
    numbers = (claim.estimate, *claim.ci)
    if claim.quantity.startswith("relative change"):
        value, low, high = (f"{100 * number:+.1f} %" for number in numbers)
    else:
        value, low, high = (f"{number:.3g}" for number in numbers)
    return value, f"{100 * options.ci_level:.3g} % interval {low} to {high}"


def plain_reason(claim: Claim) -> str:
    """The reason without the verdict's own word, which the card shows already."""
    text = claim.reason.removeprefix(f"{claim.verdict.capitalize()}: ")
    return text[0].upper() + text[1:]


def basis(found: Findings) -> str:
    """What the energy is made of, in one line, where it matters most: beside the verdicts."""
    shares = _shares(found.table.frame)
    measured, modelled = (f"{100 * shares[kind]:.3g} %" for kind in ("measured", "modelled"))
    if found.claims.response.modelled or (shares["modelled"] > 0 and shares["measured"] + shares["unknown"] == 0):
        text = "None of this energy was measured: it is time × a modelled power, so the verdicts are about time."
    elif shares["measured"] + shares["modelled"] == 0:
        text = "The table does not say whether this energy was measured or modelled (time × an assumed power)."
    elif shares["unknown"] > 0:
        text = f"{measured} of this energy was measured, {modelled} modelled; of the rest it is not known."
    elif shares["modelled"] == 0:
        text = "All of this energy was measured."
    else:
        text = f"{measured} of this energy was measured; the rest is modelled."
    return paragraph(text, "basis")


def _shares(frame: pd.DataFrame) -> dict[str, float]:
    """Shares of the energy that were measured, modelled, or of which neither is known.

    Unknown is also what the components leave of a run's total, beyond rounding.
    """
    joined = dict.fromkeys(("measured", "modelled", "unknown"), 0.0)
    untold = frame["energy_kwh"].copy()
    for component in ("gpu", "cpu", "ram"):
        energy = frame[f"energy_{component}_kwh"].fillna(0.0)
        kinds = source_kinds(frame, component)
        for kind in joined:
            joined[kind] += float(energy[kinds == kind].sum())
        untold -= energy.where(kinds.isin(list(joined)), 0.0)
    rest = float(untold.clip(lower=0.0).sum())
    if rest > ROUNDING * frame["energy_kwh"].sum():
        joined["unknown"] += rest
    total = sum(joined.values())
    return {kind: energy / total if total > 0 else 0.0 for kind, energy in joined.items()}


def figures_section(found: Findings) -> Section:
    """Every figure the runs support, and why the others are not there."""
    if not found.figures:
        return Section(title="Figures", reason=found.failures.get("figures", found.failures.get("fit")))
    shown, missing = [], []
    for number, item in enumerate(found.figures):
        if not isinstance(item, Drawn):
            missing.append(f"{item.title}: {item.reason}")
            continue
        try:
            shown.append(picture(item.figure, item.title, item.caption, salt=f"f{number}"))
        except Exception as error:
            missing.append(f"{item.title}: could not be drawn ({error})")
    summary = f"{counted(len(missing), 'figure')} that these runs cannot support"
    skipped = details(summary, bullets(missing)) if missing else ""
    return Section(title="Figures", html="".join(shown) + skipped)


def forecast_section(found: Findings) -> Section:
    """Predictions, each with its interval, what is outside the data, and the backtest beside it."""
    if found.fit is None:
        return Section(title="Predictions", reason=f"None: {found.failures.get('fit')}")
    parts = [_forecast(forecast) for forecast in found.forecasts]
    parts += [
        paragraph(f"{part}: {why}", "quiet") for part, why in found.failures.items() if part.startswith("forecast")
    ]
    backtests = bullets(summary(found.fit.backtest))
    checked = "<h3>How such predictions did on these very runs</h3>"
    return Section(title="Predictions", html="".join(parts) + checked + backtests)


def _forecast(forecast: Extrapolation) -> str:
    document = forecast.document
    rows = [
        _interval_row("Energy, kWh", document["energy_kwh"]),
        _interval_row("Time, s", document["time_s"]),
        _interval_row("Emissions, g", document["emissions_g"]),
        _interval_row("Peak memory, GB", document["peak_memory_gb"]),
    ]
    beyond = reach(document)
    validation = document["validation"]
    reasons = f": {'; '.join(validation['reasons'])}" if validation["reasons"] else ""
    return (
        f"<h3>{escape(' '.join(document['target']['overrides']))}</h3>"
        + table(("", "estimate", "low", "high"), [row for row in rows if row], label="Prediction")
        + paragraph(f"90 % intervals. {beyond[0].upper()}{beyond[1:]}.")
        + paragraph(f"{validation['label']}{reasons}.", "basis")
        + details("Assumptions", bullets(document["assumptions"]))
    )


def reach(document: dict[str, Any]) -> str:
    """How far a prediction leaves the data, by variable."""
    outside = [f"{item['variable'].replace('_', ' ')} {item['factor']:.3g}×" for item in document["extrapolates"]]
    return f"outside the data: {', '.join(outside)}" if outside else "inside the data"


def _interval_row(name: str, interval: dict[str, Any] | None) -> tuple[str, ...] | None:
    if not interval or interval.get("estimate") is None:
        return None
    return (name, *(_number(interval.get(key)) for key in ("estimate", "low", "high")))


def sources_section(found: Findings) -> Section:
    """Where each component's energy came from, and how much of it there was."""
    frame = found.table.frame
    rows = []
    for component, name in (("gpu", "GPU"), ("cpu", "CPU"), ("ram", "memory")):
        groups = frame.groupby(frame[f"energy_source_{component}"].fillna("unknown"))
        for source, group in groups:
            energy = group[f"energy_{component}_kwh"]
            total = _number(energy.sum()) if energy.notna().any() else "–"
            kind = source_kind(str(source))
            rows.append((name, str(source), "not there" if kind == "none" else kind, str(len(group)), total))
    if not rows:
        return Section(title="Measured and modelled", reason="The table does not say where its energy came from.")
    note = (
        "Measured: from a counter or sensor of the device. Modelled: CodeCarbon's power models multiplied by time, "
        "which makes energy proportional to time by construction."
    )
    header = ("component", "source", "kind", "runs", "kWh in all")
    return Section(title="Measured and modelled", html=table(header, rows, label="Sources of energy") + paragraph(note))


def emissions_section(found: Findings) -> Section:
    """Grams, their definition, and what they compare to."""
    frame = found.table.frame
    energy, grams = frame["energy_kwh"], frame["emissions_g"]
    known = grams.notna()
    if not known.any():
        text = f"{_number(energy.sum())} kWh in all. Grams are unknown: the table has no emissions_g."
        return Section(title="Emissions", html=paragraph(text) + _equivalents(energy.sum(), None))
    statuses = ", ".join(
        f"{n} {status}" for status, n in frame["intensity_status"].fillna("unknown").value_counts().items()
    )
    definitions = [f"{text} ({counted(n, 'run')})" for text, n in found.provenance.definitions]
    definitions += [f"Data: {text}" for text, _ in found.provenance.attributions]
    told = f"{_number(energy.sum())} kWh in all; "
    if len(found.provenance.definitions) > 1:
        total = None
        told += f"the grams of {int(known.sum())} runs are known, but not all mean the same: they are not summed."
    else:
        total = grams.sum()
        told += (
            f"{_number(total)} g for the {int(known.sum())} runs whose grams are known, "
            f"{total / energy[known].sum():.4g} g/kWh on average."
        )
    if len(definitions) == 0:
        definitions = ["The table does not say how its grams are defined; compare them with nothing."]
    lead = paragraph(f"{told} Status: {statuses}.")
    return Section(title="Emissions", html=lead + bullets(definitions) + _equivalents(energy.sum(), total))


def _equivalents(kwh: float, grams: float | None) -> str:
    found = equivalents(energy_kwh=float(kwh), grams=None if grams is None else float(grams))
    if not found:
        return ""
    return "<h3>In familiar things</h3>" + bullets(f"{e.sentence} ({e.source}, {e.year})" for e in found)


def warnings_section(found: Findings) -> Section:
    """What is doubtful about the runs, and which were left out and why."""
    warnings = [f"{w.message}{_named(w.run_ids)}" for w in found.claims.warnings]
    excluded = [f"{e.run_id}: {e.reason}" for e in found.table.excluded]
    failures = [f"{part}: {reason}" for part, reason in found.failures.items()]
    parts = [bullets(warnings)] if warnings else [paragraph("None.")]
    if excluded:
        more = [f"… and {len(excluded) - MOST_NAMED} more"] if len(excluded) > MOST_NAMED else []
        parts.append(f"<h3>{counted(len(excluded), 'row')} left out</h3>" + bullets(excluded[:MOST_NAMED] + more))
    if failures:
        parts.append("<h3>Not made</h3>" + bullets(failures))
    return Section(title="Warnings", html="".join(parts))


def _named(run_ids: tuple[str, ...]) -> str:
    if not run_ids:
        return ""
    more = f" and {len(run_ids) - 3} more" if len(run_ids) > 3 else ""
    return f" ({', '.join(run_ids[:3])}{more})"


def runs_section(found: Findings) -> Section:
    """The runs as a table that sorts on a click; the first thousand of a very long one."""
    frame = found.table.frame
    columns = [name for name in RUN_COLUMNS if name in frame and frame[name].notna().any()]
    rows = [[_number(value) for value in row] for row in frame[columns].head(MOST_ROWS).itertuples(index=False)]
    note = ""
    if len(frame) > MOST_ROWS:
        note = paragraph(f"The first {MOST_ROWS:,} of {len(frame):,} runs.", "quiet")
    header = [c.replace("_", " ") for c in columns]
    return Section(title="Runs", html=note + table(header, rows, label="Runs", sortable=True))


def methods_section(found: Findings) -> Section:
    """How it was done, with which versions, and the commands that do it again."""
    origin = found.provenance
    said = [
        "Linearity: energy = F + a·x^b with multiplicative noise, runs of zero steps included; supported when the "
        "whole interval of b lies within the margin of 1 (two one-sided tests), refuted when it lies outside; lack of "
        "fit against repeats, outliers and drift over the run order can veto. Failing to reject is not support.",
        "Claims decided on the same runs are adjusted for their number (Holm).",
        "Predictions: a weighted mixture of models on exact FLOPs and tokens; 90 % intervals hold the parameters' "
        "uncertainty, the runs' noise and the choice of model, and widen with distance.",
    ]
    parts = [bullets(said)]
    if found.command:
        parts.append("<h3>This page</h3>" + code(found.command))
    for title, values in (
        ("The runs", origin.commands),
        ("Devices", origin.devices),
        ("Versions", origin.versions),
        ("Commits", origin.commits),
    ):
        if values:
            lines = [f"{text}   ({counted(n, 'run')})" for text, n in values]
            parts.append(f"<h3>{title}</h3>" + (code("\n".join(lines))))
    if origin.there > origin.read:
        parts.append(paragraph(f"Read from {origin.read} of {origin.there} records.", "quiet"))
    return Section(title="Methods", html="".join(parts))


def _number(value: Any) -> str:
    """A cell: text as it is, numbers to four digits, the unknown as a dash."""
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"
