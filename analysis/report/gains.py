"""Write the section on what the runs gained for their energy."""

from lora_scaling.text import ENERGY, counted, number

from ..tables.gains import Doubling, Gains, Outcome, gains_of
from .findings import Findings
from .page import Section, section
from .sections import MOST_PRINTED

TITLE = "Cost against gain"
_MOST_ROWS, _MOST_DOUBLINGS = 200, 20
_OUTCOMES: tuple[tuple[Outcome, ...], ...] = (("score", "accuracy"), ("loss",))


def gains_section(findings: Findings) -> Section:
    """Write what each setting gained in score (or accuracy) and in loss, and what the last doubling bought."""
    known = [gains for outcomes in _OUTCOMES if (gains := gains_of(findings.table.frame, *outcomes)) is not None]
    if not known:
        reason = "No run has a score, an accuracy or a held-out loss, before and after training."
        return Section(title=TITLE, reason=reason)
    return section(TITLE, "gains.html.j2", parts_of=[_part(gains) for gains in known], printed=MOST_PRINTED // 10)


def _part(gains: Gains) -> dict[str, object]:
    unit = ENERGY.column_unit(row.energy_kwh for row in gains.rows)
    per = f"{gains.measure.unit} per kWh"
    return {
        "title": f"In {gains.noun}",
        "note": _lead(gains),
        "header": ["setting", "runs", f"energy ({unit.name})", "before", "gain", per, "front"],
        "rows": [
            [
                row.label or "all runs",
                str(row.runs),
                unit.number(row.energy_kwh),
                number(row.before, 4),
                number(row.gain)
                if number(row.low) == number(row.high)
                else f"{number(row.gain)} ({number(row.low)} to {number(row.high)})",
                number(row.points_per_kwh),
                "yes" if row.on_front else "",
            ]
            for row in sorted(gains.rows, key=lambda row: not row.on_front)[:_MOST_ROWS]
        ],
        "doublings": [_doubling(one, gains) for one in gains.doublings[:_MOST_DOUBLINGS]],
        "more": max(0, len(gains.doublings) - _MOST_DOUBLINGS),
    }


def _doubling(one: Doubling, gains: Gains) -> str:
    """Write what the last doubling of one setting bought, in a sentence."""
    spread = f" ± {number(one.spread, 2)}" if one.spread else ""  # repeats of one seed learn the same
    unit = gains.measure.unit
    cost = f"{ENERGY.show(one.added_kwh)} more" if one.added_kwh > 0 else "no more energy"
    per = f", {number(one.gain / one.added_kwh)} {unit} per kWh" if one.added_kwh > 0 and one.gain > 0 else ""
    where = f"{one.label}: " if one.label else ""
    return (
        f"{where}from {one.start:,.10g} to {one.end:,.10g} {one.factor} bought {number(one.gain)}{spread} {unit} for "
        f"{cost}{per}."
    )


def _lead(gains: Gains) -> str:
    runs = sum(row.runs for row in gains.rows)
    lead = (
        f"{counted(runs, 'run')} of {counted(len(gains.rows), 'setting')}, in {gains.noun}; the energy is without that "
        "of scoring. On the front are the settings that gained more than any cheaper one."
    )
    if len({row.among for row in gains.rows}) > 1:
        lead += " Each held-out data set has its own front, as losses on different texts say nothing of each other."
    if not gains.replicated:
        lead += " Each setting was run once: how much of a difference is chance is unknown (replicates=N)."
    return lead
