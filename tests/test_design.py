"""`design`: the next runs, cheapest first, as commands."""

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.cli import main
from analysis.processes import FACTORIAL, Sweep, geometric, scaling


@pytest.fixture
def undecided(tmp_path: Path) -> Path:
    frame = scaling(Sweep(samples=geometric(32, 8, 4), zero=0), fixed=0.2, cv=0.03)(np.random.default_rng(5))
    path = tmp_path / "runs.csv"
    frame.assign(model="ladder-1m", method="lora", rank=8).to_csv(path, index=False)
    return path


def test_plans_are_commands_with_their_energy(undecided: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["design", str(undecided), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    costs = [plan["energy_kwh"] for plan in document["plans"]]
    assert costs == sorted(costs)
    plan = next(plan for plan in document["plans"] if plan["claim"] == "linear_in_samples")
    assert plan["half_width_then"] < 0.05 < plan["half_width_now"]
    assert all(command.startswith("python -m lora_scaling -m samples=") for command in plan["commands"])
    assert any("max_steps=0" in command for command in plan["commands"])


def test_zero_step_runs_are_the_cheapest_information(undecided: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["design", str(undecided)]) == 0
    text = capsys.readouterr().out
    assert "linear_in_samples" in text.splitlines()[2]
    assert "exponent known to ±" in text


def test_decided_claims_ask_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.csv"
    scaling(FACTORIAL, fixed=0.5)(np.random.default_rng(0)).to_csv(path, index=False)
    assert main(["design", str(path), "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert not {"linear_in_samples", "linear_in_epochs"} & {plan["claim"] for plan in plans}
