"""Read the published runs and those of a folder, and find the software stack of each source (for fit_priors.py)."""

import csv
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from lora_scaling.config import RunConfig, compose
from lora_scaling.errors import UserError
from lora_scaling.estimate.validate import published_rows

HELD_OUT = ("torchtitan", "TinyLlama")  # sources that test the fit, and that it does not see
Z = 1.645  # of an interval of 90 %
# Which stack of the `stack` setting a source belongs to; the first match counts.
STACK_OF = (
    ("unsloth", "unsloth"), ("case study", "unsloth"), ("litgpt", "litgpt"), ("torchtune", "torchtune"),
    ("mpt", "llm-foundry"), ("foundry", "llm-foundry"), ("nemo", "megatron"), ("megatron", "megatron"),
    ("mlperf", "megatron"), ("hf", "hf"), ("peft", "hf"), ("transformers", "hf"), ("qwen", "hf"), ("vertex", "hf"),
    ("swift", "hf"), ("dia lab", "hf"), ("teenytinyllama", "hf"), ("tucano", "hf"),
)  # fmt: skip


def stack_of(source: str) -> str:
    """Return the value of `stack=` for a source of published runs."""
    return next((stack for part, stack in STACK_OF if part in source.lower()), "other")


def config_of(row: Mapping[str, str]) -> RunConfig:
    """Compose the run of a row; settings of adapters are left out where all weights are trained."""
    words = shlex.split(row["overrides"])
    if "method=full" in words:
        words = [word for word in words if not word.startswith("lora.")]
    return compose(words)


def all_rows(folder: Path) -> list[dict[str, str]]:
    """Return the published rows but those held out, and those of the folder, each once; `stack` names the source."""
    rows = [{**row, "stack": row["source"]} for row in published_rows() if not row["source"].startswith(HELD_OUT)]
    known = {(row["id"], row["quantity"], f"{float(row['value']):.4g}") for row in rows}
    return rows + [
        row for row in folder_rows(folder)
        if (row["id"], row["quantity"], f"{float(row['value']):.4g}") not in known
    ]  # fmt: skip


def folder_rows(folder: Path) -> list[dict[str, str]]:
    """Read the rows of a folder: its tables of published runs, and its lines of exported records.

    Raises:
        UserError: it is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"folder: got {folder}, which is not a folder; give one with tables of published runs")
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames and {"stack", "id", "overrides", "quantity", "value"} <= set(reader.fieldnames):
                found += list(reader)
    for path in sorted(folder.glob("*.jsonl")):
        found += [row for line in path.read_text(encoding="utf-8").splitlines() if line for row in record_rows(line)]
    return found


def record_rows(line: str) -> Iterator[dict[str, str]]:
    values = json.loads(line)
    for quantity, value in values["measured"].items():
        if value is not None:
            yield {"stack": values["stack"], "id": values["id"], "overrides": values["overrides"],
                   "quantity": quantity, "value": str(value)}  # fmt: skip
