"""Write into the pages what their commands and programs print.

    python docs/make/outputs.py            rewrite all pages
    python docs/make/outputs.py --check    say which pages are out of date, and end with status 1

A block marked ```output holds what the block before it prints: its last command, or its Python program. `lines=3-9`
behind the word keeps these lines alone, and `from="TEXT" lines=1-4` counts from the first line that holds the text.
"""

import functools
import re
import shlex
import sys
from pathlib import Path

from printing import ROOT, keep, run, run_python

BLOCK = re.compile(
    r"^```(?P<language>\w*)\n(?P<code>(?:(?!```).*\n)*)```\n\n```output(?P<options>.*)\n(?P<old>(?:(?!```).*\n)*)```$",
    re.MULTILINE,
)
OPTION = re.compile(r'(\w+)=(?:"([^"]*)"|(\S+))')
ENDS = {">", "|"}  # of a command, in a shell


def pages() -> list[Path]:
    """List the pages that hold such blocks."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if BLOCK.search(path.read_text(encoding="utf-8"))]


def rewritten(text: str) -> str:
    """Return a page with every output as it is now."""
    return BLOCK.sub(_with_output, text)


def _with_output(match: re.Match[str]) -> str:
    printed = run_python(match["code"]) if match["language"] == "python" else _of_command(match["code"])
    options = {name: quoted or plain for name, quoted, plain in OPTION.findall(match["options"])}
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    if "from" in options:
        lines = lines[next(i for i, line in enumerate(lines) if options["from"] in line) :]
    if "lines" in options:
        first, _, last = options["lines"].partition("-")
        lines = lines[int(first) - 1 : int(last or first)]
    body = "".join(f"{line}\n" for line in lines)
    return f"```{match['language']}\n{match['code']}```\n\n```output{match['options']}\n{body}```"


@functools.cache
def _of_command(block: str) -> str:
    command = re.sub(r"\\\n\s*", " ", block).strip().splitlines()[-1]
    words = shlex.split(command, comments=True)
    for end in ENDS & set(words):
        words = words[: words.index(end)]
    printed, status = run(words)
    assert status == 0, f"`{command}` ended with status {status}"
    return printed


def main(words: list[str] | None = None) -> int:
    """Rewrite the pages, or say which are out of date."""
    made = {path: functools.partial(_made, path) for path in pages()}
    return keep(made, words, "Write into the pages what their commands print.")


def _made(path: Path) -> str:
    return rewritten(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
