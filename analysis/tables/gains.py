"""Set what runs learned against the energy that they took: one row for each combination of settings."""

from dataclasses import dataclass

import pandas as pd

from lora_scaling.settings import SETTINGS

_SETTINGS = tuple(
    s.column for s in SETTINGS if s.column and s.changes in ("work", "learning", "device") and s.name != "seed"
)
# What a gain is counted in, as (columns before and after, factor to points, noun); the first that runs have is taken.
_MEASURES = (
    ("score_before", "score_after", 1.0, "points on the tasks"),
    ("eval_accuracy_before", "eval_accuracy_after", 100.0, "points of accuracy on held-out answer tokens"),
)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The mean gain and energy of the runs of one combination of settings.

    label: the settings in which the combinations differ. energy_kwh: without scoring. low, high: the smallest and
    largest gain. on_front: no combination that took less energy gained as much.
    """

    label: str
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
    """Gains of all combinations, the cheapest first, and what they are counted in."""

    noun: str
    rows: tuple[Gain, ...]

    @property
    def replicated(self) -> bool:
        """Whether some combination was run more than once, so that its gains show how much is chance."""
        return any(row.runs > 1 for row in self.rows)


def gains_of(frame: pd.DataFrame) -> Gains | None:
    """Return what the runs of a table gained; None if no run has both an energy and a score before and after."""
    for before, after, factor, noun in _MEASURES:
        if not {before, after, "energy_kwh"} <= set(frame.columns):
            continue
        known = frame[frame[[before, after, "energy_kwh"]].notna().all(axis=1)]
        scoring = known["energy_score_kwh"].fillna(0.0) if "energy_score_kwh" in known else 0.0
        known = known.assign(
            before_=factor * known[before],
            gain_=factor * (known[after] - known[before]),
            energy_=known["energy_kwh"] - scoring,
        )
        known = known[known["energy_"] > 0]
        if len(known):
            return Gains(noun=noun, rows=_rows(known))
    return None


def _rows(known: pd.DataFrame) -> tuple[Gain, ...]:
    columns = [name for name in _SETTINGS if name in known]
    varying = [name for name in columns if known[name].nunique(dropna=False) > 1]
    groups = known.groupby(varying, dropna=False, sort=False) if varying else [((), known)]
    rows = [
        Gain(
            label=_label(varying, runs.iloc[0]),
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
    best, marked = 0.0, []
    for row in rows:
        marked.append(Gain(**{**row.__dict__, "on_front": row.gain > best}))
        best = max(best, row.gain)
    return tuple(marked)


def _label(varying: list[str], run: pd.Series) -> str:
    """Write the settings of a run; those that it does not have are left out."""
    pairs = [(name, run[name]) for name in varying if pd.notna(run[name])]
    return ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in pairs)
