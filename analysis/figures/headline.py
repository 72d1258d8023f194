"""The figure of the question itself: runs that differ in nothing but samples or epochs, with line, margin, prediction.

Unlike the other figures it needs no model of work: it shows what was observed, and lines fitted to these runs alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.optimize import nnls

from ..arrays import Array
from ..claims.decide import ClaimsReport
from ..claims.windows import is_series
from ..energy_model.extrapolate import Extrapolation
from ..energy_model.response_kind import kind_of
from ..regression.curve_analysis import CELL_COLUMNS
from .style import (
    INK,
    MARKERS,
    DrawnFigure,
    SkippedFigure,
    canvas,
    clip_name,
    linear_axis,
    log_axis,
    palette,
    styled,
    thin,
)

NAME = "question"
MOST_SERIES = 4
MOST_POINTS = 250  # of a series
POINTS = 60
ROOM = 0.3  # of the smallest x, for the names of the series
EXPONENTS = np.arange(0.3, 2.005, 0.01)  # tried for the line
LEAST_LEVELS = 4  # of what was varied, for an exponent of the line
_LABELS = {"samples": "Samples in the training set", "epochs": "Epochs"}


@dataclass(frozen=True, kw_only=True)
class Series:
    """Runs that differ in one factor alone: its values x (n,), the response y (n,), and the runs' names."""

    name: str
    level: float
    x: Array
    y: Array
    run_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A predicted run among the series of `level`: its place and the response's estimate and interval."""

    level: float
    x: float
    y: float
    low: float
    high: float


@styled
def question_figure(claims: ClaimsReport, forecast: Extrapolation | None = None) -> DrawnFigure | SkippedFigure:
    """Draw the response against samples, or else epochs, for the kind of run that was varied most."""
    kind = kind_of(claims.table.response)
    title = f"{kind.name.capitalize()} against samples"
    windows = is_series(claims.response)
    found = None if windows else comparable_runs(claims.response.frame)
    if found is None:
        reason = "the rows are windows of one run" if windows else "no runs differ in samples or in epochs alone"
        return SkippedFigure(name=NAME, title=title, reason=reason)
    factor, cell, series = found
    title = f"{kind.name.capitalize()} against {factor}"
    predicted = _prediction_among(forecast, factor, cell, series)
    margin = claims.options.margin
    lines = _best_lines(series)
    linear = [fit_lines(series, b) for b in np.linspace(1 - margin, 1 + margin, 5)]
    scale, unit = kind.best_unit(np.concatenate([one.y for one in series]))
    figure, axes = canvas(2, width=11.0, height=3.5)
    for panel, ax in enumerate(axes):
        for i, one in enumerate(series):
            reach = predicted.x if panel == 0 and predicted and predicted.level == one.level else 0.0
            x = np.geomspace(one.x.min(), max(reach, one.x.max()), POINTS)
            band = np.array([some.at(i, x) for some in linear])
            _draw(ax, one, x, lines.at(i, x) * scale, band * scale, scale, palette(len(series))[i], i, panel)
        if predicted and panel == 0:  # far beyond the runs, which it would press into a corner of linear axes
            _draw_prediction(ax, predicted, scale, palette(4)[3], f"p{panel}s{len(series)}")
        ax.set_xlabel(_LABELS[factor])
        if panel == 0:
            ax.set_xlim(left=ROOM * min(one.x.min() for one in series), right=ax.dataLim.x1 / ROOM**0.2)
        ax.set_ylabel(f"{_capital(claims.response.noun)} ({unit})")
        for which in ("x", "y"):
            log_axis(ax, which) if panel == 0 else linear_axis(ax, which)
        if panel == 1:
            ax.set_xlim(left=0)
            ax.set_ylim(bottom=0)
    caption = _caption(claims, factor, cell, series, lines.exponent, predicted is not None)
    run_ids = {f"p{panel}s{i}points": one.run_ids for panel in (0, 1) for i, one in enumerate(series)}
    return DrawnFigure(
        name=NAME, title=title, figure=figure, caption=caption, run_ids=run_ids,
        series=tuple(one.name for one in series) + (("predicted",) if predicted else ()),
        panels=("logarithmic", "linear"),
    )  # fmt: skip


def comparable_runs(frame: pd.DataFrame) -> tuple[str, pd.Series, list[Series]] | None:
    """Return the factor, the settings of the cell (its first run), and its series; None if no runs can be compared.

    Of all cells, the one with the most levels of the factor is taken, and then the one with the most runs.
    """
    trained = frame[(frame["samples_seen"] > 0) & (frame["y"] > 0) & np.isfinite(frame["y"])]
    for factor, other in (("samples", "epochs"), ("epochs", "samples")):
        best: tuple[tuple[int, int], list[Series], pd.Series] | None = None
        for _, rows in trained.groupby(list(CELL_COLUMNS), dropna=False, sort=False):
            series = _series_of(rows, factor, other)
            if not series:
                continue
            size = (max(len(np.unique(one.x)) for one in series), sum(len(one.x) for one in series))
            if best is None or size > best[0]:
                best = size, series, rows.iloc[0]
        if best is not None:
            return factor, best[2], best[1]
    return None


def _series_of(rows: pd.DataFrame, factor: str, other: str) -> list[Series]:
    """Return a series for each level of the other factor with two levels or more of this one, at most `MOST_SERIES`."""
    found = []
    for level, some in rows.groupby(other, sort=True):
        if some[factor].nunique() < 2:
            continue
        drawn = some.iloc[thin(len(some), MOST_POINTS)[0]]
        found.append(
            Series(
                name=f"{level:g} {other if level != 1 else other.removesuffix('s')}",
                level=float(level),  # pyright: ignore[reportArgumentType]
                x=drawn[factor].to_numpy(dtype=float),
                y=drawn["y"].to_numpy(dtype=float),
                run_ids=tuple(drawn["run_id"].astype(str)),
            )
        )
    largest = sorted(found, key=lambda one: -len(one.x))[:MOST_SERIES]
    return [one for one in found if one in largest]


@dataclass(frozen=True, kw_only=True)
class Lines:
    """y = F + a·x^exponent for several series: one fixed cost F for all of them, and each one's slope a (s,)."""

    exponent: float
    fixed: float
    slopes: Array
    squares: float

    def at(self, i: int, x: Array) -> Array:
        """Return the line of series i at x (n,)."""
        return self.fixed + self.slopes[i] * x**self.exponent


def fit_lines(series: Sequence[Series], exponent: float) -> Lines:
    """Fit the fixed cost and the slopes, none below 0, by least squares of relative errors."""
    x, y = np.concatenate([one.x for one in series]), np.concatenate([one.y for one in series])
    which = np.repeat(np.arange(len(series)), [len(one.x) for one in series])
    scale = float(x.max()) ** exponent
    columns = np.eye(len(series))[which] * (x**exponent / scale / y)[:, None]
    solution, norm = nnls(np.column_stack([1 / y, columns]), np.ones(len(y)))
    return Lines(exponent=exponent, fixed=float(solution[0]), slopes=solution[1:] / scale, squares=float(norm) ** 2)


def _best_lines(series: Sequence[Series]) -> Lines:
    """Return the lines of the exponent that fits best; straight ones where there are too few levels to tell."""
    if max(len(np.unique(one.x)) for one in series) < LEAST_LEVELS:
        return fit_lines(series, 1.0)
    return min((fit_lines(series, float(b)) for b in EXPONENTS), key=lambda lines: lines.squares)


def _draw(
    ax: Axes, one: Series, x: Array, line: Array, band: Array, scale: float, colour: tuple, i: int, panel: int
) -> None:
    gid, marker = f"p{panel}s{i}", MARKERS[i % len(MARKERS)]
    ax.fill_between(x, band.min(axis=0), band.max(axis=0), color=colour, alpha=0.25, lw=0, gid=f"{gid}band")
    ax.plot(x, line, color=colour, lw=1.5, gid=f"{gid}line", label=f"{one.name}: line")
    ax.scatter(one.x, one.y * scale, color=colour, marker=marker, s=24, edgecolor="white", linewidth=0.5, zorder=3,
               gid=f"{gid}points", label=one.name)  # fmt: skip
    if one.name:
        edge = (one.x.min(), one.x.max())[panel]  # on logarithmic axes all begin apart, on linear ones they end apart
        place, side = (float(edge), float(one.y[one.x == edge].mean()) * scale), ("right", "left")[panel]
        ax.annotate(one.name, place, xytext=((-7, 7)[panel], 0), textcoords="offset points", ha=side, va="center",
                    fontsize="small", color=colour, gid=f"{gid}name")  # fmt: skip


def _draw_prediction(ax: Axes, predicted: Prediction, scale: float, colour: tuple, gid: str) -> None:
    y, low, high = (value * scale for value in (predicted.y, predicted.low, predicted.high))
    ax.vlines(predicted.x, low, high, color=colour, lw=2, gid=f"{gid}line")
    ax.scatter([predicted.x], [y], marker="D", s=38, color=colour, edgecolor=INK, linewidth=0.5, zorder=4,
               gid=f"{gid}points", label="predicted")  # fmt: skip
    ax.annotate("predicted", (predicted.x, y), xytext=(-9, 0), textcoords="offset points", ha="right", va="center",
                fontsize="small", color=colour, gid=f"{gid}name")  # fmt: skip


def _prediction_among(
    forecast: Extrapolation | None, factor: str, cell: pd.Series, series: Sequence[Series]
) -> Prediction | None:
    """Return the forecast as a point of the figure, if it is of the same model and method and on one of its lines."""
    if forecast is None:
        return None
    config, document = forecast.planned.config, forecast.document
    place = {"samples": float(config.samples), "epochs": float(config.epochs)}
    level = place["epochs" if factor == "samples" else "samples"]
    same = forecast.planned.model == cell["model"] and config.method.name == cell["method"]
    if not same or level not in [one.level for one in series]:
        return None
    kind = forecast.validated.fitted.kind
    value = document[kind.predicted_key]
    return Prediction(level=level, x=place[factor], y=value["estimate"], low=value["low"], high=value["high"])


def _caption(
    claims: ClaimsReport, factor: str, cell: pd.Series, series: Sequence[Series], exponent: float, predicted: bool
) -> str:
    named = [clip_name(str(cell[name])) for name in ("model", "method") if isinstance(cell[name], str)]
    of = f" of {', '.join(named)}" if named else ""
    low, high = 1 - claims.options.margin, 1 + claims.options.margin
    differ = "samples and epochs" if len(series) > 1 else factor
    text = (
        f"{sum(len(one.x) for one in series)} runs{of} that differ in {differ} alone. Line: a fixed cost and "
        f"a·{factor}^{exponent:.2f}, fitted to these runs; shaded: what still counts as linear (exponents {low:.3g} to "
        f"{high:.3g})."
    )
    return (
        f"{text} Diamond, on logarithmic axes: the predicted whole run, with its 90 % interval." if predicted else text
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
