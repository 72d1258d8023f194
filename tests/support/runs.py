"""The smallest real fine-tune, as overrides; and the records that runs leave."""

from pathlib import Path
from typing import Any

from lora_scaling import records
from lora_scaling.records import find_records

Record = Any  # as one who reads the JSON knows it

# 24 samples of 24 tokens on a 1.3 M model.
TINY = (
    "samples=24", "batch_size=4", "eval_samples=4", "data.tokens_per_sample=24", "warmup_steps=1", "device=cpu",
    "metering.idle_s=0", "warmup_run=false",
)  # fmt: skip


def read_record(path: Path) -> Record:
    """The record in a file, of which a test knows what it holds."""
    return records.read_record(path)


def only_record(runs_dir: Path) -> Record:
    [path] = find_records([runs_dir])
    return read_record(path)
