"""The smallest real fine-tune, as overrides."""

from typing import Any

Record = dict[str, Any]

# 24 samples of 24 tokens on a 1.3 M model.
TINY = (
    "samples=24", "batch_size=4", "eval_samples=4", "data.tokens_per_sample=24", "warmup_steps=1", "device=cpu",
    "metering.idle_s=0",
)  # fmt: skip
