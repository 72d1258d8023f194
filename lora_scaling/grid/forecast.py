"""Find when, in the next hours, the same run would emit least, and how much less."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lora_scaling.grid import fetch
from lora_scaling.grid.integrate import fill_gaps, integrate
from lora_scaling.grid.providers import SOURCES
from lora_scaling.grid.series import GridError, Slot
from lora_scaling.grid.settings import GridSettings
from lora_scaling.grid.timeline import EnergyBin
from lora_scaling.text import MASS
from lora_scaling.units import JOULES_PER_KWH


@dataclass(frozen=True, kw_only=True)
class ForecastAdvice:
    """The best start of a run of `duration_s`, compared with starting now. Unknown values are None; `reason` says why.

    saving: 1 − best_g/now_g, between 0 and 1.
    """

    provider: str
    zone: str | None
    definition: str
    duration_s: float
    energy_kwh: float
    now: datetime
    forecast_until: datetime | None = None
    best_start: datetime | None = None
    now_g: float | None = None
    best_g: float | None = None
    saving: float | None = None
    reason: str | None = None

    @property
    def sentence(self) -> str:
        """The advice as a sentence, or the reason for having none."""
        if self.best_start is None or self.now_g is None or self.best_g is None or self.saving is None:
            return f"No advice on when to run: {self.reason}."
        until = f"(forecast of {self.provider} for {self.zone} until {self.forecast_until:%Y-%m-%d %H:%M} UTC)"
        if self.best_start == self.now:
            return f"Starting now is best, about {MASS.show(self.now_g)} {until}."
        unit = MASS.unit(self.now_g)
        return (
            f"Started at {self.best_start:%Y-%m-%d %H:%M} UTC the same run would emit about "
            f"{unit.show(self.best_g)} instead of {unit.show(self.now_g)} now, {self.saving:.0%} less {until}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, including the sentence."""
        values = dataclasses.asdict(self) | {"sentence": self.sentence}
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in values.items()}


def forecast_window(
    duration_s: float, energy_kwh: float, settings: GridSettings, now: datetime | None = None
) -> ForecastAdvice | None:
    """Advise on the start of a run of constant power. The PUE is applied as for the run itself.

    Returns None if no zone is set or the provider makes no forecasts. Makes one request; if the grid service fails, the
    advice has no time but a reason. Raises ValueError if the duration is not positive.
    """
    if not duration_s > 0:
        raise ValueError(f"duration_s must be positive, got {duration_s}")
    now = now or datetime.now(UTC)
    provider = settings.resolved_provider
    source = SOURCES.get(provider)
    if source is None or source.forecast is None:
        return None
    advice = ForecastAdvice(
        provider=provider,
        zone=settings.place.zone if settings.place else None,
        definition=f"{source.definition.sentence}; forecast",
        duration_s=duration_s,
        energy_kwh=energy_kwh,
        now=now,
    )
    try:
        series = fetch.forecast(settings, now)
    except GridError as error:
        return dataclasses.replace(advice, reason=str(error))
    slots = _contiguous(series.slots if series else (), now)
    if not slots or slots[-1].end < now + timedelta(seconds=duration_s):
        hours = (slots[-1].end - now).total_seconds() / 3600 if slots else 0.0
        reason = f"the forecast covers the next {hours:.1f} h and the run takes {duration_s / 3600:.1f} h"
        return dataclasses.replace(advice, reason=reason)
    return _best(advice, slots, energy_kwh * settings.pue)


def _best(advice: ForecastAdvice, slots: tuple[Slot, ...], energy_kwh: float) -> ForecastAdvice:
    """Find the best window. Its mean is piecewise linear, so at the minimum an edge of it lies on an edge of a slot."""
    length = timedelta(seconds=advice.duration_s)
    latest = slots[-1].end - length
    edges = {slot.start for slot in slots} | {slot.end - length for slot in slots}
    starts = [advice.now, *sorted(t for t in edges if advice.now < t <= latest)]

    def grams(start: datetime) -> float:
        return integrate([EnergyBin(start, start + length, energy_kwh * JOULES_PER_KWH)], slots).grams

    # Prefer the earliest of equally good starts: `min` keeps the first, and differences below rounding are ignored.
    best_start = min(starts, key=lambda start: round(grams(start), 9))
    now_g, best_g = grams(advice.now), grams(best_start)
    return dataclasses.replace(
        advice,
        forecast_until=slots[-1].end,
        best_start=best_start,
        now_g=now_g,
        best_g=best_g,
        saving=max(0.0, 1 - best_g / now_g) if now_g > 0 else 0.0,
    )


def _contiguous(slots: tuple[Slot, ...], now: datetime) -> tuple[Slot, ...]:
    """Return the slots from now to the first gap that is too long to fill; () if now is not covered."""
    if not slots:
        return ()
    run: list[Slot] = []
    for slot in fill_gaps(slots, now, slots[-1].end):
        if slot.start > (run[-1].end if run else now):
            break
        run.append(slot)
    return tuple(run)
