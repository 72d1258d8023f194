"""Suspicious rows and confounded designs, found before anything is fitted and reported by run id."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import fdtrc, ndtr

from lora_scaling.units import JOULES_PER_KWH

from ..arrays import Array
from .parsing import RunWarning

UNIT_FACTORS = {
    1000.0: "Wh for kWh",
    3.6: "MJ for kWh",
    3600.0: "kJ for kWh",
    1e6: "mWh or another factor of a million",
    JOULES_PER_KWH: "J for kWh",
}
UNIT_TOLERANCE = 0.25  # in logs, besides the noise of the rest
MAX_FLOPS_PER_JOULE = 1e13  # FLOPs a joule buys: the best accelerator of 2026 stays below 5e12
MOST_OF_ORDER, ONE_SIDED = 0.5, 0.9
POWER_RANGE_W = (0.5, 5000.0)  # per device, all components
DEVICES_OF_A_NODE = 8  # where their number is unknown
GROUP_NOUNS = {"hardware": "device", "data": "data set", "gpu_count": "number of devices", "work_settings": "settings"}
MIXED_COLUMNS = {
    "hardware": ("mixed_hardware", "hardware"),
    "energy_source_gpu": ("mixed_energy_source", "GPU energy sources"),
    "energy_source_cpu": ("mixed_energy_source", "CPU energy sources"),
    "energy_source_ram": ("mixed_energy_source", "RAM energy sources"),
}


def check_rows(frame: pd.DataFrame) -> list[RunWarning]:
    """Warnings on single rows and on the mixture of rows; `frame` as `choose_response` returns it."""
    if frame.empty:
        return []
    found = [*_mixtures(frame), *_impossible(frame), *_coarse(frame)]
    suspects = unit_suspects(frame)
    for factor, ids in suspects.items():
        shown = ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")
        message = (
            f"{'Run' if len(ids) == 1 else 'Runs'} {shown} {'is' if len(ids) == 1 else 'are'} a factor of "
            f"about {factor:g} away from the rest ({UNIT_FACTORS[factor]}?): correct the unit, or leave "
            "the row out with --exclude."
        )
        found.append(RunWarning(kind="unit", message=message, run_ids=tuple(ids)))
    return found


def suspicious(warnings: Sequence[RunWarning], runs: int) -> tuple[str, ...]:
    """Run ids whose unit is in doubt; none where that is the whole table's: a shape has no unit."""
    ids = tuple(dict.fromkeys(i for warning in warnings if warning.kind == "unit" for i in warning.run_ids))
    return ids if len(ids) < 0.5 * runs else ()


def group_noun(column: str) -> str:
    """Return what the runs are grouped by, in sentences, where they differ in a column."""
    return GROUP_NOUNS.get(column, column.replace("_", " "))


def doubt_about(rows: pd.DataFrame, suspects: Sequence[str]) -> str | None:
    """Say that the unit of some of the rows that a claim uses is in doubt; None if no suspect is among them."""
    touched = [run_id for run_id in suspects if (rows["run_id"] == run_id).any()] if suspects else []
    if not touched:
        return None
    shown = ", ".join(touched[:5]) + (" …" if len(touched) > 5 else "")
    return f"the unit of run {shown} is in doubt: correct it, or leave it out with --exclude"


def _mixtures(frame: pd.DataFrame) -> list[RunWarning]:
    found = []
    for column, (kind, noun) in MIXED_COLUMNS.items():
        values = frame[column].dropna()
        if values.nunique() > 1:
            names = ", ".join(sorted(map(str, values.unique()))[:6])
            message = f"The table mixes {noun} ({names}): compared only within each."
            found.append(RunWarning(kind=kind, message=message))
    not_alone = frame["run_id"][frame["exclusive"].map(lambda flag: flag is False)]
    if len(not_alone):
        message = f"{len(not_alone)} runs shared their device with other work; their energy is not theirs alone."
        found.append(RunWarning(kind="not_exclusive", message=message, run_ids=tuple(not_alone)))
    return found


def _implied_power(frame: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return bounds (n,) of each run's mean power in W: at most, and at least; NaN where its time is unknown.

    The whole energy over the training time alone is more than the power, because the energy holds the set-up. Set-up
    took no more than the cheapest run did in all, so what a run took beyond that is a lower bound.
    """
    joules = frame["energy_kwh"] * JOULES_PER_KWH
    whole, train = (frame[name].where(frame[name] > 0) for name in ("total_s", "train_s"))
    at_most = joules / whole.fillna(train)
    beyond = ((joules - joules.min()) / train).where(whole.isna(), joules / whole)
    trained = (frame["energy_train_kwh"] * JOULES_PER_KWH / train).where(whole.isna())
    return trained.fillna(at_most), trained.fillna(beyond)


def _impossible(frame: pd.DataFrame) -> list[RunWarning]:
    """Find a whole table in the wrong unit by what it implies: FLOPs per joule, or watts."""
    joules = frame["energy_kwh"] * JOULES_PER_KWH
    at_most, at_least = _implied_power(frame)
    count = frame["gpu_count"].clip(lower=1)
    found = []
    low, high = at_most / count.fillna(1), at_least / count.fillna(DEVICES_OF_A_NODE)
    strange = (low < POWER_RANGE_W[0]) | (high > POWER_RANGE_W[1])
    if strange.any():
        power = low.where(low < POWER_RANGE_W[0], high)
        message = (
            f"Energy ÷ time implies {power[strange].median():.3g} W per device in {int(strange.sum())} runs, "
            "which no device draws: is `energy_kwh` in kWh?"
        )
        found.append(RunWarning(kind="unit", message=message, run_ids=tuple(frame["run_id"][strange])))
    efficient = frame["flops"] / joules > MAX_FLOPS_PER_JOULE
    if efficient.any():
        message = (
            f"FLOPs ÷ energy implies more work per joule than any device does in {int(efficient.sum())} "
            "runs: is `energy_kwh` in kWh, and `flops` right?"
        )
        found.append(RunWarning(kind="unit", message=message, run_ids=tuple(frame["run_id"][efficient])))
    return found


def _coarse(frame: pd.DataFrame) -> list[RunWarning]:
    """Warn that readings move in steps of more than 2 % of the smallest."""
    coarse = frame[frame["y_step"] > 0]
    if coarse.empty:
        return []
    step, smallest = coarse["y_step"].max(), coarse["y"].min()
    message = (
        f"The readings move in steps of {step:.3g}, {100 * step / smallest:.0f} % of the smallest run: "
        "small runs are known only that well, and count for less."
    )
    return [RunWarning(kind="coarse_meter", message=message)]


def unit_suspects(frame: pd.DataFrame) -> dict[float, list[str]]:
    """Runs whose response lies a unit's factor away from a robust line through the others.

    A factor of 3.6 can also be real: it counts only against repeats of the same work.
    """
    rest = _robust_residuals(frame)
    if rest is None:
        return {}
    spread = 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
    log_y = pd.Series(np.log(frame["y"]))
    level = frame.groupby(["samples", "epochs", "samples_seen", *_known(frame)], dropna=False).ngroup()
    mates = (log_y - log_y.groupby(level).transform("median")).abs().to_numpy()
    several = level.groupby(level).transform("size").to_numpy() >= 3
    found: dict[float, list[str]] = {}
    for factor in UNIT_FACTORS:
        if factor > 100:
            near = (np.abs(np.abs(rest) - np.log(factor)) < UNIT_TOLERANCE) & (np.abs(rest) > 8 * spread)
        else:
            near = several & (np.abs(mates - np.log(factor)) < 0.05)
        if near.any() and near.mean() < 0.5:
            found[factor] = list(frame["run_id"][near])
    return found


def _known(frame: pd.DataFrame) -> list[str]:
    return [name for name in ("model", "method", "rank", "hardware") if frame[name].notna().any()]


def _robust_residuals(frame: pd.DataFrame) -> Array | None:
    """Residuals of log y about a repeated-median line in log samples seen; None with too few runs.

    Rows of zero steps are compared with their own median: they carry no work.
    """
    y = np.log(frame["y"].to_numpy(dtype=float))
    seen = frame["samples_seen"].to_numpy(dtype=float)
    trained = seen > 0
    if trained.sum() < 5:
        return None
    rest = np.zeros(len(y))
    columns = _known(frame)
    cells = frame.groupby(columns, dropna=False).ngroup().to_numpy() if columns else np.zeros(len(y), int)
    for cell in np.unique(cells):
        rows = np.flatnonzero((cells == cell) & trained)
        if len(rows) >= 5:
            rest[rows] = _repeated_median(np.log(seen[rows]), y[rows])
        idle = np.flatnonzero((cells == cell) & ~trained)
        if len(idle) >= 3:
            rest[idle] = y[idle] - np.median(y[idle])
    return rest


def _repeated_median(x: Array, y: Array) -> Array:
    """Residuals about Siegel's repeated-median line (half of the rows may be wrong)."""
    pick = np.arange(len(x))
    if len(x) > 300:  # quadratic cost; an even selection shows the line as well
        pick = np.unique(np.linspace(0, len(x) - 1, 300).astype(int))
    dx, dy = np.subtract.outer(x[pick], x[pick]), np.subtract.outer(y[pick], y[pick])
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(np.abs(dx) > 1e-9, dy / dx, np.nan)
    usable = ~np.all(np.isnan(slopes), axis=1)
    slope = float(np.median(np.nanmedian(slopes[usable], axis=1))) if usable.any() else 0.0
    line = y - slope * x
    return line - np.median(line)


def rank_correlation(a: Sequence[float] | Array, b: Sequence[float] | Array) -> float:
    """Spearman's ρ over the pairs that are both known; NaN where one of them is constant or too few."""
    frame = pd.DataFrame({"a": np.asarray(a, dtype=float), "b": np.asarray(b, dtype=float)}).dropna()
    if len(frame) < 4 or frame["a"].nunique() < 2 or frame["b"].nunique() < 2:
        return float("nan")
    return float(frame["a"].rank().corr(frame["b"].rank()))


def apart_in_time(position: pd.Series, level: pd.Series) -> float | None:
    """Return the share of the run order that `level` explains if its levels were run apart, else None.

    Apart, and not by chance: levels explain most of the order (analysis of variance on ranks, which unlike Kruskal and
    Wallis's χ² holds for two runs of each level: Iman and Davenport 1976), or all but a few runs of one level lie on
    one side of the others (Mann and Whitney). Levels made in blocks, in whatever order, differ by whatever changed
    between the blocks.
    """
    known = position.notna() & level.notna()
    place, level = position[known].rank(), level[known]
    n, levels = len(place), level.nunique()
    if levels < 2 or n - levels < 3 or place.nunique() < 2:
        return None
    groups = place.groupby(level)
    between = groups.transform("mean") - place.mean()
    share = float((between**2).sum() / ((place - place.mean()) ** 2).sum())
    ratio = share / max(1 - share, 1e-12) * (n - levels) / (levels - 1)
    if share > MOST_OF_ORDER and float(fdtrc(levels - 1, n - levels, ratio)) < 0.01:
        return share
    size = groups.size().to_numpy(dtype=float)
    lead = np.abs(groups.mean().to_numpy() - (n + 1) / 2)  # of the mean rank; n/2 − size/2 where all lie on one side
    sided = lead / ((n - size) / 2)
    z = lead / np.sqrt((n - size) * (n + 1) / (12 * size))
    p = levels * 2 * ndtr(-z)
    return share if bool(np.any((sided > ONE_SIDED) & (p < 0.01))) else None
