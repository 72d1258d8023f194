"""A model split over processes: the work and loss of a whole one, a part in each; and what is refused."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_scaling.config import RunConfig, compose, run_id
from lora_scaling.errors import UserError
from lora_scaling.records import find_records
from lora_scaling.runs.run import run
from tests.support.processes import alone, two_ranks
from tests.support.runs import Record, read_record

LOSSES = ("train_loss", "eval_loss_before", "eval_loss_after")


def test_a_sharded_run_is_another_run_and_a_whole_one_keeps_its_name() -> None:
    assert run_id(compose(["sharding=none"])) == run_id(compose([])) != run_id(compose(["sharding=fsdp"]))
    # The name of this run before there was a choice.
    assert run_id(compose([])) == "ladder-1m-lora-r8-s256-e1-799e6e7a02-0"


def test_what_cannot_be_sharded_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"optimizer: got adamw_8bit with sharding=fsdp.*; use "):
        compose(["sharding=fsdp", "optimizer=adamw_8bit"])


def test_split_4_bit_weights_are_estimated_and_not_run(tiny: Callable[..., RunConfig]) -> None:
    failure = run(tiny("sharding=fsdp", "method=qlora")).failure
    assert isinstance(failure, UserError)
    assert str(failure).startswith("sharding: got fsdp with method=qlora, ")
    assert "; use method=lora" in str(failure)


def test_one_process_has_nothing_to_shard_over(tiny: Callable[..., RunConfig]) -> None:
    failure = run(tiny("sharding=fsdp")).failure
    assert isinstance(failure, UserError)
    assert str(failure).startswith("sharding: got fsdp with one process; ")


def records(runs_dir: Path) -> list[Record]:
    return [read_record(path) for path in find_records([runs_dir])]


def same_outcome(one: Record, other: Record) -> None:
    for field in ("tokens_seen", "samples_seen", "steps"):
        assert other["work"][field] == one["work"][field]
    for field in LOSSES:
        assert other["training"][field] == pytest.approx(one["training"][field], rel=1e-4)
    assert one["training"]["eval_loss_after"] < one["training"]["eval_loss_before"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_share_one_model(tmp_path: Path, method: str) -> None:
    """With checkpointing, and rows that two processes divide unevenly."""
    overrides = (f"method={method}", "gradient_accumulation=4", "epochs=2", "gradient_checkpointing=true")
    overrides += ("lora.r=7",) if method == "lora" else ()
    one = alone(tmp_path / "one", *overrides)
    status, _, errors = two_ranks(tmp_path / "two", *overrides, "sharding=fsdp", "save_adapter=true")
    assert status == 0, errors
    [two] = records(tmp_path / "two")
    same_outcome(one, two)
    for field in ("params", "trainable_params", "dtype"):
        assert two["model"][field] == one["model"][field]
    held = two["model"]["held_params"]
    assert sum(held) == two["model"]["params"] + (two["model"]["trainable_params"] if method == "lora" else 0)
    assert max(held) < 0.52 * sum(held)
    assert two["energy"]["conditions"]["processes"] == 2
    watts = [r["energy"]["components"]["ram"]["joules"] / r["total_s"] for r in (one, two)]
    assert watts[1] == pytest.approx(watts[0], rel=0.3)  # the host's RAM once
    assert not [w for w in two["warnings"] if w["kind"] in ("parameter_count", "unsaved")]
    folder = next((tmp_path / "two").rglob("run.json")).parent / two["saved"]["folder"]
    weights = load_file(next(folder.glob("*.safetensors")))
    assert sum(tensor.numel() for tensor in weights.values()) == two["model"]["trainable_params"]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.slow
def test_a_sweep_over_two_processes_mixes_sharded_and_whole_runs(tmp_path: Path) -> None:
    """The whole ones share a model, which the sharded ones between them neither take nor spoil."""
    sweep = ("-m", "gradient_accumulation=2", "samples=16,24", "sharding=none,fsdp", "order_seed=2", "study=s")
    status, output, errors = two_ranks(tmp_path, *sweep)
    assert status == 0, errors
    assert "4 runs in" in output
    made = sorted(records(tmp_path), key=lambda record: record["order"])
    sharded = [record["config"]["sharding"] == "fsdp" for record in made]
    assert [a != b for a, b in itertools.pairwise(sharded)].count(True) >= 2
    for record, split in zip(made, sharded, strict=True):
        assert ("held_params" in record["model"]) == split
        assert not (split and "model" in record["setup_reused"])
    for one in (record for record in made if record["config"]["sharding"] == "none"):
        [two] = [r for r in made if r is not one and r["config"]["samples"] == one["config"]["samples"]]
        same_outcome(one, two)
