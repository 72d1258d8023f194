"""From a frame of runs to a diagnosed curve: cells, gates, noise, outliers and drift.

The steps follow the order of deciding: gates first, then the curve, then what could make it wrong.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import root_scalar
from scipy.special import chdtrc, fdtrc, stdtr
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.diagnostic import het_breuschpagan

from lora_scaling.claim_defaults import MIN_LEVELS, MIN_RANGE
from lora_scaling.records.timeline import COMPONENTS
from lora_scaling.settings import SEPARATING_COLUMNS

from ..tables.checks import apart_in_time, rank_correlation
from .estimate import IntervalEstimate
from .least_squares import Array, span
from .power_law import CurveData, CurveFit, Profile, fit_curve, log_energy
from .sessions import (
    LEAST_WITHIN_SESSIONS,
    linked_parts,
    placed_in_sessions,
    session_columns,
    sessions_counted_once,
    without_lone_runs,
)

# Runs that differ in one of these are in different cells.
CELL_COLUMNS = (*SEPARATING_COLUMNS, "work_settings", *(f"energy_source_{name}" for name in COMPONENTS))
MIN_REPLICATED = 3
MAX_FACTOR_CORRELATION, MAX_ORDER_CORRELATION = 0.9, 0.7
OUTLIER_MADS = 6.0
DIAGNOSTIC_P = 0.01
LEAST_STEPS = 3  # of a meter: with less, rounding is no small noise on the log scale, and readings of 0 are missing
LEAST_NOISE = 1e-3  # relative: no meter and no run is steadier
APART_P = 0.05  # of costs per sample or per epoch, and of runs of zero steps that lie off the curve
SURELY_APART_P = 0.001  # of the latter: between the two, an interval covers the curves with and without them
EXACT, BOUNDARY = 1e-14, 1e-9  # a sum of squares of logs that is rounding; a share that is none
LEAST_LEVELS_APART = 8  # of samples × epochs in one cell, for the six parameters of the curve with costs apart


@dataclass(frozen=True, kw_only=True)
class CurveDesign:
    """The runs a curve is fitted to (`frame`, with `cell` numbers) and what was varied of samples, epochs.

    `unresolved` counts the runs left out because their meter hardly sees them.
    """

    frame: pd.DataFrame
    factors: tuple[str, ...]
    unresolved: int = 0

    @cached_property
    def trained(self) -> pd.DataFrame:
        """The runs that made optimizer steps."""
        return self.frame[self.frame["samples_seen"] > 0]

    @cached_property
    def level(self) -> NDArray[np.intp]:
        """Number (n,) of the level, cell × samples × epochs, that each run repeats; zero-step runs alike."""
        shown = self.frame["samples_seen"] > 0
        keys = pd.DataFrame(
            {
                "cell": self.frame["cell"],
                "samples": self.frame["samples"].where(shown, 0),
                "epochs": self.frame["epochs_seen"].where(shown, 0),
            }
        )
        return np.asarray(keys.groupby(["cell", "samples", "epochs"]).ngroup(), dtype=np.intp)

    @cached_property
    def _compared(self) -> Any:
        """The trained runs, grouped by cell and by what sessions link: only these differ by nothing but their work."""
        trained = (self.frame["samples_seen"] > 0).to_numpy()
        linked = linked_parts(self.frame, self.level)
        return self.trained.groupby([self.trained["cell"].to_numpy(), linked[trained]])

    def levels(self, factor: str) -> int:
        """Return the most distinct values of a factor that were run with everything else equal."""
        return int(self._compared[factor].nunique().max()) if len(self.trained) else 0

    def range(self, factor: str) -> float:
        """Return the largest ratio of a factor's ends among runs with everything else equal."""
        if not len(self.trained):
            return 1.0
        return float((self._compared[factor].max() / self._compared[factor].min()).max())

    def replicated_levels(self, factor: str) -> int:
        """Count the values of the factor at which some work was repeated."""
        counts = self.trained.groupby(["cell", "samples", "epochs_seen"])["y"].size()
        return int(counts[counts > 1].reset_index()[{"samples": "samples", "epochs": "epochs_seen"}[factor]].nunique())


def cells_of(frame: pd.DataFrame, without: tuple[str, ...] = ()) -> NDArray[np.intp]:
    """Number (n,) the cells: runs alike in everything but samples and epochs share one."""
    columns = [name for name in CELL_COLUMNS if name not in without and frame[name].notna().any()]
    if not columns or frame.empty:
        return np.zeros(len(frame), dtype=np.intp)
    keys = frame[columns].apply(lambda column: pd.factorize(column.astype(object))[0])
    return np.asarray(keys.groupby(columns).ngroup(), dtype=np.intp)


def build_design(frame: pd.DataFrame, without: tuple[str, ...] = ()) -> CurveDesign:
    """Keep the cells in which at least three amounts of work were run; fixed effects join them.

    The columns `without` separate no cells.
    """
    frame = frame.assign(
        cell=cells_of(frame, without),
        epochs_seen=_epochs_seen(frame),
        work=frame["samples_seen"].round(6),
    )
    seen = _resolved(frame)
    unresolved, frame = int((~seen).sum()), frame[seen]
    trained = frame[frame["samples_seen"] > 0]
    amounts = trained.groupby("cell")[["samples", "epochs_seen"]].apply(lambda g: len(g.drop_duplicates()))
    keep = frame["cell"].isin(list(amounts[amounts >= 3].index)) if len(amounts) else frame["cell"] < 0
    frame = frame[keep].copy()
    frame["cell"] = pd.factorize(frame["cell"])[0]
    trained = frame[frame["samples_seen"] > 0]
    factors = tuple(
        name
        for name, column in (("samples", "samples"), ("epochs", "epochs_seen"))
        if len(trained) and trained.groupby("cell")[column].nunique().max() > 1
    )
    return CurveDesign(frame=frame.reset_index(drop=True), factors=factors, unresolved=unresolved)


def _resolved(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which runs (n,) are of levels that read LEAST_STEPS of their meter or more on average."""
    if frame.empty or not (frame["y_step"] > 0).any():
        return np.ones(len(frame), dtype=bool)
    work = [frame[name].where(frame["samples_seen"] > 0, 0) for name in ("samples", "epochs_seen")]
    level = frame["y"].groupby([frame["cell"], *work]).transform("mean")
    return (level >= LEAST_STEPS * frame["y_step"]).to_numpy()


def by_session(design: CurveDesign) -> CurveDesign:
    """Count each session once that holds one level, if sessions were replicated; leave out the few lone runs."""
    frame = design.frame.assign(level=design.level)
    frame = sessions_counted_once(frame, ["level"], ["y", "y_measured"])
    frame = without_lone_runs(frame, ["level"])
    return replace(design, frame=frame.drop(columns="level"))


def _epochs_seen(frame: pd.DataFrame) -> pd.Series:
    """Return the epochs really done: those asked for, unless more than 1 % was not done (early stop)."""
    done = frame["samples_seen"] / frame["samples"].where(frame["samples"] > 0)
    close = (done - frame["epochs"]).abs() <= 0.01 * frame["epochs"]
    return frame["epochs"].where(close | (frame["samples_seen"] == 0), done)


def relative_length(frame: pd.DataFrame) -> Array | None:
    """Return the log of tokens per sample as processed, padding included, about the mean (n,); 0 for zero steps.

    None where tokens are not known for all runs. `tokens_padded` counts padding alone.
    """
    shown = frame["samples_seen"].to_numpy(dtype=float)
    trained = shown > 0
    tokens = (frame["tokens_seen"] + frame["tokens_padded"].fillna(0)).to_numpy(dtype=float)
    if not trained.any() or not (tokens[trained] > 0).all() or not np.isfinite(tokens[trained]).all():
        return None
    length = np.zeros(len(frame))
    length[trained] = np.log(tokens[trained] / shown[trained])
    length[trained] -= length[trained].mean()
    return length


def curve_data(
    design: CurveDesign, y: str, drift: bool, per_token: bool = False, *, sessions: bool = True
) -> CurveData:
    """Build the arrays of a design for the response column `y`; `per_token` counts samples at equal length.

    `drift` and `sessions` say whether these may shift a run.
    """
    frame = design.frame
    zero = (frame["samples_seen"] <= 0).to_numpy()
    columns = {"samples": "samples", "epochs": "epochs_seen"}
    with np.errstate(divide="ignore"):
        log_x = np.log(np.column_stack([frame[columns[name]].to_numpy(dtype=float) for name in design.factors]))
    length = relative_length(frame) if per_token else None
    if length is not None:  # a sample of twice the tokens counts as two, in whatever factor the design has
        log_x[:, 0] += length
    log_x[zero] = -np.inf
    cell = frame["cell"].to_numpy(dtype=np.int64)
    parts = [np.equal.outer(cell, np.arange(cell.max() + 1)).astype(float)]
    if sessions:
        parts.append(session_columns(frame))
    if drift:
        place = frame["position"].to_numpy(dtype=float)
        place = (place - place.mean()) / max(float(np.ptp(place)), 1.0)
        parts.append(np.column_stack([place, place**2]))
    return CurveData(
        log_y=np.log(frame[y].to_numpy(dtype=float)),
        log_x=log_x,
        cell=cell,
        nuisance=np.concatenate(parts, axis=1),
        weights=np.ones(len(frame)),
        zero=zero,
        once=_costs_apart(design),
        signed=True,
    )


def _costs_apart(design: CurveDesign) -> bool:
    """Whether runs tell what comes once per sample and once per epoch: both varied, with levels to spare."""
    if len(design.factors) < 2:
        return False
    levels = design.trained.groupby("cell")[["samples", "epochs_seen"]].apply(lambda g: len(g.drop_duplicates()))
    cells = int(design.frame["cell"].max()) + 1
    return int(levels.max()) >= LEAST_LEVELS_APART and len(design.frame) >= 2 * cells + LEAST_LEVELS_APART


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A fitted curve with what its diagnostics say.

    `wide` is the curve with a fixed cost of either sign, and costs per sample and per epoch if the runs can tell these;
    `fit` is the simplest one that fits as well, and `apart_p` tests the plain one, without any of these.
    `idle_p` tests runs of zero steps against the curve of the others; at p < APART_P they are left out of `design`.
    Unless that is sure (SURELY_APART_P), `with_idle` is the analysis with them, and intervals cover both: one table in
    twenty whose runs are alike comes here, and always those whose trained runs alone mislead.
    `outlier` is the row of the most extreme run beyond OUTLIER_MADS, `outlier_mads` how far off it lies.
    `order_p` tests residuals against run order, `variance_p` their spread against size (before weighting).
    `without` is the same analysis without the outlier.
    """

    design: CurveDesign
    fit: CurveFit
    wide: CurveFit
    apart_p: float | None
    idle_p: float | None
    drift: bool
    weighted: bool
    order_p: float | None
    variance_p: float | None
    outlier: int | None
    outlier_mads: float | None
    without: "Analysis | None"
    with_idle: "Analysis | None" = None

    @cached_property
    def _profiles(self) -> dict[str, Profile]:
        others = self.with_idle._profiles if self.with_idle is not None else {}
        return {
            factor: Profile(fit=self.fit, index=j, other=others.get(factor))
            for j, factor in enumerate(self.design.factors)
        }

    def profile(self, factor: str) -> Profile:
        """Return the profile likelihood of the exponent of a varied factor."""
        return self._profiles[factor]

    @cached_property
    def _wide_profiles(self) -> dict[str, Profile]:
        return {factor: Profile(fit=self.wide, index=j) for j, factor in enumerate(self.design.factors)}

    def wide_profile(self, factor: str) -> Profile:
        """Return the same on the curve with costs apart, if the runs can tell these."""
        return self.profile(factor) if self.wide is self.fit else self._wide_profiles[factor]

    @cached_property
    def trained(self) -> CurveFit:
        """The wide curve of the runs that trained, alone: whatever it costs not to train."""
        data = self.wide.data
        return fit_curve(data.subset(~data.zero)) if data.zero.any() else self.wide

    @property
    def idle_left_out(self) -> bool:
        """Whether runs of zero steps were left out, because they lie off the curve of the others."""
        return self.idle_p is not None and self.idle_p < APART_P


def analyse(design: CurveDesign, y: str = "y", per_token: bool = False) -> Analysis:
    """Test runs of zero steps, fit the curve, then look for an outlier, for unequal noise and for drift, and refit."""
    idle_p = _idle_apart(curve_data(design, y, drift=False, per_token=per_token))
    if idle_p is None or idle_p >= APART_P:
        return _analyse(design, y, per_token, idle_p, None)
    with_idle = _analyse(design, y, per_token, None, None) if idle_p >= SURELY_APART_P else None
    trained = replace(design, frame=design.trained.reset_index(drop=True))
    return _analyse(trained, y, per_token, idle_p, with_idle)


def _analyse(
    design: CurveDesign, y: str, per_token: bool, idle_p: float | None, with_idle: Analysis | None
) -> Analysis:
    """Fit the curve to the runs of a design, whatever their number of steps, and diagnose it."""
    data = curve_data(design, y, drift=False, per_token=per_token)
    fit = fit_curve(data)
    outlier, distance = _outlier(design, fit)
    clean = np.ones(len(data.log_y), dtype=bool)
    if outlier is not None:
        clean[outlier] = False
    drift, order_p = _drifts(design, fit if outlier is None else fit_curve(data.subset(clean)), clean)
    if drift:
        data = curve_data(design, y, drift=True, per_token=per_token)
        fit = fit_curve(data)
    base = fit if outlier is None else fit_curve(data.subset(clean))
    variance_p, slope = variance_slope(base, design.level[clean])
    weighted = variance_p is not None and variance_p < DIAGNOSTIC_P
    if (design.frame["y_step"] > 0).any():
        variance_p, weighted = None, False
        data = _with_rounding(design, base, data, clean)
        fit = fit_curve(data)
    elif weighted:
        size = log_size(fit)
        data = replace(data, weights=np.exp(-slope * (size - size.mean())))
        fit = fit_curve(data)

    def analysis(design: CurveDesign, fit: CurveFit, without: Analysis | None) -> Analysis:
        chosen, apart_p = _simplest(fit)
        return Analysis(
            design=design,
            fit=chosen,
            wide=fit,
            apart_p=apart_p,
            idle_p=idle_p,
            drift=drift,
            weighted=weighted,
            order_p=order_p,
            variance_p=variance_p,
            outlier=outlier if design is whole else None,
            outlier_mads=distance if design is whole else None,
            without=without,
            with_idle=with_idle if design is whole or with_idle is None else with_idle.without or with_idle,
        )

    whole, without = design, None
    if outlier is not None:
        smaller = replace(design, frame=design.frame[clean].reset_index(drop=True))
        without = analysis(smaller, fit_curve(data.subset(clean)), None)
    return analysis(whole, fit, without)


def _with_rounding(design: CurveDesign, fit: CurveFit, data: CurveData, clean: NDArray[np.bool_]) -> CurveData:
    """Weight runs by their scatter and their meter's rounding (step/√12): 1/(σ² + rounding²), in units of 1/σ².

    Where runs scatter less than half a step, repeats share the rounding, which then counts as often as they are. σ is
    that at which the residuals of `fit` to the runs `clean` are as large as expected.
    """
    y, level = np.exp(data.log_y), design.level
    repeats = np.bincount(level)[level]
    steps = design.frame["y_step"].to_numpy(dtype=float) * repeats / np.bincount(level, y)[level]
    variance, rounding = 0.0, steps**2 / 12
    for _ in range(2):
        rounding = steps**2 / 12 * np.where(math.sqrt(variance) < steps / 2, repeats, 1)
        variance = _variance_beside(rounding[clean], fit)
    return replace(data, weights=variance / (variance + rounding), least_sigma=math.sqrt(variance))


def _variance_beside(known: Array, fit: CurveFit) -> float:
    """Return the variance that all runs share beside their `known` ones (n,), by the residuals of a fit."""

    def excess(variance: float) -> float:
        return float(np.sum(fit.resid**2 / (variance + known))) - max(fit.data.df, 1)

    low, high = LEAST_NOISE**2, float(np.mean(fit.resid**2)) * len(known) / max(fit.data.df, 1) + 2 * LEAST_NOISE**2
    return low if excess(low) <= 0 else float(root_scalar(excess, bracket=(low, high)).root)


def _simplest(wide: CurveFit) -> tuple[CurveFit, float | None]:
    """Return the simplest curve that fits as well as the widest (p ≥ APART_P), and the p of the plain one.

    Simpler: without costs per sample and per epoch, or with a fixed cost of 0 or more, or both (the plain one).
    """
    data = wide.data
    below, once = int((wide.shares < -BOUNDARY).sum()), int((wide.once > BOUNDARY).sum())
    plain_p: float | None = None
    for may_once, signed in ((False, False), (False, True), (True, False)):
        spared = once * (not may_once) + below * (not signed)
        if (may_once and not once) or (signed and not below):
            continue  # the same as one before
        fit = fit_curve(replace(data, once=may_once and data.once, signed=signed))
        p = _f_test(fit.rss, wide.rss, spared, data.df) if spared else 1.0
        plain_p = p if not may_once and not signed else plain_p
        if p is None or p >= APART_P:
            return fit, plain_p
    return wide, plain_p


def _idle_apart(data: CurveData) -> float | None:
    """Test runs of zero steps against the curve of those that trained: p of a level of their own; None without any.

    Training may bring a cost that does not depend on its length and that runs without steps are spared.
    """
    if not data.zero.any() or data.zero.all():
        return None
    own = np.equal.outer(data.cell, np.unique(data.cell[data.zero])) & data.zero[:, None]
    free = replace(data, nuisance=np.concatenate([data.nuisance, own], axis=1))
    return _f_test(fit_curve(data).rss, fit_curve(free).rss, own.shape[1], free.df)


def _f_test(rss: float, rss_free: float, k: int, df: int) -> float | None:
    """Return the p of k further parameters; None where the runs are too few or exact."""
    if df < 2 or rss < EXACT:
        return None
    return float(fdtrc(k, df, max(rss - rss_free, 0.0) / k / (max(rss_free, EXACT) / df)))


def _outlier(design: CurveDesign, fit: CurveFit) -> tuple[int | None, float | None]:
    """Return row and distance (in scaled MADs) of the run farthest beyond OUTLIER_MADS; (None, None) without one.

    Repeats are the best judges: a run is first compared with the median of its level. Where a level has
    fewer than three runs, the judge is a robust curve, and the level's other run must not agree with it.
    """
    level = design.level
    shifted = fit.data.nuisance.shape[1] > fit.data.cells  # by sessions or drift: these differ within a level
    log_y = pd.Series(robust_residuals(fit) if shifted else fit.data.log_y)
    size = np.bincount(level)[level]
    from_level = (log_y - log_y.groupby(level).transform("median")).to_numpy()
    judged = size >= 3
    gaps = np.abs(from_level[judged & (from_level != 0)])
    rounding = design.frame["y_step"].to_numpy() / design.frame["y"].to_numpy()  # nothing within a step is far off
    if judged.all() and len(gaps) >= 6:
        distance = np.abs(from_level) / np.hypot(1.4826 * float(np.median(gaps)) + 1e-9, rounding)
        worst = int(np.argmax(distance))
        return (worst, float(distance[worst])) if distance[worst] > OUTLIER_MADS else (None, None)
    curve = np.abs(robust_residuals(fit))
    curve_scale = 1.4826 * float(np.median(curve)) + 1e-9
    scale = 1.4826 * float(np.median(gaps)) + 1e-9 if len(gaps) >= 6 else curve_scale
    distance = np.where(judged, np.abs(from_level) / np.hypot(scale, rounding), 0.0)
    alone = ~judged & ((size == 1) | (2 * np.abs(from_level) > OUTLIER_MADS * scale))
    distance = np.where(alone, curve / np.hypot(curve_scale, rounding), distance)
    worst = int(np.argmax(distance))
    return (worst, float(distance[worst])) if distance[worst] > OUTLIER_MADS else (None, None)


def robust_residuals(fit: CurveFit) -> Array:
    """Return residuals (n,) about a curve fitted with Huber's weights."""
    resid, data = fit.resid, fit.data
    for _ in range(8):
        scale = 1.4826 * float(np.median(np.abs(resid))) + 1e-9
        if np.abs(resid).max() < 3.5 * scale:
            break
        weights = np.minimum(1.0, 1.345 * scale / np.maximum(np.abs(resid), 1e-300))
        again = fit_curve(replace(data, weights=weights))
        if np.allclose(again.resid, resid, atol=1e-6):
            break
        resid = again.resid
    return resid


def log_size(fit: CurveFit) -> Array:
    """Return the log of the expected energy of each run within its cell (n,), up to the cell's constant."""
    return fit.log_size(fit.data.log_x, fit.data.zero, fit.data.cell)


def variance_slope(fit: CurveFit, level: NDArray[np.intp]) -> tuple[float | None, float]:
    """Koenker's studentised score test of noise variance on log size, and Harvey's slope.

    Noise is what repeats scatter by: a curve that does not fit must not pass for unequal noise. Without
    repeats to speak of the residuals of the curve have to do.
    """
    level = pd.factorize(level)[0]
    count = np.bincount(level)
    mean = np.bincount(level, fit.resid) / count
    repeated = (count > 1)[level]
    if (count - 1).sum() >= 8 and (count > 1).sum() >= 4:
        squares = (fit.resid - mean[level])[repeated] ** 2 * (count / np.maximum(count - 1, 1))[level][repeated]
        size = log_size(fit)[repeated]
        own = float((count - 1).sum() / repeated.sum())  # deviations of a level add up to 0: fewer than they look
    else:
        squares, size, own = fit.resid**2, log_size(fit), 1.0
    size = size - size.mean()
    if len(size) < 8 or squares.sum() < 1e-16 or size.std() < 1e-6:
        return None, 0.0
    statistic = het_breuschpagan(np.sqrt(squares / squares.mean()), np.column_stack([np.ones(len(size)), size]))[0]
    p = float(chdtrc(1, own * statistic))
    logs = np.log(squares + 1e-2 * squares.mean())
    slope = float(size @ logs / (size @ size))
    return p, float(np.clip(slope, -2.0, 2.0))


def _drifts(design: CurveDesign, fit: CurveFit, clean: NDArray[np.bool_]) -> tuple[bool, float | None]:
    """Whether residuals follow run order (p < 0.01), and that p; None where the order is not known."""
    place = design.frame["position"].to_numpy(dtype=float)[clean]
    if np.isnan(place).any() or len(place) < 8 or np.ptp(place) == 0 or fit.rss < 1e-14:
        return False, None
    if fit.data.df < 3:
        return False, None
    beside = fit.data.project_out(place - place.mean())
    if beside @ beside < 1e-9 * np.ptp(place) ** 2:  # the order is one with what shifts a run
        return False, None
    model = OLS(fit.resid, beside)
    model.df_resid = fit.data.df - 1
    p = float(model.fit().pvalues[0])
    return p < DIAGNOSTIC_P, p


@dataclass(frozen=True, kw_only=True)
class LackOfFit:
    """F test of a curve against pure error, and the level (mean of repeats) that lies farthest off it.

    `deviation` is relative; `se` is that of its log; `levels` is how many were looked at.
    """

    F: float
    p: float
    df: tuple[int, int]
    deviation: float
    se: float
    levels: int
    level: dict[str, float]

    def p_beyond(self, bound: float) -> float:
        """Return the one-sided p of "no level lies farther off than `bound` (relative)", Bonferroni over the levels."""
        t = (math.log1p(self.deviation) - math.log1p(bound)) / self.se
        return min(1.0, self.levels * float(stdtr(self.df[1], -t)))


def lack_of_fit(design: CurveDesign, fit: CurveFit, spent: int = 0) -> LackOfFit | None:
    """Of a curve with `spent` parameters fewer than the full one; None without repeats or levels to spare."""
    level, weights = design.level, fit.data.weights
    groups = int(level.max()) + 1
    weight = np.bincount(level, weights, groups)
    mean = np.bincount(level, weights * fit.resid, groups) / weight
    nuisance = fit.data.nuisance[:, fit.data.cells :]
    pure = np.sqrt(weights) * (fit.resid - mean[level])
    df_pure = len(level) - groups
    if nuisance.shape[1]:  # sessions and drift are not pure error
        level_means = np.column_stack([np.bincount(level, weights * c, groups) / weight for c in nuisance.T])
        centred = np.sqrt(weights)[:, None] * (nuisance - level_means[level])
        solution, _, rank, _ = np.linalg.lstsq(centred, pure, rcond=1e-9)
        pure = pure - centred @ solution
        df_pure -= int(rank)
    ss_pure = max(float(pure @ pure), df_pure * fit.data.least_sigma**2)  # repeats may share their rounding
    df_lack = fit.data.df + int((~_free(fit)).sum()) + spent - df_pure  # what lies on its boundary fits nothing
    if df_pure < 2 or df_lack < 1 or ss_pure < 1e-14:
        return None
    F = max(fit.rss - ss_pure, 0.0) / df_lack / (ss_pure / df_pure)
    worst = int(np.argmax(np.abs(mean)))
    row = design.frame.iloc[int(np.flatnonzero(level == worst)[0])]
    return LackOfFit(
        F=F,
        p=float(fdtrc(df_lack, df_pure, F)),
        df=(df_lack, df_pure),
        deviation=float(np.expm1(abs(mean[worst]))),
        se=math.sqrt(ss_pure / df_pure / weight[worst]),
        levels=groups,
        level={name: float(row[name]) for name in ("samples", "epochs", "samples_seen")},
    )


def gate(design: CurveDesign, factor: str) -> str | None:
    """Why this design cannot decide how energy depends on `factor`; None when it can."""
    trained = design.trained
    column = {"samples": "samples", "epochs": "epochs_seen"}[factor]
    levels = design.levels(column)
    if factor not in design.factors:
        return f"{factor} never varied with everything else equal"
    if levels < MIN_LEVELS:
        if trained.groupby("cell")[column].nunique().max() >= MIN_LEVELS:
            return (
                f"different numbers of {factor} were run in different sessions, whose effects look alike; at most "
                f"{levels} were run in one, or in sessions that a number run in both links, and {MIN_LEVELS} are needed"
            )
        return (
            f"only {levels} different numbers of {factor} were run with everything else equal; "
            f"{MIN_LEVELS} are needed to see a curve"
        )
    if (span := design.range(column)) < MIN_RANGE:
        return f"{factor} span only a factor {span:.3g}; a factor {MIN_RANGE:g} is needed to see a curve"
    if (repeated := design.replicated_levels(factor)) < MIN_REPLICATED:
        return (
            f"runs were repeated at {repeated} numbers of {factor}; "
            f"repeats at {MIN_REPLICATED} are needed to know the noise"
        )
    if len(design.factors) > 1:
        r = np.corrcoef(np.log(trained["samples"]), np.log(trained["epochs_seen"]))[0, 1]
        if abs(r) > MAX_FACTOR_CORRELATION:
            return f"samples and epochs moved together (correlation {r:.2f}): their effects look alike"
    return follows_order(design, factor)


def follows_order(design: CurveDesign, factor: str) -> str | None:
    """Whether what changes between sessions, or drift, would look like the effect of `factor`."""
    if _confounded_with_session(design, factor):
        return f"different numbers of {factor} were run in different sessions, whose effects look alike"
    placed, column = placed_in_sessions(design.trained), {"samples": "samples", "epochs": "epochs_seen"}[factor]
    return order_gate(placed, column) or apart_gate(placed, column, f"the number of {factor}")


def _confounded_with_session(design: CurveDesign, factor: str) -> bool:
    """Whether sessions leave almost nothing of the factor to vary within them."""
    if not session_columns(design.frame).shape[1]:
        return False
    data = curve_data(design, "y", drift=False)
    data = data.subset(~data.zero)
    values = data.centred[:, design.factors.index(factor)]
    plain = values - np.array([values[data.cell == c].mean() for c in range(data.cells)])[data.cell]
    within = data.project_out(values)
    return float(within @ within) < LEAST_WITHIN_SESSIONS * float(plain @ plain)


def order_gate(frame: pd.DataFrame, column: str, noun: str | None = None) -> str | None:
    """Whether the run order follows a factor, so that drift would look like its effect."""
    r = rank_correlation(frame["position"].to_numpy(), frame[column].to_numpy())
    if abs(r) > MAX_ORDER_CORRELATION:
        what = noun or column.removesuffix("_seen")
        return f"the runs were made in order of {what} (rank correlation {r:.2f}): drift would look alike"
    return None


def apart_gate(frame: pd.DataFrame, column: str, noun: str) -> str | None:
    """Whether the levels of a factor were run apart from each other, so that drift would look like its effect."""
    share = apart_in_time(frame["position"], frame[column])
    if share is None:
        return None
    part = f"{100 * share:.0f} % of the run order"
    return f"runs that differ in {noun} were made at different times ({part}): drift would look alike"


def mean_elasticity(analysis: Analysis, factor: str) -> IntervalEstimate:
    """Estimate d log E / d log factor from one end of the design to the other, by the delta method.

    Averaged over the cells by their runs. A share on its boundary F = 0 is held there.
    """
    fit, data = analysis.fit, analysis.fit.data
    j = analysis.design.factors.index(factor)
    trained = ~data.zero
    ends, weights = [], []
    for cell in range(data.cells):
        values = data.centred[trained & (data.cell == cell), j]
        if np.ptp(values) > 0:
            ends.append((cell, values.min(), values.max()))
            weights.append(len(values))
    share = np.asarray(weights) / np.sum(weights)

    places = np.zeros((2 * len(ends), data.log_x.shape[1]))
    places[:, j] = [end for _, *pair in ends for end in pair]
    cells = np.repeat([cell for cell, _, _ in ends], 2)
    widths = np.array([high - low for _, low, high in ends])

    def elasticity(theta: Array) -> float:
        log_e = log_energy(data, theta, places, np.zeros(len(places), dtype=bool), cells)
        return float(share @ ((log_e[1::2] - log_e[::2]) / widths))

    return _by_delta_method(fit, elasticity)


def epochs_for_samples(analysis: Analysis) -> IntervalEstimate:
    """Estimate log₂ of the energy ratio for twice the epochs on half the samples, averaged over the trained runs."""
    fit, data = analysis.fit, analysis.fit.data
    trained = ~data.zero
    s, e = (analysis.design.factors.index(name) for name in ("samples", "epochs"))
    step = np.zeros(2)
    step[[s, e]] = -math.log(2) / 2, math.log(2) / 2
    none, cell = np.zeros(int(trained.sum()), dtype=bool), data.cell[trained]

    def ratio(theta: Array) -> float:
        ends = [log_energy(data, theta, data.centred[trained] + way * step, none, cell) for way in (1, -1)]
        return float(np.mean(ends[0] - ends[1])) / math.log(2)

    return _by_delta_method(fit, ratio)


def _by_delta_method(fit: CurveFit, quantity: Callable[[Array], float]) -> IntervalEstimate:
    """Estimate a quantity of all the curve's parameters, with a standard error from the tangent model."""
    theta = fit.theta
    gradient = np.array(
        [(quantity(theta + step) - quantity(theta - step)) / 2e-6 for step in 1e-6 * np.eye(len(theta))]
    )
    se = float(np.sqrt(max(gradient @ _covariance(fit) @ gradient, 0.0)))
    return IntervalEstimate(value=quantity(theta), se=se, df=fit.data.df)


def tangent_basis(fit: CurveFit) -> Array:
    """Return an orthonormal basis (n, rank) of what the curve can follow: nuisance, exponents and free shares."""
    moving = span(fit.jacobian[:, _free(fit)], tolerance=1e-7, floor=1e-300)
    return np.concatenate([fit.data.basis, moving], axis=1)


def _free(fit: CurveFit) -> NDArray[np.bool_]:
    """Return which of (exponents, shares) are not held at a boundary."""
    shares = np.concatenate([fit.shares, fit.once])
    return np.concatenate(
        [np.ones(fit.data.log_x.shape[1], dtype=bool), (np.abs(shares) > BOUNDARY) & (shares < 1 - 1e-6)]
    )


def _covariance(fit: CurveFit) -> Array:
    """Return the covariance of (exponents, shares) from the tangent model; zero for shares held at a boundary."""
    jacobian, free = fit.jacobian, _free(fit)
    covariance = np.zeros((len(free), len(free)))
    information = jacobian[:, free].T @ jacobian[:, free]
    covariance[np.ix_(free, free)] = np.linalg.pinv(information, hermitian=True) * fit.sigma**2
    return covariance
