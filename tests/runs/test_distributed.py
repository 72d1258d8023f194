"""Several processes of one run: the same work and loss as one, its energy once, its record once."""

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from lora_scaling.config import compose
from lora_scaling.runs.run import run
from tests.support import nvml_stub
from tests.support.processes import alone, torchrun, two_ranks, wait_until
from tests.support.runs import TINY, Record, only_record, read_record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, str]:
    """The record of a run in two processes of torchrun, and what they printed; each has a GPU, if one can be made."""
    folder = tmp_path_factory.mktemp("two")
    overrides, env = ["gradient_accumulation=2", "epochs=2"], {}
    if nvml_stub.have_compiler():
        # Two more GPUs are other people's. The processes compute on the CPU, and measure no GPU that is not named.
        laws = [nvml_stub.Law(power=((time.time() - 5, watts),)) for watts in (100.0, 250.0, 700.0, 700.0)]
        nvml_stub.write_laws(folder / "law", laws)
        overrides, env = [*overrides, "metering.gpu_ids=[0,1]"], dict(nvml_stub.environment(folder / "law"))
    process = torchrun(folder / "runs", *overrides, env=env)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return only_record(folder / "runs"), output


def test_two_processes_do_the_work_of_one_with_twice_the_accumulation(two: tuple[Record, str], tmp_path: Path) -> None:
    record, output = two
    one = alone(tmp_path, "gradient_accumulation=2", "epochs=2")
    assert len([line for line in output.splitlines() if one["run_id"] in line]) == 1  # one process speaks
    assert (one["world_size"], record["world_size"]) == (1, 2)
    assert one["run_id"] == record["run_id"]
    for field in ("tokens_seen", "samples_seen", "steps"):
        assert record["work"][field] == one["work"][field]
    for field in ("train_loss", "eval_loss_before", "eval_loss_after"):
        assert record["training"][field] == pytest.approx(one["training"][field], rel=1e-4)
    assert record["energy"]["conditions"]["processes"] == 2
    # The host's CPU and RAM once: no more watts than one process is said to draw.
    watts = [r["energy"]["components"]["ram"]["joules"] / r["total_s"] for r in (one, record)]
    assert watts[1] == pytest.approx(watts[0], rel=0.3)


@pytest.mark.skipif(not nvml_stub.have_compiler(), reason="needs gcc on Linux")
def test_two_gpus_of_two_processes_count_once_each(two: tuple[Record, str]) -> None:
    for phase in two[0]["energy"]["phases"]:
        assert [gpu["index"] for gpu in phase["gpus"]] == [0, 1]
        assert phase["components"]["gpu"]["joules"] == pytest.approx(sum(gpu["joules"] for gpu in phase["gpus"]))


def test_a_batch_that_the_processes_cannot_share_is_refused_once(tmp_path: Path) -> None:
    status, _, errors = two_ranks(tmp_path, "gradient_accumulation=3")
    assert status == 2
    assert errors.count("lora-scaling: gradient_accumulation: got 3; 2 processes share it") == 1
    assert only_record(tmp_path)["status"] == "failed"


def test_two_launchers_of_one_run_on_one_host_hold_its_device_once(tmp_path: Path) -> None:
    """As `torchrun --nnodes 2` twice on a host: each starts a first process, and both wanted the lock of the device."""
    # Dropout on a CPU draws from the same random numbers as the order of the next epoch, in each process others.
    overrides = ("gradient_accumulation=2", "epochs=2", "lora.dropout=0.1", "data.tokens_cv=0.5")
    status, _, errors = two_ranks(tmp_path / "two", *overrides, agents=2)
    assert status == 0, errors
    record = only_record(tmp_path / "two")
    assert record["status"] == "ok"
    one = read_record(run(compose([*TINY, *overrides, f"runs_dir={tmp_path / 'one'}"])).path)
    assert record["work"]["tokens_seen"] == one["work"]["tokens_seen"]
    assert "shared_device" not in {warning["kind"] for warning in record["warnings"]}
    assert record["energy"]["host"] == socket.gethostname()


def test_a_folder_that_cannot_be_written_is_told_once_and_not_by_tracebacks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, errors = two_ranks(tmp_path / "file", "gradient_accumulation=2")
    assert status == 2
    assert errors.count("lora-scaling: runs_dir:") == 1
    assert "Traceback" not in errors


def test_a_killed_process_ends_the_run_instead_of_hanging_it(tmp_path: Path) -> None:
    trains = tmp_path / "trains"
    process = torchrun(tmp_path, "gradient_accumulation=2", "epochs=2000", "exclusive_device=false", trains=trains)
    wait_until(trains.exists)
    ranks = psutil.Process(process.pid).children()
    [second] = [rank for rank in ranks if rank.environ().get("RANK") == "1"]
    second.send_signal(signal.SIGKILL)
    process.communicate(timeout=90)
    assert process.returncode != 0
    record = only_record(tmp_path)
    assert record["status"] in ("failed", "interrupted")
    if record["status"] == "failed":  # gloo noticed before the launcher
        assert record["error"].startswith("another of the run's 2 processes was lost")


def test_ctrl_c_ends_all_processes_and_leaves_an_interrupted_record(tmp_path: Path) -> None:
    trains = tmp_path / "trains"
    process = torchrun(tmp_path, "gradient_accumulation=2", "epochs=2000", "exclusive_device=false", trains=trains)
    wait_until(trains.exists)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=40)
    assert process.returncode != 0
    record = only_record(tmp_path)
    assert (record["status"], record["error"]) == ("interrupted", "interrupted from the keyboard")
    assert errors.count("lora-scaling: interrupted") == 1
    assert record["energy"]["joules"] > 0
