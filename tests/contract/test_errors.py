"""Errors have one form: `FIELD: got VALUE; what is allowed or what to do`, without a full stop, in every module."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

USERS = {"UserError", "RecordError", "UnwritableError"}
SUBJECT = re.compile(r"[\w.{}+-]+(, [\w.{}+-]+)*: ")  # settings, an option, a file or a folder


def texts() -> Iterator[tuple[str, str]]:
    """(place, text) of every UserError that the code makes from a text of its own; `{}` stands for what is put in."""
    for package in ("lora_scaling", "analysis"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in USERS:
                    text = "".join(_pieces(node.args[0])) if node.args else ""
                    if text.strip("{}"):
                        yield f"{file.relative_to(ROOT)}:{node.lineno}", text


def _pieces(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield from _pieces(part) if isinstance(part, ast.Constant) else ("{}",)
    elif isinstance(node, ast.BinOp):
        yield from _pieces(node.left)
        yield from _pieces(node.right)
    else:
        yield "{}"


@pytest.mark.parametrize(("place", "text"), list(texts()))
def test_the_text_of_an_error_has_the_one_form(place: str, text: str) -> None:
    assert SUBJECT.match(text), f"{place}: {text!r} does not begin with what it is about and a colon"
    assert not text.endswith("."), f"{place}: {text!r} ends with a full stop"
