"""What would decide an undecided claim: runs, settings, expected energy, and the command that makes them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .regression import wls
from .verdicts import Needs

TARGET_RANGE = 32
FULL_LEVELS = 6
SWEEP = "python -m lora_scaling -m"


def energy_line(frame: pd.DataFrame) -> Callable[[float], float]:
    """Expected kWh of a run by its work (samples × epochs): an affine line through the medians there are."""
    known = frame[frame["energy_kwh"] > 0]
    if known.empty:
        return lambda work: float("nan")
    line = known.groupby("samples_seen")["energy_kwh"].median()
    x, y = line.index.to_numpy(dtype=float), line.to_numpy(dtype=float)
    if len(x) == 1:
        return lambda work: float(y[0] * work / x[0]) if x[0] > 0 else float(y[0])
    X = np.column_stack([np.ones_like(x), x])
    intercept, slope = wls(y, X, (y.max() / y) ** 2, ["fixed", "work"]).params
    floor = 0.5 * float(y.min())
    return lambda work: max(float(intercept + slope * work), floor)


def common_overrides(frame: pd.DataFrame) -> list[str]:
    """The overrides that the runs (mostly) share, for a command that repeats them."""
    words = {
        "model": "model",
        "method": "method",
        "rank": "lora.r",
        "data": "data",
        "max_seq_len": "max_seq_len",
    }
    words |= {"batch_size": "batch_size"}
    found = []
    for column, name in words.items():
        values = frame[column].dropna()
        if len(values) == 0 or (column == "rank" and (frame["method"] == "full").all()):
            continue
        value = values.mode().iloc[0]
        override = f"{column}_override"
        again = pd.Series(frame[override].dropna() if override in frame else [], dtype=object)
        if len(again):  # records say how to choose a file or a checkpoint again, which a name does not
            found.append(str(again.mode().iloc[0]))
            continue
        found.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    return found


def geometric(low: float, high: float, count: int) -> list[int]:
    """`count` whole numbers in about equal ratios from low to high."""
    return sorted({max(1, round(low * (high / low) ** (i / (count - 1)))) for i in range(count)})


def sweep_needs(
    frame: pd.DataFrame,
    *,
    message: str,
    samples: Sequence[int],
    epochs: Sequence[int],
    replicates: int,
    extra: Sequence[str] = (),
    zero_runs: int = 0,
) -> Needs:
    """A full factorial of samples × epochs up to `replicates` of each, and runs of zero steps if asked.

    Runs that the table already has are not counted: the sweep skips them. `extra` are further overrides
    that replace the shared ones; commas in them multiply the runs.
    """
    replaced = {word.split("=")[0] for word in extra}
    shared = [word for word in common_overrides(frame) if word.split("=")[0] not in replaced]
    variants = math.prod(word.count(",") + 1 for word in extra)
    cost = energy_line(frame)
    have = frame[frame["samples_seen"] > 0].groupby(["samples", "epochs"]).size().to_dict()
    settings: list[dict[str, Any]] = []
    energy = 0.0
    for s in samples:
        for e in epochs:
            new = max(0, replicates - have.get((s, e), 0)) if variants == 1 else replicates * variants
            if new:
                settings.append({"samples": s, "epochs": e, "runs": new})
                energy += new * cost(s * e)
    levels = f"samples={','.join(map(str, samples))} epochs={','.join(map(str, epochs))}"
    command = " ".join([SWEEP, levels, *extra, *shared, f"replicates={replicates}"])
    if zero_runs:
        settings.append({"samples": samples[0], "epochs": epochs[0], "max_steps": 0, "runs": zero_runs})
        zero = f"samples={samples[0]} epochs={epochs[0]}"
        command += " && " + " ".join([SWEEP, zero, *shared, "max_steps=0", f"replicates={zero_runs}"])
        energy += zero_runs * cost(0)
    return Needs(
        message=message,
        runs=sum(setting["runs"] for setting in settings),
        settings=tuple(settings),
        energy_kwh=round_to(energy, 3) if math.isfinite(energy) and energy > 0 else None,
        command=command,
    )


def round_to(value: float, digits: int) -> float:
    """`value` to so many significant digits."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value
