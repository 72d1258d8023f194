"""What a terminal gets and a pipe does not: colours (unless NO_COLOR), tables within its width, a line that moves."""

import codecs
import contextlib
import io
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO, cast

from lora_scaling.text import columns, printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDEST_PROSE = 100
_STYLES = re.compile(r"\x1b\[(?:0|1|1;3[1-3])m")  # those that `styled` and the headers of tables make


def open_console(file: TextIO) -> "Console":
    """Return rich's console on a stream; it prints text as it is, without markup or guessed highlights.

    The console moves the cursor, so what is given to it must be printable.
    """
    from rich.console import Console

    file = file.stream if isinstance(file, _Guard) else file
    return Console(file=file, highlight=False, markup=False, emoji=False)


def is_notebook() -> bool:
    """Return whether a notebook's kernel started this process: a cell shows each move of a line as a line of its own.

    What `!command` starts there has a terminal, though not one that can move its cursor.
    """
    if "JPY_PARENT_PID" in os.environ:
        return True
    import psutil

    with contextlib.suppress(psutil.Error):
        return any("ipykernel" in word for parent in psutil.Process().parents() for word in parent.cmdline())
    return False


def make_printable() -> None:
    """Let everything be printed: without the signs that the encoding lacks, and to nowhere if a stream is closed."""
    with contextlib.suppress(OSError):
        while (free := os.open(os.devnull, os.O_RDWR)) <= 2:  # else a file opened later takes the place of stdout
            pass
        os.close(free)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process
        elif isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in ("utf-8", "utf8"):
            stream.reconfigure(errors="lora_scaling.plain")


_PLAIN = str.maketrans({"×": "x", "…": "...", "–": "-", "−": "-", "→": "->", "·": "-", "─": "-", "±": "+-", "≥": ">="})


def _spell(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(char if char.isascii() else "?" for char in text), error.end


codecs.register_error("lora_scaling.plain", _spell)


@contextlib.contextmanager
def guarded_output() -> Iterator[None]:
    """Let nothing reach stdout and stderr that a terminal would obey: names and answers come from other people."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Guard(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Guard:
    """A text stream that escapes what a terminal would obey, except this module's own styles."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        styles = _STYLES.findall(text) if self.stream.isatty() else ()
        parts = _STYLES.split(text) if styles else [text]
        start = "\r" if text.startswith("\r") else ""  # of the bar of a download, which redraws its line
        safe = [printable_lines(part) for part in (parts[0].removeprefix(start), *parts[1:])]
        between = (*styles, "")
        self.stream.write(start + "".join(f"{a}{b}" for a, b in zip(safe, between, strict=True)))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def prose_width() -> int:
    """Return the number of columns for running text: the terminal's, and at most 100."""
    return min(WIDEST_PROSE, open_console(sys.stdout).width) if sys.stdout.isatty() else WIDEST_PROSE


def styled(text: str, style: str) -> str:
    """Return the text in a style of rich's ("bold green") where stdout is a terminal, and else as it is."""
    from rich.text import Text

    text = printable(text)
    return _rendered(Text(text, style=style)) if sys.stdout.isatty() else text


def table(rows: Sequence[Sequence[str]], *, left: int = 1, right: Collection[int] | None = None) -> str:
    """Format rows, the header first, for stdout: columns as in `text.columns`, on a terminal within its width.

    A table that is too wide first states the columns that are the same in all rows once, above; if that does not
    suffice, each row becomes a list of its cells.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    figures = set(range(left, len(rows[0]))) if right is None else set(right)
    if not sys.stdout.isatty():
        return "\n".join(columns(rows, right=figures))
    width = open_console(sys.stdout).width
    if _width(rows) <= width:
        return _drawn(rows, figures)
    header, *body = rows
    same = [i for i in range(len(header)) if len(body) > 1 and len({row[i] for row in body}) == 1]
    lines = [_filled([f"{header[i]} {body[0][i]}" for i in same], width)] if same else []
    kept = [i for i in range(len(header)) if i not in same]
    narrow = [[row[i] for i in kept] for row in rows]
    if _width(narrow) <= width:
        return "\n".join([*lines, _drawn(narrow, {place for place, i in enumerate(kept) if i in figures})])
    for row in narrow[1:]:
        cells = [f"{name} {cell}" if name else cell for name, cell in zip(narrow[0], row, strict=True) if cell]
        lines.append("– " + _filled(cells, width - 2).replace("\n", "\n  "))
    return "\n".join(lines)


def _width(rows: Sequence[Sequence[str]]) -> int:
    return max(len(line) for line in columns(rows))


def _filled(cells: Sequence[str], width: int) -> str:
    """Join cells by dots, with a new line before one that does not fit any more."""
    lines = [""]
    for cell in cells:
        joined = f"{lines[-1]} · {cell}" if lines[-1] else cell
        if lines[-1] and len(joined) > width:
            lines.append(cell)
        else:
            lines[-1] = joined
    return "\n".join(lines)


def _drawn(rows: Sequence[Sequence[str]], figures: Collection[int]) -> str:
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(rows[0]):
        drawn.add_column(name, justify="right" if i in figures else "left", no_wrap=True)
    for row in rows[1:]:
        drawn.add_row(*row)
    return _rendered(drawn)


def _rendered(renderable: "RenderableType") -> str:
    console = open_console(sys.stdout)
    with console.capture() as captured:
        console.print(renderable, end="")
    return captured.get().rstrip("\n")
