"""Whatever JSON a provider answers, a run keeps its energy and gets grams that are labelled or unknown."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scaling.grid import GridSettings, compute_emissions, fetch, forecast_window
from lora_scaling.grid.http import Answer, Client
from tests.support.fuzzing import NASTY, UNPRINTABLE, assert_possible, tried
from tests.support.grid_server import even_bins

START = datetime(2026, 11, 10, 9, 0, tzinfo=UTC)
BINS = even_bins(START, hours=1, kwh=0.2, count=10)
MOMENTS = st.sampled_from([f"{START + timedelta(minutes=5 * i):%Y-%m-%dT%H:%M:%S}" for i in range(-3, 15)])

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    MOMENTS,
    st.integers(int(START.timestamp()) - 900, int(START.timestamp()) + 7200),
)
names = st.sampled_from(
    [
        *("records", "data", "forecast", "intensity", "actual", "from", "to", "unix_seconds", "co2eq"),
        *("co2eq_forecast", "Minutes5UTC", "CO2Emission", "PriceArea", "carbonIntensity", "datetime"),
        *("temporalGranularity", "isEstimated"),
    ]
)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner, max_size=5),
    max_leaves=25,
)
rows = st.lists(st.dictionaries(names, leaves | st.dictionaries(names, leaves, max_size=3), max_size=6), max_size=6)
shaped = st.dictionaries(names, rows | st.lists(leaves, max_size=6), max_size=6)


@pytest.mark.parametrize("zone", ["DK1", "GB", "DE", "US-CAL-CISO"])
def test_no_answer_breaks_a_run(zone: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("ELECTRICITYMAPS_TOKEN", "t")

    @tried(150)
    @given(document=documents | shaped)
    def check(document: Any) -> None:
        monkeypatch.setattr(Client, "get_json", lambda *_: (document, "http://grid"))
        blocked = tmp_path / "no-cache"
        blocked.touch()
        chosen = GridSettings(zone=zone, cache_dir=str(blocked))
        revision = compute_emissions(BINS, chosen, now=START + timedelta(days=9))
        assert revision.energy_kwh == pytest.approx(0.2)
        assert revision.definition
        assert sum(revision.coverage.values()) == pytest.approx(1)
        assert revision.grams is not None
        assert revision.grams >= 0
        if revision.status != "final":
            assert revision.reason or revision.warnings or revision.coverage["forecast"]
        assert not UNPRINTABLE.search(f"{revision.reason} {revision.warnings}")
        advice = forecast_window(600, 0.1, chosen, now=START)
        assert advice is not None
        assert (advice.best_start is None) == (advice.reason is not None)

    check()


def test_no_body_breaks_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Nor does what is no JSON, under any status, with any wait that is asked for."""
    monkeypatch.setattr("lora_scaling.grid.http.time", SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic))
    bodies = st.one_of(
        st.text(max_size=40),
        documents.map(json.dumps),
        NASTY,
        st.sampled_from(["[" * 99_999, "9" * 5000, '{"records": [']),
    )
    headers = st.fixed_dictionaries({}, optional={"Retry-After": NASTY, "Content-Type": NASTY})

    @tried(100)
    @given(status=st.sampled_from([200, 200, 204, 302, 404, 429, 500, 503]), body=bodies, headers=headers)
    def check(status: int, body: str, headers: dict[str, str]) -> None:
        fetch._busy.clear()
        answer = Answer(status=status, headers=headers, url="http://user:hunter2@grid", body=body)
        monkeypatch.setattr(Client, "_exchange", lambda *_: answer)
        chosen = GridSettings(zone="DK1", cache_dir=str(tmp_path))
        revision = compute_emissions(BINS, chosen, now=START + timedelta(days=9))
        assert revision.energy_kwh == pytest.approx(0.2)
        assert_possible(revision.grams, revision.intensity_g_per_kwh)
        assert not UNPRINTABLE.search(f"{revision.reason} {revision.warnings} {revision.url}")
        assert "hunter2" not in str(revision)

    check()
