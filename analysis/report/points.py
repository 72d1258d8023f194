"""What a page knows of a drawn figure: where its points lie in the drawing, their values, and their runs."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from lora_scaling.text import printable

from ..figures.style import DrawnFigure

DIGITS = 6
ENDS_OF_BARS = ("_", "|")  # the markers of an interval's ends


def figure_points(drawn: DrawnFigure) -> dict[str, Any]:
    """Return the points and lines of each panel, for a script: numbers, and names by their index.

    `panels`: x and y are the labels of the axes; `points` are (left, top, x, y, name, run), of which left and top are
    in points (1/72 inch) from the drawing's top left corner; `lines` are (name, x values, y values). `names` and `runs`
    hold the texts, `series` those names that can be hidden, `views` the names of panels to choose from, and `note`
    what is said beside the values of a point.
    """
    names: dict[str, int] = {}
    runs: dict[str, int] = {}
    panels = [_panel(axes, drawn, names, runs) for axes in drawn.figure.axes]
    return {
        "panels": panels,
        "names": [printable(name) for name in names],
        "runs": [printable(run) for run in runs],
        "series": [printable(name) for name in drawn.series],
        "views": list(drawn.panels),
        "note": drawn.note,
    }


def _panel(axes: Axes, drawn: DrawnFigure, names: dict[str, int], runs: dict[str, int]) -> dict[str, Any]:
    points: list[list[float]] = []
    lines: list[list[Any]] = []
    for part in axes.collections:
        if isinstance(part, PathCollection):
            ids = drawn.run_ids.get(part.get_gid() or "", ())
            values = np.ma.filled(np.asarray(part.get_offsets(), dtype=float), np.nan)
            points += _points(axes, values, _index(names, part.get_label()), [_index(runs, run) for run in ids])
    for line in axes.get_lines():
        values = np.column_stack(line.get_data()).astype(float)
        name = _index(names, line.get_label())
        if line.get_marker() in ENDS_OF_BARS:
            continue
        if line.get_linestyle() in ("None", "none", "", " "):
            gid = line.get_gid() or ""
            ids = [_index(runs, run) for run in drawn.run_ids.get(gid, ())]
            points += _points(axes, values, name, ids, drawn.heights.get(gid))
        elif line.get_transform() == axes.transData:  # not a reference line across the panel
            known = values[np.isfinite(values).all(axis=1)]
            lines.append([_text(line.get_label()), *([_rounded(value) for value in column] for column in known.T)])
    return {"x": printable(axes.get_xlabel()), "y": printable(axes.get_ylabel()), "points": points, "lines": lines}


def _points(
    axes: Axes, values: np.ndarray, name: int, runs: list[int], heights: Sequence[float] | None = None
) -> list[list[float]]:
    """Return the points that lie in the panel, each with its place in the drawing, its values, its name and its run.

    heights: values of y to show in place of those at which the points are drawn.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    whole, scale, frame = 72 * figure.get_size_inches()[1], 72 / figure.dpi, axes.get_window_extent()
    return [
        [
            round(float(scale * x), 1),
            round(float(whole - scale * y), 1),
            _rounded(value[0]),
            _rounded(height),
            name,
            run,
        ]
        for (x, y), value, height, run in zip(
            axes.transData.transform(values),
            values,
            values[:, 1] if heights is None else heights,
            runs or [-1] * len(values),
            strict=True,
        )
        if np.isfinite(value).all() and frame.contains(x, y)
    ]


def _index(texts: dict[str, int], text: object) -> int:
    return texts.setdefault(_text(text), len(texts))


def _text(label: object) -> str:
    """Return a label, or nothing where matplotlib made one up."""
    text = str(label)
    return "" if text.startswith("_") else text


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else 0.0
