"""The benchmarks of prediction intervals: what they count, and that nothing goes below a device's limit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import cost_coverage, interval_coverage, published_coverage
from benchmarks.interval_coverage import LADDER_TRUTHS, SETUP_TRUTHS, coverage_of, setup_coverage_of


@pytest.mark.parametrize("name", ["proportional, 2 pJ", "launch 4 mJ, 2 pJ", "device not listed, 4 mJ, 3 pJ"])
def test_a_ladder_of_small_models_covers_70b_above_the_limit(name: str) -> None:
    truth = next(truth for truth in LADDER_TRUTHS if truth.name == name)
    row = coverage_of(truth, seeds=1)
    assert row["coverage"]["70B"] == 1.0
    assert row["below_floor"] == 0
    assert sum(runs for runs, _ in row["labels"].values()) == 4 * interval_coverage.PROBES


@pytest.mark.parametrize("name", ["6 and 400", "1, 64 and 300 per run"])
def test_costs_per_sample_and_per_epoch_are_covered_beyond_the_data_and_narrowly(name: str) -> None:
    costs = next(costs for costs in cost_coverage.TRUTHS_OF_COSTS if costs.name == name)
    row = cost_coverage.coverage_of(costs, seeds=1)
    assert min(row["coverage"].values()) >= 0.6
    assert max(row["high_over_low"].values()) < 1.6
    assert sum(runs for runs, _ in row["labels"].values()) == 4 * cost_coverage.PROBES


def test_the_setup_of_70b_is_covered() -> None:
    row = setup_coverage_of(next(truth for truth in SETUP_TRUTHS if truth.name == "300 J + 2 µJ"), seeds=3)
    assert row["coverage"]["70B"] > 0.6
    assert row["high_over_low"]["70B"] < 2


def test_published_runs_are_read_fitted_and_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six models at half of the peak: each FLOP takes the same time, which any of them tells of the others."""
    params = np.array([125e6, 350e6, 760e6, 1.3e9, 2.7e9, 6.7e9])
    table = pd.DataFrame({"Model": [f"m{i}" for i in range(6)], "NumParams": params, "MFU": 50.0, "HFU": 50.0})
    table = table.assign(**{"GPU": "a100_80gb", "# GPUs": 8, "SeqLen (T)": 2048})
    scatter = [1.0, 1.01, 0.99, 1.0, 1.01, 0.99]
    table["Throughput (T/s/GPU)"] = 0.5 * 312e12 / (6 * params) * scatter
    table.to_csv(tmp_path / "mpt_a100_full.csv", index=False)
    windows = pd.DataFrame({"samples_end": np.arange(1, 21) * 1000, "window_s": np.resize([29.0, 29.4], 20)})
    windows.assign(rank=32, tokens=210_000).to_csv(tmp_path / "peft_l40s_windows.csv", index=False)
    assert published_coverage.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "MPT, FLOPs by parameters", "MPT, FLOPs the model's", "MPT, FLOPs with recomputation",
        "PEFT, 20,000 samples", "PEFT, LoRA → full",
    ]  # fmt: skip
    assert " 3 predictions" in lines[0]  # the two largest from four, and the largest from five
    assert all("100 % inside" in line for line in lines)
