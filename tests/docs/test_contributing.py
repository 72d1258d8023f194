"""The examples of CONTRIBUTING.md do what they are said to, in the room they are said to go to."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from analysis.claims import rank_and_method as claims_effects
from analysis.claims import registry as claims_registry
from analysis.claims.decide import decide
from analysis.claims.verdicts import Options
from analysis.energy_model.validated_fit import validated_fit
from analysis.figures import compare as plot_compare
from analysis.figures.style import DrawnFigure, SkippedFigure
from analysis.figures.view import View
from analysis.tables.table import table_from_frame
from benchmarks.interval_coverage import as_table
from lora_scaling.config import HardwareConfig, ModelConfig, compose
from lora_scaling.config.build import build
from lora_scaling.estimate.hardware import machine_of
from lora_scaling.estimate.priors import load_priors
from lora_scaling.grid import GridSettings, compute_emissions
from lora_scaling.grid.providers import SOURCES
from tests.support.fit_tables import frame_of, law
from tests.support.grid_server import Answer, Request, even_bins, in_turn, serving
from tests.support.paths import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(heading: str, language: str) -> str:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    [code] = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return code


def settings(code: str) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.create(code))
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def in_room_of(module: Any, code: str) -> dict[str, Any]:
    """The names that the code defines where it is put at the end of a module."""
    names = dict(vars(module))
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_model_is_one() -> None:
    code = example("Add a model", "yaml")
    model = build(ModelConfig, settings(code), "model.")
    listed = compose(["model=llama-3.2-1b"]).model  # whose shape it borrows
    assert model.shape == listed.shape
    assert code.count("\n") < 20


def test_the_gpu_is_one() -> None:
    code = example("Add a GPU", "yaml")
    sheet = build(HardwareConfig, settings(code), "hardware.")
    machine, missing = machine_of(sheet, "bf16", load_priors())
    assert machine is not None, missing
    assert machine.peak == 362e12
    assert code.count("\n") < 20


def test_the_grid_provider_is_chosen_and_reads_what_its_service_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = example("Add a grid provider", "python")
    names: dict[str, Any] = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ELECTRICITYMAPS_TOKEN", raising=False)
    monkeypatch.setitem(SOURCES, "somewhere", names["SOURCE"])  # as the two lines of providers.py do
    start, hour = datetime(2026, 11, 24, tzinfo=UTC), timedelta(hours=1)

    def answer(request: Request) -> Answer:
        values = [90.0, 30.0, *[None] * 22]
        hours = [{"start": f"{start + i * hour:%Y-%m-%dT%H:%MZ}", "g_per_kwh": g} for i, g in enumerate(values)]
        return Answer({"data": hours})

    def compute(url: str, cache: str) -> Any:
        settings = GridSettings(zone="IS", base_url=url, cache_dir=str(tmp_path / cache))
        bins = even_bins(start, hours=2, kwh=0.5, count=4)
        return compute_emissions(bins, settings, now=start + timedelta(days=9))

    with serving(answer) as server:
        found = compute(server.url, "a")
    assert [(request.path, request.query) for request in server.requests] == [
        ("/co2/iceland", {"from": "2026-11-24T00:00Z", "to": "2026-11-25T00:00Z"})
    ]
    assert (found.provider, found.zone, found.status) == ("somewhere", "IS", "final")
    assert found.grams == pytest.approx(0.25 * 90 + 0.25 * 30)
    assert found.definition == "CO2, average, consumption-based, direct: hourly values of Somewhere"
    assert (found.gas, found.accounting, found.scope, found.includes_losses) == ("CO2", "consumption", "direct", None)
    with serving(in_turn([Answer({"data": None})])) as server:
        failed = compute(server.url, "b")
    assert failed.status == "static"
    assert "127.0.0.1 answered JSON without a list `data`" in failed.reason
    elsewhere = 2 + 1  # the lines of providers.py, and the row of docs/grid.md
    assert code.count("\n") + elsewhere < 20


def test_every_grid_provider_has_its_row() -> None:
    page = (ROOT / "docs" / "grid.md").read_text(encoding="utf-8")
    table = page.partition("## Providers\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {*SOURCES, "file", "static"}


@pytest.mark.parametrize(("per_doubling", "verdict"), [(1.0, "supported"), (0.8, "refuted")])
def test_the_claim_is_decided(per_doubling: float, verdict: str) -> None:
    code = example("Add a claim", "python")
    batch = claims_registry.effect(in_room_of(claims_effects, code)["BATCH"])
    assert code.count("\n") + 1 < 20  # and its line among the claims
    rng = np.random.default_rng(0)
    frame = frame_of(law(), cv=0.01, sizes=(1e8,), tokens=(1e5, 2e5, 4e5, 8e5) * 4, seed=1)
    frame["batch_size"] = rng.permutation([1.0, 2.0, 4.0, 8.0] * (len(frame) // 4))
    frame["samples"] = frame["samples_seen"] = 100.0
    frame["epochs"] = 1.0
    frame["energy_kwh"] = per_doubling ** np.log2(frame["batch_size"]) * np.exp(rng.normal(0, 0.01, len(frame)))
    for name in ("tokens_seen", "flops"):
        frame[name] = 1e6
    asked = (*claims_registry.CLAIMS, batch)
    claim = decide(table_from_frame(frame), Options(), asked).claims[-1]
    assert claim.verdict == verdict, claim.reason
    assert claim.estimate == pytest.approx(per_doubling - 1, abs=0.01)
    assert claim.title == "Energy does not depend on the batch size"
    frame["energy_kwh"] *= np.where(frame.index == 3, 100, 1)  # the gates and vetoes come with it
    disturbed = decide(table_from_frame(frame), Options(), asked).claims[-1]
    assert f"hangs on run {frame['run_id'][3]}" in disturbed.reason
    frame["order"] = frame["batch_size"].rank(method="first")
    ordered = decide(table_from_frame(frame), Options(), asked).claims[-1]
    assert "the runs were made in order of the batch size" in ordered.reason


def test_the_plot_is_drawn_or_says_why_not() -> None:
    draw = in_room_of(plot_compare, example("Add a plot", "python"))["energy_against_batch"]
    frame = frame_of(law(), cv=0.02, sizes=(1e8, 1e9), tokens=(1e5, 2e5, 4e5, 8e5), seed=1)
    table = as_table(frame.assign(batch_size=8.0))
    assert isinstance(draw(View(table=table, result=validated_fit(table))), SkippedFigure)
    table = as_table(frame.assign(batch_size=np.resize([2.0, 4.0], len(frame))))
    drawn = draw(View(table=table, result=validated_fit(table)))
    assert isinstance(drawn, DrawnFigure)
    assert f"n = {len(frame)} runs" in drawn.caption
