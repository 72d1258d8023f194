"""Refuse at once what is neither on this machine nor on a hub that answers, before anything slow is begun."""

from lora_scaling.config import RunConfig
from lora_scaling.data.samples import check_beginning
from lora_scaling.errors import UserError
from lora_scaling.hub import is_cached, look_for_hub, out_of_reach
from lora_scaling.paths import gguf_path, in_home


def refuse_out_of_reach(config: RunConfig) -> None:
    """Refuse a file that is not there or of no use, and what is not cached of a hub that does not answer.

    Raises:
        UserError: it names the file, the model or the data set, and what works.
    """
    model, data = config.model, config.data
    if model.gguf_file is not None:
        gguf_path(model.gguf_file)
    if data.kind == "file":
        check_beginning(config)
    needed = model.weights == "pretrained" or model.shape is None
    if needed and model.id is not None and model.gguf_file is None and _is_missing("models", model.id):
        raise UserError(out_of_reach("model.id", model.id))
    if data.kind == "hub" and data.path and _is_missing("datasets", data.path):
        raise UserError(out_of_reach("data.path", data.path))


def _is_missing(kind: str, name: str) -> bool:
    here = in_home(name).exists() or is_cached(kind, name)
    return not here and not look_for_hub()
