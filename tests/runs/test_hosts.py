"""A run on several hosts, as namespaces of this machine: the same work, each host counted once, and one host lost."""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import nvml_stub
from tests.support.hosts import NAMES, torchrun_on, two_hosts
from tests.support.nvml_stub import Law
from tests.support.processes import alone, wait_until
from tests.support.runs import TINY, Record, only_record

pytestmark = pytest.mark.hosts


@pytest.fixture(autouse=True)
def hosts() -> Iterator[None]:
    with two_hosts():
        yield


def on_both(runs_dir: Path, *overrides: str, processes: int = 1, env: Sequence[dict[str, str]] = ({}, {})) -> Record:
    sides = [torchrun_on(place, runs_dir, *TINY, *overrides, processes=processes, env=env[place]) for place in (0, 1)]
    try:
        for side in sides:
            _, errors = side.communicate(timeout=240)
            assert side.returncode == 0, errors
    finally:
        for side in sides:
            side.kill()
    return only_record(runs_dir)


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_hosts_do_the_work_of_one_process_and_each_is_counted_once(sharding: str, tmp_path: Path) -> None:
    two = on_both(tmp_path / "two", "gradient_accumulation=2", f"sharding={sharding}")
    one = alone(tmp_path / "one", "gradient_accumulation=2")
    assert (two["status"], two["world_size"]) == ("ok", 2)
    assert two["energy"]["host"] == ",".join(NAMES)
    for field in ("tokens_seen", "samples_seen", "steps"):
        assert two["work"][field] == one["work"][field]
    for field in ("train_loss", "eval_loss_after"):
        assert two["training"][field] == pytest.approx(one["training"][field], rel=1e-4)
    # The memory of both hosts, which is modelled as a constant power: twice the watts of one.
    watts = [r["energy"]["components"]["ram"]["joules"] / r["total_s"] for r in (one, two)]
    assert watts[1] == pytest.approx(2 * watts[0], rel=0.1)


@pytest.mark.skipif(not nvml_stub.have_compiler(), reason="needs gcc on Linux")
def test_each_gpu_of_each_host_is_counted_once_by_whichever_of_its_processes(tmp_path: Path) -> None:
    """Two stub GPUs in each host and two processes: 100 and 150 W, and 200 and 250 W, each under a name of its own."""
    watts = ((100.0, 150.0), (200.0, 250.0))
    names = tuple(tuple(f"GPU-{host}{place}000000-0000-0000-0000-000000000000" for place in (0, 1)) for host in (1, 2))
    places = []
    for host, (powers, uuids) in enumerate(zip(watts, names, strict=True)):
        laws = [Law(power=((0.0, power),), extras={"uuid": uuid}) for power, uuid in zip(powers, uuids, strict=True)]
        nvml_stub.write_laws(tmp_path / f"law{host}", laws)
        places.append(nvml_stub.environment(tmp_path / f"law{host}"))
    record = on_both(tmp_path / "runs", "gradient_accumulation=4", "metering.gpu_ids=[0,1]", processes=2, env=places)
    assert record["world_size"] == 4
    gpus = record["energy"]["components"]["gpu"]
    assert gpus["source"] == "nvml_counter"
    assert gpus["joules"] / record["total_s"] == pytest.approx(700, rel=0.1)  # one more or less is at least 14 %


def test_a_host_that_is_lost_ends_the_run_with_a_record(tmp_path: Path) -> None:
    sides = [torchrun_on(place, tmp_path, *TINY, "gradient_accumulation=2", "epochs=5000") for place in (0, 1)]
    try:
        wait_until(lambda: (tmp_path / "default").is_dir() and bool(list((tmp_path / "default").glob("*/run.json"))))
        os.killpg(sides[1].pid, signal.SIGKILL)  # torchrun, which takes its process with it
        _, errors = sides[0].communicate(timeout=120)
    finally:
        for side in sides:
            side.kill()
            side.communicate()
    assert sides[0].returncode != 0
    record = only_record(tmp_path)
    assert record["status"] in ("failed", "interrupted"), errors
