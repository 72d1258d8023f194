"""Every way a grid service fails, one by one, against a real server: no energy lost, no unlabelled number."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from lora_scaling.grid import EmissionsRevision, GridSettings, compute_emissions, static_intensity
from tests.support.grid_server import Answer, Script, energinet, even_bins, in_turn, minutes5, record, serving

START = datetime(2026, 11, 10, 9, 0, tzinfo=UTC)
NOW = START + timedelta(days=5)
BINS = even_bins(START, hours=2, kwh=0.5, count=240)
TOKEN = "s3cr3t/token+value"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ELECTRICITYMAPS_TOKEN", raising=False)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting without the time: the seconds a client would have slept."""
    slept: list[float] = []
    monkeypatch.setattr("lora_scaling.grid.http.time", SimpleNamespace(sleep=slept.append, monotonic=lambda: 0.0))
    return slept


def compute(url: str, **settings: Any) -> EmissionsRevision:
    chosen = {"zone": "DK1", "base_url": url, "timeout_s": 5.0, **settings}
    return compute_emissions(BINS, GridSettings(**chosen), now=NOW)


def assert_static(revision: EmissionsRevision, reason: str) -> None:
    """The fallback: all the energy, a labelled yearly number, and why."""
    denmark = static_intensity("DNK")
    assert revision.status == "static"
    assert revision.energy_kwh == pytest.approx(0.5)
    assert revision.grams == pytest.approx(0.5 * denmark.g_per_kwh)
    assert (revision.definition, revision.static_year) == (denmark.definition, denmark.year)
    assert (revision.provider, revision.scope, revision.accounting) == ("static", "lifecycle", "production")
    assert revision.coverage["static"] == pytest.approx(1)
    assert reason in (revision.reason or "")
    assert [w["kind"] for w in revision.warnings] == ["grid_fallback"]
    assert revision.url is None


def refused_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_refused_connection_gives_the_labelled_static_value() -> None:
    assert_static(compute(f"http://127.0.0.1:{refused_port()}"), "cannot be reached")


def test_fallback_none_leaves_grams_unknown_and_pending_never_zero() -> None:
    revision = compute(f"http://127.0.0.1:{refused_port()}", fallback="none")
    assert (revision.grams, revision.intensity_g_per_kwh, revision.status) == (None, None, "pending")
    assert revision.energy_kwh == pytest.approx(0.5)
    assert revision.coverage["missing"] == pytest.approx(1)
    assert "cannot be reached" in (revision.reason or "")
    assert revision.provider == "energidataservice"  # what was asked, so that it can be asked again


def test_time_out_is_tried_again_and_then_given_up(waits: list[float]) -> None:
    with serving(in_turn([Answer({}, hang_s=30)])) as server:
        revision = compute(server.url, timeout_s=0.1)
    assert_static(revision, "did not answer within 0.1 s after 4 tries")
    assert len(server.requests) == 4
    assert len(waits) == 3


def test_a_time_out_in_the_middle_of_an_answer_is_tried_again(waits: list[float]) -> None:
    good = energinet(lambda moment: 100.0)
    stalled = [Answer({"records": []}, stall_s=30)]
    with serving(lambda request: stalled.pop() if stalled else good(request)) as server:
        revision = compute(server.url, timeout_s=0.3)
    assert (revision.status, revision.grams) == ("final", pytest.approx(50))
    assert (len(server.requests), waits) == (2, [1])


def test_an_answer_that_never_ends_is_given_up_as_a_time_out(waits: list[float]) -> None:
    with serving(in_turn([Answer({"records": []}, stall_s=30)])) as server:
        revision = compute(server.url, timeout_s=0.1)
    assert_static(revision, "did not answer within 0.1 s after 4 tries")
    assert len(server.requests) == 4


@pytest.mark.parametrize("where", ["headers", "body"])
def test_an_answer_of_a_byte_now_and_then_ends_at_the_deadline(
    where: Literal["headers", "body"], waits: list[float]
) -> None:
    with serving(in_turn([Answer({}, trickle=where)])) as server:
        before_s = time.monotonic()
        revision = compute(server.url, timeout_s=0.3)
        took_s = time.monotonic() - before_s
    assert_static(revision, "did not answer within 0.3 s after 4 tries")
    assert len(server.requests) == 4
    assert took_s == pytest.approx(4 * 0.3, abs=1.0)


def test_429_waits_as_long_as_it_is_told_and_then_succeeds(waits: list[float]) -> None:
    good = energinet(lambda moment: 100.0)
    busy = [Answer({"statusCode": 429}, 429, {"Retry-After": "7"})]
    with serving(lambda request: busy.pop() if busy else good(request)) as server:
        revision = compute(server.url)
    assert waits == [7.0]
    assert (revision.status, revision.grams) == ("final", pytest.approx(50))


def test_429_really_waits_a_second() -> None:
    good = energinet(lambda moment: 100.0)
    busy = [Answer({}, 429, {"Retry-After": "1"})]
    before = datetime.now(UTC)
    with serving(lambda request: busy.pop() if busy else good(request)) as server:
        revision = compute(server.url)
    assert datetime.now(UTC) - before >= timedelta(seconds=1)
    assert revision.status == "final"


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"statusCode": 429, "message": "Rate limit is exceeded."}, 429, {"Retry-After": "197"}),
        Answer(
            {"statusCode": 429, "message": "Rate limit is exceeded. Try again in 197 seconds."}, 429
        ),  # the same in the body only
    ],
)
def test_429_beyond_max_wait_stops_at_once(answer: Answer, waits: list[float]) -> None:
    with serving(in_turn([answer])) as server:
        revision = compute(server.url, max_wait_s=60)
    assert_static(revision, "the next try is 197 s away and grid.max_wait_s is 60")
    assert (len(server.requests), waits) == (1, [])


def test_retry_after_as_a_date_is_understood(waits: list[float]) -> None:
    answer = Answer("", 429, {"Retry-After": "Wed, 01 Jan 2200 00:00:00 GMT"})
    with serving(in_turn([answer])) as server:
        revision = compute(server.url)
    assert_static(revision, "grid.max_wait_s is 60")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
def test_server_errors_are_tried_four_times(status: int, waits: list[float]) -> None:
    with serving(in_turn([Answer("<h1>Oops</h1>", status)])) as server:
        revision = compute(server.url)
    assert_static(revision, f"HTTP {status} (Oops) after 4 tries")
    assert len(server.requests) == 4
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("status", [301, 400, 403, 404])
def test_other_statuses_stop_with_the_reason(status: int) -> None:
    answer = Answer("unknown country", status, {"Location": "http://127.0.0.1:9/"})
    with serving(in_turn([answer])) as server:
        revision = compute(server.url)
    assert_static(revision, f"HTTP {status} (unknown country)")
    assert len(server.requests) == 1


BODIES: dict[str, tuple[Any, str]] = {
    "html with 200": ("<html><body>Maintenance</body></html>", "text/html that is not JSON (Maintenance)"),
    "malformed JSON": ('{"records": [{"Minutes5UTC": "2026-', "is not JSON"),
    "empty body": ("", "is not JSON"),
    "a list": ([], "without a list `records`"),
    "no records": ({"total": 0}, "without a list `records`"),
    "empty records": ({"records": []}, "no values for these hours"),
    "rows that are texts": ({"records": ["a"]}, "something unexpected"),
    "text for a number": (
        {"records": [record(START, 0.0) | {"CO2Emission": "n/a"}]},
        "answered 'n/a' where g/kWh belong",
    ),
    "negative": ({"records": [record(START, -1.0)]}, "where g/kWh belong"),
    "not a number": (
        '{"records": [{"Minutes5UTC": "2026-11-10T09:00", "CO2Emission": NaN}]}',
        "g/kWh belong",
    ),
    "no time": ({"records": [{"PriceArea": "DK1", "CO2Emission": 5.0}]}, "where a time belongs"),
    "two values for one time": ({"records": [record(START, 5.0), record(START, 6.0)]}, "two slots for"),
    "another area": ({"records": [record(START, 5.0, "DK2")]}, "no values for these hours"),
    "deep nesting": ("[" * 200_000, "is not JSON"),
}


@pytest.mark.parametrize("case", BODIES)
def test_nonsense_with_status_200_is_never_a_number(case: str) -> None:
    body, reason = BODIES[case]
    with serving(in_turn([Answer(body)])) as server:
        assert_static(compute(server.url), reason)


def with_values(change: Callable[[datetime], float | None]) -> Script:
    """100 g/kWh but for what `change` returns; -1: no record at all."""

    def answer(request: Any) -> Answer:
        values = {moment: change(moment) for moment in minutes5(request)}
        return Answer({"records": [record(m, v) for m, v in values.items() if v != -1]})

    return answer


@pytest.mark.parametrize("absent", [None, -1])
def test_short_gaps_and_nulls_are_estimated_from_both_neighbours(absent: float | None) -> None:
    def values(moment: datetime) -> float | None:
        if moment < START + timedelta(hours=1):
            return 100.0
        return absent if moment < START + timedelta(hours=1, minutes=30) else 200.0

    with serving(with_values(values)) as server:
        revision = compute(server.url)
    # an hour at 100, half an hour at their mean, half an hour at 200; 0.25 kWh an hour
    assert revision.grams == pytest.approx(0.25 * 100 + 0.125 * 150 + 0.125 * 200)
    assert revision.coverage["estimated"] == pytest.approx(0.25)
    assert revision.status == "provisional"
    assert "grid_estimated" in [w["kind"] for w in revision.warnings]


def test_a_long_gap_is_static_for_those_bins_only_and_labelled() -> None:
    gap = (START + timedelta(minutes=30), START + timedelta(minutes=95))
    with serving(with_values(lambda m: -1 if gap[0] <= m < gap[1] else 100.0)) as server:
        revision = compute(server.url)
        pending = compute(server.url, fallback="none")
    share = 65 / 120
    denmark = static_intensity("DK")
    assert revision.grams == pytest.approx(0.5 * ((1 - share) * 100 + share * denmark.g_per_kwh))
    assert revision.coverage["static"] == pytest.approx(share)
    assert revision.coverage["actual"] == pytest.approx(1 - share)
    assert (revision.provider, revision.status) == ("energidataservice", "provisional")
    assert revision.static_year == denmark.year
    assert denmark.definition in revision.definition
    assert "54.2%" in revision.definition
    assert {"grid_fallback", "mixed_definition"} <= {w["kind"] for w in revision.warnings}
    assert (pending.grams, pending.status) == (None, "pending")
    assert pending.coverage["missing"] == pytest.approx(share)


def test_a_stale_series_is_carried_no_further_than_the_limit() -> None:
    ends = START + timedelta(minutes=30)
    with serving(with_values(lambda m: 100.0 if m < ends else -1)) as server:
        revision = compute(server.url)
    assert revision.coverage["static"] == pytest.approx(0.75)
    assert revision.coverage["estimated"] == 0
    assert "2026-11-10T09:30Z" in (revision.reason or "")


def test_a_series_minutes_old_is_carried_to_the_end_and_provisional() -> None:
    ends = START + timedelta(minutes=110)
    with serving(with_values(lambda m: 100.0 if m < ends else -1)) as server:
        settings = GridSettings(zone="DK1", base_url=server.url)
        revision = compute_emissions(BINS, settings, now=START + timedelta(hours=2))
    assert revision.grams == pytest.approx(50)
    assert revision.coverage["estimated"] == pytest.approx(10 / 120)
    assert revision.status == "provisional"


def test_a_stale_series_of_other_hours_is_not_used() -> None:
    yesterday = [record(START - timedelta(days=1, minutes=5 * i), 3.0) for i in range(50)]
    with serving(in_turn([Answer({"records": yesterday})])) as server:
        assert_static(compute(server.url), "no values for these hours")


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("repeated hour of October", datetime(2026, 10, 25, 0, 0, tzinfo=UTC)),
        ("missing hour of March", datetime(2026, 3, 29, 0, 0, tzinfo=UTC)),
    ],
)
def test_daylight_saving_counts_every_utc_hour_once(name: str, start: datetime) -> None:
    """Local labels repeat or skip an hour; the UTC hours 0–3 have 10, 20, 30, 40 g/kWh."""

    def answer(request: Any) -> Answer:
        records = []
        for moment in minutes5(request):
            before = moment < start + timedelta(hours=1)
            summer = before if name.startswith("repeated") else not before
            local = moment + timedelta(hours=2 if summer else 1)
            row = record(moment, 10.0 * (moment.hour + 1))
            records.append(row | {"Minutes5DK": f"{local:%Y-%m-%dT%H:%M:%S}"})
        return Answer({"records": sorted(records, key=lambda row: row["Minutes5DK"])})

    bins = even_bins(start, hours=4, kwh=4.0, count=4 * 3600 // 60)
    with serving(answer) as server:
        settings = GridSettings(zone="DK1", base_url=server.url)
        revision = compute_emissions(bins, settings, now=NOW + timedelta(days=400))
    assert revision.grams == pytest.approx(10 + 20 + 30 + 40)
    assert (revision.status, revision.coverage["actual"]) == ("final", pytest.approx(1))


def energy_charts(**change: Any) -> Answer:
    seconds = [int(START.timestamp()) + 900 * i for i in range(8)]
    arrays = {"unix_seconds": seconds, "co2eq": [300.0] * 8, "co2eq_forecast": [None] * 8}
    return Answer(arrays | change)


def test_energy_charts_array_lengths_must_match() -> None:
    with serving(in_turn([energy_charts(co2eq=[300.0] * 7)])) as server:
        revision = compute(server.url, zone="DE")
    assert revision.status == "static"
    assert "arrays of different length (8 times, 7 values, 8 forecasts)" in (revision.reason or "")


@pytest.mark.parametrize("swap", [(2, 3), (3, 3)])
def test_energy_charts_times_must_increase(swap: tuple[int, int]) -> None:
    seconds = [int(START.timestamp()) + 900 * i for i in range(8)]
    seconds[2], seconds[3] = seconds[swap[1]], seconds[swap[0]]
    with serving(in_turn([energy_charts(unix_seconds=seconds)])) as server:
        revision = compute(server.url, zone="DE")
    assert revision.status == "static"
    assert "do not increase" in (revision.reason or "")


def test_the_token_is_sent_and_found_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ELECTRICITYMAPS_TOKEN", TOKEN)
    echoes = [
        Answer({"error": f"auth-token {TOKEN} is not valid for zone US-CAL-CISO"}, 401),
        Answer(f"<p>token={TOKEN}</p>"),
        Answer({"data": [{"datetime": TOKEN, "carbonIntensity": 5}]}),
        Answer({"data": [{"datetime": "2026-11-10T09:00Z", "carbonIntensity": TOKEN}]}),
        Answer({"data": [], "temporalGranularity": TOKEN}),
        Answer("moved", 302, {"Location": f"http://127.0.0.1:9/?auth={TOKEN}"}),
    ]
    with serving(in_turn(echoes)) as server:
        address = server.url.replace("//", "//user:hunter2@")
        revisions = [compute(address, zone="US-CAL-CISO") for _ in echoes]
    assert {request.headers["auth-token"] for request in server.requests} == {TOKEN}
    assert len(server.requests) == len(echoes)
    for revision in revisions:
        text = json.dumps(revision.to_dict()) + repr(revision)
        assert revision.status == "static"
        assert revision.reason
        assert TOKEN not in text
        assert "s3cr3t" not in text
        assert "hunter2" not in text
    for path in (tmp_path / "cache").rglob("*"):
        assert path.is_dir() or TOKEN not in path.read_text()


def test_a_token_that_no_header_can_hold_is_masked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELECTRICITYMAPS_TOKEN", "first-half\nsecond-half")
    with serving(in_turn([Answer({})])) as server:
        revision = compute(server.url, zone="US")
    assert (revision.status, server.requests) == ("static", [])
    assert "first-half" not in repr(revision)
    assert "second-half" not in repr(revision)


@pytest.mark.parametrize("answer", [Answer("", 429, {"Retry-After": "197"}), Answer("", 503), Answer("", hang_s=9)])
def test_a_busy_service_is_left_alone_by_the_next_run(answer: Answer, waits: list[float]) -> None:
    with serving(in_turn([answer])) as server:
        first = compute(server.url, timeout_s=0.1)
        asked = len(server.requests)
        second = compute(server.url, timeout_s=0.1)
    assert_static(first, "HTTP" if answer.status != 200 else "did not answer")
    assert_static(second, "not asked again for")
    assert len(server.requests) == asked


def test_a_service_that_kept_a_run_waiting_is_left_alone_for_as_long(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four tries of 25 s each; the run that ends 90 s later does not wait again, one after 101 s asks."""
    now_s = 1000.0
    monkeypatch.setattr("lora_scaling.grid.fetch.time", SimpleNamespace(monotonic=lambda: now_s))

    def slow(request: Any) -> Answer:
        nonlocal now_s
        now_s += 25.0
        return Answer("", 503)

    with serving(slow) as server:
        assert_static(compute(server.url), "HTTP 503")
        now_s += 90.0
        assert_static(compute(server.url), "not asked again for 10 s")
        assert len(server.requests) == 4
        now_s += 11.0
        compute(server.url)
    assert len(server.requests) == 8


def test_without_a_token_electricity_maps_is_not_asked() -> None:
    with serving(in_turn([Answer({})])) as server:
        revision = compute(server.url, zone="US-CAL-CISO", provider="electricitymaps")
    assert revision.status == "static"
    assert "ELECTRICITYMAPS_TOKEN is not set" in (revision.reason or "")
    assert server.requests == []


def test_a_torn_cache_and_an_unwritable_one_do_no_harm(tmp_path: Path) -> None:
    with serving(energinet(lambda moment: 100.0)) as server:
        compute(server.url, cache_dir=str(tmp_path / "c"))
        (stored,) = (tmp_path / "c").rglob("*.json")
        stored.write_text('{"slots": [[')
        again = compute(server.url, cache_dir=str(tmp_path / "c"))
        blocked = tmp_path / "file"
        blocked.write_text("")
        unwritable = compute(server.url, cache_dir=str(blocked))
    assert again.grams == unwritable.grams == pytest.approx(50)
    assert len(server.requests) == 3


def test_an_answer_too_long_to_be_a_series_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_scaling.grid.http.MAX_BODY_BYTES", 1000)
    with serving(energinet(lambda moment: 100.0)) as server:
        assert_static(compute(server.url), "more than 1000 bytes")
