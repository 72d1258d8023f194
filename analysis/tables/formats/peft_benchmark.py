"""Results of PEFT's `method_comparison` as runs: time, memory and loss of one fine-tune a file, no energy.

https://github.com/huggingface/peft/tree/main/method_comparison: `metrics` are the windows of the run.
"""

from collections.abc import Mapping
from typing import Any

from ..parsing import RunWarning

KIND = "a result of PEFT's method_comparison"
SECTIONS = ("run_info", "train_info", "meta_info")


def is_peft_benchmark(document: Any) -> bool:
    """Whether a JSON document is such a result."""
    return isinstance(document, Mapping) and all(isinstance(document.get(name), Mapping) for name in SECTIONS[:2])


def from_peft_benchmark(document: Mapping[str, Any], name: str, *, windows: bool) -> list[dict[str, Any]]:
    """Return the run as one row, or as one row for each of its windows, as the table of one long run."""
    run, train = document["run_info"], document["train_info"]
    config, peft = _section(run, "train_config"), _section(run, "peft_config")
    system = _section(_section(document, "meta_info"), "system_info")
    memory = train.get("accelerator_memory_max", train.get("cuda_memory_max"))
    measured = [window for window in train.get("metrics") or [] if _number(window.get("train time")) is not None]
    row = {
        "run_id": str(run.get("experiment_name") or name),
        "status": str(train.get("status") or ""),
        "started_at": run.get("created_at"),
        "method": str(peft.get("peft_type") or "full").lower(),
        "rank": _number(peft.get("r")),
        "use_dora": peft.get("use_dora"),
        "model": str(config.get("model_id") or "") or None,
        "max_seq_len": config.get("max_seq_length"),
        "batch_size": config.get("batch_size"),
        "precision": config.get("dtype"),
        "hardware": system.get("gpu"),
        "trainable_params": train.get("num_trainable_params"),
        "params": train.get("num_total_params"),
        "peak_memory_gb": memory / 1e9 if _number(memory) is not None else None,
        "total_s": _number(train.get("train_time")),
        "train_loss": _last(train, "train loss"),
        "epochs": 1,
    }
    shown = _last(train, "train samples")
    tokens = _last(train, "train total tokens")
    if windows and len(measured) > 1:
        ends = [_number(window.get("train samples")) or 0.0 for window in measured]
        starts = [0.0, *ends[:-1]]
        return [
            {**row, "run_id": f"{row['run_id']} window {place}", "samples": end - start, "samples_end": end,
             "order": place, "train_s": _number(window["train time"]), "train_loss": _number(window.get("train loss")),
             "total_s": None}
            for place, (start, end, window) in enumerate(zip(starts, ends, measured, strict=True), start=1)
        ]  # fmt: skip
    seconds = [_number(window["train time"]) or 0.0 for window in measured]
    return [{**row, "samples": shown, "tokens_seen": tokens, "train_s": sum(seconds) if seconds else row["total_s"]}]


def notes(results: int) -> tuple[RunWarning, ...]:
    """Say what the times of such results are."""
    message = (
        f"{results} results of PEFT's method_comparison: no energy; `train_s` is the sum of the windows' training "
        "times, without the evaluations between them."
    )
    return (RunWarning(kind="peft_benchmark", message=message),)


def _section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _last(train: Mapping[str, Any], name: str) -> float | None:
    values = [_number(window.get(name)) for window in train.get("metrics") or [] if isinstance(window, Mapping)]
    return next((value for value in reversed(values) if value is not None), None)
