"""footprint() and FootprintCallback: anyone's code and anyone's Trainer leave a record like ours."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lora_scaling.footprint
from lora_scaling import records
from lora_scaling.energy import MeteringSettings
from lora_scaling.energy.nvml import Nvml, SensorError
from lora_scaling.errors import UserError
from lora_scaling.footprint import Facts, footprint
from lora_scaling.settings import SETTINGS
from tests.support import nvml_stub
from tests.support.nvml_stub import Law
from tests.support.paths import ROOT
from tests.support.processes import Forked, free_port, run_code
from tests.support.runs import only_record

only_with_gcc = pytest.mark.skipif(not nvml_stub.have_compiler(), reason="needs gcc on Linux")


def test_a_block_leaves_a_record_and_a_timeline(tmp_path: Path) -> None:
    with footprint("my run!", study="mine", runs_dir=tmp_path, samples=10, epochs=2) as measured:
        time.sleep(0.2)
        with measured.phase("eval"):
            time.sleep(0.1)
        measured.note("work", tokens_seen=1234)
    record = only_record(tmp_path)
    assert measured.path.parent.parent == tmp_path / "mine"
    assert record["run_id"].startswith("my-run-")
    assert record["status"] == "ok"
    assert record["config"]["samples"] == 10
    assert [phase["name"] for phase in record["energy"]["phases"]] == ["train", "eval", "train"]
    row = records.record_to_row(record)
    assert row["tokens_seen"] == 1234
    assert row["energy_kwh"] > 0
    assert row["energy_source_ram"] == "constant_model"
    assert row["train_s"] >= 0.2
    assert row["eval_s"] >= 0.1
    rows = list(csv.DictReader((measured.path.parent / "timeline.csv").read_text().splitlines()))
    assert math.fsum(float(line["ram_j"]) for line in rows) == pytest.approx(
        record["energy"]["components"]["ram"]["joules"], abs=1e-6
    )


@pytest.mark.parametrize("make", ["footprint", "FootprintCallback"])
def test_a_misspelt_fact_is_refused_before_the_work_begins(tmp_path: Path, make: str) -> None:
    measure: Callable[..., object] = getattr(lora_scaling.footprint, make)
    for given, meant in (("sampls", "samples"), ("epoch", "epochs"), ("batchsize", "batch_size")):
        with pytest.raises(UserError, match=rf"{given}: got 3; did you mean {meant}") as refused:
            measure("x", runs_dir=tmp_path, **{given: 3})
        assert 'note("config"' in str(refused.value)
    assert not records.find_records([tmp_path])


def test_facts_have_the_names_of_settings() -> None:
    assert set(Facts.__annotations__) <= {setting.field for setting in SETTINGS}


def test_a_type_checker_knows_both_ways_to_measure() -> None:
    """The comments are the test: the type checker refuses one that hides nothing (see the top of the file)."""
    from transformers import TrainerCallback

    from lora_scaling.footprint import FootprintCallback

    callback: TrainerCallback = FootprintCallback("x", predict=True, samples=3)
    assert isinstance(callback, FootprintCallback)
    with pytest.raises(UserError):
        footprint("x", sampls=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(UserError):
        FootprintCallback("x", sampls=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError):
        footprint("x", 3)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no good"), "failed"), (MemoryError("too big"), "oom"), (KeyboardInterrupt(), "interrupted")],
)
def test_what_the_block_raises_passes_through_and_is_recorded(
    tmp_path: Path, error: BaseException, status: str
) -> None:
    def work() -> None:
        with footprint("failing", runs_dir=tmp_path):
            time.sleep(0.05)
            raise error

    with pytest.raises(type(error)):
        work()
    record = only_record(tmp_path)
    assert record["status"] == status
    assert record["error"]
    assert record["energy"]["joules"] > 0


def test_a_note_that_cannot_be_taken_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with footprint("x", runs_dir=tmp_path) as measured:
        measured.note("wrok", tokens_seen=1)
    assert "section: got 'wrok', which is none of config, model, data, work, training, device" in caplog.text
    assert only_record(tmp_path)["status"] == "ok"


def test_of_a_launch_the_first_process_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        with footprint("x", runs_dir=tmp_path):
            time.sleep(0.05)
        assert len(records.find_records([tmp_path])) == (rank == "0")


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    done = False
    with footprint("x", runs_dir=tmp_path / "file"):
        done = True
    assert done
    assert "could not be written" in caplog.text


def test_a_meter_that_cannot_be_opened_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise OSError("no meter")

    monkeypatch.setattr("lora_scaling.footprint.block.open_meter", broken)
    with footprint("x", runs_dir=tmp_path) as measured, measured.phase("eval"):
        pass
    record = only_record(tmp_path)
    assert record["status"] == "ok"
    assert record["energy"] is None


@pytest.mark.parametrize("used", [False, True])
def test_a_gpu_first_used_in_the_block_that_no_sensor_reads_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    def nothing() -> Nvml:
        raise SensorError("NVML: Shared Library Not Found")

    started = False
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: False, is_initialized=lambda: started),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)),
    )
    monkeypatch.setattr(Nvml, "open", nothing)
    monkeypatch.setitem(sys.modules, "torch", torch)
    with footprint("x", runs_dir=tmp_path, settings=MeteringSettings(interval_s=0.73)):
        started = used
    record = only_record(tmp_path)
    assert record["energy"]["components"]["gpu"]["source"] == ("unknown" if used else "none")
    assert record["energy"]["complete"] is not used
    assert (records.record_to_row(record)["energy_kwh"] is None) is used
    device = {key: record["device"][key] for key in ("kind", "gpu_count")}
    assert device == ({"kind": "cuda", "gpu_count": None} if used else {"kind": "cpu", "gpu_count": 0})
    assert (record["device"]["name"] is None) is used


def test_importing_it_imports_no_framework() -> None:
    code = (
        "import sys, lora_scaling.footprint\n"
        "print([m for m in ('torch', 'transformers', 'codecarbon', 'pynvml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]", done.stderr


TRAINER = """
import json, os, sys, time
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from tests.support.nvml_stub import Law, write_laws
from lora_scaling.footprint import FootprintCallback

torch.manual_seed(0)
runs, law_file, seconds, mode = Path(sys.argv[1]), os.environ.get("NVML_STUB_LAW"), float(sys.argv[2]), sys.argv[3]
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                     num_attention_heads=2, max_position_embeddings=64)
model = LlamaForCausalLM(config)
rows = [{"input_ids": torch.randint(0, 64, (32,)), "labels": torch.randint(0, 64, (32,))} for _ in range(64)]

class Timed(Trainer):
    began = None
    def training_step(self, *args, **kwargs):
        if self.began is None:
            self.began = time.time()
            if law_file:  # the power rises from 100 W to 300 W over the training
                now = time.time()
                write_laws(Path(law_file), [Law(power=((epoch, 100.0), (now, 100.0), (now + seconds, 300.0)),
                                                extras={"step": "0.1"})])
        if mode == "fails" and time.time() - self.began > 0.3:
            raise RuntimeError("the training broke")
        self.control.should_training_stop = time.time() - self.began > seconds
        return super().training_step(*args, **kwargs)

if law_file:
    epoch = time.time()
    write_laws(Path(law_file), [Law(power=((epoch, 100.0),), extras={"step": "0.1"})])
arguments = TrainingArguments(output_dir=str(runs / "out"), max_steps=12 if mode == "short" else 10**6,
    per_device_train_batch_size=4, report_to="none", logging_strategy="no", save_strategy="no", use_cpu=True,
    disable_tqdm=True, eval_strategy="steps" if mode == "short" else "no", eval_steps=6)
trainer = Timed(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
trainer.add_callback(FootprintCallback("mine", study="mine", runs_dir=runs))
trainer.train()
power = [[epoch, 100.0], [trainer.began, 100.0], [trainer.began + seconds, 300.0]] if law_file else None
print(json.dumps(power))
"""


RANKS = """
import json, os, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from lora_scaling.footprint import FootprintCallback
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                     num_attention_heads=2, max_position_embeddings=64)
rows = [{"input_ids": torch.randint(0, 64, (16,)), "labels": torch.randint(0, 64, (16,))} for _ in range(32)]
arguments = TrainingArguments(output_dir=sys.argv[1] + "/out", max_steps=8, per_device_train_batch_size=2,
    report_to="none", logging_strategy="no", save_strategy="no", use_cpu=True, disable_tqdm=True)
trainer = Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=rows)
trainer.add_callback(FootprintCallback("ranks", runs_dir=sys.argv[1], samples=320))
trainer.train()
print("null")
"""


@dataclass(frozen=True)
class Training:
    """What a training in a process of its own left behind."""

    folder: Path
    printed: Any
    stderr: str
    status: int | None


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    """Every training at once: most of their time is importing torch."""
    top = tmp_path_factory.mktemp("trainings")
    folders = {name: top / name for name in ("ramp", "short", "fails", "rank0", "rank1")}
    folders["rank1"] = folders["rank0"]
    ranks: dict[str, dict[str, str]] = {}
    started: dict[str, Forked | subprocess.Popen[str]] = {}
    if nvml_stub.have_compiler():
        arguments = [str(folders["ramp"]), "6.0", "ramp"]
        started["ramp"] = nvml_stub.run_python(TRAINER, nvml_stub.environment(top / "ramp.law"), *arguments, cwd=ROOT)
        laws = [Law(power=((0.0, 100.0),)), Law(power=((0.0, 250.0),))]
        nvml_stub.write_laws(top / "two.law", laws)
        for rank in ("0", "1"):
            extra = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()) if rank == "0" else "",
                     "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
            ranks[f"rank{rank}"] = nvml_stub.environment(top / "two.law", **extra)
        ranks["rank1"]["MASTER_PORT"] = ranks["rank0"]["MASTER_PORT"]
    started["short"] = Forked(run_code, TRAINER, [str(folders["short"]), "60.0", "short"])
    # How an interpreter ends is what tells a failure from an interruption: this one is a real one.
    fails = [str(folders["fails"]), "60.0", "fails"]
    started["fails"] = nvml_stub.run_python(
        TRAINER, {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, *fails, cwd=ROOT
    )
    for name, env in ranks.items():
        started[name] = nvml_stub.run_python(RANKS, env, str(folders[name]), cwd=ROOT)
    ended = {}
    for name, process in started.items():
        out, err = process.communicate(timeout=180)
        printed = json.loads(out.splitlines()[-1]) if process.returncode == 0 else None
        ended[name] = Training(folders[name], printed, err, process.returncode)
    return ended


@pytest.mark.slow
@only_with_gcc
def test_a_real_fine_tune_is_measured_to_half_a_per_cent(trainings: dict[str, Training]) -> None:
    """transformers' Trainer on this CPU, its energy by a counter of 100 ms steps on a rising power."""
    training = trainings["ramp"]
    assert training.status == 0, training.stderr
    record = only_record(training.folder)
    (train,) = (phase for phase in record["energy"]["phases"] if phase["name"] == "train")
    expected = Law(power=tuple(map(tuple, training.printed))).joules(*nvml_stub.moments(train))
    gpu = train["components"]["gpu"]
    assert train["seconds"] >= 5
    assert gpu["joules"] == pytest.approx(expected, rel=0.005)
    assert abs(gpu["joules"] - expected) <= gpu["uncertainty_joules"]
    assert gpu["source"] == "nvml_counter"
    assert record["status"] == "ok"
    assert record["work"]["steps"] > 0
    assert record["config"]["samples"] == 64
    assert record["training"]["train_loss"] > 0


@pytest.mark.slow
def test_evaluations_are_their_own_phase(trainings: dict[str, Training]) -> None:
    assert trainings["short"].status == 0, trainings["short"].stderr
    record = only_record(trainings["short"].folder)
    names = [phase["name"] for phase in record["energy"]["phases"]]
    assert names == ["train", "eval", "train", "eval", "train"]
    assert record["work"]["steps"] == 12
    row = records.record_to_row(record)  # 12 steps of 4 rows of 64: three quarters of an epoch
    assert (row["samples"], row["samples_seen"], row["epochs"]) == (64, 48, 0.75)


@pytest.mark.slow
def test_a_training_that_breaks_leaves_what_it_spent(trainings: dict[str, Training]) -> None:
    assert trainings["fails"].status == 1
    assert "the training broke" in trainings["fails"].stderr
    record = only_record(trainings["fails"].folder)
    assert record["status"] == "failed"
    assert "the training broke" in record["error"]
    assert record["energy"]["components"]["ram"]["joules"] > 0


@pytest.mark.slow
@only_with_gcc
def test_two_ranks_leave_one_record(trainings: dict[str, Training]) -> None:
    """Two processes under gloo, two GPUs: each GPU once, the node's RAM once."""
    for name in ("rank0", "rank1"):
        assert trainings[name].status == 0, trainings[name].stderr
    record = only_record(trainings["rank0"].folder)
    train = record["energy"]["phases"][0]
    assert record["energy"]["conditions"]["processes"] == 2
    assert record["config"]["samples"] == 320  # as said where the callback was made, not as the loader counts
    assert record["work"]["samples_seen"] == 320  # 8 steps of 2 × 2 of its 32 rows are an epoch
    assert [gpu["index"] for gpu in train["gpus"]] == [0, 1]
    watts = [gpu["joules"] / train["seconds"] for gpu in train["gpus"]]
    assert watts == pytest.approx([100, 250], rel=0.3)  # the ranks' windows differ a little
    alone = only_record(trainings["short"].folder)["energy"]["phases"][0]
    ram_w = [p["components"]["ram"]["joules"] / p["seconds"] for p in (train, alone)]
    assert ram_w[0] == pytest.approx(ram_w[1], rel=0.1)
