"""Build base models from a shape or load them from a checkpoint, quantise them, and attach adapters."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from lora_scaling.config import ModelConfig, RunConfig
from lora_scaling.errors import UserError
from lora_scaling.training.bytes_tokenizer import bytes_tokenizer
from lora_scaling.training.device import Device
from lora_scaling.training.sharding import loads_weights, refuse_impossible_sharding
from lora_scaling.workload import ARCHITECTURES, ModelShape, shape_of

# From a folder without tokenizer files, transformers makes a tokenizer with a few marks instead of an error.
_LEAST_VOCABULARY = 64
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A model without adapters, its tokenizer, and its shape if the architecture is known."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    shape: ModelShape | None
    tokenizer_name: str


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
    shape = _checked_shape(model, hf_config)
    dtype = DTYPES[_weight_precision(config, device)]
    if not loads_weights(config):
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(hf_config, dtype=dtype, attn_implementation="sdpa")
    elif model.weights == "random":
        set_seed(config.seed)
        network = AutoModelForCausalLM.from_config(hf_config, dtype=dtype, attn_implementation="sdpa")
    else:
        network = _pretrained(config, dtype, device)
    if config.method.name == "qlora" and not getattr(network, "is_quantized", False):
        _quantize(network, dtype)
    if config.method.name == "qlora":
        _keep_trainable(network)
    network.config.use_cache = False  # samples packed into a row are kept apart only without a cache
    tokenizer, name = _tokenizer(model, hf_config)
    if config.sharding == "none":
        network.to(device.torch_device)  # pyright: ignore[reportArgumentType] - transformers wraps it
    return BaseModel(model=network, tokenizer=tokenizer, shape=shape, tokenizer_name=name)


def _weight_precision(config: RunConfig, device: Device) -> str:
    """Return the type of the weights: 16 bits if possible. Full fp16 needs 32-bit weights to unscale its gradients."""
    if config.method.name == "full" and device.precision == "fp16":
        return "fp32"
    return device.precision


def attach(base: BaseModel, config: RunConfig) -> nn.Module:
    """Return the trainable model: the base itself for `full`, or the base with new adapters, seeded by the run.

    Raises:
        UserError: the model has none of the target modules.
    """
    set_seed(config.seed)
    network = base.model
    if config.method.name == "full":
        network.requires_grad_(True)
        return network
    from peft import LoraConfig, get_peft_model

    targets: str | list[str] = list(config.lora.targets)
    if base.shape is not None:
        targets = [m.name for m in config.tuning.adapters(base.shape)]
    elif config.lora.target_modules == "all-linear":
        targets = "all-linear"
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
            return get_peft_model(network, lora)  # type: ignore[arg-type]
    except ValueError as error:
        names = sorted({n.rpartition(".")[2] for n, m in network.named_modules() if isinstance(m, nn.Linear)})
        raise UserError(
            f"lora.target_modules: got {config.lora.target_modules}; this model has {', '.join(names)} ({error})"
        ) from None


def detach(network: nn.Module, base: BaseModel) -> None:
    """Remove the adapters, and leave the base as it was before `attach`."""
    if network is not base.model:
        network.unload()  # type: ignore[operator]
        # Trainer turns checkpointing on but never off, so the next run would recompute without being asked to.
        base.model.activation_checkpointing_disable()
        base.model.disable_input_require_grads()
        if hasattr(base.model, "peft_config"):
            del base.model.peft_config


def parameter_counts(network: nn.Module) -> tuple[int, int]:
    """Return (all, trainable) parameters. 4-bit weights count as what they represent; `all` excludes adapters."""
    total = trainable = 0
    for name, parameter in network.named_parameters():
        count = parameter.numel()
        if parameter.__class__.__name__ == "Params4bit":
            state = getattr(parameter, "quant_state", None)
            count = state.shape.numel() if state is not None else 2 * count
        if "lora_" not in name:
            total += count
        if parameter.requires_grad:
            trainable += parameter.numel()
    return total, trainable


def transformers_config(model: ModelConfig) -> PretrainedConfig:
    """Return the configuration: from the stated shape for random weights, otherwise from the checkpoint."""
    if model.weights == "random" and model.shape is not None:
        return config_of_shape(model.shape)
    source, options = _source(model)
    with _friendly_hub_errors(model):
        return AutoConfig.from_pretrained(source, **options)


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
    if shape.architecture == "mixtral":
        fields |= {"num_local_experts": shape.experts, "num_experts_per_tok": shape.experts_per_token}
    if shape.architecture in ("mistral", "mixtral"):
        fields["sliding_window"] = None
    try:
        return AutoConfig.for_model(shape.architecture, **fields)
    except ValueError:
        raise UserError(
            f"model.shape.architecture: got {shape.architecture!r}; choose one of {', '.join(ARCHITECTURES)}"
        ) from None


def shape_of_config(config: PretrainedConfig) -> ModelShape | None:
    """Return the shape of a checkpoint's configuration, or None for an unsupported architecture."""
    return shape_of(config.to_dict())


_WORKING_FIELDS = (
    "architecture", "layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "head_dim", "vocab_size",
    "tied_embeddings", "experts", "experts_per_token",
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


def _pretrained(config: RunConfig, dtype: torch.dtype, device: Device) -> PreTrainedModel:
    source, options = _source(config.model)
    if config.method.name == "qlora" and config.model.gguf_file is None:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        # Accelerate compares this with the device index of the process.
        options["device_map"] = {"": torch.cuda.current_device() if device.kind == "cuda" else device.torch_device}
    with _friendly_hub_errors(config.model):
        network = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="sdpa", **options)
    if config.model.gguf_file is not None:
        _forget_quantization(network)
    return network


def _forget_quantization(network: PreTrainedModel) -> None:
    """Mark a GGUF model as not quantised. Its weights are unpacked, but transformers would still refuse to train it."""
    for owner, name in (
        (network, "hf_quantizer"),
        (network, "quantization_method"),
        (network.config, "quantization_config"),
    ):
        if hasattr(owner, name):
            delattr(owner, name)
    network.is_quantized = False  # type: ignore[assignment]


def _source(model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Return the arguments of `from_pretrained` for this model."""
    if model.gguf_file is not None:
        path = Path(model.gguf_file).expanduser()
        if not path.is_file():
            raise UserError(f"model.gguf_file: got {model.gguf_file}, which does not exist; give a GGUF file")
        try:
            import gguf  # noqa: F401
        except ImportError:
            raise UserError(
                "model.gguf_file: needs the packages gguf and sentencepiece; pip install 'lora-scaling[gguf]'"
            ) from None
        return str(path.parent), {"gguf_file": path.name}
    if model.id is None:
        raise UserError(
            f"model.id: got null for {model.name}; give the id of the pretrained weights, or model.weights=random"
        )
    return model.id, {"revision": model.revision} if model.revision else {}


def _tokenizer(model: ModelConfig, config: PretrainedConfig) -> tuple[PreTrainedTokenizerBase, str]:
    """Load the checkpoint's tokenizer, or the built-in byte tokenizer for random weights without one."""
    if model.id is not None or model.gguf_file is not None:
        source, options = _source(model)
        local = Path(source).is_dir()
        try:
            with _friendly_hub_errors(model):
                # Random weights must work offline, so look only at local files.
                offline = model.weights == "random" and not local
                tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=offline, **options)
            if len(tokenizer) < _LEAST_VOCABULARY:
                raise UserError(f"model.id: got {source}, which holds no tokenizer; add its files")
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            return tokenizer, model.gguf_file or source
        except UserError:
            if model.weights != "random":
                raise
    tokenizer = bytes_tokenizer()
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"model.shape.vocab_size: got {config.vocab_size}; the byte tokenizer needs {len(tokenizer)} or more"
        )
    return tokenizer, "bytes"


@contextmanager
def _friendly_hub_errors(model: ModelConfig) -> Iterator[None]:
    """Turn the errors of `from_pretrained` for a missing, gated or broken checkpoint into one sentence."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(_explain(model, error)) from None


def _explain(model: ModelConfig, error: Exception) -> str:
    name = model.gguf_file or model.id
    field = "model.gguf_file" if model.gguf_file else "model.id"
    text = str(error)
    if "gated" in text.lower() or "401" in text or "403" in text:
        return f"{field}: got {name}, which needs permission: accept its licence on the hub and set HF_TOKEN"
    if "offline" in text.lower() or "connect" in text.lower() or "couldn't" in text.lower():
        return (
            f"{field}: got {name}, which is neither a local folder nor cached, and the hub cannot be reached; "
            "download it first, or say model.weights=random for its shape alone"
        )
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"{field}: got {name}, which cannot be loaded: {first}"


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
