"""Set what runs learned against the energy that they took: one row for each combination of settings."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from lora_scaling.settings import SETTINGS

_SETTINGS = tuple(
    s.column for s in SETTINGS if s.column and s.changes in ("work", "learning", "device") and s.name != "seed"
)
Outcome = Literal["score", "accuracy", "loss"]
DOUBLED = (1.8, 2.2)  # what counts as twice as many


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a gain is counted in: the columns before and after, the factor from them to the unit, and both in words.

    The factor is below 0 where less is better.
    """

    outcome: Outcome
    before: str
    after: str
    factor: float
    unit: str
    noun: str


MEASURES = (
    Measure(outcome="score", before="score_before", after="score_after", factor=1.0, unit="points",
            noun="points on the tasks"),
    Measure(outcome="accuracy", before="eval_accuracy_before", after="eval_accuracy_after", factor=100.0, unit="points",
            noun="points of accuracy on held-out answer tokens"),
    Measure(outcome="loss", before="eval_loss_before", after="eval_loss_after", factor=-1.0, unit="nats",
            noun="nats of held-out loss"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The mean gain and energy of the runs of one combination of settings.

    label: the settings in which the combinations differ. among: the held-out data of a loss, as losses on other data
    say nothing of each other; empty for other outcomes. energy_kwh: without scoring. low, high: the smallest and
    largest gain. on_front: no combination that took less energy gained as much.
    """

    label: str
    among: str
    runs: int
    energy_kwh: float
    before: float
    gain: float
    low: float
    high: float
    on_front: bool = False

    @property
    def points_per_kwh(self) -> float:
        return self.gain / self.energy_kwh


@dataclass(frozen=True, kw_only=True)
class Gains:
    """Gains of all combinations, the cheapest first, what they are counted in, and what the last doublings gained."""

    measure: Measure
    rows: tuple[Gain, ...]
    doublings: tuple["Doubling", ...]

    @property
    def noun(self) -> str:
        return self.measure.noun

    @property
    def replicated(self) -> bool:
        """Whether some combination was run more than once, so that its gains show how much is chance."""
        return any(row.runs > 1 for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Doubling:
    """What the last doubling of the samples or epochs of one setting bought: means over the runs at both amounts.

    added_kwh and gain are those of the larger amount over the smaller; `spread` is the standard error of the gain, None
    without repeats at both.
    """

    label: str
    factor: Literal["samples", "epochs"]
    start: float
    end: float
    added_kwh: float
    gain: float
    spread: float | None


def gains_of(frame: pd.DataFrame, *outcomes: Outcome) -> Gains | None:
    """Return what the runs of a table gained, in the first of these outcomes that runs have (all, without any named).

    None if no run has both an energy and an outcome before and after.
    """
    for measure in MEASURES:
        if (outcomes and measure.outcome not in outcomes) or not {
            measure.before, measure.after, "energy_kwh"
        } <= set(frame.columns):  # fmt: skip
            continue
        known = frame[frame[[measure.before, measure.after, "energy_kwh"]].notna().all(axis=1)]
        scoring = known["energy_score_kwh"].fillna(0.0) if "energy_score_kwh" in known else 0.0
        known = known.assign(
            before_=abs(measure.factor) * known[measure.before],
            gain_=measure.factor * (known[measure.after] - known[measure.before]),
            energy_=known["energy_kwh"] - scoring,
        )
        known = known[known["energy_"] > 0]
        if "samples_seen" in known:
            known = known[known["samples_seen"] != 0]  # what was not trained gained nothing
        if len(known):
            return Gains(measure=measure, rows=_rows(known, measure), doublings=_doublings(known))
    return None


def _doublings(known: pd.DataFrame) -> tuple[Doubling, ...]:
    """Return the last doubling of samples and of epochs of each combination of the other settings."""
    varying = _varying(known)
    found: list[Doubling] = []
    for factor in ("samples", "epochs"):
        others = [name for name in varying if name != factor]
        for _, runs in known.groupby(others, dropna=False, sort=False) if others else [((), known)]:
            last = runs[runs[factor] == runs[factor].max()]
            ratio = last[factor].iloc[0] / runs[factor].where(runs[factor] > 0)
            half = runs[ratio.between(*DOUBLED)]
            half = half[half[factor] == half[factor].max()]
            if half.empty:
                continue
            repeated = len(half) > 1 and len(last) > 1
            found.append(
                Doubling(
                    label=_label(others, last.iloc[0]),
                    factor=factor,
                    start=float(half[factor].iloc[0]),
                    end=float(last[factor].iloc[0]),
                    added_kwh=float(last["energy_"].mean() - half["energy_"].mean()),
                    gain=float(last["gain_"].mean() - half["gain_"].mean()),
                    spread=math.sqrt(half["gain_"].var() / len(half) + last["gain_"].var() / len(last))
                    if repeated
                    else None,
                )
            )
    return tuple(found)


def _rows(known: pd.DataFrame, measure: Measure) -> tuple[Gain, ...]:
    apart = measure.outcome == "loss" and "data" in known
    varying = _varying(known)
    groups = known.groupby(varying, dropna=False, sort=False) if varying else [((), known)]
    rows = [
        Gain(
            label=_label(varying, runs.iloc[0]),
            among=str(runs["data"].iloc[0]) if apart and pd.notna(runs["data"].iloc[0]) else "",
            runs=len(runs),
            energy_kwh=float(runs["energy_"].mean()),
            before=float(runs["before_"].mean()),
            gain=float(runs["gain_"].mean()),
            low=float(runs["gain_"].min()),
            high=float(runs["gain_"].max()),
        )
        for _, runs in groups
    ]
    rows.sort(key=lambda row: (row.energy_kwh, -row.gain))
    best: dict[str, float] = {}
    marked = []
    for row in rows:
        marked.append(replace(row, on_front=row.gain > best.get(row.among, 0.0)))
        best[row.among] = max(best.get(row.among, 0.0), row.gain)
    return tuple(marked)


def _varying(known: pd.DataFrame) -> list[str]:
    """Return the settings that tell the combinations apart; what follows from the model and method needs no name."""
    varying = [name for name in _SETTINGS if name in known and known[name].nunique(dropna=False) > 1]
    named = [name for name in ("model", "method") if name in varying]
    groups = known.groupby(named, dropna=False) if named else None
    return [
        name
        for name in varying
        if groups is None or name in (*named, "samples", "epochs") or groups[name].nunique(dropna=False).max() > 1
    ]


def _label(varying: list[str], run: pd.Series) -> str:
    """Write the settings of a run; those that it does not have are left out."""
    pairs = [(name, run[name]) for name in varying if pd.notna(run[name])]
    return ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in pairs)
