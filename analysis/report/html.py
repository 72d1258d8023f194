"""The frame of the report and the few pieces of HTML it is made of. Every text is escaped here."""

import base64
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

import matplotlib as mpl
from matplotlib.figure import Figure

LARGEST_SVG = 400_000  # characters
PANEL_MARGIN = 4.0  # points
WIDEST = 1.65  # pixels a point: a narrow figure is not blown up
NUMBER = ' class="number"'


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: HTML, or the reason why there is none."""

    title: str
    html: str = ""
    reason: str | None = None

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z]+", "-", self.title.lower())


def page(*, title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole document; style and script are inline, nothing is fetched."""
    files = resources.files("analysis.report")
    style = files.joinpath("report.css").read_text(encoding="utf-8")
    script = files.joinpath("report.js").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections)
    body = "".join(
        f'<section id="{s.anchor}"><h2>{escape(s.title)}</h2>{s.html or paragraph(s.reason or "", "quiet")}</section>'
        for s in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><p class="quiet">{escape(subtitle)}</p><nav>{links}</nav></header>'
        f"<main>{body}</main><script>{script}</script></body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>"


def bullets(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def code(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def details(summary: str, html: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, label: str, sortable: bool = False) -> str:
    """A table in a box called `label`; cells that read as numbers, and headings of nothing else, are set flush right.

    The box scrolls sideways where it must, by keyboard as well; a table that does not sort wraps its cells first.
    """
    rows = list(rows)
    flush = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    names = [f"<button type=button>{escape(name)}</button>" if sortable else escape(name) for name in header]
    cells = "".join(f"<th{NUMBER if right else ''}>{name}</th>" for name, right in zip(names, flush, strict=True))
    body = "".join("<tr>" + "".join(_cell(text, wraps=not sortable) for text in row) + "</tr>" for row in rows)
    kind = "sortable" if sortable else "fitting"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+−]?[\d.,]+(e[-+]?\d+)?|–", text) is not None


def _cell(text: str, *, wraps: bool) -> str:
    """A cell; one that wraps does so within names like `constant_model` before it breaks words."""
    shown = escape(text).replace("_", "_<wbr>") if wraps else escape(text)
    return f"<td{NUMBER if _is_number(text) else ''}>{shown}</td>"


def picture(figure: Figure, title: str, caption: str, *, salt: str) -> str:
    """A figure as inline SVG with its caption; ids are made the figure's own, so that several share a page.

    Where the window is narrow its panels are shown one below the other: the same drawing, seen through a window each.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "text.parse_math": False, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        if buffer.tell() < LARGEST_SVG:
            drawing, kind = _inline(buffer.getvalue(), title, salt, _panels(figure)), "canvas"
        else:
            drawing, kind = _png(figure, title), "canvas pixels"
    focus = f' tabindex="0" role="region" aria-label="{escape(title)}"' if kind != "canvas" else ""
    return (
        f'<figure><h3>{escape(title)}</h3><div class="{kind}"{focus}>{drawing}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _panels(figure: Figure) -> list[tuple[float, float, float, float]]:
    """(x, y, width, height) in points from the top left of each column of axes, what is written around it included."""
    width, height = 72 * figure.get_size_inches()
    boxes = [box for axes in figure.axes if (box := axes.get_tightbbox()) is not None]
    boxes = sorted((box.transformed(figure.dpi_scale_trans.inverted()) for box in boxes), key=lambda box: box.x0)
    above = 0.0 if figure.get_suptitle() else height - 72 * max(box.y1 for box in boxes) - PANEL_MARGIN
    top = max(0.0, above)
    edges = [0.0, *(36 * (left.x1 + right.x0) for left, right in itertools.pairwise(boxes)), float(width)]
    return [(left, top, right - left, height - top) for left, right in itertools.pairwise(edges)]


def _png(figure: Figure, title: str) -> str:
    """A figure of very many points as pixels: smaller than the points."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'


def _inline(svg: str, title: str, salt: str, panels: Sequence[tuple[float, float, float, float]]) -> str:
    """The drawing once, and one window on it for each panel where there are several."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(id="|href="#|url\(#)', lambda found: found.group(1) + salt + "-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    opening = re.match(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', svg)
    assert opening is not None
    drawing = svg[opening.end() : svg.rindex("</svg>")]
    several = len(panels) > 1
    whole = (
        f'<svg role="img" viewBox="{opening[1]}" aria-label="{escape(title)}"{" class=whole" if several else ""}'
        f' style="max-width:{WIDEST * float(opening[1].split()[2]):.0f}px">'
        f'<g id="{salt}-all">{drawing}</g></svg>'
    )
    if not several:
        return whole
    boxes = [" ".join(f"{number:.2f}" for number in panel) for panel in panels]
    windows = "".join(
        f'<svg class="panel" aria-hidden="true" viewBox="{box}"><use href="#{salt}-all"/></svg>' for box in boxes
    )
    return whole + windows
