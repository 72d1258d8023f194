"""Reading tables: whatever cannot be used is named, nothing is dropped or changed silently."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.cli import main
from analysis.tables.table import load_runs, table_from_frame
from lora_scaling.errors import RecordError, UserError


def rows(count: int = 6) -> pd.DataFrame:
    samples = [32 * 2**i for i in range(count)]
    return pd.DataFrame(
        {
            "run_id": [f"r{i}" for i in range(count)],
            "samples": samples,
            "epochs": 1,
            "energy_kwh": [0.001234567 * s for s in samples],
        }
    )


def reasons(frame: pd.DataFrame, **options: Any) -> dict[str, str]:
    return {e.run_id: e.reason for e in table_from_frame(frame, **options).excluded}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl", "tsv"])
def test_formats_read_alike(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"runs.{suffix}"
    frame = rows()
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    table = load_runs([path])
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(frame["energy_kwh"].to_numpy(), rel=1e-12)
    assert table.excluded == ()
    assert table.rows_read == 6


def test_bad_energies_are_named() -> None:
    frame = rows()
    frame["energy_kwh"] = ["0", "-1", "nan", "inf", "0.5 kWh", "0.2"]
    found = reasons(frame)
    assert found["r0"] == "energy_kwh: got 0; allowed is a positive number, none beyond measure"
    assert found["r1"].startswith("energy_kwh: got -1")
    assert found["r2"] == "`energy_kwh` is unknown"
    assert found["r3"] == "`energy_kwh` is infinite"
    assert "'0.5 kWh'" in found["r4"]
    assert "r5" not in found


def test_failed_runs_are_left_out_with_their_error() -> None:
    frame = rows().assign(status=["ok", "failed", "oom", "ok", "interrupted", "OK"])
    frame["error"] = [None, "no data", None, None, None, None]
    assert reasons(frame) == {
        "r1": "status failed: no data",
        "r2": "status oom",
        "r4": "status interrupted",
    }


def test_decimal_commas_are_read_and_said(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("samples;epochs;energy_kwh\n32;1;0,0123\n64;1;0,0246\n")
    table = load_runs([path])
    assert list(table.frame["energy_kwh"]) == [0.0123, 0.0246]
    assert [w.kind for w in table.warnings] == ["decimal_comma"]


def test_ambiguous_commas_are_not_guessed() -> None:
    frame = rows().astype({"energy_kwh": object})
    frame.loc[0, "energy_kwh"] = "1,234"
    assert "decimal comma or thousands" in reasons(frame)["r0"]


def test_missing_columns_name_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("samples,epoch,energy\n1,1,1\n1,2,1\n")
    with pytest.raises(RecordError, match=r"lacks the columns `epochs`, `energy_kwh`; it has samples, epoch"):
        load_runs([path])


@pytest.mark.parametrize(
    "text",
    [
        "metric,run1,run2,run3\nsamples,100,200,400\nepochs,1,1,1\nenergy_kwh,0.1,0.2,0.4\n",
        "samples,100,200,400\nEpochs,1,1,1\nEnergy (Wh),1,2,4\n",
        ";a;b\nNumber of samples;100;200\nTraining time (s);3;6\n",
    ],
)
def test_a_table_on_its_side_is_to_be_turned(tmp_path: Path, text: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(
        RecordError, match=r"stand in the rows of `.*`: swap rows and columns, so that each run is a row"
    ):
        load_runs([path])


def test_rows_that_name_no_run_are_not_asked_for_its_samples(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("metric,value\nloss,1\naccuracy,2\n")
    with pytest.raises(RecordError, match="lacks the columns `samples`, `epochs`, `energy_kwh`; it has") as error:
        load_runs([path])
    assert "run_id" not in str(error.value)


def test_missing_energy_points_to_time(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("samples,epochs,train_s\n1,1,1\n")
    with pytest.raises(RecordError, match="--response time"):
        load_runs([path])
    assert len(load_runs([path], response="time").frame) == 1


def test_copies_count_once() -> None:
    table = table_from_frame(pd.concat([rows(), rows()]))
    assert len(table.frame) == 6
    assert {e.run_id for e in table.excluded} == {f"r{i}" for i in range(6)}
    assert "duplicate" in {w.kind for w in table.warnings}


def test_two_studies_may_make_runs_of_the_same_name() -> None:
    """A study beside another repeats its work; within one a name stands for one run."""
    rows = pd.DataFrame({"run_id": ["a", "a"], "samples": 8, "epochs": 1, "energy_kwh": [0.11, 0.12]})
    beside = table_from_frame(rows.assign(study=["s", "s_more"]))
    assert len(beside.frame) == 2
    assert not beside.warnings
    assert [w.kind for w in table_from_frame(rows.assign(study="s")).warnings] == ["duplicate"]


def test_copies_without_run_ids_count_once() -> None:
    frame = rows().drop(columns="run_id")
    table = table_from_frame(pd.concat([frame, frame]))
    assert len(table.frame) == 6
    assert table.excluded[0].reason == "the same numbers as run row 1: a copy, counted once"


def test_equal_rounded_readings_of_different_runs_stay() -> None:
    frame = rows().assign(samples=32, energy_kwh=0.01)
    assert len(table_from_frame(frame).frame) == 6


def test_zero_steps_mean_nothing_was_shown() -> None:
    frame = rows().assign(steps=[0, 8, 16, 32, 64, 128])
    assert list(table_from_frame(frame).frame["samples_seen"][:2]) == [0, 64]


def test_settings_all_at_their_defaults_are_known_and_those_of_other_tables_are_not() -> None:
    frame = rows(3).assign(settings_override=pd.Series(["", "seed=3 packing=true lora.alpha=32", None]))
    read = table_from_frame(frame).frame
    assert read["settings_override"].fillna("unknown").tolist() == ["", "seed=3 packing=true lora.alpha=32", "unknown"]
    assert read["work_settings"].fillna("unknown").tolist() == ["", "packing=true", "unknown"]


def test_methods_are_read_in_any_case() -> None:
    read = table_from_frame(rows(4).assign(method=pd.Series(["LoRA", "Full", " QLORA ", None]))).frame
    assert read["method"].fillna("unknown").tolist() == ["lora", "full", "qlora", "unknown"]


def test_excluding_by_id_is_listed_and_typos_are_told() -> None:
    assert table_from_frame(rows(), exclude=["r2"]).excluded[0].reason == "left out by --exclude"
    with pytest.raises(UserError, match="exclude: got 'nope'"):
        table_from_frame(rows(), exclude=["nope"])


def test_an_id_of_two_studies_is_left_out_of_the_one_that_is_named() -> None:
    frame = rows().assign(study=["a", "a", "a", "b", "b", "b"], run_id=["r0", "r1", "r2", "r0", "r1", "r3"])
    left = table_from_frame(frame, exclude=["b/r0", "r3"]).frame
    assert list(zip(left["study"], left["run_id"], strict=True)) == [("a", "r0"), ("a", "r1"), ("a", "r2"), ("b", "r1")]
    with pytest.raises(UserError, match="exclude: got 'r0', of which there are several; give one of a/r0, b/r0"):
        table_from_frame(frame, exclude=["r0"])


def test_empty_folder_and_missing_path_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder without run records"):
        load_runs([tmp_path])
    with pytest.raises(UserError, match="which does not exist"):
        load_runs([tmp_path / "nothing"])


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe\x01binary", b"\n\n"])
def test_rubbish_files_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(RecordError):
        load_runs([path])


def test_unreadable_records_among_good_ones(tmp_path: Path) -> None:
    record = {
        "schema_version": 1,
        "run_id": "good",
        "status": "ok",
        "config": {"samples": 32, "epochs": 1, "method": {"name": "lora"}, "lora": {"r": 8}},
        "work": {"samples_seen": 32, "steps": 4},
        "energy": {"joules": 3600.0, "phases": [], "components": {}},
    }
    (tmp_path / "s" / "good").mkdir(parents=True)
    (tmp_path / "s" / "good" / "run.json").write_text(json.dumps(record))
    (tmp_path / "s" / "broken").mkdir()
    (tmp_path / "s" / "broken" / "run.json").write_text("{")
    table = load_runs([tmp_path])
    assert list(table.frame["run_id"]) == ["good"]
    assert table.frame["energy_kwh"][0] == pytest.approx(0.001)
    assert table.excluded[0].run_id == "broken"
    assert "cannot be read" in table.excluded[0].reason


def test_position_follows_started_at() -> None:
    times = [f"2026-11-23T10:0{i}:00+00:00" for i in (3, 1, 2, 5, 4, 0)]
    frame = table_from_frame(rows().assign(started_at=times)).frame
    assert list(frame["position"]) == [4, 2, 3, 6, 5, 1]
    assert np.isnan(table_from_frame(rows()).frame["position"]).all()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["nonsense"], 2, "choose one of claims, fit"),
        (["claims", "/nowhere/at/all"], 2, "does not exist"),
        (["claims"], 2, "RUNS"),
        (["--help"], 0, "claims"),
    ],
)
def test_exit_statuses(arguments: list[str], status: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert text in captured.out + captured.err


def test_claims_imports_neither_torch_nor_plots() -> None:
    code = (
        "import sys; import analysis.claims.decide; "
        "print([m for m in ('torch', 'matplotlib', 'seaborn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_export_is_extra_p_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.csv"
    rows().assign(model="m<1>", steps=[0, 1, 1, 1, 1, 1]).to_csv(path, index=False)
    assert main(["export", str(path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 5
    assert lines[0] == {
        "params": {"samples": 64.0},
        "callpath": "m<1>",
        "metric": "energy_kwh",
        "value": pytest.approx(0.001234567 * 64),
    }


def test_of_very_many_rows_whole_runs_are_chosen_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.tables.table.MOST_ROWS", 400)
    frame = pd.DataFrame({"run_id": np.repeat(np.arange(400), 3), "samples": 10, "epochs": 1})
    frame = frame.assign(energy_kwh=np.tile([1.0, 2.0, 3.0], 400))  # three readings of a meter a run
    table = load_runs(frame)
    assert 80 < len(table.frame) < 190
    assert set(table.frame["energy_kwh"]) == {3.0}
    assert table.rows_read == 1200
    assert "sampled" in {warning.kind for warning in table.warnings}


def test_amounts_that_cannot_be_are_unknown_and_named() -> None:
    frame = pd.DataFrame({"samples": [8, 16, 32], "epochs": 1, "energy_kwh": [0.1, 0.2, 0.4]})
    table = load_runs(frame.assign(train_s=[-1, 2, 3], emissions_g=[1, "1e999", 3], train_loss=[-0.5, 1, 2]))
    assert table.frame["train_s"].isna().tolist() == [True, False, False]
    assert table.frame["emissions_g"].isna().tolist() == [False, True, False]
    assert table.frame["train_loss"].tolist() == [-0.5, 1, 2]
    of_time, of_grams = [w.message for w in table.warnings if w.kind == "bad_value"]
    assert of_time == "train_s: got -1; allowed is 0 or more, finite; taken as unknown."
    assert of_grams.startswith("emissions_g: got ")  # inf, or as it is written: releases of pandas differ
    assert of_grams.endswith("; taken as unknown.")


def test_names_that_differ_by_blanks_alone_are_no_two_columns(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    row = {"samples": 8, "epochs": 1, "energy_kwh": 0.1, "": "x", " ": "y"}
    path.write_text("\n".join(json.dumps({**row, "samples": n, "energy_kwh": n / 80}) for n in (8, 16, 32)))
    assert load_runs(path).frame["samples"].tolist() == [8, 16, 32]
    path.write_text(json.dumps({**row, "site": 1, "site ": 2}))
    with pytest.raises(RecordError, match=r"runs.jsonl: has the column `site` twice; give each a name of its own"):
        load_runs(path)
