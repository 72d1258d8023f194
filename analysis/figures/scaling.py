"""Energy or time against one factor: runs, fit and bands, on linear and logarithmic axes."""

import numpy as np
from matplotlib.axes import Axes

from ..energy_model.groups import sentence
from .style import (
    INK,
    MARKERS,
    DrawnFigure,
    SkippedFigure,
    canvas,
    clip_name,
    label_lines,
    level_ticks,
    linear_axis,
    log_axis,
    palette,
    styled,
)
from .view import FACTORS, UNMOVED, Factor, RunGroup, View, run_groups, varied

MANY = 300  # points from which a line is drawn over them
BANDS = "Lines: fit; dark bands: 95 % interval of the mean; light bands: 90 % interval of a new run."


def scaling_figures(view: View) -> list[DrawnFigure | SkippedFigure]:
    """Draw one figure for each factor, or say why it is missing."""
    return [response_against(view, factor) for factor in FACTORS]


@styled
def response_against(view: View, factor: Factor) -> DrawnFigure | SkippedFigure:
    """Draw what the fit explains against one factor, on linear and on logarithmic axes."""
    response = view.kind.name
    name, title = f"{view.kind.key}_vs_{factor.name}", f"{response.capitalize()} against {factor.noun}"
    levels = varied(view, factor.name)
    if factor.name == "flops_per_token" and view.work.size != "flops_per_token":
        return SkippedFigure(name=name, title=title, reason="FLOPs of the runs are unknown")
    if levels < 2:
        reason = "is unknown" if levels == 0 else "never varied"
        return SkippedFigure(name=name, title=title, reason=f"`{factor.name}` {reason} in the fitted runs")
    groups, held = run_groups(view, factor.name)
    if not groups:
        return SkippedFigure(name=name, title=title, reason=f"`{factor.name}` varied only together with other settings")
    scale, unit = view.kind.best_unit(np.concatenate([s.y for s in groups]))
    figure, axes = canvas()
    colours = palette(len(groups))
    drawn, total = sum(len(one.x) for one in groups), sum(one.total for one in groups)
    note = f" {drawn:,} of {total:,} runs are drawn; lines and bands use all." if drawn < total else ""
    for panel, ax in enumerate(axes):
        for i, one in enumerate(groups):
            _draw(ax, one, scale, colours[i], MARKERS[i % len(MARKERS)], f"p{panel}s{i}")
        ax.set_xlabel(factor.label)
        ax.set_ylabel(f"{view.noun} ({unit})" if panel == 0 else "")
        if panel == 0:
            ax.set_ylim(bottom=0)
            ax.set_xlim(left=0)
            linear_axis(ax, "x", billions=factor.name == "params")
            linear_axis(ax, "y")
            ax.set_title("Linear axes")
        else:
            log_axis(ax, "x", billions=factor.name == "params")
            if factor.name in ("samples", "epochs", "rank"):
                level_ticks(ax, np.unique(np.concatenate([s.x for s in groups])))
            log_axis(ax, "y")
            ax.set_title("Logarithmic axes")
    if len(groups) > 1:
        ends = [
            (float(s.curve.x[-1]), float(s.curve.mean.estimate[-1] * scale), clip_name(s.name, 22), colours[i])
            for i, s in enumerate(groups)
        ]
        label_lines(axes[-1], ends, gids=[f"p1s{i}name" for i in range(len(groups))])
    split = ""
    if view.split is not None:
        split = f" {sentence(view.split)} Each group has a fit of its own where it has a line of its own."
    caption = view.caption(f"{view.noun} against {factor.noun}. {BANDS} {held}{note}{split}".strip())
    return DrawnFigure(
        name=name, title=title, figure=figure, caption=caption, series=tuple(one.name for one in groups),
        run_ids={f"p{panel}s{i}points": one.run_ids for panel in (0, 1) for i, one in enumerate(groups)},
        panels=("linear", "logarithmic"), note="moved along the fit" if held != UNMOVED else "",
    )  # fmt: skip


def _draw(ax: Axes, one: RunGroup, scale: float, colour: tuple, marker: str, gid: str) -> None:
    for name, bands, alpha in (("new", one.curve.new, 0.13), ("mean", one.curve.mean, 0.3)):
        ax.fill_between(
            one.curve.x, bands.low * scale, bands.high * scale, color=colour, alpha=alpha, lw=0, gid=f"{gid}{name}"
        )
    many = len(one.x) >= MANY
    line = INK if many else colour  # over a cloud of points its own colour would not be seen
    ax.plot(
        one.curve.x, one.curve.mean.estimate * scale, color=line, lw=1.5, zorder=4 if many else 2, gid=f"{gid}line",
        label=f"{one.name}: fit",
    )  # fmt: skip
    ax.scatter(
        one.x, one.y * scale, color=colour, marker=marker, s=9 if many else 26,
        edgecolor="none" if many else "white", linewidth=0.5, alpha=0.4 if many else 1.0, zorder=3, gid=f"{gid}points",
        label=one.name,
    )  # fmt: skip
