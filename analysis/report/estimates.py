"""Show estimates of `python -m lora_scaling.estimate --json` next to the study."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scaling.errors import UserError
from lora_scaling.records import read_text
from lora_scaling.text import ENERGY, number

from .page import Section, section


@dataclass(frozen=True, kw_only=True)
class Quote:
    """One estimate: its JSON document, and the run it describes."""

    document: dict[str, Any]
    label: str

    @property
    def energy(self) -> dict[str, float] | None:
        return self.document["energy_kwh"]


def read_estimates(paths: Sequence[str | Path]) -> tuple[Quote, ...]:
    """Read the estimates in these files: single ones, sweeps (`-m`) and comparisons (`compare=`).

    Raises:
        UserError: a file cannot be read or is not an estimate.
    """
    quotes: list[Quote] = []
    for path in paths:
        try:
            document = json.loads(read_text(Path(path)))
            quotes += [_quote(row) for row in document.get("rows") or document.get("runs") or [document]]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"estimates: got {path}, which cannot be read ({error}); give a file") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"estimates: got {path}, which holds no estimate; give what `lora-scaling estimate … --json` printed"
            ) from None
    return tuple(quotes)


def _quote(row: dict[str, Any]) -> Quote:
    for field in ("energy_kwh", "time_s", "basis", "level", "assumptions", "peak_memory_gb"):
        row[field]
    count = f"{row['gpu_count']} × " if row["gpu_count"] > 1 else ""
    return Quote(document=row, label=f"{row['name']} on {count}{row['hardware']}")


def sentence(quote: Quote) -> str:
    """Write one estimate in a line."""
    energy, document = quote.energy, quote.document
    if energy is None:
        return f"{quote.label}: unknown ({document['reason']})."
    value, ends = ENERGY.interval(energy["estimate"], energy["low"], energy["high"], digits=2)
    return f"{quote.label}: {value} ({ends}, {100 * document['level']:.0f} % interval, by {document['basis']})."


def estimates_section(quotes: Sequence[Quote]) -> Section:
    """Write all estimates as a table, with the basis of each."""
    return section("Estimates", "estimates.html.j2", rows=[_row(quote) for quote in quotes], quotes=quotes)


def _row(quote: Quote) -> tuple[str, ...]:
    d = quote.document
    memory, grams = d["peak_memory_gb"], d["emissions_g"]
    fits = {True: "yes", False: "no", None: "unknown"}[memory["fits"]]
    return (
        quote.label,
        *_three(d["energy_kwh"], 1.0),
        *_three(d["time_s"], 1 / 3600),
        *(("–", "–") if grams is None else (number(grams["estimate"]), _intensity(grams))),
        number(memory["estimate"]),
        fits,
        d["basis"],
    )


def _intensity(grams: dict[str, Any]) -> str:
    known = grams.get("intensity_g_per_kwh")
    return "–" if known is None else number(known, 4)


def _three(interval: dict[str, float] | None, scale: float) -> tuple[str, str, str]:
    if interval is None:
        return ("–", "–", "–")
    estimate, low, high = (number(scale * interval[key]) for key in ("estimate", "low", "high"))
    return estimate, low, high
