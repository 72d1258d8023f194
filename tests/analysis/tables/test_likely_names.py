"""Columns whose names are in no list: taken where all their words are known, said, and otherwise asked about."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.tables.column_options import ColumnOptions
from analysis.tables.likely_names import likely_meaning
from analysis.tables.table import RunTable, load_runs, table_from_frame
from lora_scaling.errors import LoraScalingError, UserError

SAMPLES = np.repeat([500, 1000, 2000, 4000], 3)
KWH = 0.002 + 2e-5 * SAMPLES * (1 + 0.001 * np.arange(12))


def kwh_of(table: RunTable) -> list[float]:
    assert table.frame["samples"].tolist() == SAMPLES.tolist()
    assert set(table.frame["epochs"]) == {1}
    assert any(warning.kind in ("likely_columns", "renamed_columns") for warning in table.warnings)
    return table.frame["energy_kwh"].tolist()


@pytest.mark.parametrize(
    ("samples", "epochs", "energy", "per_kwh"),
    [
        ("Training set size", "Epochs trained", "Energy use (Wh)", 1e3),
        ("#examples", "n_epoch", "E_total_kJ", 3600),
        ("Anzahl Beispiele", "Epochen", "Energie (Wh)", 1e3),
        ("nombre d'exemples", "époques", "énergie (kWh)", 1),
        ("train_examples", "passes", "joules", 3.6e6),
        ("n", "ep", "kWh", 1),
        ("num_instances", "max_epochs", "Total Energy Consumption (kWh)", 1),
        ("subset_size", "number of epochs", "energy_usage_wh", 1e3),
        ("trainer.max_samples", "epoch", "measured energy [MJ]", 3.6),
        ("dataset rows", "antal epoker", "forbrug (Wh)", 1e3),
        ("dataset size (samples)", "training epochs (n)", "Energy Consumed (Watt-hours)", 1e3),
    ],
)
def test_names_in_other_words_and_languages(samples: str, epochs: str, energy: str, per_kwh: float) -> None:
    frame = pd.DataFrame({samples: SAMPLES, epochs: 1, energy: KWH * per_kwh})
    assert kwh_of(table_from_frame(frame)) == pytest.approx(KWH, rel=1e-12)


@pytest.mark.parametrize(
    "name",
    ["eval_samples", "samples_per_second", "total_samples", "batch size", "energy per sample (J)", "energy_per_gpu_wh",
     "lora (kWh)", "epoch_loss", "test set size", "model size", "power_w", "energy", "Baseline energy (Wh)",
     "energy_saved_kwh", "max power (W)", "n_gpus", "vocabulary size"],
)  # fmt: skip
def test_names_with_a_word_that_says_something_else_are_left_alone(name: str) -> None:
    assert likely_meaning(name) is None


def test_an_epoch_that_differs_is_a_position_and_no_number_of_epochs() -> None:
    frame = pd.DataFrame({"examples": SAMPLES, "epoch": np.tile([1, 2, 3], 4), "energy_kwh": KWH})
    with pytest.raises(LoraScalingError, match="lacks the column `epochs`"):
        table_from_frame(frame)


def test_two_columns_that_could_be_one_are_asked_about() -> None:
    frame = pd.DataFrame({"examples": SAMPLES, "instances": 7, "epochs": 1, "energy_kwh": KWH})
    with pytest.raises(UserError, match="samples: could be any of `examples`, `instances`"):
        table_from_frame(frame)
    assert len(table_from_frame(frame, options=ColumnOptions(columns={"samples": "examples"})).frame) == 12


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"cpu_kwh": 0.2 * KWH, "gpu_kwh": 0.7 * KWH, "ram_kwh": 0.1 * KWH}, "summed_energy"),
        ({"GPU energy use (Wh)": 1e3 * KWH}, "gpu_only"),
        ({"avg_power_w": 300.0, "runtime_s": KWH * 3.6e6 / 300}, "power_times_time"),
        ({"start_wh": np.cumsum(KWH) * 1e3 - KWH * 1e3, "end_wh": np.cumsum(KWH) * 1e3}, "meter_readings"),
    ],
)
def test_a_total_that_the_table_does_not_have_is_made_of_what_it_has(columns: dict[str, object], kind: str) -> None:
    table = table_from_frame(pd.DataFrame({"samples": SAMPLES, "epochs": 1, **columns}))
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(KWH, rel=1e-9)
    assert kind in {warning.kind for warning in table.warnings}


@pytest.mark.parametrize(
    ("frame", "response"),
    [
        (pd.DataFrame({"samples": SAMPLES, "epochs": 1, "Training energy (kWh)": KWH}), "energy_train_kwh"),
        (pd.DataFrame({"samples": SAMPLES, "epochs": 1, "kwh": KWH, "wh": 1e3 * KWH}), "energy_kwh"),
        (pd.DataFrame({"samples": SAMPLES, "epochs": 1, "mean energy (kWh)": KWH, "energy (kWh) ±": 1}), "energy_kwh"),
        (pd.DataFrame({"samples processed": SAMPLES, "energy_kwh": KWH}), "energy_kwh"),
    ],
)
def test_what_the_table_has_decides_what_is_explained(frame: pd.DataFrame, response: str) -> None:
    table = table_from_frame(frame)
    assert table.response == response
    assert table.frame["samples"].tolist() == SAMPLES.tolist()
    assert table.frame[response].tolist() == pytest.approx(KWH)


def test_names_of_several_lines_and_samples_over_all_epochs(tmp_path: Path) -> None:
    lines = ['samples,epochs,"Energy\n(kWh)"', *(f"{n},1,{kwh}" for n, kwh in zip(SAMPLES, KWH, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert load_runs(tmp_path / "t.csv").frame["energy_kwh"].tolist() == pytest.approx(KWH)
    frame = pd.DataFrame({"total_samples": SAMPLES * 2, "epochs": 2, "energy_kwh": KWH})
    with pytest.raises(LoraScalingError, match="lacks the column `samples`") as error:
        table_from_frame(frame)
    assert "is `total_samples` meant" not in str(error.value)


def test_a_maximum_of_power_is_no_mean() -> None:
    frame = pd.DataFrame({"samples": SAMPLES, "epochs": 1, "max_power_w": 300.0, "runtime_s": 60.0})
    with pytest.raises(LoraScalingError, match="lacks the column `energy_kwh`"):
        table_from_frame(frame)


def test_samples_are_counted_from_the_steps_and_the_batch() -> None:
    frame = pd.DataFrame({"global_step": SAMPLES // 4, "per_device_train_batch_size": 2,
                          "gradient_accumulation_steps": 2, "energy_kwh": KWH})  # fmt: skip
    table = table_from_frame(frame)
    assert table.frame["samples"].tolist() == SAMPLES.tolist()
    assert "samples_from_steps" in {warning.kind for warning in table.warnings}


def test_thousands_written_with_a_k() -> None:
    frame = pd.DataFrame({"samples": [f"{n / 1000:g}k" for n in SAMPLES], "epochs": 1, "energy_kwh": KWH})
    assert table_from_frame(frame).frame["samples"].tolist() == SAMPLES.tolist()


@pytest.mark.parametrize("mark", ["'", "\u2019", "\u00a0", "\u202f", " "])
def test_blanks_and_apostrophes_between_thousands(mark: str) -> None:
    written = [f"{n:,}".replace(",", mark) for n in SAMPLES]
    assert (
        table_from_frame(pd.DataFrame({"samples": written, "epochs": 1, "energy_kwh": KWH})).frame["samples"].tolist()
        == SAMPLES.tolist()
    )


def test_columns_that_blanks_separate(tmp_path: Path) -> None:
    lines = ["samples  epochs   energy_kwh", *(f"{n:6d} 1 {kwh:.9f}" for n, kwh in zip(SAMPLES, KWH, strict=True))]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    assert load_runs(tmp_path / "t.txt").frame["energy_kwh"].tolist() == pytest.approx(KWH, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "says"),
    [("- samples: 5\n  epochs: 1\n", "YAML, which is not read"), ("<table><tr>", "a web page or XML"),
     ("samples,epochs,joules_of_it\n1,1,2\n", "`--response COLUMN:UNIT` judges another column")],
)  # fmt: skip
def test_what_else_people_have_is_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(LoraScalingError, match=says):
        load_runs(tmp_path / "t.txt")


def test_a_header_behind_a_number_sign_and_rows_of_nested_json(tmp_path: Path) -> None:
    lines = ["# made by a script", "# samples,epochs,energy_kwh"]
    lines += [f"{n},1,{kwh}" for n, kwh in zip(SAMPLES, KWH, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert load_runs(tmp_path / "t.csv").frame["energy_kwh"].tolist() == pytest.approx(KWH)
    rows = [
        {"hyperparameters": {"train_size": int(n), "epochs": 1, "lora": {"r": 8}}, "cost": {"energy_kwh": kwh}}
        for n, kwh in zip(SAMPLES, KWH, strict=True)
    ]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert kwh_of(load_runs(tmp_path / "t.json")) == pytest.approx(KWH)


def test_an_energy_without_a_unit_is_asked_for_it() -> None:
    frame = pd.DataFrame({"samples": SAMPLES, "epochs": 1, "total_energy": KWH})
    with pytest.raises(LoraScalingError, match="`total_energy` has no unit: --column 'energy_kwh=total_energy:UNIT'"):
        table_from_frame(frame)


def test_samples_in_the_name_of_a_data_set_do_not_make_each_size_a_data_set_of_its_own() -> None:
    frame = pd.DataFrame({"dataset": [f"alpaca_{n}" for n in SAMPLES], "epochs": 1, "gpu_energy_wh": 1e3 * KWH})
    with pytest.raises(LoraScalingError, match=r"--samples-from 'data:alpaca_\(\\d\+\)'"):
        table_from_frame(frame)
    for name in ("dataset", "data"):
        table = table_from_frame(frame, options=ColumnOptions(samples_from=rf"{name}:alpaca_(\d+)"))
        assert table.frame["samples"].tolist() == SAMPLES.tolist()
        assert table.frame["data"].nunique() == 1
