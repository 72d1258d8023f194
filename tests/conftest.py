"""Shared by all tests: one thread each, offline, and runs that are made once."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of small matrices several threads make more work and no speed

import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_scaling.config import RunConfig, compose
from tests.support import scratch
from tests.support.runs import TINY, Record


def end_test_run(number: int, frame: object) -> None:
    """End this process by the signal, which the commands under test would otherwise turn into an exception of theirs.

    A test that expects such an exception, or one that catches it and fails, would let the run of the tests go on.
    """
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


signal.signal(signal.SIGTERM, end_test_run)
# Begun in the background or by nohup, what the tests start would ignore these, too; a handler ends with the exec.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)


def pytest_configure(config: pytest.Config) -> None:
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # or its runs would wait for those of other workers
        place = Path(tempfile.gettempdir()) / f"lora-scaling-tests-{os.getuid()}" / worker
        place.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(place)
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist would begin with the files of most tests
        config.option.loadscopereorder = False


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later collection of garbage, which would look at all of it again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests: left to the end, they keep one worker busy and the others idle."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    scratch.place(tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def tiny(runs_dir: Path) -> Callable[..., RunConfig]:
    """The configuration of a tiny run, with further overrides."""
    return lambda *overrides: compose([*TINY, f"runs_dir={runs_dir}", *overrides])


@pytest.fixture(scope="session")
def made(tiny: Callable[..., RunConfig]) -> Callable[..., Record]:
    """The record of a tiny run, carried out in this process."""
    from lora_scaling.runs.run import run

    def make(*overrides: str) -> Record:
        record = run(tiny(*overrides)).record
        assert record is not None
        return record

    return make
