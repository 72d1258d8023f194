"""Render the jinja2 templates of this project's pages.

Templates escape all values, because values from a record, a table or a command line are data. Only the text of a
template, `Markup`, and files of its own folder (with `text_of`) are inserted as they are.
"""

import functools
import importlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scaling.text import printable_lines

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render(package: str, name: str, /, **values: Any) -> "Markup":
    """Render template `name` from the folder `templates` of a package.

    Raises:
        jinja2.TemplateError: the template names a value that is not given.
    """
    from markupsafe import Markup

    return Markup(environment(package).get_template(name).render(**values))


@functools.cache
def environment(package: str) -> "Environment":
    """Return the jinja2 environment of a package's templates: everything is escaped, and a missing name is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = templates_dir(package)
    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # `tojson` escapes what could end a script element; the keys keep the order of the page.
    made.policies["json.dumps_function"] = json.dumps
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    made.filters["breakable"] = _breakable
    made.tests["numeric_text"] = _is_numeric_text
    made.globals["text_of"] = functools.partial(_text_of, folder)
    return made


def _printable(value: Any) -> Any:
    """Escape control characters and marks of direction in text that is inserted, but for text that is HTML already."""
    return printable_lines(value) if type(value) is str else value


def templates_dir(package: str) -> Path:
    """Return the folder of a package's templates."""
    file = importlib.import_module(package).__file__
    assert file is not None
    return Path(file).parent / "templates"


def _text_of(folder: Path, name: str) -> "Markup":
    """Return a style sheet or script of the templates' folder unchanged."""
    from markupsafe import Markup

    return Markup((folder / name).read_text(encoding="utf-8"))


def _breakable(text: str) -> "Markup":
    """Let a name like `constant_model` break after its underscores."""
    from markupsafe import Markup, escape

    return escape(text).replace("_", Markup("_<wbr>"))


def _is_numeric_text(text: str) -> bool:
    """Return whether a cell looks like a number; a dash is an unknown number."""
    return re.fullmatch(r"[-+−]?[\d.,]+(e[-+]?\d+)?|–", text) is not None
