"""Launchers carry the same sweep; runs on one device wait for each other, or say that they shared it."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from lora_scaling.config import compose, run_id
from lora_scaling.distributed import devices_held
from lora_scaling.records import find_records, read_record


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


@pytest.mark.slow
def test_every_launcher_gives_the_serial_sweeps_runs(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launchers = {"serial": [], "workers": ["hydra/launcher=workers"]}
    try:
        import hydra_plugins.hydra_submitit_launcher  # noqa: F401
    except ImportError:
        pass
    else:
        launchers["slurm_local"] = ["hydra/launcher=slurm_local"]
    started = {}
    for name, choice in launchers.items():
        command = [sys.executable, "-m", "lora_scaling", "-m", *TINY, "samples=8,16", f"runs_dir={tmp_path / name}"]
        started[name] = subprocess.Popen(
            [*command, *choice],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
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
