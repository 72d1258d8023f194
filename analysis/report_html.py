"""The frame of the report and the few pieces of HTML it is made of. Every text is escaped here."""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

import matplotlib as mpl
from matplotlib.figure import Figure

LARGEST_SVG = 400_000  # characters


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
    files = resources.files("analysis")
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


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, sortable: bool = False) -> str:
    """A table in a box that scrolls sideways; cells that read as numbers are set flush right."""
    cells = "".join(
        f"<th>{f'<button type=button>{escape(name)}</button>' if sortable else escape(name)}</th>" for name in header
    )
    body = "".join("<tr>" + "".join(_cell(text) for text in row) + "</tr>" for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    number = re.fullmatch(r"[-+−]?[\d.,]+(e[-+]?\d+)?|–", text) is not None
    return f'<td class="number">{escape(text)}</td>' if number else f"<td>{escape(text)}</td>"


def picture(figure: Figure, title: str, caption: str, *, salt: str) -> str:
    """A figure as inline SVG with its caption; ids are made the figure's own, so that several share a page."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "text.parse_math": False, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        drawing = _inline(buffer.getvalue(), title, salt) if buffer.tell() < LARGEST_SVG else _png(figure, title)
    head = f"<h3>{escape(title)}</h3>"
    return f'<figure>{head}<div class="canvas">{drawing}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _png(figure: Figure, title: str) -> str:
    """A figure of very many points as pixels: smaller than the points."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'


def _inline(svg: str, title: str, salt: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(id="|href="#|url\(#)', lambda found: found.group(1) + salt + "-", svg)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', rf'<svg role="img" viewBox="\1" aria-label="{escape(title)}">', svg
    )
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
