"""What disturbed single runs, or all of them bit by bit: outliers and drift, looked for in every table.

A verdict's own analysis looks for both, but only where a design can decide that claim. Here every run is judged,
whatever the table was made for: against the curve over samples and epochs where three amounts of work were run,
else against runs of the same work. Ranks share a curve (their effect is a slope in log rank), so that a rank
made on another day does not pass for its own effect.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr
from statsmodels.regression.linear_model import OLS

from .curve_analysis import (
    CurveDesign,
    analyse,
    build_design,
    cells_of,
    curve_data,
    log_size,
    robust_residuals,
    tangent_basis,
    variance_slope,
)
from .least_squares import Array, span
from .power_law import CurveData, CurveFit, fit_curve

OUTLIER_P = 0.01  # Bonferroni over the runs
SMALLEST_OUTLIER = math.log(1.02)  # what lies closer disturbs nothing, however exact the rest is
MOST_OUTLIERS = 3
DRIFT_P = 0.02
EXACT_UP_TO = 3000  # runs: beyond, leverage stands for refitting without a run


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A run that took `ratio` times what the others lead to expect; p is Bonferroni over the runs."""

    run_id: str
    ratio: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Residuals that follow the run order: their partial correlation and its p, and last ÷ first along the trend."""

    correlation: float
    ratio: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Disturbances:
    """What was found, the most extreme outlier first."""

    outliers: tuple[Outlier, ...] = ()
    drift: Drift | None = None


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """n runs on curves over the work; `calm` leaves out what drift and sessions explain: drift is looked for there."""

    rows: NDArray[np.intp]
    level: NDArray[np.intp]
    data: CurveData
    calm: CurveData

    def worst(self, live: NDArray[np.bool_]) -> tuple[int, float, float, int]:
        """Find the run whose deletion helps most: its row, shift of log E, t, and the degrees of freedom of t.

        t is the smaller of two: at equal scatter, and at scatter that grows with size as that of the others does.
        """
        data = self.data.subset(live)
        fit = fit_curve(data)
        basis = tangent_basis(fit)
        df = len(data.log_y) - basis.shape[1]
        deleted = _studentised(fit.resid, np.sum(basis**2, axis=1), df)
        near = {int(np.argmax(np.abs(deleted)))}
        if len(deleted) <= EXACT_UP_TO:  # a gross one bends the curve towards itself
            near |= {int(i) for i in np.argsort(-np.abs(robust_residuals(fit)))[:2]}
        found = [(i, *_without(data, fit, i, df)) for i in near]
        i, shift, t = max(found, key=lambda item: abs(item[2]))
        others = np.arange(len(deleted)) != i
        rest = fit_curve(data.subset(others))
        _, slope = variance_slope(rest, self.level[live][others])
        size = log_size(replace(rest, data=data))
        weighted = replace(data, weights=np.exp(-slope * (size - size.mean())))
        again = _without(weighted, fit_curve(weighted), i, df)[1]
        return int(np.flatnonzero(live)[i]), shift, min(t, again, key=abs), df - 1

    def residuals_vs_order(self, place: Array, live: NDArray[np.bool_]) -> tuple[Array, Array, int]:
        """Return residuals, what is left of `place` beside the curve (both in units of the noise), and the df."""
        data = self.calm.subset(live)
        fit = fit_curve(data)
        basis = tangent_basis(fit)
        df = len(data.log_y) - basis.shape[1]
        root = np.sqrt(data.weights)
        left = root * place[live]
        noise = math.sqrt(fit.rss / df) if df > 0 and fit.rss > 1e-14 else math.inf
        return root * fit.resid / noise, (left - basis @ (basis.T @ left)) / noise, df


@dataclass(frozen=True, kw_only=True)
class _Repeats:
    """n runs compared with those of the same work (`level`), and over ranks along `columns`."""

    rows: NDArray[np.intp]
    log_y: Array
    level: NDArray[np.intp]
    columns: Array

    def _model(self, live: NDArray[np.bool_]) -> tuple[Array, NDArray[np.intp], Array]:
        level = pd.factorize(self.level[live])[0]
        count = np.bincount(level)
        basis = span(_within(self.columns[live], level, count))
        resid = _within(self.log_y[live, None], level, count)
        return (resid - basis @ (basis.T @ resid))[:, 0], level, basis

    def worst(self, live: NDArray[np.bool_]) -> tuple[int, float, float, int]:
        """As of a curve."""
        resid, level, basis = self._model(live)
        count = np.bincount(level)
        df = len(resid) - len(count) - basis.shape[1]
        leverage = 1 / count[level] + np.sum(basis**2, axis=1)
        deleted = _studentised(resid, leverage, df)
        i = int(np.argmax(np.abs(deleted)))
        return int(np.flatnonzero(live)[i]), float(resid[i] / max(1 - leverage[i], 1e-9)), float(deleted[i]), df - 1

    def residuals_vs_order(self, place: Array, live: NDArray[np.bool_]) -> tuple[Array, Array, int]:
        """As of a curve."""
        resid, level, basis = self._model(live)
        count = np.bincount(level)
        left = _within(place[live, None], level, count)[:, 0]
        df = len(resid) - len(count) - basis.shape[1]
        rss = float(resid @ resid)
        noise = math.sqrt(rss / df) if df > 0 and rss > 1e-14 else math.inf
        return resid / noise, (left - basis @ (basis.T @ left)) / noise, df


def find_disturbances(frame: pd.DataFrame) -> Disturbances:
    """Find outliers and drift in `frame` as `choose_response` returns it; none if the runs are too few."""
    if len(frame) < 6:
        return Disturbances()
    frame = frame.reset_index(drop=True)
    design = _design(frame)
    parts = [part for part in (_on_curves(design), _on_repeats(frame, design)) if part is not None]
    live = np.ones(len(frame), dtype=bool)
    outliers: list[Outlier] = []
    for part in parts:
        found = _outliers(part, len(frame))
        outliers += [Outlier(run_id=str(frame["run_id"][row]), ratio=ratio, p=p) for row, ratio, p in found]
        live[[row for row, _, _ in found]] = False
    place = frame["position"].to_numpy(dtype=float)
    return Disturbances(
        outliers=tuple(sorted(outliers, key=lambda o: o.p)[:MOST_OUTLIERS]), drift=_drift(parts, place, live)
    )


def _design(frame: pd.DataFrame) -> CurveDesign:
    """Select the runs in whose cell (ranks together) three amounts of work were run; `row`: their place in `frame`."""
    frame = frame.assign(row=np.arange(len(frame)))
    design = build_design(frame, without=("rank",))
    if len(design.factors) < 2:
        return design
    trained = design.trained
    r = np.corrcoef(np.log(trained["samples"]), np.log(trained["epochs_seen"]))[0, 1]
    if abs(r) <= 0.95:
        return design
    # One of the two cannot be told from the other: the work stands for both.
    work = frame["samples_seen"].where(frame["samples_seen"] > 0, frame["samples"])
    return build_design(frame.assign(samples=work, epochs=1.0), without=("rank",))


def _on_curves(design: CurveDesign) -> _Curve | None:
    if design.frame.empty or not design.factors:
        return None
    if len(design.frame) - len(design.factors) - 2 * (int(design.frame["cell"].max()) + 1) < 5:
        return None
    analysis = analyse(design, per_token=True)
    design = analysis.design
    ranks = _rank_column(design.frame)

    def data(*, drift: bool, sessions: bool) -> CurveData:
        plain = curve_data(design, "y", drift=drift, per_token=True, sessions=sessions)
        return replace(plain, nuisance=np.concatenate([plain.nuisance, ranks], axis=1))

    return _Curve(
        rows=design.frame["row"].to_numpy(dtype=np.intp),
        level=design.level,
        data=data(drift=analysis.drift, sessions=True),
        calm=replace(data(drift=False, sessions=False), weights=analysis.fit.data.weights),
    )


def _on_repeats(frame: pd.DataFrame, design: CurveDesign) -> _Repeats | None:
    """Select the other runs, if some repeat the same work."""
    rest = frame.drop(index=design.frame["row"].to_numpy(dtype=int))
    if len(rest) < 6:
        return None
    keys = rest.assign(cell=cells_of(rest, without=("rank",)))
    level = keys.groupby(["cell", "samples", "epochs", "samples_seen"], dropna=False).ngroup()
    level = np.asarray(level, dtype=np.intp)
    return _Repeats(
        rows=rest.index.to_numpy(dtype=np.intp),
        log_y=np.log(rest["y"].to_numpy(dtype=float)),
        level=level,
        columns=_rank_column(rest),
    )


def _rank_column(frame: pd.DataFrame) -> Array:
    """Return the log of the LoRA rank about its mean (n, 1); 0 for runs without one."""
    rank = np.log2(frame["rank"].where(frame["rank"] > 0).astype(float))
    return (rank - rank.mean()).fillna(0.0).to_numpy()[:, None]


def _within(columns: Array, level: NDArray[np.intp], count: NDArray[np.intp]) -> Array:
    means = np.column_stack([np.bincount(level, column, len(count)) / count for column in columns.T])
    return columns - means[level]


def _studentised(resid: Array, leverage: Array, df: int) -> Array:
    """Return externally studentised residuals (n,): each over the scatter without it (Cook and Weisberg 1982).

    statsmodels has them for designs whose degrees of freedom are n − k; here groups and boundaries take some.
    """
    own = np.maximum(1 - leverage, 1e-9)
    rest = np.maximum(float(resid @ resid) - resid**2 / own, 1e-18)
    t = resid * np.sqrt(max(df - 1, 0) / (rest * own))
    return np.where(leverage < 1 - 1e-6, t, 0.0)


def _without(data: CurveData, fit: CurveFit, row: int, df: int) -> tuple[float, float]:
    """Return the shift of one run from the curve of the others, and its t: that row gets a constant of its own."""
    if len(data.log_y) > EXACT_UP_TO:
        leverage = np.sum(tangent_basis(fit) ** 2, axis=1)
        return float(fit.resid[row]), float(_studentised(np.sqrt(data.weights) * fit.resid, leverage, df)[row])
    own = np.zeros((len(data.log_y), 1))
    own[row] = 1.0
    free = replace(data, nuisance=np.concatenate([data.nuisance, own], axis=1))
    rest = fit_curve(free)
    root = np.sqrt(data.weights)
    raw = root * (data.log_y - log_size(rest))
    shift = float(np.linalg.lstsq(root[:, None] * free.nuisance, raw, rcond=1e-9)[0][-1])
    gain = max(fit.rss - rest.rss, 0.0)
    return shift, math.copysign(math.sqrt(gain * max(df - 1, 0) / max(rest.rss, 1e-18)), shift)


def _outliers(part: _Curve | _Repeats, runs: int) -> list[tuple[int, float, float]]:
    """Return (row of the table, ratio, p) of each outlier: extreme runs are deleted one by one, then judged together.

    As many as the last that stands out from what is left (Rosner 1983): two of a kind do not hide each other.
    """
    live = np.ones(len(part.rows), dtype=bool)
    found: list[tuple[int, float, float]] = []
    last = 0
    for _ in range(max(1, min(MOST_OUTLIERS, len(part.rows) // 8))):
        i, shift, t, df = part.worst(live)
        if df < 3:
            break
        p = min(1.0, 2 * runs * float(stdtr(df, -abs(t))))
        found.append((int(part.rows[i]), math.exp(np.clip(shift, -50, 50)), p))
        if p < OUTLIER_P and abs(shift) > SMALLEST_OUTLIER:
            last = len(found)
        live[i] = False
    return found[:last]


def _drift(parts: list[_Curve | _Repeats], place: Array, live: NDArray[np.bool_]) -> Drift | None:
    """Test the partial correlation of log E with the run order, given the curve: a design in order is no drift."""
    if np.isnan(place).any() or np.ptp(place) == 0:
        return None
    place = (place - place.min()) / float(np.ptp(place))
    found = [part.residuals_vs_order(place[part.rows], live[part.rows]) for part in parts]
    found = [(resid, left, df) for resid, left, df in found if df > 0 and np.any(resid)]
    if not found:
        return None
    resid, left = (np.concatenate([item[k] for item in found]) for k in (0, 1))
    df = sum(item[2] for item in found) - 1
    if df < 4 or float(left @ left) <= 0:
        return None
    model = OLS(resid, left)  # no constant: both are about zero
    model.df_resid = df
    trend = model.fit()
    p, slope = float(trend.pvalues[0]), float(trend.params[0])
    if not p < DRIFT_P:
        return None
    correlation = math.copysign(math.sqrt(trend.rsquared), slope)
    return Drift(correlation=correlation, ratio=math.exp(np.clip(slope, -50, 50)), p=p)
