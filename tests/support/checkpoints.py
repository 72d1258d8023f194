"""Checkpoints of a few thousand weights, made on the spot, with the byte tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lora_scaling.training.bytes_tokenizer import bytes_tokenizer

State = dict[str, torch.Tensor]
# The smallest of each architecture; the byte tokenizer has 262 tokens.
SIZES: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
    },
    "gpt2": {"vocab_size": 272, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256},
    "gemma2": {
        "vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "query_pre_attn_scalar": 16,
    },
    "gpt_neo": {
        "vocab_size": 272, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global"], 2]],
        "max_position_embeddings": 256,
    },
    "bloom": {"vocab_size": 272, "hidden_size": 32, "n_layer": 2, "n_head": 2},
    "opt": {
        "vocab_size": 272, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "word_embed_proj_dim": 32, "max_position_embeddings": 256,
    },
    "olmoe": {
        "vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 4, "num_experts_per_tok": 2,
    },
    "lfm2": {
        "vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "layer_types": ["conv", "full_attention"],
    },
    "qwen3_5_text": {
        "vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"],
    },
    "falcon": {"vocab_size": 272, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "ctrl": {"vocab_size": 272, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "dff": 48},
    "mamba": {"vocab_size": 272, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}  # fmt: skip


def small_config(kind: str, **changes: Any) -> Any:
    return AutoConfig.for_model(kind, **(SIZES[kind] | changes))


def save_checkpoint(
    folder: Path, kind: str = "llama", *, change: Callable[[State], State] | None = None, **changes: Any
) -> Path:
    """Save a model of random weights and its tokenizer; `change` maps its weights to those that are stored."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(small_config(kind, **changes))
    state = None if change is None else change({name: tensor.clone() for name, tensor in network.state_dict().items()})
    network.save_pretrained(folder, state_dict=state)
    bytes_tokenizer().save_pretrained(folder)
    return folder
