"""Write a run as one line that others can learn from: what was done and what it took, without names and paths."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_scaling.config.devices import listed_as
from lora_scaling.errors import RecordError
from lora_scaling.paths import presets
from lora_scaling.records import find_records, read_record, record_to_row
from lora_scaling.settings import value_at

SCHEMA_VERSION = 1
STACK = "hf"  # what this program runs
# Settings whose values are numbers or words of a list. No other text of a record is written.
_SETTINGS = (
    "samples", "epochs", "max_steps", "batch_size", "gradient_accumulation", "max_seq_len", "padding",
    "group_by_length", "packing", "gradient_checkpointing", "sharding", "optimizer", "use_liger_kernel",
    "eval_samples", "warmup_steps",
)  # fmt: skip


def record_lines(paths: list[str]) -> Iterator[str]:
    """Write the line of every finished run below these paths whose model and device are known.

    Records that cannot be read are passed over: loading the table has named them.
    """
    for path in find_records([path for path in paths if Path(path).exists()]):
        try:
            record = read_record(path)
        except RecordError:
            continue
        line = record_line(record) if record["status"] == "ok" else None
        if line is not None:
            yield json.dumps(line)


def record_line(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the line of a run; None if it did not train, or if its model's shape or its device is not known."""
    row, config = record_to_row(record), record.get("config") or {}
    device = None if row["hardware"] is None else listed_as(str(row["hardware"]))
    model = _model(config.get("model") or {})
    if device is None or model is None or not row["steps"] or not row["samples_seen"] or row["train_s"] is None:
        return None
    words = [*model, *_method(config, row)]
    words += [f"{name}={_word(config[name])}" for name in _SETTINGS if config.get(name) is not None]
    words += [f"data.tokens_per_sample={row['tokens_seen'] / row['samples_seen']:.4g}"]
    words += [f"data.tokens_cv={_word(value_at(config, 'data.tokens_cv', 0.6))}"]
    words += [f"hardware={device}", f"hardware.count={max(1, row['gpu_count'] or 1)}"]
    if row["precision"] is not None:
        words.append(f"precision={row['precision']}")
    overrides = " ".join(words)
    return {
        "schema_version": SCHEMA_VERSION,
        "stack": STACK,
        "id": hashlib.sha256(overrides.encode()).hexdigest()[:10],
        "overrides": overrides,
        "measured": {"train s": row["train_s"], "run kWh": row["energy_kwh"], "peak GB": row["peak_memory_gb"]},
    }


def _model(model: Mapping[str, Any]) -> list[str] | None:
    """Return the words of a preset, or of a shape alone; None if the shape is not known."""
    shape, name = model.get("shape"), model.get("name")
    if name in presets("model"):
        return [f"model={name}"]
    if not isinstance(shape, Mapping):
        return None
    return [
        "model=shape",
        "model.weights=pretrained",
        *(f"model.shape.{key}={_word(value)}" for key, value in shape.items()),
    ]


def _method(config: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    words = [f"method={row['method']}"]
    if row["method"] == "full":
        return words
    targets = value_at(config, "lora.target_modules")
    listed = targets if isinstance(targets, str) else f"[{','.join(map(str, targets or ()))}]"
    return [*words, f"lora.r={row['rank']}", f"lora.target_modules={listed}"]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
