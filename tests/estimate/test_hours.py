"""`at=`: the grams of the very hours that a run would take, against a grid service on loopback."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lora_scaling.commands.estimate import main
from tests.support.grid_server import Answer, energinet, in_turn, serving

START = datetime(2026, 11, 10, 9, 0, tzinfo=UTC)
JOB = (
    "model=llama-3.1-8b", "method=qlora", "hardware=rtx-4090", "gradient_checkpointing=true", "samples=40000",
    "max_seq_len=512", "grid.zone=DK1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    assert main([*JOB, *overrides, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_grams_are_of_the_hours_that_the_run_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """100 g/kWh for the first half of the run and 20 for the second: 60 on average, with their definition."""
    plain = ask(capsys)
    seconds = plain["time_s"]["estimate"]
    half = START + timedelta(seconds=seconds / 2)
    with serving(energinet(lambda moment: 100.0 if moment < half else 20.0)) as server:
        found = ask(capsys, "at=2026-11-10T09:00+00:00", f"grid.base_url={server.url}", "grid.pue=1.5")
    grams = found["emissions_g"]
    assert 59.9 < grams["intensity_g_per_kwh"] < 60.1 + (100 - 20) * 300 / seconds  # the change falls into a slot
    assert grams["definition"].startswith("CO2, average, consumption-based, direct")
    for end in ("estimate", "low", "high"):  # no spread but the energy's is left
        expected = 1.5 * grams["intensity_g_per_kwh"] * found["energy_kwh"][end]
        assert grams[end] == pytest.approx(expected)
    said = " ".join(found["assumptions"])
    assert "intensity of a run from 2026-11-10 09:00 UTC: " in said
    assert "yearly mean" not in said
    assert found["energy_kwh"] == plain["energy_kwh"]


def test_where_the_grid_fails_the_yearly_value_stays_and_the_reason_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    plain = ask(capsys)
    with serving(in_turn([Answer("", 403)])) as server:
        found = ask(capsys, "at=2026-11-10T09:00+00:00", f"grid.base_url={server.url}")
    assert found["emissions_g"] == plain["emissions_g"]
    assert any("yearly intensity all the same" in text and "HTTP 403" in text for text in found["assumptions"])


def test_a_forecast_is_advised_upon_beneath_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    windy = datetime.now(UTC) + timedelta(hours=3)
    with serving(energinet(lambda moment: 100.0 if moment < windy else 20.0)) as server:
        assert main([*JOB, "samples=100", "grid.forecast=true", f"grid.base_url={server.url}"]) == 0
    assert "80% less" in capsys.readouterr().out.splitlines()[-1]
