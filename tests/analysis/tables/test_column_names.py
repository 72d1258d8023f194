"""Tables under other programs' names and units, and what a user says about their columns."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import decide, load_runs
from analysis.cli import main
from analysis.tables.column_options import ColumnOptions
from lora_scaling.errors import RecordError, UserError

SAMPLES = [1000, 2000, 4000, 8000] * 3
KWH = [0.001 + 2e-5 * samples * (1 + 0.001 * (i % 5)) for i, samples in enumerate(SAMPLES)]
OURS = pd.DataFrame({"samples": SAMPLES, "epochs": 1, "energy_kwh": KWH})


def verdicts(frame: pd.DataFrame, **options: object) -> dict[str, str]:
    table = load_runs(frame, options=ColumnOptions(**options))  # pyright: ignore[reportArgumentType]
    return {claim.id: claim.verdict for claim in decide(table).claims}


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("Energy (kWh)", 1),
        ("energy_wh", 1000),
        ("total_energy_j", 3.6e6),
        ("Energy [kJ]", 3600),
        ("energy_consumed_kWh", 1),
    ],
)
def test_an_energy_is_converted_from_the_unit_in_its_name(name: str, factor: float) -> None:
    table = load_runs(OURS.assign(**{name: factor * OURS["energy_kwh"]}).drop(columns="energy_kwh"))
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(KWH, rel=1e-12)
    [warning] = [warning for warning in table.warnings if warning.kind == "renamed_columns"]
    assert f"`{name}` as `energy_kwh`" in warning.message
    assert verdicts(OURS)["linear_in_samples"] == "supported"


@pytest.mark.parametrize("name", ["energy", "total_energy", "energy_mj", "energy_mwh"])
def test_an_energy_whose_unit_nobody_can_know_is_not_taken(name: str) -> None:
    with pytest.raises(Exception, match="lacks the column `energy_kwh`"):
        load_runs(OURS.rename(columns={"energy_kwh": name}))


def test_names_of_other_programs() -> None:
    frame = OURS.rename(columns={"samples": "n_samples", "epochs": "num_train_epochs"}).assign(
        **{"config.lora_r": 8, "model_name": "m", "gpu": "A100", "bs": 4, "dataset": "d", "train_runtime": 9.0}
    )
    row = load_runs(frame).frame.iloc[0]
    names = ["samples", "epochs", "rank", "model", "hardware", "batch_size", "data", "train_s"]
    assert row[names].tolist() == [1000, 1, 8, "m", "A100", 4, "d", 9.0]


def test_our_own_name_goes_before_another_and_two_others_are_asked_about() -> None:
    assert list(load_runs(OURS.assign(n_samples=7)).frame["samples"]) == SAMPLES
    with pytest.raises(
        UserError, match=r"samples: could be any of `n_samples`, `nrows`; .* --column samples=n_samples"
    ):
        load_runs(OURS.rename(columns={"samples": "n_samples"}).assign(nrows=3))


@pytest.mark.parametrize("status", ["finished", "Success", "COMPLETED"])
def test_runs_that_other_programs_call_finished_are_used(status: str) -> None:
    table = load_runs(OURS.assign(State=[status] * 11 + ["crashed"]))
    assert len(table.frame) == 11
    assert table.excluded[0].reason == "status crashed"


def test_samples_and_epochs_are_read_from_a_name() -> None:
    names = [f"bert_n{samples}_e2" for samples in SAMPLES]
    table = load_runs(
        pd.DataFrame({"project_name": names, "energy_kwh": KWH}),
        options=ColumnOptions(samples_from=r"project_name:n(\d+)", epochs_from=r"project_name:e(\d+)"),
    )
    assert list(table.frame["samples"]) == SAMPLES
    assert set(table.frame["epochs"]) == {2}


def test_a_column_is_named_with_its_unit_and_another_set() -> None:
    frame = pd.DataFrame({"size": SAMPLES, "used": [1000 * kwh for kwh in KWH]})
    options = ColumnOptions(columns={"samples": "size", "energy_kwh": "used:Wh"}, constants={"epochs": "1"})
    table = load_runs(frame, options=options)
    assert list(table.frame["samples"]) == SAMPLES
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(KWH, rel=1e-12)


def test_a_table_is_joined_by_a_column(tmp_path: Path) -> None:
    ids = [f"r{i}" for i in range(12)]
    OURS[["samples", "epochs"]].assign(run_id=ids).sample(frac=1, random_state=1).to_csv(
        tmp_path / "b.csv", index=False
    )
    measured = pd.DataFrame({"run_id": ids, "energy_kwh": KWH})
    table = load_runs(measured, options=ColumnOptions(join=tmp_path / "b.csv", on="run_id"))
    assert list(table.frame["samples"]) == SAMPLES
    with pytest.raises(UserError, match="of which no row has the same"):
        load_runs(measured.assign(run_id="x"), options=ColumnOptions(join=tmp_path / "b.csv", on="run_id"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_from": "name"}, "give COLUMN:REGEX"),
        ({"samples_from": r"name:n\d+"}, "without a group"),
        ({"samples_from": "name:n(\\d+"}, "no regular expression"),
        ({"samples_from": "nome:n(\\d+)"}, "which is no column of the table"),
        ({"samples_from": "name:k(\\d+)"}, "which matches no row; `name` is e.g. 'n5'"),
        ({"columns": {"energi": "name"}}, "column: got 'energi', which is no column of a runs table"),
        ({"columns": {"energy_kwh": "used:stone"}}, "whose unit 'stone' is not known"),
        ({"constants": {"epoch": "1"}}, "set: got 'epoch'"),
        ({"ignore": ["colour"]}, "ignore: got 'colour'"),
        ({"on": "run_id"}, "without a table to join"),
    ],
)
def test_an_option_that_cannot_be_used_is_one_sentence(options: dict[str, object], message: str) -> None:
    frame = OURS.assign(name="n5", used=1.0)
    with pytest.raises(UserError) as caught:
        load_runs(frame, options=ColumnOptions(**options))  # pyright: ignore[reportArgumentType]
    assert message in str(caught.value)


def test_the_options_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"name": [f"n{samples}" for samples in SAMPLES], "used": KWH, "note": "x"})
    frame.to_csv(tmp_path / "runs.csv", index=False)
    words = ["claims", str(tmp_path / "runs.csv"), "--samples-from", r"name:n(\d+)", "--set", "epochs=1"]
    assert main([*words, "--column", "energy_kwh=used:kWh", "--ignore", "note", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["claims"][0]["verdict"] == "supported"
    assert main([*words, "--set", "epochs"]) == 2
    assert "set: got 'epochs'; give COLUMN=VALUE" in capsys.readouterr().err


ORIENTS = {
    "records": OURS.to_json(orient="records", indent=1),
    "columns": OURS.to_json(orient="columns"),
    "index": OURS.to_json(orient="index"),
    "split": OURS.to_json(orient="split"),
    "wrapped": json.dumps({"runs": json.loads(OURS.to_json(orient="records")), "by": "me"}),
    "lines": OURS.to_json(orient="records", lines=True),
}


@pytest.mark.parametrize("orient", ORIENTS)
def test_json_of_every_orient(tmp_path: Path, orient: str) -> None:
    (tmp_path / "runs.json").write_text(ORIENTS[orient] or "")
    assert list(load_runs(tmp_path / "runs.json").frame["samples"]) == SAMPLES


def test_rising_readings_of_one_run_are_one_run() -> None:
    rows = [
        {"run_id": f"r{i}", "samples": samples, "epochs": 1, "energy_kwh": kwh * part / 4}
        for i, (samples, kwh) in enumerate(zip(SAMPLES, KWH, strict=True))
        for part in (1, 2, 3, 4)
    ]
    table = load_runs(pd.DataFrame(rows))
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(KWH)
    assert {warning.kind for warning in table.warnings} == {"cumulative"}
    assert len(table.excluded) == 36
    shuffled = load_runs(pd.DataFrame(rows).sample(frac=1, random_state=2))
    assert len(shuffled.frame) == 48


def test_a_point_beside_decimal_commas_is_not_guessed() -> None:
    cells = [f"{kwh:.4f}".replace(".", ",") for kwh in KWH]
    samples = ["1000", *(f"{samples // 1000}.000" for samples in SAMPLES[1:])]
    table = load_runs(OURS.assign(samples=samples, energy_kwh=cells))
    assert len(table.frame) == 1
    assert "a decimal point or thousands?" in table.excluded[0].reason


def test_the_rank_of_another_adapter_is_not_lora_s() -> None:
    frame = pd.DataFrame({"samples": 4000, "epochs": 1, "rank": [4, 16, 64] * 6})
    frame["energy_kwh"] = [0.08 * (1 + 0.002 * (i % 4)) for i in range(len(frame))]
    assert verdicts(frame.assign(method="lora"))["rank_effect"] == "supported"
    assert verdicts(frame.assign(method="pvera"))["rank_effect"] == "undecided"


@pytest.mark.parametrize(
    ("name", "kwh"),
    [("Energy (MWh)", 1e3), ("energy_MWh", 1e3), ("energy_mWh", 1e-6), ("energy_MJ", 1 / 3.6), ("energy_in_kWh", 1.0),
     ("energyKWh", 1.0), ("summary.total_energy_j", 1 / 3.6e6), ("energy_GWh", 1e6)],
)  # fmt: skip
def test_case_tells_mega_from_milli(name: str, kwh: float) -> None:
    table = load_runs(pd.DataFrame({"samples": [1, 2], "epochs": 1, name: [3.0, 5.0]}))
    assert table.frame["energy_kwh"].tolist() == pytest.approx([3 * kwh, 5 * kwh])


def test_a_unit_in_lower_case_may_be_mega_or_milli_and_is_asked_for() -> None:
    frame = pd.DataFrame({"samples": [1, 2], "epochs": 1, "energy_mwh": [3.0, 5.0]})
    with pytest.raises(RecordError, match=r"--column 'energy_kwh=energy_mwh:UNIT' with MWh, kWh, Wh, mWh"):
        load_runs(frame)
    told = load_runs(frame, options=ColumnOptions(columns={"energy_kwh": "energy_mwh:mWh"}))
    assert told.frame["energy_kwh"].tolist() == pytest.approx([3e-6, 5e-6])


def test_cells_with_units_of_their_own_are_converted_each() -> None:
    frame = pd.DataFrame({"samples": [1, 2, 3], "epochs": 1, "energy": ["24.5 Wh", "0.03 kWh", "1.5e-5 MWh"]})
    table = load_runs(frame.assign(train_time=["90 s", "2 min", ""]))
    assert table.frame["energy_kwh"].tolist() == pytest.approx([0.0245, 0.03, 0.015])
    assert table.frame["train_s"].iloc[:2].tolist() == [90, 120]
    assert "cell_units" in {warning.kind for warning in table.warnings}
    with pytest.raises(RecordError, match="lacks the column `energy_kwh`"):  # one says none: nothing is guessed
        load_runs(frame.assign(energy=["24.5 Wh", "0.03 kWh", "15"]))


def test_two_columns_of_one_quantity_agree_or_are_refused() -> None:
    frame = pd.DataFrame({"samples": [1, 2], "epochs": 1, "energy_kwh": [0.03, 0.05], "energy_wh": [30.1, 49.9]})
    assert load_runs(frame).frame["energy_kwh"].tolist() == [0.03, 0.05]
    with pytest.raises(UserError, match=r"^energy_kwh: got 0.05, and `energy_wh` says 0.5 in the same unit, in 1 of 2"):
        load_runs(frame.assign(energy_wh=[30, 500]))


def test_a_name_that_is_called_the_model_is_one_without_the_runs_numbers() -> None:
    frame = pd.DataFrame(
        [{"project_name": f"{m}_n{n}", "epochs": 1, "energy_kwh": n * k} for n in (100, 200, 400, 800)
         for m, k in (("bert", 1e-5), ("gpt", 9e-5))]
    )  # fmt: skip
    options = ColumnOptions(samples_from=r"project_name:n(\d+)", columns={"model": "project_name"})
    assert set(load_runs(frame, options=options).frame["model"]) == {"bert_n", "gpt_n"}


def test_a_table_of_which_no_row_can_be_read_is_one_sentence() -> None:
    frame = pd.DataFrame({"samples": ["1.000", "2.000"], "epochs": "1", "energy_kwh": ["0,024", "0,044"]})
    with pytest.raises(RecordError, match=r"table: no row can be read; samples: got '1.000' beside decimal commas"):
        load_runs(frame)
