"""Complete the words of `lora-scaling` in a shell: `eval "$(lora-scaling -sc install=bash)"`, or zsh, or fish.

Hydra writes the shell's part, and completes the settings of a run. Commands and their options are completed here.
"""

import argparse
import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence

from lora_scaling.analysis_package import use_own_analysis
from lora_scaling.commands.config_folders import take_config_folders
from lora_scaling.errors import LoraScalingError
from lora_scaling.paths import is_group, searching
from lora_scaling.settings import SETTINGS

OPTIONS = ("-sc", "--shell-completion", "--shell_completion")
_ANYWHERE = ("--help", "--version", "--config-dir=")
_OF_RUN = ("--multirun", "--cfg", "--info", "--resolve")
_WITH_SETTINGS = ("run", "study", "estimate")


def main(words: Sequence[str], commands: Mapping[str, tuple[str, str]]) -> int:
    """Print what the line in `COMP_LINE` may go on with, or the script that has a shell ask for it."""
    sys.argv[0] = "lora-scaling"  # what the script completes, however this process was started
    shell = next((word.partition("=")[2] for word in words if word.startswith("query=")), None)
    if shell is None:
        return _run(words)
    line = os.environ.get("COMP_LINE", "")
    with contextlib.suppress(LoraScalingError):  # a line that cannot be read has nothing to go on with
        print(("\n" if shell == "fish" else " ").join(candidates(line, commands)))
    return 0


def candidates(line: str, commands: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return what the last word of a command line may become, sorted.

    line: as far as it is typed, the program's name included.
    """
    words = line.split()[1:]
    current = "" if line.endswith(" ") or not words else words.pop()
    folders, words = take_config_folders(words)
    with searching(folders):
        name = words.pop(0) if words and words[0] in commands else None
        found = [] if words or name is not None else list(commands)
        found += _of_command(name or "run", words, current, commands)
    return sorted({word for word in found if word.startswith(current)})


def _of_command(name: str, words: list[str], current: str, commands: Mapping[str, tuple[str, str]]) -> list[str]:
    option = current.startswith("-")
    anywhere = [*_ANYWHERE] if option else []
    if name == "analyse":
        return [*anywhere, *_of_analysis(words, option, commands[name][0])]
    if name == "run" and option:
        return [*anywhere, *_OF_RUN]
    module = importlib.import_module(commands[name][0])
    if option:
        return [*anywhere, *getattr(module, "OPTIONS", ())]
    own = [f"{setting}=" for setting in getattr(module, "OWN", ())]
    return [*own, *(_settings(words, current) if name in _WITH_SETTINGS else ())]


def _of_analysis(words: Sequence[str], option: bool, program: str) -> list[str]:
    """Return the commands of an analysis, or the options of one; its other words are paths, which the shell knows."""
    use_own_analysis()
    commands = importlib.import_module(program).COMMANDS
    if not words:
        return [*commands]
    if not option or words[0] not in commands:
        return []
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"analysis.commands.{words[0]}").add_arguments(parser)
    return _options_of(parser)


def _options_of(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _settings(words: Sequence[str], current: str) -> list[str]:
    """Ask Hydra how a word among settings may go on; leave out folders beside `sweeps/` that hold no settings."""
    out = io.StringIO()
    line = " ".join(["lora-scaling", *words, current])
    before = os.environ.get("COMP_LINE")
    os.environ["COMP_LINE"] = line
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            _run(["-sc", "query=fish"])
    finally:
        os.environ["COMP_LINE"] = before or ""
    known = {setting.field for setting in SETTINGS} | {"hydra", "sweeps"}
    roots = {word: re.split("[=./]", word.lstrip("+~"))[0] for word in out.getvalue().split()}
    return [word for word, root in roots.items() if root in known or (root and is_group(root))]


def _run(words: Sequence[str]) -> int:
    from lora_scaling.commands import run

    return run.main(words)
