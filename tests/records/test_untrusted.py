"""Records that others sent, or that were damaged: refused in one sentence, never followed, never resolved."""

import copy
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.claims.next_runs import common_overrides
from analysis.energy_model.target import own_settings
from analysis.energy_model.target_emissions import _recorded_definitions
from analysis.report.provenance import provenance_of
from analysis.tables.table import load_runs
from lora_scaling.commands.emissions import main as emissions
from lora_scaling.config import compose
from lora_scaling.config.again import override_columns
from lora_scaling.errors import RecordError
from lora_scaling.grid.providers import SOURCES
from lora_scaling.records import find_records, is_finished, read_record, record_to_row, write_record
from lora_scaling.records.provenance import provenance
from lora_scaling.runs.progress import table
from lora_scaling.runs.study import _cost_of_attempt
from tests.support.commands import command
from tests.support.grid_server import Answer, in_turn, serving
from tests.support.paths import STUDY_RUNS

SOURCE = find_records([STUDY_RUNS / "linear"])[0]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ELECTRICITYMAPS_TOKEN", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    """Store a published run with some of its values replaced; return its record's path."""

    def stored(text: str | None = None, **changes: Any) -> Path:
        folder = tmp_path / "runs" / "study" / "bad"
        folder.mkdir(parents=True, exist_ok=True)
        record = json.loads(SOURCE.read_text())
        for name, value in changes.items():
            place = record
            *groups, last = name.split("__")
            for group in groups:
                place = place[group]
            place[last] = value
        (folder / "run.json").write_text(json.dumps(record) if text is None else text)
        rows = (
            "start,end,phase,gpu_j,cpu_j,ram_j\n2026-11-25T10:00:00+00:00,2026-11-25T10:10:00+00:00,train,,100.0,50.0\n"
        )
        (folder / "timeline.csv").write_text(rows)
        return folder / "run.json"

    return stored


DAMAGE = {
    "nested": (lambda: {"text": "[" * 100_000}, "not valid JSON"),
    "long": (lambda: {"text": '{"schema_version": 1, "run_id": "r", "status": "ok", "total_s": ' + "9" * 5000 + "}"},
             "not valid JSON"),
    "joules": (lambda: {"energy__joules": "12"}, "energy.joules: got '12'; expected a number"),
    "component": (lambda: {"energy__components__cpu": 3}, "energy.components.cpu: got 3; expected an object"),
    "phase": (lambda: {"energy__phases": [{"name": "train", "seconds": None}]},
              "energy.phases[0].seconds: got null; expected a number"),
    "surrogate": (lambda: {"error": "\ud800"}, "not Unicode"),
    "started": (lambda: {"started_at": None}, "started_at: got null; expected a text"),
    "moment": (lambda: {"started_at": "noon"}, "started_at: got 'noon'; expected a time in ISO 8601"),
    "emissions": (lambda: {"emissions": "x"}, "emissions: got 'x'; expected an object"),
    "revision": (lambda: {"emissions": {"grams": 3.0}}, "emissions.revision: missing"),
    "huge": (lambda: {"total_s": 10**400}, "beyond the range of a double"),
    "nan": (lambda: {"energy__joules": float("nan")}, "beyond the range of a double, or NaN"),
    "config": (lambda: {"config": [1]}, "config: got a list; expected an object"),
    "loss": (lambda: {"training__train_loss": "low"}, "training.train_loss: got 'low'; expected a number"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_one_sentence_to_every_reader(
    damage: str, store: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every reader skips it and names it; the good run beside it is read."""
    changes, said = DAMAGE[damage]
    path = store(**changes())
    with pytest.raises(RecordError) as caught:
        read_record(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not is_finished(path)
    good = tmp_path / "runs" / "study" / "good"
    good.mkdir()
    shutil.copy(SOURCE, good / "run.json")
    runs = load_runs([tmp_path / "runs"])
    assert runs.frame["run_id"].tolist() == [json.loads(SOURCE.read_text())["run_id"]]
    [excluded] = runs.excluded
    assert excluded.run_id == "bad"
    assert said in excluded.reason
    assert provenance_of([str(tmp_path / "runs")]).read == 1
    assert len(_recorded_definitions([str(tmp_path / "runs")])) == 1
    assert emissions([str(tmp_path / "runs")]) == 0
    assert said in capsys.readouterr().out


BAD_VALUES = [
    None,
    "x",
    -1,
    1e308,
    10**400,
    [],
    {},
    [1],
    {"a": 1},
    True,
    "${oc.env:HOME}",
    "\ud800",
    "\x1b[2J",
    "y" * 9999,
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value[:2]):
            yield (*path, key)
            yield from places(item, (*path, key))


def test_no_value_of_a_record_makes_a_reader_fail(tmp_path: Path) -> None:
    """Each place of a record with each bad value in turn, every 17th of some 2,000; `emissions` is fuzzed apart."""
    good = json.loads(SOURCE.read_text())
    path = tmp_path / "study" / "r" / "run.json"
    path.parent.mkdir(parents=True)
    cases = [(place, value) for place in places(good) for value in BAD_VALUES][::17]
    read = longest = 0
    for place, value in cases:
        record = copy.deepcopy(good)
        inner = record
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        path.write_text(json.dumps(record))
        try:
            stored = read_record(path)
        except RecordError as error:
            longest = max(longest, len(str(error)))
            continue
        read += 1
        record_to_row(stored)
        override_columns(stored)
        _cost_of_attempt(stored)
        table([dict(stored)])
        provenance_of([str(tmp_path)])
    assert len(cases) > 100
    assert longest < 400
    assert 0 < read < len(cases)


@pytest.mark.parametrize("reader", ["design", "export", "backtest"])
def test_the_commands_skip_a_damaged_record_and_name_it(reader: str, tmp_path: Path) -> None:
    """The answer is that of the good runs."""
    answers = []
    for damaged in (False, True):
        for path in find_records([STUDY_RUNS / "linear"])[:12]:
            folder = tmp_path / str(damaged) / path.parent.name
            folder.mkdir(parents=True)
            shutil.copy(path, folder)
        if damaged:
            (tmp_path / "True" / "link").mkdir()
            (tmp_path / "True" / "link" / "run.json").symlink_to(tmp_path / "nowhere")
            (tmp_path / "True" / "text").mkdir()
            (tmp_path / "True" / "text" / "run.json").write_text("[" * 100_000)
        answers.append(command("analysis", reader, str(tmp_path / str(damaged))))
    good, bad = answers
    assert (bad.returncode, bad.stdout) == (good.returncode, good.stdout.replace("/False", "/True"))
    for name in ("link", "text"):
        assert name in bad.stderr


def test_a_pipe_is_no_record(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(RecordError, match="not a plain file"):
        read_record(tmp_path / "run.json")


@pytest.mark.parametrize("timeline", ["/dev/zero", "../good/timeline.csv", "other.csv"])
def test_the_timeline_of_a_record_is_the_file_beside_it(
    timeline: str, store: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store(energy__timeline=timeline)
    before = path.read_bytes()
    assert emissions([str(tmp_path / "runs")]) == 0
    assert "not a plain timeline.csv beside its record" in capsys.readouterr().out
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["pipe", "link", "device"])
def test_a_timeline_that_is_no_plain_file_is_not_read(
    kind: str, store: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timeline = store().with_name("timeline.csv")
    rows = timeline.read_text()
    timeline.unlink()
    if kind == "pipe":
        os.mkfifo(timeline)
    else:
        (tmp_path / "foreign.csv").write_text(rows)
        timeline.symlink_to("/dev/zero" if kind == "device" else tmp_path / "foreign.csv")
    assert emissions([str(tmp_path / "runs")]) == 0
    assert "plain" in capsys.readouterr().out


def test_a_record_s_own_address_and_folder_are_not_followed(
    store: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token goes to the provider's own host (here a second local server), and nothing to the record's."""
    monkeypatch.setenv("ELECTRICITYMAPS_TOKEN", "hush-hush-token")
    with serving(in_turn([Answer("", 403)])) as foreign, serving(in_turn([Answer("", 403)])) as own:
        source = SOURCES["electricitymaps"]
        monkeypatch.setitem(SOURCES, "electricitymaps", replace(source, base_url=own.url))
        grid = {"provider": "electricitymaps", "zone": "DE", "base_url": foreign.url, "cache_dir": str(tmp_path / "x")}
        store(config__grid=grid, emissions=None)
        assert emissions([str(tmp_path / "runs")]) == 0
        assert foreign.requests == []
        assert own.requests
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("own", [True, False], ids=["configuration", "revision"])
def test_the_file_of_a_record_is_not_read(
    own: bool, store: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named instead, quoted for a shell; the path that the user types is read."""
    series = tmp_path / "some series.csv"
    series.write_text("start,end,g_per_kwh\n2026-11-25T00:00Z,2026-11-26T00:00Z,10\n")
    grid = {"provider": "file", "file": str(series), "timeout_s": 1e9}
    emissions_section = json.loads(SOURCE.read_text())["emissions"] | {"settings": grid}
    path = store(config__grid=grid, emissions=None) if own else store(emissions=emissions_section)
    before = path.read_bytes()
    assert emissions([str(tmp_path / "runs")]) == 0
    assert path.read_bytes() == before
    assert f"give grid.file='{series}'" in capsys.readouterr().out
    assert emissions([str(tmp_path / "runs"), f"grid.file={series}"]) == 0
    found: Any = read_record(path).get("emissions")
    assert found["grams"] == pytest.approx(150 / 3.6e6 * 10)
    assert found["settings"]["timeout_s"] < 100


def test_a_lock_that_is_a_link_makes_no_file_elsewhere(store: Callable[..., Path], tmp_path: Path) -> None:
    store().with_name(".lock").symlink_to(tmp_path / "elsewhere")
    assert emissions([str(tmp_path / "runs"), "grid.zone=GB", "grid.provider=static"]) == 1  # not kept
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_beyond_measure_is_not_read(store: Callable[..., Path]) -> None:
    path = store()
    os.truncate(path, 64_000_001)
    with pytest.raises(RecordError, match="64,000,001 bytes; at most 64,000,000"):
        read_record(path)


def test_the_token_is_never_sent_in_the_clear(
    store: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELECTRICITYMAPS_TOKEN", "hush-hush-token")
    store(emissions=None)
    words = ["grid.provider=electricitymaps", "grid.zone=DE", "grid.base_url=http://192.0.2.1"]
    assert emissions([str(tmp_path / "runs"), *words]) == 0
    assert "sent over https only" in " ".join(capsys.readouterr().out.split())


def test_text_of_a_record_is_never_resolved(
    store: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUSH", "hush-hush-token")
    text = "${oc.env:HUSH}"
    store(model__name=text, config__model__name=text, config__model__id=text, config__data__path=text, study=text)
    frame = load_runs([tmp_path / "runs"]).frame
    assert "hush-hush-token" not in frame.to_csv()
    assert frame["model_override"].isna().all()
    words = own_settings(frame)
    assert not [word for word in (*words, *common_overrides(frame)) if "hush" in word]
    compose(words)  # and none of them stops the analysis


@pytest.mark.parametrize("text", ["${", "${oc.env:", "${model}", "a,b", "'"])
def test_malformed_text_of_one_record_stops_nothing(text: str, store: Callable[..., Path], tmp_path: Path) -> None:
    store(config__model__name=text, config__model__id=text)
    frame = load_runs([tmp_path / "runs"]).frame
    assert len(frame) == 1


def test_a_login_in_an_address_is_in_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "https://user:hunter2@mirror.example/api"
    monkeypatch.setattr("sys.argv", ["lora-scaling", "samples=8", f"grid.base_url={address}"])
    config = compose([f"grid.base_url={address}"])
    assert "hunter2" not in json.dumps([config.to_dict(), provenance()])
    assert config.grid.base_url == address


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_record_is_as_readable_as_the_user_makes_files(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_record(tmp_path / "run.json", {"schema_version": 1, "run_id": "r", "status": "ok"})
        assert os.umask(mask) == mask  # asked for, not changed
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == mode
