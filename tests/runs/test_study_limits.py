"""An adaptive study keeps to its budget whatever its runs turn out to cost, and stops where its rows are in doubt."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.adaptive import advance
from lora_scaling.text import ENERGY
from tests.support.machine import Machine, arguments, study
from tests.support.processes import forked, wait_until
from tests.support.runs import TINY, read_record
from tests.support.studies import STUDY, table

FOLDER = "adaptive_linear_in_samples"


def joules(folder: Path) -> list[float]:
    """Of the study's runs in the order in which they were made."""
    made = [read_record(path) for path in folder.glob("*/run.json")]
    return [record["energy"]["joules"] for record in sorted(made, key=lambda record: record["started_at"])]


def test_runs_that_cost_more_than_expected_end_the_study(
    tmp_path: Path,
    machine: Callable[..., Machine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the opening every run costs many times what it did: the batch underway is cut, not carried out."""
    made = machine(b=0.95, cv=0.05)
    usual = made.run

    def dearer(config: Any, listen: Any) -> Any:
        made.b = 1.8 if len(made.made) >= 10 else 0.95
        return usual(config, listen)

    monkeypatch.setattr("lora_scaling.runs.study.run", dearer)
    study(arguments(tmp_path, budget="max_kwh=0.0015"))
    spent = joules(tmp_path / FOLDER)
    assert len(spent) > 10
    assert sum(spent[:-1]) < 0.0015 * 3.6e6 < sum(spent)


def test_what_an_interrupted_run_took_stays_spent(
    tmp_path: Path,
    machine: Callable[..., Machine],
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine(cv=0.005, stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        study(arguments(tmp_path))
    machine(cv=0.005)
    study(arguments(tmp_path))
    state = json.loads((tmp_path / FOLDER / "study.json").read_text(encoding="utf-8"))
    [[lost, _]] = state["overwritten"].values()
    total = sum(joules(tmp_path / FOLDER))
    assert ENERGY.show(total / 3.6e6) != ENERGY.show((total + lost) / 3.6e6)
    assert f"Spent: {ENERGY.show((total + lost) / 3.6e6)}, " in capsys.readouterr().out


def test_a_study_that_a_time_limit_ends_keeps_what_was_measured(tmp_path: Path) -> None:
    """SIGTERM in the first run, which takes a minute: the record is closed, and what it took counts as spent."""
    asked = ["claim=linear_in_samples", "max_minutes=9999", "samples=20000,40000,80000,160000", *TINY[1:]]
    trains = tmp_path / "trains"
    settings = ("metering.interval_s=0.2", "exclusive_device=false", f"runs_dir={tmp_path}")
    process = forked("lora_scaling.study", *asked, *settings, trains=trains)
    wait_until(trains.exists)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "ended from outside (SIGTERM)" in errors
    assert "Traceback" not in errors
    [path] = (tmp_path / FOLDER).glob("*/run.json")
    record = read_record(path)
    assert record["status"] == "interrupted"
    assert record["error"].startswith("ended from outside (SIGTERM)")
    assert record["finished_at"] > record["started_at"]


def test_a_row_in_doubt_stops_the_study_for_a_person_to_look_at() -> None:
    made = table(STUDY.opening, cv=0.005)
    energy = made.frame["energy_kwh"] * np.where(made.frame.index == 4, 1000.0, 1.0)
    step = advance(STUDY, replace(made, frame=made.frame.assign(energy_kwh=energy)))
    assert (step.stop, step.runs) == ("doubt", ())
    assert step.look is not None
    assert step.look.verdict == "undecided"
