"""Runs in processes of their own: one, and two under torchrun."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.runs import TINY, Record, only_record

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "USE_LIBUV": "0"}


def torchrun(runs_dir: Path, *overrides: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port), "-m", "lora_scaling"]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *TINY, f"runs_dir={runs_dir}", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **(env or {})},
        start_new_session=True,  # what a terminal's Ctrl-C interrupts together
    )


def alone(runs_dir: Path, *overrides: str) -> Record:
    """The run in one process."""
    done = subprocess.run(
        [sys.executable, "-m", "lora_scaling", *TINY, f"runs_dir={runs_dir}", *overrides],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return only_record(runs_dir)
