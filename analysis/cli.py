"""The command-line shell of `python -m analysis`.

Each command is a module of `analysis.commands` with `add_arguments(parser)` and `run(args) -> int`, imported only
when it is chosen, so that `claims` does not wait for seaborn.
Exit status: 0 on success, 2 on bad input (one sentence on stderr), 1 on failure.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from lora_scaling.commands.arguments import Parser, reader_may_leave
from lora_scaling.errors import LoraScalingError

PROGRAM = "python -m analysis"


# A module of `analysis.commands` each, with its line in the help.
COMMANDS = {
    "claims": "verdicts on the seven claims, with the tests behind them",
    "fit": "regressions of energy and time on the work → fit.json",
    "plot": "scaling plots as SVG and PNG",
    "extrapolate": "predict a run that was not made",
    "backtest": "fit on the cheap runs, predict the dear ones",
    "design": "the next runs worth their energy, as a command line",
    "report": "one self-contained report.html with all of it",
    "export": "the table in Extra-P's JSON-lines format",
}


@reader_may_leave()
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; errors end as one sentence on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name = arguments[0]
    if name not in COMMANDS:
        print(f"`command` was {name!r}; allowed are {', '.join(COMMANDS)}; choose one of them.", file=sys.stderr)
        return 2
    try:
        return _dispatch(name, arguments[1:])
    except LoraScalingError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        raise  # to `reader_may_leave`: no failure
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("LORA_SCALING_DEBUG"):
            traceback.print_exc()
        text = " ".join(str(error).split())
        print(
            f"{PROGRAM} {name} failed with {type(error).__name__}: {text} "
            "(set LORA_SCALING_DEBUG=1 for the traceback).",
            file=sys.stderr,
        )
        return 1


def _dispatch(name: str, arguments: list[str]) -> int:
    module = importlib.import_module(f".commands.{name}", __package__)
    parser = Parser(
        prog=f"{PROGRAM} {name}",
        description=COMMANDS[name],
        formatter_class=_Defaults,
    )
    module.add_arguments(parser)
    try:
        args = parser.parse_intermixed_args(arguments)  # overrides may follow options
    except SystemExit:  # argparse leaves by itself after --help
        return 0
    return module.run(args)


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Gives the defaults of those options that have one."""

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
