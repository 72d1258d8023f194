"""Handle interruption, also from outside by a time limit or a launcher, so that measurements are kept."""

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

_WATCH_S, _PATIENCE_S = 1, 60
STUCK_S = 8.0
"""How long a signal may wait for the main thread: launchers kill after 30 s."""
_WHY = {
    signal.SIGTERM: "a time limit, or another process that failed",
    signal.SIGHUP: "its terminal was closed",
}

FROM_OUTSIDE = (signal.SIGINT, *_WHY)
"""The signals that end a run, which is then recorded."""


def end_like_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does. A handler set by others (submitit, nohup) stays."""
    if _in_main_thread():
        for number in _WHY:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _ended)


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the code inside as Ctrl-C does."""
    before = {number: signal.getsignal(number) for number in _WHY}
    end_like_ctrl_c()
    try:
        yield
    finally:
        for number, handler in before.items():
            if _in_main_thread() and signal.getsignal(number) is _ended:
                signal.signal(number, handler)


def _ended(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(_words(number))


def _words(number: int) -> str:
    name = signal.Signals(number)
    return f"ended from outside ({name.name})" + (f": {_WHY[name]}" if name in _WHY else "")


@functools.cache
def end_with_parent(parent: int) -> None:
    """End this process once its parent has died: as SIGTERM does, so that its run is recorded, and at last by force."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        for _ in range(_PATIENCE_S):
            os.kill(os.getpid(), signal.SIGTERM)  # again and again: it may be between runs, or lost in a destructor
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


class _Interruption:
    """What is known of the interruption of the run that this process is carrying out."""

    pending: KeyboardInterrupt | None = None  # raised; may have been lost in a destructor
    recording: int = 0  # depth of `uninterrupted`
    depth: int = 0  # of `interrupted_once`
    handled_s: float = float("-inf")  # when the main thread last began to handle a signal


_state = _Interruption()


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP through until one is being handled; a further one would cut short its recording.

    In a launch, Ctrl-C reaches a process twice: from the terminal, and from the launcher, which it ends as well.
    An interruption that lands in a destructor is lost to Python: `raise_if_interrupted`, and the end of this block,
    raise it again. Signals that arrive in an `uninterrupted` block are raised at the same places.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    if _in_main_thread():
        for number in FROM_OUTSIDE:
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler

    def interrupt(number: int, frame: FrameType | None) -> None:
        _state.handled_s = time.monotonic()
        if _is_being_handled():
            return
        try:
            handlers[number](number, frame)  # raises, unless a launcher set one that only records the signal
        except KeyboardInterrupt as stop:
            _state.pending = stop
            if not _state.recording:
                raise

    if _state.depth == 0:
        _state.pending = None
    _state.depth += 1
    try:
        raise_if_interrupted()  # lost in the code around this block
        for number in handlers:
            signal.signal(number, interrupt)
        yield
        raise_if_interrupted()
    finally:
        _state.depth -= 1
        _state.pending = None
        for number, handler in handlers.items():
            signal.signal(number, handler)


def raise_if_interrupted() -> None:
    """Raise an interruption that has not ended the run: it was lost in a destructor, or came while recording."""
    if _state.pending is not None:
        raise KeyboardInterrupt(*_state.pending.args)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back while something is recorded; `raise_if_interrupted` raises them."""
    _state.recording += 1
    try:
        yield
    finally:
        _state.recording -= 1


@contextlib.contextmanager
def ended_when_stuck(last_words: Callable[[str], None], patience_s: float = STUCK_S) -> Iterator[None]:
    """End this process if a signal finds it within a call that Python cannot interrupt, after `last_words(why)`.

    A rank that waits in a collective for one that has died runs no handler: the launcher kills it after 30 s (torchrun,
    Slurm), and its record with it. A thread sees each signal at once, and does what the main thread does not.
    """
    if not _in_main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        while number := reader.recv(1):
            if number[0] not in FROM_OUTSIDE:
                continue
            seen_s = time.monotonic()
            time.sleep(patience_s)
            if _state.handled_s < seen_s - patience_s:  # not since then, nor a moment before
                try:
                    last_words(_words(number[0]))
                finally:
                    os._exit(1)
        reader.close()

    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, name="ended-when-stuck", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()  # which ends the thread


def _is_being_handled() -> bool:
    """Return whether the interrupted code is an `except` or `finally` that handles an interruption already."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _in_main_thread() -> bool:
    """Return whether this is the main thread, the only one in which Python allows setting a handler."""
    return threading.current_thread() is threading.main_thread()
