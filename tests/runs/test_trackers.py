"""`report_to`: trackers get a finished run after its window, in processes of their own, and cost it nothing."""

import json
import sqlite3
from datetime import datetime
from pathlib import Path

import pytest

from lora_scaling.config import compose
from lora_scaling.errors import UserError
from lora_scaling.records import record_to_row
from lora_scaling.runs.run import RunOutcome, run
from lora_scaling.runs.trackers import hand_over, metrics_of, settings_of

# Stand-ins for the packages, found before them: one takes the run, one refuses it, one dies.
TAKES = """
import json, time
got = {}
def init(**given): got.update(given)
def log(metrics): got["metrics"] = metrics
def finish(): json.dump({**got, "at": time.time()}, open("got.json", "w"))
"""
REFUSES = "def init(**given): raise RuntimeError('no server\\n at all')"
DIES = "import os; os._exit(3)"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> RunOutcome:
    folder = tmp_path_factory.mktemp("trackers")
    for name, text in (("trackio", TAKES), ("wandb", REFUSES), ("mlflow", DIES)):
        (folder / f"{name}.py").write_text(text)
    words = ["samples=4", "eval_samples=0", "metering.idle_s=0", "device=cpu", f"runs_dir={folder}", "study=mine"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.chdir(folder)
        return run(compose([*words, "report_to=[trackio,wandb,mlflow]"]))


def test_a_tracker_gets_settings_and_metrics_after_the_run(outcome: RunOutcome) -> None:
    assert outcome.record is not None
    got = json.loads((outcome.path.parents[2] / "got.json").read_text())
    assert (got["project"], got["name"]) == ("mine", outcome.record["run_id"])
    assert (got["config"]["samples"], got["config"]["lora.r"]) == (4, 8)
    row = record_to_row(outcome.record)
    for name in ("energy_kwh", "train_s", "params", "tokens_seen"):
        assert got["metrics"][name] == pytest.approx(row[name])
    assert "samples" not in got["metrics"]
    assert got["at"] >= datetime.fromisoformat(outcome.record["finished_at"]).timestamp()


def test_a_tracker_that_refuses_or_dies_costs_a_warning(outcome: RunOutcome) -> None:
    recorded = json.loads(outcome.path.read_text())
    assert recorded["status"] == "ok"
    said = [warning["message"] for warning in recorded["warnings"] if warning["kind"] == "tracker"]
    assert said == [
        "wandb did not take the run: RuntimeError: no server at all",
        "mlflow did not take the run: its process ended with status 3",
    ]


def test_a_tracker_that_is_not_there_is_named_with_its_extra(
    outcome: RunOutcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio.py").write_text("raise ModuleNotFoundError('no trackio', name='trackio')")
    monkeypatch.chdir(tmp_path)
    [warning] = hand_over(outcome.path, ["trackio"])
    assert warning["message"].endswith("trackio is not installed; pip install 'lora-scaling[trackio]'")


def test_a_tracker_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UserError, match=r"^report_to: got 'comet'; .*mlflow, wandb, tensorboard, trackio"):
        compose(["report_to=comet"])
    assert compose(["report_to=[wandb,wandb]"]).trackers == ("wandb",)


def test_tensorboard_files_hold_the_run(outcome: RunOutcome) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # pyright: ignore

    assert hand_over(outcome.path, ["tensorboard"]) == []
    events = EventAccumulator(str(outcome.path.parent / "tensorboard"))
    events.Reload()
    assert outcome.record is not None
    expected = metrics_of(outcome.record)
    assert set(events.Tags()["scalars"]) >= set(expected)
    assert events.Scalars("energy_kwh")[0].value == pytest.approx(expected["energy_kwh"])


def test_mlflows_local_store_holds_the_run(
    outcome: RunOutcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.chdir(tmp_path)
    assert hand_over(outcome.path, ["mlflow"]) == []
    assert outcome.record is not None
    store = sqlite3.connect(tmp_path / "store.db")
    metrics = dict(store.execute("select key, value from metrics").fetchall())
    params = dict(store.execute("select key, value from params").fetchall())
    [(name,)] = store.execute("select name from runs").fetchall()
    store.close()
    assert name == outcome.record["run_id"]
    assert metrics == pytest.approx(metrics_of(outcome.record))
    assert params == {key: str(value) for key, value in settings_of(outcome.record).items()}
    assert {file.name for file in tmp_path.rglob("artifacts/*")} == {"run.json", "timeline.csv"}


def test_wandbs_offline_folder_holds_the_run(
    outcome: RunOutcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    assert hand_over(outcome.path, ["wandb"]) == []
    [kept] = (tmp_path / "wandb").glob("offline-run-*/files/run.json")
    assert json.loads(kept.read_text())["run_id"] == json.loads(outcome.path.read_text())["run_id"]
