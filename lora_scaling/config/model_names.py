"""Recognise models by the names that other programs use, and find their preset in `conf/model/`."""

import functools
import re

from lora_scaling.paths import presets

# Parts of a checkpoint's name that do not change its shape.
_VARIANT = re.compile(r"[-_](instruct|chat|base|alpha|it|hf|v\d+(\.\d+)*)$")


@functools.cache
def preset_model(name: str) -> str | None:
    """Return the preset that describes the model of this name; None if none does.

    `meta-llama/Llama-3.2-3B-Instruct` and `Llama-2-7b-hf` are known by their file's name without variant and owner.
    """
    known = presets("model", shipped=True)
    if name in known:
        return name
    short = name.rstrip("/").rpartition("/")[2].lower().removeprefix("meta-")
    while short not in known:
        shorter = _VARIANT.sub("", short)
        if shorter == short:
            return None
        short = shorter
    return short
