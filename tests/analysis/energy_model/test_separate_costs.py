"""Costs that come once for each sample or for each epoch are predicted as such, where the runs separate them."""

import numpy as np
import pandas as pd
import pytest

from analysis.energy_model.energy_fit import fit_table
from analysis.energy_model.extrapolate import extrapolate
from analysis.tables.table import table_from_frame

FIXED_J = 20.0  # beside 1 J for each sample shown


def joules(samples: float, epochs: float, per_sample: float, per_epoch: float) -> float:
    return FIXED_J + per_sample * samples + per_epoch * epochs + samples * epochs


def frame_of(per_sample: float, per_epoch: float, epochs: tuple[int, ...] = (1, 2, 4, 8)) -> pd.DataFrame:
    grid = [(s, e, s * e) for s in (64, 128, 256, 512, 1024) for e in epochs for _ in range(2)]
    energies = np.array([joules(s, e, per_sample, per_epoch) for s, e, _ in grid] + 3 * [FIXED_J])
    frame = pd.DataFrame([*grid, *3 * [(64, 1, 0)]], columns=["samples", "epochs", "samples_seen"])
    noise = np.exp(0.01 * np.random.default_rng(7).standard_normal(len(frame)))
    steps = np.where(frame["samples_seen"] > 0, np.nan, 0)
    return frame.assign(run_id=frame.index.map("run-{}".format), steps=steps, energy_kwh=energies * noise / 3.6e6)


@pytest.mark.parametrize(("per_sample", "per_epoch"), [(0.0, 30.0), (0.5, 0.0), (0.3, 20.0), (0.0, 0.0)])
def test_runs_of_many_samples_and_of_many_epochs_are_predicted(per_sample: float, per_epoch: float) -> None:
    """16 times the samples in one epoch, and 12 times the epochs: no power of the samples shown is right in both."""
    table = table_from_frame(frame_of(per_sample, per_epoch))
    for samples, epochs in ((16_384, 1), (64, 100)):
        found = extrapolate(table, [f"samples={samples}", f"epochs={epochs}"]).document["energy_kwh"]
        truth = joules(samples, epochs, per_sample, per_epoch) / 3.6e6
        assert found["estimate"] == pytest.approx(truth, rel=0.04)
        assert found["low"] < truth < found["high"]


def test_costs_that_the_runs_do_not_separate_are_no_form() -> None:
    frame = frame_of(0.0, 30.0, epochs=(1, 2))
    models = extrapolate(table_from_frame(frame), ["samples=2048", "epochs=1"]).document["models"]
    assert not [model for model in models if "per epoch" in model["name"]]


@pytest.mark.parametrize(("per_sample", "per_epoch"), [(3.0, 192.0), (6.0, 400.0)])
def test_where_both_costs_are_most_of_a_run_they_are_added(per_sample: float, per_epoch: float) -> None:
    """A product of both costs would lie a quarter off in the smallest runs, and more in long ones."""
    table = table_from_frame(frame_of(per_sample, per_epoch))
    for samples, epochs in ((64, 1), (16_384, 1), (64, 32)):
        found = extrapolate(table, [f"samples={samples}", f"epochs={epochs}"]).document["energy_kwh"]
        truth = joules(samples, epochs, per_sample, per_epoch) / 3.6e6
        assert found["estimate"] == pytest.approx(truth, rel=0.02)
        assert found["low"] < truth < found["high"]
    best = fit_table(table.frame).document["models"][0]
    assert best["form"].endswith("+ log(1 + e^log_cost_per_sample/epochs + e^log_cost_per_epoch/samples)")
    assert np.exp(best["params"]["log_cost_per_sample"]) == pytest.approx(per_sample, rel=0.1)
    assert np.exp(best["params"]["log_cost_per_epoch"]) == pytest.approx(per_epoch, rel=0.1)


def test_where_no_form_fits_the_runs_the_answer_says_so() -> None:
    """Runs of 256 samples take a quarter more than the rest: a bump that no form has."""
    frame = frame_of(0.0, 30.0)
    frame.loc[frame["samples"] == 256, "energy_kwh"] *= 1.25
    document = extrapolate(table_from_frame(frame), ["samples=16384", "epochs=1"]).document
    truth = joules(16_384, 1, 0.0, 30.0) / 3.6e6
    assert document["energy_kwh"]["low"] < truth < document["energy_kwh"]["high"]
    assert document["validation"]["label"] == "NOT VALIDATED"
    assert any("no form fits the runs" in reason for reason in document["validation"]["reasons"])
