"""Draw what the settings gained against the energy that they took, with the front of those that are worth it."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from lora_scaling.text import ENERGY

from ..tables.gains import Gain, Gains, Outcome, gains_of
from .style import FAINT, INK, DrawnFigure, SkippedFigure, canvas, clip_name, linear_axis, log_axis, palette, styled
from .view import View

LOGARITHMIC_FROM = 10  # times the cheapest setting's energy
LEAST_HEIGHT = 0.09  # between two names, of the axis
_MOST_NAMED = 8


def pareto_figures(view: View) -> list[DrawnFigure | SkippedFigure]:
    """Draw the gain in score or accuracy, and that in loss, against the energy."""
    return [
        pareto_figure(view, "pareto", "Cost against gain", "a score or accuracy", ("score", "accuracy")),
        pareto_figure(view, "pareto_loss", "Cost against loss", "a held-out loss", ("loss",)),
    ]


@styled
def pareto_figure(
    view: View, name: str, title: str, what: str, outcomes: Sequence[Outcome]
) -> DrawnFigure | SkippedFigure:
    """Draw a point for each combination of settings, and the Pareto front as a line of steps."""
    gains = gains_of(view.table.frame, *outcomes)
    if gains is None or len(gains.rows) < 2:
        reason = f"fewer than two settings have a known cost and {what}, before and after training"
        return SkippedFigure(name=name, title=title, reason=reason)
    unit = ENERGY.unit(max(row.energy_kwh for row in gains.rows))
    scale = 1 / unit.size
    figure, [axes] = canvas(1, width=7.0, height=4.4)
    colour = palette(1)[0]
    front = [row for row in gains.rows if row.on_front]
    rest = [row for row in gains.rows if not row.on_front]
    for i, (rows, face, label) in enumerate(((front, colour, "on the front"), (rest, "none", "not on the front"))):
        axes.scatter(
            [row.energy_kwh * scale for row in rows], [row.gain for row in rows],
            s=36, facecolors=face, edgecolors=colour, zorder=3, gid=f"p0s{i}points", label=label,
        )  # fmt: skip
    for row in gains.rows:
        axes.vlines(row.energy_kwh * scale, row.low, row.high, color=colour, lw=1, zorder=2)
    for among in dict.fromkeys(row.among for row in front):
        one = [row for row in front if row.among == among]
        axes.step([row.energy_kwh * scale for row in one], [row.gain for row in one], where="post", color=INK, lw=0.9,
                  label=f"front {among}".rstrip())  # fmt: skip
    axes.axhline(0, color=FAINT, lw=0.8)
    costs = [row.energy_kwh for row in gains.rows]
    log_axis(axes, "x") if max(costs) > LOGARITHMIC_FROM * min(costs) else linear_axis(axes, "x")
    linear_axis(axes, "y")
    _name_front(axes, front, scale)
    axes.set(xlabel=f"Energy without scoring ({unit.name})", ylabel=f"Gain ({gains.noun})", title=title)
    labels = {f"p0s{i}points": [row.label for row in rows] for i, rows in enumerate((front, rest))}
    return DrawnFigure(name=name, title=title, figure=figure, caption=_caption(view, gains), run_ids=labels)


def _name_front(axes: Axes, front: Sequence[Gain], scale: float) -> None:
    """Write the settings of the front beside their points, those that gained most first, none over another."""
    low, high = axes.get_ylim()
    taken: list[float] = []
    for row in sorted(front, key=lambda row: -row.gain):
        height = (row.gain - low) / (high - low)
        if len(taken) == _MOST_NAMED or any(abs(height - other) < LEAST_HEIGHT for other in taken):
            continue
        taken.append(height)
        place = row.energy_kwh * scale
        left = axes.transAxes.inverted().transform(axes.transData.transform((place, row.gain)))[0] > 0.5
        offset = (-6, 4) if left else (6, -9)
        axes.annotate(
            clip_name(row.label, 60), (place, row.gain), textcoords="offset points", xytext=offset,
            ha="right" if left else "left", fontsize="x-small", color=INK,
        )  # fmt: skip


def _caption(view: View, gains: Gains) -> str:
    text = (
        f"{len(gains.rows)} settings; gain in {gains.noun}. Filled, and joined by a line: no cheaper setting gained as "
        "much (the Pareto front)."
    )
    if len({row.among for row in gains.rows}) > 1:
        text += " Each held-out data set has its own front, as losses on different texts say nothing of each other."
    if gains.replicated:
        text += " Bars: smallest to largest gain of a setting."
    runs = sum(row.runs for row in gains.rows)
    return f"{text} n = {runs} runs. Model: none, observed values. Source: {view.source}."
