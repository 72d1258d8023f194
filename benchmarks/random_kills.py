"""Kill commands at random moments, start the same command again, and check that nothing was lost, torn or left behind.

    python -m benchmarks.random_kills [--trials 60] [--first 0] [--only KIND] [--folder DIR] [--json]

A trial is one command in an empty folder: a run, a sweep, two sweeps of the same runs, a sweep on two workers, a run of
two ranks, an adaptive study, `emissions` or `report`. After a random time it receives SIGINT, SIGTERM or SIGKILL: the
command itself, one of its workers or ranks, or its whole process group. The number of the trial is its seed. Then:

- it ends, and without success unless it had finished (a signal that is swallowed shows here);
- no process is left after a few seconds, no lock is held, every file is whole;
- the same command makes what is missing, and nothing that was finished is made again;
- after SIGINT or SIGTERM every run that had begun is recorded, with its energy if a phase had been measured.

The smallest model and few samples: a trial takes 3 to 30 s, most of it the imports of the processes that are started.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lora_scaling.grid import read_timeline
from lora_scaling.records import TIMELINE_NAME, find_records, locked, read_record
from lora_scaling.runs.study import STATE_NAME
from tests.support.processes import ENVIRONMENT, Forked, free_port, run_module
from tests.support.runs import TINY

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
PATIENCE_S = 120.0  # until the rest of a launch has ended: torchrun gives its ranks 30 s
SWALLOWED_S = 8.0  # a command that went on for so long, and then succeeded, did not hear the signal
CUT = "the process ended before the run did"  # of a record that its run did not finish

Process = Forked | subprocess.Popen


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A command, whom a signal may hit, how long it takes about (s), and the number of runs that it leaves."""

    words: Callable[[Path], list[str]]
    targets: tuple[str, ...]
    seconds: float
    runs: int | None
    fork: bool = True  # from a process that has the libraries; otherwise it starts from nothing
    copies: int = 1


@dataclass(kw_only=True)
class Trial:
    """What became of one kill; `faults` are sentences."""

    number: int
    kind: str
    signal: str
    target: str
    after_s: float = 0.0
    status: int | None = None
    ended_s: float = 0.0
    finished_before: int = 0
    recorded: int = 0
    cut: int = 0
    faults: list[str] = field(default_factory=list)


def _sweep(folder: Path, samples: str, *more: str) -> list[str]:
    words = [*TINY, "exclusive_device=false", f"runs_dir={folder / 'runs'}", "study=s", f"samples={samples}", *more]
    return ["lora_scaling", "-m", *words]


KINDS = {
    "run": Kind(
        words=lambda folder: ["lora_scaling", *TINY, f"runs_dir={folder / 'runs'}", "study=s", "samples=64"],
        targets=("command", "group"), seconds=4, runs=1,
    ),
    "sweep": Kind(
        words=lambda folder: _sweep(folder, "16,24,32"), targets=("command", "group"), seconds=6, runs=3
    ),
    "two sweeps": Kind(
        words=lambda folder: _sweep(folder, "16,24,32"), targets=("command", "group"), seconds=6, runs=3, copies=2
    ),
    "workers": Kind(
        words=lambda folder: _sweep(folder, "64,72,80", "hydra/launcher=workers"),
        targets=("command", "group", "child"), seconds=16, runs=3, fork=False,
    ),
    "ranks": Kind(
        words=lambda folder: [
            "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), "-m", "lora_scaling",
            *TINY, f"runs_dir={folder / 'runs'}", "study=s", "samples=96", "gradient_accumulation=2",
        ],
        targets=("command", "group", "child"), seconds=18, runs=1, fork=False,
    ),
    "study": Kind(
        words=lambda folder: [
            "lora_scaling.study", "claim=linear_in_samples", "samples=8,16,32,64", "margin=0.4", "max_minutes=1",
            *TINY[1:], f"runs_dir={folder / 'runs'}", "study=s",
        ],
        targets=("command", "group"), seconds=12, runs=None,
    ),
    "emissions": Kind(
        words=lambda folder: ["lora_scaling.emissions", str(folder / "runs"), "grid.intensity_g_per_kwh=100"],
        targets=("command", "group"), seconds=1.5, runs=60, fork=False,
    ),
    "report": Kind(
        words=lambda folder: ["analysis", "report", str(folder / "runs"), "--out", str(folder / "report")],
        targets=("command", "group"), seconds=6, runs=60, fork=False,
    ),
}  # fmt: skip
ORDER = ("run", "sweep", "workers", "ranks", "study", "workers", "sweep", "emissions", "two sweeps", "report")


def kill_once(number: int, kind_name: str, folder: Path) -> Trial:
    """Carry out one trial in an empty folder."""
    draw = random.Random(number)
    kind = KINDS[kind_name]
    trial = Trial(
        number=number, kind=kind_name, signal=draw.choice(SIGNALS).name, target=draw.choice(kind.targets)
    )  # fmt: skip
    if kind_name in ("emissions", "report"):
        _copies_of_a_run(folder / "runs" / "s", kind.runs or 0)
    words = kind.words(folder)
    processes = [_start(kind, words, folder) for _ in range(kind.copies)]
    started = time.monotonic()
    if draw.random() < 0.7 and kind.runs != 60:  # most of the kills hit a run, the others what comes before
        _wait(lambda: _records(folder) or not _alive(processes[0]), PATIENCE_S)
        time.sleep(draw.uniform(0, kind.seconds / 2))
    else:
        time.sleep(draw.uniform(0, kind.seconds))
    before = {r["run_id"]: r["finished_at"] for r in _records(folder) if r["status"] == "ok"}
    trial.finished_before = len(before)
    family = _family(processes[0])
    hit = time.monotonic()
    trial.after_s = hit - started
    _send(signal.Signals[trial.signal], trial.target, processes[0], family, draw)
    trial.status = _end(processes[0])
    trial.ended_s = time.monotonic() - hit
    for other in processes[1:]:
        _end(other)
    if trial.status is None:
        trial.faults.append("the command did not end")
    elif trial.status == 0 and trial.ended_s > SWALLOWED_S:
        trial.faults.append("the signal was swallowed")
    if not _wait(lambda: not _running(family), 10):
        trial.faults.append(f"orphans: {_running(family)}")
        for process in family:
            _kill(process)
    _check_files(trial, folder)
    if trial.signal != "SIGKILL" and trial.cut:
        trial.faults.append(f"{trial.cut} interrupted runs are not recorded")
    text = _output(processes[0], folder)
    if (
        "Traceback" in text
        and trial.status != -signal.SIGINT
        and not ("ChildFailedError" in text or "SignalException" in text)
    ):  # torchrun's own
        trial.faults.append(f"traceback: {text.strip().splitlines()[-1]}")
    _finish(trial, kind, words, folder, before)
    return trial


def _finish(trial: Trial, kind: Kind, words: Sequence[str], folder: Path, before: dict[str, str]) -> None:
    """Start the same command again and check what it leaves."""
    again = _start(kind, [str(free_port()) if word.isdecimal() and len(word) == 5 else word for word in words], folder)
    status = _end(again, 300)
    if status != 0:
        trial.faults.append(f"the same command again: status {status}: {_output(again, folder)[-300:]}")
    _check_files(trial, folder, finished=True)
    records = _records(folder)
    if any(record["status"] != "ok" for record in records):
        trial.faults.append("not all runs are finished")
    if kind.runs is not None and len(records) != kind.runs:
        trial.faults.append(f"{len(records)} runs in place of {kind.runs}")
    if len({record["run_id"] for record in records}) != len(records):
        trial.faults.append("a run was made twice")
    after = {record["run_id"]: record["finished_at"] for record in records}
    if any(after.get(name) != when for name, when in before.items()):
        trial.faults.append("a finished run was made again")
    if trial.kind == "emissions":
        for record in records:
            found = (record["emissions"]["intensity_g_per_kwh"], len(record.get("emissions_history") or []))
            if not math.isclose(found[0], 100) or found[1] != 1:
                trial.faults.append(f"grams were not computed exactly once: intensity and revisions before are {found}")
                break


def _start(kind: Kind, words: Sequence[str], folder: Path) -> Process:
    if kind.fork:
        return Forked(run_module, list(words))
    with open(folder / "out", "w", encoding="utf-8") as out:
        return subprocess.Popen(
            [sys.executable, "-m", *words], stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, **ENVIRONMENT}, preexec_fn=_keyboard_handler,
        )  # fmt: skip


def _keyboard_handler() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it


def _output(process: Process, folder: Path) -> str:
    if isinstance(process, Forked):
        return process.communicate(10)[1]
    return (folder / "out").read_text(encoding="utf-8")


def _send(number: int, target: str, process: Process, family: Sequence[psutil.Process], draw: random.Random) -> None:
    workers = [each for each in family if each.pid != process.pid and _is_worker(each)]
    with contextlib.suppress(ProcessLookupError):  # it has finished
        if target == "group":
            os.killpg(process.pid, number)
        else:
            os.kill(draw.choice(workers).pid if target == "child" and workers else process.pid, number)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _family(process: Process) -> list[psutil.Process]:
    try:
        head = psutil.Process(process.pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _running(family: Sequence[psutil.Process]) -> list[str]:
    running = []
    for process in family:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                running.append(" ".join(process.cmdline())[:80])
        except psutil.Error:
            continue
    return running


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()


def _alive(process: Process) -> bool:
    return bool(_running(_family(process)[:1]))


def _end(process: Process, patience_s: float = PATIENCE_S) -> int | None:
    """Wait for the end of a process; return its status, or None after having killed it."""
    try:
        if isinstance(process, Forked):
            process.communicate(patience_s)
        else:
            process.wait(patience_s)
    except subprocess.TimeoutExpired:
        for each in _family(process):
            _kill(each)
        return None
    return process.returncode


def _records(folder: Path) -> list[dict[str, Any]]:
    return [dict(read_record(path)) for path in find_records([folder])]


def _check_files(trial: Trial, folder: Path, *, finished: bool = False) -> None:
    """Read all that is there: every file is whole, and no lock is held."""
    for path in find_records([folder]):
        record: Any = read_record(path)  # raises for one that is torn
        energy = record.get("energy") or {}
        if (path.parent / TIMELINE_NAME).exists():
            bins = read_timeline(path.parent / TIMELINE_NAME)
            if record["status"] == "ok" and abs(sum(b.joules for b in bins) - energy["joules"]) > 0.5:
                trial.faults.append(f"{path.parent.name}: the timeline is not that of the record")
        if not finished:
            trial.cut += record["error"] == CUT
            trial.recorded += record["status"] == "interrupted" and record["error"] != CUT
    for lock in folder.rglob(".lock"):
        with locked(lock.parent) as free:
            if not free:
                trial.faults.append(f"{lock}: still held")
    for state in folder.rglob(STATE_NAME):
        json.loads(state.read_text(encoding="utf-8"))
    page = folder / "report" / "report.html"
    if page.exists() and not page.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        trial.faults.append("half a report")
    if finished and (left := list(folder.rglob(".*.tmp"))):
        trial.faults.append(f"temporary files: {[str(path) for path in left]}")


def _copies_of_a_run(folder: Path, count: int) -> None:
    """Fill a study with finished runs of different sizes, made from one real run."""
    with tempfile.TemporaryDirectory() as made:
        run = Forked(run_module, ["lora_scaling", *TINY, f"runs_dir={made}", "study=s"])
        run.communicate(100)
        [path] = find_records([made])
        record, timeline = json.loads(path.read_text()), (path.parent / TIMELINE_NAME).read_text()
    for number in range(count):
        copy = folder / f"run-{number}"
        copy.mkdir(parents=True)
        samples = 24 * 2 ** (number % 4)
        named = {**record, "run_id": copy.name, "config": {**record["config"], "samples": samples}, "order": number}
        (copy / "run.json").write_text(json.dumps(named), encoding="utf-8")
        (copy / TIMELINE_NAME).write_text(timeline, encoding="utf-8")


def _wait(condition: Callable[[], Any], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def main(words: Sequence[str] | None = None) -> int:
    """Carry out the trials and print a line for each, and a table of all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.random_kills", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="the number (seed) of the first trial")
    parser.add_argument("--only", choices=sorted(KINDS), help="one kind of command")
    parser.add_argument("--max-s", type=float, help="begin no further trial after so many seconds")
    parser.add_argument("--json", action="store_true", help="one JSON document for each trial")
    args = parser.parse_args(words)
    trials: list[Trial] = []
    started = time.monotonic()
    for number in range(args.first, args.first + args.trials):
        if args.max_s is not None and time.monotonic() - started > args.max_s:
            break
        kind = args.only or ORDER[number % len(ORDER)]
        with tempfile.TemporaryDirectory(prefix="random-kills-") as folder:
            trial = kill_once(number, kind, Path(folder))
        trials.append(trial)
        if args.json:
            print(json.dumps(dataclasses.asdict(trial)), flush=True)
        else:
            print(
                f"{trial.number:3} {trial.kind:10} {trial.signal:7} to {trial.target:7} after {trial.after_s:4.1f} s: "
                f"status {trial.status}, ended in {trial.ended_s:.1f} s, {trial.finished_before} finished, "
                f"{trial.recorded} recorded, {trial.cut} cut; {'; '.join(trial.faults) or 'nothing wrong'}",
                flush=True,
            )
    if not args.json:
        print(f"{len(trials)} kills, {sum(bool(trial.faults) for trial in trials)} with faults")
    return int(any(trial.faults for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
