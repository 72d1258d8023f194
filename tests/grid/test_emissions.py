"""The emissions command in a process of its own: revisions, exit statuses, what it prints."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lora_scaling.commands.emissions import main, parse_overrides
from lora_scaling.errors import UserError
from lora_scaling.records import record_to_row
from tests.support.commands import Done
from tests.support.commands import command as in_process
from tests.support.grid_server import Answer, energinet, even_bins, in_turn, serving

START = datetime(2026, 11, 10, 9, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ELECTRICITYMAPS_TOKEN", raising=False)


def store_run(runs: Path, name: str, *, kwh: float = 0.694, hours: float = 4, grid: Any = None) -> Path:
    """A finished run's folder, its energy spread evenly; GPU and CPU known, RAM not."""
    folder = runs / "study" / name
    folder.mkdir(parents=True)
    with open(folder / "timeline.csv", "w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["start", "end", "phase", "gpu_j", "cpu_j", "ram_j"])
        for b in even_bins(START, hours, kwh, int(hours * 3600)):
            rows.writerow([b.start.isoformat(), b.end.isoformat(), "train", b.joules * 0.8, b.joules * 0.2, ""])
    record = {
        "schema_version": 1,
        "run_id": name,
        "study": "study",
        "status": "ok",
        "started_at": START.isoformat(),
        "config": {"samples": 32, "grid": grid or {}},
        "energy": {"joules": kwh * 3.6e6, "timeline": "timeline.csv", "phases": []},
        "emissions": None,
    }
    path = folder / "run.json"
    path.write_text(json.dumps(record))
    return path


def command(*words: str) -> Done:
    return in_process("lora_scaling.emissions", *words)


def revisions(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    record = json.loads(path.read_text())
    return record["emissions"], record.get("emissions_history", [])


def test_the_case_study_from_a_stored_run_to_printed_grams(tmp_path: Path) -> None:
    path = store_run(tmp_path, "a")
    with serving(energinet(lambda moment: 82.5)) as server:
        done = command(str(tmp_path), "grid.zone=DK1", f"grid.base_url={server.url}")
    assert done.returncode == 0, done.stderr
    header, row = (line.split() for line in done.stdout.splitlines()[:2])
    assert header[:2] == ["run", "kWh"]
    assert (row[:3], row[4]) == (["a", "0.694", "82.5"], "final")
    assert float(row[3]) == pytest.approx(57.255, abs=0.01)
    assert "100% actual" in done.stdout
    assert "definition: CO2, average, consumption-based, direct: 5-minute CO2Emis" in done.stdout
    assert "attribution: Source: Energinet" in done.stdout
    assert "239 images" in done.stdout
    latest, history = revisions(path)
    assert (latest["grams"], latest["revision"], history) == (pytest.approx(57.255), 1, [])
    assert len(server.requests) == 1


def test_recomputing_adds_a_revision_only_where_something_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store_run(tmp_path, "a")
    assert main([str(tmp_path)]) == 0  # offline, no zone: a labelled world value
    assert "static" in capsys.readouterr().out
    first = path.read_bytes()
    assert main([str(tmp_path)]) == 0
    assert "1 (unchanged)" in capsys.readouterr().out
    assert path.read_bytes() == first
    with serving(energinet(lambda moment: 100.0)) as server:
        assert main([str(tmp_path), "grid.zone=DK1", f"grid.base_url={server.url}"]) == 0
    assert "2 (new)" in capsys.readouterr().out
    latest, history = revisions(path)
    assert (latest["revision"], latest["status"], latest["grams"]) == (2, "final", pytest.approx(69.4))
    assert [(old["revision"], old["status"]) for old in history] == [(1, "static")]
    assert history[0] == json.loads(first)["emissions"]
    assert json.loads(path.read_text())["config"] == {"samples": 32, "grid": {}}  # the run's own is as it was


def test_a_failing_grid_never_replaces_a_better_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = store_run(tmp_path, "a", grid={"zone": "DK1", "timeout_s": 2})
    with serving(in_turn([Answer("", 403)])) as server:
        assert main([str(tmp_path), f"grid.base_url={server.url}"]) == 0
        assert "HTTP 403" in capsys.readouterr().out
    assert revisions(path)[0]["status"] == "static"
    with serving(energinet(lambda moment: 100.0)) as server:  # the data are there now: completed
        assert main([str(tmp_path), f"grid.base_url={server.url}"]) == 0
    assert revisions(path)[0]["status"] == "final"
    capsys.readouterr()
    with serving(in_turn([Answer("", 403)])) as server:
        assert main([str(tmp_path), f"grid.base_url={server.url}", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [run["change"] for run in document["runs"]] == ["kept"]
    assert "HTTP 403" in document["runs"][0]["note"]
    latest, history = revisions(path)
    assert (latest["status"], latest["revision"], len(history)) == ("final", 2, 1)


@pytest.mark.parametrize(
    ("asked", "change"),
    [([], "kept"), (["grid.zone=DK2"], "new"), (["grid.pue=1.5"], "new"), (["grid.zone=DE"], "new")],
)
def test_a_failing_grid_answers_another_question_with_what_it_has(
    asked: list[str], change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The better answer stays for the zone and the PUE that it is of; for others it would be a wrong one."""
    path = store_run(tmp_path, "a", grid={"zone": "DK1"})
    with serving(energinet(lambda moment: 100.0)) as server:
        assert main([str(tmp_path), f"grid.base_url={server.url}"]) == 0
    capsys.readouterr()
    with serving(in_turn([Answer("", 403)])) as server:
        assert main([str(tmp_path), *asked, f"grid.base_url={server.url}", "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert run["change"] == change
    latest, _ = revisions(path)
    assert latest["status"] == ("final" if change == "kept" else "static")
    assert latest["pue"] == (1.5 if "grid.pue=1.5" in asked else 1.0)


def test_fallback_none_is_pending_with_exit_0_and_completed_later(tmp_path: Path) -> None:
    path = store_run(tmp_path, "a")
    with serving(in_turn([Answer("<html>down</html>")])) as server:
        done = command(str(tmp_path), "grid.zone=DK1", "grid.fallback=none", f"grid.base_url={server.url}")
    assert done.returncode == 0
    assert "pending" in done.stdout
    assert "unknown" in done.stdout
    assert revisions(path)[0]["grams"] is None
    with serving(energinet(lambda moment: 100.0)) as server:
        command(str(tmp_path), "grid.zone=DK1", "grid.fallback=none", f"grid.base_url={server.url}")
    latest, history = revisions(path)
    assert (latest["status"], latest["revision"]) == ("final", 2)
    assert history[0]["status"] == "pending"


def test_json_is_one_document_and_a_sweep_of_a_day_is_one_request(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        store_run(tmp_path, name, kwh=0.1, hours=1)
    with serving(energinet(lambda moment: 50.0)) as server:
        done = command(str(tmp_path), "--json", "grid.zone=DK1", f"grid.base_url={server.url}")
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert document["schema_version"] == 1
    assert [run["run_id"] for run in document["runs"]] == ["a", "b", "c"]
    assert document["totals"] == pytest.approx({"energy_kwh": 0.3, "grams": 15})
    assert document["runs"][0]["emissions"]["coverage"]["actual"] == pytest.approx(1)
    assert document["forecast"] is None
    assert len(server.requests) == 1


def test_the_list_says_how_energies_were_obtained_and_which_run_did_not_train(tmp_path: Path) -> None:
    for name, cpu in (("both", "load_model"), ("zero", "rapl")):
        path = store_run(tmp_path, name)
        record = json.loads(path.read_text())
        parts = {"gpu": {"joules": 3.0, "source": "nvml_counter"}, "cpu": {"joules": 1.0, "source": cpu}}
        record["energy"]["components"] = parts
        record["work"] = {"steps": 0 if name == "zero" else 4}
        path.write_text(json.dumps(record))
    header, *lines = command(str(tmp_path)).stdout.splitlines()
    assert header.split()[:4] == ["run", "kWh", "measured", "g/kWh"]
    assert lines[0].split()[:4] == ["both", "0.694", "75", "%"]
    assert lines[1].split()[:6] == ["zero", "(no", "training)", "0.694", "100", "%"]
    assert command(str(tmp_path / "study" / "zero")).stdout.split()[:3] == ["run", "kWh", "measured"]


def test_grams_of_different_definitions_are_not_summed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_run(tmp_path, "a")
    store_run(tmp_path, "b", grid={"zone": "US"})
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("definition: ") == 2
    assert "total: not summed" in printed


def test_forecast_prints_advice_or_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_run(tmp_path, "a", hours=1)
    ahead = datetime.now(UTC) + timedelta(hours=3)
    with serving(energinet(lambda moment: 100.0 if moment < ahead else 20.0)) as server:
        words = [str(tmp_path), "grid.zone=DK1", f"grid.base_url={server.url}"]
        assert main([*words, "--forecast"]) == 0
        assert "80% less" in capsys.readouterr().out
        assert main([*words, "grid.forecast=true", "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)["forecast"]
    assert advice["saving"] == pytest.approx(0.8, abs=0.01)
    assert main([*words[::2], "--forecast"]) == 0  # of the same grid, which is not there any more
    assert "No advice on when to run: 127.0.0.1 cannot be reached" in capsys.readouterr().out
    assert main([str(tmp_path), "--forecast", "grid.provider=static"]) == 0
    assert "provider static makes no forecasts" in capsys.readouterr().out


def test_advice_counts_the_pue_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0.4 kWh in a room of PUE 1.5 at 100 g/kWh now and 20 g/kWh later: 60 g and 12 g."""
    store_run(tmp_path, "a", kwh=0.4, hours=1)
    ahead = datetime.now(UTC) + timedelta(hours=3)
    with serving(energinet(lambda moment: 100.0 if moment < ahead else 20.0)) as server:
        words = ["grid.zone=DK1", f"grid.base_url={server.url}", "grid.pue=1.5"]
        assert main([str(tmp_path), *words, "--forecast", "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)["forecast"]
    assert advice["energy_kwh"] == pytest.approx(0.4)
    assert (advice["now_g"], advice["best_g"]) == (pytest.approx(60), pytest.approx(12))


def test_runs_that_cannot_be_written_keep_their_grams_and_stop_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, open_ = store_run(tmp_path / "archive", "a"), store_run(tmp_path / "here", "b")
    assert main([str(tmp_path)]) == 0
    (closed.parent / ".lock").unlink()
    (closed.parent / ".lock").mkdir()  # not even root opens a folder for writing
    before = closed.read_bytes()
    capsys.readouterr()
    assert main([str(tmp_path)]) == 0  # to look at an archive changes nothing
    capsys.readouterr()
    assert main([str(tmp_path), "grid.zone=SE", "grid.provider=static"]) == 1
    printed = capsys.readouterr().out
    assert closed.read_bytes() == before
    assert revisions(open_)[0]["zone"] == "SE"
    assert f"{closed.parent.parent} cannot be written" in printed
    assert "(skipped)" in printed  # with the grams there were


@pytest.mark.parametrize("look", [[], ["--json"], ["--forecast"], ["grid.timeout_s=3"]])
def test_looking_at_grams_leaves_them_as_they_are(
    look: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's own configuration has no zone: it must not come back with the world's value."""
    path = store_run(tmp_path, "a")
    with serving(energinet(lambda moment: 100.0)) as server:
        assert main([str(tmp_path), "grid.zone=DK1", "grid.pue=1.2", f"grid.base_url={server.url}"]) == 0
        before = path.read_bytes()
        look = [*look, f"grid.base_url={server.url}"]
        assert main([str(tmp_path), *look]) == 0
        assert path.read_bytes() == before
    assert main([str(tmp_path), *look]) == 0  # nor with the service gone
    assert path.read_bytes() == before
    latest, history = revisions(path)
    assert (latest["zone"], latest["grams"], latest["revision"]) == ("DK1", pytest.approx(0.694 * 1.2 * 100), 1)
    assert (latest["settings"]["zone"], latest["settings"]["pue"], history) == ("DK1", 1.2, [])


def test_looking_without_the_token_leaves_grams_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store_run(tmp_path, "a", hours=1)
    hours = [{"datetime": f"2026-11-10T{h:02}:00Z", "carbonIntensity": 300} for h in range(24)]
    with serving(in_turn([Answer({"data": hours})])) as server:
        monkeypatch.setenv("ELECTRICITYMAPS_TOKEN", "hush-hush-token")
        assert main([str(tmp_path), "grid.zone=US-TEX-ERCO", f"grid.base_url={server.url}"]) == 0
    before = path.read_bytes()
    assert revisions(path)[0]["provider"] == "electricitymaps"
    monkeypatch.delenv("ELECTRICITYMAPS_TOKEN")
    assert main([str(tmp_path)]) == 0
    assert path.read_bytes() == before


def test_a_zone_asked_for_anew_is_not_answered_with_the_number_of_before(tmp_path: Path) -> None:
    path = store_run(tmp_path, "a", kwh=1.0)
    assert main([str(tmp_path), "grid.intensity_g_per_kwh=82.5", "grid.pue=1.2"]) == 0
    assert revisions(path)[0]["grams"] == pytest.approx(99)
    with serving(energinet(lambda moment: 50.0)) as server:
        assert main([str(tmp_path), "grid.zone=DK1", f"grid.base_url={server.url}"]) == 0
    latest, history = revisions(path)
    assert (latest["provider"], latest["grams"]) == ("energidataservice", pytest.approx(60))  # the PUE stays
    assert len(history) == 1
    series = tmp_path / "series.csv"
    series.write_text("start,end,g_per_kwh\n2026-11-10T00:00Z,2026-11-11T00:00Z,10\n")
    assert main([str(tmp_path), f"grid.file={series}"]) == 0
    assert revisions(path)[0]["grams"] == pytest.approx(12)
    assert main([str(tmp_path)]) == 0
    assert len(revisions(path)[1]) == 2


def test_a_record_holds_the_settings_without_a_login(tmp_path: Path) -> None:
    path = store_run(tmp_path, "a")
    with serving(energinet(lambda moment: 100.0)) as server:
        address = server.url.replace("//", "//user:hunter2@")
        assert main([str(tmp_path), "grid.zone=DK1", f"grid.base_url={address}"]) == 0
    assert "hunter2" not in path.read_text()
    assert revisions(path)[0]["settings"]["base_url"] == server.url


def test_runs_that_cannot_be_computed_are_named_and_the_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = store_run(tmp_path, "good")
    unmeasured = store_run(tmp_path, "unmeasured")
    record = json.loads(unmeasured.read_text())
    unmeasured.write_text(json.dumps(record | {"energy": None}))
    (store_run(tmp_path, "torn").parent / "timeline.csv").write_text("start,end\n")
    store_run(tmp_path, "foreign").write_text("{")
    store_run(tmp_path, "misplaced", grid={"zone": "Atlantis"})
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for reason in ("no energy timeline", "not an energy timeline", "not valid JSON", "'Atlantis'"):
        assert reason in printed
    assert revisions(good)[0]["status"] == "static"


def test_a_timeline_that_lost_energy_is_warned_of(tmp_path: Path) -> None:
    path = store_run(tmp_path, "a")
    record = json.loads(path.read_text())
    record["energy"]["joules"] *= 2
    path.write_text(json.dumps(record))
    assert main([str(tmp_path)]) == 0
    assert "timeline_mismatch" in [w["kind"] for w in revisions(path)[0]["warnings"]]


def test_grams_of_a_part_are_called_so_and_not_summed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A GPU that was lost left the timeline of the processor only."""
    store_run(tmp_path, "whole")
    path = store_run(tmp_path, "part")
    record = json.loads(path.read_text())
    parts = {
        "gpu": {"joules": None, "source": "nvml_counter"},
        "cpu": {"joules": 1.0, "source": "rapl"},
        "ram": {"joules": None, "source": "none"},
    }
    record["energy"] |= {"complete": False, "components": parts}
    path.write_text(json.dumps(record))
    for _ in range(2):  # nothing changes the second time, and it is said again
        assert main([str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert "warning: part: the timeline lacks gpu: grams of a part" in printed
        assert "whole: the timeline" not in printed
        assert "total: not summed" in printed
    assert main([str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["totals"] == {"energy_kwh": None, "grams": None}
    assert {run["run_id"]: run["lacks"] for run in document["runs"]} == {"part": "gpu", "whole": None}
    row = record_to_row(json.loads(path.read_text()))
    assert (row["energy_kwh"], row["emissions_g"]) == (None, None)
    assert record_to_row(json.loads((tmp_path / "study/whole/run.json").read_text()))["emissions_g"] > 0


def test_overrides_that_do_not_fit_one_run_stop_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`a` and `c` have a zone that this provider covers, `b` has not."""
    for name, zone in (("a", "GB"), ("b", "DE"), ("c", "GB")):
        store_run(tmp_path, name, grid={"zone": zone})
    with serving(lambda request: Answer({}, status=500)) as server:
        words = ["grid.provider=uk", "grid.max_wait_s=0", f"grid.base_url={server.url}"]
        assert main([str(tmp_path), *words]) == 0
        assert "which uk does not cover" in capsys.readouterr().out
        done = {name: revisions(tmp_path / "study" / name / "run.json")[0] is not None for name in "abc"}
        assert done == {"a": True, "b": False, "c": True}
        assert main([str(tmp_path / "study" / "b"), *words]) == 2
        assert "which uk does not cover" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "RUNS: missing"),
        (["RUNS", "grid.zone=DK3"], "grid.zone: got 'DK3'"),
        (["RUNS", "grid.zon=DK1"], "grid.zon: not an override here; allowed: grid.zone"),
        (["RUNS", "samples=32"], "samples: not an override here"),
        (["RUNS", "grid.pue=much"], "grid.pue: got 'much'; give a number"),
        (["RUNS", "grid.pue=0.5"], "grid.pue: got 0.5"),
        (["RUNS", "grid.forecast=perhaps"], "give true or false"),
        (["RUNS", "grid.provider=file", "grid.file=/nowhere.csv"], "grid.file: got /nowhere.csv"),
        (["RUNS", "grid.provider=uk", "grid.zone=DE"], "which uk does not cover"),
        (["EMPTY"], "holds no run.json"),
        (["/nowhere"], "which does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store_run(tmp_path / "runs", "a")
    before = path.read_bytes()
    (tmp_path / "empty").mkdir()
    places = {"RUNS": str(tmp_path / "runs"), "EMPTY": str(tmp_path / "empty")}
    assert main([places.get(word, word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert path.read_bytes() == before


def test_overrides_are_typed() -> None:
    words = [
        "grid.zone='NO'",
        "+grid.pue=1.3",
        "grid.base_url=null",
        "grid.max_wait_s=5",
        "grid.forecast=True",
    ]
    expected = {"zone": "NO", "pue": 1.3, "base_url": None, "max_wait_s": 5.0, "forecast": True}
    assert parse_overrides(words) == expected
    with pytest.raises(UserError, match="not an override here"):
        parse_overrides(["zone=DK1"])


def test_the_token_reaches_no_file_and_no_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELECTRICITYMAPS_TOKEN", "hush-hush-token")
    store_run(tmp_path / "runs", "a")
    with serving(in_turn([Answer({"message": "bad auth-token: hush-hush-token"}, 401)])) as server:
        done = command(str(tmp_path / "runs"), "grid.zone=US-TEX-ERCO", f"grid.base_url={server.url}")
    assert server.requests[0].headers["auth-token"] == "hush-hush-token"
    assert done.returncode == 0
    assert "HTTP 401" in done.stdout
    assert "hush-hush" not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or "hush-hush" not in path.read_text()
