"""Find the step of a coarse meter: the largest amount of which all readings are multiples."""

import numpy as np
import pandas as pd

from lora_scaling.records.timeline import COMPONENTS

from ..arrays import Array

MOST_STEPS = 50  # in the smallest reading: a finer step adds less scatter than any meter has
COUNTED_STEPS = 1000  # beyond, a reading's digits do not tell a multiple from its neighbours
ROUNDING = 0.01  # of a step
SAME = 1e-6  # of a step: a reading's change when it is converted and written
EXACT_LINE = 0.02  # of a step
LEAST_READINGS, LEAST_DISTINCT = 6, 4
_COMPONENT_COLUMNS = [f"energy_{name}_kwh" for name in COMPONENTS]


def meter_step(readings: Array, work: Array) -> float | None:
    """Return the step of positive `readings` (n,) of runs of such `work` (n, k); None where none shows.

    Where repeats of a work never differ and a straight line gives every reading, these are computed, not read.
    """
    distinct = np.unique(readings)
    if len(readings) < LEAST_READINGS or len(distinct) < LEAST_DISTINCT or distinct[0] <= 0:
        return None
    for steps in range(1, MOST_STEPS + 1):
        step = float(distinct[0]) / steps
        counts = distinct[distinct <= COUNTED_STEPS * step] / step
        if len(counts) >= LEAST_DISTINCT and _whole(counts):
            return None if _computed(readings, work, step) else step
    return None


def _whole(counts: Array) -> bool:
    """Return whether sorted distinct `counts` are whole numbers, each of them once: so many steps have one reading."""
    nearest = np.round(counts)
    return bool((np.abs(counts - nearest) < ROUNDING).all() and (np.diff(nearest)[np.diff(counts) > SAME] > 0).all())


def _computed(readings: Array, work: Array, step: float) -> bool:
    """Return whether readings are a straight line in the work, to a small part of a step, without any scatter."""
    levels, first, level = np.unique(work, axis=0, return_index=True, return_inverse=True)
    if (readings != readings[first][level]).any():
        return False
    line = np.column_stack([np.ones(len(levels)), levels])
    rest = readings[first] - line @ np.linalg.lstsq(line, readings[first], rcond=None)[0]
    return bool(np.abs(rest).max() < EXACT_LINE * step)


def meter_steps(frame: pd.DataFrame) -> pd.Series:
    """Return for each run the step of its response `y`, 0 where none shows; device by device, as meters differ.

    Where the total shows none, the steps of its components count together: a coarse meter may be one of several.
    """
    steps = pd.Series(0.0, index=frame.index)
    for _, runs in frame.groupby(frame["hardware"].astype(object).fillna("")):
        step = _step_of(runs, "y")
        if step is None and (runs["y"] == runs["energy_kwh"]).all():
            parts = [_step_of(runs[runs[name] > 0], name) or 0.0 for name in _COMPONENT_COLUMNS]
            step = float(np.hypot.reduce(parts))
            step = step if step * MOST_STEPS >= runs["y"].min() else 0.0
        steps[runs.index] = step or 0.0
    return steps


def _step_of(runs: pd.DataFrame, column: str) -> float | None:
    work = runs[["samples", "epochs", "samples_seen"]].to_numpy(dtype=float)
    return meter_step(runs[column].to_numpy(dtype=float), work)
