"""The short training before the first run of a process."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_scaling.config import RunConfig, compose
from lora_scaling.records import find_records
from lora_scaling.runs import run as running
from lora_scaling.runs import warmup
from lora_scaling.runs.run import WARMING_UP, run
from tests.support.runs import TINY, Record


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as if nothing had been trained in it."""
    monkeypatch.setattr(warmup, "_done", {})
    running._model_cache.cache_clear()


def made(config: RunConfig) -> tuple[Record, list[str]]:
    """The record of a run, and the phases that it reported."""
    phases: list[str] = []
    record = run(config, lambda phase, *_: phases.append(phase)).record
    assert record is not None
    return record, phases


@pytest.mark.usefixtures("fresh")
def test_it_comes_before_the_first_run_of_a_process_and_changes_nothing_of_it(tmp_path: Path) -> None:
    words = [*TINY, f"runs_dir={tmp_path}", "samples=8", "max_steps=2"]
    config = compose([*words, "warmup_run=true"])
    first, phases = made(config)
    assert phases[0] == WARMING_UP
    assert first["provenance"]["warmup_run"] == {
        "model": "ladder-1m", "steps": 4, "seconds": pytest.approx(30, abs=30), "failure": None,
    }  # fmt: skip
    assert first["setup_reused"] == []  # its model and tokens are of its own
    assert "warmup" in [phase["name"] for phase in first["energy"]["phases"]]
    second, phases = made(dataclasses.replace(config, replicate=1))
    assert WARMING_UP not in phases
    assert second["provenance"]["warmup_run"] == first["provenance"]["warmup_run"]
    without, phases = made(dataclasses.replace(config, replicate=2, warmup_run=False))
    assert WARMING_UP not in phases
    assert without["provenance"]["warmup_run"] is None
    losses = [record["training"]["train_loss"] for record in (first, second, without)]
    assert losses[0] == losses[1] == losses[2]
    assert len(list(find_records([tmp_path]))) == 3  # of the three runs alone


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    "words",
    [
        ["method=full"],
        ["method=qlora", "packing=true", "lora.target_modules=[q_proj]"],
        ["lora.r=64", "batch_size=64", "gradient_accumulation=4", "gradient_checkpointing=true", "max_seq_len=64"],
    ],
)
def test_it_fits_every_kind_of_run(words: list[str], tiny: Callable[..., RunConfig]) -> None:
    from lora_scaling.training.device import choose_device

    done = warmup.warm_up_process(tiny(*words, "warmup_run=true"), choose_device("cpu", "auto"))
    assert done is not None
    assert done["failure"] is None


@pytest.mark.usefixtures("fresh")
def test_what_fails_in_it_does_not_stop_the_run(tiny: Callable[..., RunConfig]) -> None:
    from lora_scaling.training.device import choose_device

    config = dataclasses.replace(tiny("warmup_run=true"), attn_implementation="flash_attention_2")
    done = warmup.warm_up_process(config, choose_device("cpu", "auto"))
    assert done is not None
    assert done["failure"] is not None


def test_it_trains_the_smallest_preset_whatever_the_run_trains() -> None:
    small = warmup._small(compose(["model=llama-3.1-8b", "data=skolegpt", "samples=8"]))
    preset = compose(["model=ladder-1m", "data=synthetic", "data.tokens_per_sample=64", "data.tokens_cv=0"])
    assert (small.model, small.data) == (preset.model, preset.data)
