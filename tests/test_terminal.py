"""On a terminal tables keep within its width and colours are its user's choice; a pipe gets plain lines."""

import io
import re
import sys

import pytest

from lora_scaling import terminal

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
