"""Great Britain: half-hourly national values from NESO's Carbon Intensity API."""

from __future__ import annotations

from datetime import datetime, timedelta

from lora_scaling.grid.http import Client
from lora_scaling.grid.series import GridError, Slot
from lora_scaling.grid.source import Provider, define, intensity, rows_of, utc_time

NAME = "uk"


def _slots(document: object) -> list[Slot]:
    slots = []
    for row in rows_of(document, "data", NAME):
        if not isinstance(row, dict) or not isinstance(row.get("intensity"), dict):
            raise GridError(f"{NAME} answered a row without `intensity`")
        actual = intensity(row["intensity"].get("actual"), NAME)
        expected = intensity(row["intensity"].get("forecast"), NAME)
        value = expected if actual is None else actual
        if value is not None:
            kind = "forecast" if actual is None else "actual"
            slots.append(Slot(utc_time(row.get("from"), NAME), utc_time(row.get("to"), NAME), value, kind))
    return slots


def history(client: Client, zone: str, start: datetime, end: datetime) -> tuple[list[Slot], str]:
    """Fetch the half hours of `[start, end]`. The API includes both ends, so neighbours come too. `zone` is GB."""
    document, url = client.get_json(f"/intensity/{start:%Y-%m-%dT%H:%MZ}/{end:%Y-%m-%dT%H:%MZ}")
    return _slots(document), url


def forecast(client: Client, zone: str, start: datetime, end: datetime) -> tuple[list[Slot], str]:
    """Fetch the 48 hours from `start`; `end` cannot be chosen."""
    document, url = client.get_json(f"/intensity/{start:%Y-%m-%dT%H:%MZ}/fw48h")
    return _slots(document), url


SOURCE = Provider(
    name=NAME,
    zones={"GB": "GB"},
    base_url="https://api.carbonintensity.org.uk",
    definition=define(
        "CO2",
        "consumption",
        "direct",
        "half-hourly, Great Britain, imports and grid losses included",
        includes_losses=True,
    ),
    licence="CC BY 4.0",
    attribution="Source: National Energy System Operator (carbonintensity.org.uk)",
    max_range=timedelta(days=13),  # 14 are allowed, both ends included
    history=history,
    forecast=forecast,
)
