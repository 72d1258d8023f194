"""Sweeps on a real Slurm of one node, which `.ci/slurm` starts."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_scaling.records import find_records
from tests.runs.test_launchers import outcome
from tests.support.commands import command
from tests.support.processes import forked
from tests.support.runs import TINY, read_record
from tests.support.slurm import SMALL, need_slurm, slurm

pytestmark = pytest.mark.slurm


@pytest.fixture(autouse=True)
def empty_queue() -> Iterator[None]:
    need_slurm()
    yield
    slurm("scancel", "--me")


def test_the_preset_gives_the_serial_sweeps_runs(tmp_path: Path) -> None:
    """As documented: whole nodes with a GPU, so one run after the other, although two would find room."""
    words = ("-m", *TINY, "samples=8,16")
    serial = forked("lora_scaling", *words, f"runs_dir={tmp_path / 'serial'}")
    preset = ("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=10")
    done = command("lora_scaling", *words, *preset, f"runs_dir={tmp_path / 'slurm'}")
    assert (done.returncode, done.stderr) == (0, "")
    _, errors = serial.communicate(timeout=200)
    assert serial.returncode == 0, errors
    assert outcome(tmp_path / "slurm") == outcome(tmp_path / "serial")
    records = [read_record(path) for path in find_records([tmp_path / "slurm"])]
    spans = sorted((record["started_at"], record["finished_at"]) for record in records)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    [array] = {record["provenance"]["slurm"]["array_job_id"] for record in records}
    assert f"Slurm: job {array}, 2 runs\n" in done.stdout
    assert {record["provenance"]["slurm"]["array_task_id"] for record in records} == {"0", "1"}
    assert {record["provenance"]["slurm"]["job_partition"] for record in records} == {"gpu"}
    # The user's command, not the job's.
    assert all(
        record["provenance"]["command"][:5] == ["python", "-m", "lora_scaling", "-m", TINY[0]] for record in records
    )


def test_a_sweep_longer_than_an_array_may_be_is_several(tmp_path: Path) -> None:
    """The node of `.ci/slurm` takes arrays of three (MaxArraySize)."""
    words = (*TINY, "samples=4,8,12,16", f"runs_dir={tmp_path}")
    done = command("lora_scaling", "-m", *words, *SMALL, "hydra.launcher.array_parallelism=2")
    assert done.returncode == 0, done.stderr
    arrays = [line.split()[-2] for line in done.stdout.splitlines() if line.startswith("Slurm: job")]
    assert arrays == ["3", "1"]
    assert [values[0] for values in outcome(tmp_path).values()] == ["ok"] * 4
