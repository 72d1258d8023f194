"""Load a checkpoint, or refuse it: with other keys or layers, quantised weights, broken files, or code of its own."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from lora_scaling.config import ModelConfig, RunConfig
from lora_scaling.errors import UserError
from lora_scaling.hub import out_of_reach
from lora_scaling.paths import gguf_path, in_home
from lora_scaling.text import printable
from lora_scaling.training.device import Device, is_out_of_memory

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 1024  # no pointer is longer
_NAMED = 3  # keys in a sentence


def source(model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Return the arguments of `from_pretrained` for this model. Code in the checkpoint is never run.

    Raises:
        UserError: the file does not exist, or the model names no checkpoint.
    """
    options: dict[str, Any] = {"trust_remote_code": False}
    if model.gguf_file is not None:
        path = gguf_path(model.gguf_file)
        try:
            import gguf  # noqa: F401
        except ImportError:
            raise UserError(
                "model.gguf_file: needs the packages gguf and sentencepiece; pip install 'lora-scaling[gguf]'"
            ) from None
        return str(path.parent), options | {"gguf_file": path.name}
    if model.id is None:
        raise UserError(
            f"model.id: got null for {model.name}; give the id of the pretrained weights, or model.weights=random"
        )
    folder = local_folder(model)
    if folder is not None:
        return str(folder), options
    return model.id, options | ({"revision": model.revision} if model.revision else {})


def local_folder(model: ModelConfig) -> Path | None:
    """Return the folder that `model.id` names; None for a name on the hub."""
    if model.id is None:
        return None
    folder = in_home(model.id)
    return folder if folder.is_dir() else None


def checkpoint_config(model: ModelConfig) -> PretrainedConfig:
    """Read the configuration of a checkpoint.

    Raises:
        UserError: there is none, or it is not usable without code of its own.
    """
    name, options = source(model)
    _refuse_unusable_folder(model)
    with friendly_loading_errors(model):
        return AutoConfig.from_pretrained(name, **options)


def refuse_quantized(config: RunConfig, stored: PretrainedConfig) -> None:
    """Refuse weights that are stored quantised in another way than the method trains on.

    Raises:
        UserError: the weights are in 4 bits and the method is not `qlora`, or they are quantised otherwise.
    """
    settings = getattr(stored, "quantization_config", None)
    if settings is None or config.model.weights == "random":
        return
    name = config.model.id or config.model.gguf_file
    values: Mapping[str, Any] = settings if isinstance(settings, Mapping) else settings.to_dict()
    if values.get("quant_method", "bitsandbytes") == "bitsandbytes" and values.get("load_in_4bit"):
        if config.method.name != "qlora":
            raise UserError(
                f"model.id: got {name}, whose weights are stored in 4 bits; "
                f"use method=qlora, or the checkpoint in 16 bits for method={config.method.name}"
            )
        return
    kind = values.get("quant_method", "8 bits")
    if kind == "mxfp4":
        return  # unpacked as it is loaded; what is loaded is checked again
    raise UserError(
        f"model.id: got {name}, whose weights are stored quantised ({_plain(kind)}); "
        "give the checkpoint in 16 or 32 bits, or one in bitsandbytes' 4 bits with method=qlora"
    )


def load_pretrained(
    config: RunConfig, stored: PretrainedConfig, dtype: torch.dtype, device: Device, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Load the weights of a checkpoint, all of them.

    Returns:
        The model, and the names of weights in the checkpoint that the model has no place for.

    Raises:
        UserError: weights are missing, do not fit, are broken, or are quantised otherwise than the method trains on.
    """
    name, more = source(config.model)
    if config.method.name == "qlora" and config.model.gguf_file is None:
        if getattr(stored, "quantization_config", None) is None:
            more["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        # Accelerate compares this with the device index of the process.
        more["device_map"] = {"": torch.cuda.current_device() if device.kind == "cuda" else device.torch_device}
    elif device.kind == "cuda" and config.model.gguf_file is None and config.sharding == "none":
        more["device_map"] = {"": torch.cuda.current_device()}  # file by file: the host never holds all of them
    with friendly_loading_errors(config.model):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **more, **options
        )
    network, found = loaded
    if getattr(network, "_hf_peft_config_loaded", False):
        raise UserError(f"model.id: got {name}, which holds an adapter; give the model that it was trained on")
    unused = _refuse_unfitting(config.model, network, found)
    if config.model.gguf_file is not None:
        _forget_quantization(network)
    elif config.method.name != "qlora" and getattr(network, "is_quantized", False):
        kind = _plain(getattr(network, "quantization_method", "unknown"))
        raise UserError(f"model.id: got {name}, which loads quantised ({kind}); give it in 16 or 32 bits")
    return network, unused


def _refuse_unfitting(model: ModelConfig, network: PreTrainedModel, found: Mapping[str, Any]) -> list[str]:
    """Refuse a checkpoint that leaves weights random, or holds weights of layers and matrices that the model lacks.

    Returns:
        The other weights of the checkpoint: those of parts that a language model does not have.
    """
    unexpected = sorted(map(str, found["unexpected_keys"]))
    unfitting = {
        "missing": sorted(map(str, found["missing_keys"])),
        "of another shape": [f"{key} ({_by(there)} for {_by(here)})" for key, there, here in found["mismatched_keys"]],
        "unexpected": [key for key in unexpected if _belongs(key, network)],
    }
    if unfitting["missing"]:  # then those may be the same weights under other names
        unfitting["unexpected"] = unexpected
    texts = [f"{what}: {_listed(keys)}" for what, keys in unfitting.items() if keys]
    if not texts:
        return unexpected
    field = "model.gguf_file" if model.gguf_file else "model.id"
    raise UserError(
        f"{field}: got {model.gguf_file or model.id}, whose weights do not fit its config.json as "
        f"{type(network).__name__} ({'; '.join(texts)}); give the whole checkpoint, or model.weights=random"
    )


def _belongs(key: str, network: PreTrainedModel) -> bool:
    """Return whether a weight is of a further layer like those of the model, or of a matrix that the model has."""
    pattern = re.sub(r"\.\d+\.", ".N.", key)
    if any(re.sub(r"\.\d+\.", ".N.", name) == pattern for name, _ in network.named_parameters()):
        return True
    try:
        owner = network.get_submodule(key.rpartition(".")[0])
    except AttributeError:
        return False
    return any(True for _ in owner.parameters(recurse=False))


def _listed(keys: Sequence[str]) -> str:
    shown = ", ".join(_plain(key) for key in keys[:_NAMED])
    return shown if len(keys) <= _NAMED else f"{shown} and {len(keys) - _NAMED} more"


def _plain(text: object) -> str:
    """Write a name from a checkpoint for a sentence: printable, and never long."""
    return printable(str(getattr(text, "value", text)))[:100]


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def quantization_of(network: nn.Module) -> str | None:
    """Return how the weights of a loaded network are quantised: `nf4`, `fp4`, or None."""
    for module in network.modules():
        if type(module).__name__ == "Linear4bit":
            return str(getattr(module.weight, "quant_type", "4 bits"))
    return None


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


def _refuse_unusable_folder(model: ModelConfig) -> None:
    """Refuse a folder whose files git-lfs has not fetched, and one that holds an adapter."""
    folder = local_folder(model)
    if folder is None or model.gguf_file is not None:
        return
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size <= _POINTER_BYTES:
            with path.open("rb") as file:
                if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                    raise UserError(
                        f"model.id: got {model.id}, whose {path.name} is a pointer of git-lfs; run git lfs pull there"
                    )
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"model.id: got {model.id}, which holds an adapter; give the model that it was trained on")


@contextmanager
def friendly_loading_errors(model: ModelConfig) -> Iterator[None]:
    """Turn any error of `from_pretrained`, but for too little memory, into one sentence."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a broken checkpoint fails in whatever reads it first
        if is_out_of_memory(error):
            raise
        raise UserError(_explain(model, error)) from None


def _explain(model: ModelConfig, error: Exception) -> str:
    name = model.gguf_file or model.id
    field = "model.gguf_file" if model.gguf_file else "model.id"
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"{field}: got {name}, which needs Python code of its own, and such code is never run here; "
            "give a model that transformers has the architecture of"
        )
    if "gated" in text.lower() or "401" in text or "403" in text:
        return f"{field}: got {name}, which needs permission: accept its licence on the hub and set HF_TOKEN"
    if local_folder(model) is None and any(word in text.lower() for word in ("offline", "connect", "couldn't")):
        return out_of_reach(field, str(name))
    if type(error).__name__ == "SafetensorError":
        return f"{field}: got {name}, whose weights cannot be read ({_plain(text)}); download them again"
    if "Weights only load failed" in text:
        return (
            f"{field}: got {name}, whose weights are a pickle that would run code, and such code is never run here; "
            "give them as safetensors"
        )
    if "Unrecognized configuration class" in text:
        kind = getattr(checkpoint_config(model), "model_type", "unknown")
        return f"{field}: got {name}, of the architecture {_plain(kind)}, which is no causal language model; give one"
    broken = _broken_json(model)
    if broken is not None:
        return f"{field}: got {name}, whose {broken} is not JSON; download it again"
    if "instantiate the backend tokenizer" in text:
        return f"{field}: got {name}, which holds no tokenizer; add its files"
    if isinstance(error, KeyError):
        return f"{field}: got {name}, whose files name {_plain(error)}, which transformers does not know; correct them"
    what = " ".join(text.split())[:300] or type(error).__name__
    return f"{field}: got {name}, which cannot be loaded: {printable(what)}"


def _broken_json(model: ModelConfig) -> str | None:
    """Return the name of a file of a local checkpoint that should be JSON and is not."""
    folder = local_folder(model)
    if folder is None:
        return None
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return path.name
    return None
