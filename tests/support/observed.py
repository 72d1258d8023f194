"""`python -m tests.support.observed FILE MODULE WORDS…`: the command; FILE is there as soon as a run trains."""

import runpy
import sys
from pathlib import Path
from typing import Any

from lora_scaling.runs import run as runs


def main() -> None:
    file, module, *_ = sys.argv[1:]
    usual = runs.run

    def observed(config: Any, listen: Any) -> Any:
        def heard(phase: str, done: int, *rest: Any) -> None:
            if phase == "train" and done > 0:
                Path(file).touch()
            listen(phase, done, *rest)

        return usual(config, heard)

    runs.run = observed
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
