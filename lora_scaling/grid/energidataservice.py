"""Denmark: Energinet's CO2Emis (history) and CO2EmisProg (forecast), 5-minute values for DK1 and DK2."""

from __future__ import annotations

from datetime import datetime, timedelta

from lora_scaling.grid.http import Client
from lora_scaling.grid.series import Definition, Slot
from lora_scaling.grid.source import Source, intensity, rows_of, utc_time

NAME = "energidataservice"
STEP = timedelta(minutes=5)


def _dataset(
    client: Client, dataset: str, zone: str, start: datetime, end: datetime, kind: str
) -> tuple[list[Slot], str]:
    parameters = {
        "start": f"{start:%Y-%m-%dT%H:%M}",
        "end": f"{end:%Y-%m-%dT%H:%M}",
        "timezone": "UTC",  # without it, start and end mean Danish local time
        "filter": f'{{"PriceArea":["{zone}"]}}',
        "columns": "Minutes5UTC,PriceArea,CO2Emission",
        "sort": "Minutes5UTC asc",
        "limit": "0",  # everything; the default is the first 100
    }
    document, url = client.get_json(f"/dataset/{dataset}", parameters)
    slots = []
    for row in rows_of(document, "records", NAME):
        # Minutes5UTC only: the local label repeats an hour every October. Never mix the two areas.
        if row.get("PriceArea", zone) != zone or (value := intensity(row.get("CO2Emission"), NAME)) is None:
            continue
        begin = utc_time(row.get("Minutes5UTC"), NAME)
        slots.append(Slot(begin, begin + STEP, value, kind))
    return slots, url


def history(client: Client, zone: str, start: datetime, end: datetime) -> tuple[list[Slot], str]:
    """CO2Emis of one price area."""
    return _dataset(client, "CO2Emis", zone, start, end, "actual")


def forecast(client: Client, zone: str, start: datetime, end: datetime) -> tuple[list[Slot], str]:
    """CO2EmisProg of one price area, at least nine hours ahead."""
    return _dataset(client, "CO2EmisProg", zone, start, end, "forecast")


SOURCE = Source(
    name=NAME,
    base_url="https://api.energidataservice.dk",
    definition=Definition(
        gas="CO2",
        signal="average",
        accounting="consumption",
        scope="direct",
        includes_losses=None,
        sentence=(
            "CO2, average, consumption-based, direct: 5-minute CO2Emis of the Danish price area (125 % heat allocation)"
        ),
    ),
    licence="CC BY 4.0",
    attribution="Source: Energinet (www.energidataservice.dk)",
    max_range=timedelta(days=31),
    final_after=timedelta(hours=24),
    history=history,
    forecast=forecast,
)
