"""Get the series of a zone for some hours, from the cache or the provider, or raise a GridError with the reason."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from lora_scaling.grid import cache, csvfile
from lora_scaling.grid.http import Client
from lora_scaling.grid.providers import SOURCES
from lora_scaling.grid.series import GridBusyError, GridError, Series, Slot, floor_time, ordered
from lora_scaling.grid.settings import TOKEN_VARIABLE, GridSettings, token
from lora_scaling.grid.source import Fetch, Provider, chunks
from lora_scaling.grid.zones import provider_code

HORIZON = timedelta(hours=48)
LONGEST = timedelta(days=400)  # of a history: a timeline from elsewhere may span all of time
LEFT_ALONE_S = 60.0
_busy: dict[str, tuple[float, str]] = {}  # base URL → (monotonic time, why)


def history(settings: GridSettings, start: datetime, end: datetime, now: datetime) -> Series:
    """Get the slots that cover `[start, end)`, as far as the provider has them.

    Whole UTC days are requested and cached, so that the runs of one day share one request.

    Raises:
        GridError: the series is not available.
    """
    provider = settings.resolved_provider
    if provider == "file":
        return csvfile.read_series(settings.file or "", settings.zone)
    if (length := end - start) > LONGEST:
        raise GridError(f"the energy timeline spans {length.days:,} days; at most {LONGEST.days} are asked for")
    source, client, code = _connection(settings, provider)
    days = cache.DayCache(
        folder=settings.cache_path,
        provider=provider,
        base_url=client.base_url,
        zone=code,
        final_after=source.final_after,
    )
    first, last = floor_time(start, cache.DAY), floor_time(end - timedelta(microseconds=1), cache.DAY)
    wanted = [first + i * cache.DAY for i in range((last - first) // cache.DAY + 1)]
    held = {day: found for day in wanted if (found := days.get(day, now)) is not None}
    for a, b in _missing_ranges([day for day in wanted if day not in held]):
        for piece_start, piece_end in chunks(a, b, source.max_range):
            slots, url = _call(source.history, source, client, code, piece_start, piece_end)
            for day_start, day_end in chunks(piece_start, piece_end, cache.DAY):
                mine = ordered(slot for slot in slots if day_start <= slot.start < day_end)
                day = cache.Day(start=day_start, slots=mine, retrieved_at=now, url=url)
                days.put(day)
                held[day_start] = day
    return _series(
        source,
        settings,
        ordered(slot for day in wanted for slot in held[day].slots),
        min(day.retrieved_at for day in held.values()),
        held[wanted[0]].url,
    )


def forecast(settings: GridSettings, now: datetime) -> Series | None:
    """Get the provider's forecast from now on, or None if it makes none. Raises GridError on failure."""
    provider = settings.resolved_provider
    source = SOURCES.get(provider)
    if source is None or source.forecast is None:
        return None
    _, client, code = _connection(settings, provider)
    start = floor_time(now, timedelta(minutes=30))
    slots, url = _call(source.forecast, source, client, code, start, start + HORIZON)
    ahead = ordered(slot for slot in slots if slot.end > now)
    return _series(source, settings, ahead, now, url)


def final_after(provider: str) -> timedelta:
    """Return how long the values of a provider may still change: zero for a file or a static value."""
    source = SOURCES.get(provider)
    return source.final_after if source else timedelta(0)


def _connection(settings: GridSettings, provider: str) -> tuple[Provider, Client, str]:
    source = SOURCES[provider]
    secret = token() if source.needs_token else None
    if source.needs_token and secret is None:
        raise GridError(f"the environment variable {TOKEN_VARIABLE} is not set")
    place = settings.place
    if place is None:
        raise GridError("no zone is set")
    base_url = settings.base_url or source.base_url
    if secret is not None and not _keeps_secret(base_url):
        raise GridError(f"{TOKEN_VARIABLE} is sent over https only, and the address of grid.base_url is not")
    client = Client(
        base_url=base_url,
        timeout_s=settings.timeout_s,
        max_wait_s=settings.max_wait_s,
        secret=secret,
    )
    return source, client, provider_code(provider, place)


def _keeps_secret(address: str) -> bool:
    """Whether nobody on the way can read what is sent: https, or this machine itself."""
    parts = urlsplit(address)
    return parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")


def _call(
    fetch: Fetch, source: Provider, client: Client, code: str, start: datetime, end: datetime
) -> tuple[list[Slot], str]:
    """Return the answer of a provider. Any failure of its parser becomes a GridError with the reason.

    A busy service is left alone for as long as it asked for, but at least for a minute and for as long as it kept us
    waiting. Otherwise the next run of a sweep would wait for the same time-outs again and add to the load.
    """
    until_s, reason = _busy.get(client.base_url, (0.0, ""))
    asked_s = time.monotonic()
    if (left_s := until_s - asked_s) > 0:
        raise GridError(f"{reason} (not asked again for {left_s:.0f} s)")
    try:
        return fetch(client, code, start, end)
    except GridBusyError as error:
        reason = client.mask(str(error))
        now_s = time.monotonic()
        _busy[client.base_url] = (now_s + max(error.wait_s, LEFT_ALONE_S, now_s - asked_s), reason)
        raise GridError(reason) from None
    except GridError as error:  # a quoted answer may contain anything, even the token
        raise GridError(client.mask(str(error))) from None
    except Exception as error:  # an answer in an unexpected form
        reason = client.mask(f"{type(error).__name__}: {error}")
        raise GridError(f"{source.name} answered something unexpected ({reason})") from None


def _series(
    source: Provider, settings: GridSettings, slots: tuple[Slot, ...], retrieved_at: datetime, url: str
) -> Series:
    place = settings.place
    return Series(
        slots=slots,
        provider=source.name,
        zone=place.zone if place else "",
        definition=source.definition,
        retrieved_at=retrieved_at,
        url=url,
        licence=source.licence,
        attribution=source.attribution,
    )


def _missing_ranges(days: list[datetime]) -> list[tuple[datetime, datetime]]:
    """Merge increasing days into ranges of consecutive days."""
    ranges: list[tuple[datetime, datetime]] = []
    for day in days:
        if ranges and ranges[-1][1] == day:
            ranges[-1] = (ranges[-1][0], day + cache.DAY)
        else:
            ranges.append((day, day + cache.DAY))
    return ranges
