"""Attention is computed by the kernel that is asked for, or by the best that the model has; the record says which."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_scaling.config import compose, run_id
from lora_scaling.config.again import override_columns
from lora_scaling.estimate import estimate
from lora_scaling.records import find_records, record_to_row
from tests.support.checkpoints import save_checkpoint
from tests.support.paths import STUDY_RUNS
from tests.support.runs import Record, read_record

Make = Callable[..., Record]


@pytest.mark.parametrize(
    ("kind", "targets", "kernel"),
    [
        ("llama", "all-linear", "sdpa"),
        ("gemma2", "q_proj", "eager"),
        ("gpt_neo", "q_proj", "eager"),
        ("bloom", "query_key_value", "eager"),
        ("mamba", "in_proj", "eager"),
    ],
)
def test_every_architecture_has_a_kernel(made: Make, tmp_path: Path, kind: str, targets: str, kernel: str) -> None:
    save_checkpoint(tmp_path, kind)
    record = made("model=hub", f"model.id={tmp_path}", f"lora.target_modules={targets}", "study=kernels")
    assert record["status"] == "ok", record["error"]
    assert record_to_row(record)["attn_implementation"] == kernel


def test_the_kernel_is_part_of_the_work(made: Make) -> None:
    plain, eager = made("study=kernel-auto"), made("attn_implementation=eager", "study=kernel-eager")
    assert [record_to_row(each)["attn_implementation"] for each in (plain, eager)] == ["sdpa", "eager"]
    assert eager["training"]["train_loss"] == pytest.approx(plain["training"]["train_loss"], rel=1e-5)
    assert eager["run_id"] != plain["run_id"]
    assert "attn_implementation=eager" in str(override_columns(eager)["settings_override"])
    assert run_id(compose(["attn_implementation=auto"])) == run_id(compose([]))


def test_runs_from_before_the_setting_had_sdpa() -> None:
    record = read_record(next(iter(find_records([STUDY_RUNS]))))
    assert "attn_implementation" not in record["config"]
    assert record_to_row(record)["attn_implementation"] == "sdpa"
    assert "attn_implementation" not in str(override_columns(record)["settings_override"])


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        ("llama", "flash_attention_2", "flash_attention_2, which needs an NVIDIA or AMD GPU; use auto, sdpa or eager"),
        ("gpt_neo", "sdpa", "sdpa; GPTNeoForCausalLM has auto, eager, flash_attention_2, flash_attention_3"),
    ],
)
def test_a_kernel_that_is_not_there_is_refused(made: Make, tmp_path: Path, kind: str, asked: str, said: str) -> None:
    save_checkpoint(tmp_path, kind)
    record = made("model=hub", f"model.id={tmp_path}", f"attn_implementation={asked}", "study=no-kernel")
    assert record["error"] == f"attn_implementation: got {said}"


def test_an_estimate_says_that_eager_attention_is_not_counted() -> None:
    said = {
        kernel: estimate(compose(["hardware=l4", f"attn_implementation={kernel}"])).assumptions
        for kernel in ("auto", "sdpa", "eager")
    }
    assert [text[:28] for text in said["eager"] if text not in said["auto"]] == ["eager attention keeps the sc"]
    assert said["sdpa"] == said["auto"]
