"""The processes of `hydra/launcher=workers` end in order: interrupted runs are recorded, others are not disturbed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
from omegaconf import OmegaConf

from lora_scaling.errors import UserError
from lora_scaling.runs.workers import WorkersLauncher
from tests.support.processes import wait_until

# The sweep as the command starts it, of runs that only wait: the folder of a run says what became of it.
SWEEP = """
import os, sys, time
from pathlib import Path

import hydra

from lora_scaling.commands.cli import command
from lora_scaling.config import register_plugins
from lora_scaling.paths import config_dir
from lora_scaling.runs.sweep import register_sweeper


def task(config):
    run = Path(config.runs_dir) / str(config.samples)
    run.mkdir(parents=True)
    try:
        (run / "pid").write_text(str(os.getpid()))
        while not (run.parent / "go on").exists():
            time.sleep(0.01)
        (run / "done").touch()
    except KeyboardInterrupt:
        time.sleep(0.3)  # recording takes its time
        (run / "recorded").touch()
        raise


@command()
def main(words):
    sys.argv[1:] = words
    register_plugins()
    register_sweeper()
    hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(task)()
    return 0


if __name__ == "__main__":
    sys.exit(main())
"""


@contextmanager
def sweep(folder: Path, samples: str) -> Iterator["subprocess.Popen[str]"]:
    """The sweep in a process group of its own."""
    (folder / "sweep.py").write_text(SWEEP)
    words = ["-m", f"samples={samples}", f"runs_dir={folder}", "hydra/launcher=workers", "order_seed=0"]
    process = subprocess.Popen(
        [sys.executable, folder / "sweep.py", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        with process:
            yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def runs(folder: Path, what: str) -> set[str]:
    """The runs whose folder has a file of this name."""
    return {path.parent.name for path in folder.glob(f"*/{what}")}


def pids(folder: Path) -> list[int]:
    return [int(text) for path in folder.glob("*/pid") if (text := path.read_text())]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGINT, "all"), (signal.SIGTERM, "parent"), (signal.SIGHUP, "worker")]
)
def test_an_interruption_leaves_the_record_of_every_run_that_was_underway(
    tmp_path: Path, number: signal.Signals, whom: str
) -> None:
    with sweep(tmp_path, "8,16,24") as process:
        wait_until(lambda: len(pids(tmp_path)) == 2)
        underway = runs(tmp_path, "pid")
        if whom == "all":
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid if whom == "parent" else pids(tmp_path)[0], number)
        _, errors = process.communicate(timeout=60)
    assert runs(tmp_path, "recorded") == underway
    assert runs(tmp_path, "pid") == underway
    assert process.returncode == 130
    assert [line for line in errors.splitlines() if not line.startswith("lora-scaling: ")] == []
    assert not any(map(alive, pids(tmp_path)))


def test_a_worker_that_is_killed_takes_no_other_run_with_it(tmp_path: Path) -> None:
    with sweep(tmp_path, "8,16,24,32") as process:
        wait_until(lambda: len(pids(tmp_path)) == 2)
        [killed, *_] = runs(tmp_path, "pid")
        os.kill(int((tmp_path / killed / "pid").read_text()), signal.SIGKILL)
        (tmp_path / "go on").touch()
        process.communicate(timeout=60)
    assert runs(tmp_path, "done") == {"8", "16", "24", "32"} - {killed}
    assert process.returncode == 1


def test_workers_end_soon_after_their_parent_is_killed_and_record_their_runs(tmp_path: Path) -> None:
    with sweep(tmp_path, "8,16") as process:
        wait_until(lambda: len(pids(tmp_path)) == 2)
        process.kill()
        ended = time.monotonic()
        wait_until(lambda: not any(map(alive, pids(tmp_path))), timeout_s=20)
    assert time.monotonic() - ended < 5
    assert runs(tmp_path, "recorded") == {"8", "16"}


@pytest.mark.parametrize("n_jobs", [0, -2, 1.5, "all"])
def test_the_number_of_processes_is_one_or_more(n_jobs: object) -> None:
    launcher = WorkersLauncher(n_jobs=n_jobs)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"hydra\.launcher\.n_jobs: got .*; give a whole number of 1 or more"):
        launcher.setup(hydra_context=Mock(), task_function=Mock(), config=OmegaConf.create())
