"""Our arithmetic against transformers' and PEFT's own counts, for every preset, without weights."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

import lora_scaling.training  # noqa: F401 - quiets the libraries
from lora_scaling.config import compose
from lora_scaling.paths import choices
from lora_scaling.training.models import config_of_shape, shape_of_config
from lora_scaling.workload import LINEAR, MLP, Tuning, shape_of

PRESETS = [name for name in choices("model") if name not in ("hub", "gguf", "shape")]


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_agree_exactly(name: str) -> None:
    shape = compose([f"model={name}"]).model.shape
    assert shape is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of_shape(shape))
    assert model.num_parameters() == shape.params
    assert shape_of_config(model.config) == shape
    assert shape_of(config_of_shape(shape).to_dict()) == shape
    linear = [m for n, m in model.named_modules() if type(m) is torch.nn.Linear and not n.endswith("lm_head")]
    assert sum(m.in_features * m.out_features for m in linear) == shape.linear_params  # what bitsandbytes replaces
    for targets in (LINEAR, ("q_proj", "v_proj"), ("down_proj",), ("qkv_proj",)):
        tuning = Tuning(method="lora", rank=8, targets=targets)
        held = {m.name for m in shape.linear if shape.experts == 1 or m.name not in MLP}
        if not held & set(targets):
            continue  # experts carry no adapters, and some models fuse queries, keys and values
        names = {matmul.name for matmul in tuning.adapters(shape)}
        adapted = [m for n, m in model.named_modules() if type(m) is torch.nn.Linear and n.rpartition(".")[2] in names]
        assert sum(8 * (m.in_features + m.out_features) for m in adapted) == tuning.trainable_params(shape)
        small = replace(shape, layers=shape.dense_layers + 1)  # layers of a kind are alike: PEFT takes a second for 80
        with torch.device("meta"):
            few = AutoModelForCausalLM.from_config(config_of_shape(small))
            layer = get_peft_model(few, LoraConfig(r=8, target_modules=sorted(names)))
        assert layer.get_nb_trainable_parameters()[0] == tuning.trainable_params(small)


def test_the_text_of_a_model_that_also_sees_is_read() -> None:
    """As the configurations of Mistral Small 3.1 and Gemma 3 are written, the latter without its heads."""
    mistral = {"model_type": "mistral", "num_hidden_layers": 40, "hidden_size": 5120, "intermediate_size": 32768,
               "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
               "max_position_embeddings": 131072}  # fmt: skip
    gemma = {"model_type": "gemma3_text", "num_hidden_layers": 34, "hidden_size": 2560, "intermediate_size": 10240,
             "max_position_embeddings": 131072}  # fmt: skip
    for outer, text, preset in (("mistral3", mistral, "mistral-small-24b"), ("gemma3", gemma, "gemma-3-4b")):
        shape = shape_of({"model_type": outer, "text_config": text, "vision_config": {}})
        assert shape == compose([f"model={preset}"]).model.shape


@pytest.mark.parametrize(
    "changes", [{"model_type": "gpt2"}, {"model_type": None}, {"attention_bias": True}, {"mlp_bias": True}]
)
def test_what_the_arithmetic_does_not_know_has_no_shape(changes: dict[str, object]) -> None:
    shape = compose(["model=llama-3.2-1b"]).model.shape
    assert shape is not None
    values = config_of_shape(shape).to_dict()
    assert shape_of(values) == shape
    assert shape_of(values | changes) is None


def test_an_architecture_of_the_same_matrices_by_another_name_is_counted() -> None:
    """Olmo 3 by transformers' own class, and Kimi K2, whose configuration is DeepSeek-V3's under its own name."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 1000, "eos_token_id": 1, "tie_word_embeddings": False}  # fmt: skip
    config = AutoConfig.for_model("olmo3", **sizes)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    shape = shape_of(config.to_dict())
    assert shape is not None
    assert shape.params == parameters
    deepseek = compose(["model=deepseek-v3"]).model.shape
    assert deepseek is not None
    values = config_of_shape(deepseek).to_dict()
    assert shape_of(values | {"model_type": "kimi_k2"}) == deepseek


def test_flops_of_a_run_agree_with_torchs_counter(made, tiny) -> None:  # type: ignore[no-untyped-def]
    """One batch with eager attention, which torch counts in full, against the record of a run of that batch."""
    overrides = ("samples=4", "eval_samples=0", "padding=max_length", "max_seq_len=32", "study=flops")
    record = made(*overrides)
    shape = tiny(*overrides).model.shape
    assert shape is not None
    config = config_of_shape(shape)
    config._attn_implementation = "eager"
    model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=8, target_modules=list(LINEAR)))
    ids = torch.randint(0, 256, (4, 32))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    assert record["work"]["tokens_seen"] + record["work"]["tokens_padded"] == 4 * 32
    assert record["work"]["flops"] == pytest.approx(counter.get_total_flops(), rel=0.01)
