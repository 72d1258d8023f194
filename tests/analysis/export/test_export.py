"""What `python -m analysis export` writes: the table as used, documents, a model card, BoAmps, figures' data."""

import io
import json
import re
from datetime import UTC, datetime

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from analysis import decide, load_runs
from analysis.export.boamps import boamps
from analysis.export.documents import latex, markdown
from analysis.export.figure_data import figure_data
from analysis.export.model_card import model_card
from analysis.export.used_table import to_csv, used_table
from lora_scaling.errors import UserError

NOISE = np.exp(0.01 * np.random.default_rng(3).standard_normal(12))
RUNS = pd.DataFrame(
    {"run_id": [f"=r{i}" for i in range(12)], "samples": [1000, 2000, 4000, 8000] * 3, "epochs": 1, "model": "a_b",
     "train_s": 100.0, "emissions_g": 1.5, "hardware": "A100"}
).assign(energy_kwh=lambda f: (0.004 + 2e-5 * f["samples"]) * NOISE)  # fmt: skip


def test_the_table_as_used_has_fitted_values_and_what_was_left_out() -> None:
    frame = pd.concat([RUNS, RUNS.head(1).assign(run_id="bad", energy_kwh=-1.0)], ignore_index=True)
    rows = pd.read_csv(io.StringIO(to_csv(used_table(load_runs(frame)))))
    used, left = rows[rows["left_out"].isna()], rows[rows["left_out"].notna()]
    assert used["response"].tolist() == pytest.approx(RUNS["energy_kwh"].tolist())
    assert used["ratio"].to_numpy() == pytest.approx((used["response"] / used["fitted"]).to_numpy())
    assert np.abs(np.log(used["ratio"].to_numpy())).max() < 0.05  # the law that made the runs is one of the family
    assert left["run_id"].tolist() == ["bad"]
    assert "allowed is a positive number" in left["left_out"].iloc[0]
    assert used["run_id"].iloc[0] == "'=r0"  # a spreadsheet would compute =r0


def test_markdown_and_latex_have_verdicts_coefficients_and_methods() -> None:
    report = decide(load_runs(RUNS))
    verdict = report.claims[0].verdict
    text = markdown(report)
    assert f"| Energy is linear in the number of samples | {verdict} |" in text
    assert "| alpha |" in text
    assert "[@schuirmann1987]" in text
    tex = latex(report)
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    cited = set(re.findall(r"\\cite\{(\w+)\}", tex))
    assert cited == set(re.findall(r"@\w+\{(\w+),", tex)) != set()
    for line in (line for line in tex.splitlines() if not line.startswith("%")):
        assert not re.search(r"(?<!\\)[%#]", line), line


def test_a_model_card_sums_the_grams_and_needs_them_all() -> None:
    card = model_card(load_runs(RUNS))
    assert "  emissions: 18\n" in card
    assert '  hardware_used: "A100"' in card
    with pytest.raises(UserError, match="emissions_g: got 12 of 12 runs without it"):
        model_card(load_runs(RUNS.drop(columns="emissions_g")))


def test_a_report_of_boamps_has_what_its_schema_requires() -> None:
    document = json.loads(boamps(load_runs(RUNS), now=datetime(2026, 11, 29, tzinfo=UTC)))
    assert document["header"]["reportDatetime"] == "2026-11-29 00:00:00"
    assert {"taskStage", "taskFamily", "algorithms", "dataset"} <= set(document["task"])
    assert document["task"]["dataset"][0] == {"dataUsage": "input", "dataType": "text", "dataQuantity": 45000.0}
    [measure] = document["measures"]
    assert measure["powerConsumption"] == pytest.approx(RUNS["energy_kwh"].sum())
    assert measure["measurementDuration"] == 1200.0
    [component] = document["infrastructure"]["components"]
    assert (component["componentType"], component["nbComponent"]) == ("cpu", 1)  # no column says that it is a GPU


def test_a_report_of_boamps_is_what_codecarbon_reads_and_writes() -> None:
    """CodeCarbon carries a model of BoAmps: a field that this does not know is an error, and none is lost."""
    models = pytest.importorskip("codecarbon.output_methods.boamps.models")
    frame = RUNS.assign(
        params=1e9, method="lora", energy_gpu_kwh=RUNS["energy_kwh"], gpu_count=1, energy_source_gpu="nvml_counter",
        started_at="2026-11-02T10:00:00Z",
    )  # fmt: skip
    document = json.loads(boamps(load_runs(frame)))
    assert models.BoAmpsReport.from_dict(document).to_dict() == document
    assert document["header"]["reportStatus"] in ("draft", "final", "corrective", "other")
    assert document["infrastructure"]["infraType"] in ("publicCloud", "privateCloud", "onPremise", "other")


def test_grams_of_a_table_are_at_its_own_ratio() -> None:
    table = load_runs(RUNS.drop(columns="emissions_g").assign(emissions_kg=0.2 * RUNS["energy_kwh"]))
    assert table.frame["intensity_g_per_kwh"].to_numpy() == pytest.approx(np.full(12, 200.0))
    assert set(table.frame["intensity_source"]) == {"the table's own grams and energies"}


def test_the_data_of_a_figure_are_its_points_and_lines() -> None:
    figure, axes = plt.subplots()
    axes.plot([1, 2], [3, 4], label="fit")
    axes.scatter([5], [6], label="runs")
    axes.set(xlabel="samples", ylabel="kWh")
    rows = figure_data(figure)
    plt.close(figure)
    assert rows[["series", "kind", "x", "y"]].values.tolist() == [
        ["fit", "line", 1, 3], ["fit", "line", 2, 4], ["runs", "points", 5, 6]
    ]  # fmt: skip
    assert set(rows["x_label"]) == {"samples"}
