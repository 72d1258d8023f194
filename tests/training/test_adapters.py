"""What is trained is what was asked for, in every architecture; and packed samples are kept apart, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lora_scaling.config import compose
from lora_scaling.training.adapters import adapted_modules, add_adapters, train_all
from lora_scaling.training.models import shape_of_config
from tests.support.checkpoints import SIZES, save_checkpoint
from tests.support.runs import Record

Make = Callable[..., Record]


@pytest.fixture
def of(made: Make, tmp_path: Path) -> Make:
    """The record of a run on a small model of an architecture."""

    def make(kind: str, *overrides: str) -> Record:
        save_checkpoint(tmp_path / kind, kind)
        return made("model=hub", f"model.id={tmp_path / kind}", "samples=8", "study=adapters", *overrides)

    return make


@pytest.mark.parametrize(
    ("kind", "adapted"),
    [
        ("gpt2", {"c_attn": 2, "c_fc": 2, "c_proj": 4}),
        ("olmoe", {"k_proj": 2, "o_proj": 2, "q_proj": 2, "v_proj": 2}),  # neither experts nor router
        (  # not the gates in_proj_a and in_proj_b, of one number for each of four heads
            "qwen3_5_text",
            dict.fromkeys(("down_proj", "gate_proj", "up_proj"), 2)
            | dict.fromkeys(("in_proj_qkv", "in_proj_z", "out_proj", "k_proj", "o_proj", "q_proj", "v_proj"), 1),
        ),
        ("ctrl", dict.fromkeys(("0", "2", "Wk", "Wq", "Wv", "dense"), 2)),  # "0" is also the name of a layer
        ("llama", dict.fromkeys(("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"), 2)),
    ],
)
def test_all_linear_is_one_rule_and_its_layers_are_counted(of: Make, kind: str, adapted: dict[str, int]) -> None:
    record = of(kind)
    assert record["status"] == "ok", record["error"]
    assert record["training"]["adapted_modules"] == adapted


def test_heads_wider_than_the_model_leave_no_layer_out() -> None:
    sizes = SIZES["llama"] | {"head_dim": 64}
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model("ernie4_5", **sizes))
    layers = dict.fromkeys(("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"), 2)
    assert adapted_modules(add_adapters(network, None, compose([]))) == layers


@pytest.mark.parametrize(
    ("kind", "override", "said"),
    [
        (
            "gpt2",
            "lora.target_modules=[c_attn,q_proj]",
            "lora.target_modules: got [c_attn,q_proj]; q_proj matches no linear layer of this model, which has "
            "c_attn, c_fc, c_proj",
        ),
        ("gpt2", "lora.r=33", "lora.r: got 33; c_attn of this model is 32 × 96, so at most 32 makes sense"),
        ("olmoe", "lora.target_modules=[q_proj,up_proj]", "lora.target_modules: got [q_proj,up_proj]; up_proj matches"),
        ("llama", "lora.target_modules=[q_proj,up]", "lora.target_modules: got ['q_proj', 'up']; choose from q_proj, "),
    ],
)
def test_what_cannot_be_adapted_is_refused(of: Make, kind: str, override: str, said: str) -> None:
    assert of(kind, override)["error"].startswith(said)


def test_some_of_the_layers_of_a_mixture_are_not_taken_for_all(made: Make) -> None:
    record = made("model=mixtral-8x7b", "model.shape.layers=1", "model.shape.hidden_size=32", "model.shape.heads=2",
                  "model.shape.kv_heads=1", "model.shape.head_dim=16", "model.shape.intermediate_size=32",
                  "model.shape.vocab_size=272", "model.weights=random", "model.id=null",
                  "lora.target_modules=[q_proj,up_proj]", "study=mixture")  # fmt: skip
    assert record["error"].endswith("; a model with experts is adapted in q_proj, k_proj, v_proj, o_proj")


def seeing() -> Any:
    """Gemma 3 with an image encoder, whose layers have names that those of the language model have as well."""
    text = {
        "vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("targets", ["all-linear", "[q_proj]"])
def test_an_image_encoder_gets_no_adapters(known: bool, targets: str) -> None:
    base = seeing()
    shape = shape_of_config(base.config) if known else None
    assert shape is not None or not known
    network = add_adapters(base, shape, compose(["lora.r=4", f"lora.target_modules={targets}"]))
    assert [name for name, module in network.named_modules() if hasattr(module, "lora_A") and "vision" in name] == []
    counts = adapted_modules(network)
    assert set(counts.values()) == {2}  # once in each layer
    assert len(counts) == (7 if targets == "all-linear" else 1)


def test_weights_that_texts_have_no_gradient_for_are_not_trained() -> None:
    network = seeing()
    train_all(network)
    ids = torch.arange(8)[None]
    network(input_ids=ids, labels=ids, token_type_ids=torch.zeros_like(ids)).loss.backward()
    named = dict(network.named_parameters())
    assert {n for n, p in named.items() if p.requires_grad} == {n for n, p in named.items() if p.grad is not None}
    assert any("vision" in name for name, parameter in named.items() if not parameter.requires_grad)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("llama", None),
        ("gpt2", None),
        ("olmoe", None),
        ("opt", "sees the sample before it in the row"),
        ("lfm2", "sees the sample before it in the row"),
    ],
)
@pytest.mark.parametrize("rows", [1, 4])
def test_packed_samples_are_kept_apart_or_refused(of: Make, kind: str, why: str | None, rows: int) -> None:
    record = of(kind, "packing=true", f"batch_size={rows}")
    if why is None:
        assert record["status"] == "ok", record["error"]
    else:
        assert record["error"].startswith("packing: got true; a sample in a packed row of ")
        assert f"({kind}) {why}; use packing=false" in record["error"]
