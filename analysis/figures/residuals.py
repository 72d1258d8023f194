"""Residuals of the fit, against fitted energy or time and against the order of the runs."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from ..energy_model.diagnostics import externally_studentised, order_correlation
from .style import (
    FAINT,
    INK,
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
from .view import View

TITLE = "What the fit leaves unexplained"
SMOOTHED_FROM = 30


@styled
def residuals(view: View) -> DrawnFigure | SkippedFigure:
    """Draw observed ÷ fitted of the best model against the fitted response and, if it is known, run order."""
    explained = view.result.fitted.explained
    if explained.best.df < 1 or explained.best.sigma < 1e-9:
        return SkippedFigure(name="residuals", title=TITLE, reason="the fit passes through every run")
    ratio = np.exp(explained.best.resid)
    fitted = np.exp(explained.fitted) / view.kind.per_unit
    position = view.runs["position"].to_numpy(dtype=float)
    ordered = bool(np.isfinite(position).all()) and len(np.unique(position)) > 2
    figure, axes = canvas(2 if ordered else 1, width=9.0 if ordered else 5.5)
    rows, note = thin(len(ratio))
    scale, unit = view.kind.best_unit(fitted)
    colour, alarm = palette(4)[0], palette(4)[3]
    outlying = _outliers(view)
    _panel(axes[0], fitted * scale, ratio, rows, colour, "p0s0points")
    axes[0].set_xlabel(f"Fitted {view.noun_inside} ({unit})")
    axes[0].set_ylabel("Observed ÷ fitted")
    log_axis(axes[0], "x")
    axes[0].set_title(f"Against fitted {view.kind.name}")
    drift = None
    if ordered:
        _panel(axes[1], position, ratio, rows, colour, "p1s0points")
        axes[1].set_xlabel("Order of the runs in time")
        linear_axis(axes[1], "x")
        axes[1].set_title("Against run order")
        drift = order_correlation(explained, position)
    for ax, x in zip(axes, (fitted * scale, position), strict=False):
        for i in outlying:
            ax.plot(x[i], ratio[i], "o", color=alarm, ms=6, zorder=4)
            ax.annotate(
                clip_name(str(explained.work.run_ids[i]), 26),
                (x[i], ratio[i]),
                xytext=(0, 7),
                textcoords="offset points",
                fontsize="x-small",
                color=alarm,
                ha="center" if 0.2 < _place(ax, x[i]) < 0.8 else "left" if _place(ax, x[i]) <= 0.2 else "right",
            )
    text = "What was observed ÷ what the best model fits; dashed: ± 2 standard deviations of the logarithm."
    if len(ratio) >= SMOOTHED_FROM:
        text += " Orange: running median."
    if drift:
        text += f" Rank correlation with run order {drift['rho']:+.2f} (p = {drift['p']:.2g})."
    if not ordered:
        text += " The order of the runs is unknown."
    names = tuple(map(str, explained.work.run_ids[rows]))
    run_ids = {f"p{panel}s0points": names for panel in (0, 1)}
    return DrawnFigure(name="residuals", title=TITLE, figure=figure, caption=view.caption(text + note), run_ids=run_ids)


def _panel(ax: Axes, x: np.ndarray, ratio: np.ndarray, rows: np.ndarray, colour: tuple, gid: str) -> None:
    ax.axhline(1, color=INK, lw=0.8, zorder=1)
    sigma = float(np.std(np.log(ratio), ddof=1))
    edges = [float(np.exp(-2 * sigma)), float(np.exp(2 * sigma))]
    for edge in edges:
        ax.axhline(edge, color=FAINT, lw=0.8, ls=(0, (4, 3)), zorder=1)
    sns.scatterplot(
        x=x[rows], y=ratio[rows], color=colour, s=26 if len(rows) < 300 else 9, edgecolor="white", ax=ax, zorder=3
    )
    ax.collections[-1].set_gid(gid)
    if len(x) >= SMOOTHED_FROM:
        order = np.argsort(x, kind="stable")
        window = max(5, len(x) // 5)
        smooth = pd.Series(ratio[order]).rolling(window, center=True, min_periods=window // 2 + 1).median()
        ax.plot(x[order], smooth, color=palette(2)[1], lw=1.5, zorder=2)
    low, high = min(edges[0], float(ratio.min())), max(edges[1], float(ratio.max()))
    room = (high / low) ** 0.12
    ax.set_ylim(low / room, high * room)
    log_axis(ax, "y")


def _outliers(view: View) -> list[int]:
    """Find the runs that the diagnostics name as outliers, at most five."""
    named = {item["run_id"] for item in view.result.fitted.document["diagnostics"][view.kind.name]["outliers"][:5]}
    size = np.abs(externally_studentised(view.result.fitted.explained))
    order = np.argsort(-size)[:20]
    return [int(i) for i in order if str(view.work.run_ids[i]) in named][:5]


def _place(ax: Axes, x: float) -> float:
    """Return where x lies along the axis, from 0 to 1."""
    return float(ax.transAxes.inverted().transform(ax.transData.transform((x, 0)))[0])
