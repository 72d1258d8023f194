"""List the architectures whose work can be computed, and read a shape from a checkpoint's `config.json`."""

from collections.abc import Mapping
from typing import Any

from lora_scaling.workload.shape import ModelShape

ARCHITECTURES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "phi3", "gpt_oss", "smollm3",
    "llama4_text", "deepseek_v3", "olmo2", "granite",
)  # fmt: skip
# Models that also see or hear, whose text is read by one of these.
_TEXT_OF = {"mistral3": "mistral", "gemma3": "gemma3_text", "llama4": "llama4_text"}
# The same matrices by another name.
_SAME_AS = {"kimi_k2": "deepseek_v3", "olmo3": "olmo2"}
# What the configurations of Gemma 3 leave out is that of transformers' Gemma3TextConfig.
_LEFT_OUT = {"gemma3_text": {"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}}
_TIED = ("gemma2", "gemma3_text", "smollm3")  # unless they say otherwise


def shape_of(values: Mapping[str, Any]) -> ModelShape | None:
    """Return the shape in a `transformers` configuration, or None for an architecture that is not supported.

    Of a model that also sees or hears, it is the shape of its text model.

    Raises:
        KeyError, TypeError: a width is missing.
    """
    architecture = values.get("model_type")
    architecture = _SAME_AS.get(str(architecture), architecture)
    if architecture in _TEXT_OF and isinstance(values.get("text_config"), Mapping):
        text = values["text_config"]
        return shape_of({**text, "model_type": text.get("model_type") or _TEXT_OF[architecture]})
    if architecture not in ARCHITECTURES:
        return None
    if (values.get("attention_bias") and architecture != "gpt_oss") or values.get("mlp_bias"):
        return None  # variants of Llama with a bias on every projection
    values = {**_LEFT_OUT.get(str(architecture), {}), **values}
    heads = values["num_attention_heads"]
    optional = {"max_positions": values.get("max_position_embeddings"), **_experts(architecture, values)}
    if architecture == "deepseek_v3":
        optional |= {
            "query_rank": values.get("q_lora_rank") or 0,
            "key_value_rank": values["kv_lora_rank"],
            "rope_size": values["qk_rope_head_dim"],
            "value_size": values["v_head_dim"],
        }
        head_dim = values["qk_nope_head_dim"] + values["qk_rope_head_dim"]
    else:
        head_dim = values.get("head_dim") or values["hidden_size"] // heads
    tied = values.get("tie_word_embeddings")
    dense_width = values.get("intermediate_size_mlp") if architecture == "llama4_text" else None
    return ModelShape(
        architecture=architecture,
        layers=values["num_hidden_layers"],
        hidden_size=values["hidden_size"],
        intermediate_size=dense_width or values["intermediate_size"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        vocab_size=values["vocab_size"],
        tied_embeddings=architecture in _TIED if tied is None else bool(tied),
        attention_bias=architecture == "qwen2",
        **{name: value for name, value in optional.items() if value is not None},
    )


def _experts(architecture: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration says of its experts; nothing for a model without them."""
    layers = values["num_hidden_layers"]
    if architecture in ("mixtral", "gpt_oss"):
        return {"experts": values["num_local_experts"], "experts_per_token": values["num_experts_per_tok"]}
    if architecture == "qwen3_moe":
        step, dense = values.get("decoder_sparse_step") or 1, set(values.get("mlp_only_layers") or ())
        dense |= {i for i in range(layers) if (i + 1) % step}
        return {
            "experts": values.get("num_experts") or values["num_local_experts"],
            "experts_per_token": values["num_experts_per_tok"],
            "expert_size": values["moe_intermediate_size"],
            "dense_layers": len(dense),
            "dense_first": 0 in dense or not dense,
        }
    if architecture == "llama4_text":
        step = values.get("interleave_moe_layer_step") or 1
        sparse = values.get("moe_layers") or list(range(step - 1, layers, step))
        return {
            "experts": values["num_local_experts"],
            "experts_per_token": values["num_experts_per_tok"],
            "expert_size": values["intermediate_size"],
            "shared_size": values["intermediate_size"],
            "dense_layers": layers - len(sparse),
            "dense_first": 0 not in sparse or len(sparse) == layers,
        }
    if architecture == "deepseek_v3":
        return {
            "experts": values["n_routed_experts"],
            "experts_per_token": values["num_experts_per_tok"],
            "expert_size": values["moe_intermediate_size"],
            "shared_size": (values.get("n_shared_experts") or 0) * values["moe_intermediate_size"],
            "dense_layers": min(layers, values.get("first_k_dense_replace") or 0),
        }
    return {}
