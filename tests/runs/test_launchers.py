"""Launchers carry the same sweep; runs on one device wait for each other, or say that they shared it."""

import itertools
import math
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lora_scaling.config import compose, run_id
from lora_scaling.errors import UnwritableError, UserError
from lora_scaling.estimate import estimate
from lora_scaling.ranks import local_rank, local_world_size, rank, world_size
from lora_scaling.records import find_records
from lora_scaling.runs.device_locks import devices_held
from lora_scaling.runs.slurm_queue import refusal, why_it_waits
from lora_scaling.runs.sweep import check_run_limits
from tests.support.commands import Done, command
from tests.support.processes import forked
from tests.support.runs import TINY, read_record


@contextmanager
def another_process(folder: Path, *, wait: bool) -> Iterator[int]:
    """A process that holds the device `gpu`; yields its id."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold() -> None:
        with devices_held(["gpu"], wait=wait, folder=folder):
            ready.set()
            time.sleep(600)

    process = context.Process(target=hold)
    process.start()
    assert ready.wait(20)
    assert process.pid is not None
    try:
        yield process.pid
    finally:
        process.kill()
        process.join()


def test_a_device_is_held_by_one_run_and_free_again_when_its_process_is_killed(tmp_path: Path) -> None:
    with another_process(tmp_path, wait=True) as pid:
        with devices_held(["other"], wait=True, folder=tmp_path) as alone:
            assert alone()
        waited = []

        def waiting() -> None:
            waited.append(True)
            os.kill(pid, signal.SIGKILL)

        with devices_held(["gpu", "other"], wait=True, waiting=waiting, folder=tmp_path) as alone:
            assert waited == [True]
            assert alone()


def test_who_does_not_wait_is_told_that_the_device_was_shared(tmp_path: Path) -> None:
    with another_process(tmp_path, wait=False) as pid:
        with devices_held(["gpu"], wait=False, folder=tmp_path) as alone:
            assert not alone()
        os.kill(pid, signal.SIGKILL)
    with devices_held(["gpu"], wait=False, folder=tmp_path) as alone:
        assert alone()


def test_waiting_for_the_device_is_no_part_of_the_work() -> None:
    assert run_id(compose(["exclusive_device=false"])) == run_id(compose([]))


def outcome(runs_dir: Path) -> dict[str, tuple[Any, ...]]:
    """By run id: what must not depend on who carried the run."""
    records = [read_record(path) for path in find_records([runs_dir])]
    return {
        r["run_id"]: (
            r["status"],
            r["work"]["tokens_seen"],
            r["work"]["steps"],
            r["training"]["train_loss"],
            r["training"]["eval_loss_after"],
        )
        for r in records
    }


def submitted(folder: Path, *overrides: str) -> tuple[str, Done]:
    """What a sweep hands to a Slurm whose `sbatch` keeps the script and refuses it; and how the sweep ended."""
    script = folder / "submitted"
    for name, text in (("sbatch", f'cp "$1" {script}; exit 1'), ("squeue", "exit 1")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    words = ("-m", "hydra/launcher=slurm", "model=llama-3.1-8b", f"runs_dir={folder / 'runs'}", *overrides)
    ended = command("lora_scaling", *words, env={"PATH": f"{folder}:{os.environ['PATH']}"})
    return (script.read_text() if script.exists() else ""), ended


def test_slurm_jobs_get_the_time_that_the_longest_run_may_take(tmp_path: Path) -> None:
    script, ended = submitted(tmp_path, "hardware=a100-80gb", "samples=1000,100000")
    longest = estimate(compose(["model=llama-3.1-8b", "samples=100000", "hardware=a100-80gb"])).time_s
    assert longest is not None
    minutes = math.ceil(1.5 * longest.high / 60)
    assert minutes > 10
    assert f"#SBATCH --time={minutes}\n" in script, ended.stderr
    assert f"Time limit of each job: {minutes} min" in ended.stdout


def test_a_short_slurm_job_gets_ten_minutes_and_a_stated_limit_is_kept(tmp_path: Path) -> None:
    script, ended = submitted(tmp_path, "hardware=a100-80gb", "samples=8")
    assert "#SBATCH --time=10\n" in script, ended.stderr
    script, ended = submitted(tmp_path, "hydra.launcher.timeout_min=77")
    assert "#SBATCH --time=77\n" in script, ended.stderr
    assert "Time limit" not in ended.stdout


@pytest.mark.parametrize("hardware", ["auto", "custom"])
def test_a_limit_that_cannot_be_known_is_asked_for(tmp_path: Path, hardware: str) -> None:
    script, ended = submitted(tmp_path, f"hardware={hardware}")
    assert (script, ended.returncode) == ("", 2)
    [sentence] = ended.stderr.splitlines()
    assert sentence.startswith("lora-scaling: hydra.launcher.timeout_min: got null")
    assert sentence.endswith("give hydra.launcher.timeout_min=MINUTES")


def test_the_login_nodes_processor_says_nothing_of_jobs_elsewhere(tmp_path: Path) -> None:
    """Neither a cost nor a limit is of this machine, where the jobs do not run."""
    script, ended = submitted(tmp_path, "max_kwh=1000", "hydra.launcher.timeout_min=77")
    assert (script, ended.returncode) == ("", 2)
    assert "max_kwh: got 1000.0; the cost of this sweep is unknown" in ended.stderr
    assert "name their device, such as hardware=a100-80gb; or drop max_kwh" in ended.stderr
    script, ended = submitted(tmp_path, "hydra.launcher.timeout_min=77")
    assert "#SBATCH --time=77\n" in script, ended.stderr
    assert "Expected cost unknown: hardware=auto is this machine, and the jobs run on others\n" in ended.stdout
    script, ended = submitted(tmp_path, "hardware=a100-80gb", "max_kwh=1000")
    assert "#SBATCH --time=" in script, ended.stderr


def test_a_limit_is_that_of_all_processes_of_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    job = ["hardware=l4", "model=llama-3.2-1b", "samples=50000", "gradient_accumulation=4"]
    alone, four = (estimate(compose([*job, f"hardware.count={count}"])).time_s for count in (1, 4))
    assert alone is not None
    assert four is not None
    assert four.estimate < alone.estimate / 2
    config = compose([*job, f"max_hours={alone.estimate / 2 / 3600}"])
    with pytest.raises(UserError, match=f"this run is expected to take {alone.estimate / 3600:.3g} h"):
        check_run_limits(config)
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_run_limits(config)


@pytest.mark.slow
def test_every_launcher_gives_the_serial_sweeps_runs(tmp_path: Path) -> None:
    launchers = {"serial": [], "workers": ["hydra/launcher=workers"]}
    try:
        import hydra_plugins.hydra_submitit_launcher  # noqa: F401
    except ImportError:
        pass
    else:
        launchers["slurm_local"] = ["hydra/launcher=slurm_local"]
    started = {
        name: forked("lora_scaling", "-m", *TINY, "samples=8,16", f"runs_dir={tmp_path / name}", *choice)
        for name, choice in launchers.items()
    }
    for name, process in started.items():
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, (name, errors)
    serial = outcome(tmp_path / "serial")
    assert [values[0] for values in serial.values()] == ["ok", "ok"]
    for name in launchers:
        assert outcome(tmp_path / name) == serial, name
        spans = sorted(
            (phase["started_at"], phase["ended_at"])
            for path in find_records([tmp_path / name])
            for phase in read_record(path)["energy"]["phases"]
        )
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), name


def test_a_file_in_place_of_the_folder_of_locks_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    folder.write_text("")
    refused = pytest.raises(UnwritableError, match=r"cannot hold the locks.*set TMPDIR")
    with refused, devices_held(["gpu"], wait=True, folder=folder):
        pass
    assert folder.read_text() == ""


@pytest.mark.parametrize("text", ["", " ", None])
def test_launcher_variables_that_are_empty_are_unset(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
        if text is not None:
            monkeypatch.setenv(variable, text)
    assert (world_size(), rank(), local_rank(), local_world_size()) == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("given", "local"),
    [
        ({"LOCAL_RANK": "3", "SLURM_LOCALID": "1"}, 3),
        ({"SLURM_LOCALID": "2"}, 2),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "1"}, 1),
    ],
)
def test_the_place_of_a_rank_on_its_host_is_that_of_its_launcher(
    given: dict[str, str], local: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_LOCALID"):
        monkeypatch.delenv(variable, raising=False)
    for variable, text in {"WORLD_SIZE": "8", "SLURM_NTASKS_PER_NODE": "4", **given}.items():
        monkeypatch.setenv(variable, text)
    assert (local_rank(), local_world_size()) == (local, 4)


def test_several_processes_without_a_place_are_refused_and_do_not_all_use_the_first_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(UserError, match="LOCAL_RANK: missing while WORLD_SIZE is 8; have the launcher set it"):
        local_rank()


def test_launcher_variables_that_are_no_number_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UserError, match="WORLD_SIZE: got 'two'"):
        world_size()


@pytest.mark.parametrize(
    ("setting", "got"),
    [
        ("timeout_min=abc", "abc; give a whole number of 1 or more"),
        ("array_parallelism=0", "0; give a whole number of 1 or more"),
        ("mem_gb=lots", "lots; give a number of GB, or 0 for all of a node's"),
        ('comment="a\nrm -r runs"', r"'a\nrm -r runs'; give it on one line, without control characters"),
    ],
)
def test_a_slurm_setting_that_is_none_is_refused_before_anything_is_handed_in(
    tmp_path: Path, setting: str, got: str
) -> None:
    script, ended = submitted(tmp_path, "hydra.launcher.timeout_min=5", f"hydra.launcher.{setting}")
    assert (script, ended.returncode) == ("", 2)
    assert ended.stderr == f"lora-scaling: hydra.launcher.{setting.partition('=')[0]}: got {got}\n"


@pytest.mark.parametrize(
    ("words", "settings", "field"),
    [  # in the words of Slurm 22.05
        ("Batch job submission failed: Requested node configuration is not available", {"gres": "gpu:9"}, "gres"),
        ("Invalid --mem-per-cpu specification", {"mem_per_cpu": "lots"}, "mem_per_cpu"),
        ("Invalid --time specification", {"timeout_min": 9}, "timeout_min"),
        ("Requested reservation is invalid", {"reservation": "none"}, "additional_parameters"),
        ("Invalid license specification", {"licenses": "matlab:1"}, "additional_parameters"),
        ("Invalid node name specified", {"nodelist": "zzz"}, "additional_parameters"),
        (
            "unrecognized option '--foo=1'; Try \"sbatch --help\" for more information",
            {"foo": 1},
            "additional_parameters",
        ),
    ],
)
def test_a_refusal_names_the_setting_that_it_is_about(words: str, settings: dict[str, object], field: str) -> None:
    given = {"additional_parameters": settings} if field == "additional_parameters" else settings
    [(name, value)] = settings.items()
    got = f"{name}={value}" if field == "additional_parameters" else value
    assert refusal(words, {"account": "mine", **given}).startswith(
        f"hydra.launcher.{field}: got {got}; sbatch refuses "
    )


def test_why_a_job_waits_names_the_settings_that_are_set() -> None:
    given = {"cpus_per_task": 100, "mem_gb": None, "gpus_per_node": None, "timeout_min": 10}
    line = why_it_waits("PartitionConfig", 2, "12", given)
    assert line is not None
    assert re.findall(r"hydra\.launcher\.(\w+)", line) == ["cpus_per_task", "timeout_min"]
    assert why_it_waits("Priority", 2, "12", given) is None
