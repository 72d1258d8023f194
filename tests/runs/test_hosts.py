"""A run on several hosts, as namespaces of this machine: the same work, each host counted once, and one host lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts import NAMES, torchrun_on, two_hosts
from tests.support.processes import alone, wait_until
from tests.support.runs import TINY, Record, only_record

pytestmark = pytest.mark.hosts


@pytest.fixture(autouse=True)
def hosts() -> Iterator[None]:
    with two_hosts():
        yield


def on_both(runs_dir: Path, *overrides: str) -> Record:
    sides = [torchrun_on(place, runs_dir, *TINY, *overrides) for place in (0, 1)]
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
