"""Adapt the site (a hook of MkDocs): pages from elsewhere in the repository, and no request to any network."""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
# Where a file lies in the repository, and on the site. `estimator.html` is there the name of the page on the estimator.
ADDED = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "docs/estimator.html": "estimator_sliders.html",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files, and the notebook as a page."""
    for source, place in ADDED.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    sys.path.append(str(Path(__file__).parent))
    notebook = importlib.import_module("notebook")
    document = json.loads(notebook.NOTEBOOK.read_text(encoding="utf-8"))
    files.append(File.generated(config, "notebook.md", content=notebook.as_markdown(document)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links to the added files, and those in them, to where they are on the site; show outputs as text."""
    markdown = re.sub(r"^```output.*$", "```text", markdown, flags=re.MULTILINE)
    if page.file.src_uri in ADDED.values():
        markdown = re.sub(r"\]\(docs/", "](", markdown)
    to_top = "../" * page.file.src_uri.count("/")
    for source, place in ADDED.items():
        name = source.removeprefix("docs/")
        markdown = re.sub(rf"\]\((?:\.\./)*{re.escape(name)}", f"]({to_top}{place}", markdown)
    return markdown


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Replace the one script that the theme would fetch: it lets the search work on pages opened from a disk."""
    return _local(output, "../" * page.file.dest_uri.count("/"))


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same for pages that are no documents, such as 404.html."""
    return _local(output_content, "")


def _local(html: str, to_top: str) -> str:
    return html.replace("https://unpkg.com/iframe-worker/shim", f"{to_top}make/iframe-worker/shim.js")
