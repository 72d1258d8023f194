"""kill -9 in the middle of a run, the same command again: one record, of the work as if nothing had happened."""

import json
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lora_scaling.config import compose, run_id
from lora_scaling.energy.parts import PARTS_NAME
from lora_scaling.errors import UserError
from lora_scaling.records import record_path, record_to_row
from lora_scaling.runs.run import RunOutcome, run
from tests.support.processes import forked, start_ranks, two_ranks, wait_until
from tests.support.runs import TINY, only_record, read_record

# Whatever a step depends on: random order within lengths, dropout, a schedule, momentum, accumulation, epochs.
WORK = (
    *TINY, "samples=48", "epochs=3", "batch_size=2", "gradient_accumulation=2", "data.tokens_cv=0.5",
    "lr_scheduler=cosine", "weight_decay=0.01", "learning_rate=0.003",
)  # fmt: skip
DROPOUT = "lora.dropout=0.1"
RESUME = ("resume=auto", "checkpoint_minutes=0.00001")


def killed(runs_dir: Path, *overrides: str, until: Callable[[Path], Any]) -> Path:
    """Kill the run as soon as `until` holds of its folder, which is returned."""
    words = [*WORK, *RESUME, *overrides, f"runs_dir={runs_dir}"]
    config = compose(words)
    folder = record_path(config.runs_dir, config.study, run_id(config)).parent
    process = forked("lora_scaling", *words)
    try:
        wait_until(lambda: until(folder) or process.returncode is not None, every_s=0.005)
        assert process.returncode is None, process.communicate()
    finally:
        process.kill()
    return folder


def again(runs_dir: Path, *overrides: str) -> RunOutcome:
    return run(compose([*WORK, *RESUME, *overrides, f"runs_dir={runs_dir}"]))


def steps_kept(folder: Path) -> list[int]:
    return [int_after_dash(path) for path in (folder / PARTS_NAME).glob("checkpoint-*")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    outcome = run(compose([*WORK, DROPOUT, f"runs_dir={tmp_path_factory.mktemp('whole')}", "save_adapter=true"]))
    return {"record": read_record(outcome.path), "adapter": outcome.path.parent / "adapter"}


def test_a_run_killed_twice_ends_as_one_record(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    """The second time in the second epoch, so that its order is drawn by numbers of before the kill."""
    whole = uninterrupted["record"]
    killed(tmp_path, DROPOUT, until=lambda folder: max(steps_kept(folder), default=0) > 3)
    folder = killed(tmp_path, DROPOUT, until=lambda folder: max(steps_kept(folder), default=0) > 13)
    assert read_record(folder / "run.json")["status"] == "interrupted"
    outcome = again(tmp_path, DROPOUT, "save_adapter=true")
    assert outcome.failure is None
    record: Any = read_record(outcome.path)
    assert record["work"] == whole["work"]
    for name in ("train_loss", "eval_loss_before", "eval_loss_after"):
        assert record["training"][name] == pytest.approx(whole["training"][name], rel=1e-6)
    trained, expected = (
        load_file(where / "adapter_model.safetensors") for where in (folder / "adapter", uninterrupted["adapter"])
    )
    assert all(bool((trained[name] - expected[name]).abs().max() < 1e-6) for name in expected)
    assert not (folder / PARTS_NAME).exists()
    check_energy(record, parts=3, folder=folder)


def check_energy(record: Any, *, parts: int, folder: Path) -> None:
    """What each part measured adds up to the record, and to its timeline."""
    energy = record["energy"]
    assert [part["ended"] for part in energy["parts"]] == ["killed"] * (parts - 1) + ["finished"]
    assert sum(part["joules"] for part in energy["parts"]) == pytest.approx(energy["joules"], abs=1e-4)
    assert sum(phase["seconds"] for phase in energy["phases"]) == pytest.approx(record["total_s"])
    names = [phase["name"] for phase in energy["phases"]]
    assert names.count("setup") + names.count("lost") >= parts
    assert "checkpoint" in names
    lines = (folder / "timeline.csv").read_text().splitlines()[1:]
    timeline = math.fsum(float(cell) for line in lines for cell in line.split(",")[3:] if cell)
    assert timeline == pytest.approx(energy["joules"], abs=1e-3)
    [said] = [w["message"] for w in record["warnings"] if w["kind"] == "resumed"]
    assert said.startswith(f"This run was made in {parts} parts: its energy is their sum")
    row = record_to_row(record)
    assert row["energy_kwh"] == pytest.approx(energy["joules"] / 3.6e6)
    assert row["train_s"] == pytest.approx(sum(p["seconds"] for p in energy["phases"] if p["name"] == "train"))
    starts = [datetime.fromisoformat(part["started_at"]) for part in energy["parts"]]
    assert starts == sorted(starts)
    assert datetime.fromisoformat(record["started_at"]) == starts[0]


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "victims"), [("none", [1]), ("fsdp", [0, 1])])
def test_a_run_in_two_processes_is_continued_as_one(tmp_path: Path, sharding: str, victims: list[int]) -> None:
    """kill -9 of one process, or of all."""
    words = [*WORK, "samples=24", "epochs=2", "group_by_length=false"]  # whose groups depend on the processes
    whole: Any = read_record(run(compose([*words, f"runs_dir={tmp_path / 'whole'}"])).path)
    cut, again = tmp_path / "cut", [*words, *RESUME, f"sharding={sharding}"]
    ranks = start_ranks(cut, *again)
    try:
        wait_until(
            lambda: (
                max(map(int_after_dash, cut.glob("default/*/.parts/checkpoint-*")), default=0) > 6
                or ranks[0].returncode is not None
            ),
            every_s=0.005,
        )
        assert ranks[0].returncode is None, ranks[0].communicate()
        for victim in victims:
            ranks[victim].kill()
        for survivor in ranks:
            survivor.communicate(timeout=90)
    finally:
        for rank in ranks:
            rank.kill()
    status, _, errors = two_ranks(cut, *again)
    assert status == 0, errors
    record = only_record(cut)
    assert record["world_size"] == 2
    for name in set(whole["work"]) - {"micro_steps"}:  # which are those of one process
        assert record["work"][name] == whole["work"][name]
    for name in ("train_loss", "eval_loss_before", "eval_loss_after"):
        assert record["training"][name] == pytest.approx(whole["training"][name], rel=1e-4)
    assert "ranks" not in {warning["kind"] for warning in record["warnings"]}
    assert record["energy"]["parts"][1]["first_step"] > 6
    check_energy(record, parts=2, folder=next(cut.rglob("run.json")).parent)


def int_after_dash(path: Path) -> int:
    return int(path.name.partition("-")[2])


@pytest.mark.parametrize("override", ["method=full", "optimizer=adamw_8bit", "packing=true max_seq_len=48"])
def test_what_is_trained_otherwise_is_continued_as_well(override: str, tmp_path: Path) -> None:
    """Interrupted as by Ctrl-C, in this process, which is faster than a kill."""
    words = [*WORK, "samples=24", "epochs=2", *override.split()]
    whole: Any = read_record(run(compose([*words, f"runs_dir={tmp_path / 'whole'}"])).path)
    config = compose([*words, *RESUME, f"runs_dir={tmp_path / 'cut'}"])

    def interrupt(phase: str, done: int, steps: int, *_: object) -> None:
        if phase == "train" and done == steps - 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, interrupt)
    outcome = run(config)
    record: Any = read_record(outcome.path)
    assert outcome.failure is None
    assert record["work"] == whole["work"]
    assert [part["ended"] for part in record["energy"]["parts"]] == ["ended", "finished"]
    assert record["energy"]["parts"][1]["first_step"] == record["work"]["steps"] - 3
    for name in ("train_loss", "eval_loss_after"):
        assert record["training"][name] == pytest.approx(whole["training"][name], rel=1e-5)


def test_a_run_killed_before_its_first_checkpoint_begins_anew_and_counts_what_was_spent(tmp_path: Path) -> None:
    late = "checkpoint_minutes=10"
    begun = ["setup", "eval", "warmup", "train"]
    folder = killed(tmp_path, late, "epochs=400", until=lambda folder: noted(folder) == begun)
    config = compose([*WORK, *RESUME, late, "epochs=1", f"runs_dir={tmp_path}"])
    other = record_path(config.runs_dir, config.study, run_id(config)).parent
    other.mkdir()
    (folder / PARTS_NAME).rename(other / PARTS_NAME)  # a shorter run has the same beginning
    record: Any = read_record(run(config).path)
    assert [phase["name"] for phase in record["energy"]["phases"]] == ["lost"] * 4 + [*begun, "eval"]
    assert record["work"]["steps"] == 12
    [first, _] = record["energy"]["parts"]
    assert first["lost_joules"] == pytest.approx(first["joules"])
    assert first["unnoted_s"] > 0


def noted(folder: Path) -> list[str]:
    try:
        account = json.loads((folder / PARTS_NAME / "part-001.json").read_text())["account"]
    except OSError:
        return []
    return [phase["name"] for phase in account["phases"]] if account else []


def test_a_checkpoint_of_other_conditions_is_refused(tmp_path: Path) -> None:
    config = compose([*WORK, *RESUME, f"runs_dir={tmp_path}"])
    folder = record_path(config.runs_dir, config.study, run_id(config)).parent / PARTS_NAME / "checkpoint-3"
    folder.mkdir(parents=True)
    document = {"step": 3, "counted": {}, "training": {}, "kept": {}, "same": {"precision": "bf16"}}
    (folder / "progress.json").write_text(json.dumps(document))
    failure = run(config).failure
    assert isinstance(failure, UserError)
    assert str(failure).startswith(f"resume: got auto, but {folder} was made with precision bf16, which is fp32 here; ")
    (folder / "progress.json").write_text("{")
    failure = run(config).failure
    assert str(failure).startswith(f"resume: got {folder}, which cannot be read (")
    (folder.parent / "part-001.json").write_text("[]")
    failure = run(config).failure
    assert str(failure).startswith(f"resume: got {folder.parent / 'part-001.json'}, which cannot be read (")
