"""How every figure looks: colours that colour-blind readers tell apart, plain tick labels, labels at the lines."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

MOST_POINTS = 1000  # with more, a page would have a picture in place of a drawing at which one can point
NOTEBOOK_DPI = 100
LEAST_GAP = 0.11  # between two ticks, of the length of the axis: their labels would overlap
INK = "#222222"
FAINT = "#8a8a8a"
SHADE = "#e9edf2"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True)
class DrawnFigure:
    """A figure, a name for its files, a title, and a caption that states n, model and source.

    For a page on which one can point at it: `series` names what can be shown and hidden (artists of series i in panel p
    have a gid that begins with `p{p}s{i}`), `run_ids` names the runs of a scatter by its gid, and `panels` names the
    panels if they show the same, so that one is shown at a time. `note` is said beside the values of a point, and
    `heights` are the values of points, by their gid, that are drawn elsewhere: the layers of a stack.

    In a notebook, it shows itself as a picture.
    """

    name: str
    title: str
    figure: Figure
    caption: str
    series: tuple[str, ...] = ()
    run_ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    panels: tuple[str, ...] = ()
    note: str = ""
    heights: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def _repr_png_(self) -> bytes:
        """Draw the figure for a notebook."""
        picture = io.BytesIO()
        with mpl.rc_context({"text.parse_math": False}):
            self.figure.savefig(picture, format="png", dpi=NOTEBOOK_DPI)
        return picture.getvalue()


@dataclass(frozen=True, kw_only=True)
class SkippedFigure:
    """A figure that these runs cannot support, with the reason."""

    name: str
    title: str
    reason: str


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draw inside the project's style, the same at every call, leaving the caller's settings alone."""

    @wraps(draw)
    def inside(*args: Any, **kwargs: Any) -> Any:
        style: dict[Any, Any] = {
            **sns.axes_style("ticks"),
            **sns.plotting_context("paper", font_scale=1.15),
            "font.family": ["DejaVu Sans"],
            "text.parse_math": False,  # a `$` in a run's name is a dollar sign
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "legend.frameon": False,
        }
        state = np.random.get_state()  # seaborn's jitter comes from there
        np.random.seed(0)
        try:
            with mpl.rc_context(style):
                return draw(*args, **kwargs)
        finally:
            np.random.set_state(state)

    return inside


def canvas(columns: int = 2, *, width: float = 9.0, height: float = 3.9) -> tuple[Figure, list[Axes]]:
    """Make a figure with a row of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)
    return figure, list(axes[0])


def palette(count: int) -> list[Any]:
    """Return colours that colour-blind readers tell apart; beyond ten, a sequential scale."""
    return list(sns.color_palette("colorblind", count) if count <= 10 else sns.color_palette("viridis", count))


def log_axis(axes: Axes, which: str, *, billions: bool = False) -> None:
    """Make an axis logarithmic with few, plain labels, even if it spans less than a decade.

    `billions` writes 10⁹ as B, as parameters are counted.
    """
    getattr(axes, f"set_{which}scale")("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
    decades = math.log10(high / low) if low > 0 else 1.0
    if decades < 0.7:
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
        axis.set_minor_locator(NullLocator())
    else:
        subs = (1.0, 2.0, 5.0) if decades < 1.6 else (1.0, 3.0) if decades < 2.6 else (1.0,)
        axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=6 if which == "x" else 8))
        axis.set_minor_locator(LogLocator(base=10, subs="auto", numticks=20))
    powers = high >= 1e15  # one way of writing on one axis
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value, powers=powers, billions=billions)))
    axis.set_minor_formatter(NullFormatter())


def level_ticks(axes: Axes, levels: np.ndarray) -> None:
    """Set the ticks of a logarithmic x axis at the levels themselves, if they are few and far enough apart."""
    gaps = np.diff(np.log(levels))
    if 2 <= len(levels) <= 7 and gaps.min() >= LEAST_GAP * gaps.sum():
        axes.set_xticks(list(levels), [short(float(level)) for level in levels])
        axes.xaxis.set_minor_locator(NullLocator())


def linear_axis(axes: Axes, which: str, *, billions: bool = False) -> None:
    """Give a linear axis plain labels, without an offset text."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value, billions=billions)))


def short(value: float, *, powers: bool = False, billions: bool = False) -> str:
    """Write a number as a person does: 0.002, 250, 1.6 M, 3×10⁻⁷."""
    if value == 0:
        return "0"
    size = abs(value)
    if 1e-4 <= size < 1e4:
        return f"{value:.4g}"
    if 1e4 <= size < 1e15 and not powers:
        for scale, name in ((1e12, "T"), (1e9, "B" if billions else "G"), (1e6, "M"), (1e3, "k")):
            if size >= scale:
                return f"{value / scale:.4g} {name}"
    exponent = math.floor(math.log10(size) + 1e-9)
    mantissa = value / 10.0**exponent
    power = "10" + str(exponent).translate(_SUPERSCRIPT)
    return power if abs(mantissa - 1) < 1e-6 else f"{mantissa:.3g}×{power}"


def label_lines(
    axes: Axes, ends: Sequence[tuple[float, float, str, Any]], *, gap: float = 0.065, gids: Sequence[str] = ()
) -> None:
    """Write each line's name beside its right end, (x, y, text, colour) in data units, none over another."""
    if not ends:
        return
    axes.figure.canvas.draw() if axes.figure.canvas is not None else None
    to_axes = axes.transAxes.inverted()
    places = [to_axes.transform(axes.transData.transform((x, y))) for x, y, _, _ in ends]
    order = sorted(range(len(ends)), key=lambda i: places[i][1])
    heights = [float(places[i][1]) for i in order]
    for j in range(1, len(heights)):
        heights[j] = max(heights[j], heights[j - 1] + gap)
    shift = max(0.0, heights[-1] - 1.0)
    for height, i in zip(heights, order, strict=True):
        text, colour = ends[i][2], ends[i][3]
        axes.annotate(
            text,
            xy=(ends[i][0], ends[i][1]),
            xytext=(1.02, height - shift),
            textcoords="axes fraction",
            color=colour,
            va="center",
            ha="left",
            fontsize="small",
            annotation_clip=False,
            gid=gids[i] if gids else None,
        )


def thin(count: int, most: int = MOST_POINTS) -> tuple[np.ndarray, str]:
    """Choose at most `most` rows to draw, at random with a fixed seed, and a note if some are left out."""
    if count <= most:
        return np.arange(count), ""
    picked = np.sort(np.random.default_rng(0).choice(count, size=most, replace=False))
    return picked, f" {most:,} of {count:,} runs are drawn; lines and bands use all."


def clip_name(text: str, most: int = 32) -> str:
    """Shorten a name to fit a figure."""
    text = " ".join(str(text).split())
    return text if len(text) <= most else text[: most - 1] + "…"
