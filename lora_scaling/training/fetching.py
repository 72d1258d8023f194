"""Download what a run will load, before its measured windows: how fast a network is says nothing about a fine-tune."""

import contextlib
from typing import Any

from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from lora_scaling.config import RunConfig
from lora_scaling.hub import look_for_hub
from lora_scaling.training.checkpoints import local_folder
from lora_scaling.training.sharding import loads_weights

# In the order in which transformers looks for them.
_WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip


def fetch_weights(config: RunConfig) -> None:
    """Download the weights of a checkpoint on the hub that are not cached yet. Loading them reports any failure."""
    model = config.model
    on_hub = model.id if model.gguf_file is None and local_folder(model) is None else None
    if on_hub is not None or config.score.name != "none":
        look_for_hub()
    if on_hub is None or model.weights == "random" or not loads_weights(config):
        return
    options: dict[str, Any] = {"revision": model.revision} if model.revision else {}
    with contextlib.suppress(Exception):
        for name in _WEIGHTS:
            file = cached_file(
                on_hub,
                name,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                _raise_exceptions_for_gated_repo=False,
                **options,
            )
            if file is not None:
                if name.endswith(".index.json"):
                    get_checkpoint_shard_files(on_hub, file, **options)
                return
