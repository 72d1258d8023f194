"""A GPU with a known law of power, for tests: builds the library and knows the truth.

What it gives is never called measured anywhere but in these tests.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support import scratch
from tests.support.paths import ROOT

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Law:
    """Piecewise linear watts over seconds since 1970, and how the stub shows them."""

    power: tuple[tuple[float, float], ...]
    extras: dict[str, str] = field(default_factory=dict)

    def joules(self, start: float, end: float) -> float:
        """The exact integral, by the trapezoid between kinks."""
        first, last = self.power[0], self.power[-1]
        total = first[1] * max(min(end, first[0]) - start, 0.0) + last[1] * max(end - max(start, last[0]), 0.0)
        for (t0, w0), (t1, w1) in itertools.pairwise(self.power):
            a, b = max(start, t0), min(end, t1)
            if b > a:
                slope = (w1 - w0) / (t1 - t0)
                total += (w0 + slope * ((a + b) / 2 - t0)) * (b - a)
        return total

    def lines(self, index: int) -> list[str]:
        points = " ".join(f"{t:.6f} {w}" for t, w in self.power)
        return [f"power {index} {points}", *(f"{key} {index} {value}" for key, value in self.extras.items())]


def have_compiler() -> bool:
    return shutil.which("gcc") is not None and sys.platform == "linux"


@functools.cache
def build() -> Path:
    """A folder with libnvidia-ml.so.1 and an executable nvidia-smi."""
    folder = scratch.folder("nvml-stub-")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(FOLDER / "nvml.c"), "-lm"], check=True)
    smi = folder / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexit 0\n")
    smi.chmod(0o755)
    return folder


def environment(law_file: Path, **extra: str) -> dict[str, str]:
    """The environment of a subprocess that sees the stub GPUs and no other influence."""
    keep = {k: v for k, v in os.environ.items() if not k.upper().startswith(("CODECARBON", "CUDA_", "ROCR", "HIP"))}
    stub = str(build())
    return {
        **keep,
        "LD_LIBRARY_PATH": stub,
        "PATH": f"{stub}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "NVML_STUB_LAW": str(law_file),
        "OMP_NUM_THREADS": "1",
        **extra,
    }


def write_laws(path: Path, laws: list[Law]) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text("\n".join(line for i, law in enumerate(laws) for line in law.lines(i)) + "\n")
    os.replace(scratch, path)


def moments(phase: dict[str, Any]) -> tuple[float, float]:
    """Start and end of a recorded phase in seconds since 1970."""
    start, end = (datetime.fromisoformat(phase[key]).timestamp() for key in ("started_at", "ended_at"))
    return start, end


def run_python(code: str, env: dict[str, str], *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start Python code in a process of its own; warnings are errors there too."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", code, *arguments]
    return subprocess.Popen(command, env=env, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> Any:
    """The JSON document the process printed last; fails with its stderr."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@dataclass(frozen=True, kw_only=True)
class Task:
    """Python code to run in a process of its own, against the stub GPUs of its environment."""

    code: str
    env: dict[str, str]
    arguments: tuple[str, ...] = ()


def side_by_side(tasks: dict[str, Task], timeout_s: float = 120) -> dict[str, Any]:
    """Run tasks at the same time, and return the JSON document that each printed last; fails with a task's stderr.

    They are forks of one process that found the stub by LD_LIBRARY_PATH: each start from nothing takes a second.
    """
    folder = scratch.folder("tasks-")
    listed = {name: {"code": task.code, "env": task.env, "arguments": task.arguments} for name, task in tasks.items()}
    (folder / "tasks.json").write_text(json.dumps(listed))
    first = next(iter(tasks.values()))
    command = [sys.executable, "-m", "tests.support.nvml_stub.forking", str(folder)]
    done = subprocess.run(command, env=first.env, cwd=ROOT, text=True, capture_output=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr
    for name, status in json.loads(done.stdout.splitlines()[-1]).items():
        assert status == 0, (name, (folder / f"{name}.err").read_text())
    return {name: json.loads((folder / f"{name}.out").read_text().splitlines()[-1]) for name in tasks}
