"""Define how grams are computed: the `grid` part of a configuration, as one frozen, validated dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scaling.errors import UserError
from lora_scaling.grid.http import masked, without_login
from lora_scaling.grid.providers import SOURCES
from lora_scaling.grid.series import MOST_G_PER_KWH
from lora_scaling.grid.zones import PROVIDERS, Place, choose_provider, find_place, provider_code
from lora_scaling.paths import in_home, user_cache

TOKEN_VARIABLE = "ELECTRICITYMAPS_TOKEN"
FALLBACKS = ("static", "none")


def token() -> str | None:
    """Read the token for Electricity Maps from the environment. It is never stored or printed."""
    return os.environ.get(TOKEN_VARIABLE, "").strip() or None


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """The source of carbon intensity, and what to do without it. Raises UserError for a bad value.

    provider: `auto` takes the file if one is given, otherwise it chooses by zone.
    zone: DK1, GB, DE …; None means a world value and no network, unless the provider has only one zone.
    fallback: `static` (a labelled yearly value) or `none` (no grams).
    pue: facility energy / metered energy.
    timeout_s: for one request; max_wait_s: for all waiting between retries.
    base_url: replaces the host of the provider.
    file: CSV `start,end,g_per_kwh`, for provider `auto` or `file`.
    intensity_g_per_kwh: the user's own number; used for everything with `auto` (without a file) or `static`, and as the
        fallback with the other providers.
    cache_dir: None means the user's cache folder.
    forecast: say when the run would have emitted least.
    """

    provider: str = "auto"
    zone: str | None = None
    fallback: str = "static"
    pue: float = 1.0
    timeout_s: float = 20.0
    max_wait_s: float = 60.0
    base_url: str | None = None
    file: str | None = None
    intensity_g_per_kwh: float | None = None
    cache_dir: str | None = None
    forecast: bool = False

    def __post_init__(self) -> None:
        _one_of("provider", self.provider, PROVIDERS)
        _one_of("fallback", self.fallback, FALLBACKS)
        _number("pue", self.pue, 1.0, 100.0, what="a number from 1 to 100 (facility energy / metered energy)")
        _number("timeout_s", self.timeout_s, 1e-3, 1e6, what="a number of seconds above 0, at most 1e6")
        _number("max_wait_s", self.max_wait_s, 0.0, 1e6, what="a number of seconds from 0 to 1e6")
        if self.intensity_g_per_kwh is not None:
            _number("intensity_g_per_kwh", self.intensity_g_per_kwh, 0.0, MOST_G_PER_KWH, what="g/kWh from 0 to 1e6")
        if self.provider == "file" and not self.file:
            raise UserError("grid.file: missing; provider file needs a CSV with start,end,g_per_kwh")
        source = SOURCES.get(self.provider)
        if source is not None and source.sole_zone is None and self.zone is None:
            example = "DE" if source.zones is None or "DE" in source.zones else next(iter(source.zones))
            raise UserError(f"grid.zone: missing; provider {self.provider} needs a zone, such as grid.zone={example}")
        if self.place is not None:
            provider_code(self.resolved_provider, self.place)

    @property
    def place(self) -> Place | None:
        """The zone as a place; None if no zone is set, or with a file, which may call its zone anything."""
        if self.zone is None:
            source = SOURCES.get(self.provider)
            return find_place(source.sole_zone) if source is not None and source.sole_zone is not None else None
        try:
            return find_place(self.zone)
        except UserError:
            if self._reads_file:
                return None
            raise

    @property
    def resolved_provider(self) -> str:
        """The provider that is used: `auto` is resolved by a given file or number, then by zone."""
        if self._reads_file:
            return "file"
        if self.provider != "auto":
            return self.provider
        if self.intensity_g_per_kwh is not None:
            return "static"
        return choose_provider(self.place, has_token=token() is not None)

    @property
    def _reads_file(self) -> bool:
        return self.provider == "file" or (self.provider == "auto" and bool(self.file))

    @property
    def cache_path(self) -> Path:
        """Return the folder of cached series."""
        if self.cache_dir is not None:
            return in_home(self.cache_dir)
        return user_cache() / "lora-scaling" / "grid"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GridSettings:
        """Build settings from the `grid` part of a configuration; absent fields take their default.

        Raises UserError, with similar names, for a field that does not exist.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=2) or names
                raise UserError(f"grid.{name}: not a field; did you mean {', '.join(near)}?")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a configuration holds them."""
        return dataclasses.asdict(self)

    def stored(self) -> dict[str, Any]:
        """Return the fields as a record stores them for recomputation: no secret in the address, the provider by name.

        `auto` may choose a provider because a token is set. Without the token, a later computation must fail instead of
        choosing another provider, so the name is stored.
        """
        address = masked(without_login(self.base_url)) if self.base_url else self.base_url
        provider = self.resolved_provider if self.resolved_provider in SOURCES else self.provider
        return {**self.to_dict(), "provider": provider, "base_url": address}


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"grid.{name}: got {value!r}; choose one of {', '.join(allowed)}")


def _number(name: str, value: object, least: float, most: float, *, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise UserError(f"grid.{name}: got {value!r}; give {what}")
