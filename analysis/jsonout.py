"""Print JSON in one way: strict (no NaN), with plain Python numbers, one document on stdout."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def clean(value: Any) -> Any:
    """Copy `value` into what JSON can hold: NaN and infinities become null, arrays become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return clean(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def dumps(document: Any) -> str:
    """Return `document` as indented JSON text."""
    return json.dumps(clean(document), indent=2, ensure_ascii=False, allow_nan=False)
