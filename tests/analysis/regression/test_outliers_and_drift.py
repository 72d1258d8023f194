"""Outliers and drift are found in every table, and clean tables bring no more alarms than they may."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.special import bdtrc

from analysis.claims.decide import decide
from analysis.claims.verdicts import Options
from analysis.regression.outliers_and_drift import find_disturbances
from analysis.tables.response import choose_response
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import FACTORIAL, PROCESSES, SMALL, Process, Sweep, curve, noisy, scaling

ALARMS = {"outlier", "order_drift", "order_confounded", "heteroscedastic", "unit", "coarse_meter"}


def named(name: str) -> Process:
    return next(process for process in PROCESSES if process.name == name)


# Nothing is wrong with these, whatever their shape; `SMALL` has 8 runs, too few to tell order from chance.
CLEAN = {
    name: named(name).make
    for name in (
        "proportional",
        "affine, fixed cost 20 %",
        "affine, fixed cost 67 %",
        "power 0.9",
        "quadratic term",
        "samples × epochs, interchangeable",
        "rank effect absent",
        "rank effect 10 % a doubling",
        "sizes, γ = 0.8",
        "full costs 1.5 × LoRA",
        "energy does not depend on samples",
    )
} | {
    "twelve runs": scaling(Sweep(samples=(32, 128, 512, 2048), zero=0), fixed=0.3, cv=0.05),
    "factorial, noisy": scaling(FACTORIAL, fixed=0.5, cv=0.15),
}


def warnings_of(frame: pd.DataFrame) -> dict[str, str]:
    return {warning.kind: warning.message for warning in decide(table_from_frame(frame), Options()).warnings}


def draw(name: str, seed: int = 0) -> pd.DataFrame:
    return named(name).make(np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_a_tenfold_run_is_named_where_no_curve_can_be_decided(seed: int) -> None:
    frame = draw("one run tenfold, three sizes only", seed)
    table = table_from_frame(frame)
    culprit = frame["run_id"].to_numpy()[np.argmax((frame["energy_kwh"] / frame["samples_seen"]).to_numpy())]
    [outlier] = find_disturbances(choose_response(table).frame).outliers
    assert outlier.run_id == culprit
    assert 7 < outlier.ratio < 14
    report = decide(table, Options())
    [warning] = [w for w in report.warnings if w.kind == "outlier"]
    assert warning.run_ids == (culprit,)
    assert "times the energy that the other runs lead to expect at its work" in warning.message
    assert "verdicts that hang on it are left undecided" in warning.message  # one was tried without it


def test_two_outliers_do_not_hide_each_other() -> None:
    rng = np.random.default_rng(3)
    frame = scaling(Sweep(), fixed=0.3)(rng)
    frame["energy_kwh"] *= np.where(frame.index.isin([4, 13]), 2.5, 1.0)
    found = find_disturbances(choose_response(table_from_frame(frame)).frame).outliers
    assert {outlier.run_id for outlier in found} == {"run-0004", "run-0013"}


def test_an_outlier_among_repeats_of_one_work_is_named() -> None:
    """A comparison of methods has no curve at all."""
    frame = named("full costs 1.5 × LoRA").make(np.random.default_rng(1))
    frame = frame[frame["samples"] == 64].reset_index(drop=True)
    frame["energy_kwh"] *= np.where(frame.index == 2, 1.6, 1.0)
    assert "outlier" in warnings_of(frame)


def test_drift_is_told_where_no_curve_can_be_decided_and_what_it_means() -> None:
    said = warnings_of(draw("drift, three sizes only"))["order_drift"]
    assert "drifted over the run order by +" in said
    assert "no verdict takes that out" in said


def test_drift_that_was_taken_out_says_so() -> None:
    said = warnings_of(draw("drift, runs shuffled"))["order_drift"]
    assert "taken out of the verdicts on samples and epochs" in said


@pytest.mark.simulation
def test_runs_in_order_of_size_are_no_drift() -> None:
    """The order follows the design exactly; the residuals of the curve do not follow the order."""
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng([7, seed])
        frame = Sweep(shuffled=False, replicates=4).draw(rng)
        frame = frame.assign(energy_kwh=noisy(rng, curve(frame, fixed=0.3), 0.03))
        alarms += "order_drift" in warnings_of(frame)
    assert alarms <= 3


def test_a_rank_made_on_another_day_decides_nothing() -> None:
    report = decide(table_from_frame(draw("one rank on another day")), Options())
    claim = next(claim for claim in report.claims if claim.id == "rank_effect")
    assert claim.verdict == "undecided"
    assert "made at different times" in claim.reason
    assert any("drift would look like an effect of rank" in warning.message for warning in report.warnings)


def test_a_handful_of_runs_is_not_judged() -> None:
    frame = scaling(SMALL, cv=0.03)(np.random.default_rng(0)).iloc[:5]
    found = find_disturbances(choose_response(table_from_frame(frame)).frame)
    assert found.outliers == ()
    assert found.drift is None


def test_exact_tables_are_judged_without_a_division_by_zero() -> None:
    frame = Sweep(zero=0).draw(np.random.default_rng(0))
    frame["energy_kwh"] = curve(frame, fixed=0.5)
    assert find_disturbances(choose_response(table_from_frame(frame)).frame).outliers == ()
    frame["energy_kwh"] *= np.where(frame.index == 5, 3.0, 1.0)
    [outlier] = find_disturbances(choose_response(table_from_frame(frame)).frame).outliers
    assert outlier.run_id == "run-0005"
    assert outlier.ratio == pytest.approx(3, rel=0.01)


@pytest.mark.simulation
@pytest.mark.parametrize("name", CLEAN)
def test_clean_studies_bring_few_alarms(name: str) -> None:
    """Each kind of warning in at most 5 % of them, as far as chance allows."""
    seeds = 25
    counts = Counter(kind for seed in range(seeds) for kind in warnings_of(CLEAN[name](np.random.default_rng(seed))))
    for kind in ALARMS:
        assert counts[kind] == 0 or bdtrc(counts[kind] - 1, seeds, 0.05) > 1e-3, kind
