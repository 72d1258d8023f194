"""Each provider's request and reading of its answer, with answers shaped like the recorded ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import responses
from responses import matchers

from lora_scaling.errors import UserError
from lora_scaling.grid import EmissionsRevision, EnergyBin, GridSettings, compute_emissions
from lora_scaling.grid.providers import SOURCES
from tests.support.grid_server import even_bins

START = datetime(2026, 11, 10, 9, 0, tzinfo=UTC)
NOW = START + timedelta(days=60)
DAY = datetime(2026, 11, 10, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ELECTRICITYMAPS_TOKEN", raising=False)


def compute(bins: list[EnergyBin] | None = None, now: datetime = NOW, **settings: Any) -> EmissionsRevision:
    bins = bins or even_bins(START, hours=2, kwh=0.5, count=120)
    return compute_emissions(bins, GridSettings(**settings), now=now)


def iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%MZ}"


@responses.activate
def test_energinet_is_asked_once_for_whole_utc_days() -> None:
    rows = [
        {
            "Minutes5UTC": f"{DAY + timedelta(minutes=5 * i):%Y-%m-%dT%H:%M:%S}",
            "Minutes5DK": "nonsense",
            "PriceArea": area,
            "CO2Emission": value,
        }
        for i in range(288)
        for area, value in (("DK2", 80.0), ("DK1", 900.0))
    ]
    responses.get(
        "https://api.energidataservice.dk/dataset/CO2Emis",
        json={"total": 576, "records": rows},
        match=[
            matchers.query_param_matcher(
                {
                    "start": "2026-11-10T00:00",
                    "end": "2026-11-11T00:00",
                    "timezone": "UTC",
                    "filter": '{"PriceArea":["DK2"]}',
                    "columns": "Minutes5UTC,PriceArea,CO2Emission",
                    "sort": "Minutes5UTC asc",
                    "limit": "0",
                }
            )
        ],
    )
    revision = compute(zone="dk2")
    assert revision.grams == pytest.approx(40)  # the other area is never mixed in
    assert (revision.status, revision.provider, revision.zone) == ("final", "energidataservice", "DK2")
    assert (revision.gas, revision.accounting, revision.scope) == ("CO2", "consumption", "direct")
    assert "125 % heat" in revision.definition
    assert revision.attribution == "Source: Energinet (www.energidataservice.dk)"
    assert revision.licence == "CC BY 4.0"
    # Another run of the day, and the same again months later: the final day is on disk.
    later = even_bins(START + timedelta(hours=5), hours=1, kwh=1, count=60)
    assert compute(later, now=NOW + timedelta(days=300), zone="DK2").grams == pytest.approx(80)
    assert len(responses.calls) == 1


@responses.activate
def test_a_provisional_day_is_cached_for_minutes_only() -> None:
    now = START + timedelta(hours=2)

    def answer(request: Any) -> tuple[int, dict[str, str], str]:
        count = 9 * 12 + 24
        moments = [DAY + timedelta(minutes=5 * i) for i in range(count)]
        rows = [{"Minutes5UTC": m.isoformat(), "PriceArea": "DK1", "CO2Emission": 100} for m in moments]
        return 200, {}, json.dumps({"records": rows})

    responses.add_callback(responses.GET, "https://api.energidataservice.dk/dataset/CO2Emis", callback=answer)
    first = compute(now=now, zone="DK1")
    assert (first.status, first.grams) == ("provisional", pytest.approx(50))  # it may still change
    compute(now=now + timedelta(minutes=4), zone="DK1")
    assert len(responses.calls) == 1
    compute(now=now + timedelta(minutes=6), zone="DK1")
    assert len(responses.calls) == 2


def whole_day(request: Any, without: range = range(0)) -> tuple[int, dict[str, str], str]:
    moments = [DAY + timedelta(minutes=5 * i) for i in range(288) if i not in without]
    rows = [{"Minutes5UTC": m.isoformat(), "PriceArea": "DK1", "CO2Emission": 100} for m in moments]
    return 200, {}, json.dumps({"records": rows})


@responses.activate
def test_a_whole_day_that_may_still_be_revised_is_asked_for_again() -> None:
    """A day is settled 24 hours after it ends; retrieved an hour after that end, it is not."""
    responses.add_callback(responses.GET, "https://api.energidataservice.dk/dataset/CO2Emis", callback=whole_day)
    asked = []
    for hours in (25, 26, 47, 49, 400):
        assert compute(now=DAY + timedelta(hours=hours), zone="DK1").grams == pytest.approx(50)
        asked.append(len(responses.calls))
    assert asked == [1, 2, 3, 4, 4]


@responses.activate
def test_a_day_with_a_hole_is_asked_for_again() -> None:
    responses.add_callback(
        responses.GET,
        "https://api.energidataservice.dk/dataset/CO2Emis",
        callback=lambda request: whole_day(request, without=range(200, 220)),
    )
    for count in (1, 2):
        assert compute(now=NOW + timedelta(days=count), zone="DK1").status == "final"  # the run's own hours are there
        assert len(responses.calls) == count


def half_hours(start: datetime, count: int, actual: int | None, forecast: int = 50) -> list[dict[str, Any]]:
    moments = [start + timedelta(minutes=30 * i) for i in range(count)]
    values = {"forecast": forecast, "actual": actual, "index": "low"}
    return [{"from": iso(m), "to": iso(m + timedelta(minutes=30)), "intensity": values} for m in moments]


@responses.activate
def test_uk_takes_actual_then_forecast_and_drops_the_repeated_half_hour() -> None:
    before = half_hours(DAY - timedelta(minutes=30), 1, 999)
    known = half_hours(DAY, 20, 120)
    ahead = half_hours(DAY + timedelta(hours=10), 28, None)
    responses.get(
        "https://api.carbonintensity.org.uk/intensity/2026-11-10T00:00Z/2026-11-11T00:00Z",
        json={"data": [*before, *known, known[-1], *ahead, *half_hours(DAY + timedelta(days=1), 1, 999)]},
    )
    revision = compute(zone="uk")
    assert revision.grams == pytest.approx(0.25 * 120 + 0.25 * 50)
    assert revision.coverage["forecast"] == pytest.approx(0.5)
    assert (revision.status, revision.zone, revision.includes_losses) == ("provisional", "GB", True)


@responses.activate
def test_a_day_with_one_forecast_left_in_it_is_asked_for_again() -> None:
    """Weeks later, every half hour but the last observed: whoever asks again may get that one too."""
    responses.get(
        "https://api.carbonintensity.org.uk/intensity/2026-11-10T00:00Z/2026-11-11T00:00Z",
        json={"data": [*half_hours(DAY, 47, 100), *half_hours(DAY + timedelta(hours=23.5), 1, None)]},
    )
    for count in (1, 2):
        compute(now=NOW + timedelta(days=count), zone="GB")
        assert len(responses.calls) == count


@responses.activate
def test_uk_ranges_beyond_its_limit_are_asked_for_in_pieces() -> None:
    """A run of 20 days: each request at most 14 days, together without a hole."""

    def answer(request: Any) -> tuple[int, dict[str, str], str]:
        start, end = (datetime.fromisoformat(part) for part in request.url.split("/")[-2:])
        assert end - start <= timedelta(days=14)
        count = (end - start) // timedelta(minutes=30) + 1
        return 200, {}, json.dumps({"data": half_hours(start, count, 100 + start.day)})

    pattern = "https://api.carbonintensity.org.uk/intensity/"
    import re

    responses.add_callback(responses.GET, re.compile(re.escape(pattern) + ".*"), callback=answer)
    bins = even_bins(DAY, hours=20 * 24, kwh=20, count=2000)
    revision = compute(bins, zone="GB")
    assert len(responses.calls) == 2
    assert revision.grams == pytest.approx(13 * 110 + 7 * 123)
    assert revision.status == "final"


@responses.activate
def test_energy_charts_tells_observed_from_forecast() -> None:
    seconds = [int(DAY.timestamp()) + 900 * i for i in range(97)]
    seen = 40
    responses.get(
        "https://api.energy-charts.info/co2eq",
        json={
            "unix_seconds": seconds,
            "co2eq": [400.0] * seen + [None] * (97 - seen),
            "co2eq_forecast": [None] * seen + [200.0] * (97 - seen),
            "deprecated": False,
        },
        match=[matchers.query_param_matcher({"country": "de", "start": iso(DAY), "end": "2026-11-11T00:00Z"})],
    )
    revision = compute(zone="DEU")
    assert revision.grams == pytest.approx(0.25 * 400 + 0.25 * 200)
    assert revision.coverage == pytest.approx(
        {"actual": 0.5, "forecast": 0.5, "estimated": 0, "static": 0, "missing": 0}
    )
    assert (revision.accounting, revision.scope) == (None, None)  # its API does not say


@responses.activate
def test_electricity_maps_marks_estimates_and_chunks_ten_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELECTRICITYMAPS_TOKEN", "secret")

    def answer(request: Any) -> tuple[int, dict[str, str], str]:
        assert request.headers["auth-token"] == "secret"
        start, end = (datetime.fromisoformat(request.params[k]) for k in ("start", "end"))
        assert end - start <= timedelta(days=10)
        assert request.params["zone"] == "NO-NO2"
        hours = [start + timedelta(hours=i) for i in range((end - start) // timedelta(hours=1))]
        rows = [
            {
                "zone": "NO-NO2",
                "carbonIntensity": 30,
                "datetime": f"{h:%Y-%m-%dT%H:%M:%S}.000Z",
                "isEstimated": h.hour < 6,
            }
            for h in hours
        ]
        return 200, {}, json.dumps({"temporalGranularity": "hourly", "data": rows})

    url = "https://api.electricitymaps.com/v3/carbon-intensity/past-range"
    responses.add_callback(responses.GET, url, callback=answer)
    revision = compute(even_bins(DAY, hours=12 * 24, kwh=3, count=1200), zone="NO2")
    assert len(responses.calls) == 2
    assert revision.grams == pytest.approx(90)
    assert revision.coverage["estimated"] == pytest.approx(0.25)
    assert (revision.scope, revision.gas, revision.status) == ("lifecycle", "CO2e", "provisional")


@pytest.mark.parametrize("provider", ["auto", "file"])
def test_a_file_of_the_users_own(provider: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.csv"
    path.write_text(
        "start,end,g_per_kwh\n"
        "2026-11-10T10:00:00Z,2026-11-10T11:00:00Z,300\n"
        "2026-11-10T10:00:00+01:00,2026-11-10T11:00:00+01:00,100\n"
    )
    revision = compute(provider=provider, file=str(path), zone="our solar roof")
    assert revision.grams == pytest.approx(0.25 * 100 + 0.25 * 300)
    assert (revision.status, revision.zone) == ("final", "our solar roof")
    assert "not known" in revision.definition


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n", "columns end, g_per_kwh, start are absent"),
        ("start,end,g_per_kwh\n2026-11-10T10:00,2026-11-10T09:00,5\n", "must end after it starts"),
        ("start,end,g_per_kwh\n2026-11-10T10:00,2026-11-10T11:00,-5\n", "finite, not negative"),
        ("start,end,g_per_kwh\nyesterday,today,5\n", "is not a series"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_reason(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "grid.csv"
    if text is not None:
        path.write_text(text)
    revision = compute(provider="file", file=str(path))
    assert revision.status == "static"
    assert reason in (revision.reason or "")


DEFINITIONS = {
    "energidataservice": "CO2, average, consumption-based, direct: 5-minute CO2Emis of the Danish price area "
    "(125 % heat allocation)",
    "uk": "CO2, average, consumption-based, direct: half-hourly, Great Britain, imports and grid losses included",
    "energycharts": "CO2e, average, country's electricity mix as published by Energy-Charts, 15-minute; its API says "
    "neither production or consumption nor direct or life-cycle",
    "electricitymaps": "CO2e, average, consumption-based (flow-traced), life-cycle: hourly, Electricity Maps",
}


def test_definitions_are_worded_as_in_the_records_there_are() -> None:
    """Another wording would be another definition: totals would not be summed, every run would get a revision."""
    assert {name: source.definition.sentence for name, source in SOURCES.items()} == DEFINITIONS


@responses.activate
def test_no_zone_means_no_network_and_a_labelled_world_value() -> None:
    revision = compute()
    assert (revision.grams, revision.status) == (pytest.approx(0.5 * 475), "static")
    assert "IEA 2019" in revision.definition
    assert revision.reason is None
    assert len(responses.calls) == 0


@responses.activate
def test_a_number_of_ones_own_needs_no_network() -> None:
    revision = compute(zone="DK1", intensity_g_per_kwh=82.5)
    assert (revision.grams, revision.status, revision.static_year) == (pytest.approx(41.25), "static", None)
    assert "given by the user" in revision.definition
    assert len(responses.calls) == 0


@pytest.mark.parametrize(
    ("zone", "token", "provider"),
    [
        (None, True, "static"),
        ("DK1", True, "energidataservice"),
        ("DK-DK2", False, "energidataservice"),
        ("GB", False, "uk"),
        ("UK", False, "uk"),
        ("gbr", False, "uk"),
        ("DE", False, "energycharts"),
        ("FR", False, "energycharts"),
        ("DK", False, "energycharts"),
        ("GB", True, "uk"),
        ("DE", True, "energycharts"),
        ("US", False, "static"),
        ("US-CAL-CISO", True, "electricitymaps"),
        ("SE3", True, "electricitymaps"),
        ("SE3", False, "static"),
        ("WORLD", True, "static"),
    ],
)
def test_auto_chooses_by_zone(zone: str | None, token: bool, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if token:
        monkeypatch.setenv("ELECTRICITYMAPS_TOKEN", "t")
    assert GridSettings(zone=zone).resolved_provider == provider


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zone": "DK3"}, "grid.zone: got 'DK3'.*did you mean DK1, DK2"),
        ({"zone": "Denmark"}, "did you mean DK1, DK2, DK"),
        ({"zone": "Grmany"}, "did you mean DE"),
        ({"zone": "QQ-XX"}, "grid.zone: got 'QQ-XX'"),
        ({"zone": ""}, "grid.zone: got ''"),
        ({"zone": False}, '"NO" in quotes'),
        ({"zone": "DE", "provider": "uk"}, "which uk does not cover; allowed with it: GB"),
        ({"zone": "DE", "provider": "energidataservice"}, "does not cover; allowed with it: DK1, DK2;"),
        ({"zone": "WORLD", "provider": "electricitymaps"}, "does not cover; allowed with it: any country;"),
        ({"provider": "energidataservice"}, "grid.zone: missing.*grid.zone=DK1"),
        ({"provider": "energycharts"}, "grid.zone: missing.*grid.zone=DE"),
        ({"provider": "electricitymaps"}, "grid.zone: missing.*grid.zone=DE"),
        ({"provider": "file"}, "grid.file: missing"),
        ({"provider": "carbon"}, "grid.provider: got 'carbon'; choose one of auto, energidataservice"),
        ({"fallback": "zero"}, "grid.fallback: got 'zero'; choose one of static, none"),
        ({"pue": 0.9}, "grid.pue: got 0.9"),
        ({"pue": float("nan")}, "grid.pue: got nan"),
        ({"timeout_s": 0}, "grid.timeout_s: got 0"),
        ({"max_wait_s": -1}, "grid.max_wait_s: got -1"),
        ({"intensity_g_per_kwh": True}, "grid.intensity_g_per_kwh: got True"),
        ({"zon": "DK1"}, "grid.zon: not a field; did you mean zone"),
    ],
)
def test_bad_settings_name_field_value_and_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GridSettings.from_mapping(values)
