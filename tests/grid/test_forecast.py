"""When to run: the least of a forecast, against an exhaustive search."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lora_scaling.grid import ForecastAdvice, GridSettings, forecast_window
from tests.support.grid_server import Answer, Request, energinet, in_turn, serving

NOW = datetime(2026, 11, 23, 21, 2, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ELECTRICITYMAPS_TOKEN", raising=False)


def value(moment: datetime) -> float | None:
    """Nine hours of a night that gets windy; nothing afterwards."""
    hours = (moment - NOW) / HOUR
    return None if hours > 9 else 60 + 40 * abs(hours - 5.3)


def advise(url: str, duration: timedelta, kwh: float = 0.694, **settings: float) -> ForecastAdvice:
    chosen = GridSettings(zone="DK1", base_url=url, **settings)  # type: ignore[arg-type]
    advice = forecast_window(duration.total_seconds(), kwh, chosen, now=NOW)
    assert advice is not None
    return advice


def mean(start: datetime, duration: timedelta) -> float:
    """g/kWh by the second, looked up slot by slot."""
    seconds = range(0, int(duration.total_seconds()), 30)
    total = 0.0
    for s in seconds:
        moment = start + timedelta(seconds=s)
        found = value(moment - timedelta(minutes=moment.minute % 5, seconds=moment.second))
        assert found is not None
        total += found
    return total / len(seconds)


@pytest.mark.parametrize("minutes", [4, 60, 225])
def test_the_best_start_is_the_least_of_all_starts(minutes: int) -> None:
    duration = timedelta(minutes=minutes)
    with serving(energinet(value)) as server:
        advice = advise(server.url, duration)
    assert server.requests[0].path == "/dataset/CO2EmisProg"
    assert advice.best_start is not None
    starts = [NOW + timedelta(seconds=30 * i) for i in range(int((8.8 * HOUR - duration).total_seconds()) // 30)]
    assert advice.best_g == pytest.approx(0.694 * min(mean(s, duration) for s in starts), rel=1e-3)
    assert advice.best_g == pytest.approx(0.694 * mean(advice.best_start, duration), rel=5e-3)
    assert advice.now_g == pytest.approx(0.694 * mean(NOW, duration), rel=5e-3)
    assert advice.saving == pytest.approx(1 - (advice.best_g or 0) / (advice.now_g or 1))
    assert "less" in advice.sentence
    assert "DK1" in advice.sentence


def test_a_falling_start_is_now_when_now_is_best() -> None:
    with serving(energinet(lambda moment: 50 + (moment - NOW) / HOUR)) as server:
        advice = advise(server.url, HOUR)
    assert (advice.best_start, advice.saving) == (NOW, 0)
    assert "Starting now is best" in advice.sentence


def test_the_pue_counts_on_both_sides() -> None:
    with serving(energinet(value)) as server:
        plain, facility = advise(server.url, HOUR), advise(server.url, HOUR, pue=1.5)
    assert facility.best_g == pytest.approx(1.5 * (plain.best_g or 0))
    assert facility.saving == pytest.approx(plain.saving)


def test_a_run_longer_than_the_forecast_gets_no_advice() -> None:
    with serving(energinet(value)) as server:
        advice = advise(server.url, 20 * HOUR)
    assert advice.best_start is None
    assert "covers the next 9.0 h and the run takes 20.0 h" in advice.sentence


def test_a_hole_in_the_forecast_ends_it() -> None:
    hole = NOW + 2 * HOUR
    with serving(energinet(lambda m: None if hole < m < hole + 2 * HOUR else value(m))) as server:
        advice = advise(server.url, HOUR)
    assert advice.forecast_until is not None
    assert advice.forecast_until <= hole + timedelta(minutes=5)


def test_a_failing_grid_gives_a_reason() -> None:
    with serving(in_turn([Answer("<p>down</p>", 403)])) as server:
        advice = advise(server.url, HOUR)
    assert (advice.best_start, advice.now_g) == (None, None)
    assert "HTTP 403 (down)" in advice.sentence
    assert advice.to_dict()["now"] == NOW.isoformat()


def test_a_forecast_that_has_not_begun_is_no_advice() -> None:
    def stale(request: Request) -> Answer:
        return Answer({"records": [{"Minutes5UTC": "2026-11-20T10:00:00", "CO2Emission": 5}]})

    with serving(stale) as server:
        assert advise(server.url, HOUR).best_start is None


def test_uk_asks_for_48_hours() -> None:
    start = datetime(2026, 11, 23, 21, tzinfo=UTC)
    rows = [
        {
            "from": f"{start + i * HOUR / 2:%Y-%m-%dT%H:%MZ}",
            "to": f"{start + (i + 1) * HOUR / 2:%Y-%m-%dT%H:%MZ}",
            "intensity": {"forecast": 30 if i == 10 else 200, "actual": None},
        }
        for i in range(96)
    ]
    with serving(in_turn([Answer({"data": rows})])) as server:
        advice = forecast_window(1800, 1.0, GridSettings(zone="GB", base_url=server.url), now=NOW)
    assert server.requests[0].path == "/intensity/2026-11-23T21:00Z/fw48h"
    assert advice is not None
    assert advice.best_start == start + 5 * HOUR
    assert (advice.now_g, advice.best_g) == (pytest.approx(200), pytest.approx(30))


def test_no_forecast_where_there_is_none() -> None:
    assert forecast_window(3600, 1.0, GridSettings(), now=NOW) is None
    assert forecast_window(3600, 1.0, GridSettings(zone="US"), now=NOW) is None
    with pytest.raises(ValueError, match="must be positive"):
        forecast_window(0, 1.0, GridSettings(), now=NOW)
