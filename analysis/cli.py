"""Run the commands of `python -m analysis`.

Each command is a module of `analysis.commands` with `add_arguments(parser)` and `run(args) -> int`. It is imported only
when it is chosen, so that `claims` does not wait for seaborn.
"""

import argparse
import difflib
import importlib
import sys

from lora_scaling.commands.cli import Parser, command
from lora_scaling.errors import UserError

PROGRAM = "lora-scaling analyse"  # as `python -m analysis` is, too


# Each is a module of `analysis.commands`, with its line in the help.
COMMANDS = {
    "claims": "verdicts on the seven claims, with the tests behind them",
    "fit": "regressions of energy and time on the work → fit.json",
    "plot": "scaling plots as SVG and PNG",
    "extrapolate": "predict a run that was not made",
    "backtest": "fit on the cheaper runs, test on the most expensive",
    "design": "the next runs worth their energy, as a command line",
    "report": "one self-contained report.html with all of it",
    "export": "CSV, Markdown, LaTeX, a model card, BoAmps, Extra-P",
}


@command()
def main(words: list[str]) -> int:
    """Run one command of the analysis."""
    if not words or words[0] in ("-h", "--help"):
        print(_overview(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name = words[0]
    if name not in COMMANDS:
        raise UserError(f"command: got {name!r}; {_meant(words)}choose one of {', '.join(COMMANDS)}")
    module = importlib.import_module(f".commands.{name}", __package__)
    parser = Parser(prog=f"{PROGRAM} {name}", description=COMMANDS[name], formatter_class=_Defaults)
    module.add_arguments(parser)
    for word in words[1:]:
        option, equals, value = word.partition("=")
        if equals and parser.has_option(option):
            raise UserError(f"{option}: got {value} as a setting; here it is an option: --{option} {value}")
    return module.run(parser.parse_intermixed_args(words[1:]))  # overrides may follow options


def _meant(words: list[str]) -> str:
    """Guess which command was meant: one that stands further on, or one of nearly this name."""
    later = next((word for word in words if word in COMMANDS), None)
    if later is not None:
        rest = [word for word in words if word != later]
        return f"the command goes first: {PROGRAM} {later} {' '.join(rest)}; "
    near = difflib.get_close_matches(words[0].lower(), COMMANDS, n=1)
    return f"did you mean {near[0]}? " if near else ""


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Show the defaults of those options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False, []) else action.help


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"usage: {PROGRAM} COMMAND RUNS [options]", ""]
    lines += [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    lines += [
        "",
        "RUNS: folders of run records, or tables (CSV, Parquet, JSON lines).",
        f"`{PROGRAM} COMMAND --help` lists a command's options.",
    ]
    return "\n".join(lines)
