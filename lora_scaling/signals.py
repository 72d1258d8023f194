"""Handle interruption, also from outside by a time limit or a launcher, so that measurements are kept."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn


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


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """Let only the first Ctrl-C or SIGTERM through, because a second one would cut short the recording of the first.

    In a launch, Ctrl-C reaches a process twice: from the terminal, and from the launcher, which it ends as well.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    if _in_main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler

    def first(number: int, frame: FrameType | None) -> None:
        for each in handlers:
            signal.signal(each, signal.SIG_IGN)
        handlers[number](number, frame)  # raises, unless a launcher set one that only records the signal
        for each in handlers:
            signal.signal(each, first)

    try:
        for number in handlers:
            signal.signal(number, first)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    """Return whether this is the main thread, the only one in which Python allows setting a handler."""
    return threading.current_thread() is threading.main_thread()
