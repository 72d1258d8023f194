"""Execute the notebook of the documentation, and show it as a page.

    python docs/make/notebook.py            execute docs/notebook.ipynb and keep its outputs
    python docs/make/notebook.py --check    execute it and keep nothing; end with status 1 if a cell fails

The site shows the outputs that are kept (`as_markdown`, called by hooks.py).
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
SECONDS = 600  # for a cell


def executed(path: Path = NOTEBOOK) -> dict[str, Any]:
    """Execute a notebook in an empty folder and return it with its outputs.

    Raises:
        CellExecutionError: a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = {"metadata": {"path": folder}}
            NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place).execute()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return json.loads(nbformat.writes(notebook))


def tidy(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs from one machine to another: times of cells, versions, names of kernels, log lines."""
    document["metadata"] = {"language_info": {"name": "python"}}
    for cell in document["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = [item for item in cell["outputs"] if item.get("name") != "stderr"]
            for output in cell["outputs"]:
                if len(output.get("data", {})) > 1:
                    del output["data"]["text/plain"]
    return document


def as_markdown(document: dict[str, Any]) -> str:
    """Return a notebook as a page: text, programs, and what they showed."""
    parts = []
    for cell in document["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts.append(f"```py\n{source}\n```")
            parts += [_shown(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text'])}```"
    data = {kind: "".join(value) for kind, value in output["data"].items()}
    if "image/png" in data:
        return f'<img alt="The figure that the cell draws" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        html = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
        lines = (line.strip() for line in html.splitlines())
        return f'<div class="output">{"".join(line + " " for line in lines if line)}</div>'
    return f"```text\n{data['text/plain']}\n```"


def main(words: list[str] | None = None) -> int:
    """Execute the notebook."""
    parser = argparse.ArgumentParser(description="Execute the notebook of the documentation.")
    parser.add_argument("--check", action="store_true", help="keep nothing; end with status 1 if a cell fails")
    check = parser.parse_args(words).check
    from nbclient.exceptions import CellExecutionError

    try:
        document = tidy(executed())
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        return 1
    if not check:
        NOTEBOOK.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
