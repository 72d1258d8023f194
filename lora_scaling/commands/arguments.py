"""Command lines read so that a mistake in one is a sentence, as every other bad input is; and how commands end."""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from lora_scaling.errors import UserError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises what it would print.

    Raises:
        UserError: from `parse_args` and its like, where the command line cannot be read.
    """

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{_said(message)} ({self.prog} --help lists what there is)")


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Ends a command in silence whose reader (`| head`) has seen enough."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # else what is left fails after the last handler, when Python closes
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _said(message: str) -> str:
    """argparse's complaint in the words of this project's errors."""
    if found := re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.DOTALL):
        given = found[1]
        if not given.startswith("-"):
            return f"`{given}` was not expected there; leave it out"
        name, equals, value = given.lstrip("-").partition("=")
        hint = f"settings have no dashes: {name}={value}" if equals else "leave it out"
        return f"`{given}` is not an option; {hint}"
    if found := re.fullmatch(r"argument ([^/:]+)[^:]*: invalid choice: (.*) \(choose from (.*)\)", message):
        return f"`{found[1]}` was {found[2]}; choose one of {found[3].replace(chr(39), '')}"
    if found := re.fullmatch(r"argument ([^/:]+)[^:]*: invalid (?:int|float) value: (.*)", message):
        return f"`{found[1]}` was {found[2]}; give a number"
    if found := re.fullmatch(r"argument ([^/:]+)[^:]*: expected (?:one|at least one) argument", message):
        return f"`{found[1]}` has no value; give it one"
    if found := re.fullmatch(r"the following arguments are required: (.*)", message):
        return f"`{found[1]}` is missing; give it a value"
    return message
