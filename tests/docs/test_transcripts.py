"""The transcripts of docs/clusters.md: what is typed into a shell comes out with its answers, and each has come out."""

import importlib
import sys

from tests.support.paths import ROOT

sys.path.append(str(ROOT / "docs" / "make"))
transcripts = importlib.import_module("transcripts")


def test_what_is_typed_comes_out_with_its_answers_in_their_order() -> None:
    lines = ["echo $small 'it'", "sh -c 'exit 3' & wait $!; echo status $?", "pwd > a; ls; echo wrong >&2"]
    written = transcripts.come_out(lines, "a=1 b=2")
    expected = "$ {}\na=1 b=2 it\n$ {}\nstatus 3\n$ {}\na\nwrong".format(*lines)
    assert written == expected
    assert transcripts.typed(written) == lines


def test_each_transcript_of_the_page_has_come_out() -> None:
    found = {match["name"]: match["text"] for match in transcripts.BLOCK.finditer(transcripts.PAGE.read_text("utf-8"))}
    assert {"preset", "cancelled", "limits", "never", "again", "requeued", "drained", "study", "ray", "hosts"} <= set(
        found
    )
    for name, text in found.items():
        answers = [line for line in text.splitlines() if not line.startswith("$ ")]
        assert answers, f"{name}: python docs/make/transcripts.py writes what comes out"
        assert not any("Traceback" in line for line in answers), name
