"""Build base models from a shape or load them from a checkpoint, quantise them, and attach adapters."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from lora_scaling.config import ModelConfig, RunConfig
from lora_scaling.errors import UserError
from lora_scaling.training.adapters import add_adapters, train_all
from lora_scaling.training.attention import attention_kernel
from lora_scaling.training.bytes_tokenizer import bytes_tokenizer
from lora_scaling.training.checkpoints import (
    checkpoint_config,
    friendly_loading_errors,
    load_pretrained,
    local_folder,
    quantization_of,
    refuse_quantized,
    source,
)
from lora_scaling.training.device import Device
from lora_scaling.training.sharding import loads_weights, refuse_impossible_sharding
from lora_scaling.workload import ARCHITECTURES, ModelShape, shape_of

# From a folder without tokenizer files, transformers makes a tokenizer with a few marks instead of an error.
_LEAST_VOCABULARY = 64
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A model without adapters, its tokenizer, and its shape if the architecture is known.

    unused: names of weights in the checkpoint that the model has no place for.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    shape: ModelShape | None
    tokenizer_name: str
    unused: tuple[str, ...] = ()


def load_base(config: RunConfig, device: Device) -> BaseModel:
    """Build or load the model of a run on its device, with frozen weights in the precision of the run.

    A model that will be sharded stays in the host memory of the first process; the other processes have no weights.

    Raises:
        UserError: the model does not exist, needs a token, differs from its stated shape, or cannot be quantised.
    """
    model = config.model
    refuse_impossible_sharding(config)
    if config.method.name == "qlora":
        _require_bitsandbytes(device)
    hf_config = transformers_config(model)
    _refuse_encoder(model, hf_config)
    shape = _checked_shape(model, hf_config)
    refuse_quantized(config, hf_config)
    dtype = DTYPES[_weight_precision(config, device)]
    kernel = attention_kernel(config, hf_config, device)
    unused: list[str] = []
    if not loads_weights(config):
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(hf_config, dtype=dtype, attn_implementation=kernel)
    elif model.weights == "random":
        set_seed(config.seed)
        # On a GPU without passing through the host's memory, but for those that are quantised on the way.
        there = device.kind == "cuda" and config.method.name != "qlora" and config.sharding == "none"
        with device.torch_device if there else nullcontext():
            network = AutoModelForCausalLM.from_config(hf_config, dtype=dtype, attn_implementation=kernel)
    else:
        network, unused = load_pretrained(config, hf_config, dtype, device, attn_implementation=kernel)
    if config.method.name == "qlora":
        if quantization_of(network) is None:
            _quantize(network, dtype)  # transformers leaves out linear layers of an architecture's own class
        if quantization_of(network) is None:
            raise UserError(
                f"method: got qlora; none of the layers of {config.model.name} can be quantised here; use method=lora"
            )
        _keep_trainable(network)
    network.config.use_cache = False  # samples packed into a row are kept apart only without a cache
    tokenizer, name = _tokenizer(model, hf_config)
    if config.sharding == "none":
        network.to(device.torch_device)  # pyright: ignore[reportArgumentType] - transformers wraps it
    return BaseModel(model=network, tokenizer=tokenizer, shape=shape, tokenizer_name=name, unused=tuple(unused))


def _weight_precision(config: RunConfig, device: Device) -> str:
    """Return the type of the weights. Those that are trained have 32 bits, unless `pure_bf16` is asked for.

    In 16 bits a step smaller than 1/256 of a weight is lost, and gradients in fp16 could not be unscaled.

    Raises:
        UserError: `pure_bf16` is asked for in another precision.
    """
    if config.method.name != "full":
        return device.precision
    if not config.pure_bf16:
        return "fp32"
    if device.precision != "bf16":
        raise UserError(
            f"pure_bf16: got true, and precision={config.precision} is {device.precision} on this device; "
            "say precision=bf16, or leave it out"
        )
    return "bf16"


def attach(base: BaseModel, config: RunConfig) -> nn.Module:
    """Return the trainable model: the base itself for `full`, or the base with new adapters, seeded by the run.

    Raises:
        UserError: a target matches no layer of the model, or the rank exceeds a matrix.
    """
    set_seed(config.seed)
    if config.method.name == "full":
        train_all(base.model)
        return base.model
    return add_adapters(base.model, base.shape, config)


def detach(network: nn.Module, base: BaseModel) -> None:
    """Remove the adapters, and leave the base as it was before `attach`."""
    if network is not base.model:
        network.unload()  # type: ignore[operator]
        # Trainer turns checkpointing on but never off, so the next run would recompute without being asked to.
        base.model.activation_checkpointing_disable()
        base.model.disable_input_require_grads()
        if hasattr(base.model, "peft_config"):
            del base.model.peft_config


def quantized_params(network: nn.Module) -> int:
    """Count the weights that are stored in 4 bits, as what they represent."""
    return sum(_represented(p) for p in network.parameters() if p.__class__.__name__ == "Params4bit")


def _represented(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else 2 * parameter.numel()


def parameter_counts(network: nn.Module) -> tuple[int, int]:
    """Return (all, trainable) parameters. 4-bit weights count as what they represent; `all` excludes adapters."""
    total = trainable = 0
    for name, parameter in network.named_parameters():
        count = parameter.numel()
        if parameter.__class__.__name__ == "Params4bit":
            count = _represented(parameter)
        if "lora_" not in name:
            total += count
        if parameter.requires_grad:
            trainable += parameter.numel()
    return total, trainable


def transformers_config(model: ModelConfig) -> PretrainedConfig:
    """Return the configuration: from the stated shape for random weights, otherwise from the checkpoint."""
    if model.weights == "random" and model.shape is not None:
        return config_of_shape(model.shape)
    return checkpoint_config(model)


def config_of_shape(shape: ModelShape) -> PretrainedConfig:
    """Build a transformers configuration of this shape."""
    fields: dict[str, Any] = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tied_embeddings,
        "max_position_embeddings": shape.max_positions,
    }
    fields |= _own_fields(shape)
    try:
        return AutoConfig.for_model(shape.architecture, **fields)
    except ValueError:
        raise UserError(
            f"model.shape.architecture: got {shape.architecture!r}; choose one of {', '.join(ARCHITECTURES)}"
        ) from None


def _own_fields(shape: ModelShape) -> dict[str, Any]:
    """Return the fields that only this architecture has, or calls by other names."""
    fields: dict[str, Any] = {}
    if shape.experts > 1:
        fields["num_experts_per_tok"] = shape.experts_per_token
    match shape.architecture:
        case "mixtral" | "gpt_oss":
            fields["num_local_experts"] = shape.experts
        case "qwen3_moe":
            dense = range(shape.dense_layers) if shape.dense_first else range(1, 1 + shape.dense_layers)
            fields |= {"num_experts": shape.experts, "moe_intermediate_size": shape.expert_size}
            fields["mlp_only_layers"] = list(dense)
        case "llama4_text":
            dense = range(shape.dense_layers) if shape.dense_first else range(1, 1 + shape.dense_layers)
            fields |= {"num_local_experts": shape.experts, "intermediate_size": shape.expert_size}
            fields["intermediate_size_mlp"] = shape.intermediate_size
            fields["moe_layers"] = [i for i in range(shape.layers) if i not in dense]
        case "deepseek_v3":
            width = shape.expert_size
            fields |= {"n_routed_experts": shape.experts, "moe_intermediate_size": width}
            fields |= {"n_shared_experts": shape.shared_size // width, "first_k_dense_replace": shape.dense_layers}
            fields |= {"q_lora_rank": shape.query_rank or None, "kv_lora_rank": shape.key_value_rank}
            fields |= {"qk_rope_head_dim": shape.rope_size, "qk_nope_head_dim": shape.head_dim - shape.rope_size}
            fields |= {"v_head_dim": shape.value_size, "head_dim": shape.rope_size}
        case "phi3" | "smollm3" | "granite" | "olmo2" | "gemma2" | "gemma3_text":
            fields["pad_token_id"] = 0
        case _:
            pass
    if shape.architecture in ("mistral", "mixtral"):
        fields["sliding_window"] = None
    return fields


def shape_of_config(config: PretrainedConfig) -> ModelShape | None:
    """Return the shape of a checkpoint's configuration, or None for an unsupported architecture."""
    return shape_of(config.to_dict())


def _refuse_encoder(model: ModelConfig, config: PretrainedConfig) -> None:
    """Refuse a model such as BERT, which transformers builds for texts to be continued, and lets see what follows."""
    # GPT-NeoX has the switch as well, and looks back alone; what learns to fill in masked words looks both ways.
    fills_in = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if fills_in and getattr(config, "is_decoder", None) is False and not config.is_encoder_decoder:
        raise UserError(
            f"model.id: got {model.id or model.name}, an encoder ({config.model_type}) whose tokens see those that "
            "follow them, and have nothing to predict; give a model that continues texts"
        )


_WORKING_FIELDS = (
    "architecture", "layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "head_dim", "vocab_size",
    "tied_embeddings", "experts", "experts_per_token", "expert_size", "shared_size", "dense_layers",
)  # fmt: skip


def _checked_shape(model: ModelConfig, config: PretrainedConfig) -> ModelShape | None:
    real = shape_of_config(config)
    if real is None or model.shape is None:
        return real
    for field in _WORKING_FIELDS:
        stated, found = getattr(model.shape, field), getattr(real, field)
        if stated != found:
            raise UserError(
                f"model.shape.{field}: got {stated}, but {model.id or model.name} has {found}; correct the model's YAML"
            )
    return real


def _tokenizer(model: ModelConfig, config: PretrainedConfig) -> tuple[PreTrainedTokenizerBase, str]:
    """Load the checkpoint's tokenizer, or the built-in byte tokenizer for random weights without one."""
    if model.id is not None or model.gguf_file is not None:
        name, options = source(model)
        folder = local_folder(model)
        try:
            if folder is not None and model.gguf_file is None and not _holds_tokenizer(folder):
                raise UserError(f"model.id: got {model.id}, which holds no tokenizer; add its files")
            with friendly_loading_errors(model):
                # Random weights must work offline, so look only at local files.
                offline = model.weights == "random" and folder is None
                tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=offline, **options)
            if len(tokenizer) < _LEAST_VOCABULARY:
                raise UserError(f"model.id: got {model.id or name}, which holds no tokenizer; add its files")
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            return tokenizer, model.gguf_file or model.id or name
        except UserError:
            if model.weights != "random":
                raise
    tokenizer = bytes_tokenizer()
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"model.shape.vocab_size: got {config.vocab_size}; the byte tokenizer needs {len(tokenizer)} or more"
        )
    return tokenizer, "bytes"


def _holds_tokenizer(folder: Path) -> bool:
    """Return whether a folder has a file of a tokenizer; without one, transformers looks for it on the hub."""
    patterns = ("tokenizer*", "vocab*", "merges*", "*.model", "*.tiktoken", "added_tokens*", "tekken*")
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _require_bitsandbytes(device: Device) -> None:
    try:
        import bitsandbytes as bnb
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(f"method: got qlora, which needs bitsandbytes here ({error}); use method=lora") from None
    supported = getattr(bnb, "supported_torch_devices", {"cuda", "cpu"})
    if device.kind not in supported:
        raise UserError(
            f"method: got qlora; bitsandbytes quantises on "
            f"{', '.join(sorted(supported))}, not on {device.kind}: use method=lora"
        )


def _keep_trainable(network: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking weights for inference when a CPU evaluates.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks them permanently, and the packed product has no gradient. After
    an evaluation, training would then silently leave all but the last adapters unchanged.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - not one of nn.Module's own


def _quantize(network: PreTrainedModel, dtype: torch.dtype) -> None:
    """Replace the linear layers (but not the head) by NF4 layers, for weights that do not come from a checkpoint."""
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    replaced = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    ]
    for name, module in replaced:
        parent, _, leaf = name.rpartition(".")
        quantized = Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=dtype,
            quant_type="nf4",
            compress_statistics=True,
        )
        quantized.weight = Params4bit(
            module.weight.data,
            requires_grad=False,
            quant_type="nf4",  # pyright: ignore[reportCallIssue]  (taken by __new__)
            compress_statistics=True,  # pyright: ignore[reportCallIssue]
        )
        if module.bias is not None:
            quantized.bias = nn.Parameter(module.bias.data, requires_grad=False)
        setattr(network.get_submodule(parent), leaf, quantized)
