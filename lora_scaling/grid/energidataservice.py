"""Denmark: Energinet's CO2Emis (history) and CO2EmisProg (forecast), 5-minute values for DK1 and DK2."""

from __future__ import annotations

from datetime import timedelta

from lora_scaling.grid.source import Fetch, Provider, define, listed

QUERY = {
    "start": "{start:%Y-%m-%dT%H:%M}",
    "end": "{end:%Y-%m-%dT%H:%M}",
    "timezone": "UTC",  # without it, start and end mean Danish local time
    "filter": '{{"PriceArea":["{zone}"]}}',
    "columns": "Minutes5UTC,PriceArea,CO2Emission",
    "sort": "Minutes5UTC asc",
    "limit": "0",  # everything; the default is the first 100
}


def _dataset(name: str, kind: str) -> Fetch:
    """Fetch one data set. Times come from Minutes5UTC, because local time repeats an hour every October."""
    return listed(
        f"/dataset/{name}",
        QUERY,
        rows="records",
        time="Minutes5UTC",
        value="CO2Emission",
        zone="PriceArea",
        step=timedelta(minutes=5),
        kind=kind,
    )


SOURCE = Provider(
    name="energidataservice",
    zones={"DK1": "DK1", "DK2": "DK2"},
    base_url="https://api.energidataservice.dk",
    definition=define(
        "CO2", "consumption", "direct", "5-minute CO2Emis of the Danish price area (125 % heat allocation)"
    ),
    licence="CC BY 4.0",
    attribution="Source: Energinet (www.energidataservice.dk)",
    history=_dataset("CO2Emis", "actual"),
    forecast=_dataset("CO2EmisProg", "forecast"),  # at least nine hours ahead
)
