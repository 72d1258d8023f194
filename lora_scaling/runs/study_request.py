"""What a command of `python -m lora_scaling.study` asks for, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_scaling.claim_defaults import ADAPTIVE as CLAIMS
from lora_scaling.claim_defaults import LEVEL, MARGIN, MIN_LEVELS, MIN_RANGE
from lora_scaling.config import RunConfig, run_id
from lora_scaling.errors import UserError

SCHEMA_VERSION = 1
_OF_THE_STUDY = ("replicate", "replicates", "order", "max_steps", "max_hours", "on_existing")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command asks for: a claim, how sure, at what expense, and the settings of its runs."""

    claim: str
    margin: float
    level: float
    max_kwh: float | None
    max_minutes: float | None
    levels: tuple[int, ...]
    at: int
    overrides: tuple[str, ...]

    def question(self, config: RunConfig) -> dict[str, Any]:
        """What must not change between the starts of one study; budgets may."""
        return {
            "schema_version": SCHEMA_VERSION,
            "claim": self.claim,
            "margin": self.margin,
            "level": self.level,
            "levels": list(self.levels),
            "at": self.at,
            "seed": config.order_seed,
            "work": run_id(config),
        }


def parse(arguments: Sequence[str]) -> Request:
    """A request from the command line.

    Raises:
        UserError: a setting is missing, unknown or impossible; the text says which and what is allowed.
    """
    given: dict[str, str] = {}
    overrides: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key in _OF_THE_STUDY:
            raise UserError(f"`{key}` was {value!r}; an adaptive study sets it itself: leave it out")
        if equals and key in ("claim", "max_kwh", "max_minutes", "margin", "level", "samples", "epochs"):
            given[key] = value
        else:
            overrides.append(argument)
    claim = given.get("claim", "")
    if claim not in CLAIMS:
        raise UserError(
            f"`claim` was {claim!r}{', which is not adaptive yet' if claim else ''}; choose one of {', '.join(CLAIMS)}"
            + (", or run a sweep and `python -m analysis design RUNS`" if claim else "")
        )
    factor, default_levels, held, default_held = CLAIMS[claim]
    request = Request(
        claim=claim,
        margin=_number(given, "margin", str(MARGIN), 0.5),
        level=_number(given, "level", str(LEVEL), 1.0),
        max_kwh=_number(given, "max_kwh", "inf", None) if "max_kwh" in given else None,
        max_minutes=_number(given, "max_minutes", "inf", None) if "max_minutes" in given else None,
        levels=_levels(factor, given.get(factor, default_levels)),
        at=_whole(held, given.get(held, default_held)),
        overrides=tuple(overrides),
    )
    if request.max_kwh is None and request.max_minutes is None:
        raise UserError("`max_kwh` and `max_minutes` were missing; give at least one of them, e.g. max_minutes=10")
    if request.level <= 0.5:
        raise UserError(f"`level` was {request.level:g}; allowed is between 0.5 and 1, e.g. level=0.95")
    return request


def _number(given: Mapping[str, str], key: str, default: str, below: float | None) -> float:
    text = given.get(key, default)
    allowed = "a number above 0" if below is None else f"a number between 0 and {below:g}"
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"`{key}` was {text!r}; give {allowed}") from None
    if not 0 < value < (float("inf") if below is None else below):
        raise UserError(f"`{key}` was {text}; give {allowed}")
    return value


def _whole(key: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"`{key}` was {text!r}; give a whole number from 1 up, e.g. {key}=64")
    return int(text)


def _levels(key: str, text: str) -> tuple[int, ...]:
    levels = tuple(sorted({_whole(key, part.strip()) for part in text.split(",")}))
    if len(levels) < MIN_LEVELS or levels[-1] < MIN_RANGE * levels[0]:
        raise UserError(
            f"`{key}` was {text}; a curve shows over at least {MIN_LEVELS} levels and a factor of {MIN_RANGE}, "
            f"e.g. {key}={','.join(str(levels[0] * 2**i) for i in range(5))}"
        )
    return levels
