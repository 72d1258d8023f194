"""Tables in which a run is no row: a column for each repeat, GPU or epoch, a value in each row, units of their own."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.tables.column_options import ColumnOptions
from analysis.tables.table import RunTable, table_from_frame
from lora_scaling.errors import LoraScalingError

SIZES = np.array([500, 1000, 2000, 4000])
CELLS = (0.03 + 1e-4 * SIZES)[:, None] * np.array([1.0, 1.004, 0.997])  # kWh, of three repeats
WIDE = pd.DataFrame({"samples": SIZES, "epochs": 1})
N, KWH = np.repeat(SIZES, 3), CELLS.ravel()
LONG = pd.DataFrame({"run": [f"run-{i}" for i in range(12)], "samples": N, "epochs": 1})


def kinds(table: RunTable) -> set[str]:
    return {warning.kind for warning in table.warnings}


def are_the_runs(table: RunTable, rel: float = 1e-9) -> None:
    assert table.frame["samples"].tolist() == N.tolist()
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(KWH, rel=rel)
    assert table.frame["run_id"].is_unique


@pytest.mark.parametrize(
    ("names", "per_kwh"),
    [
        (["energy_kwh_1", "energy_kwh_2", "energy_kwh_3"], 1),
        (["run1_wh", "run2_wh", "run3_wh"], 1e3),
        (["Run 1 (kWh)", "Run 2 (kWh)", "Run 3 (kWh)"], 1),
        (["kWh seed0", "kWh seed1", "kWh seed2"], 1),
        (["Energy (MJ) rep 1", "Energy (MJ) rep 2", "Energy (MJ) rep 3"], 3.6),
        (["energy_kwh", "energy_kwh.1", "energy_kwh.2"], 1),
        (["kwh_r1", "kwh_r2", "kwh_r3"], 1),
    ],
)
def test_a_column_for_each_repeat_is_a_run_for_each_cell(names: list[str], per_kwh: float) -> None:
    frame = WIDE.assign(**dict(zip(names, per_kwh * CELLS.T, strict=True)))
    table = table_from_frame(frame)
    are_the_runs(table)
    assert "wide_table" in kinds(table)


def test_several_quantities_of_each_repeat_go_together_and_their_mean_is_no_run() -> None:
    frame = WIDE.assign(mean_energy_kwh=CELLS.mean(axis=1))
    for i in range(3):
        frame[f"energy_kwh_{i}"], frame[f"train_s_{i}"] = CELLS[:, i], 12 * CELLS[:, i]
    table = table_from_frame(frame)
    are_the_runs(table)
    assert table.frame["train_s"].to_numpy() == pytest.approx(12 * KWH)
    assert any("`mean_energy_kwh`" in warning.message for warning in table.warnings)


def test_fewer_repeats_of_some_sizes_are_no_lost_runs() -> None:
    cells = CELLS.astype(object)
    cells[1, 2] = ""
    table = table_from_frame(WIDE.assign(run1_kwh=cells[:, 0], run2_kwh=cells[:, 1], run3_kwh=cells[:, 2]))
    assert (len(table.frame), len(table.excluded)) == (11, 0)


@pytest.mark.parametrize(
    ("columns", "column"),
    [
        ({"1 epochs (kWh)": 1, "2 epochs (kWh)": 2, "4 epochs (kWh)": 4}, "epochs"),
        ({"kwh_r4": 4, "kwh_r8": 8, "kwh_r64": 64}, "rank"),
        ({"lora_kwh": "lora", "full_kwh": "full"}, "method"),
    ],
)
def test_a_column_for_each_setting(columns: dict[str, object], column: str) -> None:
    frame = WIDE.drop(columns="epochs") if column == "epochs" else WIDE
    frame = frame.assign(**{name: CELLS[:, place] for place, name in enumerate(columns)})
    table = table_from_frame(frame)
    for value, cells in zip(columns.values(), CELLS.T, strict=False):
        assert table.frame.loc[table.frame[column] == value, "energy_kwh"].to_numpy() == pytest.approx(cells)


@pytest.mark.parametrize(
    "cells",
    [np.cumsum(CELLS, axis=1), CELLS * np.array([1, 30, 900])],  # a running total; three quantities
)
def test_numbers_that_count_no_repeats_are_asked_about(cells: np.ndarray) -> None:
    frame = WIDE.assign(**{f"energy_kwh_{i}": cells[:, i] for i in range(3)})
    with pytest.raises(LoraScalingError, match="lacks the column `energy_kwh`"):
        table_from_frame(frame)


@pytest.mark.parametrize(
    ("names", "unit", "kind"),
    [
        (["energy_1", "energy_2", "energy_3"], "energy_*", "wide_table"),
        (["gpu0_energy", "gpu1_energy"], "gpu*_energy", "summed_devices"),
    ],
)
def test_one_option_says_the_unit_of_all_of_them(names: list[str], unit: str, kind: str) -> None:
    frame = WIDE.assign(**dict(zip(names, 1e3 * CELLS.T, strict=False)))
    with pytest.raises(LoraScalingError, match=rf"have no unit: --column 'energy_kwh={unit.replace('*', '.')}:UNIT'"):
        table_from_frame(frame)
    table = table_from_frame(frame, options=ColumnOptions(columns={"energy_kwh": f"{unit}:Wh"}))
    assert kind in kinds(table)
    expected = CELLS.sum() if len(names) == 3 else CELLS[:, :2].sum()
    assert table.frame["energy_kwh"].sum() == pytest.approx(expected)
    with pytest.raises(LoraScalingError, match="and their unit, such as"):
        table_from_frame(frame, options=ColumnOptions(columns={"energy_kwh": "energies_*:Wh"}))


@pytest.mark.parametrize("names", [["gpu0_energy_kwh", "gpu1_energy_kwh"], ["energy_gpu_0_kwh", "energy_gpu_1_kwh"],
                                   ["GPU 0 (kWh)", "GPU 1 (kWh)"]])  # fmt: skip
def test_the_energies_of_several_gpus_are_added_up_and_none_is_left_out(names: list[str]) -> None:
    frame = LONG.assign(**{names[0]: 0.6 * KWH, names[1]: 0.3 * KWH})
    table = table_from_frame(frame)
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(0.9 * KWH)
    assert {"summed_devices", "gpu_only"} <= kinds(table)
    are_the_runs(table_from_frame(frame.assign(cpu_kwh=0.1 * KWH)))
    are_the_runs(table_from_frame(frame.assign(energy_kwh=KWH)))


def test_a_row_for_each_gpu_of_a_run() -> None:
    rows = LONG.merge(pd.DataFrame({"gpu_id": [0, 1]}), how="cross")
    parts = rows.assign(energy_kwh=(KWH[:, None] * [0.6, 0.4]).ravel())
    table = table_from_frame(parts.rename(columns={"run": "run_id"}))
    are_the_runs(table)
    assert set(table.frame["gpu_count"]) == {2}
    are_the_runs(table_from_frame(rows.rename(columns={"run": "run_id"}).assign(energy_kwh=np.repeat(KWH, 2))))
    unnamed = table_from_frame(parts.drop(columns="run"))
    assert len(unnamed.frame) == 24
    assert any("each row is taken as a run of its own" in warning.message for warning in unnamed.warnings)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_row_for_each_epoch_of_a_run(*, running: bool, named: bool) -> None:
    rows = (
        LONG.rename(columns={"run": "run_id"})
        .drop(columns="epochs")
        .merge(pd.DataFrame({"epoch": [1, 2, 3]}), how="cross")
    )
    rows["energy_kwh"] = np.repeat(KWH, 3) / 3 * (rows["epoch"] if running else 1)
    rows = rows if named else rows.drop(columns="run_id")
    if running and not named:  # may be runs of one, two and three epochs
        with pytest.raises(LoraScalingError, match="lacks the column `epochs`"):
            table_from_frame(rows)
        return
    table = table_from_frame(rows)
    are_the_runs(table)
    assert set(table.frame["epochs"]) == {3}


def test_a_column_for_each_epoch_is_added_up() -> None:
    frame = LONG.drop(columns="epochs").assign(**{f"epoch_{e}_kwh": KWH / 2 for e in (1, 2)})
    table = table_from_frame(frame)
    are_the_runs(table)
    assert set(table.frame["epochs"]) == {2}


@pytest.mark.parametrize("column", ["phase", "split", "Stage"])
def test_rows_of_evaluation_are_no_training(column: str) -> None:
    frame = pd.concat(
        [LONG.assign(energy_kwh=KWH, **{column: "train"}), LONG.assign(energy_kwh=0.01, **{column: "Eval"})]
    )
    table = table_from_frame(frame)
    are_the_runs(table)
    assert {item.reason for item in table.excluded} == {f"`{column}` is Eval: no training"}


@pytest.mark.parametrize("names", [("metric", "value"), ("Variable", "Value"), ("key", "value")])
def test_a_value_in_each_row(names: tuple[str, str]) -> None:
    runs = LONG.assign(energy_kwh=KWH, train_s=60.0)
    rows = runs.melt(id_vars="run", var_name=names[0], value_name=names[1])
    table = table_from_frame(rows)
    are_the_runs(table)
    assert set(table.frame["train_s"]) == {60}
    with pytest.raises(LoraScalingError, match="nothing tells which values are of one run"):
        table_from_frame(rows.drop(columns="run"))


def test_the_last_of_several_values_by_step_and_units_beside_values() -> None:
    last = pd.concat(
        [LONG.assign(metric="energy", value=1e3 * KWH * step / 9, step=step, unit="Wh") for step in (9, 3)]
    )
    times = LONG.assign(metric="duration", value=2.0, step=9, unit="min")
    table = table_from_frame(pd.concat([last, times], ignore_index=True))
    are_the_runs(table)
    assert set(table.frame["total_s"]) == {120}


@pytest.mark.parametrize(
    "columns",
    [
        {"energy": 1e3 * KWH, "unit": "Wh"},
        {"value": 3.6e6 * KWH, "unit": "J"},
        {"energy": np.where(N > 1500, 1e3, 1) * KWH, "energy_unit": np.where(N > 1500, "Wh", "kWh")},
        {"energy_consumed": 3.6 * KWH, "Units": "MJ", "loss": 1.0},
    ],
)
def test_a_unit_in_a_column_of_its_own(columns: dict[str, Any]) -> None:
    table = table_from_frame(LONG.assign(**columns))
    are_the_runs(table)
    assert "unit_column" in kinds(table)


def test_a_unit_that_contradicts_a_name_or_can_be_two_is_asked_about() -> None:
    frame = LONG.assign(energy_kwh=1e3 * KWH, unit="Wh")
    with pytest.raises(LoraScalingError, match="got the unit 'Wh' in `unit`, and its own name says kwh"):
        table_from_frame(frame)
    are_the_runs(table_from_frame(frame, options=ColumnOptions(columns={"energy_kwh": "energy_kwh:Wh"})))
    are_the_runs(table_from_frame(frame.assign(unit="kWh", energy_kwh=KWH)))
    with pytest.raises(LoraScalingError, match="may be milli or mega; write mWh or MWh"):
        table_from_frame(LONG.assign(energy=KWH, unit="mwh"))


def test_settings_in_columns_without_any_unit_are_one_sentence() -> None:
    frame = pd.DataFrame({"seed": [0, 1, 2], **{str(n): cells for n, cells in zip(SIZES, CELLS, strict=True)}})
    with pytest.raises(LoraScalingError, match="are settings or repeats in columns: turn the table"):
        table_from_frame(frame)


def test_readings_of_runs_as_they_go_are_no_runs() -> None:
    """Running totals of three runs would look linear whatever happened."""
    step = pd.DataFrame({"step": [1, 2, 3, 4, 5]})
    rows = pd.DataFrame({"run": ["a", "b", "c"], "epochs": 1}).merge(step, how="cross")
    rows = rows.assign(samples=8 * rows["step"], energy_kwh=0.001 * rows["step"])
    with pytest.raises(LoraScalingError, match="5 rows of one `run`, its readings as it goes"):
        table_from_frame(rows)
    assert len(table_from_frame(rows, options=ColumnOptions(ignore=["step"])).frame) == 15


@pytest.mark.parametrize(
    ("run", "part", "values"),
    [
        ("job_id", "node", ["node01", "node02"]),
        ("run_id", "gpu_uuid", ["GPU-ab12", "GPU-cd34"]),
        ("run", "hostname", "ab"),
    ],
)
def test_a_row_for_each_node_of_a_run_that_has_a_name(run: str, part: str, values: list[str]) -> None:
    rows = LONG.rename(columns={"run": run}).merge(pd.DataFrame({part: list(values)}), how="cross")
    are_the_runs(table_from_frame(rows.assign(energy_kwh=(KWH[:, None] * [0.55, 0.45]).ravel())))


@pytest.mark.parametrize(("name", "unit"), [("energy_btu", "btu"), ("energy (%)", "%"), ("energy_kw", "kw")])
def test_an_energy_in_a_unit_that_is_none(name: str, unit: str) -> None:
    with pytest.raises(LoraScalingError, match=f"is in {unit}, which is no unit of `energy_kwh` that is known"):
        table_from_frame(LONG.assign(**{name: KWH}))


def test_a_number_of_a_repeat_is_no_name_of_a_run() -> None:
    grid = pd.DataFrame({"run": [1, 2, 3], "samples": 500}).merge(pd.DataFrame({"lora_r": [8, 16]}), how="cross")
    table = table_from_frame(grid.assign(gpu_id=[0, 1] * 3, epochs=1, energy_kwh=[0.1, 0.11, 0.12, 0.13, 0.14, 0.15]))
    assert len(table.frame) == 6
    epochs = pd.DataFrame({"run": [1, 2, 3], "samples": 500}).merge(pd.DataFrame({"epoch": [1, 2, 3]}), how="cross")
    with pytest.raises(LoraScalingError, match="lacks the column `epochs`"):
        table_from_frame(epochs.assign(energy_kwh=0.1 * epochs["epoch"] + 0.001 * epochs["run"]))


def test_a_sum_beside_what_may_be_repeats_is_said() -> None:
    frame = WIDE.assign(**{f"energy_kwh_{i}": CELLS[:, i] for i in range(3)}, energy_kwh=CELLS.sum(axis=1))
    table = table_from_frame(frame)
    assert "sum_of_columns" in kinds(table)
    are_the_runs(table_from_frame(frame.drop(columns="energy_kwh")))


def test_a_file_without_names_of_columns_is_one_sentence() -> None:
    with pytest.raises(LoraScalingError, match="first line holds numbers and no names of columns"):
        table_from_frame(pd.DataFrame({"500": [1000], "1": [1], "0.08": [0.13]}))
