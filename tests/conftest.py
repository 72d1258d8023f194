"""Shared by all tests: one thread each, offline, and runs that are made once."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of small matrices several threads make more work and no speed

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_scaling.config import RunConfig, compose

Record = dict[str, Any]

# The smallest real fine-tune: 24 samples of 24 tokens on a 1.3 M model.
TINY = (
    "samples=24", "batch_size=4", "eval_samples=4", "data.tokens_per_sample=24", "warmup_steps=1", "device=cpu",
    "metering.idle_s=0",
)  # fmt: skip


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def tiny(runs_dir: Path) -> Callable[..., RunConfig]:
    """The configuration of a tiny run, with further overrides."""
    return lambda *overrides: compose([*TINY, f"runs_dir={runs_dir}", *overrides])


@pytest.fixture(scope="session")
def made(tiny: Callable[..., RunConfig]) -> Callable[..., Record]:
    """The record of a tiny run, carried out in this process."""
    from lora_scaling.running import run

    def make(*overrides: str) -> Record:
        record = run(tiny(*overrides)).record
        assert record is not None
        return record

    return make
