"""`backtest`: what is fitted and predicted, how errors are counted, and whether intervals hold."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.cli import main
from analysis.energy_model.backtest import Backtest, backtest
from analysis.energy_model.validated_fit import validated_fit
from benchmarks.interval_coverage import TRUTHS, coverage_table, format_row
from tests.support.fit_tables import frame_of, law, table_of

BY_NAME = {truth.name: truth for truth in TRUTHS}


def split(frame, name: str):
    return next(s for s in backtest(frame).splits if s.name == name)


def test_cheap_half_predicts_the_dear_half() -> None:
    frame = frame_of(law(), cv=0.03, replicates=2)
    found = split(frame, "energy")
    dear = set(frame.loc[frame["energy_train_kwh"] >= frame["energy_train_kwh"].median(), "run_id"])
    assert set(found.table["run_id"]) == dear
    assert found.n_fitted == len(frame) - len(dear)


def test_errors_and_coverage_are_those_of_its_own_table() -> None:
    found = split(frame_of(law(), cv=0.1, replicates=2, seed=3), "energy")
    table = found.table
    error = table["predicted_kwh"] / table["observed_kwh"] - 1
    assert found.median_ape == pytest.approx(np.median(np.abs(error)))
    inside = table["observed_kwh"].between(table["low_kwh"], table["high_kwh"])
    assert found.coverage == pytest.approx(inside.mean())
    assert found.worst is not None
    assert found.worst["run_id"] == table.loc[error.abs().idxmax(), "run_id"]


def test_horizons_are_the_reach_beyond_the_fitted_runs() -> None:
    result = backtest(frame_of(law(), cv=0.02))
    sizes = next(s for s in result.splits if s.name == "size")
    assert sizes.horizons["flops_per_token"] == pytest.approx(8e9 / 1.5e9)
    assert sizes.horizons["tokens"] == pytest.approx(1.0)
    lengths = next(s for s in result.splits if s.name == "length")
    assert lengths.horizons["tokens"] == pytest.approx(4.0)
    assert result.horizon("flops_per_token") == pytest.approx(8e9 / 1.5e9)


def test_exact_data_are_predicted_exactly() -> None:
    found = split(frame_of(law(lambda f: (f / 1e9) ** -0.2), cv=1e-6, replicates=2), "energy")
    assert found.median_ape < 1e-4


def test_splits_that_cannot_be_made_say_why() -> None:
    found = {s.name: s for s in backtest(frame_of(law(), cv=0.02, sizes=(1e9,), replicates=3)).splits}
    assert found["size"].reason == "`flops_per_token` has 1 distinct values; 3 are needed"
    few = {s.name: s for s in backtest(frame_of(law(), sizes=(1e9,))).splits}
    assert few["energy"].reason is not None
    assert "too few" in few["energy"].reason


def test_a_method_that_only_the_dear_runs_have_is_not_predicted() -> None:
    frame = frame_of(law(), cv=0.02, replicates=2)
    frame.loc[frame["energy_train_kwh"] > frame["energy_train_kwh"].quantile(0.8), "method"] = "full"
    assert len(split(frame, "energy").table) < len(frame) / 2


def test_break_in_the_data_is_caught_and_widens_what_lies_beyond() -> None:
    broken = validated_fit(table_of(law(lambda f: np.where(f > 8e9, 2.0, 1.0)), cv=0.02))
    whole = validated_fit(table_of(law(), cv=0.02))
    assert "size" in [s.name for s in broken.backtest.failed]
    assert not whole.backtest.failed
    assert broken.fitted.document["beyond"]["flops_per_token"] > 5 * whole.fitted.document["beyond"]["flops_per_token"]


def test_command_prints_json_or_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame_of(law(), cv=0.03).to_csv(tmp_path / "t.csv", index=False)
    assert main(["backtest", str(tmp_path / "t.csv"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [s["split"] for s in document["splits"]] == ["energy", "size", "length"]
    assert {"median_ape", "worst", "coverage", "horizons", "n_fitted", "runs"} <= set(document["splits"][0])
    assert main(["backtest", str(tmp_path / "t.csv")]) == 0
    assert "inside their 90 % interval" in capsys.readouterr().out


@pytest.mark.simulation
def test_intervals_hold_where_the_family_contains_the_truth() -> None:
    names = ("proportional", "saturating", "affine in tokens", "two methods")
    rows = coverage_table(seeds=25, truths=[BY_NAME[name] for name in names])
    inside = [row["coverage"]["inside"] for row in rows]
    assert 0.85 <= float(np.mean(inside)) <= 0.95
    for row in rows:
        assert row["coverage"]["inside"] >= 0.80
        assert min(row["coverage"][name] for name in ("10× size", "10× tokens", "10× both")) >= 0.80
    assert format_row(rows[0]).startswith("proportional")


@pytest.mark.simulation
def test_break_in_the_data_does_not_look_sure() -> None:
    (row,) = coverage_table(seeds=10, truths=[BY_NAME["break in the data"]])
    assert row["backtest_failed"] == 1
    assert row["high_over_low"]["10× size"] > 3


def test_interval_of_no_width_gives_no_warning_and_no_z() -> None:
    frame = frame_of(law(), replicates=2)
    frame["energy_train_kwh"] = 1e-16 * frame["flops"]
    found = split(frame, "energy")
    assert found.median_ape < 1e-9
    assert not np.isinf(found.table["z"]).any()


def by_session(dear: str, *, cv: float = 0.01, shift: float = 1.0) -> pd.DataFrame:
    """Twenty cheap and twenty dear runs of one size, the dear ones in the session `dear` and dearer by `shift`."""
    frame = frame_of(law(), cv=cv, sizes=(1e9,), tokens=(1e5, 1.2e5, 4e5, 4.8e5), replicates=10)
    late = frame["tokens_seen"] > 2e5
    frame["energy_train_kwh"] *= np.where(late, shift, 1.0)
    return frame.assign(session=np.where(late, dear, "one"), gpu_count=0.0)


def test_another_session_is_graded_with_the_spread_that_a_prediction_has() -> None:
    """A session's 6.5 % either way on a CPU: 1.645 × 0.065 at each end of a 90 % interval, beside the fit's own."""
    same, other = (split(by_session(name), "energy").table for name in ("one", "two"))
    widths = [np.log((table["high_kwh"] / table["predicted_kwh"]).to_numpy()) for table in (same, other)]
    assert np.hypot(widths[0], 1.645 * 0.065) == pytest.approx(widths[1], rel=1e-3)


def test_intervals_that_hold_too_few_of_many_runs_fail_without_large_errors() -> None:
    """All dear runs are 7 % dearer in the same session, with a noise of 0.3 %."""
    found = backtest(by_session("one", cv=0.003, shift=1.07))
    dear = next(s for s in found.splits if s.name == "energy")
    assert len(dear.table) == 20
    assert dear.median_ape < 0.1
    assert dear.coverage < 0.6
    assert dear in found.failed
    few = dataclasses.replace(dear, table=dear.table.head(9))
    assert Backtest(splits=(few,)).failed == ()
