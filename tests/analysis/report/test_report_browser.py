"""The report in a browser, wide and as narrow as a phone: nothing fails, nothing overflows, sorting sorts."""

import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
// Point at the first run of the question's figure, go on by keyboard, hide a series, change the axes, save the data.
async function point(page, view) {
  const figure = page.querySelector("#in-short figure"), canvas = figure.querySelector(".canvas");
  const data = JSON.parse(figure.querySelector("script").textContent), svg = canvas.querySelector("svg.chosen");
  const tip = () => canvas.querySelector(".tip").hidden ? null : canvas.querySelector(".tip").textContent;
  const button = (name) => [...figure.querySelectorAll("button")].find((one) => one.textContent === name);
  const [left, top] = data.panels[0].points[0];
  const place = new view.DOMPoint(left, top).matrixTransform(svg.getScreenCTM());
  const bubbles = true;
  const move = (x, y) => svg.dispatchEvent(new view.PointerEvent("pointermove", { bubbles, clientX: x, clientY: y }));
  const press = (key) => canvas.dispatchEvent(new view.KeyboardEvent("keydown", { key, bubbles }));
  move(place.x + 1, place.y - 1);
  const pointed = tip();
  move(place.x + 1000, place.y);
  const away = tip();
  press("ArrowRight");
  const first = tip();
  press("ArrowRight");
  const second = tip();
  press("Escape");
  const groups = [...figure.querySelectorAll("g[id]")];
  const left_out = () => groups.filter((one) => one.style.display === "none").map((one) => one.id);
  button(data.series[0]).click();
  const hidden = left_out(), pressed = button(data.series[0]).getAttribute("aria-pressed");
  move(place.x, place.y);
  const of_hidden = tip();
  button(data.series[0]).click();
  button("linear").click();
  const chosen = [...figure.querySelectorAll("svg.panel")].map((one) => one.getBoundingClientRect().width > 10);
  const blobs = [];
  view.URL.createObjectURL = (blob) => { blobs.push(blob); return "#saved"; };
  view.HTMLAnchorElement.prototype.click = () => {};  // nothing is written to disk
  button("CSV").click();
  button("SVG").click();
  const [csv, drawing] = await Promise.all(blobs.map((blob) => blob.text()));
  const after = { escaped: tip(), back: left_out() };
  return { data, pointed, away, first, second, hidden, pressed, of_hidden, chosen, csv, drawing, ...after };
}
async function look(frame, width) {
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
    grams: column("emissions g"), ids: column("run id"), figure: await point(page, view),
  };
  if (--left) return;
  document.body.append(Object.assign(document.createElement("pre"), { textContent: JSON.stringify(found) }));
}
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 800; frame.srcdoc = text;
  const fail = (error) => {
    document.body.append(Object.assign(document.createElement("b"), { textContent: error.stack }));
  };
  frame.addEventListener("load", () => look(frame, width).catch(fail));
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
    assert (failed := re.findall(r"<b>(.*?)</b></body>", document, re.S)) == [], failed
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


def test_one_can_point_at_a_run_by_mouse_and_by_keyboard(found: dict[str, Any]) -> None:
    for width in ("1280", "390"):
        seen = found[width]["figure"]
        panel, names, runs = seen["data"]["panels"][0], seen["data"]["names"], seen["data"]["runs"]
        _, _, x, y, name, run = panel["points"][0]
        lines = seen["pointed"].split("\n")
        assert lines[:3] == [runs[run], names[name], f"Samples in the training set: {x:,g}"]
        label, _, value = lines[3].rpartition(": ")
        assert label == panel["y"]
        assert float(value.replace(",", "")) == pytest.approx(y, rel=1e-4)
        assert seen["away"] is seen["escaped"] is None
        assert names[name] not in (seen["of_hidden"] or "").split("\n")
        assert seen["first"] != seen["second"]
        assert {seen["first"].split("\n")[0], seen["second"].split("\n")[0]} <= set(runs)


def test_series_are_hidden_and_axes_changed_at_a_click(found: dict[str, Any]) -> None:
    seen = found["1280"]["figure"]
    assert seen["pressed"] == "false"
    parts = ("band", "line", "name", "points")
    assert sorted(seen["hidden"]) == [f"q-p{panel}s0{part}" for panel in (0, 1) for part in parts]
    assert seen["back"] == []
    assert seen["chosen"] == [False, True]


def test_data_and_drawing_of_a_figure_can_be_saved(found: dict[str, Any]) -> None:
    seen = found["1280"]["figure"]
    table = pd.read_csv(io.StringIO(seen["csv"]))
    points = table[(table["panel"] == 2) & (table["kind"] == "points")]
    assert len(points) == len(seen["data"]["panels"][1]["points"])
    assert set(points["run_id"].dropna()) == set(seen["data"]["runs"])
    assert set(table["kind"]) == {"points", "line"}
    ElementTree.fromstring(seen["drawing"])  # whole, with the name spaces it needs


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
