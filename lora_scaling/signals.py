"""Being ended from outside, as a time limit or a launcher does: what was measured is kept."""

import signal
import threading
from typing import NoReturn


def end_on_sigterm() -> None:
    """Let SIGTERM end this process as the keyboard does; whoever has a handler of their own (submitit) keeps it."""
    ours = threading.current_thread() is threading.main_thread()  # Python allows no other thread to set a handler
    if ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _ended)


def _ended(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt("ended from outside (SIGTERM): a time limit, or another process that failed")
