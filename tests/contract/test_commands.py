"""Commands as other people's scripts call them: what they print where, how they end, what they leave."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import cli
from benchmarks.simulated_tables import FACTORIAL, scaling
from lora_scaling import records
from lora_scaling.commands import emissions
from lora_scaling.commands.estimate import main as estimate
from lora_scaling.errors import LoraScalingError, OutOfMemory, RunFailure, UserError
from lora_scaling.runs import run as running
from lora_scaling.text import number
from tests.support.commands import Done, command
from tests.support.runs import TINY

# ---------------------------------------------------------------- one run


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    runs_dir = tmp_path_factory.mktemp("single")
    words = ["lora_scaling", *TINY, f"runs_dir={runs_dir}", "study=one", "grid.zone=null"]
    return runs_dir, subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_one_run_ends_with_0_and_its_record_where_the_contract_says(single: tuple[Path, Done]) -> None:
    runs_dir, done = single
    assert (done.returncode, done.stderr) == (0, "")
    [path] = records.find_records([runs_dir])
    record = records.read_record(path)
    assert path == runs_dir / "one" / record["run_id"] / "run.json"
    assert record["schema_version"] == 1
    assert record["run_id"] in done.stdout
    timeline = (path.parent / "timeline.csv").read_text(encoding="utf-8")
    assert timeline.startswith("start,end,phase,gpu_j,cpu_j,ram_j\n")
    assert sorted(file.name for file in path.parent.iterdir() if not file.name.startswith(".")) == [
        "run.json",
        "timeline.csv",
    ]


@pytest.mark.slow
def test_the_columns_are_of_the_kind_and_in_the_unit_of_their_name(single: tuple[Path, Done]) -> None:
    [path] = records.find_records([single[0]])
    row = records.record_to_row(records.read_record(path))
    started = datetime.fromisoformat(row["started_at"])
    assert started.utcoffset() == datetime.now(UTC).utcoffset()
    assert row["status"] == "ok"
    assert row["exclusive"] in (True, False, None)
    for name in (
        "samples",
        "epochs",
        "tokens_seen",
        "tokens_padded",
        "steps",
        "batch_size",
        "params",
        "layers",
        "rank",
    ):
        assert isinstance(row[name], int), name
    phases = sum(row[f"{name}_s"] for name in ("setup", "warmup", "train", "eval"))
    assert row["total_s"] == pytest.approx(phases)
    parts = sum(row[f"energy_{name}_kwh"] for name in ("setup", "warmup", "train", "eval"))
    assert row["energy_kwh"] == pytest.approx(parts, rel=1e-6)
    components = sum(row[f"energy_{name}_kwh"] or 0.0 for name in ("gpu", "cpu", "ram"))
    assert row["energy_kwh"] == pytest.approx(components, rel=1e-6)
    assert 1 < row["energy_kwh"] * 3.6e6 / row["total_s"] < 5000  # watts of a computer: a unit that slipped is not


@pytest.mark.slow
def test_the_same_run_again_is_skipped_and_its_files_are_as_they_were(single: tuple[Path, Done]) -> None:
    runs_dir, _ = single
    [path] = records.find_records([runs_dir])
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    again = command("lora_scaling", *TINY, f"runs_dir={runs_dir}", "study=one", "grid.zone=null")
    assert again.returncode == 0
    assert "finished before" in again.stdout
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_bad_input_to_one_run_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    done = command("lora_scaling", "samples=0", f"runs_dir={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lora-scaling: samples: got 0; give 1 or more\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("raised", "status"),
    [(UserError("device: got wrong; give another"), 2), (RunFailure("it broke"), 1), (OutOfMemory("full"), 1)],
    ids=lambda value: type(value).__name__,
)
def test_a_run_that_fails_ends_with_the_status_of_its_reason(
    tmp_path: Path, raised: LoraScalingError, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"run_id": "r", "status": "failed", "error": str(raised)}
    ran = running.RunOutcome(path=Path("r/run.json"), record=record, failure=raised)
    monkeypatch.setattr(running, "run", lambda *_: ran)
    done = command("lora_scaling", f"runs_dir={tmp_path}")
    assert done.returncode == status
    assert done.stderr.startswith("lora-scaling: ")
    assert done.stderr.count("\n") == 1


def test_a_named_sweep_is_planned_and_its_cost_held_against_the_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of `+sweeps=` but the runs: 4 × 2 points and one of zero steps, twice. Limits are in kWh and in hours."""
    words = ["-m", "+sweeps=quick", "hardware=rtx-4090", f"runs_dir={tmp_path / 'runs'}"]
    assert estimate([*words, "--json"]) == 0
    total = json.loads(capsys.readouterr().out)["total"]
    costs = {
        "max_kwh": (total["energy_kwh"]["estimate"], "kWh"),
        "max_hours": (total["time_s"]["estimate"] / 3600, "h"),
    }
    for field, (cost, unit) in costs.items():
        done = command("lora_scaling", *words, f"{field}={0.9 * cost}")
        assert done.returncode == 2
        assert f"18 runs in {tmp_path}/runs/quick: 0 finished before, 18 to do" in done.stdout
        assert f"; this sweep is expected to take {number(cost)} {unit}: " in done.stderr
    # With room to spare the sweep is launched, here into nothing: its runs are told to be missing.
    monkeypatch.setattr("lora_scaling.runs.sweep.launch", lambda *_: None)
    enough = [f"{field}={1.1 * cost}" for field, (cost, _) in costs.items()]
    done = command("lora_scaling", *words, *enough)
    assert done.returncode == 1
    assert done.stderr.startswith("lora-scaling: 18 of 18 runs did not finish: ")
    assert {path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()} <= {".lock"}


# ---------------------------------------------------------------- estimates


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_an_estimate_that_does_not_fit_is_a_document_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate(["model=llama-3.1-70b", "method=full", "hardware=t4", "precision=fp16", "--json"]) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["peak_memory_gb"]["fits"] is False
    assert captured.err.count("\n") == 1


def test_an_estimate_without_a_known_device_is_null_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate(["hardware=custom", "hardware.name=mine", "hardware.kind=cuda", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["time_s"], document["energy_kwh"], document["emissions_g"]) == (None, None, None)
    assert document["peak_memory_gb"]["fits"] is None
    assert document["reason"]


@pytest.mark.parametrize("words", [["-m", "samples=32,64"], ["compare=method"], ["page=estimator.html"]])
def test_every_document_of_the_estimator_says_its_version(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert estimate(["hardware=rtx-4090", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema_version"] == 1


# ---------------------------------------------------------------- analysis


def write_table(path: Path, *, failed: bool = False) -> Path:
    """The three columns that a table needs, and no more (a status where a run is to have failed)."""
    frame = scaling(FACTORIAL, fixed=0.5)(np.random.default_rng(0))
    frame = frame.loc[frame["samples_seen"] > 0, ["samples", "epochs", "energy_kwh"]]
    if failed:
        frame["status"] = np.where(np.arange(len(frame)) == 3, "oom", "ok")
    frame.to_csv(path, index=False)
    return path


COMMANDS = ("claims", "fit", "plot", "extrapolate", "backtest", "design")


@pytest.mark.parametrize("name", COMMANDS)
def test_three_columns_give_one_document_and_nothing_else(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "runs.csv", failed=True)
    more = {"extrapolate": ["samples=5000"], "plot": ["--out", str(tmp_path)], "fit": ["--out", str(tmp_path)]}
    assert cli.main([name, str(table), "--json", *more.get(name, [])]) == 0
    document = json.loads(capsys.readouterr().out)  # what was left out is told on stderr
    assert document["schema_version"] == 1


def test_a_report_of_three_columns_is_one_page_in_the_folder_asked_for(tmp_path: Path) -> None:
    table = write_table(tmp_path / "runs.csv")
    assert cli.main(["report", str(table), "--out", str(tmp_path / "out")]) == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.html"]


def test_several_runs_are_read_as_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two folders of records and a table: each row counts once, under its own name."""
    table = write_table(tmp_path / "runs.csv")
    rows = len(pd.read_csv(table))
    for study, name in (("a", "one"), ("b", "two")):
        energy = {"joules": 4000.0 + len(name), "phases": [], "components": {}}
        config = {"samples": 64, "epochs": 1}
        record = {"schema_version": 1, "run_id": f"{study}-{name}", "status": "ok", "config": config, "energy": energy}
        records.write_record(records.record_path(tmp_path, study, name), record)
    assert cli.main(["claims", str(tmp_path / "a"), str(tmp_path / "b"), str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs_used"] == rows + 2


@pytest.mark.parametrize("name", [*COMMANDS, "report", "export"])
def test_every_command_refuses_what_is_not_there_in_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name, str(tmp_path / "nothing.csv")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "nothing.csv" in captured.err


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["--response", "joy"], "response: got 'joy'"),
        (["--samples-from", r"joy:n(\d+)"], "samples-from: got 'joy'"),
        (["--epochs-from", r"joy:n(\d+)"], "epochs-from: got 'joy'"),
        (["--set", "joy"], "set: got 'joy'"),
        (["--column", "joy"], "column: got 'joy'"),
        (["--join", "joy.csv", "--on", "run_id"], "RUNS: got 'joy.csv'"),
        (["--ignore", "joy"], "ignore: got 'joy'"),
        (["--exclude", "joy"], "exclude: got 'joy'"),
        (["model=joy"], "model: got 'joy'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("name", [*COMMANDS, "report", "export"])
def test_every_command_reads_the_options_of_a_table_from_elsewhere(
    name: str, words: list[str], refused: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that cannot be is refused by its name: so the option is there, and not ignored."""
    assert cli.main([name, str(write_table(tmp_path / "runs.csv")), *words]) == 2
    assert capsys.readouterr().err.startswith(f"lora-scaling: {refused}")


def test_a_failure_of_the_analysis_itself_is_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("analysis.commands.claims.decide", broken)
    assert cli.main(["claims", str(write_table(tmp_path / "runs.csv"))]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lora-scaling: ZeroDivisionError: division by zero (LORA_SCALING_DEBUG=1 ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("column", ["samples", "epochs", "energy_kwh"])
def test_each_of_the_three_columns_is_needed(column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.csv"
    pd.read_csv(write_table(path)).drop(columns=column).to_csv(path, index=False)
    assert cli.main(["claims", str(path)]) == 2
    assert f"lacks the column `{column}`" in capsys.readouterr().err


# ---------------------------------------------------------------- emissions


def test_emissions_leave_a_run_that_is_under_way_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = records.record_path(tmp_path, "s", "r")
    energy = {"joules": 3600.0, "timeline": "timeline.csv", "phases": []}
    records.write_record(path, {"schema_version": 1, "run_id": "r", "status": "interrupted", "energy": energy})
    hour = "2026-11-10T09:00:00+00:00,2026-11-10T10:00:00+00:00"
    (path.parent / "timeline.csv").write_text(f"start,end,phase,gpu_j,cpu_j,ram_j\n{hour},train,,3600,\n")
    before = path.read_bytes()
    with records.locked(path.parent):
        assert emissions.main([str(tmp_path), "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert (run["change"], run["note"]) == ("skipped", "it is running")
    assert path.read_bytes() == before
    assert emissions.main([str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["change"] == "new"


def test_emissions_of_nothing_readable_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    assert emissions.main([str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
