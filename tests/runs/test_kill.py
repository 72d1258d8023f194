"""kill -9 at random moments of a sweep that two processes share: nothing lost, nothing counted twice.

`python tests/runs/test_kill.py 20 FOLDER` does it twenty times and prints what it found.
"""

import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lora_scaling.records import find_records, locked
from tests.support.processes import Forked, forked, wait_until
from tests.support.runs import TINY, read_record

SWEEP = ("samples=8,16", "eval_samples=0", "exclusive_device=false")


def start(runs_dir: Path, replicates: int) -> Forked:
    """One of the workers."""
    return forked("lora_scaling", "-m", *TINY, *SWEEP, f"runs_dir={runs_dir}", "study=s", f"replicates={replicates}")


def underway(runs_dir: Path) -> bool:
    """Whether a run has begun that has not ended."""
    return any(read_record(path)["status"] == "interrupted" for path in find_records([runs_dir]))


def killed_and_finished(runs_dir: Path, kills: int, replicates: int, seed: int = 0) -> Counter[str]:
    """Kill one of two workers `kills` times, each at a random moment; finish; return the statuses of the runs.

    `cut` counts the kills that hit a run underway.
    """
    draw = random.Random(seed)
    finished_before: dict[str, str] = {}
    cut: set[str] = set()
    workers = [start(runs_dir, replicates), start(runs_dir, replicates)]
    try:
        for _ in range(kills):
            wait_until(lambda: underway(runs_dir))
            time.sleep(draw.uniform(0, 1))
            place = draw.randrange(2)
            workers[place].kill()
            for path in find_records([runs_dir]):  # every record is whole at every moment
                record = read_record(path)
                if record["status"] == "ok":  # and what was finished stays as it was
                    assert finished_before.setdefault(record["run_id"], record["finished_at"]) == record["finished_at"]
                else:  # nobody holds it: the one that was killed left it
                    with locked(path.parent) as free:
                        if free:
                            cut.add(record["started_at"])
            workers[place] = start(runs_dir, replicates)
    finally:
        for worker in workers:
            worker.kill()
    last = start(runs_dir, replicates)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    records = [read_record(path) for path in find_records([runs_dir])]
    assert len({record["run_id"] for record in records}) == len(records)
    for run_id, finished_at in finished_before.items():
        [record] = [r for r in records if r["run_id"] == run_id]
        assert record["finished_at"] == finished_at
    for path in find_records([runs_dir]):
        with locked(path.parent) as free:
            assert free
    return Counter(record["status"] for record in records) + Counter(cut=len(cut))


@pytest.mark.slow
def test_every_run_is_finished_once_after_kills(tmp_path: Path) -> None:
    found = killed_and_finished(tmp_path, kills=3, replicates=4)
    assert {status: count for status, count in found.items() if status != "cut"} == {"ok": 8}
    assert not list(tmp_path.rglob("run.json.*"))


if __name__ == "__main__":
    print(dict(killed_and_finished(Path(sys.argv[2]), int(sys.argv[1]), replicates=2 * int(sys.argv[1]))))
