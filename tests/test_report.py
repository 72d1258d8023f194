"""The page: whole, self-contained, escaped, and of one mind with `claims --json`."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.claims import decide
from analysis.report_estimates import read_estimates, sentence
from analysis.table import table_from_frame
from analysis.verdicts import Options
from lora_scaling.errors import UserError
from lora_scaling.estimate.cli import main

VOID = {"img", "meta", "br", "path", "use", "rect", "circle", "line", "image"}


def affine_runs(exponent: float = 1.0, name: str = "m") -> pd.DataFrame:
    """Runs whose energy is 0.001 + 2e-5·samples^exponent kWh within 1 %, three of each, measured on a GPU."""
    generator = np.random.default_rng(7)
    rows = []
    for samples in (64, 128, 256, 512, 1024, 2048):
        for replicate in range(3):
            energy = (1e-3 + 2e-5 * samples**exponent) * float(np.exp(0.01 * generator.standard_normal()))
            rows.append(
                {
                    "run_id": f"{name}-{samples}-{replicate}", "study": "s", "samples": samples, "epochs": 1,
                    "energy_kwh": energy, "energy_gpu_kwh": energy, "energy_source_gpu": "nvml_counter",
                    "energy_train_kwh": energy - 1e-3, "tokens_seen": 100 * samples, "flops": 1e9 * samples,
                    "method": "lora", "rank": 8, "model": name, "params": 1e6, "steps": samples // 8,
                    "emissions_g": 100 * energy, "intensity_status": "static",
                }
            )  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=3)


class Page(HTMLParser):
    """Balance of tags, addresses and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def findings() -> report.Findings:
    return report.find(table_from_frame(affine_runs()), Options(), [])


@pytest.fixture(scope="module")
def html(findings: report.Findings) -> str:
    return report.render(findings)


def test_the_page_is_whole_and_fetches_nothing(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert {"h1", "h2", "figure", "svg", "table"} <= page.tags
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))  # several figures share the page
    targets = {address[1:] for address in page.addresses if address.startswith("#")}
    assert targets <= set(page.ids)


def test_every_section_is_there(findings: report.Findings, html: str) -> None:
    titles = ("In short", "Verdicts", "Figures", "Predictions", "Measured and modelled", "Emissions", "Warnings")
    for title in (*titles, "Runs", "Methods"):
        assert f"<h2>{title}</h2>" in html
    assert findings.failures == {}
    assert "could not be" not in html


def test_verdicts_are_those_of_claims(findings: report.Findings, html: str) -> None:
    expected = decide(table_from_frame(affine_runs()), Options())
    assert [c.verdict for c in findings.claims.claims] == [c.verdict for c in expected.claims]
    by_id = {claim.id: claim for claim in expected.claims}
    assert by_id["linear_in_samples"].verdict == "supported"
    assert html.index("Yes<span> · supported") < html.index("Not decided<span>")
    assert "All of this energy was measured." in html


def test_the_first_screen_answers_with_the_numbers_of_the_claims(findings: report.Findings, html: str) -> None:
    first = html[html.index("<h2>In short") : html.index("<h2>Verdicts")]
    claim = {c.id: c for c in findings.claims.claims}["linear_in_samples"]
    assert "Is energy linear in the number of samples?</dt><dd><strong>Yes.</strong>" in first
    assert claim.ci is not None
    assert f"{claim.estimate:.3g}, 90 % interval {claim.ci[0]:.3g} to {claim.ci[1]:.3g}; equal means ±5 %" in first
    assert "from these runs" in first


def test_estimates_stand_beside_the_study_and_those_that_fit_on_the_first_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            "model=llama-2-7b",
            "hardware=rtx-a4000",
            "batch_size=1",
            "gradient_checkpointing=true",
            "compare=method",
            "--json",
        ]
    )
    (tmp_path / "seven.json").write_text(capsys.readouterr().out)
    quotes = read_estimates([str(tmp_path / "seven.json")])
    html = report.render(report.find(table_from_frame(affine_runs()), Options(), [], estimates=quotes))
    first, section = html[: html.index("<h2>Verdicts")], html[html.index("<h2>Estimates") :]
    fitting = [quote for quote in quotes if quote.document["peak_memory_gb"]["fits"]]
    assert 0 < len(fitting) < len(quotes) == 3
    assert all(sentence(quote) in first for quote in fitting)
    assert sum(sentence(quote) in first for quote in quotes) == len(fitting)
    assert all(quote.label in section for quote in quotes)
    assert quotes[0].energy is not None
    assert f"{quotes[0].energy['estimate']:.3g}" in section


@pytest.mark.parametrize("text", ["{", "[1]", '{"energy_kwh": 1}', '{"rows": [{}]}'])
def test_a_file_without_estimates_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="holds no estimate"):
        read_estimates([str(tmp_path / "x.json")])
    with pytest.raises(UserError, match="cannot be read"):
        read_estimates([str(tmp_path / "missing.json")])


def test_what_is_refuted_is_said_to_be(tmp_path: Path) -> None:
    html = report.render(report.find(table_from_frame(affine_runs(exponent=1.3)), Options(), []))
    assert "No<span> · refuted" in html


def test_names_are_text_and_never_markup() -> None:
    evil = "<script>alert(1)</script>&\"'"
    page = report.render(report.find(table_from_frame(affine_runs(name=evil), name=evil), Options(), []))
    assert "<script>alert" not in page
    assert any(evil in text for text in Page(page).texts)


def test_a_part_that_fails_leaves_its_reason_and_the_page(tmp_path: Path) -> None:
    """Energies alone make no model of work: no fit, no figures, but verdicts and the runs."""
    frame = affine_runs()[["samples", "epochs", "energy_kwh"]].head(2)
    found = report.find(table_from_frame(frame), Options(), [])
    html = report.render(found)
    assert "fit" in found.failures
    assert "0 supported, 0 refuted, 7 undecided" in html
    assert found.failures["fit"] in "".join(Page(html).texts)


def test_a_source_that_is_not_given_is_neither_measured_nor_modelled() -> None:
    frame = affine_runs().drop(columns="energy_source_gpu")
    html = report.render(report.find(table_from_frame(frame), Options(), []))
    assert "does not say whether this energy was measured or modelled" in html
    assert "None of this energy was measured" not in html


def test_overrides_that_cannot_be_read_cost_the_forecast_only() -> None:
    """A stray quotation mark in a column of the table; the verdicts stand."""
    found = report.find(table_from_frame(affine_runs().assign(model_override="model='x")), Options(), [])
    assert "No closing quotation" in found.failures["forecast"]
    assert "Yes<span> · supported" in report.render(found)


def test_a_very_long_table_is_cut_and_says_so() -> None:
    frame = pd.concat([affine_runs().assign(run_id=lambda f, i=i: f.run_id + f"-{i}") for i in range(60)])
    frame["energy_kwh"] *= 1 + 1e-9 * np.arange(len(frame))
    found = report.find(table_from_frame(frame), Options(), [])
    assert "The first 1,000 of 1,080 runs." in report.render(found)


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    affine_runs().to_csv(tmp_path / "runs.csv", index=False)
    command = [sys.executable, "-m", "analysis", "report", str(tmp_path / "runs.csv"), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--target", "samples=50000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "samples=50000" in page
    assert "python -m analysis report" in page
    command = [sys.executable, "-m", "analysis", "claims", str(tmp_path / "runs.csv"), "--json"]
    claims = subprocess.run(command, capture_output=True, text=True)
    assert len(json.loads(claims.stdout)["claims"]) == page.count("<article")


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "analysis", "report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_figure_of_very_many_points_is_embedded_as_pixels() -> None:
    """Two thousand points in every figure: the page stays small, and still fetches nothing."""
    frame = pd.concat([affine_runs().assign(run_id=lambda f, i=i: f.run_id + f"-{i}") for i in range(120)])
    frame["energy_kwh"] *= 1 + 1e-9 * np.arange(len(frame))
    html = report.render(report.find(table_from_frame(frame), Options(), []))
    assert "data:image/png;base64," in html
    assert len(html) < 4_000_000
    assert all(address.startswith(("#", "data:")) for address in Page(html).addresses)
