"""Refuse at once what is neither on this machine nor on a hub that answers, before anything slow is imported."""

from pathlib import Path

from lora_scaling.config import RunConfig
from lora_scaling.errors import UserError
from lora_scaling.hub import is_cached, look_for_hub, out_of_reach
from lora_scaling.paths import in_home


def refuse_out_of_reach(config: RunConfig) -> None:
    """Refuse a model or data set of the hub that is not cached, if the hub does not answer.

    Raises:
        UserError: it names the model or data set, and what works without a network.
    """
    model, data = config.model, config.data
    needed = model.weights == "pretrained" or model.shape is None
    if needed and model.id is not None and model.gguf_file is None and _is_missing("models", model.id):
        raise UserError(out_of_reach("model.id", model.id))
    if data.kind == "hub" and data.path and _is_missing("datasets", data.path):
        raise UserError(out_of_reach("data.path", data.path))


def _is_missing(kind: str, name: str) -> bool:
    here = in_home(name).exists() or Path(name).exists() or is_cached(kind, name)
    return not here and not look_for_hub()
