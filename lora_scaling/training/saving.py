"""Keep what a run trained: PEFT's files for adapters, a checkpoint of transformers for a whole model."""

import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from lora_scaling.ranks import rank
from lora_scaling.training.models import BaseModel
from lora_scaling.training.sharding import is_sharded


def save_trained(network: nn.Module, base: BaseModel, folder: Path) -> dict[str, Any] | None:
    """Save the adapters (or the whole model and its tokenizer) below a run's folder, whole or not at all.

    Every process of a launch has to call it, since each may hold a part; the first one saves.

    Returns:
        The section `saved` of the record; None in other processes than the first.
    """
    saver: Any = network
    adapted = network is not base.model
    options: dict[str, Any] = {}
    if is_sharded(network):
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapted)
        names = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}  # tied ones once
        gathered = get_model_state_dict(network, options=whole)
        options["state_dict"] = {name: tensor for name, tensor in gathered.items() if name in names}
    if rank() > 0:
        return None
    name = "adapter" if adapted else "model"
    part = folder / ".saved.tmp"
    shutil.rmtree(part, ignore_errors=True)
    try:
        if adapted:
            # "auto", the default, asks the hub about the base model's vocabulary. No run changes embeddings.
            saver.save_pretrained(str(part), save_embedding_layers=False, **options)
        else:
            saver.config.use_cache = True  # which training turns off, and who generates text wants
            try:
                saver.save_pretrained(str(part), **options)
            finally:
                saver.config.use_cache = False
            base.tokenizer.save_pretrained(str(part))
        (part / "README.md").unlink(missing_ok=True)  # PEFT's own card is a form to fill in; ours follows
        size = sum(file.stat().st_size for file in part.iterdir())
        replace_folder(part, folder / name)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return {"folder": name, "bytes": size}


def replace_folder(part: Path, final: Path) -> None:
    """Give a finished folder its name, after its files have reached the disk; an older one of the name is removed."""
    for file in part.iterdir():
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
    if final.is_symlink():
        final.unlink()
    elif final.exists():
        old = final.with_name(f".{final.name}.old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    part.rename(final)
