"""Compute the grams of the hours that a run would take, from the grid's providers.

This is the only part of an estimate that may use the network, and only with `at=` or `grid.forecast=true`."""

import dataclasses
from datetime import UTC, datetime, timedelta

from lora_scaling.config import RunConfig
from lora_scaling.errors import UserError
from lora_scaling.estimate.result import Emissions, Estimate
from lora_scaling.grid import EnergyBin, GridSettings, compute_emissions, forecast_window
from lora_scaling.units import JOULES_PER_KWH

_BIN_S = 300.0


def parse_start(text: str) -> datetime:
    """Parse an ISO 8601 time or `now`, or raise UserError. A time without an offset is local."""
    if text == "now":
        return datetime.now(UTC)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise UserError(f"at: got {text!r}; give now or a time such as 2026-11-24T02:00") from None


def at_hours(answer: Estimate, config: RunConfig, start: datetime) -> Estimate:
    """Return the estimate with the grams of a run that starts then. Only the interval of the energy remains.

    If the provider has no values for these hours, the yearly mean stays, and an assumption says why.
    """
    if answer.energy_kwh is None or answer.emissions_g is None:
        return answer
    if answer.time_s is None:
        said = "yearly intensity all the same: how long the run takes is unknown"
        return dataclasses.replace(answer, assumptions=(*answer.assumptions, said))
    revision = compute_emissions(_bins(start, answer.time_s.estimate, answer.energy_kwh.estimate), config.grid)
    intensity = revision.intensity_g_per_kwh
    if intensity is None or revision.status == "static":
        why = revision.reason or "there is no value for these hours"
        return dataclasses.replace(answer, assumptions=(*answer.assumptions, f"yearly intensity all the same: {why}"))
    emissions = Emissions(
        grams=answer.energy_kwh.scaled(intensity * config.grid.pue),
        g_per_kwh=intensity,
        definition=revision.definition,
        source=revision.provider,
        year=None,
    )
    kinds = ", ".join(f"{share:.0%} {kind}" for kind, share in revision.coverage.items() if share > 0)
    said = f"intensity of a run from {start:%Y-%m-%d %H:%M} UTC: {intensity:.4g} g/kWh ({kinds})"
    kept = tuple(text for text in answer.assumptions if "yearly mean" not in text)
    return dataclasses.replace(answer, emissions_g=emissions, assumptions=(*kept, said))


def advice(answer: Estimate, config: RunConfig) -> str | None:
    """Say when the same run would emit least, if `grid.forecast=true`; otherwise return None."""
    if not config.grid.forecast:
        return None
    seconds, kwh = (None if figure is None else figure.estimate for figure in (answer.time_s, answer.energy_kwh))
    return when_to_run(seconds, kwh, config.grid)


def when_to_run(seconds: float | None, energy_kwh: float | None, grid: GridSettings) -> str:
    """Say when, in the next hours, a run of this time and energy would emit least, or why this is unknown."""
    if energy_kwh is None:
        return "No advice on when to run: its energy is unknown."
    if seconds is None:
        return "No advice on when to run: how long it takes is unknown."
    advice = forecast_window(seconds, energy_kwh, grid)
    return advice.sentence if advice else "No advice on when to run: this provider has no forecast; set grid.zone."


def _bins(start: datetime, seconds: float, kwh: float) -> list[EnergyBin]:
    count = max(1, min(2000, round(seconds / _BIN_S)))
    width = timedelta(seconds=max(seconds, 1e-3) / count)
    joules = kwh * JOULES_PER_KWH / count
    return [EnergyBin(start=start + i * width, end=start + (i + 1) * width, joules=joules) for i in range(count)]
