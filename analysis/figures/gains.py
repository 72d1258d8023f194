"""Draw what the settings gained against the energy that they took, with the front of those that are worth it."""

from lora_scaling.text import ENERGY

from ..tables.gains import Gains, gains_of
from .style import FAINT, INK, DrawnFigure, SkippedFigure, canvas, clip_name, linear_axis, palette, styled
from .view import View

_MOST_NAMED = 8


@styled
def pareto_figure(view: View) -> DrawnFigure | SkippedFigure:
    """Draw a point for each combination of settings, and the Pareto front as a line of steps."""
    name, title = "pareto", "Cost against gain"
    gains = gains_of(view.table.frame)
    if gains is None or len(gains.rows) < 2:
        reason = "fewer than two settings have a known cost and a score or accuracy, before and after training"
        return SkippedFigure(name=name, title=title, reason=reason)
    unit = ENERGY.unit(max(row.energy_kwh for row in gains.rows))
    scale = 1 / unit.size
    figure, [axes] = canvas(1, width=7.0, height=4.4)
    colour = palette(1)[0]
    front = [row for row in gains.rows if row.on_front]
    for rows, face in ((front, colour), ([row for row in gains.rows if not row.on_front], "none")):
        axes.scatter(
            [row.energy_kwh * scale for row in rows], [row.gain for row in rows],
            s=36, facecolors=face, edgecolors=colour, zorder=3,
        )  # fmt: skip
    for row in gains.rows:
        axes.vlines(row.energy_kwh * scale, row.low, row.high, color=colour, lw=1, zorder=2)
    axes.step([row.energy_kwh * scale for row in front], [row.gain for row in front], where="post", color=INK, lw=0.9)
    axes.axhline(0, color=FAINT, lw=0.8)
    for row in front[:_MOST_NAMED]:
        axes.annotate(
            clip_name(row.label, 40), (row.energy_kwh * scale, row.gain), textcoords="offset points", xytext=(5, 4),
            fontsize="x-small", color=INK,
        )  # fmt: skip
    linear_axis(axes, "x")
    linear_axis(axes, "y")
    axes.set(xlabel=f"Energy without scoring ({unit.name})", ylabel=f"Gain ({gains.noun})", title=title)
    return DrawnFigure(name=name, title=title, figure=figure, caption=_caption(view, gains))


def _caption(view: View, gains: Gains) -> str:
    text = (
        f"{len(gains.rows)} settings; gain in {gains.noun}. Filled, and joined by a line: no cheaper setting gained as "
        "much (the Pareto front)."
    )
    if gains.replicated:
        text += " Bars: smallest to largest gain of a setting."
    runs = sum(row.runs for row in gains.rows)
    return f"{text} n = {runs} runs. Model: none, observed values. Source: {view.source}."
