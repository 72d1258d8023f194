"""Sweeps on a real Ray, of this machine alone, in the environment of `.ci/ray`."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from lora_scaling.records import find_records
from tests.runs.test_launchers import outcome
from tests.support.commands import command
from tests.support.processes import forked, wait_until
from tests.support.runs import TINY, read_record

pytestmark = pytest.mark.ray

RAY = ("hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2")


@pytest.fixture(autouse=True)
def ray() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: bash .ci/ray installs and tests it")


def test_two_workers_give_the_serial_sweeps_runs(tmp_path: Path) -> None:
    words = ("-m", *TINY, "samples=8,16,24")
    serial = forked("lora_scaling", *words, f"runs_dir={tmp_path / 'serial'}")
    rayed = forked("lora_scaling", *words, *RAY, f"runs_dir={tmp_path / 'ray'}")
    for sweep in (serial, rayed):
        _, errors = sweep.communicate(timeout=300)
        assert sweep.returncode == 0, errors
    assert outcome(tmp_path / "ray") == outcome(tmp_path / "serial")
    records = [read_record(path) for path in find_records([tmp_path / "ray"])]
    assert all(record["provenance"]["command"][:4] == ["python", "-m", "lora_scaling", "-m"] for record in records)


def test_a_worker_that_is_killed_loses_its_own_run_only(tmp_path: Path) -> None:
    words = ("-m", *TINY, "epochs=2,9000", "samples=8", "exclusive_device=false", *RAY, f"runs_dir={tmp_path}")
    sweep = forked("lora_scaling", *words)

    def statuses() -> list[tuple[int, str]]:
        records = [read_record(path) for path in find_records([tmp_path])]
        return sorted((record["config"]["epochs"], record["status"]) for record in records)

    wait_until(lambda: statuses() == [(2, "ok"), (9000, "interrupted")])
    workers = [
        process
        for process in psutil.Process(sweep.pid).children(recursive=True)
        if process.name().startswith("ray::_run")
    ]
    assert len(workers) == 1
    workers[0].send_signal(signal.SIGKILL)
    _, errors = sweep.communicate(timeout=100)
    assert sweep.returncode == 1
    sentence = errors.splitlines()[-1]
    assert sentence.startswith("lora-scaling: 1 of 2 runs did not finish: ")
    assert "its worker of Ray died" in sentence
    assert statuses() == [(2, "ok"), (9000, "interrupted")]


def test_ctrl_c_records_the_runs_underway(tmp_path: Path) -> None:
    words = ("-m", *TINY, "epochs=9000", "samples=8", *RAY, f"runs_dir={tmp_path}")
    sweep = forked("lora_scaling", *words)
    wait_until(lambda: bool(find_records([tmp_path])))
    os.kill(sweep.pid, signal.SIGINT)
    sweep.communicate(timeout=100)
    assert sweep.returncode == 130
    [path] = find_records([tmp_path])
    record = read_record(path)
    assert record["status"] == "interrupted"
    assert record["finished_at"] is not None


def test_what_ray_does_not_have_is_one_sentence(tmp_path: Path) -> None:
    done = command("lora_scaling", "-m", *TINY, *RAY, "hydra.launcher.ray.remote.num_gpus=4", f"runs_dir={tmp_path}")
    assert done.returncode == 2
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("lora-scaling: hydra.launcher.ray.remote.num_gpus: got 4; Ray has 0 here")
