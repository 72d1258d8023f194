"""Rows that hold the sums or means of others are no runs."""

import pandas as pd
import pytest

from analysis.tables.table import table_from_frame

RUNS = pd.DataFrame(
    {"run_id": [f"r{i}" for i in range(8)], "samples": [100, 200, 400, 800] * 2, "epochs": 1,
     "energy_kwh": [0.1, 0.2, 0.41, 0.8, 0.11, 0.21, 0.4, 0.81]}
).astype(object)  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        {"run_id": "mean", "samples": 375, "epochs": 1, "energy_kwh": 0.38},
        {"run_id": "Total:", "samples": 3000, "epochs": 8, "energy_kwh": 3.04},
        {"run_id": "Average (n=8)", "samples": 375, "epochs": 1, "energy_kwh": 0.38},
        {"run_id": "Gesamt", "samples": 3000, "epochs": 8, "energy_kwh": 3.04},
        {"run_id": "", "samples": "Total", "epochs": 8, "energy_kwh": 3.04},
    ],
)
def test_a_row_below_the_runs_that_sums_them_up_is_left_out_and_said(row: dict[str, object]) -> None:
    table = table_from_frame(pd.concat([RUNS, pd.DataFrame([row])], ignore_index=True))
    assert len(table.frame) == 8
    (left_out,) = table.excluded
    assert left_out.reason.startswith("a summary of other rows (`")


def test_the_mean_below_each_size_is_left_out() -> None:
    frame = RUNS.drop(columns="run_id").assign(rep=["1"] * 4 + ["2"] * 4)
    means = frame[:4].assign(rep="avg", energy_kwh=[0.105, 0.205, 0.405, 0.805])
    table = table_from_frame(pd.concat([frame, means], ignore_index=True))
    assert len(table.frame) == 8
    assert {item.reason for item in table.excluded} == {"a summary of other rows (`avg` in `replicate`), no run"}


def test_the_first_column_of_a_spreadsheet_names_its_last_rows() -> None:
    frame = RUNS.drop(columns="run_id")
    frame.insert(0, "experiment", ["a"] * 8)
    footer = pd.DataFrame([{"experiment": "Total", "samples": 3000, "epochs": 8, "energy_kwh": 3.04}])
    assert len(table_from_frame(pd.concat([frame, footer], ignore_index=True)).frame) == 8


def test_settings_that_are_called_so_are_runs() -> None:
    frame = RUNS.drop(columns="run_id")
    frame.insert(0, "pooling", ["mean", "max", "cls", "mean"] * 2)
    assert len(table_from_frame(frame).frame) == 8
    assert len(table_from_frame(RUNS.assign(run_id=[f"mean-{i}" for i in range(8)])).frame) == 8


def test_a_table_of_summaries_alone_holds_no_run() -> None:
    described = RUNS.drop(columns="run_id").astype(float).describe().reset_index()
    table = table_from_frame(described)
    assert len(table.frame) == 0
    assert len(table.excluded) == 8
