"""Every file that a command writes is whole or absent, and an output that cannot be written is one sentence."""

import io
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from analysis.figures.plot import save
from analysis.figures.style import DrawnFigure
from lora_scaling import terminal
from lora_scaling.commands.cli import command
from lora_scaling.config import compose
from lora_scaling.errors import UnwritableError
from lora_scaling.estimate import estimate
from lora_scaling.estimate.compare_plot import write_plot
from lora_scaling.estimate.page import page_data, write_page
from lora_scaling.records import write_text


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to make a file larger than this many bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def a_page(folder: Path) -> None:
    write_page(folder / "out.html", page_data(compose(["hardware=l4"])))


def a_plot(folder: Path) -> None:
    write_plot(folder / "out.svg", [("l4", estimate(compose(["hardware=l4"])))], what="hardware")


def a_figure(folder: Path) -> None:
    save(DrawnFigure(name="out", title="t", figure=Figure(), caption="c"), folder)


@pytest.mark.parametrize("write", [a_page, a_plot, a_figure])
def test_a_full_disk_leaves_the_old_file_and_nothing_of_the_new_one(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    old = {tmp_path / f"out.{suffix}": b"old" for suffix in ("html", "svg", "png")}
    for path, content in old.items():
        path.write_bytes(content)
    refused = pytest.raises(
        UnwritableError, match=r": got .*, which cannot be written \(File too large\); give another"
    )
    with refused, files_of_at_most(100):
        write(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_write_that_is_interrupted_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "run.json", "new")
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_a_link_or_a_device_stays_what_it_is(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    write_text(link, "new", setting="page")
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "new"
    write_text(Path(os.devnull), "new", setting="page")
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("flush", [True, False])
def test_an_output_that_cannot_be_written_is_one_sentence(
    flush: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def main(words: list[str]) -> int:
        print("a line", flush=flush)
        return 0

    with open("/dev/full", "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert command()(main)([]) == 1
    assert capfd.readouterr().err == (
        "lora-scaling: output: cannot be written (No space left on device); free some space, or send it elsewhere\n"
    )


@pytest.mark.parametrize(("encoding", "printed"), [("ascii", b"2 x 3 -> 6 ?g\n"), ("utf-8", "2 × 3 → 6 µg\n".encode())])
def test_signs_that_an_encoding_lacks_are_spelt(encoding: str, printed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding=encoding))
    terminal.make_printable()
    print("2 × 3 → 6 µg", flush=True)
    assert buffer.getvalue() == printed


def test_a_closed_stdout_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)

    def main(words: list[str]) -> int:
        print("a line")
        return 0 if sys.stdout.isatty() is False else 1

    assert command()(main)([]) == 0
    sys.stdout.close()


def test_memory_that_is_refused_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def main(words: list[str]) -> int:
        bytearray(1 << 60)
        return 0

    assert command()(main)([]) == 1
    assert capsys.readouterr().err.startswith("lora-scaling: memory: this process was refused more of it; ")
