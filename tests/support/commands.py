"""Commands as the shell calls them, in this process: a fresh one takes seconds to import what this one has."""

import io
import logging
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from unittest.mock import patch

from lora_scaling.runs import progress

Done = subprocess.CompletedProcess[str]


def command(module: str, *words: str, env: dict[str, str] | None = None) -> Done:
    """Run `python -m MODULE WORDS` and return its exit status, stdout and stderr."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        restored(),
        patch.dict(os.environ, env or {}),
        patch.object(sys, "argv", [module, *words]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        progress.display = progress.Display()  # a fresh process has one on its own stdout
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else int(left.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
    return Done([module, *words], status, out.getvalue(), err.getvalue())


@contextmanager
def restored() -> Iterator[None]:
    """What a command changes in its process is as it was afterwards: environment, signals, loggers, the display."""
    environment, display = dict(os.environ), progress.display
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root_level, root_handlers = logging.root.level, list(logging.root.handlers)
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    disabled = [logger.disabled for logger in loggers]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        progress.display = display
        for number, handler in handlers.items():
            signal.signal(number, handler)
        logging.root.setLevel(root_level)
        logging.root.handlers[:] = root_handlers
        for logger, was in zip(loggers, disabled, strict=True):
            logger.disabled = was
