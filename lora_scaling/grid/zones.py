"""Translate a user's name for a place into a provider's code and a country."""

from __future__ import annotations

import difflib
import functools
import json
import re
from dataclasses import dataclass
from importlib import resources

from lora_scaling.errors import UserError
from lora_scaling.grid.providers import SOURCES

PROVIDERS = ("auto", *SOURCES, "file", "static")
DANISH = ("DK1", "DK2")
BIDDING_ZONES = (*DANISH, *(f"NO{i}" for i in range(1, 6)), *(f"SE{i}" for i in range(1, 5)))
WORLD = "WORLD"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A zone as written in records, and its country (ISO 3166 codes; both None for the world)."""

    zone: str
    alpha2: str | None
    alpha3: str | None


@functools.cache
def countries() -> dict[str, tuple[str, str]]:
    """Return a table ISO 3166 alpha-2 → (alpha-3, name)."""
    text = resources.files("lora_scaling.grid").joinpath("countries.json").read_text(encoding="utf-8")
    return {alpha2: (alpha3, name) for alpha2, (alpha3, name) in json.loads(text).items()}


def find_place(zone: str) -> Place:
    """Return the place that `zone` names: DK1, GB, UK, DE, DEU, NO2, US-CAL-CISO, WORLD; case does not matter.

    Raises UserError, with similar names, for anything else.
    """
    if not isinstance(zone, str) or not zone.strip():
        raise UserError(
            f"grid.zone: got {zone!r}; give a zone such as DK1, GB or DE, "
            'as a string (in YAML, Norway is "NO" in quotes)'
        )
    text = zone.strip().upper()
    table = countries()
    by_alpha3 = {alpha3: alpha2 for alpha2, (alpha3, _) in table.items()}
    text = {"UK": "GB"}.get(text, by_alpha3.get(text, text))
    if match := re.fullmatch(r"([A-Z]{2})-([A-Z]{2}\d)", text):  # Electricity Maps' DK-DK1
        text = match[2] if match[2] in BIDDING_ZONES else text
    if text == WORLD:
        return Place(zone=WORLD, alpha2=None, alpha3=None)
    known = text in table or text in BIDDING_ZONES or re.fullmatch(r"[A-Z]{2}(-[A-Z0-9]+)+", text)
    if not known or text[:2] not in table:
        raise UserError(
            f"grid.zone: got {zone!r}; allowed are DK1, DK2, GB, ISO country codes and "
            f"Electricity Maps zones; {_near(text)}"
        )
    return Place(zone=text, alpha2=text[:2], alpha3=table[text[:2]][0])


def _near(text: str) -> str:
    """Suggest codes and country names that resemble an unknown zone."""
    names = {name.upper(): alpha2 for alpha2, (_, name) in countries().items()}
    codes = (*BIDDING_ZONES, *countries())
    found = [names[name] for name in difflib.get_close_matches(text, names, n=2, cutoff=0.7)]
    found += difflib.get_close_matches(text, codes, n=3, cutoff=0.5)
    if "DK" in found or text.startswith(("DK", "DAN")):
        found = [*DANISH, *found]
    near = list(dict.fromkeys(code for code in found))
    return f"did you mean {', '.join(near)}?" if near else "set one of these, e.g. grid.zone=DK1."


def choose_provider(place: Place | None, *, has_token: bool) -> str:
    """Return the provider that `auto` chooses: the first that covers the place and can be used, or `static`."""
    if place is None or place.alpha2 is None:
        return "static"
    covering = (source for source in SOURCES.values() if source.code(place.zone) is not None)
    return next((source.name for source in covering if has_token or not source.needs_token), "static")


def provider_code(provider: str, place: Place) -> str:
    """Return the provider's name for a place. Raises UserError if the provider does not cover the place."""
    source = SOURCES.get(provider)
    if source is None:  # a file or a static value
        return place.zone
    code = source.code(place.zone) if place.alpha2 else None
    if code is None:
        allowed = "any country" if source.zones is None else ", ".join(source.zones)
        raise UserError(
            f"grid.zone: got {place.zone}, which {provider} does not cover; allowed with it: {allowed}; "
            "set grid.provider=auto or another zone"
        )
    return code
