"""Files that other programs wrote, read by what is in them. `written_by/` holds what the real programs wrote."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import decide, load_runs
from analysis.tables.column_options import ColumnOptions
from analysis.tables.table import RunTable
from lora_scaling.errors import RecordError, UserError

WRITTEN = Path(__file__).parent / "written_by"
OURS = pd.DataFrame({"samples": [1000, 2000, 4000, 8000] * 3, "epochs": 1}).assign(
    energy_kwh=lambda f: 0.004 + 2e-5 * f["samples"] * (1 + 0.001 * (f.index % 5)), note="æ"
)


def named(samples_from: str) -> ColumnOptions:
    return ColumnOptions(samples_from=samples_from)


def kinds(table: RunTable) -> set[str]:
    return {warning.kind for warning in table.warnings}


def verdict(table: RunTable, claim: str = "linear_in_samples") -> str:
    return {one.id: one.verdict for one in decide(table).claims}[claim]


def test_a_file_of_codecarbon_needs_one_option_and_says_where_the_epochs_are_from() -> None:
    path = WRITTEN / "codecarbon" / "emissions.csv"
    with pytest.raises(RecordError, match=r"CodeCarbon's .*lacks .*--samples-from 'project_name:n\(\\d\+\)'"):
        load_runs(path)
    table = load_runs(path, options=named(r"project_name:n(\d+)"))
    assert sorted(table.frame["samples"]) == [1000] * 3 + [2000] * 3 + [4000] * 3 + [8000] * 3
    assert set(table.frame["epochs"]) == {1}
    assert "assumed_epochs" in kinds(table)
    assert verdict(table, "doubling_doubles") == "refuted"  # the tracked block has 0.1 s of no work in 0.225


def test_tasks_of_one_tracker_are_runs_of_their_own() -> None:
    table = load_runs(WRITTEN / "codecarbon" / "tasks.csv", options=named(r"task_name:n(\d+)"))
    assert table.frame["run_id"].is_unique
    assert len(table.frame) == 12
    assert verdict(table) == "supported"  # each waited 0.1 s + samples / 8000 s, at a constant power


def test_readings_of_a_flushed_tracker_are_one_run() -> None:
    path = WRITTEN / "codecarbon" / "flushed.csv"
    table = load_runs(path, options=named(r"project_name:n(\d+)"))
    assert table.frame["total_s"].tolist() == [pd.read_csv(path)["duration"].max()]
    assert [item.reason for item in table.excluded] == ["an earlier reading of the same run"] * 3
    assert "cumulative" in kinds(table)


def test_rows_of_a_newer_codecarbon_under_an_older_header_are_read(tmp_path: Path) -> None:
    new = (WRITTEN / "codecarbon" / "emissions.csv").read_text().splitlines()
    names = new[0].split(",")
    old_names = [name for name in names[:32] if name not in ("experiment_id", "water_consumed")]
    cells = dict(zip(names, new[1].split(","), strict=True))
    path = tmp_path / "emissions.csv"
    path.write_text(
        "\n".join([", ".join(old_names), " , ".join(cells[name] for name in old_names), *new[2:5], "x," * 50])
    )
    table = load_runs(path, options=named(r"project_name:n(\d+)"))
    expected = pd.read_csv(WRITTEN / "codecarbon" / "emissions.csv")["energy_consumed"][:4]
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-12)
    assert [item.reason for item in table.excluded] == [
        f"the line has 51 cells, and the line of names {len(old_names)}"
    ]


def test_codecarbon_1_has_no_run_ids_and_no_parts() -> None:
    frame = pd.DataFrame(
        {"timestamp": [f"2021-05-0{i}T10:00:00" for i in range(1, 7)], "project_name": "x", "duration": 100.0,
         "emissions": [0.01, 0.02, 0.04] * 2, "energy_consumed": [0.05, 0.1, 0.2] * 2, "country_name": "Canada",
         "country_iso_code": "CAN", "region": "quebec", "on_cloud": "N", "cloud_provider": "", "cloud_region": "",
         "n_samples": [100, 200, 400] * 2}
    )  # fmt: skip
    table = load_runs(frame.astype(str))
    assert table.frame["emissions_g"].tolist() == [10, 20, 40] * 2
    assert table.frame["run_id"].is_unique


def test_a_gpu_without_its_energy_leaves_the_total_unknown_where_other_rows_have_one() -> None:
    frame = pd.read_csv(WRITTEN / "codecarbon" / "emissions.csv").assign(gpu_model="1 x NVIDIA A100", gpu_energy=1e-4)
    frame.loc[3, "gpu_energy"] = 0.0
    table = load_runs(frame, options=named(r"project_name:n(\d+)"))
    assert [item.reason for item in table.excluded] == ["`energy_kwh` is unknown"]


def test_logs_of_carbontracker_are_runs_with_their_actual_consumption() -> None:
    folder = WRITTEN / "carbontracker"
    table = load_runs(folder, options=named(r"run_id:n(\d+)"))
    row = table.frame.set_index("run_id").to_dict("index")["lora_n1000_670569_2026-11-29T021516Z_carbontracker_output"]
    assert row["energy_kwh"] == 0.000010975613
    assert row["emissions_g"] == 0.004884147578
    assert row["hardware"] == "AMD EPYC 7713"
    assert len(table.frame) == 12  # the other log of each run is no run of its own
    assert verdict(table) == "supported"
    other = load_runs(
        folder / "lora_n1000_670569_2026-11-29T021516Z_carbontracker.log", options=named(r"run_id:n(\d+)")
    )
    assert other.frame["energy_kwh"].tolist() == [pytest.approx(0.5 * 50 / 3.6e6)]  # the duration × the power it logs


def test_eco2ai_s_file_and_its_epochs() -> None:
    path = WRITTEN / "eco2ai" / "emission.csv"
    table = load_runs(path, options=named(r"experiment_description:n=(\d+)"))
    raw = pd.read_csv(path)
    assert table.frame["energy_kwh"].tolist() == raw["power_consumption(kWh)"].tolist()
    assert table.frame["emissions_g"].to_numpy() == pytest.approx(1000 * raw["CO2_emissions(kg)"].to_numpy())
    assert set(table.frame["hardware"]) == {"AMD EPYC/1 device(s), TDP:500.0"}
    epochs = pd.read_csv(WRITTEN / "eco2ai" / "epochs.csv")
    [row] = load_runs(epochs, options=ColumnOptions(constants={"samples": "8"})).frame.to_dict("records")
    assert (row["epochs"], row["energy_kwh"]) == (3, pytest.approx(epochs["power_consumption(kWh)"].sum()))


def test_joules_of_zeus_become_kwh_of_all_its_gpus() -> None:
    """The watts are those of the stub that Zeus was run against: 251 and 178.5 W, and RAPL of 65 and 12 W."""
    table = load_runs(WRITTEN / "zeus" / "zeus.csv", options=named(r"window_name:n(\d+)"))
    raw = pd.read_csv(WRITTEN / "zeus" / "zeus.csv")
    joules = (raw["gpu0_energy"] + raw["gpu1_energy"]).to_numpy()
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(joules / 3.6e6)
    assert (3.6e6 * table.frame["energy_kwh"] / table.frame["total_s"]).to_numpy() == pytest.approx(429.5, rel=0.01)
    assert verdict(table) == "supported"
    one = load_runs(WRITTEN / "zeus" / "measurement.json", options=ColumnOptions(constants={"samples": "200"}))
    document = json.loads((WRITTEN / "zeus" / "measurement.json").read_text())
    parts = [sum(document[name].values()) for name in ("gpu_energy", "cpu_energy", "dram_energy")]
    assert one.frame["energy_kwh"].tolist() == [pytest.approx(sum(parts) / 3.6e6)]
    with pytest.raises(RecordError, match="Zeus without the energy of any device"):
        load_runs(WRITTEN / "zeus" / "no_gpu.csv", options=ColumnOptions(constants={"samples": "200"}))


def test_measurements_of_zeus_by_name_and_within_rows(tmp_path: Path) -> None:
    path = WRITTEN / "zeus" / "measurements.json"
    document = json.loads(path.read_text())
    table = load_runs(path, options=named(r"window_name:n(\d+)"))
    assert table.frame["samples"].tolist() == [200, 400, 800, 1600]
    assert "not the whole machine's" in " ".join(warning.message for warning in table.warnings)
    rows = [{"model": "m", "n_samples": int(name[1:]), "epochs": 1, "energy": one} for name, one in document.items()]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    other = load_runs(tmp_path / "rows.json")
    for part, name in (("gpu", "gpu_energy"), ("cpu", "cpu_energy"), ("ram", "dram_energy")):
        expected = [sum(one[name].values()) / 3.6e6 for one in document.values()]
        for read in (table, other):
            assert read.frame[f"energy_{part}_kwh"].tolist() == pytest.approx(expected)


def test_a_window_of_zeus_inside_another_run_s_counts_once() -> None:
    path = WRITTEN / "zeus" / "nested.csv"
    table = load_runs(path, options=ColumnOptions(constants={"samples": "200"}))
    raw = pd.read_csv(path)
    whole = raw[raw["window_name"].str.startswith("run_")]
    assert table.frame["total_s"].tolist() == whole["elapsed_time"].tolist()
    assert len(table.excluded) == 4
    assert all("a window inside that of row" in item.reason for item in table.excluded)
    alone = load_runs(raw.assign(n_samples=np.where(raw["window_name"] == "epoch", 100, np.nan)))
    assert len(alone.frame) == 4  # where the windows around them are no runs, those inside are


@pytest.mark.parametrize("name", ["runs.csv", "file_store.csv", "mlflow.db.gz"])
def test_runs_of_mlflow_need_no_option(name: str) -> None:
    """The command's CSV of its database and of its folder, and the database itself, are of the same twelve runs."""
    table = load_runs(WRITTEN / "mlflow" / name)
    raw = pd.read_csv(WRITTEN / "mlflow" / "runs.csv").query("status == 'FINISHED'")
    assert sorted(table.frame["energy_kwh"]) == pytest.approx(sorted(raw["metrics.energy_kwh"]), rel=1e-12)
    assert sorted(table.frame["emissions_g"]) == pytest.approx(sorted(1000 * raw["metrics.emissions_kg"]), rel=1e-12)
    assert sorted(table.frame["train_loss"]) == [pytest.approx(2.9)] * 12  # the last of three steps
    assert set(table.frame["rank"]) == {8}
    assert [item.reason for item in table.excluded] == ["status failed"]
    assert verdict(table) == "supported"
    assert not table.frame["total_s"].notna().any()  # its runs were told after the training, which took longer
    assert "unit" not in {warning.kind for warning in decide(table).warnings}


def test_the_folder_of_mlflow_s_file_store() -> None:
    folder = WRITTEN / "mlflow" / "mlruns"
    table = load_runs(folder)
    raw = pd.read_csv(WRITTEN / "mlflow" / "file_store.csv").set_index("run_id")
    assert sorted(table.frame["samples"]) == [500, 1000]
    for run in table.frame.to_dict("records"):
        assert run["energy_kwh"] == raw.loc[run["run_id"], "metrics.energy_kwh"]
        assert run["started_at"][:16] == raw.loc[run["run_id"], "start_time"][:16].replace(" ", "T")
    assert [item.reason for item in table.excluded] == ["status failed"]


def test_the_database_of_trackio() -> None:
    table = load_runs(WRITTEN / "trackio" / "lora.db.gz")
    with sqlite3.connect(":memory:") as store:
        data = gzip.decompress((WRITTEN / "trackio" / "lora.db.gz").read_bytes())
        store.deserialize(data[:18] + b"\x01\x01" + data[20:])  # it was kept with a log of writes beside it
        logged = [json.loads(text) for (text,) in store.execute("SELECT metrics FROM metrics")]
    kwh = {row["energy_kwh"] for row in logged if "energy_kwh" in row}
    assert set(table.frame["energy_kwh"]) == kwh
    assert len(kwh) == len(table.frame) == 12
    assert verdict(table) == "supported"


def test_a_database_is_read_only_so_long_and_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as store:
        for table in ("runs", "latest_metrics", "params"):
            store.execute(f"CREATE TABLE {table} (a)")
    with pytest.raises(RecordError, match="an SQLite database that cannot be read"):
        load_runs(path)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as store:
        store.execute("CREATE VIEW runs AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n")
    with pytest.raises(RecordError, match="of no known tracker"):
        load_runs(other)
    monkeypatch.setattr("analysis.tables.formats.tracker_stores.MOST_STEPS", 0)
    monkeypatch.setattr("analysis.tables.formats.tracker_stores.STEP", 1)
    with pytest.raises(RecordError, match=r"cannot be read \(interrupted"):
        load_runs(WRITTEN / "mlflow" / "mlflow.db.gz")


def test_exports_of_wandb_with_columns_and_with_mappings() -> None:
    metrics = {"train_runtime": 10.0, "train_samples_per_second": 100.0, "train/epoch": 2.0, "energy_kwh": 0.1}
    frame = pd.DataFrame(
        {"Name": ["a", "b", "c"], "State": ["finished", "crashed", "finished"], "Runtime": [11, 5, 23], "Sweep": "",
         "Created": "2026-11-02T10:00:00.000Z", "lora_r": 8,
         **{name: [value, value, 2 * value if "run" in name else value] for name, value in metrics.items()}}
    )  # fmt: skip
    table = load_runs(frame)
    assert table.frame[["run_id", "samples", "epochs", "rank", "total_s"]].values.tolist() == [
        ["a", 500, 2, 8, 11], ["c", 1000, 2, 8, 23]
    ]  # fmt: skip
    assert [item.run_id for item in table.excluded] == ["b"]
    nested = pd.DataFrame({"name": ["a", "b"], "config": ["{'lora_r': 8, 'bs': 4}"] * 2, "summary": [str(metrics)] * 2})
    assert load_runs(nested).frame[["samples", "rank", "batch_size"]].values.tolist() == [[500, 8, 4]] * 2


def peft_result(place: int, rank: int) -> dict[str, object]:
    windows = [{"step": 250 * i, "train samples": 1000 * i, "train time": 30.0 + 0.1 * ((i * place) % 3),
                "train loss": 0.9} for i in range(1, 9)]  # fmt: skip
    return {
        "run_info": {"created_at": f"2026-11-0{place}T10:00:00+00:00", "experiment_name": f"lora/rank{rank}",
                     "train_config": {"model_id": "org/llama", "batch_size": 4, "max_seq_length": 768},
                     "peft_config": {"peft_type": "LORA", "r": rank}, "error_msg": ""},
        "train_info": {"accelerator_memory_max": 22e9, "train_time": 300.0, "num_trainable_params": 9,
                       "status": "success", "num_total_params": 3.2e9,
                       "metrics": [*windows, {"step": 2000, "test accuracy": 0.4}]},
        "meta_info": {"system_info": {"gpu": "NVIDIA L40S"}},
    }  # fmt: skip


def test_peft_results_have_times_and_no_energy(tmp_path: Path) -> None:
    for place, rank in enumerate((8, 16, 32), start=1):
        (tmp_path / f"lora-{rank}.json").write_text(json.dumps(peft_result(place, rank), indent=1))
    table = load_runs(tmp_path)
    assert table.response == "train_s"
    assert {"time_only", "peft_benchmark"} <= kinds(table)
    assert table.frame[["samples", "rank", "method", "peak_memory_gb"]].values.tolist() == [
        [8000, rank, "lora", 22.0] for rank in (16, 32, 8)
    ]
    assert verdict(table) == "undecided"  # all have as many samples
    windows = load_runs(tmp_path / "lora-8.json")
    assert windows.frame["samples_end"].tolist() == [1000 * i for i in range(1, 9)]
    assert verdict(windows) == "supported"  # equal stretches take equal times


def test_a_folder_of_the_trainer_needs_no_option() -> None:
    table = load_runs(WRITTEN / "trainer")
    row = table.frame.set_index("run_id").to_dict("index")["n8192-0"]
    folder = WRITTEN / "trainer" / "n8192-0"
    summary = json.loads((folder / "all_results.json").read_text())
    energy = pd.read_csv(folder / "emissions.csv")["energy_consumed"].iloc[-1]
    assert row["samples"] == summary["train_samples"] == 8192
    assert row["train_s"] == summary["train_runtime"]
    assert row["energy_kwh"] == pytest.approx(energy)
    assert (row["method"], row["rank"], row["batch_size"], row["epochs"]) == ("lora", 4, 32, 1)
    assert [item.run_id for item in table.excluded] == ["max-steps"]  # it has no emissions.csv
    [only] = load_runs(WRITTEN / "trainer" / "max-steps" / "trainer_state.json").frame.to_dict("records")
    assert (only["samples"], only["epochs"]) == (160, 1)  # 20 steps of 8, a third of an epoch of 512
    assert verdict(table) != "refuted"


@pytest.mark.parametrize("kind", ["trainer", "codecarbon"])
def test_a_folder_that_vanishes_while_its_parent_is_read_is_passed_over(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that still runs writes and removes temporary folders."""
    folder = tmp_path / kind
    shutil.copytree(WRITTEN / "trainer", folder)
    if kind == "codecarbon":
        for state in folder.rglob("*.json"):
            state.unlink()
    brief, scandir, times = folder / "tmp-checkpoint-20", os.scandir, [0]

    def scanned(path: Any) -> Any:
        """It is there whenever its parent is listed, and gone when it is listed itself."""
        if Path(path) == folder:
            brief.mkdir(exist_ok=True)
        elif Path(path) == brief:
            brief.rmdir()
            times[0] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scanned)
    options = ColumnOptions(constants={"samples": "1"}) if kind == "codecarbon" else ColumnOptions()
    assert load_runs(folder, options=options).rows_read
    assert times[0] > 1


def test_an_interrupted_training_is_left_out_with_the_reason(tmp_path: Path) -> None:
    state = json.loads((WRITTEN / "trainer" / "max-steps" / "trainer_state.json").read_text())
    (tmp_path / "done" / "checkpoint-20").mkdir(parents=True)
    (tmp_path / "done" / "checkpoint-20" / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "cut" / "checkpoint-5").mkdir(parents=True)
    (tmp_path / "cut" / "checkpoint-5" / "trainer_state.json").write_text(json.dumps({**state, "log_history": []}))
    table = load_runs(tmp_path)
    assert table.frame["run_id"].tolist() == ["done"]
    [left] = table.excluded
    assert left.run_id == "cut"
    assert "interrupted" in left.reason


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "utf-16", "latin-1", "semicolons", "bars", "jsonl", "parquet"])
def test_containers_and_encodings(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"runs.{ending}"
    text = OURS.to_csv(index=False)
    if ending == "parquet":
        OURS.to_parquet(path)
    elif ending == "jsonl":
        OURS.to_json(path, orient="records", lines=True)
    elif ending == "csv.gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif ending in ("utf-16", "latin-1"):
        path.write_bytes(text.encode(ending))
    elif ending == "semicolons":  # and decimal commas, and empty columns at the end, as a spreadsheet writes them
        lines = [line.replace(",", ";").replace(".", ",") + ";;" for line in text.splitlines()]
        path.write_text("sep=;\n" + "\n".join(lines))
    else:
        path.write_text(text.replace(",", " | ") if ending == "bars" else text)
    table = load_runs(path)
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(OURS["energy_kwh"].to_numpy(), rel=1e-12)
    assert table.frame["samples"].tolist() == OURS["samples"].tolist()


def test_an_excel_sheet_with_a_title_above_its_table(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    path = tmp_path / "runs.xlsx"
    with pd.ExcelWriter(path) as writer:
        OURS.to_excel(writer, sheet_name="runs", startrow=3, startcol=1, index=False)
        writer.sheets["runs"]["B1"] = "Energy of our runs, November 2026"
        pd.DataFrame({"a": [1, 2]}).to_excel(writer, sheet_name="notes")
    table = load_runs(path)
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(OURS["energy_kwh"].to_numpy(), rel=1e-12)
    assert "sheet" in kinds(table)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("runs.csv", pickle.dumps({"samples": 1}), "a pickled file, .* never opened"),
        ("runs.xls", b"\xd0\xcf\x11\xe0" + b"\0" * 100, "old format"),
        ("runs.csv", b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
        ("runs.csv", b"<!DOCTYPE html><html>", "a web page"),
        ("runs.sqlite", b"SQLite format 3\0" + b"\0" * 100, "an SQLite database that cannot be read"),
        ("run-1.wandb", b":W&B\x26\xe1", "W&B's own log of a run; `wandb sync` its folder"),
        ("runs.csv", b"  \n", "empty"),
        ("runs.csv", bytes(range(256)) * 8, "no table that is known here"),
        ("runs.csv.gz", gzip.compress(b"samples", mtime=0)[:-4], "ends too early"),
        ("runs.log", b"epoch 1 loss 3", "of no known program"),
        ("runs.json", b"[1, 2, 3]", "JSON but no table"),
        ("runs.json", b"[" * 100_000, "nested too deeply"),
        ("runs.csv", b"samples,samples\n1,2", "`samples` twice"),
    ],
)
def test_what_is_no_table_is_one_sentence(name: str, data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises((RecordError, UserError), match=says):
        load_runs(path)


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "."), data)
        archive.writestr("__MACOSX/._runs.csv", b"x")
    return buffer.getvalue()


def zstandard(data: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        ("zip", lambda data: zipped(runs__csv=data, readme__md=b"a table")),
        ("xz", lambda data: lzma.compress(data[:40]) + lzma.compress(data[40:])),
        ("bz2", bz2.compress),
        ("zst", zstandard),
    ],
)
def test_an_archive_of_one_table_is_read(ending: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / f"runs.csv.{ending}"
    path.write_bytes(pack(OURS.to_csv(index=False).encode()))
    assert load_runs(path).frame["energy_kwh"].to_numpy() == pytest.approx(OURS["energy_kwh"].to_numpy(), rel=1e-12)
    assert load_runs(tmp_path).frame["samples"].tolist() == OURS["samples"].tolist()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (zipped(a__csv=b"samples", b__csv=b"samples"), r"a ZIP archive of 2 tables \('a.csv', 'b.csv'\); unpack it"),
        (zipped(notes__md=b"none"), "a ZIP archive of 0 tables; unpack it"),
        (zipped(a__zip=zipped(b__csv=b"samples")), "an archive in an archive"),
        (zipped(a__csv=bz2.compress(b"samples")), "an archive in an archive"),
        (zipped(a__csv=pickle.dumps(1)), "never opened"),
        (lzma.compress(b"samples")[:-10], "ends too early"),
        (bz2.compress(b"samples")[:-4], "ends too early"),
        (b"BZh9" + b"damaged" * 9, "cannot be read"),
        (b"\xfd7zXZ\0" + b"damaged" * 9, "cannot be read"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    ],
)
def test_an_archive_of_no_one_table_is_one_sentence(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.bin"
    path.write_bytes(data)
    with pytest.raises((RecordError, UserError), match=says):
        load_runs(path)


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, zstandard, lambda data: zipped(runs__csv=data)])
def test_other_archives_are_not_unpacked_beyond_a_limit_either(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.tables.files.MOST_BYTES", 10_000)
    path = tmp_path / "runs.bin"
    path.write_bytes(pack(b"samples,epochs,energy_kwh\n" + b"1,1,1\n" * 5000))
    with pytest.raises(RecordError, match="unpacks to more than"):
        load_runs(path)


def test_archives_are_not_unpacked_beyond_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.tables.files.MOST_BYTES", 10_000)
    path = tmp_path / "runs.csv.gz"
    path.write_bytes(gzip.compress(b"samples,epochs,energy_kwh\n" + b"1,1,1\n" * 5000, mtime=0))
    with pytest.raises(RecordError, match="unpacks to more than"):
        load_runs(path)
    book = tmp_path / "runs.xlsx"
    with zipfile.ZipFile(book, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "<a/>" + " " * 20_000)
    with pytest.raises(RecordError, match="unpacks to more than"):
        load_runs(book)
    with zipfile.ZipFile(tmp_path / "training_args.bin", "w") as archive:
        archive.writestr("training_args/data.pkl", pickle.dumps(1))
    with pytest.raises(RecordError, match="pickled"):
        load_runs(tmp_path / "training_args.bin")


def test_logs_of_carbontracker_in_folders_that_say_which_run_is_which(tmp_path: Path) -> None:
    name = "lora_n1000_670569_2026-11-29T021516Z_carbontracker_output.log"
    log = (WRITTEN / "carbontracker" / name).read_text()
    for samples in (1000, 2000):
        (tmp_path / f"n{samples}_r8").mkdir()
        (tmp_path / f"n{samples}_r8" / "9_2026-11-29T120929Z_carbontracker_output.log").write_text(log)
    with pytest.raises(RecordError, match=r"--samples-from 'folder:n\(\\d\+\)'"):
        load_runs(tmp_path)
    assert sorted(load_runs(tmp_path, options=named(r"folder:n(\d+)")).frame["samples"]) == [1000, 2000]


def test_a_name_that_holds_another_setting_is_not_passed_over() -> None:
    frame = pd.read_csv(WRITTEN / "codecarbon" / "tasks.csv")
    gpt = np.arange(12) % 2 == 1
    frame["task_name"] = frame["task_name"].str.replace("train", "bert").where(~gpt, "gpt" + frame["task_name"])
    frame["energy_consumed"] *= np.where(gpt, 3.0, 1.0)
    table = load_runs(frame, options=named(r"task_name:n(\d+)"))
    assert table.separating == ("task_name",)
    assert verdict(table) == "undecided"


def test_a_file_whose_names_say_nothing_is_joined_with_one_that_does(tmp_path: Path) -> None:
    frame = pd.read_csv(WRITTEN / "codecarbon" / "emissions.csv")
    samples = frame["project_name"].str.extract(r"n(\d+)", expand=False)
    frame.assign(project_name="mine").to_csv(tmp_path / "emissions.csv", index=False)
    with pytest.raises(RecordError, match="--join FILE"):
        load_runs(tmp_path / "emissions.csv")
    results = pd.DataFrame({"run_id": frame["run_id"], "train_samples": samples, "loss": 1.0})
    results[::-1].to_csv(tmp_path / "results.csv", index=False)
    table = load_runs(tmp_path / "emissions.csv", options=ColumnOptions(join=tmp_path / "results.csv"))
    assert table.frame["samples"].tolist() == samples.astype(float).tolist()


def test_json_of_runs_by_name(tmp_path: Path) -> None:
    rows = OURS.rename(columns={"samples": "n_samples"}).to_dict("records")
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({f"run-{i}": row for i, row in enumerate(rows)}))
    table = load_runs(path)
    assert table.frame["run_id"].tolist() == [f"run-{i}" for i in range(12)]
    assert verdict(table) == "supported"


def test_the_energy_is_called_what_it_is() -> None:
    zeus = load_runs(WRITTEN / "zeus" / "zeus.csv", options=named(r"window_name:n(\d+)"))
    assert decide(zeus).response.noun == "GPU energy"
    frame = pd.read_csv(WRITTEN / "codecarbon" / "tasks.csv").assign(gpu_model="1 x NVIDIA A100")
    blind = load_runs(frame, options=named(r"task_name:n(\d+)"))
    assert decide(blind).response.noun == "energy without the GPU's"


def test_a_window_without_samples_is_none_of_the_run(tmp_path: Path) -> None:
    """The last row of PEFT's metrics is of the test set; with a time, it would be a window of no samples."""
    shaped = Path(__file__).parent / "shaped_like" / "peft_results" / "lora--llama-3.2-3B-rank32.json"
    document = json.loads(shaped.read_text(encoding="utf-8"))
    document["train_info"]["metrics"][-1]["train time"] = 40.0
    path = tmp_path / "one.json"
    path.write_text(json.dumps(document))
    claim = next(one for one in decide(load_runs(path)).claims if one.id == "linear_in_samples")
    assert claim.verdict == "supported"
    assert claim.tests["windows"] == 20


def test_settings_in_mappings_within_mappings_are_read_where_their_name_is_the_only_one(tmp_path: Path) -> None:
    runs = [
        {
            "name": f"run{n}",
            "config": {"data": {"value": {"n_samples": n, "seed": 1}}, "train": {"epochs": 2, "seed": 5}},
            "summary": {"energy": {"total_kwh": n / 1000}},
        }
        for n in (100, 200, 400)
    ]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    table = load_runs(tmp_path / "runs.json")
    assert table.frame["samples"].tolist() == [100, 200, 400]
    assert set(table.frame["epochs"]) == {2}
    assert table.frame["energy_kwh"].tolist() == [0.1, 0.2, 0.4]
    assert not any("seed" in name for name in table.columns)
