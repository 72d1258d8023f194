"""How verdicts, fits, predictions and estimates show themselves in a notebook."""

import re
from html import unescape
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from analysis import decide, extrapolate, fit, load_runs
from analysis.tables.table import RunTable
from lora_scaling import compose
from lora_scaling.estimate import estimate

EVIL = "<script>alert(1)</script>&\"'"


@pytest.fixture(scope="module")
def runs() -> RunTable:
    generator = np.random.default_rng(3)
    frame = pd.DataFrame({"samples": [64, 128, 256, 512, 1024] * 4, "epochs": 1, "study": EVIL, "method": "lora"})
    frame["energy_kwh"] = (0.01 + 2e-4 * frame["samples"]) * np.exp(0.01 * generator.standard_normal(len(frame)))
    return load_runs(frame.assign(run_id=[f"{EVIL}{i}" for i in frame.index], model=EVIL))


def rows(html: str) -> list[list[str]]:
    """The cells of the table's body; the whole is well-formed and escaped."""
    ElementTree.fromstring(f"<div>{html.replace('<br>', '<br/>')}</div>")
    assert "<script" not in html
    body = html.partition("<tbody>")[2].partition("</tbody>")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)]
    return [[unescape(re.sub(r"<[^>]+>", "", cell)) for cell in row] for row in cells]


def test_verdicts(runs: RunTable) -> None:
    report = decide(runs)
    shown = rows(report._repr_html_())
    assert [row[:2] for row in shown] == [[claim.title, claim.verdict] for claim in report.claims]
    linear = next(claim for claim in report.claims if claim.id == "linear_in_samples")
    assert linear.ci is not None
    assert shown[0][2:4] == [f"{linear.estimate:.3g}", f"{linear.ci[0]:.3g} to {linear.ci[1]:.3g}"]
    assert "from 20 runs: equal means ±5 %, level 95 %" in report._repr_html_()


def test_a_fit_and_a_prediction(runs: RunTable) -> None:
    energy = fit(runs)
    shown = rows(energy._repr_html_())
    models = energy.fitted.document["models"]
    assert len(shown) == sum(len(model["params"]) for model in models)
    name, value = next(iter(models[0]["params"].items()))
    assert shown[0][2:5] == [name, f"{value:.4g}", f"{models[0]['se'][name]:.2g}"]
    assert shown[0][0] == f"{100 * models[0]['weight']:.0f} %"


def test_a_prediction() -> None:
    frame = pd.DataFrame({"samples": [64, 128, 256, 512] * 3, "epochs": 1})
    frame["energy_kwh"] = 1e-3 * frame["samples"] * (1 + 0.001 * frame.index)
    prediction = extrapolate(load_runs(frame.assign(model="ladder-1m", method="lora")), "samples=1024")
    [energy, *_] = rows(prediction._repr_html_())
    document = prediction.document["energy_kwh"]
    assert energy == ["energy (kWh)", *(f"{document[end]:.4g}" for end in ("estimate", "low", "high"))]
    assert "samples=1024: " in prediction._repr_html_()
    assert prediction.validated.fits in unescape(prediction._repr_html_())
    assert " g/kWh: " in prediction._repr_html_()


def test_an_estimate() -> None:
    answer = estimate(
        compose(["model=llama-3.1-8b", "hardware=rtx-4090", "samples=10000", "data.tokens_per_sample=300"])
    )
    shown = {row[0]: row[1:] for row in rows(answer._repr_html_())}
    assert set(shown) == {"time", "energy", "emissions", "memory", "mean power"}
    assert answer.time_s is not None
    assert shown["time"][0] == f"{answer.time_s.estimate / 60:.3g} min"
    assert "llama-3.1-8b lora r=8, 10,000 samples × 1, on rtx-4090" in unescape(answer._repr_html_())
