"""What is made by a command is up to date: outputs on the pages, and the reference."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

sys.path.append(str(ROOT / "docs" / "make"))
outputs = importlib.import_module("outputs")
reference = importlib.import_module("reference")
notebook = importlib.import_module("notebook")


@pytest.mark.parametrize("page", outputs.pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_shows_what_is_printed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert outputs.rewritten(text) == text, "python docs/make/outputs.py writes it anew"


def test_an_output_is_that_of_the_block_before_it() -> None:
    page = "Text\n```python\nprint('a\\nb\\nc\\nd')\n```\n\n```output from=\"b\" lines=1-2\nold\n```\nMore\n"
    assert outputs.rewritten(page) == page.replace("old", "b\nc")
    page = "```\nlora-scaling --version\n```\n\n```output\nold\n```\n"
    with pytest.raises(AssertionError):
        assert outputs.rewritten(page) == page


def test_a_command_that_fails_is_noticed() -> None:
    with pytest.raises(AssertionError, match="ended with status 2"):
        outputs.rewritten("```\npython -m analysis claims nothing.csv\n```\n\n```output\n```\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_of_the_reference_is_that_of_the_code(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert reference.page(name) == written, "python docs/make/reference.py writes it anew"


def test_the_reference_has_every_setting_column_and_function() -> None:
    """Read from the pages, against lists that the pages are not made from."""
    pages = {name: (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") for name in reference.PAGES}
    for setting in ("samples", "lora.r", "grid.zone", "metering.cpu_power_w", "data.path", "hardware.link_gb_s"):
        assert f"| `{setting}` |" in pages["settings.md"]
    for column in ("samples", "epochs", "energy_kwh", "energy_gpu_kwh", "mfu"):
        assert f"| `{column}` |" in pages["columns.md"]
    for name in (
        "compose",
        "estimate",
        "footprint",
        "run",
        "load_runs",
        "decide",
        "fit",
        "extrapolate",
        "figures",
        "report",
    ):
        assert f"\n### {name}\n" in pages["python.md"]
    for field in ("claims[].verdict", "claims[].needs.command", "energy_kwh.low"):
        assert f"| `{field}` |" in pages["json.md"]
    for preset in ("llama-3.1-8b", "h100-sxm", "+sweeps=quick"):
        assert f"| `{preset}` |" in pages["presets.md"]
    assert "## lora-scaling analyse backtest" in pages["commands.md"]


def test_the_notebook_is_kept_as_it_was_executed() -> None:
    """`.ci/run` executes it again; here, that each program has an output, and that the page shows them."""
    document = json.loads(notebook.NOTEBOOK.read_text(encoding="utf-8"))
    programs = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in programs] == list(range(1, len(programs) + 1))
    assert {output["output_type"] for cell in programs for output in cell["outputs"]} == {"execute_result"}
    page = notebook.as_markdown(document)
    assert page.count("```py\n") == len(programs) == sum(len(cell["outputs"]) for cell in programs)
    for shown in (
        "Verdicts on energy",
        "data:image/png;base64,",
        "energy_kwh",
        "modelled from priors",
        "samples=50000",
    ):
        assert shown in page
