"""Runs tasks side by side, each in a fork of this process, which has imported what measuring needs.

python -m tests.support.nvml_stub.forking FOLDER

FOLDER/tasks.json holds, by name, the code of each task, its environment and its arguments. What a task prints is in
FOLDER/NAME.out and FOLDER/NAME.err, and their exit statuses are on stdout.
"""

import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import codecarbon.core.emissions
import codecarbon.core.util
import codecarbon.emissions_tracker

import lora_scaling.energy.meter  # noqa: F401


def main() -> None:
    codecarbon.core.util.detect_cpu_model()  # which is remembered, and takes half a second
    folder = Path(sys.argv[1])
    started = {}
    for name, task in json.loads((folder / "tasks.json").read_text()).items():
        if (pid := os.fork()) == 0:
            _carry_out(folder / name, **task)
        started[name] = pid
    statuses = {name: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for name, pid in started.items()}
    print(json.dumps(statuses))


def _carry_out(outputs: Path, code: str, env: dict[str, str], arguments: list[str]) -> NoReturn:
    for suffix, stream in ((".out", sys.stdout), (".err", sys.stderr)):
        with open(f"{outputs}{suffix}", "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["task", *arguments]
    warnings.simplefilter("error", UserWarning)
    status = 0
    try:
        names: dict[str, Any] = {"__name__": "__main__", "__file__": str(Path(__file__).with_name("measure.py"))}
        exec(compile(code, "<task>", "exec"), names)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
