"""Compute the grams of a run with their full definition: the `emissions` section of a record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lora_scaling.grid import fetch
from lora_scaling.grid.integrate import Integral, fill_gaps, integrate
from lora_scaling.grid.providers import SOURCES
from lora_scaling.grid.series import Definition, GridError, Series
from lora_scaling.grid.settings import GridSettings
from lora_scaling.grid.static import StaticIntensity, static_of
from lora_scaling.grid.timeline import EnergyBin
from lora_scaling.units import JOULES_PER_KWH

STATIC_LICENCE = "CC BY 4.0 (Our World in Data / Ember)"


@dataclass(frozen=True, kw_only=True)
class EmissionsRevision:
    """One computation of the grams of a run. Unknown values are None, and `reason` says why.

    grams: of `energy_kwh`, which includes the PUE; status: final, provisional, static or pending;
    coverage: shares of the energy by kind of value (`missing`: neither a value nor a fallback);
    settings: the `grid` settings used, from which a recomputation starts.
    """

    revision: int
    computed_at: datetime
    grams: float | None
    energy_kwh: float | None
    pue: float
    intensity_g_per_kwh: float | None
    status: str
    provider: str
    zone: str | None
    definition: str
    gas: str | None
    signal: str
    accounting: str | None
    scope: str | None
    includes_losses: bool | None
    coverage: dict[str, float]
    interval: tuple[datetime, datetime] | None
    retrieved_at: datetime | None
    url: str | None
    attribution: str | None
    licence: str | None
    static_year: int | None
    reason: str | None
    settings: dict[str, Any]
    warnings: tuple[dict[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: times as ISO 8601 texts, tuples as lists."""
        values = dataclasses.asdict(self)
        for name in ("computed_at", "retrieved_at"):
            values[name] = values[name].isoformat() if values[name] else None
        values["interval"] = [moment.isoformat() for moment in self.interval] if self.interval else None
        values["warnings"] = list(values["warnings"])
        return values


def compute_emissions(
    bins: Sequence[EnergyBin],
    settings: GridSettings,
    *,
    now: datetime | None = None,
    previous_revision: int = 0,
) -> EmissionsRevision:
    """Compute grams = Σ E_i · I_i over the bins of the timeline, times the PUE (location-based, average).

    If the grid service fails or gives an unusable answer, this never raises: the fallback is used, with the reason.
    """
    now = now or datetime.now(UTC)
    joules = math.fsum(b.joules for b in bins)
    interval = (min(b.start for b in bins), max(b.end for b in bins)) if bins else None
    provider = settings.resolved_provider
    series, reason = _ask(settings, interval, now)
    slots = fill_gaps(series.slots, *interval) if series and interval else ()
    integral = integrate(bins, slots)
    if series is not None and integral.missing_joules:
        reason = _gap_reason(series, integral.missing_joules / joules if joules else 1.0)
    meaning = series.definition if series and integral.covered_joules else None
    result = _Grams.of(integral, meaning, settings, provider)
    settled = interval is None or now >= interval[1] + fetch.final_after(provider)
    return EmissionsRevision(
        revision=previous_revision + 1,
        computed_at=now,
        grams=result.grams * settings.pue if result.grams is not None and bins else None,
        energy_kwh=joules / JOULES_PER_KWH * settings.pue if bins else None,
        pue=settings.pue,
        intensity_g_per_kwh=result.intensity_g_per_kwh(joules) if bins else None,
        status=_status(result, integral, provider, settled) if bins else "pending",
        provider=result.provider,
        zone=_zone(settings),
        definition=result.sentence,
        gas=result.meaning.gas,
        signal=result.meaning.signal,
        accounting=result.meaning.accounting,
        scope=result.meaning.scope,
        includes_losses=result.meaning.includes_losses,
        coverage=_coverage(result, integral, joules),
        interval=interval,
        retrieved_at=series.retrieved_at if series and meaning else None,
        url=series.url if series and meaning else None,
        attribution=result.attribution(series),
        licence=series.licence if series and meaning else STATIC_LICENCE if result.from_table else None,
        static_year=result.static.year if result.static else None,
        reason=reason if bins else "the run has no energy timeline",
        settings=settings.stored(),
        warnings=tuple(_warnings(result, meaning, integral, reason)),
    )


def _ask(
    settings: GridSettings, interval: tuple[datetime, datetime] | None, now: datetime
) -> tuple[Series | None, str | None]:
    """Return (series of these hours, None) or (None, reason); (None, None) if no series is wanted."""
    if interval is None or settings.resolved_provider == "static":
        return None, None
    try:
        return fetch.history(settings, *interval, now), None
    except GridError as error:
        return None, str(error)
    except Exception as error:  # no failure of a grid service may cost a run its energy
        return None, f"{settings.resolved_provider} failed ({type(error).__name__})"


@dataclass(frozen=True, kw_only=True)
class _Grams:
    """Grams before the PUE, and the definitions they mix."""

    grams: float | None
    provider: str
    meaning: Definition
    sentence: str
    static: StaticIntensity | None
    static_joules: float
    missing_joules: float

    @classmethod
    def of(cls, integral: Integral, meaning: Definition | None, settings: GridSettings, provider: str) -> _Grams:
        """Add the fallback for the joules that no slot covers, labelled with its own definition."""
        missing = integral.missing_joules
        asked_static = provider == "static"
        if meaning is not None and not missing:
            return cls(grams=integral.grams, provider=provider, meaning=meaning, sentence=meaning.sentence,
                       static=None, static_joules=0.0, missing_joules=0.0)  # fmt: skip
        if settings.fallback == "none" and not asked_static:
            known = meaning or _intended(provider)
            return cls(grams=None, provider=provider, meaning=known, sentence=known.sentence,
                       static=None, static_joules=0.0, missing_joules=missing)  # fmt: skip
        static = static_of(settings)
        grams = integral.grams + missing / JOULES_PER_KWH * static.g_per_kwh
        if meaning is None:
            return cls(grams=grams, provider="static", meaning=static.meaning, sentence=static.definition,
                       static=static, static_joules=missing, missing_joules=0.0)  # fmt: skip
        share = missing / (missing + integral.covered_joules)
        sentence = f"{meaning.sentence}; {share:.1%} of the energy: {static.definition}"
        return cls(grams=grams, provider=provider, meaning=meaning, sentence=sentence,
                   static=static, static_joules=missing, missing_joules=0.0)  # fmt: skip

    @property
    def from_table(self) -> bool:
        """Return whether all grams come from the yearly table of countries."""
        return self.provider == "static" and self.static is not None and self.static.meaning.gas == "CO2e"

    def intensity_g_per_kwh(self, joules: float) -> float | None:
        """Return Σ E·I / Σ E, or None without energy or without grams."""
        if self.grams is None or not joules:
            return None
        return self.grams / (joules / JOULES_PER_KWH)

    def attribution(self, series: Series | None) -> str | None:
        """Return the attribution that these grams require."""
        named = [series.attribution] if series and self.provider == series.provider and series.attribution else []
        named += [self.static.source] if self.static else []
        return "; ".join(named) or None


def _intended(provider: str) -> Definition:
    """Return the definition that the provider's grams would have, for a record that has none yet."""
    source = SOURCES.get(provider)
    return source.definition if source else fetch.csvfile.DEFINITION


def _zone(settings: GridSettings) -> str | None:
    return settings.place.zone if settings.place else settings.zone


def _status(result: _Grams, integral: Integral, provider: str, settled: bool) -> str:
    if result.grams is None:
        return "pending"
    if result.provider == "static":
        return "static"
    uncertain = integral.joules["estimated"] + integral.joules["forecast"] + result.static_joules
    return "final" if settled and not uncertain else "provisional"


def _coverage(result: _Grams, integral: Integral, joules: float) -> dict[str, float]:
    """Return shares of the energy by kind of value; all are zero without energy."""
    kinds = {**integral.joules, "static": integral.joules["static"] + result.static_joules}
    kinds["missing"] = result.missing_joules
    return {kind: part / joules if joules else 0.0 for kind, part in kinds.items()}


def _gap_reason(series: Series, share: float) -> str:
    if not series.slots:
        return f"{series.provider} has no values for these hours"
    return (
        f"{series.provider} has no values for {share:.1%} of the energy "
        f"(its series: {series.slots[0].start:%Y-%m-%dT%H:%MZ} to {series.slots[-1].end:%Y-%m-%dT%H:%MZ})"
    )


def _warnings(
    result: _Grams, meaning: Definition | None, integral: Integral, reason: str | None
) -> list[dict[str, str]]:
    found = []
    if reason is not None and result.static is not None:
        found.append({"kind": "grid_fallback", "message": f"a static value stands in: {reason}"})
    if meaning and result.static and not meaning.comparable_with(result.static.meaning):
        found.append({"kind": "mixed_definition", "message": f"the grams mix two definitions: {result.sentence}"})
    if integral.joules["estimated"]:
        share = integral.joules["estimated"] / (integral.covered_joules + integral.missing_joules)
        message = f"{share:.1%} of the energy met values that are estimated (by the source, or across a gap)"
        found.append({"kind": "grid_estimated", "message": message})
    if result.static is not None and result.static.notice is not None:
        found.append({"kind": "static_world", "message": result.static.notice})
    return found
