"""On a terminal tables keep within its width and colours are its user's choice; a pipe gets plain lines."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

from lora_scaling import terminal
from lora_scaling.grid.series import GridError
from lora_scaling.templates import render
from tests.support.commands import command

ROWS = [
    ("model", "method", "samples", "energy (Wh)", "CO2e (g)"),
    *(("ladder-1m", "lora", str(samples), f"{samples / 64:.3g}", f"{samples / 100:.3g}") for samples in (64, 12800)),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.table(ROWS, left=2))


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_table_fits_its_terminal_and_loses_no_cell(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = on_a_terminal(monkeypatch, width)
    assert max(map(len, text.splitlines())) <= width
    assert all(cell in text for row in ROWS for cell in row)


def test_what_all_rows_share_is_said_once_where_room_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    first, header, *rows = on_a_terminal(monkeypatch, 40).splitlines()
    assert first == "model ladder-1m · method lora"
    assert header.split() == ["samples", "energy", "(Wh)", "CO2e", "(g)"]
    assert [row.split() for row in rows] == [["64", "1", "0.64"], ["12800", "200", "128"]]


def test_figures_are_flush_right(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.rstrip() for line in on_a_terminal(monkeypatch, 200).splitlines()]
    assert len({len(line) for line in lines}) == 1


def test_a_pipe_gets_plain_lines_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert sys.stdout.isatty() is False
    header, *rows = terminal.table(ROWS, left=2).splitlines()
    assert header.split() == ["model", "method", "samples", "energy", "(Wh)", "CO2e", "(g)"]
    assert len(rows) == 2
    assert terminal.styled("SUPPORTED", "bold green") == "SUPPORTED"


@pytest.mark.parametrize(("given", "coloured"), [(None, True), ("1", False)])
def test_colour_is_off_with_no_color(given: str | None, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch, 80)
    if given is not None:
        monkeypatch.setenv("NO_COLOR", given)
    assert ("\x1b[1;32m" in terminal.styled("SUPPORTED", "bold green")) is coloured


EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202e[red]x[/red]\x00"
CONTROLS = re.compile("[^\\n -~\xa1-\u2027\u202f-\ufffd]")


def test_nothing_that_a_terminal_obeys_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the styles of the program itself, and for the carriage return of a bar that redraws its line."""
    on_a_terminal(monkeypatch, 80)
    monkeypatch.setattr(sys, "stderr", Terminal())
    out, err = sys.stdout, sys.stderr
    with terminal.guarded_output():
        print(EVIL, terminal.styled(EVIL, "bold green"))
        print(terminal.table([("model", "n"), (EVIL, "1")]))
        print(EVIL, file=sys.stderr)
        print(f"\rdone {EVIL}", end="", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == (out, err)
    assert isinstance(out, io.StringIO)
    assert isinstance(err, io.StringIO)
    shown = re.sub(r"\x1b\[(1;32|1|0)m", "", out.getvalue())
    assert not CONTROLS.findall(shown)
    assert out.getvalue().count("\x1b[1;32m") == 1
    assert not CONTROLS.findall(err.getvalue().replace("\rdone", "done"))
    assert shown.count("[red]x[/red]") == 3


@pytest.mark.parametrize("words", [["claims", "TABLE"], ["claims", "TABLE", "--json"], ["claims", EVIL[:-1]]])
def test_names_of_a_received_table_reach_no_terminal_as_they_are(words: list[str], tmp_path: Path) -> None:
    table = tmp_path / "t\x1b[31m\u202e.csv"
    name = EVIL.replace("\x00", "")  # no table has that
    lines = [f"r{n}{name},{n},1,{0.01 + n / 1000},{name},{name},{name}" for n in (8, 16, 32, 64, 128)]
    table.write_text("\n".join([f"run_id,samples,epochs,energy_kwh,model,study,{name}", *lines]), encoding="utf-8")
    done = command("analysis", *(str(table) if word == "TABLE" else word for word in words))
    assert not CONTROLS.findall(done.stdout + done.stderr)
    if "--json" in words:
        json.loads(done.stdout)
    elif words[1] == "TABLE":
        assert "[red]x[/red]" in done.stdout + done.stderr


def test_the_log_of_a_grid_answer_is_printable() -> None:
    assert not CONTROLS.findall(str(GridError(f"answered {EVIL}")))


def test_text_in_a_page_is_printable() -> None:
    page = render("analysis.report", "page.html.j2", title=f"{EVIL}<b>", subtitle="", sections=[])
    assert "\u202e" not in page
    assert "&lt;b&gt;" in page
