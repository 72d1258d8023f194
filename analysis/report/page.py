"""Render the page: sections from jinja2 templates, and figures as drawings that share one page."""

import base64
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from lora_scaling import templates

from ..figures.style import DrawnFigure
from .points import figure_points

LARGEST_SVG = 600_000  # characters
_PACKAGE = "analysis.report"
PANEL_MARGIN_PT = 4.0
WIDEST_PX_PER_PT = 1.85  # do not enlarge a narrow figure


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: HTML, or the reason why it is missing."""

    title: str
    html: Markup = field(default_factory=Markup)
    reason: str | None = None

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z]+", "-", self.title.lower())


def section(title: str, template: str, **values: Any) -> Section:
    """Render a section from a template of this folder; every value is escaped."""
    return Section(title=title, html=templates.render(_PACKAGE, template, **values))


def page(*, title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Render the whole document. Style and script are inline, so nothing is fetched."""
    return str(templates.render(_PACKAGE, "page.html.j2", title=title, subtitle=subtitle, sections=sections))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure for the page: as SVG (`drawing`), or as a PNG in base64 if that is smaller.

    `id` is unique to the drawing on the page, `view_box` is its frame, and `panels` are the frames of its panels if it
    has several. A narrow window shows them one below the other, as views of the same drawing. `points`
    are for the script of a figure that one can point at, which saves files called `name`.
    """

    id: str
    title: str
    caption: str
    png: str = ""
    drawing: Markup = field(default_factory=Markup)
    view_box: str = ""
    panels: tuple[str, ...] = ()
    name: str = ""
    points: dict[str, Any] = field(default_factory=dict)

    @property
    def widest_px(self) -> int:
        return round(WIDEST_PX_PER_PT * float(self.view_box.split()[2]))


def picture(drawn: DrawnFigure, *, salt: str) -> Picture:
    """Draw a figure for the page. `salt` makes its ids unique, so that several figures can share a page."""
    figure, title, caption = drawn.figure, drawn.title, drawn.caption
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "text.parse_math": False, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        if buffer.tell() >= LARGEST_SVG:  # with very many points, pixels are smaller
            return Picture(id=f"{salt}-all", title=title, caption=caption, png=_png(figure))
        panels = _panels(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(id="|href="#|url\(#)', lambda found: found.group(1) + salt + "-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    opening = re.match(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', svg)
    assert opening is not None
    return Picture(
        id=f"{salt}-all",
        title=title,
        caption=caption,
        drawing=Markup(svg[opening.end() : svg.rindex("</svg>")]),  # matplotlib escapes what it draws
        view_box=opening[1],
        panels=tuple(" ".join(f"{number:.2f}" for number in panel) for panel in panels) if len(panels) > 1 else (),
        name=drawn.name,
        points=figure_points(drawn),
    )


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _panels(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Frame each column of axes with what is written around it: (x, y, width, height) in points from the top left."""
    width, height = 72 * figure.get_size_inches()
    boxes = [box for axes in figure.axes if (box := axes.get_tightbbox()) is not None]
    boxes = sorted((box.transformed(figure.dpi_scale_trans.inverted()) for box in boxes), key=lambda box: box.x0)
    above = 0.0 if figure.get_suptitle() else height - 72 * max(box.y1 for box in boxes) - PANEL_MARGIN_PT
    top = max(0.0, above)
    edges = [0.0, *(36 * (left.x1 + right.x0) for left, right in itertools.pairwise(boxes)), float(width)]
    return [(left, top, right - left, height - top) for left, right in itertools.pairwise(edges)]
