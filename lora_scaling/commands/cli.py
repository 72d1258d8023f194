"""How every command reads its words, and how it ends.

Exit status: 0 on success, 2 on bad input, 1 on failure, 130 when interrupted. What went wrong is one sentence on stderr
that begins with `lora-scaling: `; LORA_SCALING_DEBUG=1 adds the traceback.
"""

import argparse
import contextlib
import difflib
import errno
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from lora_scaling import terminal
from lora_scaling.commands.config_folders import take_config_folders
from lora_scaling.errors import LoraScalingError, UserError
from lora_scaling.paths import searching
from lora_scaling.ranks import rank
from lora_scaling.signals import ended_like_ctrl_c
from lora_scaling.text import printable
from lora_scaling.version import __version__

INTERRUPTED = 130
# What a file or pipe answers that takes no more output.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
RESUMES = "what was finished is kept, and the same command continues"
_SETTING = re.compile(r"[+~]{0,2}[A-Za-z_][\w.]*=")


def command(*, when_interrupted: str = "") -> Callable[[Callable[[list[str]], int]], Callable[..., int]]:
    """Decorate a command's `main(words) -> exit status`; called without words, it takes those of the process.

    `when_interrupted` is what a person should know after Ctrl-C, SIGTERM or SIGHUP.
    """

    def decorate(main: Callable[[list[str]], int]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(words: Sequence[str] | None = None) -> int:
            terminal.make_printable()
            with terminal.guarded_output(), ignore_broken_pipe(), ended_like_ctrl_c():
                status = _status(main, list(sys.argv[1:] if words is None else words), when_interrupted)
                return _flushed(status)
            return 0  # the reader had seen enough

        return run

    return decorate


def _status(main: Callable[[list[str]], int], words: list[str], when_interrupted: str) -> int:
    try:
        if "--version" in words:
            print(f"lora-scaling {__version__}")
            return 0
        folders, rest = take_config_folders(words)
        with searching(folders):
            return main(rest)
    except LoraScalingError as error:
        return report(error)
    except KeyboardInterrupt as stop:
        _print_error("; ".join(filter(None, (str(stop) or "interrupted", when_interrupted))))
        return INTERRUPTED
    except SystemExit as left:  # argparse after --help, or an error that is printed already
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except BrokenPipeError:
        raise  # to `ignore_broken_pipe`
    except MemoryError:
        _print_error("memory: this process was refused more of it; free some, or raise its limit (ulimit -v, a cgroup)")
        return 1
    except OSError as error:
        return _unexpected(error) if error.filename is not None or error.errno not in _FULL else _unprinted(error)
    except Exception as error:
        return _unexpected(error)


def _flushed(status: int) -> int:
    """Write what is left of the output; return the status, or that of an output that cannot be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # to `ignore_broken_pipe`
    except OSError as error:
        return _unprinted(error)
    return status


def _unprinted(error: OSError) -> int:
    """Print that the output cannot be written; return the exit status."""
    _discard_stdout()
    _print_error(f"output: cannot be written ({error.strerror}); free some space, or send it elsewhere")
    return 1


def _unexpected(error: Exception) -> int:
    """Print an error that this project did not foresee; return its exit status."""
    text = " ".join(str(error).split())
    _print_error(f"{type(error).__name__}: {text} (LORA_SCALING_DEBUG=1 shows the traceback)")
    return 1


def report(error: LoraScalingError) -> int:
    """Print an error's sentence; return the exit status that belongs to it."""
    _print_error(str(error))
    return error.exit_status


def _print_error(sentence: str) -> None:
    if rank() > 0:  # of several processes the first one speaks
        return
    if os.environ.get("LORA_SCALING_DEBUG"):
        traceback.print_exc()
    print(f"lora-scaling: {printable(' '.join(sentence.splitlines()))}", file=sys.stderr)


@contextlib.contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """End quietly where the reader of the output (`| head`) has closed the pipe."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # else what is left fails after the last handler, when Python closes
    except BrokenPipeError:
        _discard_stdout()


def _discard_stdout() -> None:
    """Drop what is still to be written: it would fail once more when Python closes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are UserErrors, raised by `parse_args` and its like."""

    def has_option(self, name: str) -> bool:
        """Return whether `--name` is an option of the command."""
        return f"--{name}" in self._option_string_actions

    def error(self, message: str) -> NoReturn:
        options = [name for name in self._option_string_actions if name.startswith("--")]
        sentence = f"{_sentence(message, options)} ({self.prog} --help lists the options)"
        raise UserError(sentence)


def _sentence(message: str, options: Sequence[str]) -> str:
    """argparse's message in the form of this project's errors.

    options: those of the command, to guess from what was meant.
    """
    if found := re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.DOTALL):
        given = found[1]
        if not given.startswith("-"):
            return f"{given}: not expected there; leave it out"
        name, equals, value = given.lstrip("-").partition("=")
        near = difflib.get_close_matches(given.partition("=")[0], options, n=1)
        if near:
            hint = f"did you mean {near[0]}?"
        elif equals or _is_setting(name):
            hint = f"settings have no dashes: {name}={value or 'VALUE'}"
        else:
            hint = "leave it out"
        return f"{given}: not an option; {hint}"
    if found := re.fullmatch(r"argument ([^/:]+)[^:]*: invalid choice: (.*) \(choose from (.*)\)", message):
        allowed = found[3].replace("'", "")
        near = difflib.get_close_matches(found[2].strip("'\"").lower(), allowed.split(", "), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{found[1]}: got {found[2]}; {hint}choose one of {allowed}"
    if found := re.fullmatch(r"argument ([^/:]+)[^:]*: invalid (?:int|float) value: (.*)", message):
        if percent := re.fullmatch(r"'(\d{1,3}(?:\.\d{1,6})?) ?%'", found[2]):
            return f"{found[1]}: got {found[2]}; give it as a share, {float(percent[1]) / 100:g}"
        return f"{found[1]}: got {found[2]}; give a number"
    if found := re.fullmatch(r"argument ([^/:]+)[^:]*: expected (?:one|at least one) argument", message):
        return f"{found[1]}: no value; give it one"
    if found := re.fullmatch(r"the following arguments are required: (.*)", message):
        return f"{found[1]}: missing; give it a value"
    return message


def _is_setting(name: str) -> bool:
    from lora_scaling.config.compose import setting_names  # slow to import: only for the sentence of an error

    return name in setting_names()


def take_settings(words: Sequence[str], names: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """The command's own settings among `name=value` words, as name → value, and all other words in their order."""
    own: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in names:
            own[name] = value
        else:
            rest.append(word)
    return own, rest


def split_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(paths, settings): `name=value` is a setting unless a file of that name exists."""
    settings = [word for word in words if _SETTING.match(word) and not Path(word).exists()]
    return [word for word in words if word not in settings], settings
