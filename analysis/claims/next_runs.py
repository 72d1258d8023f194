"""What would decide an undecided claim: runs, settings, expected energy, and the command that makes them."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from lora_scaling.errors import UserError
from lora_scaling.paths import choices, config_dir
from lora_scaling.workload import ModelShape

from ..regression.least_squares import wls
from ..tables.overrides import COLUMN_OF, commonest, further_overrides, split_words
from ..tables.run_quantities import flops_per_param_token
from .verdicts import Needs

TARGET_RANGE = 32
FULL_LEVELS = 6
SWEEP = "python -m lora_scaling -m"


def energy_line(frame: pd.DataFrame, overrides: Sequence[str] = ()) -> Callable[[float], float]:
    """Expected kWh of a run by its work (samples × epochs): an affine line through the medians there are.

    Of the runs with the method and model that `overrides` name. What was never run is taken from the other
    runs, in proportion to the FLOPs that a token costs it: rough, but of the right size.
    """
    rows, scale = _alike(frame[frame["energy_kwh"] > 0], _named(overrides))
    if rows.empty:
        return lambda work: float("nan")
    line = rows.groupby("samples_seen")["energy_kwh"].median()
    x, y = line.index.to_numpy(dtype=float), scale * line.to_numpy(dtype=float)
    if len(x) == 1:
        return lambda work: float(y[0] * work / x[0]) if x[0] > 0 else float(y[0])
    X = np.column_stack([np.ones_like(x), x])
    intercept, slope = wls(y, X, (y.max() / y) ** 2, ["fixed", "work"]).params
    floor = 0.5 * float(y.min())
    return lambda work: max(float(intercept + slope * work), floor)


def _named(overrides: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in overrides)}


def _alike(frame: pd.DataFrame, named: dict[str, str]) -> tuple[pd.DataFrame, float]:
    """The rows of a method and a model, or all where there are none; and how much dearer a token is then."""
    scale = 1.0
    for column in ("model", "method"):
        wanted = named.get(column)
        if wanted is None or frame[column].isna().all():
            continue
        same = frame[_chosen(frame, column, wanted)]
        if len(same):
            frame = same
        elif column == "method":
            scale *= flops_per_param_token(wanted) / float(frame["method"].dropna().map(flops_per_param_token).median())
        else:
            known = [size for name in frame["model"].dropna().unique() if (size := _flops_per_token(name)) is not None]
            target = _flops_per_token(wanted.partition(" ")[0])
            scale *= target / float(np.median(known)) if known and target is not None else 1.0
    return frame, scale


@cache
def _flops_per_token(model: str) -> float | None:
    """Weights that a token meets, of a preset; None where the name is no preset's or its shape is unknown."""
    file = config_dir() / "model" / f"{model}.yaml"
    if not re.fullmatch(r"[\w.-]+", model) or not file.is_file():
        return None
    preset: Any = OmegaConf.to_container(OmegaConf.load(file))
    try:
        known = ModelShape(**preset["shape"])
    except (TypeError, UserError):  # a preset whose shape is to be given
        return None
    return float(known.layers * sum(m.active * m.weights for m in known.matmuls()) + known.head.weights)


def common_overrides(frame: pd.DataFrame) -> list[str]:
    """The overrides that the runs (mostly) share, for a command that repeats them."""
    found = []
    for name, column in COLUMN_OF.items():
        if name == "study":
            continue
        values = frame[column].dropna()
        if len(values) == 0 or (column == "rank" and (frame["method"] == "full").all()):
            continue
        value = values.mode().iloc[0]
        override = f"{column}_override"
        again = commonest(frame[override]) if override in frame else None
        if again is not None:  # records say how to choose a file or a checkpoint again, which a name does not
            found.append(str(again))
            continue
        found.append(f"{name}={_plain(value)}")
    found += further_overrides(frame)
    study = frame["study"].dropna()
    if len(study) and re.fullmatch(r"[A-Za-z0-9][\w.+-]*", str(study.mode().iloc[0])):
        found.append(f"study={study.mode().iloc[0]}")  # so that the new runs join these
    return found


def existing_run_counts(frame: pd.DataFrame, overrides: Sequence[str], *, zero: bool = False) -> dict[Any, int]:
    """How many runs with these settings, with or without (`zero`) steps, there are of each samples × epochs.

    Those are the ones that a command would find finished; where a setting is not known, runs have its default.
    """
    named = _named(overrides)
    further = {word for word in overrides if word.partition("=")[0] not in COLUMN_OF}
    rows = frame[(frame["samples_seen"] <= 0) == zero]
    settings = rows["settings_override"].fillna("").astype(str)
    rows = rows[np.array([set(split_words(text)) == further for text in settings], dtype=bool)]
    for setting, column in COLUMN_OF.items():
        wanted = named.get(setting)
        if wanted is None or rows[column].isna().all() or (setting == "lora.r" and named.get("method") == "full"):
            continue
        rows = rows[_chosen(rows, setting, wanted)]
    return rows.groupby(["samples", "epochs"]).size().to_dict()


def _chosen(frame: pd.DataFrame, setting: str, wanted: str) -> pd.Series:
    """Which runs (n,) were asked for with `setting=wanted`, which may be several words."""
    column = COLUMN_OF[setting]
    words = setting + "=" + frame[column].map(_plain).astype(str)
    if (again := f"{column}_override") in frame:
        words = frame[again].where(frame[again].notna(), words)
    return words == f"{setting}={wanted}"


def _plain(value: Any) -> str:
    """A value as overrides write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unchosen(overrides: Sequence[str]) -> str:
    """What there is no choice for, in a sentence: a table from elsewhere has names of its own. Empty where all is."""
    found = [
        f"this program has no `{group}` called {name!r}: choose one with `{group}=`"
        for group, value in _named(overrides).items()
        if group in ("model", "data", "method")
        for name in value.partition(f" {group}.")[0].split(",")
        if name not in choices(group)
    ]
    return f" No command is given, since {'; '.join(found)}." if found else ""


def commanded(needs: Needs, command: str | None, overrides: Sequence[str]) -> Needs:
    """Needs with the command that makes the runs, or with what has to be chosen first."""
    unchosen = _unchosen(overrides)
    return replace(needs, message=needs.message + unchosen, command=None if unchosen else command)


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
    together: bool = False,
) -> Needs:
    """A full factorial of samples × epochs up to `replicates` of each, and runs of zero steps if asked.

    Runs that the table already has are not counted: the sweep skips them. `extra` are further overrides
    that replace the shared ones; commas in them multiply the runs. `together`: what is compared within a session has to
    be run in one, whatever is there already, hence as a study of its own.
    """
    replaced = {word.split("=")[0] for word in extra}
    shared = [word for word in common_overrides(frame) if word.split("=")[0] not in replaced]
    if together:
        shared = [_study_beside(frame, word) for word in shared]
    swept = [[f"{key}={value}" for value in values.split(",")] for key, values in _named(extra).items()]
    settings: list[dict[str, Any]] = []
    energy = 0.0
    variants = [[*shared, *words] for words in itertools.product(*swept)]
    costs = [energy_line(frame, words) for words in variants]
    finished = [{} if together else existing_run_counts(frame, words) for words in variants]
    for s in samples:
        for e in epochs:
            new = [max(0, replicates - have.get((s, e), 0)) for have in finished]
            if any(new):
                settings.append({"samples": s, "epochs": e, "runs": sum(new)})
                energy += sum(n * cost(s * e) for n, cost in zip(new, costs, strict=True) if n)
    levels = f"samples={','.join(map(str, samples))} epochs={','.join(map(str, epochs))}"
    command = " ".join([SWEEP, levels, *extra, *shared, f"replicates={replicates}"])
    if zero_runs:
        settings.append({"samples": samples[0], "epochs": epochs[0], "max_steps": 0, "runs": zero_runs})
        zero = f"samples={samples[0]} epochs={epochs[0]}"
        command += " && " + " ".join([SWEEP, zero, *shared, "max_steps=0", f"replicates={zero_runs}"])
        energy += zero_runs * energy_line(frame, shared)(0)
    needs = Needs(
        message=message,
        runs=sum(setting["runs"] for setting in settings),
        settings=tuple(settings),
        energy_kwh=_expected(energy),
    )
    return commanded(needs, command, [*extra, *shared])


def _study_beside(frame: pd.DataFrame, word: str) -> str:
    """`study=NAME` with a name that no run has yet; any other word as it is."""
    key, _, name = word.partition("=")
    if key != "study":
        return word
    taken = set(frame["study"].dropna())
    while name in taken:
        name += "_more"
    return f"study={name}"


def repeat_needs(frame: pd.DataFrame, row: pd.Series) -> Needs:
    """Two more runs of the setting of one that lies far off."""
    zero, samples, epochs = bool(row["samples_seen"] == 0), float(row["samples"]), float(row["epochs"])
    message = f"Repeat run {row['run_id']} and look at what disturbed it."
    if samples != int(samples) or epochs != int(epochs):
        return Needs(message=message)
    shared = common_overrides(row.to_frame().T)
    repeats = existing_run_counts(frame, shared, zero=zero).get((samples, epochs), 0) + 2
    idle = ["max_steps=0"] if zero else []
    needs = Needs(
        message=message,
        runs=2,
        settings=({"samples": int(samples), "epochs": int(epochs), "runs": 2} | ({"max_steps": 0} if zero else {}),),
        energy_kwh=_expected(2 * energy_line(frame, shared)(0.0 if zero else samples * epochs)),
    )
    words = [f"samples={samples:.0f}", f"epochs={epochs:.0f}", *shared, *idle, f"replicates={repeats}"]
    return commanded(needs, " ".join([SWEEP, *words]), shared)


def joined(parts: Sequence[Needs]) -> Needs:
    """Several needs as one."""
    energies = [part.energy_kwh for part in parts if part.energy_kwh is not None]
    return Needs(
        message=" ".join(part.message for part in parts),
        runs=sum(part.runs or 0 for part in parts),
        settings=tuple(setting for part in parts for setting in part.settings),
        energy_kwh=_expected(sum(energies)) if len(energies) == len(parts) else None,
        command=" && ".join(part.command for part in parts if part.command) or None,
    )


def _expected(kwh: float) -> float | None:
    return round_to(kwh, 3) if math.isfinite(kwh) and kwh > 0 else None


def round_to(value: float, digits: int) -> float:
    """`value` to so many significant digits."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value
