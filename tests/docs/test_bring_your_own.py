"""The page on one's own data shows what its commands say of files that the programs wrote."""

import re
import shlex
from pathlib import Path

import pytest

from analysis.cli import main
from tests.support.paths import ROOT

FOLDERS = [ROOT / "tests" / "analysis" / "tables" / name for name in ("written_by", "shaped_like")]
PAGE = (ROOT / "docs" / "bring_your_own.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```\n(?:.*\n)*?(lora-scaling analyse .*)\n```\n\n```text\n((?:.*\n)*?)```", PAGE)
TOLD = re.compile(r"(SUPPORTED|REFUTED|UNDECIDED) .*|  \[\w+\]|  [\w-]+: (status|`)|  ?\w+: [^0-9].*|co2_eq_emissions:")


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[command[21:60] for command, _ in SHOWN])
def test_a_command_says_what_the_page_shows(
    command: str, output: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command)[2:]
    [folder] = [folder for folder in FOLDERS if (folder / words[1]).exists()]
    monkeypatch.chdir(Path(folder))
    assert main(words) == 0
    said = capsys.readouterr().out
    shown = [match[0] for line in output.splitlines() if (match := TOLD.match(line))]
    assert shown
    for line in shown:
        assert line in said


def test_the_page_has_every_kind() -> None:
    assert len(SHOWN) >= 10
