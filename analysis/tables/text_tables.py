"""Tables in Markdown, in web pages and in notebooks, and text that only looks like one.

Nothing of a page or notebook is executed or fetched: the cells of its tables are taken as text.
"""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

MOST_CELLS = 2_000_000
_RULE = re.compile(r"[\s|+:=-]*[-=]{2}[\s|+:=-]*")
_EMPHASIS = re.compile(r"^(\*\*|__|`|\*)(.*)\1$")
# How text begins that is no table of runs, and what to do with it.
NO_TABLES = (
    (
        re.compile(r"(---\s)?\s*(- )?[\w.]+:( [^,;\t|]*)?\n\s*(- )?[\w.]+:[ \n]"),
        "YAML, which is not read; write JSON or CSV",
    ),
    (re.compile(r"@relation\b", re.IGNORECASE), "ARFF, which is not read; write CSV"),
    (re.compile(r"# (HELP|TYPE) \w+ "), "Prometheus metrics at one moment; export readings as a table of runs"),
    (re.compile(r"(%.*\n)*\\(begin|documentclass|toprule)\b"), "a LaTeX table; give the CSV behind it"),
    (re.compile(r"={3,}(\s+={3,})+\s*\n"), "a table in reStructuredText; give the CSV behind it"),
    (re.compile(r"\[[\w. -]+\]\s*\n\s*\w+\s*="), "TOML or INI, which is not read; write JSON or CSV"),
)


def no_table(text: str) -> str:
    """Return what a text is that holds no table to be read, and what to do; "" if nothing tells."""
    return next((what for pattern, what in NO_TABLES if pattern.match(text.lstrip())), "")


def markdown_table(text: str) -> str | None:
    """Return the lines of a text's only table of bars, without rules and emphasis; None if it has none or several."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if "|" in line or (blocks[-1] and _RULE.fullmatch(line) and line.strip()):
            blocks[-1].append(line.strip())
        elif blocks[-1] and not re.fullmatch(r"\s*[+][-=+]+\s*", line):
            blocks.append([])
    ruled = [block for block in blocks if len(block) > 2 and any(_RULE.fullmatch(line) for line in block[:2])]
    if len(ruled) != 1:
        return None
    rows = [line for line in ruled[0] if not _RULE.fullmatch(line)]
    cells = [[_plain(cell) for cell in row.strip("|").split("|")] for row in rows]
    return "\n".join(" | ".join(row) for row in cells)


def _plain(cell: str) -> str:
    text = cell.strip()
    while (found := _EMPHASIS.match(text)) and found[2]:
        text = found[2].strip()
    return text


class _Tables(HTMLParser):
    """Collect the cells of a page's tables, of each row; a cell over several columns counts for each."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.open = 0
        self.cell: list[str] | None = None
        self.wide = 1
        self.cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.open += 1
            if self.open == 1:
                self.tables.append([])
        elif self.open == 1 and tag == "tr":
            self._close()
            self.tables[-1].append([])
        elif self.open == 1 and tag in ("td", "th") and self.tables[-1]:
            self._close()
            wide = dict(attrs).get("colspan") or "1"
            self.cell, self.wide = [], min(int(wide), 50) if wide.isdigit() else 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr", "table"):
            self._close()
        if tag == "table":
            self.open = max(0, self.open - 1)

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell.append(data)

    def _close(self) -> None:
        if self.cell is not None and self.cells < MOST_CELLS:
            text = " ".join("".join(self.cell).split())
            self.tables[-1][-1] += [text] * self.wide
            self.cells += self.wide
        self.cell = None


def html_tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a page that have a row of names and one more, row by row."""
    parser = _Tables()
    parser.feed(text)
    parser.close()
    tables = [[row for row in table if any(row)] for table in parser.tables]
    return [table for table in tables if len(table) > 1 and len(table[0]) > 1]


def notebook_tables(document: object) -> list[list[list[str]]] | None:
    """Return the tables that a Jupyter notebook shows; None if a document is no notebook."""
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list) or "nbformat" not in document:
        return None
    found = []
    for cell in document["cells"]:
        for output in (cell.get("outputs") or []) if isinstance(cell, dict) else []:
            data = output.get("data") if isinstance(output, dict) else None
            page = data.get("text/html") if isinstance(data, dict) else None
            if page:
                found += html_tables("".join(page) if isinstance(page, list) else str(page))
    return found


def joined(rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Return a table's names and its rows, each as long as the names."""
    width = max(len(row) for row in rows)
    full = [[*row, *[""] * (width - len(row))] for row in rows]
    return full[0], full[1:]
