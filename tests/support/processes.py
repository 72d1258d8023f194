"""Commands in processes of their own, and runs that two processes share.

Most of them are forked from a server that has the libraries in memory, whose import takes longer than a tiny run. What
is new in a process that starts from nothing (libraries that are found by LD_LIBRARY_PATH, what an import prints,
torchrun itself) is tested by starting one.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.support import scratch
from tests.support.paths import ROOT
from tests.support.runs import TINY, Record, only_record

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "USE_LIBUV": "0"}
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.support.preload"])


class Forked:
    """A function in a process of its own and in a process group of its own; used like `subprocess.Popen`."""

    def __init__(self, function: Callable[..., None], *arguments: Any, env: dict[str, str] | None = None) -> None:
        self._outputs = scratch.folder("forked-")
        with patch.dict(os.environ, ENVIRONMENT):
            multiprocessing.forkserver.ensure_running()
        environment = {**os.environ, **ENVIRONMENT, **(env or {})}
        self._process = _server.Process(target=_carry_out, args=(self._outputs, environment, function, arguments))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and return what it wrote to stdout and to stderr.

        Raises:
            subprocess.TimeoutExpired: it has not ended by then.
        """
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        out, err = ((self._outputs / name) for name in ("out", "err"))
        return (out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")) if out.exists() else ("", "")

    def written(self) -> str:
        """What it has written to stdout until now."""
        out = self._outputs / "out"
        return out.read_text(encoding="utf-8") if out.exists() else ""

    def kill(self) -> None:
        """Kill it and all that it started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended, or has no group of its own yet
            self._process.kill()
        self._process.join()


def _carry_out(outputs: Path, environment: dict[str, str], function: Callable[..., None], arguments: Any) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        with open(outputs / name, "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def run_module(words: Sequence[str], folder: Path | None = None) -> None:
    """`python -m WORDS`, in a folder if one is given."""
    if folder is not None:
        os.chdir(folder)
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def run_code(code: str, arguments: Sequence[str]) -> None:
    """`python -W error::UserWarning -c CODE ARGUMENTS`."""
    warnings.simplefilter("error", UserWarning)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})


def forked(
    *words: str, env: dict[str, str] | None = None, folder: Path | None = None, trains: Path | None = None
) -> Forked:
    """`python -m WORDS` in a process that has the libraries; the file `trains` is there as soon as a run trains."""
    observer = () if trains is None else ("tests.support.observed", str(trains))
    return Forked(run_module, (*observer, *words), folder, env=env)


def alone(runs_dir: Path, *overrides: str) -> Record:
    """The run in one process."""
    process = forked("lora_scaling", *TINY, f"runs_dir={runs_dir}", *overrides)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return only_record(runs_dir)


def two_ranks(
    runs_dir: Path, *overrides: str, agents: int = 1, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Carry out a run, or with -m a sweep, in two processes as a launcher starts them, or as two launchers do.

    Returns:
        The first exit status that is not 0, and all that both wrote to stdout and to stderr.
    """
    ranks = start_ranks(runs_dir, *overrides, agents=agents, env=env)
    try:
        written = [rank.communicate(timeout=200) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    statuses = [rank.returncode or 0 for rank in ranks]
    out, errors = ("".join(texts) for texts in zip(*written, strict=True))
    return next((status for status in statuses if status), 0), out, errors


def start_ranks(runs_dir: Path, *overrides: str, agents: int = 1, env: dict[str, str] | None = None) -> list[Forked]:
    """Start a run in two processes as a launcher starts them."""
    launch = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": str(2 // agents),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [
        forked(
            "lora_scaling",
            *TINY,
            f"runs_dir={runs_dir}",
            *overrides,
            env={**launch, **(env or {}), "RANK": rank, "LOCAL_RANK": rank if agents == 1 else "0"},
        )
        for rank in ("0", "1")
    ]


def torchrun(runs_dir: Path, *overrides: str, env: dict[str, str] | None = None, trains: Path | None = None) -> Forked:
    """The run in two processes of a real launcher; the file `trains` is there as soon as it trains.

    The launcher has torch in memory; the processes that it starts begin from nothing.
    """
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), "-m"]
    observer = [] if trains is None else ["tests.support.observed", str(trains)]
    words = [*launcher, *observer, "lora_scaling", *TINY, f"runs_dir={runs_dir}", *overrides]
    return forked(*words, env=env, folder=ROOT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], Any], timeout_s: float = 200, every_s: float = 0.05) -> None:
    """Return as soon as the condition holds.

    Raises:
        AssertionError: it does not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s: {condition}"
        time.sleep(every_s)
