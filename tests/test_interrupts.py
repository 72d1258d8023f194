"""An interruption of a run is raised once, is never lost, and does not cut short what is being recorded."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_scaling.signals import interrupted_once, raise_if_interrupted, uninterrupted


@pytest.fixture(autouse=True)
def _the_keyboards_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Dying:
    def __del__(self) -> None:
        press()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_lands_in_a_destructor_is_raised_by_the_next_step() -> None:
    steps = []

    def run() -> None:
        with interrupted_once():
            for step in range(10):
                raise_if_interrupted()
                steps.append(step)
                if step == 3:
                    Dying()

    with pytest.raises(KeyboardInterrupt):
        run()
    assert steps == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_is_lost_in_the_last_step_is_raised_at_the_end() -> None:
    def run() -> None:
        with interrupted_once():
            Dying()

    with pytest.raises(KeyboardInterrupt):
        run()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_a_lost_one_the_next_signal_is_heard_at_once() -> None:
    reached = []

    def run() -> None:
        with interrupted_once():
            Dying()  # and no step that would raise it again
            press()
            reached.append("went on")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert reached == []


def test_further_signals_do_not_cut_short_the_recording_of_the_first() -> None:
    recorded = []

    def run() -> None:
        with interrupted_once():
            try:
                press()
            finally:
                for _ in range(20):
                    press()
                recorded.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert recorded == ["all of it"]


def test_a_signal_while_a_finished_run_is_recorded_waits_for_it() -> None:
    recorded = []

    def run() -> None:
        with interrupted_once():
            with uninterrupted():
                press()
                recorded.append("all of it")
            raise_if_interrupted()
            recorded.append("went on")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert recorded == ["all of it"]


STUCK = """
import ctypes, signal, sys, threading, time
from lora_scaling.signals import end_like_ctrl_c, ended_when_stuck, interrupted_once
end_like_ctrl_c()
def last_words(why):
    print(why, flush=True)
with interrupted_once(), ended_when_stuck(last_words, patience_s=0.3):
    if sys.argv[1] == "stuck":
        # Said by a thread that runs only once this one has given up the interpreter, which it does in the second lock.
        sys.setswitchinterval(1000)
        near = threading.Event()
        threading.Thread(target=lambda: near.wait() and print("ready", flush=True), daemon=True).start()
        mutex = ctypes.create_string_buffer(64)  # a pthread_mutex_t, locked twice: no signal ends that wait
        lock = ctypes.CDLL(None).pthread_mutex_lock
        lock(mutex)
        near.set()
        lock(mutex)
    print("ready", flush=True)
    while True:
        time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a mutex of Linux")
@pytest.mark.parametrize(
    ("how", "said", "status"),
    [
        ("stuck", ["ended from outside (SIGTERM): a time limit, or another process that failed"], 1),
        ("waiting", [], -signal.SIGINT),
    ],
)
def test_a_process_that_is_stuck_in_a_collective_says_its_last_words_and_ends(
    how: str, said: list[str], status: int
) -> None:
    """As a rank that waits in NCCL for one that has died; one that waits in Python is interrupted as ever."""
    with subprocess.Popen([sys.executable, "-c", STUCK, how], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert out.splitlines() == said
    assert process.returncode == status


def test_afterwards_signals_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupted_once():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


WORKER = """
import os, signal, sys, time
from lora_scaling import signals
signals._WATCH_S = 0.5
signals.end_like_ctrl_c()
signals.end_with_parent(os.getppid())
print("ready", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt as stop:
    open(sys.argv[1], "w").write(str(stop))
"""

PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(600)
"""


def test_a_worker_ends_like_an_interrupted_run_when_its_parent_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, WORKER, str(told)], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.stdout.read() == ""  # ends when the worker, which holds the other end, has
    assert told.read_text().startswith("ended from outside (SIGTERM)")
