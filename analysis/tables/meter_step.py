"""Find the step of a coarse meter: the largest amount of which all readings are multiples."""

import numpy as np
import pandas as pd

from lora_scaling.records.timeline import COMPONENTS

from ..arrays import Array

MOST_STEPS = 50  # in the smallest reading: a finer step adds less scatter than any meter has
COUNTED_STEPS = 1000  # beyond, a reading's digits do not tell a multiple from its neighbours
ROUNDING = 0.01  # of a step
LEAST_READINGS, LEAST_DISTINCT = 6, 4


def meter_step(readings: Array, works: int) -> float | None:
    """Return the step of positive `readings` (n,) of so many different `works`; None where none shows.

    Readings that repeat exactly at each work show none: they may be computed.
    """
    distinct = np.unique(readings)
    if len(readings) < LEAST_READINGS or len(distinct) <= works or distinct[0] <= 0:
        return None
    for steps in range(1, MOST_STEPS + 1):
        step = float(distinct[0]) / steps
        counts = distinct[distinct <= COUNTED_STEPS * step] / step
        if len(counts) >= LEAST_DISTINCT and (np.abs(counts - np.round(counts)) < ROUNDING).all():
            return step
    return None


def meter_steps(frame: pd.DataFrame) -> pd.Series:
    """Return for each run the step of its response `y`, 0 where none shows; device by device, as meters differ.

    Where the total shows none, the steps of its components count together: a coarse meter may be one of several.
    """
    steps = pd.Series(0.0, index=frame.index)
    for _, runs in frame.groupby(frame["hardware"].astype(object).fillna("")):
        works = len(runs[["samples", "epochs", "samples_seen"]].drop_duplicates())
        step = meter_step(runs["y"].to_numpy(dtype=float), works)
        if step is None:
            parts = [_of_component(runs[f"energy_{name}_kwh"], works) for name in COMPONENTS]
            step = float(np.hypot.reduce(parts)) if (runs["y"] == runs["energy_kwh"]).all() else 0.0
            step = step if step * MOST_STEPS >= runs["y"].min() else 0.0
        steps[runs.index] = step
    return steps


def _of_component(energy: pd.Series, works: int) -> float:
    known = energy[energy > 0].to_numpy(dtype=float)
    return (meter_step(known, works) or 0.0) if len(known) else 0.0
