"""What a provider with a network interface is made of, and checks that their parsers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lora_scaling.grid.http import Client
from lora_scaling.grid.series import Definition, GridError, Slot
from lora_scaling.grid.timeline import parse_utc

# (client, zone code of the provider, start, end) → (slots, address); start and end are aware UTC.
Fetch = Callable[[Client, str, datetime, datetime], tuple[list[Slot], str]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A provider: host, meaning of its numbers, and how its history and forecast are asked for.

    max_range: the longest history of one request; final_after: how long values may still change.
    """

    name: str
    base_url: str
    definition: Definition
    licence: str
    attribution: str
    max_range: timedelta
    final_after: timedelta
    history: Fetch
    forecast: Fetch | None
    needs_token: bool = False


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
