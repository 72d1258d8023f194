"""`lora-scaling COMMAND …`, which is `python -m lora_scaling COMMAND …`: every command under one name.

Without a command the words are those of a run. A command's module is imported only when it is chosen.
"""

import difflib
import importlib
import itertools
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lora_scaling.analysis_package import use_own_analysis
from lora_scaling.commands import completion
from lora_scaling.commands.cli import command
from lora_scaling.errors import UserError

# Each is a module with `main(words) -> exit status`, and its line in the help.
COMMANDS = {
    "run": ("lora_scaling.commands.run", "one run, or with -m a sweep; without a command, too"),
    "study": ("lora_scaling.commands.study", "runs until a claim is decided"),
    "estimate": ("lora_scaling.commands.estimate", "what would it cost?"),
    "emissions": ("lora_scaling.commands.emissions", "grams, again"),
    "doctor": ("lora_scaling.commands.doctor", "what this machine can measure"),
    "analyse": ("analysis.cli", "claims, fit, plot, extrapolate, backtest, design, report, export of runs"),
}


_ANALYSES = ("claims", "fit", "plot", "extrapolate", "backtest", "design", "report", "export")
# Words that people type for a command of another name.
_MEANT = {
    "analyze": "analyse", "analysis": "analyse", "verdict": "analyse claims",
    "verdicts": "analyse claims", "predict": "analyse extrapolate", "figures": "analyse plot",
    "train": "run", "finetune": "run", "fine-tune": "run", "sweep": "-m", "multirun": "-m", "cost": "estimate",
    "price": "estimate", "carbon": "emissions", "co2": "emissions", "check": "doctor", "info": "doctor",
    "help": "--help", "version": "--version",
}  # fmt: skip


def _misplaced(given: Sequence[str]) -> str | None:
    """Say that a command stands behind other words; None if none does."""
    for before, word in itertools.pairwise(given):
        if word in COMMANDS and given[0] not in COMMANDS and not before.startswith("-"):
            rest = [other for other in given if other != word]
            return f"{word}: got after {before}; a command goes first: lora-scaling {shlex.join([word, *rest])}"
    return None


def _unknown(given: Sequence[str]) -> str | None:
    """Say that the first word is no command; None if it is one, or is a setting or an option."""
    name = given[0] if given else ""
    if "=" not in name and Path(name).is_dir() and name not in COMMANDS and name:
        return f"{name}: got as a command, and is a folder; write lora-scaling analyse report {shlex.quote(name)}"
    if name in COMMANDS or not re.fullmatch(r"[A-Za-z][\w-]*", name):
        return None
    from lora_scaling.config.compose import setting_names  # slow to import: only for the sentence of an error

    if name in setting_names():
        return None
    near = difflib.get_close_matches(name.lower(), [*COMMANDS, *_ANALYSES], n=1, cutoff=0.75)
    meant = _MEANT.get(name.lower()) or (near[0] if near else None)
    meant = f"analyse {meant}" if meant in _ANALYSES else meant
    hint = f"did you mean lora-scaling {meant}? " if meant else ""
    return f"{name}: got as a command; {hint}choose one of {', '.join(COMMANDS)}, or write name=value for a setting"


@command()
def _refuse(words: list[str]) -> int:
    raise UserError(words[0])


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, with the others."""
    given = list(sys.argv[1:] if words is None else words)
    if {*completion.OPTIONS} & {*given}:
        return completion.main(given, COMMANDS)
    if (sentence := _misplaced(given) or _unknown(given)) is not None:
        return _refuse([sentence])
    name = given.pop(0) if given and given[0] in COMMANDS else "run"
    if name == "analyse":
        use_own_analysis()
    return importlib.import_module(COMMANDS[name][0]).main(given)
