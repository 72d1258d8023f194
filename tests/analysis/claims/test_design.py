"""`design`: the next runs, cheapest first, as commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.claims.decide import decide
from analysis.claims.verdicts import Claim, Options
from analysis.cli import main
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import FACTORIAL, Sweep, curve, geometric, noisy, scaling


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


def table(frame: pd.DataFrame, folder: Path) -> Path:
    path = folder / "runs.csv"
    frame.to_csv(path, index=False)
    return path


def planned(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["design", str(path), "--json"]) == 0
    return {plan["claim"]: plan for plan in json.loads(capsys.readouterr().out)["plans"]}


def linear_claim(frame: pd.DataFrame, claim_id: str = "linear_in_samples") -> Claim:
    report = decide(table_from_frame(frame), Options())
    return next(claim for claim in report.claims if claim.id == claim_id)


def test_the_half_width_is_that_of_the_runs_that_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verdict hangs on one run: two repeats of it are asked for, and narrow no interval by themselves."""
    frame = scaling(Sweep(), fixed=0.2)(np.random.default_rng(4))
    frame.loc[frame["samples"] == 2048, "energy_kwh"] *= [0.7, 1.0, 1.0]
    assert "hangs on run" in linear_claim(frame).reason
    plan = planned(table(frame, tmp_path), capsys)["linear_in_samples"]
    assert (plan["runs"], plan["half_width_now"], plan["half_width_then"]) == (2, None, None)
    assert plan["message"].startswith("Repeat run ")


@pytest.mark.parametrize("name", ["three devices", "unequal noise"])
def test_the_half_width_now_is_that_of_the_claim(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All cells tell of the exponent, and runs that scatter less tell more."""
    rng = np.random.default_rng(1)
    sweep = Sweep(samples=geometric(32, 8, 4), zero=2, replicates=2 if name == "three devices" else 8)
    if name == "three devices":
        parts = [sweep.draw(rng, {"hardware": device}) for device in ("A", "B", "C")]
        frame = pd.concat(parts, ignore_index=True)
        frame["energy_kwh"] = noisy(rng, curve(frame, fixed=0.3), 0.08)
    else:
        frame = sweep.draw(rng)
        expected = curve(frame, fixed=0.3)
        frame["energy_kwh"] = noisy(rng, expected, 0.5 * expected.min() / expected)
    frame = frame.assign(run_id=[f"r{i}" for i in range(len(frame))], order=rng.permutation(len(frame)))
    claim = linear_claim(frame)
    assert claim.verdict == "undecided"
    assert claim.tests["weighted"] == (name == "unequal noise")
    plan = planned(table(frame, tmp_path), capsys)["linear_in_samples"]
    assert plan["half_width_now"] == pytest.approx(claim.tests["half_width"], rel=0.05)
    assert plan["half_width_then"] < plan["half_width_now"]


def test_runs_are_planned_for_the_interval_that_will_decide(undecided: Path) -> None:
    """SE* = distance to the margin / (t₀.₉₅ + t₀.₈), as the documentation says: reached, and not by far."""
    claim = linear_claim(pd.read_csv(undecided))
    needs = claim.needs
    assert claim.estimate is not None
    assert needs is not None
    assert needs.half_width_then is not None
    df, gap = claim.tests["df"], 0.05 - abs(claim.estimate - 1)
    reached = needs.half_width_then / stats.t.ppf(0.95, df)
    after = df + (needs.runs or 0)
    assert reached <= gap / (stats.t.ppf(0.95, after) + stats.t.ppf(0.8, after))
    assert reached > 0.8 * gap / (stats.t.ppf(0.95, after) + stats.t.ppf(0.8, after))


def test_levels_that_no_run_can_be_asked_for_bring_no_command() -> None:
    """Stopped early: a quarter, a half and one epoch, and two and four, of the same samples."""
    rng = np.random.default_rng(4)
    seen = np.repeat([16.0, 32.0, 64.0, 128.0, 256.0], 3)
    frame = pd.DataFrame({"samples": 64, "epochs": 4, "samples_seen": seen, "order": rng.permutation(15)})
    frame["energy_kwh"] = noisy(rng, 1e-5 * (10 + seen), 0.05)
    claim = linear_claim(frame, "linear_in_epochs")
    assert claim.verdict == "undecided"
    assert claim.estimate is not None
    assert claim.needs is not None
    assert claim.needs.command is None
    assert 0.25 in {setting["epochs"] for setting in claim.needs.settings}
