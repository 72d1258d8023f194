"""A real Slurm, started by `.ci/slurm`: is there one, and what does it show of a job?"""

import shutil
import subprocess

import pytest

# What a job of the one-node cluster asks for where two are to run side by side.
SMALL = (
    "hydra/launcher=slurm", "hydra.launcher.timeout_min=10", "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=4", "hydra.launcher.additional_parameters=null",
)  # fmt: skip


def need_slurm() -> None:
    """Skip the test where no Slurm answers."""
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode != 0:
        pytest.skip("no Slurm answers here: bash .ci/slurm python -m pytest -m slurm starts one")


def slurm(*words: str) -> str:
    """Run a command of Slurm's and return what it prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def queued() -> dict[str, str]:
    """The jobs that wait or run: their states by their numbers, as `12_0`."""
    lines = slurm("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
    return dict(line.split() for line in lines)
