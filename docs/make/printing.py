"""Run commands and programs in the checkout, catch what they print, and keep the pages made of it."""

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the packages of this checkout


def keep(pages: Mapping[Path, Callable[[], str]], words: Sequence[str] | None, about: str) -> int:
    """Write the pages, or say which are out of date; the exit status of a command that does.

    pages: the function that makes each. words: those of the command line. about: what the command does.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--check", action="store_true", help="change nothing, and name what is out of date")
    check = parser.parse_args(words).check
    stale = False
    for path, made in pages.items():
        text = made()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale = True
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)} {'is out of date' if check else 'written'}")
    return 1 if check and stale else 0


def run(words: list[str]) -> tuple[str, int]:
    """Return what `python -m …` or `lora-scaling …` prints, and its exit status."""
    from lora_scaling.commands.program import COMMANDS, main

    rest = words[1:]
    if words[0] != "lora-scaling":
        assert words[:2] == ["python", "-m"], f"`{' '.join(words)}` is no command whose output can be made here"
        name = "analyse" if words[2] == "analysis" else words[2].removeprefix("lora_scaling.")
        assert name in COMMANDS
        rest = [name, *words[3:]]
    with caught() as printed:
        try:
            status = main(rest)
        except SystemExit as end:  # of --help
            status = int(end.code or 0)
    return printed.getvalue(), status


def run_python(code: str) -> str:
    """Return what a program prints."""
    with caught() as printed:
        exec(compile(code, "a page", "exec"), {"__name__": "a page"})
    return printed.getvalue()


@contextlib.contextmanager
def caught() -> Iterator[io.StringIO]:
    """Catch what is printed on stdout, in the checkout and on a terminal of 100 columns."""
    before, variables, printed = Path.cwd(), dict(os.environ), io.StringIO()
    os.environ |= {"COLUMNS": "100", "XDG_CACHE_HOME": tempfile.gettempdir()}
    os.chdir(ROOT)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            yield printed
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)
