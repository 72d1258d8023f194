"""Print the result of `lora_scaling.emissions`: a table that defines its grams, or one JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scaling import terminal
from lora_scaling.grid.equivalents import equivalents
from lora_scaling.grid.forecast import ForecastAdvice
from lora_scaling.grid.settings import GridSettings
from lora_scaling.records.sources import energy_kind_of_all
from lora_scaling.text import ENERGY, MASS, UNKNOWN, Unit, number


@dataclass(frozen=True, kw_only=True)
class GramsOutcome:
    """The outcome for one record; `change` is new, unchanged, kept or skipped (`note` says why).

    lacks: components whose energy is missing from the timeline; measured: the share of the energy that is not modelled;
    trained: False for a run of no optimizer steps; refused: the settings do not fit the record;
    unwritable: its folder cannot be written, so that new grams could not be kept.
    """

    path: Path
    run_id: str
    change: str
    emissions: Mapping[str, Any] | None
    note: str | None = None
    settings: GridSettings | None = None
    started_at: str = ""
    lacks: str | None = None
    measured: float | None = None
    trained: bool = True
    refused: bool = False
    unwritable: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return one entry of `runs` in the JSON document."""
        return {
            "run_id": self.run_id,
            "path": str(self.path),
            "change": self.change,
            "note": self.note,
            "lacks": self.lacks,
            "emissions": self.emissions,
        }


def totals_of(outcomes: Sequence[GramsOutcome]) -> dict[str, float | None]:
    """Sum energy (with PUE) and grams. Grams are not summed if their definitions differ or if a run lacks a part."""
    if any(o.emissions and o.lacks for o in outcomes):
        return {"energy_kwh": None, "grams": None}
    known = [o.emissions for o in outcomes if o.emissions and o.emissions["energy_kwh"] is not None]
    grams = [e["grams"] for e in known]
    alike = len({e["definition"] for e in known}) == 1 and None not in grams
    energy_kwh = math.fsum(e["energy_kwh"] for e in known) if known else None
    return {"energy_kwh": energy_kwh, "grams": math.fsum(grams) if alike else None}


def document(outcomes: Sequence[GramsOutcome], advice: ForecastAdvice | str | None) -> dict[str, Any]:
    totals = totals_of(outcomes)
    return {
        "schema_version": 1,
        "runs": [outcome.to_dict() for outcome in outcomes],
        "totals": totals,
        "equivalents": [e.to_dict() for e in equivalents(**totals)],
        "forecast": advice.to_dict() if isinstance(advice, ForecastAdvice) else advice,
    }


def render(outcomes: Sequence[GramsOutcome], advice: ForecastAdvice | str | None = None) -> str:
    """Render the table, the definition of its grams, the reason if anything is not final, and everyday equivalents."""
    known = [o.emissions for o in outcomes if o.emissions]
    energy = ENERGY.column_unit(e["energy_kwh"] for e in known)
    mass = MASS.column_unit(e["grams"] for e in known)
    kind = energy_kind_of_all([outcome.measured for outcome in outcomes if outcome.emissions])
    apart = kind is None and any(outcome.measured is not None for outcome in outcomes)
    energies = (f"{energy.name}{f' {kind}' if kind else ''}", *["measured"] * apart)
    header = ("run", *energies, "g/kWh", mass.name, "status", "coverage", "source", "revision")
    rows = [_row(outcome, energy, mass, apart=apart) for outcome in outcomes]
    lines = [terminal.table([header, *rows], right=(1, 2, 3, *[4] * apart))]
    for definition in dict.fromkeys(e["definition"] for e in known):
        lines.append(f"definition: {definition}")
    warnings = dict.fromkeys(w["message"] for e in known for w in e["warnings"])
    warnings |= dict.fromkeys(f"{o.run_id}: the timeline lacks {o.lacks}: grams of a part" for o in outcomes
                              if o.emissions and o.lacks)  # fmt: skip
    notes = dict.fromkeys(o.note for o in outcomes if o.note)
    lines += [f"note: {note}" for note in notes if not any(note in warning for warning in warnings)]
    lines += [f"warning: {warning}" for warning in warnings]
    for credit in dict.fromkeys(e["attribution"] for e in known if e["attribution"]):
        lines.append(f"attribution: {credit}")
    totals = totals_of(outcomes)
    if totals["grams"] is not None and totals["energy_kwh"] is not None:
        lines.append(f"total: {ENERGY.show(totals['energy_kwh'])}, {MASS.show(totals['grams'])}")
    elif known:
        lines.append("total: not summed, the grams differ in definition or are not all known, or not of whole runs")
    lines += [f"  {e.sentence} [{e.source}]" for e in equivalents(**totals)]
    if advice is not None:
        lines.append(advice.sentence if isinstance(advice, ForecastAdvice) else advice)
    return "\n".join(lines)


def _row(outcome: GramsOutcome, energy: Unit, mass: Unit, *, apart: bool) -> tuple[str, ...]:
    """Write the cells of one run; `apart`: with the share of its energy that was measured."""
    e = outcome.emissions
    name = (outcome.run_id or str(outcome.path)) + ("" if outcome.trained else " (no training)")
    if e is None:
        return (name, *[""] * (6 + apart), outcome.change)
    coverage = ", ".join(f"{share:.0%} {kind}" for kind, share in e["coverage"].items() if share > 0)
    source = " ".join(filter(None, (e["provider"], e["zone"], str(e["static_year"] or ""))))
    pue = f" (PUE {e['pue']:g})" if e["pue"] != 1 else ""
    intensity = e["intensity_g_per_kwh"]
    share = "–" if outcome.measured is None else f"{100 * outcome.measured:.0f} %"
    numbers = (
        energy.number(e["energy_kwh"], 4) + pue,
        *[share] * apart,
        UNKNOWN if intensity is None else number(intensity, 4),
    )
    return (
        name,
        *numbers,
        mass.number(e["grams"], 4),
        e["status"],
        coverage,
        source,
        f"{e['revision']} ({outcome.change})",
    )
