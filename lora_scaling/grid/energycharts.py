"""Energy-Charts of Fraunhofer ISE: 15-minute values for European countries, observed and then forecast."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from lora_scaling.grid.http import Client
from lora_scaling.grid.series import Definition, GridError, Slot
from lora_scaling.grid.source import Provider, intensity, rows_of

NAME = "energycharts"
# Countries (ISO 3166 alpha-2). If the service lacks one after all, it answers HTTP 400, and the fallback is used with
# that reason.
COUNTRIES = (
    *("AT", "BE", "BG", "CH", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT"),
    *("LT", "LU", "LV", "NL", "NO", "PL", "PT", "RO", "RS", "SE", "SI", "SK"),
)
STEPS = (timedelta(minutes=15), timedelta(minutes=30), timedelta(hours=1))


def _slots(document: Any) -> list[Slot]:
    seconds = rows_of(document, "unix_seconds", NAME)
    observed = rows_of(document, "co2eq", NAME)
    expected = document.get("co2eq_forecast")
    expected = [None] * len(seconds) if expected is None else rows_of(document, "co2eq_forecast", NAME)
    if not len(seconds) == len(observed) == len(expected):
        raise GridError(
            f"{NAME} answered arrays of different length ({len(seconds)} times, {len(observed)} values, "
            f"{len(expected)} forecasts), so no value has a certain time"
        )
    if any(isinstance(s, bool) or not isinstance(s, (int, float)) for s in seconds):
        raise GridError(f"{NAME} answered a time that is not a number")
    if any(after <= before for before, after in itertools.pairwise(seconds)):
        raise GridError(f"{NAME} answered times that do not increase, so no value has a certain time")
    starts = [datetime.fromtimestamp(s, UTC) for s in seconds]
    # The step is the smallest spacing: a larger one is a gap, not a longer slot.
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    step = min(gaps, default=STEPS[0])
    step = step if step in STEPS else STEPS[0]
    slots = []
    for start, seen, guess in zip(starts, observed, expected, strict=True):
        actual, ahead = intensity(seen, NAME), intensity(guess, NAME)
        value = ahead if actual is None else actual
        if value is not None:
            slots.append(Slot(start, start + step, value, "forecast" if actual is None else "actual"))
    return slots


def history(client: Client, zone: str, start: datetime, end: datetime) -> tuple[list[Slot], str]:
    """Fetch the quarter hours of one country (lower-case code); the answer includes the end."""
    parameters = {"country": zone, "start": f"{start:%Y-%m-%dT%H:%MZ}", "end": f"{end:%Y-%m-%dT%H:%MZ}"}
    document, url = client.get_json("/co2eq", parameters)
    return _slots(document), url


SOURCE = Provider(
    name=NAME,
    zones={**{country: country.lower() for country in COUNTRIES}, "GB": "uk"},
    base_url="https://api.energy-charts.info",
    definition=Definition(
        gas="CO2e",
        signal="average",
        accounting=None,
        scope=None,
        includes_losses=None,
        sentence=(
            "CO2e, average, country's electricity mix as published by Energy-Charts, 15-minute; its API says "
            "neither production or consumption nor direct or life-cycle"
        ),
    ),
    licence="CC BY 4.0",
    attribution="Source: Energy-Charts, Fraunhofer ISE (www.energy-charts.info)",
    history=history,
    forecast=history,  # one endpoint: observed values turn null where the forecast begins
)
