"""`--response`: times, and parts of the energy, are fitted, predicted, drawn and reported as what they are."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.cli import main
from analysis.energy_model.energy_fit import fit_table
from analysis.energy_model.extrapolate import extrapolate
from analysis.tables.table import table_from_frame
from lora_scaling.errors import UserError
from lora_scaling.estimate.fit_file import load_fit
from tests.support.fit_tables import frame_of, law

S_PER_SAMPLE = 0.02
LLAMA = 1_235_814_400  # parameters of llama-3.2-1b
JOULES = re.compile(r"\b[kMm]?Wh\b|\bJ\b|kWh|joule|g/kWh", re.IGNORECASE)


def times(cv: float = 0.003) -> pd.DataFrame:
    """Whole runs' times of one unnamed model: 0.02 s a sample shown."""
    samples = np.repeat([500, 1000, 2000, 4000, 8000], 3)
    noise = np.exp(cv * np.random.default_rng(3).standard_normal(len(samples)))
    return pd.DataFrame({"samples": samples, "epochs": 2, "train_s": S_PER_SAMPLE * 2 * samples * noise})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "times.csv"
    times().to_csv(path, index=False)
    return path


def test_a_fit_of_times_is_in_seconds_and_no_fit_of_energy(table: Path, tmp_path: Path, capsys) -> None:
    assert main(["fit", str(table), "--response", "time", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Training time (train_s) of 15 runs" in printed
    assert not JOULES.search(printed)
    document = json.loads((tmp_path / "fit.json").read_text())
    assert (document["kind"], document["response"], document["response_unit"]) == ("time_fit", "train_s", "s")
    model = next(one for one in document["models"] if len(one["params"]) == 1)
    assert np.exp(model["params"]["alpha"]) == pytest.approx(S_PER_SAMPLE, rel=0.005)
    assert document["diagnostics"]["energy"] is None
    assert document["diagnostics"]["time"]["n"] == 15
    with pytest.raises(UserError, match="fitted to times and knows no energy"):
        load_fit(tmp_path / "fit.json")


def test_a_prediction_from_times_is_a_time_and_nothing_else(table: Path, capsys) -> None:
    assert main(["extrapolate", str(table), "--response", "time", "samples=16000", "epochs=2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["energy_kwh"], document["emissions_g"], document["response"]) == (None, None, "train_s")
    assert document["time_s"]["estimate"] == pytest.approx(S_PER_SAMPLE * 32000, rel=0.02)
    assert document["time_s"]["low"] < S_PER_SAMPLE * 32000 < document["time_s"]["high"]
    assert main(["extrapolate", str(table), "--response", "time", "samples=16000", "epochs=2"]) == 0
    printed = capsys.readouterr().out
    assert "Time       10.7 min (90 % interval " in printed
    assert not JOULES.search(printed)


def test_the_backtest_of_times_is_in_seconds(table: Path, capsys) -> None:
    assert main(["backtest", str(table), "--response", "time", "--json"]) == 0
    split = json.loads(capsys.readouterr().out)["splits"][0]
    assert (split["split"], split["made"]) == ("time", True)
    for row in split["runs"]:
        assert row["predicted_s"] == pytest.approx(row["observed_s"], rel=0.03)
    assert main(["backtest", str(table), "--response", "time"]) == 0
    assert "observed min" in capsys.readouterr().out


def test_figures_and_report_of_times_name_no_energy(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plots"
    assert main(["plot", str(table), "--response", "time", "--out", str(folder), "samples=16000", "epochs=2"]) == 0
    assert {"time_vs_samples", "residuals", "backtest", "extrapolation"} <= {file.stem for file in folder.glob("*.svg")}
    drawn = "".join(file.read_text() for file in folder.glob("*.csv")) + (folder / "captions.json").read_text()
    assert "Training time (min)" in drawn
    assert not JOULES.search(drawn)
    assert "energy" not in drawn.lower()
    assert main(["report", str(table), "--response", "time", "--out", str(tmp_path)]) == 0
    text = re.sub(r"<(style|script|svg)\b.*?</\1>|<[^>]*>", " ", (tmp_path / "report.html").read_text(), flags=re.S)
    assert "Time scaling: times.csv" in text
    assert "Is training time linear in the number of samples?" in text
    assert "not about energy" in text
    assert not JOULES.search(text)


def test_any_positive_column_is_fitted_predicted_drawn_and_reported_in_its_unit(tmp_path: Path, capsys) -> None:
    """Litres of cooling water, 0.02 a sample shown; a column that no command knows by name."""
    path = tmp_path / "t.csv"
    times().rename(columns={"train_s": "cooling/water"}).to_csv(path, index=False)
    chosen = [str(path), "--response", "cooling/water:L"]
    assert main(["fit", *chosen, "--out", str(tmp_path)]) == 0
    assert "Cooling/water (L) of 15 runs" in capsys.readouterr().out
    document = json.loads((tmp_path / "fit.json").read_text())
    assert (document["kind"], document["response_unit"], document["floor"]) == ("quantity_fit", "L", None)
    with pytest.raises(UserError, match="not an energy fit"):
        load_fit(tmp_path / "fit.json")
    assert main(["extrapolate", *chosen, "samples=16000", "epochs=2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["energy_kwh"], document["time_s"], document["emissions_g"]) == (None, None, None)
    assert (document["response"], document["response_unit"]) == ("cooling/water (L)", "L")
    assert document["value"]["estimate"] == pytest.approx(S_PER_SAMPLE * 32000, rel=0.02)
    assert document["value"]["low"] < S_PER_SAMPLE * 32000 < document["value"]["high"]
    assert main(["extrapolate", *chosen, "samples=16000", "epochs=2"]) == 0
    assert "Cooling/water 64" in " ".join(capsys.readouterr().out.split())
    assert main(["backtest", *chosen, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["splits"][0]["runs"][0]
    assert row["predicted_l"] == pytest.approx(row["observed_l"], rel=0.03)
    folder = tmp_path / "plots"
    assert main(["plot", *chosen, "--out", str(folder), "samples=16000", "epochs=2"]) == 0
    assert {"value_vs_samples", "residuals", "backtest", "extrapolation"} <= {
        file.stem for file in folder.glob("*.svg")
    }
    drawn = "".join(file.read_text() for file in folder.glob("*.csv")) + (folder / "captions.json").read_text()
    assert "Cooling/water (L)" in drawn
    assert not JOULES.search(drawn)
    assert main(["report", *chosen, "--out", str(tmp_path)]) == 0
    text = re.sub(r"<(style|script|svg)\b.*?</\1>|<[^>]*>", " ", (tmp_path / "report.html").read_text(), flags=re.S)
    assert "Is cooling/water linear in the number of samples?" in text
    assert "could not be made" not in text
    assert not JOULES.search(text)


@pytest.mark.parametrize(
    ("name", "given", "column", "factor"),
    [
        ("net_energy_wh", "net_energy_wh", "net_energy (kWh)", 1e-3),
        ("Net energy [kJ]", "Net energy [kJ]", "Net energy (kWh)", 1 / 3600),
        ("used", "used:Wh", "used (kWh)", 1e-3),
        ("inference_ms", "inference_ms", "inference (s)", 1e-3),
        ("peak RAM (MiB)", "peak RAM (MiB)", "peak RAM (GB)", 1.048576e-3),
        ("price", "price", "price (own unit)", 1.0),
        ("co2 (kg)", "co2 (kg)", "emissions_g", 1e3),
        ("total_energy_j", "total_energy_j", "energy_kwh", 1 / 3.6e6),
    ],
)
def test_the_unit_of_a_response_is_that_of_its_name_or_is_given(
    name: str, given: str, column: str, factor: float
) -> None:
    frame = times().rename(columns={"train_s": name})
    table = table_from_frame(frame, response=given)
    assert table.response == column
    assert table.frame[column].to_numpy() == pytest.approx(factor * frame[name].to_numpy())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("joy", "got 'joy'; choose one of total, train, gpu, time, or a column of the table"),
        ("train_s:mwh", "may be milli or mega"),
        ("samples", "by which runs are compared"),
    ],
)
def test_a_response_that_cannot_be_is_one_sentence(given: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        table_from_frame(times(), response=given)


def test_times_keep_to_the_devices_peak_and_energies_to_its_power() -> None:
    """0.1 s a PFLOP on a device of known peak: its floor is that of time alone."""
    frame = frame_of(law(), cv=0.01).assign(hardware="a100-80gb", gpu_count=1)
    frame["train_s"] = frame["flops"] / 1e14
    floor = fit_table(frame, response="train_s").document["floor"]
    assert floor["energy_j_per_flop"] is None
    assert 0 < floor["time_s_per_flop"] < 1e-14


def test_the_energy_of_training_and_of_the_gpus_are_what_is_predicted() -> None:
    """The GPUs take 70 % of training's energy, and a run 2 Wh besides: each response gives its own prediction."""
    frame = frame_of(law(), cv=0.002, sizes=(LLAMA,), tokens=(1e5, 2e5, 4e5, 8e5), replicates=3)
    frame = frame.assign(
        energy_kwh=frame["energy_train_kwh"] + 0.002,
        energy_gpu_kwh=0.7 * frame["energy_train_kwh"],
        model="llama-3.2-1b",
    )
    ask = ["samples=1000", "epochs=1", "data.tokens_per_sample=400", "data.tokens_cv=0", "model=llama-3.2-1b"]
    found = {
        response: extrapolate(table_from_frame(frame, response=response), ask).document["energy_kwh"]["estimate"]
        for response in ("total", "train", "gpu")
    }
    assert found["gpu"] == pytest.approx(0.7 * found["train"], rel=0.01)
    assert found["total"] - found["train"] == pytest.approx(0.002, rel=0.01)


def test_models_of_unknown_size_are_predicted_each_at_its_own_level() -> None:
    """0.02 s a sample of one model, 1 s of another: the commonest is predicted, and that is said."""
    frame = pd.concat([times().assign(model="mine"), times().head(9).assign(model="theirs")], ignore_index=True)
    frame["train_s"] *= np.where(frame["model"] == "theirs", 50, 1)
    found = extrapolate(table_from_frame(frame, response="time"), ["samples=16000", "epochs=2"]).document
    assert found["time_s"]["estimate"] == pytest.approx(S_PER_SAMPLE * 32000, rel=0.02)
    assert "The model is mine, the commonest of the runs." in found["assumptions"]
