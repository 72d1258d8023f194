"""The numbers behind a figure: every point and line that it draws, as rows of a table."""

import numpy as np
import pandas as pd
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure


def figure_data(figure: Figure) -> pd.DataFrame:
    """Return one row for each point: its panel, its series, whether it is of a line or a scatter, x and y.

    Axes' own labels name the quantities (`x_label`, `y_label`); values are in the units of the axes.
    """
    rows = []
    for panel, axes in enumerate(figure.axes, start=1):
        labels = {"x_label": axes.get_xlabel(), "y_label": axes.get_ylabel()}
        drawn = [("line", line.get_label(), np.column_stack(line.get_data())) for line in axes.get_lines()]
        drawn += [("points", part.get_label(), np.asarray(part.get_offsets())) for part in axes.collections
                  if isinstance(part, PathCollection)]  # fmt: skip
        for series, (kind, label, points) in enumerate(drawn, start=1):
            name = str(label) if label and not str(label).startswith("_") else f"series {series}"
            rows += [{"panel": panel, "series": name, "kind": kind, "x": float(x), "y": float(y), **labels}
                     for x, y in np.ma.filled(points.astype(float), np.nan)]  # fmt: skip
    return pd.DataFrame(rows, columns=["panel", "series", "kind", "x", "y", "x_label", "y_label"])
