"""Sweeps on a real Slurm of one node, which `.ci/slurm` starts."""

import itertools
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_scaling.energy.parts import PARTS_NAME
from lora_scaling.records import find_records
from tests.runs.test_launchers import outcome
from tests.support.commands import command
from tests.support.processes import forked, wait_until
from tests.support.runs import TINY, only_record, read_record
from tests.support.slurm import SMALL, need_slurm, queued, slurm

pytestmark = pytest.mark.slurm


@pytest.fixture(autouse=True)
def empty_queue() -> Iterator[None]:
    need_slurm()
    yield
    slurm("scancel", "--me")


def test_the_preset_gives_the_serial_sweeps_runs(tmp_path: Path) -> None:
    """As documented: whole nodes with a GPU, so one run after the other, although two would find room."""
    words = ("-m", *TINY, "samples=8,16")
    serial = forked("lora_scaling", *words, f"runs_dir={tmp_path / 'serial'}")
    preset = ("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=10")
    done = command("lora_scaling", *words, *preset, f"runs_dir={tmp_path / 'slurm'}")
    assert (done.returncode, done.stderr) == (0, "")
    _, errors = serial.communicate(timeout=200)
    assert serial.returncode == 0, errors
    assert outcome(tmp_path / "slurm") == outcome(tmp_path / "serial")
    records = [read_record(path) for path in find_records([tmp_path / "slurm"])]
    spans = sorted((record["started_at"], record["finished_at"]) for record in records)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    [array] = {record["provenance"]["slurm"]["array_job_id"] for record in records}
    assert f"Slurm: job {array}, 2 runs\n" in done.stdout
    assert {record["provenance"]["slurm"]["array_task_id"] for record in records} == {"0", "1"}
    assert {record["provenance"]["slurm"]["job_partition"] for record in records} == {"gpu"}
    # Slurm's plugin counts a node of 200 W; its counter moves five times a second.
    counts = "acct_gather_energy/pm_counters" in slurm("scontrol", "show", "config")  # where `.ci/slurm` may mount it
    for record in records:
        counted = record["slurm_energy"]
        if not counts:
            assert counted["joules"] is None
            continue
        assert (counted["source"], counted["covers"]) == ("sstat", "run"), counted
        assert counted["plugin"] == "acct_gather_energy/pm_counters"
        assert 0.3 < counted["joules"] / (200 * record["total_s"]) < 3
        assert counted["measured_joules"] == record["energy"]["joules"]
    assert ("Slurm's own count for the nodes of 2 runs: " in done.stdout) == counts
    # The user's command, not the job's.
    assert all(
        record["provenance"]["command"][:5] == ["python", "-m", "lora_scaling", "-m", TINY[0]] for record in records
    )


def test_a_sweep_longer_than_an_array_may_be_is_several(tmp_path: Path) -> None:
    """The node of `.ci/slurm` takes arrays of three (MaxArraySize)."""
    words = (*TINY, "samples=4,8,12,16", f"runs_dir={tmp_path}")
    done = command("lora_scaling", "-m", *words, *SMALL, "hydra.launcher.array_parallelism=2")
    assert done.returncode == 0, done.stderr
    arrays = [line.split()[-2] for line in done.stdout.splitlines() if line.startswith("Slurm: job")]
    assert arrays == ["3", "1"]
    assert [values[0] for values in outcome(tmp_path).values()] == ["ok"] * 4


LONG = ("epochs=9000", "exclusive_device=false")
ALONE = "hydra.launcher.array_parallelism=1"


def trains(runs_dir: Path) -> bool:
    """Whether a run has begun, as its placeholder says."""
    return bool(find_records([runs_dir]))


def test_a_cancelled_job_ends_the_command_within_seconds_and_says_so(tmp_path: Path) -> None:
    sweep = forked("lora_scaling", "-m", *TINY, *LONG, "samples=8,16", f"runs_dir={tmp_path}", *SMALL, ALONE)
    wait_until(lambda: trains(tmp_path))
    [number] = {job.partition("_")[0] for job in queued()}
    slurm("scancel", number)
    out, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 1
    record = only_record(tmp_path)
    assert record["status"] == "interrupted"
    assert record["error"].endswith(f"({number}_0) before its time limit: it was cancelled, preempted or requeued")
    [sentence] = errors.splitlines()
    assert sentence.startswith("lora-scaling: 2 of 2 runs did not finish: ")
    assert f"(not started: Slurm's job {number}_1 was cancelled before it began)" in sentence
    assert f"(interrupted: {record['error']})" in sentence
    assert record["run_id"] in out


def test_a_time_limit_is_recorded_as_such_with_what_was_measured(tmp_path: Path) -> None:
    words = ("-m", *TINY, *LONG, "samples=8", f"runs_dir={tmp_path}", *SMALL, "hydra.launcher.timeout_min=1")
    sweep = forked("lora_scaling", *words)
    _, errors = sweep.communicate(timeout=240)
    assert sweep.returncode == 1
    record = only_record(tmp_path)
    assert record["status"] == "interrupted"
    assert record["error"].startswith("Slurm's time limit of 00:01:00 ")
    assert "hydra.launcher.timeout_min=MINUTES" in record["error"]
    assert record["energy"]["joules"] > 0
    assert record["error"] in errors


def test_a_run_that_its_limit_ends_goes_on_in_the_same_job_if_asked(tmp_path: Path) -> None:
    """As `max_num_timeout` says: with checkpoints, each limit's share is kept, and the record is of all."""
    words = ("-m", *TINY, "samples=24", "epochs=9000", f"runs_dir={tmp_path}", *SMALL, "hydra.launcher.timeout_min=1")
    sweep = forked("lora_scaling", *words, "resume=auto", "hydra.launcher.max_num_timeout=1")
    wait_until(lambda: "PENDING" in queued().values() and bool(find_records([tmp_path])))
    [number] = queued()
    assert only_record(tmp_path)["error"].startswith("Slurm's time limit")
    assert slurm("squeue", "--noheader", "--format=%r").strip() == "BeginTime"  # that Slurm waits with, once requeued
    slurm("scancel", number)
    sweep.communicate(timeout=60)
    assert sweep.returncode == 1


def test_a_job_that_may_never_start_is_told_with_what_to_type_and_stays_findable(tmp_path: Path) -> None:
    """The partition `short` of `.ci/slurm` has a time limit of five minutes."""
    words = ("-m", *TINY, "samples=8", f"runs_dir={tmp_path}", *SMALL, "hydra.launcher.partition=short")
    sweep = forked("lora_scaling", *words)
    wait_until(lambda: "PartitionTimeLimit" in sweep.written(), timeout_s=60)
    [number] = {job.partition("_")[0] for job in queued()}
    [line] = [line for line in sweep.written().splitlines() if "PartitionTimeLimit" in line]
    assert line.startswith(f"Slurm: 1 run of job {number} waits, and may never start: PartitionTimeLimit; ")
    assert f"scancel {number}" in line
    assert "hydra.launcher.timeout_min" in line
    os.kill(sweep.pid, signal.SIGINT)
    out, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert f"Slurm: job {number} goes on; the same command waits for it again, scancel {number} ends it" in out
    assert list(queued()) == [f"{number}_0"]


def test_a_killed_commands_jobs_are_found_and_joined_by_the_same_command(tmp_path: Path) -> None:
    words = ("-m", *TINY, "samples=8,16", f"runs_dir={tmp_path}", *SMALL, ALONE)
    sweep = forked("lora_scaling", *words)
    wait_until(lambda: len(queued()) == 2)
    [number] = {job.partition("_")[0] for job in queued()}
    sweep.kill()
    done = command("lora_scaling", *words)
    assert done.returncode == 0, done.stderr
    assert f"Slurm: 2 runs of job {number} found in the queue\n" in done.stdout
    assert f"Slurm: job {number}" not in done.stdout
    records = [read_record(path) for path in find_records([tmp_path])]
    assert {record["provenance"]["slurm"]["array_job_id"] for record in records} == {number}
    assert len({record["provenance"]["slurm"]["array_task_id"] for record in records}) == 2


def test_two_commands_at_once_hand_in_one_array(tmp_path: Path) -> None:
    words = ("-m", *TINY, "samples=8,16", f"runs_dir={tmp_path}", *SMALL)
    sweeps = [forked("lora_scaling", *words) for _ in range(2)]
    outputs = [sweep.communicate(timeout=200) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], outputs
    records = [read_record(path) for path in find_records([tmp_path])]
    [number] = {record["provenance"]["slurm"]["array_job_id"] for record in records}
    told = sorted(line for out, _ in outputs for line in out.splitlines() if line.startswith("Slurm: "))
    assert told == [f"Slurm: 2 runs of job {number} found in the queue", f"Slurm: job {number}, 2 runs"]


def test_what_sbatch_refuses_is_one_sentence_with_the_setting_to_change(tmp_path: Path) -> None:
    words = ("-m", *TINY, "samples=8", f"runs_dir={tmp_path}", "hydra/launcher=slurm", "hydra.launcher.timeout_min=10")
    for setting, given, said in (
        ("gpus_per_node", "3", "Requested node configuration is not available"),
        ("gres", "tpu:1", "Invalid generic resource (gres) specification"),
        ("partition", "none", "invalid partition specified: none"),
        ("mem_gb", "4000", "emory"),
    ):
        done = command("lora_scaling", *words, f"hydra.launcher.{setting}={given}")
        [sentence] = done.stderr.splitlines()
        assert done.returncode == 2
        assert f"hydra.launcher.{setting}" in sentence.partition(": got")[0], sentence
        assert said in sentence
    assert queued() == {}


def test_a_job_that_is_requeued_in_mid_run_goes_on_from_its_checkpoint_to_one_record(tmp_path: Path) -> None:
    words = ("-m", *TINY, "epochs=60", "samples=24", "resume=auto", "checkpoint_minutes=0.01")
    sweep = forked("lora_scaling", *words, f"runs_dir={tmp_path}", *SMALL)
    wait_until(lambda: list(tmp_path.glob(f"default/*/{PARTS_NAME}/checkpoint-*")))
    [number] = queued()
    slurm("scontrol", "requeue", number)
    wait_until(lambda: queued().get(number) == "PENDING")
    slurm("scontrol", "update", f"jobid={number}", "starttime=now")  # Slurm would wait two minutes
    out, errors = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, errors
    record = only_record(tmp_path)
    assert out.count(record["run_id"]) == 1
    assert (record["status"], record["work"]["steps"]) == ("ok", 360)  # 60 epochs of 24 samples, four a step
    first, second = record["energy"]["parts"]
    assert 0 < second["first_step"] < 360
    assert first["joules"] + second["joules"] == pytest.approx(record["energy"]["joules"], abs=1e-3)
    assert record["provenance"]["slurm"]["restart_count"] == "1"
    # Slurm's count is of the last job, and so is our figure beside it.
    assert record["slurm_energy"]["measured_joules"] == pytest.approx(second["joules"], abs=1e-3)


def test_a_node_that_is_drained_keeps_the_jobs_waiting_until_it_resumes(tmp_path: Path) -> None:
    [node] = slurm("sinfo", "--noheader", "--format=%n").split()
    slurm("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        sweep = forked("lora_scaling", "-m", *TINY, "samples=8", f"runs_dir={tmp_path}", *SMALL)
        wait_until(lambda: "DRAINED" in sweep.written(), timeout_s=60)
    finally:
        slurm("scontrol", "update", f"nodename={node}", "state=resume")
    _, errors = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, errors


def test_an_adaptive_study_runs_within_a_job(tmp_path: Path) -> None:
    request = ["claim=linear_in_samples", "max_minutes=0.05", "samples=8,16,32,64", "device=cpu", "metering.idle_s=0"]
    program = [
        sys.executable,
        "-m",
        "lora_scaling.study",
        *request,
        "data.tokens_per_sample=24",
        f"runs_dir={tmp_path}",
    ]
    log = tmp_path / "log"
    slurm("sbatch", "--wait", f"--output={log}", "--wrap", shlex.join(program))
    assert "linear_in_samples undecided: the budget is spent" in log.read_text()
    records = [read_record(path) for path in find_records([tmp_path])]
    assert records
    assert all(record["provenance"]["slurm"]["job_id"].isdecimal() for record in records)
