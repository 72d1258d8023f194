"""Records are whole or absent, and become rows with the contract's columns."""

import errno
import fcntl
import json
import multiprocessing
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scaling.config import compose
from lora_scaling.config.again import override_columns
from lora_scaling.errors import RecordError, UserError
from lora_scaling.records import (
    COLUMNS,
    blank_record,
    find_records,
    is_finished,
    locked,
    now_after,
    read_record,
    record_to_row,
    write_record,
)
from tests.support.paths import ROOT

# As the contract lists them, word by word.
CONTRACT = (
    "run_id, study, status, error, replicate, order, started_at, host, exclusive, samples, epochs, tokens_seen, "
    "tokens_padded, steps, batch_size, gradient_accumulation, max_seq_len, method, rank, trainable_params, model, "
    "params, layers, hidden_size, flops, precision, gradient_checkpointing, hardware, gpu_count, setup_s, warmup_s, "
    "train_s, eval_s, total_s, energy_kwh, energy_setup_kwh, energy_train_kwh, energy_eval_kwh, energy_gpu_kwh, "
    "energy_cpu_kwh, energy_ram_kwh, idle_power_w, energy_source_gpu, energy_source_cpu, energy_source_ram, "
    "intensity_g_per_kwh, intensity_source, intensity_status, emissions_g, train_loss, eval_loss_before, "
    "eval_loss_after, peak_memory_gb, mfu"
).split(", ")

MINIMAL = {"schema_version": 1, "run_id": "r", "status": "ok"}


def test_a_row_has_every_column_of_the_contract() -> None:
    assert set(CONTRACT) <= set(COLUMNS)
    assert set(record_to_row(MINIMAL)) == set(COLUMNS)


def test_what_a_record_does_not_know_is_none_never_zero() -> None:
    row = record_to_row(MINIMAL)
    assert {key for key, value in row.items() if value is not None} == {"run_id", "status"}


def test_the_method_of_another_program_is_its_name() -> None:
    assert record_to_row({**MINIMAL, "config": {"method": "dora"}})["method"] == "dora"
    assert record_to_row({**MINIMAL, "config": {"method": {"name": "lora"}}})["method"] == "lora"


def test_energy_is_added_up_by_phase_and_component() -> None:
    def phase(name: str, cpu: float | None) -> dict:
        parts = {"gpu": {"joules": None, "source": "none"}, "cpu": {"joules": cpu, "source": "rapl"}}
        return {"name": name, "seconds": 2.0, "components": parts}

    energy = {
        "phases": [phase("eval", 3.6e6), phase("train", 7.2e6), phase("eval", 1.8e6)],
        "components": {"gpu": {"joules": None, "source": "none"}, "cpu": {"joules": 12.6e6, "source": "rapl"}},
        "joules": 12.6e6,
    }
    row = record_to_row({**MINIMAL, "energy": energy})
    assert row["energy_kwh"] == pytest.approx(3.5)
    assert row["energy_train_kwh"] == pytest.approx(2.0)
    assert row["energy_eval_kwh"] == pytest.approx(1.5)
    assert row["eval_s"] == pytest.approx(4.0)
    assert row["energy_gpu_kwh"] is None
    assert row["energy_setup_kwh"] is None
    assert row["energy_source_cpu"] == "rapl"
    energy["complete"] = False  # a GPU was lost: the total is not the run's
    assert record_to_row({**MINIMAL, "energy": energy})["energy_kwh"] is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("record") / "run.json"
    write_record(path, {**MINIMAL, "value": value})
    assert dict(read_record(path))["value"] == value


def test_nan_becomes_null(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", {**MINIMAL, "loss": float("nan"), "more": [float("inf")]})
    assert json.loads((tmp_path / "run.json").read_text())["loss"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema_version": 1, "run', "not valid JSON"),
        ("[]", "no schema_version"),
        ('{"schema_version": 99, "run_id": "r", "status": "ok"}', "schema_version 99"),
        ('{"schema_version": 1, "run_id": "r", "status": "fine"}', "status 'fine'"),
    ],
)
def test_a_broken_record_is_never_a_run(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    assert not is_finished(path)
    with pytest.raises(RecordError, match=said):
        read_record(path)


def test_a_failed_write_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_record(path, MINIMAL)

    def breaks(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", breaks)
    with pytest.raises(UserError, match="Input/output error"):
        write_record(path, {**MINIMAL, "status": "failed"})
    assert read_record(path) == MINIMAL
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match=r"runs_dir: .* cannot be written"):
        write_record(tmp_path / "runs" / "study" / "run.json", MINIMAL)


def test_the_columns_are_documented() -> None:
    page = (ROOT / "docs" / "bring_your_own.md").read_text(encoding="utf-8")
    listed = page.partition("The columns of a run's table")[2].split("```")[1]
    assert tuple(listed.replace("\n", " ").strip().split(", ")) == COLUMNS


def test_temporary_files_are_not_found(tmp_path: Path) -> None:
    write_record(tmp_path / "a" / "run.json", MINIMAL)
    (tmp_path / "a" / ".half.tmp").write_text("{")
    assert find_records([tmp_path]) == [tmp_path / "a" / "run.json"]
    with pytest.raises(UserError, match="which does not exist"):
        find_records([tmp_path / "nowhere"])


def test_what_other_people_s_code_notes_is_written(tmp_path: Path) -> None:
    """numpy's scalars as numbers, what JSON has no word for as its text: a record is never lost for it."""
    noted = {"tokens": np.int64(7), "loss": np.float32("nan"), "path": tmp_path, "when": {"epochs": np.float64(0.5)}}
    write_record(tmp_path / "run.json", MINIMAL | {"work": noted})
    assert dict(read_record(tmp_path / "run.json"))["work"] == {
        "tokens": 7, "loss": None, "path": str(tmp_path), "when": {"epochs": 0.5},
    }  # fmt: skip


def test_a_file_system_without_locks_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuses)
    sentence = r"runs_dir: .* cannot be written \(No locks available\); give a folder"
    with pytest.raises(UserError, match=sentence), locked(tmp_path):
        pytest.fail("the run would have begun")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ""),
        (["samples=5", "lora.r=4", "study=x", "batch_size=2"], ""),  # these have columns, or are no part of the work
        (["group_by_length=false"], "group_by_length=false"),
        (["packing=true", "seed=3", "learning_rate=1e-3"], "packing=true learning_rate=0.001 seed=3"),
        (["device=cpu"], "device=cpu"),
        (["lora.target_modules=[q_proj,v_proj]", "lora.alpha=8"],
         "lora.alpha=8.0 'lora.target_modules=[q_proj,v_proj]'"),
    ],
)  # fmt: skip
def test_a_row_says_which_further_settings_its_run_had(given: list[str], words: str) -> None:
    config = compose(given)
    row = override_columns({**MINIMAL, "config": config.to_dict()})
    assert row["settings_override"] is not None
    assert shlex.split(row["settings_override"]) == shlex.split(words)
    again = compose([*given, *shlex.split(row["settings_override"])])
    assert again == config
    older = {key: value for key, value in config.to_dict().items() if key != "sharding"}
    assert override_columns({**MINIMAL, "config": older})["settings_override"] == row["settings_override"]


def _holder(folder: Path, held, release) -> None:  # type: ignore[no-untyped-def]
    with locked(folder):
        held.set()
        release.wait(30)


def test_a_lock_is_one_process_s_and_dies_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_holder, args=(tmp_path, held, release))
    process.start()
    assert held.wait(30)
    with locked(tmp_path) as mine:
        assert not mine
    process.kill()
    process.join()
    with locked(tmp_path) as mine:
        assert mine


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=ladder-3m"],
        ["model=smollm2-135m", "model.gguf_file=a b.gguf"],
        ["model=gguf", "model.gguf_file=x.gguf"],
        ["model=hub", "model.id=org/name"],
        ["model=mistral-7b", "model.weights=random"],
        ["model=hub", "model.id=org/name", "model.weights=random"],
        [
            "model=shape",
            "model.shape.layers=2",
            "model.shape.hidden_size=64",
            "model.shape.intermediate_size=96",
            "model.shape.heads=4",
            "model.shape.attention_bias=true",
            "model.shape.architecture=qwen2",
        ],
        ["model=ladder-3m", "model.shape.layers=8"],
        ["model=llama-3.1-8b", "model.id=/x", 'model.revision="12e3"'],
        ["model=llama-3.1-8b", "model.name=mine"],
        ["model=hub", "model.id=ladder-3m", "model.revision=abc"],
        ["model=gguf", "model.gguf_file=ladder-3m.gguf"],
        ["data.tokens_per_sample=300", "data.seed=3"],
        ["data=skolegpt", "data.repeat=true", "data.split=test", "data.layout=alpaca"],
        ["data=file", "data.path=x.json", "data.name=mine", "data.tokens_per_sample=50", "data.tokens_cv=0.1"],
        ["data=skolegpt"],
        ["data=file", "data.path=my data.json", 'data.fields={instruction: a, input: "b[0].c", output: d}'],
        ["data=file", "data.path=skolegpt.jsonl"],
        ["data=hub", "data.path=org/set"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_row_says_how_to_choose_its_model_and_data_again(overrides: list[str]) -> None:
    """Composing the words that the row gives yields the model and the data of the run."""
    config = compose(overrides)
    model = {"name": config.model.name, "weights": config.model.weights}
    row = override_columns({**MINIMAL, "config": config.to_dict(), "model": model})
    again = compose(shlex.split(f"{row['model_override']} {row['data_override']}"))
    assert again.model == config.model
    assert again.data == config.data


@pytest.mark.parametrize("model", ["ladder-3m", "llama-3.1-8b"])
@pytest.mark.parametrize("data", ["synthetic", "skolegpt"])
def test_a_preset_is_chosen_by_its_name_alone(model: str, data: str) -> None:
    config = compose([f"model={model}", f"data={data}"])
    row = override_columns({**MINIMAL, "config": config.to_dict()})
    assert (row["model_override"], row["data_override"]) == (f"model={model}", f"data={data}")


def test_a_run_never_finishes_before_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock may be set back in mid-run."""
    started_at = "2026-11-10T09:00:00.000000+00:00"
    later = "2026-11-10T10:00:00.000000+00:00"
    for moment, finished_at in (("2026-11-10T08:00:00.000000+00:00", started_at), (later, later)):
        monkeypatch.setattr("lora_scaling.records.schema.now", lambda moment=moment: moment)
        assert now_after(started_at) == finished_at


def test_a_record_with_the_warm_up_of_its_process_is_read_again(tmp_path: Path) -> None:
    noted = {"steps": 4, "seconds": 1.5, "model": "ladder-1m", "reason": None}
    record = blank_record(run_id="r", study="s", config={}, provenance={"warmup_run": noted, "slurm": None})
    write_record(tmp_path / "run.json", record)
    assert read_record(tmp_path / "run.json").get("provenance") == {"warmup_run": noted, "slurm": None}
