"""Electricity Maps: hourly, flow-traced values for most of the world. Needs a token."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from lora_scaling.grid.http import Client
from lora_scaling.grid.series import Definition, GridError, Slot
from lora_scaling.grid.source import HOUR, Provider, intensity, rows_of, utc_time

NAME = "electricitymaps"
STEPS = {"5_minutes": timedelta(minutes=5), "15_minutes": timedelta(minutes=15), "hourly": HOUR}


def _slots(document: Any, key: str, forecast_only: bool) -> list[Slot]:
    rows = rows_of(document, key, NAME)
    step = STEPS.get(document.get("temporalGranularity", "hourly"))
    if step is None:
        raise GridError(f"{NAME} answered an unknown step {document.get('temporalGranularity')!r:.60}")
    slots = []
    for row in rows:
        value = intensity(row.get("carbonIntensity"), NAME)
        if value is not None:
            start = utc_time(row.get("datetime"), NAME)
            kind = "forecast" if forecast_only else "estimated" if row.get("isEstimated") else "actual"
            slots.append(Slot(start, start + step, value, kind))
    return slots


def _get(client: Client, what: str, zone: str, more: dict[str, str]) -> tuple[Any, str]:
    own = f"{zone[:2]}-{zone}" if zone[2:].isdigit() else zone  # a bidding zone: our NO2 is their NO-NO2
    parameters = {"zone": own, "temporalGranularity": "hourly", **more}
    headers = {"auth-token": client.secret or ""}
    return client.get_json(f"/v3/carbon-intensity/{what}", parameters, headers)


def history(client: Client, zone: str, start: datetime, end: datetime) -> tuple[list[Slot], str]:
    """Fetch the hours of one zone."""
    period = {"start": f"{start:%Y-%m-%dT%H:%M:%SZ}", "end": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
    document, url = _get(client, "past-range", zone, period)
    return _slots(document, "data", forecast_only=False), url


def forecast(client: Client, zone: str, start: datetime, end: datetime) -> tuple[list[Slot], str]:
    """Fetch the hours ahead (needs a paid plan); start and end cannot be chosen."""
    document, url = _get(client, "forecast", zone, {})
    return _slots(document, "forecast", forecast_only=True), url


SOURCE = Provider(
    name=NAME,
    base_url="https://api.electricitymaps.com",
    definition=Definition(
        gas="CO2e",
        signal="average",
        accounting="consumption",
        scope="lifecycle",
        includes_losses=None,
        sentence="CO2e, average, consumption-based (flow-traced), life-cycle: hourly, Electricity Maps",
    ),
    licence="proprietary",
    attribution="Source: Electricity Maps (www.electricitymaps.com)",
    max_range=timedelta(days=10),
    final_after=timedelta(hours=24),  # values are revised for up to 20 hours
    history=history,
    forecast=forecast,
    needs_token=True,
)
