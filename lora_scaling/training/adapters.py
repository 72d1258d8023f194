"""Choose what is trained: all weights, or adapters on layers chosen by one rule for every architecture."""

import warnings
from collections import Counter
from collections.abc import Collection, Mapping

from torch import nn
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from lora_scaling.config import RunConfig
from lora_scaling.errors import UserError
from lora_scaling.workload import ModelShape

# Where a layer's experts and their router are; what every token passes beside them is left alone as well, because
# PEFT takes names such as gate_proj for those of the experts.
_EXPERT_PARTS = frozenset(("mlp", "experts", "block_sparse_moe", "feed_forward", "moe", "mixer_experts"))
# The fused kernels of Mamba read this layer's weight by themselves, so that PEFT refuses it.
_FUSED = {"out_proj"}
_MAMBA = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")


def add_adapters(network: PreTrainedModel, shape: ModelShape | None, config: RunConfig) -> nn.Module:
    """Return the model with new adapters, seeded by the run.

    Raises:
        UserError: a target matches no layer, or the rank exceeds a matrix.
    """
    from peft import LoraConfig, get_peft_model

    set_seed(config.seed)
    if shape is None:
        targets = _targets(network, config)
    else:
        wanted = {module.name for module in config.tuning.adapters(shape)}
        targets = _names(network, [name for name in _linear(network) if name.rpartition(".")[2] in wanted] or wanted)
    lora = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora.dropout,
        target_modules=targets,
        use_dora=config.lora.use_dora,
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 uses the old name of a property that transformers 5.23 renamed.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            # It tells which way a Conv1D stores its weights from the module, and warns.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            return get_peft_model(network, lora)  # type: ignore[arg-type]
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"lora.target_modules: got {_shown(config)}; this model has {_listed(_linear(network))} ({reason})"
        ) from None


def adapted_modules(network: nn.Module) -> dict[str, int]:
    """Count the layers that carry an adapter, by the last part of their names."""
    names = (name.rpartition(".")[2] for name, module in network.named_modules() if hasattr(module, "lora_A"))
    return dict(sorted(Counter(names).items()))


def train_all(network: PreTrainedModel) -> None:
    """Train all weights that texts have gradients for: not those of an image or sound encoder."""
    network.requires_grad_(True)
    base, decoder = network.base_model, network.get_decoder()
    read = {id(parameter) for parameter in decoder.parameters()}
    if decoder is not base and read:
        for parameter in base.parameters():
            if id(parameter) not in read:
                parameter.requires_grad_(False)


def _targets(network: PreTrainedModel, config: RunConfig) -> list[str]:
    """Return the names of the layers to adapt: short ones where they mean just these layers."""
    linear = _linear(network)
    if config.lora.target_modules == "all-linear":
        chosen = _all_linear(network, linear)
        if not chosen:
            raise UserError(f"lora.target_modules: got all-linear; this model has {_listed(linear)}: name some of them")
    else:
        wanted = config.lora.targets
        matched = {target: [name for name in linear if f".{name}".endswith(f".{target}")] for target in wanted}
        if nothing := [target for target, names in matched.items() if not names]:
            raise UserError(
                f"lora.target_modules: got {_shown(config)}; {', '.join(nothing)} matches no linear layer of this "
                f"model, which has {_listed(linear)}"
            )
        chosen = {name: linear[name] for names in matched.values() for name in names}
    name, module = min(chosen.items(), key=lambda item: min(_sizes(item[1])))
    inputs, outputs = _sizes(module)
    if config.lora.r > min(inputs, outputs):
        raise UserError(
            f"lora.r: got {config.lora.r}; {name.rpartition('.')[2]} of this model is {inputs} × {outputs}, "
            f"so at most {min(inputs, outputs)} makes sense"
        )
    return _names(network, chosen)


def _names(network: PreTrainedModel, chosen: Collection[str]) -> list[str]:
    """Return the last parts of the names of layers where they mean just these layers, and the whole names otherwise.

    An image encoder has layers of the same names, and PEFT would take a number for that of a layer as well.
    """
    short = {name.rpartition(".")[2] for name in chosen}
    linear = (name for name, module in network.named_modules() if isinstance(module, (nn.Linear, Conv1D)))
    meant = {name for name in linear if name.rpartition(".")[2] in short}
    return sorted(short if meant == set(chosen) and not any(name.isdigit() for name in short) else chosen)


def _linear(network: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the linear layers of the language model by name, without the head. GPT-2's are `Conv1D`."""
    head, decoder = network.get_output_embeddings(), network.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and id(module) in inside
    }


def _all_linear(network: PreTrainedModel, linear: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return every linear layer inside the layers of the model; in a model with experts, those of attention alone.

    Gates narrower than one attention head are left out: one number for each head has no use for an adapter.
    """
    refused = _FUSED if network.config.model_type in _MAMBA else set()
    head = _head_size(network)
    chosen = {
        name: module
        for name, module in linear.items()
        if any(part.isdigit() for part in name.split(".")[:-1])
        and name.rpartition(".")[2] not in refused
        and min(_sizes(module)) >= head
    }
    if not any("expert" in part for name, _ in network.named_modules() for part in name.split(".")):
        return chosen
    return {name: module for name, module in chosen.items() if not _EXPERT_PARTS & set(name.split("."))}


def _head_size(network: PreTrainedModel) -> int:
    """Return the width of an attention head, at most that of the model; 0 in a model without attention."""
    config = network.config.get_text_config()
    size, heads = getattr(config, "head_dim", None), getattr(config, "num_attention_heads", None)
    if isinstance(size, int):
        return min(size, config.hidden_size)
    return config.hidden_size // heads if isinstance(heads, int) and heads > 0 else 0


def _sizes(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    inputs, outputs = module.weight.shape  # type: ignore[union-attr]
    return int(inputs), int(outputs)  # pyright: ignore[reportArgumentType]


def _listed(linear: Mapping[str, nn.Module]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in linear})) or "no linear layer"


def _shown(config: RunConfig) -> str:
    targets = config.lora.target_modules
    return targets if isinstance(targets, str) else f"[{','.join(targets)}]"
