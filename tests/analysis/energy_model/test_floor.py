"""No prediction is better than the device: the floor, what it does to models that break through it, what is said."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from analysis.energy_model.energy_fit import fit_table
from analysis.energy_model.extrapolate import extrapolate
from analysis.energy_model.validated_fit import validated_fit
from benchmarks.interval_coverage import LADDER, LADDER_TRUTHS, as_table, coverage_of
from lora_scaling.estimate.fit_file import EFFICIENCY_SD, TYPICAL_EFFICIENCY, load_fit
from lora_scaling.estimate.terms import Target, contributions
from tests.support.fit_files import target, written
from tests.support.fit_tables import frame_of, law

HARDWARE = Path(__file__).parents[3] / "conf" / "hardware"
H100 = "NVIDIA H100 80GB HBM3"
H100_J_PER_FLOP = 700 / 989.4e12


def flat(per_token: np.ndarray, tokens: np.ndarray, is_full: np.ndarray) -> np.ndarray:
    """4 mJ a token, whatever the model: launches alone."""
    return 4e-3 * tokens


def ladder(**columns: Any) -> pd.DataFrame:
    frame = frame_of(flat, cv=0.03, sizes=LADDER, replicates=2).assign(hardware=H100)
    return frame.assign(model=[f"ladder-{p / 1e6:g}m" for p in frame["params"]], **columns)


def of_size(params: float, tokens: float = 1e6) -> Target:
    values = {"params": params, "tokens": tokens, "flops_per_token": 4 * params, "flops": 4 * params * tokens}
    return Target(
        values={**values, "samples_seen": tokens / 100, "gpu_count": 1.0, "adapter_rank": 8.0, "batch_size": 8.0},
        labels={"method": "lora", "hardware": H100, "precision": "bf16"},
    )


def test_the_floor_is_board_power_over_the_dense_peak() -> None:
    floor = fit_table(ladder()).document["floor"]
    assert floor["energy_j_per_flop"] == pytest.approx(H100_J_PER_FLOP)
    assert floor["time_s_per_flop"] == pytest.approx(1 / 989.4e12)
    assert H100 in floor["source"]


def test_eight_bit_peaks_count_for_runs_of_that_precision_alone() -> None:
    floor = fit_table(ladder(precision="fp8")).document["floor"]
    assert floor["energy_j_per_flop"] == pytest.approx(700 / 1979e12)


def test_an_unknown_device_is_no_better_than_the_best_that_is_listed() -> None:
    sheets = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in HARDWARE.glob("*.yaml")]
    best = min(
        sheet["board_power_w"] / (1e12 * peak)
        for sheet in sheets
        for name, peak in (sheet["peak_tflops"] or {}).items()
        if sheet["board_power_w"] and peak and name not in ("fp8", "int8")
    )
    floor = fit_table(ladder().assign(hardware="Some accelerator")).document["floor"]
    assert floor["energy_j_per_flop"] == pytest.approx(best)


def test_runs_without_flops_have_no_floor() -> None:
    assert fit_table(ladder().assign(flops=np.nan, params=np.nan, model="our own")).document["floor"] is None


def test_runs_below_the_floor_are_said_to_be_and_have_none() -> None:
    """A whole table in kilojoules where joules were meant, say: no device does 3 fJ a FLOP."""
    frame = frame_of(law(), cv=0.03)
    document = fit_table(frame.assign(energy_train_kwh=frame["energy_train_kwh"] / 1e3)).document
    assert document["floor"]["energy_j_per_flop"] == 0
    assert any("Runs took less energy than their FLOPs take at the device's peak" in note for note in document["notes"])


def test_no_prediction_lies_below_what_the_device_can_do() -> None:
    fit = validated_fit(as_table(ladder())).fitted.fit
    for params in (1e8, 3e8, 1e9, 7e9, 7e10, 1e12):
        energy, time = fit.predict(of_size(params)), fit.predict_time(of_size(params))
        assert time is not None
        assert energy.low * 3.6e6 >= 4 * params * 1e6 * H100_J_PER_FLOP * (1 - 1e-9)
        assert time.low >= 4 * params * 1e6 / 989.4e12 * (1 - 1e-9)


def test_a_flat_ladder_says_that_it_leans_on_the_device() -> None:
    result = extrapolate(as_table(ladder()), ["model=llama-2-70b", "samples=1000", "hardware.memory_gb=1000"])
    assert result.document["validation"]["label"] == "NOT VALIDATED"
    assert any("another regime than theirs" in reason for reason in result.document["validation"]["reasons"])
    assert any("leans on the device's limits" in text for text in result.document["assumptions"])


def test_runs_in_the_target_s_regime_are_validated_as_before() -> None:
    frame = frame_of(law(lambda f: 1 + 4e9 / f), cv=0.02, replicates=2)
    document = extrapolate(as_table(frame), ["model=llama-3.2-1b", "samples=5000"]).document
    assert document["validation"]["label"] == "validated"
    assert not any("device's limits" in text for text in document["assumptions"])


@pytest.mark.simulation
def test_launch_bound_ladders_cover_seventy_billion() -> None:
    """Over all the bends together: the runs of one table share their fit, so that one truth's few tables say little."""
    rows = [coverage_of(truth, seeds=6) for truth in LADDER_TRUTHS]
    assert sum(row["below_floor"] for row in rows) == 0
    for name in ("1B", "7B", "70B"):
        assert np.mean([row["coverage"][name] for row in rows]) >= 0.8
    labels = [row["labels"].get("validated", (0, 0)) for row in rows]
    assert sum(covered for _, covered in labels) >= 0.8 * sum(runs for runs, _ in labels)


def test_the_bend_of_a_roofline_is_recovered() -> None:
    truth = next(t for t in LADDER_TRUTHS if t.name == "bend of 2, 8 mJ, 4 pJ")
    far = frame_of(truth.joules, sizes=(1e7, 1e8, 3e8, 1e9, 3e9, 1e10), cv=1e-4).assign(hardware=H100)
    model = fit_table(far).document["models"][0]
    assert model["name"] == "roofline"
    assert math.exp(model["params"]["log_half_size"]) == pytest.approx(8e-3 / 4e-12, rel=1e-2)
    assert math.exp(model["params"]["alpha"]) == pytest.approx(4e-12, rel=1e-2)


def test_a_roofline_is_flat_and_then_rises() -> None:
    """Its response per FLOP × FLOPs per token: the constant e^θ far below the bend, the FLOPs far above."""
    for flops, expected in ((1e6, 1e9), (1e9, 1e9 * 2 ** (1 / 3)), (1e12, 1e12)):
        run = Target(values={"flops_per_token": flops}, labels={})
        added, _ = contributions({"h": "roofline(flops_per_token, 3)"}, {"h": math.log(1e9)}, run)
        assert flops * math.exp(added) == pytest.approx(expected, rel=1e-6)


def test_models_that_cannot_be_are_replaced_by_what_devices_reach(tmp_path: Path) -> None:
    """The one model is a thousand times below the floor: its weight is nothing, and a typical efficiency stands in."""
    joules_per_flop = 2e-9 * 1e3
    values = dict(target().values) | {"flops": 1e13}
    fit = load_fit(written(tmp_path, floor={"energy_j_per_flop": joules_per_flop, "time_s_per_flop": 0.0}))
    found = fit.predict(Target(values=values, labels=target().labels), 0.9)
    floor = joules_per_flop * 1e13 / 3.6e6
    below = stats.t.cdf(math.log(TYPICAL_EFFICIENCY) / EFFICIENCY_SD, 20)
    for p, value in ((0.05, found.low), (0.5, found.estimate), (0.95, found.high)):
        z = stats.t.ppf(below + p * (1 - below), 20)
        assert value == pytest.approx(floor / TYPICAL_EFFICIENCY * math.exp(EFFICIENCY_SD * z), rel=1e-6)


def test_a_model_below_the_floor_loses_its_weight_to_one_above(tmp_path: Path) -> None:
    base = {
        "weight": 0.5, "params": {"alpha": math.log(1e-9)}, "param_names": ["alpha"], "per": "flops",
        "covariance": [[0.0]], "df": 20, "sigma": 0.05,
    }  # fmt: skip
    models = [base | {"name": "above"}, base | {"name": "below", "params": {"alpha": math.log(1e-11)}}]
    fit = load_fit(written(tmp_path, models=models, floor={"energy_j_per_flop": 1e-10, "time_s_per_flop": 0.0}))
    values = dict(target().values) | {"flops": 1e13}
    found = fit.predict(Target(values=values, labels=target().labels), 0.9)
    half = 0.05 * stats.t.ppf(0.95, 20)
    assert found.estimate == pytest.approx(1e4 / 3.6e6, rel=1e-3)
    assert found.low == pytest.approx(1e4 / 3.6e6 * math.exp(-half), rel=1e-3)
    assert found.high == pytest.approx(1e4 / 3.6e6 * math.exp(half), rel=1e-3)
