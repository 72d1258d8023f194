"""The page: whole, self-contained, escaped, and of one mind with `claims --json`."""

import base64
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.claims.decide import decide
from analysis.claims.verdicts import Options
from analysis.cli import main as analysis_main
from analysis.figures.headline import comparable_runs, question_figure
from analysis.figures.style import DrawnFigure, SkippedFigure, canvas
from analysis.report import report
from analysis.report.estimates import estimates_section, read_estimates, sentence
from analysis.report.findings import Findings, collect_findings
from analysis.report.page import picture
from analysis.report.points import figure_points
from analysis.report.provenance import provenance_of
from analysis.tables.response import choose_response
from analysis.tables.table import RunTable, load_runs, table_from_frame
from benchmarks.simulated_tables import FACTORIAL, curve, noisy
from lora_scaling.commands.estimate import main
from lora_scaling.errors import UserError
from lora_scaling.grid import equivalents
from lora_scaling.text import ENERGY
from tests.support.commands import command
from tests.support.paths import STUDY_RUNS

VOID = {"img", "meta", "br", "wbr", "path", "use", "rect", "circle", "line", "image"}


def affine_runs(exponent: float = 1.0, name: str = "ladder-1m") -> pd.DataFrame:
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
def findings() -> Findings:
    return collect_findings(table_from_frame(affine_runs()), Options(), [])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take most of a page's time, where a test asks for none."""
    monkeypatch.setattr("analysis.report.findings.figures", lambda *_, **__: [])
    monkeypatch.setattr("analysis.report.findings.question_figure", lambda *_: None)


@pytest.fixture(scope="module")
def html(findings: Findings) -> str:
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


def test_every_section_is_there(findings: Findings, html: str) -> None:
    titles = ("In short", "Larger runs", "Verdicts", "Figures", "Predictions", "Measured and modelled", "Emissions")
    for title in (*titles, "Warnings", "Runs", "Methods"):
        assert f"<h2>{title}</h2>" in html
    assert findings.failures == {}
    assert "could not be" not in html


def test_verdicts_are_those_of_claims(findings: Findings, html: str) -> None:
    expected = decide(table_from_frame(affine_runs()), Options())
    assert [c.verdict for c in findings.claims.claims] == [c.verdict for c in expected.claims]
    by_id = {claim.id: claim for claim in expected.claims}
    assert by_id["linear_in_samples"].verdict == "supported"
    assert html.index("Yes<span> · supported") < html.index("Not decided<span>")
    assert "All of this energy was measured." in html


def answer(html: str, question: str) -> tuple[str, str, str]:
    """The answer, how much, and what it rests on, from the table of the first screen."""
    row = section(html, "In short").partition(question)[2].partition("</tr>")[0]
    word, number, rests_on = re.findall(r"<td>(.*?)</td>", row)
    return re.sub("<.*?>", "", word), number, rests_on


def test_the_first_screen_answers_with_the_numbers_of_the_claims(findings: Findings, html: str) -> None:
    claim = {c.id: c for c in findings.claims.claims}["linear_in_samples"]
    assert claim.estimate is not None
    assert claim.ci is not None
    value, low, high = (2**exponent for exponent in (claim.estimate, *claim.ci))
    assert answer(html, "Is energy linear in the number of samples?") == (
        "Yes",
        f"on top of the fixed cost, twice the samples: {value:.2f} times ({low:.2f} to {high:.2f})",
        "measured",
    )
    assert answer(html, "Is energy the same at every LoRA rank?")[0] == "Not tested"
    first = section(html, "In short")
    assert first.count("<tr class=") == 7
    assert "90 % intervals; equal means ±5 %" in first
    assert set(re.findall(r'href="#(claim-[a-z_]+)"', first)) == set(re.findall(r'id="(claim-[a-z_]+)"', html))
    assert "from these runs" in section(html, "Larger runs")


def test_the_head_names_slurms_own_count_beside_the_energy_of_the_same_runs() -> None:
    """Of three of the runs; the others were made elsewhere, and are in neither of the two figures."""
    frame = affine_runs()
    ours = frame["energy_kwh"].iloc[:3].sum()
    frame["slurm_energy_kwh"] = None
    frame.loc[frame.index[:3], "slurm_energy_kwh"] = 1.5
    html = section(report.render(bare(table_from_frame(frame))), "In short")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    said = f" (Slurm&#39;s own count for the nodes of 3 runs: 4.5 kWh, where this table has {ENERGY.show(ours)})"
    assert facts["Meter"].endswith(said), facts
    assert facts["Energy"] == ENERGY.show(frame["energy_kwh"].sum())


def test_the_head_says_what_where_when_and_how_much() -> None:
    frame = affine_runs().assign(
        started_at="2026-11-25T16:30:41+00:00", host="box", hardware="RTX A4000", total_s=100.0
    )
    frame.loc[frame["samples"] == 64, "started_at"] = "2026-11-27T01:00:00+00:00"
    html = section(report.render(bare(table_from_frame(frame))), "In short")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert facts["What"] == "18 runs · ladder-1m · lora · 64 to 2,048 samples × 1 epoch"
    assert facts["Where"] == "RTX A4000, host box"
    assert facts["When"] == "25 November 2026 to 27 November 2026"
    assert facts["Meter"] == "GPU measured: the device&#39;s energy counter (NVML)"
    energy = frame["energy_kwh"].sum()
    assert facts["Energy"] == f"{energy:.3f} kWh"
    assert facts["Emissions · definition not recorded, 100 g/kWh"] == f"{100 * energy:.3g} g"
    assert facts["Time"] == "30 min"


def test_what_a_table_does_not_say_is_unknown_on_the_first_screen() -> None:
    frame = affine_runs()[["samples", "epochs", "energy_kwh"]]
    frame.loc[frame["samples"] == 64, "energy_kwh"] = np.nan
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", report.render(bare(table_from_frame(frame)))))
    assert facts["Where"] == "device not recorded"
    assert facts["When"] == "date not recorded"
    assert facts["Emissions · no grams in the table"] == facts["Time · not in the table"] == "unknown"


def test_the_next_runs_are_the_cheapest_of_those_that_claims_ask_for(findings: Findings, html: str) -> None:
    asked = {claim.title: claim.needs for claim in findings.claims.claims if claim.needs and claim.needs.command}
    costs = sorted(needs.energy_kwh for needs in asked.values() if needs.energy_kwh is not None)
    steps = section(html, "In short").partition("What to run next")[2]
    assert re.findall(r"<strong>([\d.]+ k?Wh), ", steps) == [ENERGY.show(cost) for cost in costs[:3]]
    assert steps.count("<pre") == min(3, len(asked))
    assert f"To go on · for {len(costs)} open questions" in html


def test_one_cause_of_several_open_questions_is_said_once_with_what_to_do() -> None:
    """A column of unknown meaning divides runs of the same work, so nothing about samples can be decided."""
    frame = affine_runs().assign(flavour=lambda f: np.where(np.arange(len(f)) % 2, "plain", "sour"))
    frame.loc[frame["flavour"] == "sour", "energy_kwh"] *= 1.3
    table = table_from_frame(frame)
    html = report.render(bare(table))
    assert html.count("separates runs") == 1
    assert "<strong>2 questions cannot be answered for one reason.</strong>" in section(html, "In short")
    assert "--ignore &#39;flavour&#39;" in section(html, "In short")
    for question in ("Is energy linear in the number of samples?", "Do twice the samples cost twice the energy?"):
        assert answer(html, question)[:2] == ("Not decided", "for the reason above")
    assert section(html, "Verdicts").count("For the reason at the head of the page.") == 2


def test_that_nothing_was_metered_is_not_repeated_with_every_claim() -> None:
    frame = affine_runs().assign(energy_source_gpu="load_model")
    claims = decide(table_from_frame(frame), Options()).claims
    assert any("nothing was metered" in claim.reason for claim in claims)
    html = report.render(bare(table_from_frame(frame)))
    assert "nothing was metered" not in html
    assert "None of this energy was measured" in html


def test_a_prediction_names_its_intensity_and_whether_the_form_fits(findings: Findings, html: str) -> None:
    text = section(html, "Predictions")
    assert "The grams are at 100 g/kWh: energy-weighted mean of the 18 runs" in text
    assert re.search(r"[vV]alidated.* Its best form fits \(lack of fit p = 0\.\d+\)\.", text, re.IGNORECASE)
    assert "Its best form fits (lack of fit" in section(html, "Larger runs")


def test_the_question_s_figure_draws_runs_that_differ_in_samples_alone(findings: Findings) -> None:
    """The line is the law that made the runs: 0.001 + 2e-5·samples kWh."""
    assert isinstance(findings.headline, DrawnFigure)
    logarithmic, linear = findings.headline.figure.axes
    [forecast] = findings.forecasts
    for axes in (logarithmic, linear):
        x, y = map(np.asarray, axes.get_lines()[0].get_data())
        assert y == pytest.approx(1 + 0.02 * x, rel=0.03)
        assert axes.get_ylabel() == "Energy (Wh)"
    predicted = np.asarray(logarithmic.collections[-1].get_offsets())
    assert predicted[0] == pytest.approx((20480, 1e3 * forecast.document["energy_kwh"]["estimate"]))
    assert linear.dataLim.x1 == 2048
    assert "18 runs of ladder-1m, lora" in findings.headline.caption


def test_points_are_where_the_drawing_has_them(findings: Findings) -> None:
    """The places that the page's script is given are those of the marks that matplotlib wrote."""
    assert isinstance(findings.headline, DrawnFigure)
    drawn = picture(findings.headline, salt="x")
    for panel, points in enumerate(part["points"] for part in drawn.points["panels"]):
        marks = str(drawn.drawing).partition(f'id="x-p{panel}s0points"')[2].partition("</g>\n   </g>")[0]
        places = np.array(re.findall(r'<use [^>]*?x="([\d.]+)" y="([\d.]+)"', marks), dtype=float)
        runs = [point for point in points if point[5] >= 0]
        assert np.array(runs)[:, :2] == pytest.approx(places[: len(runs)], abs=0.06)
        assert len(runs) == 18
    assert set(drawn.points["runs"]) == set(affine_runs()["run_id"])


def test_every_point_of_a_run_names_it(findings: Findings) -> None:
    """By its energy, which the table has for each run."""
    energies = affine_runs().set_index("run_id")["energy_train_kwh"]
    figures = {item.name: item for item in findings.figures if isinstance(item, DrawnFigure)}
    for name in ("energy_vs_samples", "backtest"):
        found = figure_points(figures[name])
        panel = found["panels"][0]
        unit = {"(kWh)": 1.0, "(Wh)": 1e3, "(mWh)": 1e6}[panel["y"].split()[-1]]
        along = 3 if name == "energy_vs_samples" else 2  # what was observed is the y of one and the x of the other
        assert len(panel["points"]) > 5
        for point in panel["points"]:
            assert point[along] == pytest.approx(energies[found["runs"][point[5]]] * unit, rel=1e-4)


def test_runs_of_different_work_are_not_in_one_line() -> None:
    frame = pd.concat([affine_runs(), affine_runs(name="ladder-3m").query("samples < 200")])
    found = comparable_runs(choose_response(table_from_frame(frame)).frame)
    assert found is not None
    factor, cell, [series] = found
    assert (factor, cell["model"], len(series.x)) == ("samples", "ladder-1m", 18)
    assert comparable_runs(choose_response(table_from_frame(frame.query("samples == 64"))).frame) is None


def test_windows_of_one_run_are_no_runs_that_differ_in_samples() -> None:
    frame = affine_runs().sort_values("samples").assign(samples_end=lambda f: f["samples"].cumsum())
    skipped = question_figure(decide(table_from_frame(frame), Options()))
    assert isinstance(skipped, SkippedFigure)
    assert skipped.reason == "the rows are windows of one run"


def test_a_study_of_ranks_alone_begins_with_the_figure_of_ranks() -> None:
    figure, _ = canvas(2)
    drawn = DrawnFigure(
        name="energy_vs_rank", title="Energy against LoRA rank", figure=figure, caption="c", panels=("a", "b")
    )
    findings = bare(table_from_frame(two_models((1.0, 1.2), {"rank": (4.0, 8.0, 16.0)})))
    skipped = question_figure(findings.claims)
    assert isinstance(skipped, SkippedFigure)
    html = report.render(dataclasses.replace(findings, headline=skipped, figures=(drawn,)))
    assert "Energy against LoRA rank" in section(html, "In short")


def test_what_captions_share_is_said_once(findings: Findings, html: str) -> None:
    captions = [item.caption for item in findings.figures if isinstance(item, DrawnFigure)]
    sources = [text for text in captions if "n = 18 runs. Model: " in text and "observed values" not in text]
    assert len(sources) > 2
    figures = section(html, "Figures")
    assert figures.count("n = 18 runs. Model: ") - figures.count("Model: none") == 1
    assert "Where a caption names no number of runs: n = 18 runs." in figures


@pytest.mark.usefixtures("undrawn")
def test_names_of_any_length_are_shown() -> None:
    frame = affine_runs(name="m" * 500)
    html = report.render(collect_findings(table_from_frame(frame), Options(), []))
    assert "could not be made" not in html
    assert "m" * 500 in section(html, "In short")


@pytest.mark.usefixtures("undrawn")
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
    html = report.render(collect_findings(table_from_frame(affine_runs()), Options(), [], estimates=quotes))
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


@pytest.mark.usefixtures("undrawn")
def test_what_is_refuted_is_said_to_be(tmp_path: Path) -> None:
    html = report.render(collect_findings(table_from_frame(affine_runs(exponent=1.3)), Options(), []))
    assert "No<span> · refuted" in html


@pytest.mark.usefixtures("undrawn")
def test_the_first_screen_asks_for_what_was_doubled() -> None:
    frame = affine_runs().rename(columns={"samples": "epochs", "epochs": "samples"})
    questions = section(report.render(collect_findings(table_from_frame(frame), Options(), [])), "In short")
    assert "Do twice the epochs cost twice the energy?" in questions


@pytest.mark.usefixtures("undrawn")
def test_the_first_screen_writes_large_numbers_out() -> None:
    samples = np.repeat([100, 1_000, 10_000, 100_000, 1_000_000], 4)
    scatter = np.tile([0.99, 1.0, 1.0, 1.01], 5)
    frame = pd.DataFrame({"samples": samples, "epochs": 1, "energy_kwh": (5 + 2e-4 * samples) * scatter})
    html = report.render(collect_findings(table_from_frame(frame), Options(), []))
    # The fixed cost is a twentieth of a run of 19 × 5 ÷ 2e-4 samples.
    assert answer(html, "Do twice the samples cost twice the energy?")[1].endswith("yes from about 480,000 samples on")


def test_one_run_is_no_plural() -> None:
    html = report.render(collect_findings(table_from_frame(affine_runs().head(1)), Options(), []))
    assert "tested on 1 run:" in html


def test_names_are_text_and_never_markup() -> None:
    evil = "<script>alert(1)</script>&\"'"
    page = report.render(collect_findings(table_from_frame(affine_runs(name=evil), name=evil), Options(), []))
    assert "<script>alert" not in page
    assert any(evil in text for text in Page(page).texts)


def test_a_part_that_fails_leaves_its_reason_and_the_page(tmp_path: Path) -> None:
    """Energies alone make no model of work: no fit, no figures, but verdicts and the runs."""
    frame = affine_runs()[["samples", "epochs", "energy_kwh"]].head(2)
    found = collect_findings(table_from_frame(frame), Options(), [])
    html = report.render(found)
    assert "fit" in found.failures
    assert "0 supported, 0 refuted, 7 undecided" in html
    assert found.failures["fit"] in "".join(Page(html).texts)


@pytest.mark.usefixtures("undrawn")
def test_a_source_that_is_not_given_is_neither_measured_nor_modelled() -> None:
    frame = affine_runs().drop(columns="energy_source_gpu")
    html = report.render(collect_findings(table_from_frame(frame), Options(), []))
    assert "does not say whether this energy was measured or modelled" in html
    assert "None of this energy was measured" not in html


@pytest.mark.usefixtures("undrawn")
def test_overrides_that_cannot_be_read_are_unknown_and_said_to_be() -> None:
    """A stray quotation mark in a column of the table; the verdicts stand, and so does the forecast."""
    found = collect_findings(table_from_frame(affine_runs().assign(model_override="model='x")), Options(), [])
    assert "forecast" not in found.failures
    page = report.render(found)
    assert "`model_override` held words that are no settings of a run; taken as unknown." in page
    assert "Yes<span> · supported" in page


@pytest.mark.usefixtures("undrawn")
def test_a_very_long_table_is_cut_and_says_so() -> None:
    frame = pd.concat([affine_runs().assign(run_id=lambda f, i=i: f.run_id + f"-{i}") for i in range(60)])
    frame["energy_kwh"] *= 1 + 1e-9 * np.arange(len(frame))
    found = collect_findings(table_from_frame(frame), Options(), [])
    html = report.render(found)
    assert "The first 1,000 of 1,080 runs." in html
    assert section(html, "Runs").count('<tr class="on-screen">') == 700  # paper has 300


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    affine_runs().to_csv(tmp_path / "runs.csv", index=False)
    table, out = str(tmp_path / "runs.csv"), str(tmp_path / "out")
    done = command("analysis", "report", table, "--out", out, "--target", "samples=50000")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "samples=50000" in page
    assert "lora-scaling analyse report" in page
    assert re.search(r"report.html: \d of 7 claims decided$", done.stdout.strip())
    claims = command("analysis", "claims", table, "--json")
    assert len(json.loads(claims.stdout)["claims"]) == page.count("<article")


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    done = command("analysis", "report", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_drawing_of_very_many_parts_is_embedded_as_pixels() -> None:
    figure, [axes] = canvas(1)
    axes.scatter(np.arange(9_000), np.arange(9_000))
    shown = picture(DrawnFigure(name="n", title="t", figure=figure, caption="c"), salt="x")
    assert base64.b64decode(shown.png).startswith(b"\x89PNG")
    assert shown.drawing == ""


def test_one_can_point_at_the_figures_of_very_many_runs() -> None:
    """Some of thousands of runs are drawn, and it is said: the page stays small, and still fetches nothing."""
    frame = pd.concat([affine_runs().assign(run_id=lambda f, i=i: f.run_id + f"-{i}") for i in range(120)])
    frame["energy_kwh"] *= 1 + 1e-9 * np.arange(len(frame))
    html = report.render(collect_findings(table_from_frame(frame), Options(), []))
    assert "data:image/png;base64," not in html
    assert re.search(r"1,\d\d\d of [2-9],\d\d\d runs are drawn; lines and bands use all", html)
    assert len(html) < 4_000_000
    assert all(address.startswith(("#", "data:")) for address in Page(html).addresses)


# ---------------------------------------------------------------- what each section says


def bare(table: RunTable, options: Options | None = None) -> Findings:
    """Findings without a fit and figures, which take seconds."""
    claims = decide(table, options or Options())
    return Findings(table=table, claims=claims, provenance=provenance_of(table.sources))


def section(html: str, title: str) -> str:
    return html[html.index(f"<h2>{title}</h2>") :].partition("</section>")[0]


def cells(html: str, label: str) -> list[tuple[str, ...]]:
    """The rows of the table called `label`, its header left out."""
    body = html[html.index(f'aria-label="{label}"') :].partition("<tbody>")[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body.replace("<wbr>", ""))
    return [tuple(re.findall(r"<td[^>]*>(.*?)</td>", row)) for row in rows]


@pytest.mark.usefixtures("undrawn")
def test_a_prediction_shows_the_energy_of_the_law_that_made_the_runs() -> None:
    """Ten times the largest set at 2e-5 kWh a sample, counted by samples as nothing else is known."""
    frame = affine_runs().drop(columns=["flops", "params", "tokens_seen"])
    html = section(report.render(collect_findings(table_from_frame(frame), Options(), [])), "Predictions")
    rows = {name: [float(value.replace(",", "")) for value in values] for name, *values in cells(html, "Prediction")}
    estimate, low, high = rows["Energy, kWh"]
    truth = 2e-5 * 20480
    assert estimate == pytest.approx(truth, rel=0.03)
    assert low < truth < high
    assert rows["Emissions, g"][0] == pytest.approx(100 * estimate, rel=1e-3)  # the table's own grams and energies
    assert "samples=20480 epochs=1 model=ladder-1m method=lora lora.r=8" in html


@pytest.mark.usefixtures("undrawn")
def test_runs_are_predicted_with_their_own_commonest_model() -> None:
    frame = affine_runs(name="llama-3.2-1b")
    frame.loc[frame["samples"] == 64, "model"] = "ladder-3m"
    frame.loc[frame["samples"] > 128, ["method", "rank"]] = ["full", np.nan]
    [forecast] = collect_findings(table_from_frame(frame), Options(), []).forecasts
    assert forecast.planned.config.model.name == "llama-3.2-1b"
    assert "method=full" in forecast.document["target"]["overrides"]
    assert "lora.r=8" not in forecast.document["target"]["overrides"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (affine_runs(name="our-13b"), "the runs' own, our-13b, is none of the presets"),
        (affine_runs().drop(columns="model"), "the runs do not name theirs"),
    ],
    ids=["another", "none"],
)
def test_no_other_model_stands_in_for_one_that_is_no_preset(frame: pd.DataFrame, reason: str) -> None:
    found = collect_findings(table_from_frame(frame), Options(), [])
    [(part, why)] = found.failures.items()
    assert part.startswith("forecast of samples=20480 epochs=1")
    assert why.startswith(f"model: missing, and {reason}; give model=NAME of the run to predict")
    assert found.forecasts == ()
    texts = "".join(Page(report.render(found)).texts)
    assert reason in texts
    assert "from these runs" not in texts


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"energy_gpu_kwh": 1.0}, "All of this energy was measured."),
        ({"energy_gpu_kwh": 0.995}, "All of this energy was measured."),  # rounding
        ({"energy_gpu_kwh": 0.6}, "60 % of this energy was measured, 0 % modelled; of the rest it is not known."),
        (
            {"energy_gpu_kwh": 0.6, "energy_ram_kwh": 0.4, "energy_source_ram": "constant"},
            "60 % of this energy was measured; the rest is modelled.",
        ),
        (
            {"energy_gpu_kwh": 0.6, "energy_ram_kwh": 0.3, "energy_source_ram": "constant"},
            "60 % of this energy was measured, 30 % modelled; of the rest it is not known.",
        ),
        (
            {"energy_gpu_kwh": 0.6, "energy_source_gpu": "load_model"},
            "None of this energy was measured: it is time × a modelled power, so the verdicts are about time.",
        ),
    ],
)
def test_the_share_that_was_measured_is_of_all_the_energy(columns: dict[str, float | str], said: str) -> None:
    frame = affine_runs()
    for name, value in columns.items():
        frame[name] = value if isinstance(value, str) else value * frame["energy_kwh"]
    html = report.render(bare(table_from_frame(frame)))
    assert f'<p class="basis">{said}</p>' in section(html, "In short")
    assert f'<p class="basis">{said}</p>' in section(html, "Verdicts")


def test_sources_are_listed_with_their_runs_and_energy() -> None:
    frame = affine_runs().assign(energy_ram_kwh=0.5, energy_source_ram="constant")
    frame.loc[frame["samples"] == 64, "energy_source_gpu"] = "load_model"
    html = section(report.render(bare(table_from_frame(frame))), "Measured and modelled")
    assert '<th>kind</th><th class="number">runs</th>' in html  # flush with what stands below it
    assert "load_<wbr>model" in html  # on a phone it breaks there, not within a word
    by_hand = frame["energy_kwh"].groupby(frame["energy_source_gpu"]).sum()
    assert cells(html, "Sources of energy") == [
        ("GPU", "load_model", "modelled", "3", f"{by_hand['load_model']:.4g}"),
        ("GPU", "nvml_counter", "measured", "15", f"{by_hand['nvml_counter']:.4g}"),
        ("CPU", "unknown", "unknown", "18", "–"),
        ("memory", "constant", "modelled", "18", "9"),
    ]


def test_grams_are_summed_with_their_mean_intensity() -> None:
    frame = affine_runs()
    frame.loc[frame["samples"] == 64, "emissions_g"] = np.nan
    known = frame["emissions_g"].dropna()
    html = section(report.render(bare(table_from_frame(frame))), "Emissions")
    assert f"{frame['energy_kwh'].sum():.4g} kWh in all; {known.sum():.4g} g for the 15 runs" in html
    assert "100 g/kWh on average. Status: 18 static." in html
    assert "does not say how its grams are defined" in html
    both = equivalents(energy_kwh=frame["energy_kwh"].sum(), grams=known.sum())
    assert html.partition("In familiar things")[2].count("<li>") == len(both)


def test_grams_of_two_definitions_are_not_added(tmp_path: Path) -> None:
    """Records of the study, one of them computed again by another definition."""
    folders = sorted((STUDY_RUNS / "grouping").glob("ladder-*"))[:4]
    for folder in folders:
        shutil.copytree(folder, tmp_path / folder.name)
    path = tmp_path / folders[0].name / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    alike = section(report.render(bare(load_runs([tmp_path]))), "Emissions")
    record["emissions"]["definition"] = "CO2e, average, consumption-based, life-cycle"
    path.write_text(json.dumps(record), encoding="utf-8")
    differ = section(report.render(bare(load_runs([tmp_path]))), "Emissions")
    assert "g/kWh on average" in alike
    assert "the grams of 4 runs are known, but not all mean the same: they are not summed." in differ
    assert "on average" not in differ
    assert "CO2e, average, consumption-based, life-cycle (1 run)" in differ
    energy = load_runs([tmp_path]).frame["energy_kwh"].sum()
    assert differ.partition("In familiar things")[2].count("<li>") == len(equivalents(energy_kwh=energy))
    assert len(equivalents(energy_kwh=energy)) < len(equivalents(energy_kwh=energy, grams=1.0))


def test_rows_left_out_and_warnings_are_told_with_their_runs() -> None:
    frame = affine_runs().assign(status="ok", error=None)
    failed = frame.iloc[:1].assign(run_id="late", status="oom", error="out of memory at step 3")
    twice = frame.iloc[1:2]
    table = table_from_frame(pd.concat([frame, failed, twice], ignore_index=True))
    html = section(report.render(bare(table)), "Warnings")
    assert "<h3>2 rows left out</h3>" in html
    assert "<li>late: status oom: out of memory at step 3</li>" in html
    copy = twice["run_id"].iloc[0]
    assert f"<li>{copy}: the same numbers as run {copy}: a copy, counted once</li>" in html
    assert f"1 rows repeat another row&#39;s numbers exactly and were counted once. ({copy})" in html


def two_models(ratios: tuple[float, float], varied: dict[str, tuple[object, ...]]) -> pd.DataFrame:
    """Two models at one amount of work; each step of what varied costs the model's ratio once more, within 1 %."""
    generator, rows = np.random.default_rng(5), []
    for model, params, ratio in (("ladder-3m", 3e6, ratios[0]), ("ladder-100m", 1e8, ratios[1])):
        for step, value in enumerate(next(iter(varied.values()))):
            for _ in range(4):
                energy = params * 1e-9 * ratio**step * float(np.exp(0.01 * generator.standard_normal()))
                rows.append({"model": model, "params": params, "samples": 128, "epochs": 1, "energy_kwh": energy,
                             "method": "lora", next(iter(varied)): value})  # fmt: skip
    frame = pd.DataFrame(rows).sample(frac=1, random_state=2).reset_index(drop=True)
    return frame.assign(order=frame.index, run_id=[f"run-{i}" for i in frame.index])


def test_a_cost_that_depends_on_the_model_is_answered_model_by_model() -> None:
    frame = two_models((0.95, 1.3), {"method": ("lora", "full")})
    html = report.render(bare(table_from_frame(frame)))
    mean = frame["energy_kwh"].map(np.log).groupby([frame["model"], frame["method"]]).mean().unstack()
    ratio = np.exp(mean["full"] - mean["lora"])
    word, each, _ = answer(html, "Does full fine-tuning cost more than LoRA?")
    assert word == "It depends on the model"
    assert each.startswith(f"No for ladder-3m: {ratio['ladder-3m']:.2f} times (")
    assert f"; yes for ladder-100m: {ratio['ladder-100m']:.2f} times (" in each
    card = section(html, "Verdicts").partition("Full fine-tuning costs more than LoRA")
    assert card[0].endswith('<p class="verdict">Depends on the model<span> · undecided</span></p><h3>')
    assert "figure" not in card[2].partition("</article>")[0]  # the mean over both says nothing
    assert re.search(r"<p>It depends on the model.*: ladder-3m", card[2])


def test_a_rank_that_matters_for_one_model_only_is_answered_model_by_model() -> None:
    html = report.render(bare(table_from_frame(two_models((1.0, 1.2), {"rank": (4.0, 8.0, 16.0)}))))
    _, each, _ = answer(html, "Is energy the same at every LoRA rank?")
    found = re.search(r"Yes for ladder-3m: (\S+) % \(.*\); no for ladder-100m: (\S+) % \(", each)
    assert found is not None
    assert [float(change) for change in found.groups()] == pytest.approx([0, 20], abs=1.5)


def test_costs_beyond_the_first_screen_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["model=llama-2-7b", "hardware=a100-80gb", "batch_size=1", "--json"])
    one = json.loads(capsys.readouterr().out)
    (tmp_path / "many.json").write_text(json.dumps({"rows": [{**one, "name": f"plan-{i}"} for i in range(11)]}))
    quotes = read_estimates([str(tmp_path / "many.json")])
    html = report.render(dataclasses.replace(bare(table_from_frame(affine_runs())), estimates=quotes))
    first = section(html, "Larger runs")
    assert first.count("plan-") == 8
    assert "<li>… and 3 more under Estimates.</li>" in first
    estimates = section(html, "Estimates")
    assert [row[0] for row in cells(estimates, "Estimates")] == [quote.label for quote in quotes]
    assert ">grams</th>" in estimates  # CO2 or CO2e, as each one's definition says


def test_figures_shade_the_margin_of_the_verdicts() -> None:
    rng = np.random.default_rng(4)
    frame = FACTORIAL.draw(rng, {"method": "lora", "rank": 8.0, "model": "ladder-1m", "params": 1.3e6})
    frame["energy_kwh"] = noisy(rng, curve(frame), 0.02)
    found = collect_findings(table_from_frame(frame), Options(margin=0.1), [["samples=100000"]])
    [caption] = [
        item.caption for item in found.figures if isinstance(item, DrawnFigure) and item.name == "samples_vs_epochs"
    ]
    assert "shaded: what counts as equal, ±10 %." in caption


def test_a_target_is_quoted_and_one_that_cannot_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    affine_runs().to_csv(tmp_path / "runs.csv", index=False)
    assert analysis_main(["report", str(tmp_path / "runs.csv"), "--target", "model='x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert analysis_main(["report", "--help"]) == 0
    assert 'quoted: "model=llama-2-70b' in " ".join(capsys.readouterr().out.split())


def test_a_heading_over_several_panels_is_seen_where_they_are_stacked() -> None:
    figure, _ = canvas(2)
    figure.suptitle("NOT VALIDATED", x=0.01, ha="left")
    panels = picture(DrawnFigure(name="n", title="t", figure=figure, caption="c"), salt="x").panels
    assert [float(box.split()[1]) for box in panels] == [0, 0]  # from the top of the drawing


def test_large_estimates_are_written_without_exponents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["model=llama-2-7b", "hardware=a100-80gb", "batch_size=1", "--json"])
    one = json.loads(capsys.readouterr().out)
    one["energy_kwh"] |= {"estimate": 123.4, "low": 61.2, "high": 1234.5}
    one["emissions_g"]["estimate"] = 20712.0
    (tmp_path / "one.json").write_text(json.dumps(one), encoding="utf-8")
    [quote] = read_estimates([str(tmp_path / "one.json")])
    assert "120 kWh (61 to 1,200 kWh, 90 % interval" in sentence(quote)
    [row] = cells(estimates_section([quote]).html, "Estimates")
    assert row[1:4] == ("123", "61.2", "1,230")
    assert row[7:9] == ("20,700", "475")
