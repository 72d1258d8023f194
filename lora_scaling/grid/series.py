"""Define a carbon-intensity series: slots of g/kWh with a definition, checked once, when it is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lora_scaling.text import printable

KINDS = ("actual", "estimated", "forecast", "static")
MOST_G_PER_KWH = 1e6  # burning coal gives some 1e3


class GridError(Exception):
    """A grid service failed; the text is the reason that a record keeps (it contains no secrets, and is printable)."""

    def __init__(self, reason: str) -> None:
        super().__init__(printable(reason))


class GridBusyError(GridError):
    """A service that is overloaded, throttling or not answering; leave it alone for `wait_s` seconds."""

    def __init__(self, reason: str, wait_s: float) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def is_utc(moment: datetime) -> bool:
    """Return whether a datetime is aware and has a zero offset."""
    return moment.tzinfo is not None and moment.utcoffset() == timedelta(0)


@dataclass(frozen=True, slots=True)
class Slot:
    """Carbon intensity of `[start, end)` in g/kWh; aware UTC; kind: actual, estimated, forecast or static.

    Raises ValueError if a time is not aware UTC, the slot is empty, or the value is negative or no grid's.
    """

    start: datetime
    end: datetime
    g_per_kwh: float
    kind: str = "actual"

    def __post_init__(self) -> None:
        if not (is_utc(self.start) and is_utc(self.end)):
            raise ValueError(f"a slot's times must be aware UTC, got {self.start!r} to {self.end!r}")
        if not self.start < self.end:
            raise ValueError(f"a slot must end after it starts, got {self.start} to {self.end}")
        if not 0 <= self.g_per_kwh <= MOST_G_PER_KWH:
            raise ValueError(
                f"g/kWh must be finite, not negative, at most {MOST_G_PER_KWH:g}, got {self.g_per_kwh} at {self.start}"
            )
        if self.kind not in KINDS:
            raise ValueError(f"a slot's kind must be one of {', '.join(KINDS)}, got {self.kind!r}")


@dataclass(frozen=True, kw_only=True)
class Definition:
    """The definition of a provider's grams. `None` means that the source does not say.

    gas: CO2 or CO2e; signal: average; accounting: consumption or production; scope: direct or lifecycle;
    includes_losses: whether grid losses are included; sentence: the whole definition as text.
    """

    gas: str | None
    signal: str
    accounting: str | None
    scope: str | None
    includes_losses: bool | None
    sentence: str

    def comparable_with(self, other: Definition) -> bool:
        """Return whether grams of both definitions may be added without a warning."""
        mine = (self.gas, self.signal, self.accounting, self.scope)
        theirs = (other.gas, other.signal, other.accounting, other.scope)
        return None not in mine and mine == theirs


@dataclass(frozen=True, kw_only=True)
class Series:
    """Slots of one provider and zone in increasing order, without overlap, under one definition.

    Raises ValueError if two slots overlap or the order is not increasing.
    """

    slots: tuple[Slot, ...]
    provider: str
    zone: str
    definition: Definition
    retrieved_at: datetime | None
    url: str | None
    licence: str | None
    attribution: str | None

    def __post_init__(self) -> None:
        for before, after in zip(self.slots, self.slots[1:], strict=False):
            if after.start < before.end:
                raise ValueError(f"slots must increase without overlap, got {before.start} then {after.start}")


def ordered(slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """Sort slots by start and drop exact repetitions.

    Raises GridError if two slots give different values for the same time, because either would be a guess.
    """
    result: list[Slot] = []
    for slot in sorted(slots, key=lambda s: (s.start, s.end)):
        if result and slot == result[-1]:
            continue
        if result and slot.start < result[-1].end:
            raise GridError(
                f"the series has two slots for {slot.start:%Y-%m-%dT%H:%MZ} "
                f"({result[-1].g_per_kwh:g} and {slot.g_per_kwh:g} g/kWh)"
            )
        result.append(slot)
    return tuple(result)


def floor_time(moment: datetime, step: timedelta) -> datetime:
    """Return the last multiple of `step` since the epoch at or before `moment` (aware UTC)."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (moment - epoch) // step * step
