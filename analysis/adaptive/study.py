"""What an adaptive study asks, fixed before its first run: points, looks, and the design it opens with."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lora_scaling.adaptive import Point
from lora_scaling.claim_defaults import ADAPTIVE, STATE_NAME
from lora_scaling.errors import RecordError

from ..tables.checks import rank_correlation

LOOKS, GROWTH = 8, 1.4
ZERO_RUNS = 2
MAX_ORDER_CORRELATION = 0.5  # of an opening: well below where the gate takes drift for an effect


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked, fixed before the first run, and the looks taken so far as numbers of runs.

    `levels` are those of the claim's factor, ascending; `at` is the value the other factor is held at.
    """

    claim: str
    margin: float
    level: float
    levels: tuple[int, ...]
    at: int
    seed: int
    looked: tuple[int, ...] = ()

    @property
    def factor(self) -> str:
        return ADAPTIVE[self.claim][0]

    @cached_property
    def schedule(self) -> tuple[int, ...]:
        """Numbers of usable runs after which to look: the opening's, then each 1.4 times the one before."""
        first = len(self._opening)
        return tuple(math.ceil(first * GROWTH**k - 1e-9) for k in range(LOOKS))

    @property
    def look_level(self) -> float:
        """The level of each look: 1 − α/K."""
        return 1 - (1 - self.level) / LOOKS

    def point(self, level: int, *, zero: bool = False) -> Point:
        if self.factor == "samples":
            return Point(samples=level, epochs=self.at, zero=zero)
        return Point(samples=self.at, epochs=level, zero=zero)

    @property
    def zero(self) -> Point:
        return self.point(self.levels[0], zero=True)

    @cached_property
    def _opening(self) -> tuple[Point, ...]:
        once = [self.point(level) for level in self.levels]
        first, again = [*once, self.zero], [once[0], once[1], once[-1]] + [self.zero] * (ZERO_RUNS - 1)
        attempt = 0
        while True:
            rng = random.Random(f"{self.seed}/{attempt}")
            rng.shuffle(first)
            rng.shuffle(again)
            trained = [p.samples * p.epochs for p in (*first, *again) if not p.zero]
            if (
                abs(rank_correlation(np.arange(len(trained), dtype=np.float64), np.array(trained, dtype=np.float64)))
                < MAX_ORDER_CORRELATION
            ):
                return (*first, *again)
            attempt += 1

    @property
    def opening(self) -> tuple[Point, ...]:
        """The cheapest runs that pass the gates, in blocks and shuffled so that drift looks like no effect."""
        return self._opening


def study_of(state: Mapping[str, Any], where: str = STATE_NAME) -> Study:
    """A study from its state file's document. Raises RecordError where that is not what it should be."""
    try:
        return Study(
            claim=str(state["claim"]),
            margin=float(state["margin"]),
            level=float(state["level"]),
            levels=tuple(int(level) for level in state["levels"]),
            at=int(state["at"]),
            seed=int(state["seed"]),
            looked=tuple(int(look["runs"]) for look in state["looks"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{where} is no study's state ({error!r}); delete it to begin the study anew") from None
