"""Real tiny fine-tunes: what they count, what they record, that they repeat, and what failing ones leave."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_scaling.config import RunConfig, compose, run_id
from lora_scaling.config.again import override_columns
from lora_scaling.data.samples import split_samples
from lora_scaling.errors import UserError
from lora_scaling.records import find_records, record_path, record_to_row
from lora_scaling.runs import run as running
from lora_scaling.runs.run import run
from lora_scaling.training.bytes_tokenizer import bytes_tokenizer
from lora_scaling.training.tokens import tokenize
from tests.support.processes import Forked, run_module
from tests.support.runs import TINY, Record, read_record

Make = Callable[..., Record]
UNUSUAL = ("score", "checkpoint", "lost")  # windows that only some runs have
GOLDEN = Path(__file__).parent / "golden" / "tiny_run.json"


@pytest.fixture(scope="module")
def plain(made: Make) -> Record:
    return made("study=plain")


def test_a_run_is_recorded_in_full(plain: Record) -> None:
    assert (plain["status"], plain["error"]) == ("ok", None)
    row: dict[str, Any] = record_to_row(plain) | override_columns(plain)
    known = set(row) - {key for key, value in row.items() if value is None}
    unknown = set(row) - known
    # On a CPU there is no GPU and no known peak; no score, checkpoint or idle baseline unless asked for; no order
    # outside a sweep.
    assert unknown == {
        "error", "order", "mfu", "energy_gpu_kwh", "idle_power_w", "energy_above_idle_kwh", "slurm_energy_kwh",
        "gpu_temperature_c", "score_before", "score_after",
        *(f"{name}_s" for name in UNUSUAL), *(f"energy_{name}_kwh" for name in UNUSUAL),
    }  # fmt: skip
    assert row["energy_source_gpu"] == "none"
    assert plain["provenance"]["packages"]["torch"]
    assert [phase["name"] for phase in plain["energy"]["phases"]] == ["setup", "eval", "warmup", "train", "eval"]
    parts = sum(part["joules"] or 0 for part in plain["energy"]["components"].values())
    phases = sum(part["joules"] or 0 for phase in plain["energy"]["phases"] for part in phase["components"].values())
    assert parts == pytest.approx(phases, abs=1e-6) == plain["energy"]["joules"]
    assert row["emissions_g"] == pytest.approx(row["energy_kwh"] * row["intensity_g_per_kwh"])
    assert row["intensity_status"] == "static"


def test_tokens_are_those_of_the_data(plain: Record, tiny: Callable[..., RunConfig]) -> None:
    """Counted batch by batch, against the tokenised samples themselves."""
    config = tiny("study=plain")
    dataset = tokenize(split_samples(config).train, bytes_tokenizer(), config)
    work = plain["work"]
    assert work["tokens_seen"] == sum(len(row["input_ids"]) for row in dataset.rows)
    assert work["samples_seen"] == len(dataset.rows) == 24
    assert work["steps"] == work["micro_steps"] == 6
    processed = work["tokens_seen"] + work["tokens_padded"]
    assert processed <= 24 * max(len(row["input_ids"]) for row in dataset.rows)


def test_epochs_multiply_the_work_exactly(plain: Record, made: Make) -> None:
    twice = made("epochs=2", "group_by_length=false", "padding=max_length", "max_seq_len=64", "study=epochs")
    once = made("epochs=1", "group_by_length=false", "padding=max_length", "max_seq_len=64", "study=epochs")
    for count in ("samples_seen", "tokens_seen", "tokens_padded", "tokens_trained", "steps", "flops"):
        assert twice["work"][count] == 2 * once["work"][count]
    assert once["work"]["tokens_seen"] == plain["work"]["tokens_seen"]


def test_the_same_run_gives_the_same_numbers(plain: Record, made: Make) -> None:
    """With and without what the process has kept, and after other runs have used the same base model."""
    made("lora.r=4", "study=between")
    for study in ("reuse=true", "reuse=false"):
        again = made(study, f"study=again-{study[6:]}")
        assert again["work"] == plain["work"]
        assert again["training"] == plain["training"]
    assert made("seed=1", "study=again")["training"]["train_loss"] != plain["training"]["train_loss"]


def test_reuse_is_recorded(made: Make) -> None:
    made("study=reuse-1")
    assert made("study=reuse-2")["setup_reused"] == ["model", "tokens"]
    assert made("study=reuse-3", "reuse=false")["setup_reused"] == []


def test_the_golden_run(plain: Record) -> None:
    """Counts exactly and losses to five digits, as they were on the day they were written down (x86-64, fp32)."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert plain["run_id"] == golden["run_id"]
    assert {key: plain["work"][key] for key in golden["work"]} == golden["work"]
    assert {key: plain["model"][key] for key in golden["model"]} == golden["model"]
    for key, loss in golden["training"].items():
        assert plain["training"][key] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=qlora",),
        ("method=full",),
        ("optimizer=adamw_8bit",),
        ("packing=true",),
        ("gradient_checkpointing=true",),
        ("gradient_accumulation=3",),
        ("precision=bf16",),
        ("lora.target_modules=[q_proj,v_proj]",),
        ("loss_on=all",),
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_way_of_training_learns(made: Make, overrides: tuple[str, ...]) -> None:
    record = made(*overrides, "epochs=3", "study=ways", "learning_rate=0.002")
    assert record["status"] == "ok", record["error"]
    assert record["training"]["eval_loss_after"] < record["training"]["eval_loss_before"]
    assert not [w for w in record["warnings"] if w["kind"] == "parameter_count"]


def test_an_architecture_of_other_names_is_adapted_where_it_is_told(made: Make, tmp_path: Path) -> None:
    """GPT-NeoX calls its matrices otherwise; 8·(32 + 96) adapter weights in each of its two layers."""
    from transformers import GPTNeoXConfig

    config = GPTNeoXConfig(
        vocab_size=512, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    config.save_pretrained(tmp_path)
    overrides = ("model=hub", f"model.id={tmp_path}", "model.weights=random", "lora.target_modules=[query_key_value]")
    record = made("study=neox", *overrides)
    assert record["status"] == "ok", record["error"]
    assert record["model"]["trainable_params"] == 2 * 8 * (32 + 96)
    assert record["work"]["flops"] is None  # its arithmetic is not known here
    wrong = made("study=neox", *overrides[:3], "lora.target_modules=[q_proj]")
    assert wrong["status"] == "failed"
    assert (
        "lora.target_modules: got [q_proj]; q_proj matches no linear layer of this model, which has" in wrong["error"]
    )


def test_checkpointing_changes_work_but_not_results(plain: Record, made: Make) -> None:
    record = made("gradient_checkpointing=true", "study=checkpointing")
    assert record["work"]["flops"] > plain["work"]["flops"]
    assert record["training"]["train_loss"] == pytest.approx(plain["training"]["train_loss"], rel=1e-5)


def test_a_run_without_steps_does_everything_but_train(made: Make) -> None:
    record = made("max_steps=0", "study=none")
    assert record["status"] == "ok"
    assert record["work"]["steps"] == record["work"]["tokens_seen"] == record["work"]["flops"] == 0
    assert record["training"]["eval_loss_before"] == record["training"]["eval_loss_after"]
    assert "train" not in [phase["name"] for phase in record["energy"]["phases"]]


def test_epochs_end_a_run_before_max_steps_does(plain: Record, made: Make) -> None:
    """transformers' Trainer alone would start over with the data until it had made them."""
    record = made("study=many-steps", "max_steps=1000")
    assert record["work"]["samples_seen"] == 24
    assert record["work"]["steps"] == plain["work"]["steps"] == 6


def test_peak_memory_is_a_run_s_own(made: Make) -> None:
    """A run after that of a model eighty times its size needs no more than it does before it."""
    before = made("study=memory-before")["peak_memory_gb"]
    large = made("study=memory-large", "model=ladder-100m", "max_steps=1")["peak_memory_gb"]
    after = made("study=memory-after")["peak_memory_gb"]
    assert large > before + 0.3  # 104 M parameters in 32 bit
    assert after < before + 0.1


def test_max_steps_counts_what_was_shown(made: Make) -> None:
    work = made("max_steps=2", "study=two")["work"]
    assert (work["steps"], work["samples_seen"]) == (2, 8)


def test_a_finished_run_is_skipped_unless_asked_for_again(tiny: Callable[..., RunConfig]) -> None:
    first = run(tiny("study=skip"))
    again = run(tiny("study=skip"))
    assert first.skipped is None
    assert again.skipped == "finished before"
    assert again.record == first.record
    rerun = run(tiny("study=skip", "on_existing=rerun"))
    assert rerun.record is not None
    assert rerun.record["started_at"] > first.record["started_at"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("device=cuda",), "device: got 'cuda'; this machine has cpu"),
        (("precision=fp16",), "precision: got 'fp16'"),
        (("model=llama-3.2-1b",), "model.id: got meta-llama/Llama-3.2-1B-Instruct"),
        (("model=hub", "model.id=no/such"), "model.id: got no/such"),
        (("lora.r=100",), "at most 64 makes sense"),
        (("model.shape.vocab_size=100",), "model.shape.vocab_size: got 100"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_run_leaves_a_record_that_says_so(
    tiny: Callable[..., RunConfig], overrides: tuple[str, ...], said: str
) -> None:
    ran = run(tiny(*overrides, "study=bad"))
    assert ran.record is not None
    assert ran.record["status"] == "failed"
    assert said in ran.record["error"]
    assert "\n" not in ran.record["error"]
    assert ran.failure is not None
    assert ran.failure.exit_status == 2
    assert read_record(ran.path) == ran.record


def test_too_few_samples_says_how_many_there_are(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"instruction": "say", "input": "", "output": "so"}] * 10))
    ran = run(tiny("data=file", f"data.path={data}", "study=few"))
    assert ran.record is not None
    assert "10" in ran.record["error"]
    assert "data.repeat=true" in ran.record["error"]
    repeated = run(tiny("data=file", f"data.path={data}", "data.repeat=true", "study=few")).record
    assert repeated is not None
    assert repeated["status"] == "ok"


@pytest.fixture
def little_memory(plain: Record) -> Iterator[None]:
    """Room for some 300 MB more than the process has once a run (`plain`) has loaded all libraries."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 300_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_out_of_memory_is_recorded_as_such(tiny: Callable[..., RunConfig], little_memory: None) -> None:
    overrides = ("samples=512", "batch_size=512", "max_seq_len=2048", "padding=max_length", "eval_samples=0")
    ran = run(tiny(*overrides, "study=oom"))
    assert ran.record is not None
    assert ran.record["status"] == "oom"
    assert "ran out of memory with batch_size=512" in ran.record["error"]
    assert ran.record["energy"]["joules"] > 0  # what was spent is kept


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """A limit on file size stands in for a disk without room: the write fails in the same place."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "from lora_scaling.__main__ import main\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "samples=8", f"runs_dir={tmp_path}"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 2
    assert "runs_dir:" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize("refused", [("run.json",), ("timeline.csv",), ("run.json", "timeline.csv")])
def test_a_disk_that_is_full_at_the_end_loses_nothing_that_was_measured(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...]
) -> None:
    config = tiny(f"study=full-{'-'.join(refused)}")
    path = record_path(config.runs_dir, config.study, run_id(config))
    usual, begun = os.replace, []

    def replace(source: str, target: Path) -> None:
        begun.append(target)
        if len(begun) > 1 and target.parent == path.parent and target.name in refused:  # the first is the run's start
            raise OSError(errno.ENOSPC, "No space left on device")
        usual(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if "run.json" in refused:
        with pytest.raises(UserError, match=r"is full; free some space .*; what was measured is saved as .*: move it"):
            run(config)
        [saved] = find_records([tmp_path])
        usual(saved, path)
    else:
        run(config)
    record = read_record(path)
    assert record["status"] == "ok"
    assert record["energy"]["joules"] > 0
    assert record["energy"]["timeline"] == (None if "timeline.csv" in refused else "timeline.csv")
    assert ("no_timeline" in {warning["kind"] for warning in record["warnings"]}) == ("timeline.csv" in refused)


def test_what_a_killed_process_left_half_written_is_swept_by_the_next(tiny: Callable[..., RunConfig]) -> None:
    config = tiny("study=swept")
    folder = record_path(config.runs_dir, config.study, run_id(config)).parent
    folder.mkdir(parents=True)
    (folder / ".x3f9.tmp").write_text('{"schema_version": 1, "run_')
    run(config)
    assert not list(folder.glob(".*.tmp"))
    assert read_record(folder / "run.json")["status"] == "ok"


def test_a_run_says_it_is_unfinished_until_it_is(tiny: Callable[..., RunConfig]) -> None:
    config = tiny("study=watched")
    seen: list[Record] = []

    def look(phase: str, done: int, total: int, *_: object) -> None:
        [path] = (record_path(config.runs_dir, config.study, "x").parent.parent).rglob("run.json")
        seen.append(read_record(path))

    run(config, look)
    assert {record["status"] for record in seen} == {"interrupted"}


def test_a_device_that_is_not_here_is_said_once_and_before_the_work(
    tiny: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    running._say_other_device.cache_clear()
    steps: list[str] = []
    for replicate in range(2):
        config = tiny("hardware=rtx-a4000", "study=elsewhere", "max_steps=0", f"replicate={replicate}")
        run(config, lambda phase, *_: steps.append(capsys.readouterr().err if not steps else phase))
    assert steps[0].startswith("lora-scaling: hardware: got rtx-a4000; this run is made on ")
    assert "such a device" not in capsys.readouterr().err


def test_the_case_study_s_configuration_is_as_published() -> None:
    config = compose(["+experiment=munin_skolegpt"])
    assert (config.model.id, config.samples, config.epochs) == ("danish-foundation-models/munin-7b-alpha", 21300, 1)
    assert (config.method.name, config.data.path, config.grid.zone) == ("qlora", "kobprof/skolegpt-instruct", "DK1")


def test_a_pause_lies_between_runs_and_in_no_window(tiny: Callable[..., RunConfig], made: Make) -> None:
    made("study=pause")
    start = time.monotonic()
    record = run(tiny("study=pause", "replicate=1", "cooldown_s=2")).record
    assert record is not None
    assert time.monotonic() - start >= 2 + record["total_s"]


def test_an_idle_baseline_makes_energy_above_idle(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_scaling.energy.host.other_load_cores", lambda start, end: 0.0)  # whatever else runs here
    record = made("study=idle", "metering.idle_s=1.2", "metering.interval_s=0.5")
    row = record_to_row(record)
    assert row["idle_power_w"] > 0
    expected = row["energy_kwh"] - row["idle_power_w"] * row["total_s"] / 3.6e6
    assert row["energy_above_idle_kwh"] == pytest.approx(expected, rel=0.02)


def test_a_full_fine_tune_shares_its_model_with_no_one(plain: Record, made: Make) -> None:
    """It changes all weights: neither the next run nor the next full run may start from what it left."""
    made("study=before-full")
    first = made("study=full-1", "method=full", "learning_rate=0.01")
    assert "model" not in first["setup_reused"]
    assert first["training"]["eval_loss_after"] < first["training"]["eval_loss_before"] - 1
    again = made("study=full-2", "method=full", "learning_rate=0.01")
    assert again["training"] == first["training"]
    assert made("study=after-full")["training"] == plain["training"]


def test_a_quantised_model_is_shared_only_in_its_precision(made: Make) -> None:
    made("study=nf4-fp32", "method=qlora", "precision=fp32")
    shared = made("study=nf4-bf16", "method=qlora", "precision=bf16")
    alone = made("study=nf4-alone", "method=qlora", "precision=bf16", "reuse=false")
    assert shared["model"] == alone["model"]
    assert shared["training"] == alone["training"]


def test_checkpointing_lasts_from_warm_up_to_the_end_of_its_run(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen in what is recomputed: one more forward pass of each layer's MLP in each training step."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    passes = 0
    forward = LlamaMLP.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += self.training
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaMLP, "forward", counted)

    def layer_passes(*overrides: str) -> int:
        nonlocal passes
        passes = 0
        record = made(*overrides)
        steps = record["work"]["micro_steps"] + record["config"]["warmup_steps"]
        assert passes % (steps * record["model"]["layers"]) == 0
        return passes // (steps * record["model"]["layers"])

    assert layer_passes("study=recompute-0") == 1
    assert layer_passes("study=recompute-1", "gradient_checkpointing=true") == 2
    assert layer_passes("study=recompute-2") == 1  # on the same base model
    assert layer_passes("study=recompute-3", "gradient_checkpointing=true") == 2


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt_again_and_again() -> None:
    def press() -> None:
        for _ in range(400):
            interrupt()
            time.sleep(0.005)

    threading.Thread(target=press, daemon=True).start()


@pytest.mark.parametrize(
    ("how", "reason"), [(interrupt, "interrupted from the keyboard"), (end, "ended from outside (SIGTERM)")]
)
def test_an_interrupted_run_keeps_what_it_spent(tmp_path: Path, how: Callable[[], object], reason: str) -> None:
    """Ctrl-C, or a time limit, while it trains: the record says so and holds the energy and the work until then."""
    status, errors, record = interrupted(tmp_path, how)
    assert status == 130
    assert "Traceback" not in errors
    assert record["error"].startswith(reason)


def test_a_second_interrupt_takes_nothing_away(tmp_path: Path) -> None:
    """As a terminal and `torchrun` send them, or a person who is in a hurry: while the first one is recorded."""
    _, _, record = interrupted(tmp_path, interrupt_again_and_again)
    assert (tmp_path / record["study"] / record["run_id"] / "timeline.csv").exists()


def interrupt_in_a_destructor() -> None:
    class Dying:
        def __del__(self) -> None:
            interrupt()

    Dying()


def test_an_interrupt_that_lands_in_a_destructor_is_not_lost(tmp_path: Path) -> None:
    """Python drops what a destructor raises; the next step raises it again."""
    status, _, _ = interrupted(tmp_path, interrupt_in_a_destructor)
    assert status == 130


def interrupted(runs_dir: Path, how: Callable[[], object]) -> tuple[int | None, str, Record]:
    """A run that `how` interrupts after three steps.

    Returns:
        Its exit status, what it wrote to stderr, and its record, which holds the energy and the work until then.
    """
    process = Forked(run_and_interrupt, how, ["lora_scaling", *TINY, f"runs_dir={runs_dir}"])
    _, errors = process.communicate(timeout=120)
    [path] = runs_dir.rglob("run.json")
    record = read_record(path)
    assert record["status"] == "interrupted"
    assert record["energy"]["joules"] > 0
    assert record["work"]["micro_steps"] in (3, 4)
    assert record["finished_at"] is not None
    return process.returncode, errors, record


def run_and_interrupt(how: Callable[[], object], words: list[str]) -> None:
    usual = running.run

    def observed(config: RunConfig, listen: Callable[..., None]) -> running.RunOutcome:
        def heard(phase: str, done: int, *rest: object) -> None:
            if (phase, done) == ("train", 3):
                how()

        return usual(config, heard)

    running.run = observed
    run_module(words)
