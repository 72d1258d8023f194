"""What a provider with a network interface is made of, and what their modules share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lora_scaling.grid.http import Client
from lora_scaling.grid.series import Definition, GridError, Slot
from lora_scaling.grid.timeline import parse_utc

HOUR = timedelta(hours=1)

# (client, zone code of the provider, start, end) → (slots, address); start and end are aware UTC.
Fetch = Callable[[Client, str, datetime, datetime], tuple[list[Slot], str]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A provider: zones, host, meaning of its numbers, and how its history and forecast are asked for.

    zones: our name of a zone → its own, None: any country under our name; max_range: the longest history of one
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
        """Its own name of a zone; None where it does not cover it."""
        return zone if self.zones is None else self.zones.get(zone)

    @property
    def sole_zone(self) -> str | None:
        """The zone of a provider that has one only, which then need not be named."""
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
    """A definition whose every part is known, its sentence made of them and of what else is to be `said`.

    Where a source leaves one of them open, write the `Definition` out, with None for that part.
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
    """A request for the commonest answer: under `rows` a list of objects, each with a `time` (a slot's start) and a
    `value` (g/kWh, null for none).

    path, parameters: may hold {zone}, {start} and {end}, with a format: {start:%Y-%m-%dT%H:%MZ}.
    step: the length of a slot; zone: the field that names a row's zone, where rows of others may come along.
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
    """The list under `key` of a JSON object, else GridError."""
    rows = document.get(key) if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise GridError(f"{provider} answered JSON without a list `{key}`")
    return rows


def intensity(value: Any, provider: str) -> float | None:
    """A JSON number as g/kWh; None for null; GridError for anything else, negative or not finite."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise GridError(f"{provider} answered {value!r:.60} where g/kWh belong")
    return float(value)


def utc_time(value: Any, provider: str) -> datetime:
    """An ISO 8601 text as aware UTC (naive texts of these services are UTC), else GridError."""
    try:
        return parse_utc(value)
    except (AttributeError, TypeError, ValueError):
        raise GridError(f"{provider} answered {value!r:.60} where a time belongs") from None


def chunks(start: datetime, end: datetime, longest: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """`[start, end)` in consecutive pieces of at most `longest`."""
    while start < end:
        yield start, min(start + longest, end)
        start += longest
