"""Output folders of Hugging Face's Trainer as runs, with what lies beside them: adapter and emissions.

`train_runtime` and its rates are described in `transformers.trainer_utils.speed_metrics`; `total_flos` counts 6 FLOPs a
parameter and token whatever is trained, so it is left out.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lora_scaling.errors import RecordError
from lora_scaling.records import read_text

from ..files import read_content
from ..parsing import RunWarning
from .codecarbon import from_codecarbon, is_codecarbon

KIND = "output folders of the Trainer"
SUMMARIES = ("all_results.json", "train_results.json")
STATE = "trainer_state.json"
MOST_FOLDERS = 20_000
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
EMISSIONS = "emissions.csv"
ENERGY = ("energy_kwh", "energy_cpu_kwh", "energy_gpu_kwh", "energy_ram_kwh", "total_s", "emissions_g",
          "intensity_g_per_kwh", "started_at", "hardware", "energy_source_gpu", "energy_source_cpu",
          "energy_source_ram")  # fmt: skip


def trainer_folders(folder: Path) -> list[Path]:
    """Return the folders of runs in and below a folder; checkpoints belong to the run above them."""
    found: dict[Path, None] = {}
    # Unlike rglob, os.walk goes on where a folder vanishes meanwhile, as those of a training that still runs do.
    for seen, place in enumerate(sorted(Path(top) for top, _, _ in os.walk(folder))):
        if seen > MOST_FOLDERS:
            break
        if any((place / name).is_file() for name in (*SUMMARIES, STATE)):
            found[place.parent if CHECKPOINT.fullmatch(place.name) and place != folder else place] = None
    return sorted(found)


def read_trainer_folders(
    folders: list[Path], root: Path
) -> tuple[pd.DataFrame, list[tuple[str, str]], list[RunWarning]]:
    """Return one row for each folder, the folders that hold no finished run with the reason, and what to know."""
    rows: list[dict[str, Any]] = []
    left_out: list[tuple[str, str]] = []
    for folder in folders:
        name = str(folder.relative_to(root)) if folder != root else folder.name
        row, reason = _row(folder, name)
        if row is None:
            left_out.append((name, reason))
        else:
            rows.append(row)
    frame = pd.DataFrame(rows)
    if not frame.empty and len(set(frame["run_id"])) < len(frame):
        frame["run_id"] = ""
    shared = _shared_emissions(frame, root)
    message = (
        f"{len(rows)} output folders of the Trainer: `train_s` is `train_runtime`, which includes evaluations during "
        "training"
        + (f"; energies are those of {EMISSIONS}." if "energy_kwh" in shared else "; no energy was recorded.")
    )
    return shared, left_out, [RunWarning(kind="trainer", message=message)]


def _row(folder: Path, name: str) -> tuple[dict[str, Any] | None, str]:
    """Return the run of a folder, or None and why there is none."""
    state, metrics = _state(folder), {}
    for file in reversed(SUMMARIES):
        metrics |= _json(folder / file)
    history = [entry for entry in state.get("log_history") or [] if isinstance(entry, Mapping)]
    last = next((entry for entry in reversed(history) if "train_runtime" in entry), {})
    metrics = {**last, **metrics}
    if "train_runtime" not in metrics:
        return None, "no `train_runtime`: the training was interrupted, or its summary was not saved"
    runtime = _number(metrics["train_runtime"])
    epochs = _number(last.get("epoch", metrics.get("epoch", state.get("epoch"))))
    rate = _number(metrics.get("train_samples_per_second"))
    samples = _number(metrics.get("train_samples"))
    if samples is None and rate and runtime and epochs:
        samples = round(rate * runtime / epochs)  # the rate is that of all samples shown
    if samples is not None and epochs is not None and epochs < 1:
        samples, epochs = float(max(1, round(samples * epochs))), 1.0  # each was shown once at most
    adapter, model = _json(folder / "adapter_config.json"), _json(folder / "config.json")
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    row = {
        "run_id": name,
        "samples": samples,
        "epochs": epochs,
        "steps": _number(state.get("global_step")),
        "batch_size": _number(state.get("train_batch_size")) or None,
        "tokens_seen": _number(state.get("num_input_tokens_seen")) or None,
        "train_s": runtime,
        "train_loss": _number(metrics.get("train_loss")),
        "eval_loss_after": _number(metrics.get("eval_loss", losses[-1] if losses else None)),
        "model": adapter.get("base_model_name_or_path") or model.get("_name_or_path"),
    }
    if adapter:
        targets = adapter.get("target_modules")
        row |= {
            "method": str(adapter.get("peft_type") or "").lower() or None,
            "rank": _number(adapter.get("r")),
            "use_dora": adapter.get("use_dora"),
            "target_modules": ",".join(sorted(map(str, targets))) if isinstance(targets, list) else targets,
        }
    return row | _own_emissions(folder), ""


def _state(folder: Path) -> Mapping[str, Any]:
    """Return the state of the folder itself, or that of its last checkpoint."""
    checkpoints = [(int(found[1]), place) for place in folder.glob("checkpoint-*")
                   if (found := CHECKPOINT.fullmatch(place.name))]  # fmt: skip
    places = [folder, *(place for _, place in sorted(checkpoints, reverse=True))]
    return next((state for place in places if (state := _json(place / STATE))), {})


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _own_emissions(folder: Path) -> dict[str, Any]:
    """Return the energy that CodeCarbon wrote into the folder: that of its last row, as a repeated run appends one."""
    frame = _emissions(folder / EMISSIONS)
    if frame is None or frame.empty:
        return {}
    last = frame.iloc[-1]
    return {name: last[name] for name in ENERGY if name in frame and not pd.isna(last[name])}


def _emissions(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        raw = read_content(path).frame
    except RecordError:
        return None
    return from_codecarbon(raw).frame if raw is not None and is_codecarbon(raw) else None


def _shared_emissions(frame: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Take energies from one file for all folders, where each row of it is called after one of them."""
    if frame.empty or "energy_kwh" in frame:
        return frame
    shared = _emissions(root / EMISSIONS)
    if shared is None or "project_name" not in shared or shared["project_name"].duplicated().any():
        return frame
    rows = shared.set_index(shared["project_name"].astype(str).str.strip())
    names = frame["run_id"].map(lambda name: Path(str(name)).name)
    if not names.isin(rows.index).any():
        return frame
    return frame.assign(**{name: names.map(rows[name]) for name in ENERGY if name in rows})
