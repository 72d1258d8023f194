"""List the architectures whose work can be computed, and read a shape from a checkpoint's `config.json`."""

from collections.abc import Mapping
from typing import Any

from lora_scaling.workload.shape import ModelShape

ARCHITECTURES = ("llama", "mistral", "mixtral", "qwen2")


def shape_of(values: Mapping[str, Any]) -> ModelShape | None:
    """Return the shape in a `transformers` configuration, or None for an architecture that is not supported.

    Raises:
        KeyError, TypeError: a width is missing.
    """
    architecture = values.get("model_type")
    if architecture not in ARCHITECTURES:
        return None
    if values.get("attention_bias") or values.get("mlp_bias"):
        return None  # variants of Llama with a bias on every projection
    heads, experts = values["num_attention_heads"], architecture == "mixtral"
    optional = {"max_positions": values.get("max_position_embeddings")}
    if experts:
        optional |= {"experts": values["num_local_experts"], "experts_per_token": values["num_experts_per_tok"]}
    return ModelShape(
        architecture=architecture,
        layers=values["num_hidden_layers"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        vocab_size=values["vocab_size"],
        tied_embeddings=bool(values.get("tie_word_embeddings", False)),
        attention_bias=architecture == "qwen2",
        **{name: value for name, value in optional.items() if value is not None},
    )
