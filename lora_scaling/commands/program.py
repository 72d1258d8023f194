"""`lora-scaling COMMAND …`, which is `python -m lora_scaling COMMAND …`: every command under one name.

Without a command the words are those of a run. A command's module is imported only when it is chosen.
"""

import importlib
import sys
from collections.abc import Sequence

from lora_scaling.analysis_package import use_own_analysis
from lora_scaling.commands import completion

# Each is a module with `main(words) -> exit status`, and its line in the help.
COMMANDS = {
    "run": ("lora_scaling.commands.run", "one run, or with -m a sweep; without a command, too"),
    "study": ("lora_scaling.commands.study", "runs until a claim is decided"),
    "estimate": ("lora_scaling.commands.estimate", "what would it cost?"),
    "emissions": ("lora_scaling.commands.emissions", "grams, again"),
    "doctor": ("lora_scaling.commands.doctor", "what this machine can measure"),
    "analyse": ("analysis.cli", "claims, fit, plot, extrapolate, backtest, design, report, export of runs"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, with the others."""
    given = list(sys.argv[1:] if words is None else words)
    if {*completion.OPTIONS} & {*given}:
        return completion.main(given, COMMANDS)
    name = given.pop(0) if given and given[0] in COMMANDS else "run"
    if name == "analyse":
        use_own_analysis()
    return importlib.import_module(COMMANDS[name][0]).main(given)
