"""The smallest real fine-tune, as overrides; and the records that runs leave."""

from pathlib import Path
from typing import Any

from lora_scaling.records import find_records, read_record

Record = dict[str, Any]

# 24 samples of 24 tokens on a 1.3 M model.
TINY = (
    "samples=24", "batch_size=4", "eval_samples=4", "data.tokens_per_sample=24", "warmup_steps=1", "device=cpu",
    "metering.idle_s=0",
)  # fmt: skip


def only_record(runs_dir: Path) -> Record:
    [path] = find_records([runs_dir])
    return read_record(path)
