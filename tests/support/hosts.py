"""Two hosts on this machine: namespaces with a host name and a network of their own, joined by a cable."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes import ENVIRONMENT

NAMES = ("lorahost1", "lorahost2")
_FIRST = "10.77.31.1"


@contextmanager
def two_hosts() -> Iterator[None]:
    """Make the two hosts; the folders of this machine are their shared file system. Skips where that is not allowed."""
    steps = [["ip", "netns", "add", name] for name in NAMES]
    steps.append(["ip", "link", "add", NAMES[0], "type", "veth", "peer", "name", NAMES[1]])
    for place, name in enumerate(NAMES, 1):
        steps += [
            ["ip", "link", "set", name, "netns", name],
            ["ip", "-n", name, "addr", "add", f"10.77.31.{place}/24", "dev", name],
            ["ip", "-n", name, "link", "set", name, "up"],
            ["ip", "-n", name, "link", "set", "lo", "up"],
        ]
    try:
        for step in steps:
            try:
                subprocess.run(step, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip(f"namespaces cannot be made here: {' '.join(step)} fails (it takes root, and iproute2)")
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def torchrun_on(
    place: int, runs_dir: Path, *overrides: str, processes: int = 1, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start the processes of a run of two hosts on the first (0) or second (1) one."""
    name = NAMES[place]
    inside = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh"]
    launch = ["--nnodes", "2", "--node-rank", str(place), "--nproc-per-node", str(processes), "--master-addr", _FIRST]
    program = [sys.executable, "-m", "torch.distributed.run", *launch, "--master-port", "29531", "-m", "lora_scaling"]
    return subprocess.Popen(
        [*inside, *program, f"runs_dir={runs_dir}", *overrides],
        cwd=ROOT,
        env={**os.environ, **(env or {}), **ENVIRONMENT, "GLOO_SOCKET_IFNAME": name},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
