"""What an adaptive study and its statistics exchange: runs to make, looks at the claim, the next step."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Point:
    """A run to make; `zero` does everything but optimizer steps. kWh and seconds are expected, None if unknown."""

    samples: int
    epochs: int
    zero: bool = False
    energy_kwh: float | None = None
    seconds: float | None = None

    @property
    def key(self) -> tuple[int, int, bool]:
        return self.samples, self.epochs, self.zero


@dataclass(frozen=True, kw_only=True)
class Look:
    """One of the looks: after how many usable runs, at which level, and what was seen."""

    runs: int
    level: float
    verdict: str
    estimate: float | None
    ci: tuple[float, float] | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to do next: `runs` to make, or `stop` with why (supported, refuted, budget, looks, doubt).

    usable: runs that the analysis can use so far; schedule: after how many of them each look is due.
    """

    usable: int
    look: Look | None
    stop: str | None
    runs: tuple[Point, ...] = ()
    schedule: tuple[int, ...] = ()


class Planner(Protocol):
    """The statistics of a study: the next step from its folder, its state and what is left of its budgets."""

    def __call__(self, folder: Path, state: Mapping[str, Any], *, kwh_left: float, seconds_left: float) -> Step: ...
