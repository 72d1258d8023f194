"""Say what a training will take and emit, from its first steps.

The first step is left out, because it holds what happens once: compilation, the allocator's first blocks, caches. The
steps after it are extrapolated in proportion. Its error is the scatter of their pace, and that a run's pace drifts:
temperature, clocks, other load, and batches that are longer or shorter than those seen so far.
"""

import math
import statistics
from dataclasses import dataclass

from lora_scaling.estimate.quantiles import t_quantile
from lora_scaling.estimate.result import Interval
from lora_scaling.text import ENERGY, MASS, TIME
from lora_scaling.units import JOULES_PER_KWH

LEVEL = 0.9
_SKIPPED = 1  # steps at the start
_FEWEST_STEPS, _LEAST_S = 4, 2.0  # beyond which a prediction is made
_DRIFT_SD, _POWER_SD = 0.05, 0.03  # log standard deviations; the drift is that of repeated runs (estimate/pilot.py)
_MOST_NOTES = 64


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The whole training: seconds and joules, each with its interval; joules are None if the power is not known."""

    seconds: Interval
    joules: Interval | None

    def sentence(self, g_per_kwh: float | None = None) -> str:
        """Write what the training will take, and emit if the grams per kWh are known."""
        parts = [TIME.between(self.seconds.estimate, self.seconds.low, self.seconds.high)]
        if self.joules is not None:
            kwh = self.joules.scaled(1 / JOULES_PER_KWH)
            parts.append(ENERGY.between(kwh.estimate, kwh.low, kwh.high))
            if g_per_kwh is not None:
                parts.append(f"{MASS.show(kwh.estimate * g_per_kwh)} at {g_per_kwh:.3g} g/kWh")
        return "the whole training: " + ", ".join(parts)


class Outlook:
    """Extrapolates a training from the times at which its steps ended."""

    def __init__(self) -> None:
        self._notes: list[tuple[int, float]] = []
        self._newest = (0, 0.0)
        self._stride = 1

    def note(self, step: int, seconds: float) -> None:
        """Note when a step of the training ended, in seconds since its start."""
        self._newest = (step, seconds)
        if step < _SKIPPED or (self._notes and step < self._notes[-1][0] + self._stride):
            return
        self._notes.append((step, seconds))
        if len(self._notes) > _MOST_NOTES:  # every second of them says the same of a longer time
            self._notes = self._notes[::2]
            self._stride *= 2

    def whole(self, steps: int, watts: float | None = None) -> Prediction | None:
        """Predict the whole training of so many steps at this mean power; None before enough of them are done."""
        if not self._notes:
            return None
        (first, began), (last, ended) = self._notes[0], self._newest
        if last - first < _FEWEST_STEPS or ended - began < _LEAST_S or last > steps:
            return None
        z = t_quantile(0.5 + LEVEL / 2, max(1.0, len(self._notes) - 2.0))
        log_sd = math.hypot(self._scatter(), _DRIFT_SD)
        done, left = Interval(estimate=ended, low=ended, high=ended), (ended - began) * (steps - last) / (last - first)
        seconds = done.plus(Interval.lognormal(left, log_sd, z))
        spread = math.exp(z * _POWER_SD)
        joules = None if not watts else Interval(
            estimate=seconds.estimate * watts, low=seconds.low * watts / spread, high=seconds.high * watts * spread
        )  # fmt: skip
        return Prediction(seconds=seconds, joules=joules)

    def _scatter(self) -> float:
        """Return the standard error of the mean pace, as a share of it."""
        pairs = list(zip(self._notes, self._notes[1:], strict=False))
        paces = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs]
        mean = statistics.fmean(paces)
        return statistics.stdev(paces) / mean / math.sqrt(len(paces)) if len(paces) > 1 and mean > 0 else 0.0
