"""Write the section on what the runs gained for their energy."""

from lora_scaling.text import ENERGY, counted, number

from ..tables.gains import Gains, gains_of
from .findings import Findings
from .page import Section, section
from .sections import MOST_PRINTED

_MOST_ROWS = 200


def gains_section(findings: Findings) -> Section:
    """Write a row for each combination of settings, with its points per kWh."""
    gains = gains_of(findings.table.frame)
    if gains is None:
        return Section(
            title="Cost against gain", reason="No run has a score or an accuracy, before and after training."
        )
    unit = ENERGY.column_unit(row.energy_kwh for row in gains.rows)
    header = ["setting", "runs", f"energy ({unit.name})", "before", "gain", "points per kWh", "front"]
    rows = [
        [
            row.label or "all runs",
            str(row.runs),
            unit.number(row.energy_kwh),
            number(row.before, 4),
            number(row.gain) if row.runs == 1 else f"{number(row.gain)} ({number(row.low)} to {number(row.high)})",
            number(row.points_per_kwh),
            "yes" if row.on_front else "",
        ]
        for row in gains.rows[:_MOST_ROWS]
    ]
    return section(
        "Cost against gain", "runs.html.j2", header=header, rows=rows, note=_lead(gains), printed=MOST_PRINTED
    )


def _lead(gains: Gains) -> str:
    runs = sum(row.runs for row in gains.rows)
    lead = (
        f"{counted(runs, 'run')} of {counted(len(gains.rows), 'setting')}, in {gains.noun}; the energy is without that "
        "of scoring. On the front are the settings that gained more than any cheaper one."
    )
    if not gains.replicated:
        lead += " Each setting was run once: how much of a difference is chance is unknown (replicates=N)."
    return lead
