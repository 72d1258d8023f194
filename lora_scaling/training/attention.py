"""Choose the kernel that computes attention, and say which one a model uses."""

import importlib.util

from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from lora_scaling.config import RunConfig
from lora_scaling.errors import UserError
from lora_scaling.training.device import Device

_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def attention_kernel(config: RunConfig, architecture: PretrainedConfig, device: Device) -> str | None:
    """Return the `attn_implementation` for transformers; None leaves it sdpa, or eager in a model without sdpa.

    Raises:
        UserError: the model, the device or the installation does not have the kernel that is asked for.
    """
    wanted = config.attn_implementation
    if wanted == "auto":
        return None
    if wanted not in ("sdpa", "eager") and device.kind != "cuda":
        raise UserError(f"attn_implementation: got {wanted}, which needs an NVIDIA or AMD GPU; use auto, sdpa or eager")
    package = _PACKAGES.get(wanted)
    if package is not None:
        # transformers would otherwise fetch a kernel from the hub, which is foreign code.
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"attn_implementation: got {wanted}, which needs the package {package}; install it, or use auto or sdpa"
            )
        if device.precision == "fp32":
            raise UserError(
                f"attn_implementation: got {wanted}, which computes in 16 bits; use precision=bf16, or auto or sdpa"
            )
    model = _model_class(architecture)
    if model is not None and wanted not in _kernels_of(model):
        raise UserError(f"attn_implementation: got {wanted}; {model.__name__} has {', '.join(_kernels_of(model))}")
    return wanted


def used_kernel(network: PreTrainedModel) -> str | None:
    """Return the kernel that a loaded model computes attention with."""
    return network.config.get_text_config()._attn_implementation


def takes_bounds(network: PreTrainedModel) -> bool:
    """Return whether a model's kernel is told where the samples of a packed row begin, and computes no pair between."""
    return (used_kernel(network) or "").startswith("flash_attention")


def _model_class(architecture: PretrainedConfig) -> type[PreTrainedModel] | None:
    try:
        return AutoModelForCausalLM._model_mapping[type(architecture)]  # type: ignore[index]
    except KeyError:
        return None


def _kernels_of(model: type[PreTrainedModel]) -> list[str]:
    flash = model._supports_flash_attn and not getattr(model, "_compatible_flash_implementations", None)
    supported = {
        "auto": True,
        "sdpa": model._supports_sdpa,
        "eager": True,
        "flash_attention_2": flash,
        "flash_attention_3": flash,
        "flex_attention": model._supports_flex_attn,
    }
    return [name for name, has in supported.items() if has]
