"""`backtest`: what is fitted and predicted, how errors are counted, and whether intervals hold."""

import json
from pathlib import Path

import numpy as np
import pytest
from fit_tables import frame_of, law, table_of

from analysis.backtest import backtest
from analysis.cli import main
from analysis.coverage import TRUTHS, coverage_table, format_row
from analysis.fit import validated_fit

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


@pytest.mark.slow
def test_intervals_hold_where_the_family_contains_the_truth() -> None:
    names = ("proportional", "saturating", "affine in tokens", "two methods")
    rows = coverage_table(seeds=25, truths=[BY_NAME[name] for name in names])
    inside = [row["coverage"]["inside"] for row in rows]
    assert 0.85 <= float(np.mean(inside)) <= 0.95
    for row in rows:
        assert row["coverage"]["inside"] >= 0.80
        assert min(row["coverage"][name] for name in ("10× size", "10× tokens", "10× both")) >= 0.80
    assert format_row(rows[0]).startswith("proportional")


@pytest.mark.slow
def test_break_in_the_data_does_not_look_sure() -> None:
    (row,) = coverage_table(seeds=10, truths=[BY_NAME["break in the data"]])
    assert row["backtest_failed"] == 1
    assert row["high_over_low"]["10× size"] > 3
