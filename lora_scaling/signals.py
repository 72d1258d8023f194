"""Being interrupted, or ended from outside as by a time limit or a launcher: what was measured is kept."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn


def end_on_sigterm() -> None:
    """Let SIGTERM end this process as the keyboard does; whoever has a handler of their own (submitit) keeps it."""
    if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _ended)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end what runs inside as the keyboard does."""
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
    """Let the first Ctrl-C or SIGTERM through and no second one, which would cut short the recording of the first.

    A terminal's Ctrl-C reaches a process of a launch twice: from the terminal, and from the launcher that it ends, too.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    if _in_main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler

    def first(number: int, frame: FrameType | None) -> None:
        for each in handlers:
            signal.signal(each, signal.SIG_IGN)
        handlers[number](number, frame)  # raises, unless a launcher set one that only takes note
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
    """Python allows no other thread to set a handler."""
    return threading.current_thread() is threading.main_thread()
