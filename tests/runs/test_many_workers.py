"""200 workers start one sweep at the same moment, as on many hosts: nothing is made twice, and nobody polls."""

import fcntl
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lora_scaling.config import RunConfig, compose
from lora_scaling.records import doubts_about_locks, find_records
from lora_scaling.runs.run import run
from tests.support.processes import Forked, wait_until
from tests.support.runs import TINY, read_record

pytestmark = pytest.mark.simulation

WORKERS, RUNS = 200, 8
WORDS = (*TINY, "exclusive_device=false")
ASKED = 3  # times at most that a worker opens something of a run which another one makes


def _work(runs_dir: Path, notes: Path, number: int, configs: Sequence[RunConfig]) -> None:
    """What each process does with a sweep once it is planned, counting what it asks of the shared folder."""
    opened: dict[str, int] = {}

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(str(runs_dir)):
            run = Path(str(arguments[0])).relative_to(runs_dir).parts[1:2]
            opened["/".join(run)] = opened.get("/".join(run), 0) + 1

    (notes / f"{number}.ready").touch()
    with open(notes / "start") as start:
        fcntl.flock(start, fcntl.LOCK_SH)  # all begin at once
    sys.addaudithook(count)
    doubt = doubts_about_locks(runs_dir / "default")
    made = [outcome.path.parent.name for outcome in map(run, configs) if outcome.skipped is None]
    text = json.dumps({"made": made, "opened": opened, "doubt": doubt})
    (notes / f"{number}.json").write_text(text)


def test_two_hundred_workers_make_each_run_once_and_ask_little_of_the_folder(tmp_path: Path) -> None:
    runs_dir, notes = tmp_path / "runs", tmp_path / "notes"
    notes.mkdir()
    configs = [compose([*WORDS, f"samples={4 * n}", f"runs_dir={runs_dir}"]) for n in range(1, RUNS + 1)]
    with open(notes / "start", "w") as start:
        fcntl.flock(start, fcntl.LOCK_EX)
        workers = [Forked(_work, runs_dir, notes, number, configs) for number in range(WORKERS)]
        wait_until(lambda: len(list(notes.glob("*.ready"))) == WORKERS)
        fcntl.flock(start, fcntl.LOCK_UN)
    failures = [errors for worker in workers if (errors := worker.communicate(timeout=300)[1])]
    assert [worker.returncode for worker in workers] == [0] * WORKERS, failures[:3]
    told = [json.loads(path.read_text()) for path in notes.glob("*.json")]
    made = [name for each in told for name in each["made"]]
    records = [read_record(path) for path in find_records([runs_dir])]
    assert sorted(made) == sorted(record["run_id"] for record in records)
    assert len(set(made)) == RUNS
    assert all(record["status"] == "ok" for record in records)
    assert {each["doubt"] for each in told} == {None}
    for each in told:
        if not each["made"]:
            assert max(each["opened"].values()) <= ASKED, each
