"""The report in a browser, wide and as narrow as a phone: nothing fails, nothing overflows, sorting sorts."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims.verdicts import Options
from analysis.report import report
from analysis.report.findings import collect_findings
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import FACTORIAL, curve, noisy
from tests.support.paths import ROOT

STUDY_REPORT = ROOT / "docs" / "study" / "report.html"
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

# The report in frames of both widths; what is found there is written into this page as JSON.
HARNESS = """<!doctype html><meta charset="utf-8"><body><script>
const text = TEXT;
const widths = [1280, 390];
const found = {};
let left = widths.length;
function look(frame, width) {
  const page = frame.contentDocument, view = frame.contentWindow;
  const boxes = (kind) => [...page.querySelectorAll(kind)].map((e) => [e.scrollWidth, e.clientWidth]);
  const seen = (e) => e.getClientRects().length > 0 && e.getBoundingClientRect().width > 10;
  const column = (name) => {
    const table = page.querySelector("table.sortable");
    const index = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === name);
    const press = () => {
      table.tHead.rows[0].cells[index].querySelector("button").click();
      return [...table.tBodies[0].rows].map((row) => row.cells[index].textContent);
    };
    return { up: press(), down: press(), sort: table.tHead.rows[0].cells[index].getAttribute("aria-sort") };
  };
  found[width] = {
    errors: view.errors, scroll: page.documentElement.scrollWidth, width: view.innerWidth,
    verdicts: [...page.querySelectorAll(".card .verdict")].map((e) => e.textContent),
    intervals: [...page.querySelectorAll(".card .figure")].map((e) => e.textContent),
    prediction: boxes("#predictions .scroll"), canvases: boxes(".canvas"), drawn: boxes("#figures .canvas"),
    drawings: [...page.querySelectorAll("#figures svg")].filter(seen).map((e) => e.getBoundingClientRect().width),
    regions: [...page.querySelectorAll(".scroll")].map((e) => [e.tabIndex, e.getAttribute("role"), e.ariaLabel]),
    grams: column("emissions g"), ids: column("run id"),
  };
  if (--left) return;
  document.body.append(Object.assign(document.createElement("pre"), { textContent: JSON.stringify(found) }));
}
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 800; frame.srcdoc = text;
  frame.addEventListener("load", () => look(frame, width));
  document.body.append(frame);
}
</script></body>"""
LISTEN = "<script>errors = []; addEventListener('error', (e) => errors.push(e.message))</script>"


@pytest.fixture(scope="module")
def page() -> str:
    """Runs of samples × epochs; the grams of some are not known."""
    rng = np.random.default_rng(4)
    frame = FACTORIAL.draw(rng, {"method": "lora", "rank": 8.0, "model": "ladder-1m", "params": 1.3e6})
    frame["energy_kwh"] = noisy(rng, curve(frame, fixed=0.3), 0.02)
    frame["tokens_seen"] = 100.0 * frame["samples_seen"]
    frame["flops"] = 5e6 * frame["tokens_seen"]
    frame["emissions_g"] = (frame["energy_kwh"] * 1e5).where(frame.index % 3 != 0)
    return report.render(collect_findings(table_from_frame(frame), Options(), [["samples=100000", "epochs=1"]]))


def chromium(folder: Path, page: Path, *flags: str) -> str:
    """Open a page without a window and return what is printed."""
    usual = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    usual += f" disable-component-update disable-sync user-data-dir={folder / 'p'}"
    command = [str(CHROMIUM), *(f"--{flag}" for flag in [*usual.split(), *flags]), page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def found(page: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("report")
    text = json.dumps(page.replace("<head>", f"<head>{LISTEN}", 1)).replace("</", "<\\/")
    (folder / "page.html").write_text(HARNESS.replace("TEXT", text, 1), encoding="utf-8")
    document = chromium(folder, folder / "page.html", "dump-dom", "virtual-time-budget=20000")
    return json.loads(html.unescape(re.findall(r"<pre>(\{.*\})</pre>", document, re.S)[-1]))


@pytest.mark.parametrize("width", ["1280", "390"])
def test_nothing_fails_and_the_body_needs_no_sideways_scroll(found: dict[str, Any], width: str) -> None:
    seen = found[width]
    assert seen["errors"] == []
    assert seen["width"] == int(width)
    assert seen["scroll"] <= seen["width"]


@pytest.mark.parametrize("width", ["1280", "390"])
def test_predictions_and_figures_fit_the_window(found: dict[str, Any], width: str) -> None:
    seen = found[width]
    assert seen["prediction"]
    assert all(scroll <= client for scroll, client in [*seen["prediction"], *seen["canvases"]])
    assert min(seen["drawings"]) > 0.75 * min(int(width), 1000)


def test_panels_are_stacked_on_a_phone_and_only_there(found: dict[str, Any]) -> None:
    assert len(found["390"]["drawings"]) > len(found["1280"]["drawings"]) == len(found["1280"]["drawn"])


def test_cards_show_verdicts_and_the_level_of_their_intervals(found: dict[str, Any]) -> None:
    seen = found["1280"]
    assert len(seen["verdicts"]) == 7
    assert "Yes · supported" in seen["verdicts"]
    assert seen["intervals"]
    assert all("(90 % interval " in text for text in seen["intervals"])


def test_boxes_that_scroll_can_be_reached_by_keyboard(found: dict[str, Any]) -> None:
    assert len(found["1280"]["regions"]) >= 3
    assert all(index == 0 and role == "region" and label for index, role, label in found["1280"]["regions"])


def test_a_column_sorts_numbers_as_numbers_and_the_unknown_last(found: dict[str, Any]) -> None:
    grams = found["390"]["grams"]
    assert grams["sort"] == "descending"
    for direction, sign in (("up", 1), ("down", -1)):
        cells = pd.Series(grams[direction])
        unknown = cells == "–"
        assert 0 < unknown.sum() < len(cells)
        assert unknown.is_monotonic_increasing
        numbers = sign * cells[~unknown].str.replace(",", "").astype(float)
        assert numbers.is_monotonic_increasing
        assert numbers.nunique() > 10
    assert found["390"]["ids"]["up"] == sorted(found["390"]["ids"]["up"])


def test_the_report_of_the_published_study_prints_on_twelve_pages_at_most(tmp_path: Path) -> None:
    chromium(tmp_path, STUDY_REPORT, f"print-to-pdf={tmp_path / 'report.pdf'}")
    pages = re.findall(rb"/Type /Page\b", (tmp_path / "report.pdf").read_bytes())
    assert 4 <= len(pages) <= 12
