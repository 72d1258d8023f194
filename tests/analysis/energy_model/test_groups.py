"""Groups that differ: a target is predicted from the runs of its own group, or as uncertainly as they differ."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.cli import main
from analysis.energy_model.extrapolate import extrapolate
from analysis.energy_model.groups import sentence, size_exponents
from analysis.energy_model.validated_fit import validated_fit
from analysis.tables.run_quantities import work_of
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import Sweep
from benchmarks.tables_in_groups import groups

SWEEP = Sweep(samples=(32, 64, 128, 256, 512), replicates=3, zero=3)
L40S, A100 = "NVIDIA L40S", "NVIDIA A100-SXM4-80GB"


def frame_of(exponents: Mapping[str, float], seed: int = 0) -> pd.DataFrame:
    return groups("hardware", exponents, SWEEP, cv=0.01, fixed=0.2)(np.random.default_rng(seed))


def kwh_of(frame: pd.DataFrame, device: str, exponent: float, samples: int) -> float:
    """What a run of so many samples takes: the mean of the idle runs, and the largest runs' own in this power."""
    own = frame[frame["hardware"] == device]
    idle = own.loc[own["samples_seen"] == 0, "energy_kwh"].mean()
    largest = own.loc[own["samples_seen"] == 512, "energy_kwh"].mean()
    return float(idle + (largest - idle) * (samples / 512) ** exponent)


@pytest.mark.parametrize(("preset", "device"), [("l40s", L40S), ("a100-80gb", A100)])
def test_a_target_is_predicted_from_the_runs_of_its_own_group(preset: str, device: str) -> None:
    exponents = {L40S: 1.0, A100: 1.12}
    frame = frame_of(exponents)
    document = extrapolate(table_from_frame(frame), ["samples=2048", f"hardware={preset}"]).document
    assert document["runs_of"] == {"column": "hardware", "value": device}
    assert document["runs_used"] == 15
    truth = kwh_of(frame, device, exponents[device], 2048)
    assert document["energy_kwh"]["estimate"] == pytest.approx(truth, rel=0.05)
    assert "The exponent of samples depends on the device" in document["assumptions"][1]
    assert f"Only the runs of {device} are used." in document["assumptions"][1]


def test_a_target_of_no_group_is_as_uncertain_as_they_differ() -> None:
    table = table_from_frame(frame_of({L40S: 1.0, A100: 1.12}))
    document = extrapolate(table, ["samples=2048", "hardware=h100-sxm"]).document
    assert (document["runs_of"], document["runs_used"]) == (None, 30)
    assert document["validation"]["label"] == "NOT VALIDATED"
    assert any("differs between devices" in reason for reason in document["validation"]["reasons"])
    beyond = validated_fit(table).fitted.document["beyond"]["samples_seen"]
    assert beyond >= 0.9 * 0.12 / 2**0.5


def test_devices_that_differ_by_chance_and_surely_less_than_the_margin_are_fitted_together() -> None:
    """At this seed Welch's test says p = 0.08 of two exponents of 1, each known to ±0.005: they may well differ."""
    table = table_from_frame(frame_of({L40S: 1.0, A100: 1.0}, 8))
    assert validated_fit(table).fitted.document["groups"] is None
    apart = table_from_frame(frame_of({L40S: 1.0, A100: 1.05}, 8))
    assert validated_fit(apart).fitted.document["groups"]["p"] < 0.001


def ladders(gamma: Mapping[str, float], models: int = 5) -> pd.DataFrame:
    """Runs of the same models on each device: energy per token is the FLOPs per token to the power of the device."""
    rng, rows = np.random.default_rng(1), []
    for device, power in gamma.items():
        for flops_per_token in np.geomspace(4e8, 4e10, models):
            for tokens in (2e4, 8e4):
                kwh = tokens * 1e-8 * (flops_per_token / 4e8) ** power * np.exp(0.02 * rng.standard_normal())
                rows.append(
                    {"model": f"m{flops_per_token:.3g}", "hardware": device, "samples": tokens / 100, "epochs": 1,
                     "tokens_seen": tokens, "flops": tokens * flops_per_token, "energy_train_kwh": kwh,
                     "energy_kwh": kwh + 1e-4}
                )  # fmt: skip
    frame = pd.DataFrame(rows).sample(frac=1, random_state=3)
    return frame.assign(run_id=[f"r{i}" for i in range(len(frame))], order=range(len(frame)), status="ok")


def test_devices_whose_energy_grows_differently_with_the_size_of_the_model_are_fitted_apart() -> None:
    found = validated_fit(table_from_frame(ladders({L40S: 0.8, A100: 1.0}))).fitted.document["groups"]
    assert (found["column"], found["factor"]) == ("hardware", "flops_per_token")
    estimates = {name: one["estimate"] for name, one in found["exponents"].items()}
    assert estimates == pytest.approx({L40S: 0.8, A100: 1.0}, abs=0.03)
    assert "The exponent of FLOPs per token depends on the device" in sentence(found)
    assert validated_fit(table_from_frame(ladders({L40S: 0.9, A100: 0.9}))).fitted.document["groups"] is None


def test_sizes_that_no_two_devices_share_are_not_compared() -> None:
    """Utilisation that saturates would make small models' exponents differ from large ones' by itself."""
    small, large = ladders({L40S: 0.6}), ladders({A100: 1.0})
    large = large.assign(model=large["model"] + "-large", flops=100 * large["flops"], run_id="l" + large["run_id"])
    both = table_from_frame(pd.concat([small, large], ignore_index=True))
    work, _, _ = work_of(both.frame, both.frame["energy_train_kwh"].to_numpy(dtype=float))
    assert size_exponents(both.frame, work, "hardware") is None


def test_groups_that_do_not_differ_are_predicted_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame_of({L40S: 1.0, A100: 1.0}, 4).to_csv(tmp_path / "t.csv", index=False)
    assert main(["extrapolate", str(tmp_path / "t.csv"), "samples=2048", "hardware=l40s", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["runs_of"], document["runs_used"]) == (None, 30)
    assert document["validation"]["label"] != "NOT VALIDATED"
