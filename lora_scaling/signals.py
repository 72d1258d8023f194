"""Handle interruption, also from outside by a time limit or a launcher, so that measurements are kept."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

_WATCH_S, _PATIENCE_S = 1, 60


def end_on_sigterm() -> None:
    """Let SIGTERM end this process like Ctrl-C. A handler set by others (submitit) stays in place."""
    if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _ended)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the code inside like Ctrl-C."""
    before = signal.getsignal(signal.SIGTERM)
    end_on_sigterm()
    try:
        yield
    finally:
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) is _ended:
            signal.signal(signal.SIGTERM, before)


def _ended(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt("ended from outside (SIGTERM): a time limit, or another process that failed")


def end_with_parent() -> None:
    """End this worker once its parent has died: as SIGTERM does, so that its run is recorded, and at last by force."""
    parent = os.getppid()

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


_state = _Interruption()


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM through until one is being handled; a further one would cut short its recording.

    In a launch, Ctrl-C reaches a process twice: from the terminal, and from the launcher, which it ends as well.
    An interruption that lands in a destructor is lost to Python: `raise_if_interrupted`, and the end of this block,
    raise it again. Signals that arrive in an `uninterrupted` block are raised at the same places.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    if _in_main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _is_being_handled():
            return
        try:
            handlers[number](number, frame)  # raises, unless a launcher set one that only records the signal
        except KeyboardInterrupt as stop:
            _state.pending = stop
            if not _state.recording:
                raise

    _state.pending = None
    try:
        for number in handlers:
            signal.signal(number, interrupt)
        yield
        raise_if_interrupted()
    finally:
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
