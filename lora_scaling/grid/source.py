"""Define a provider with a network interface, and the helpers that provider modules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lora_scaling.grid.http import Client
from lora_scaling.grid.series import MOST_G_PER_KWH, Definition, GridError, Slot
from lora_scaling.grid.timeline import parse_utc

HOUR = timedelta(hours=1)

# (client, zone code of the provider, start, end) → (slots, address); start and end are aware UTC.
Fetch = Callable[[Client, str, datetime, datetime], tuple[list[Slot], str]]


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A provider: its zones, host, definition of its numbers, and requests for history and forecast.

    zones: our name of a zone → the provider's; None: any country, under our name; max_range: the longest history of one
    request; final_after: how long values may still change.
    """

    name: str
    base_url: str
    definition: Definition
    licence: str
    attribution: str
    history: Fetch
    forecast: Fetch | None = None
    zones: Mapping[str, str] | None = None
    max_range: timedelta = timedelta(days=31)
    final_after: timedelta = timedelta(hours=24)
    needs_token: bool = False

    def code(self, zone: str) -> str | None:
        """Return the provider's name of a zone, or None if it does not cover the zone."""
        return zone if self.zones is None else self.zones.get(zone)

    @property
    def sole_zone(self) -> str | None:
        """The only zone of a provider that has just one, which then need not be set."""
        return next(iter(self.zones)) if self.zones is not None and len(self.zones) == 1 else None


def define(
    gas: str,
    accounting: str,
    scope: str,
    said: str,
    *,
    signal: str = "average",
    includes_losses: bool | None = None,
) -> Definition:
    """Build a definition whose parts are all known. Its sentence is made of the parts and of `said`.

    If a source leaves a part open, write out the `Definition` instead, with None for that part.
    """
    words = (gas, signal, f"{accounting}-based", {"lifecycle": "life-cycle"}.get(scope, scope))
    return Definition(
        gas=gas,
        signal=signal,
        accounting=accounting,
        scope=scope,
        includes_losses=includes_losses,
        sentence=f"{', '.join(words)}: {said}",
    )


def listed(
    path: str,
    parameters: Mapping[str, str],
    *,
    rows: str,
    time: str,
    value: str,
    step: timedelta,
    kind: str = "actual",
    zone: str | None = None,
) -> Fetch:
    """Build a request for the most common form of answer: a list of objects under `rows`.

    Each object has a `time` (the start of a slot) and a `value` (g/kWh; null for none).

    path, parameters: may hold {zone}, {start} and {end}, with a format: {start:%Y-%m-%dT%H:%MZ}.
    step: the length of a slot; zone: the field that names the zone of a row, if the answer may contain other zones.
    """

    def fetch(client: Client, code: str, start: datetime, end: datetime) -> tuple[list[Slot], str]:
        words = {"zone": code, "start": start, "end": end}
        query = {name: text.format(**words) for name, text in parameters.items()}
        document, url = client.get_json(path.format(**words), query)
        slots = []
        for row in rows_of(document, rows, client.host):
            if zone is not None and row.get(zone, code) != code:
                continue
            if (g_per_kwh := intensity(row.get(value), client.host)) is not None:
                begin = utc_time(row.get(time), client.host)
                slots.append(Slot(begin, begin + step, g_per_kwh, kind))
        return slots, url

    return fetch


def rows_of(document: Any, key: str, provider: str) -> list[Any]:
    """Return the list under `key` of a JSON object, or raise GridError."""
    rows = document.get(key) if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise GridError(f"{provider} answered JSON without a list `{key}`")
    return rows


def intensity(value: Any, provider: str) -> float | None:
    """Return a JSON number as g/kWh, or None for null. Raises GridError for anything that no grid can have."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST_G_PER_KWH:
        raise GridError(f"{provider} answered {value!r:.60} where g/kWh belong")
    return float(value)


def utc_time(value: Any, provider: str) -> datetime:
    """Parse an ISO 8601 text as aware UTC (naive texts of these services are UTC), or raise GridError."""
    try:
        return parse_utc(value)
    except (AttributeError, TypeError, ValueError):
        raise GridError(f"{provider} answered {value!r:.60} where a time belongs") from None


def chunks(start: datetime, end: datetime, longest: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """Split `[start, end)` into consecutive pieces of at most `longest`."""
    while start < end:
        yield start, min(start + longest, end)
        start += longest
