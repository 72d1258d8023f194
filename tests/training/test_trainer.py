"""What a run computes and what it says of its losses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.gpt2.modeling_gpt2 import GPT2Model
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaModel

from lora_scaling.config import RunConfig
from lora_scaling.config.again import override_columns
from lora_scaling.data.samples import split_samples
from lora_scaling.records import record_to_row
from lora_scaling.training.batches import IGNORED
from lora_scaling.training.device import choose_device
from lora_scaling.training.models import load_base
from lora_scaling.training.tokens import tokenize
from tests.support.checkpoints import save_checkpoint
from tests.support.runs import Record

Make = Callable[..., Record]


def write_rows(path: Path, prompts: list[int]) -> Path:
    rows = [{"instruction": "q" * length, "output": f"answer {'a' * (length % 7)}"} for length in prompts]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_training_loss_is_that_of_a_predicted_token(
    tiny: Callable[..., RunConfig], made: Make, tmp_path: Path, accumulation: int
) -> None:
    """Samples of other lengths, some with their answer cut off, at a learning rate that changes nothing."""
    path = write_rows(tmp_path / "rows.jsonl", [3, 90, 5, 6, 95, 4, 9, 91, 2])
    overrides = (
        "data=file", f"data.path={path}", "samples=9", "batch_size=1", "eval_samples=0", "max_seq_len=64",
        f"gradient_accumulation={accumulation}", "learning_rate=1e-12", f"study=weighed-{accumulation}",
    )  # fmt: skip
    record = made(*overrides)
    config = tiny(*overrides)
    base = load_base(config, choose_device("cpu", "fp32"))
    losses = []
    for row in tokenize(split_samples(config).train, base.tokenizer, config).rows:
        with torch.no_grad():
            scores = base.model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        losses += [-float(scores[i, label]) for i, label in enumerate(row["labels"][1:]) if label != IGNORED]
    assert record["work"]["tokens_trained"] == len(losses)
    assert record["training"]["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert "unanswered" in [warning["kind"] for warning in record["warnings"]]


def test_held_out_samples_without_an_answer_leave_their_loss_unknown(made: Make, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [3, 3, 90, 3])
    record = made(
        "data=file",
        f"data.path={path}",
        "samples=3",
        "eval_samples=1",
        "max_seq_len=64",
        "study=held-out-cut",
        "data.seed=15",
    )
    assert record["status"] == "ok", record["error"]
    assert record["training"]["eval_loss_before"] is record["training"]["eval_loss_after"] is None
    assert record["training"]["train_loss"] > 0
    [warning] = [item for item in record["warnings"] if item["kind"] == "unanswered"]
    assert warning["message"].startswith("1 of 1 held-out samples have no answer left within max_seq_len=64")


def test_a_training_that_diverges_says_so(made: Make) -> None:
    record = made("learning_rate=1e30", "study=diverged")
    assert record["training"]["train_loss"] is record["training"]["eval_loss_after"] is None
    [warning] = [item for item in record["warnings"] if item["kind"] == "not_finite"]
    assert warning["message"].startswith("train_loss is nan: the training diverged")


def recorded(monkeypatch: pytest.MonkeyPatch, owner: type, value: Callable[..., Any]) -> list[Any]:
    """Have a module note a value of every pass that trains."""
    values: list[Any] = []
    forward = owner.forward  # type: ignore[attr-defined]

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            values.append(value(*args, **kwargs))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(owner, "forward", noting)
    return values


def test_warm_up_computes_in_the_types_of_training(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recorded(monkeypatch, LlamaMLP, lambda *_: torch.is_autocast_enabled("cpu"))
    record = made("precision=bf16", "study=warm-up-types")
    passes = record["work"]["micro_steps"] + record["config"]["warmup_steps"]
    assert seen == [True] * passes * record["model"]["layers"]


def test_only_a_model_that_needs_it_gets_an_attention_mask(
    made: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """That the losses are those with a mask is what the golden run says, which was written down with one."""
    causal = recorded(monkeypatch, LlamaModel, lambda **inputs: inputs.get("attention_mask") is None)
    other = recorded(monkeypatch, GPT2Model, lambda *_, **inputs: inputs.get("attention_mask") is None)
    assert made("study=without-mask")["work"]["tokens_padded"] > 0
    save_checkpoint(tmp_path, "gpt2")
    record = made("model=hub", f"model.id={tmp_path}", "lora.target_modules=c_attn", "study=with-mask")
    assert record["status"] == "ok", record["error"]
    assert (set(causal), set(other)) == ({True}, {False})


def test_a_full_fine_tune_in_bf16_learns_as_in_fp32(made: Make) -> None:
    """16-bit weights lose the small steps of a usual learning rate; they are a choice, recorded, part of the work."""
    job = ("method=full", "learning_rate=2e-5", "epochs=3", "study=full-types")
    exact = made(*job, "precision=fp32")
    usual, pure = (made(*job, "precision=bf16", f"pure_bf16={flag}") for flag in ("false", "true"))

    def learned(record: Record) -> float:
        return record["training"]["eval_loss_before"] - record["training"]["eval_loss_after"]

    assert learned(usual) == pytest.approx(learned(exact), rel=0.05)
    assert learned(pure) < 0.6 * learned(exact)
    assert [record["model"]["dtype"] for record in (exact, usual, pure)] == ["float32", "float32", "bfloat16"]
    assert [record_to_row(record)["pure_bf16"] for record in (exact, usual, pure)] == [False, False, True]
    assert usual["work"] == pure["work"]
    assert pure["run_id"] != usual["run_id"]
    assert "pure_bf16=true" in str(override_columns(pure)["settings_override"])
    refused = made(*job, "precision=fp32", "pure_bf16=true")["error"]
    assert refused.startswith("pure_bf16: got true, and precision=fp32 is fp32 on this device; say precision=bf16")


def test_a_full_fine_tune_from_before_the_setting_had_16_bit_weights_in_bf16(made: Make) -> None:
    record = made("method=full", "precision=bf16", "study=full-before")
    del record["config"]["pure_bf16"], record["training"]["pure_bf16"]
    assert record_to_row(record)["pure_bf16"] is True
    assert "pure_bf16=true" in str(override_columns(record)["settings_override"])
    record["training"]["precision"] = "fp32"
    assert record_to_row(record)["pure_bf16"] is False
    record["training"]["precision"], record["config"]["method"]["name"] = "bf16", "lora"
    assert record_to_row(record)["pure_bf16"] is False
