"""Runs of experiment trackers (W&B, MLflow, Trackio) under our names; what the Trainer logged becomes work."""

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..parsing import RunWarning
from .recognised import Recognised, added, flat, isoformat, moments, named_runs, numbers, text

WANDB = {"name", "state"}
NESTED = ("config", "summary", "_config", "_summary", "summaryMetrics", "params", "metrics")
MOST_CELL = 1_000_000  # letters of a cell with a mapping
_WANDB_OWN = frozenset("Name State Notes User Tags Created Runtime Sweep ID Group Hostname Description Commit "
                       "JobType GPU_Type name state notes user tags sweep group jobType heartbeatAt createdAt "
                       "_runtime _step _timestamp _wandb".split())  # fmt: skip
_MLFLOW_OWN = frozenset({"experiment_id", "artifact_uri", "start_time", "end_time", "Source Type", "Source Name",
                         "User", "Name", "Source Version", "Duration", "Models"})  # fmt: skip


def is_tracker_export(raw: pd.DataFrame) -> bool:
    """Whether a table is an export of runs from W&B, MLflow or Trackio."""
    return _is_mlflow(raw) or _is_wandb(raw) or _is_trackio(raw) or _is_nested(raw)


def _is_trackio(raw: pd.DataFrame) -> bool:
    return {"name", "config._Created"} <= set(map(str, raw.columns))


def _is_mlflow(raw: pd.DataFrame) -> bool:
    names = set(map(str, raw.columns))
    return {"Run ID", "Source Type", "Source Name"} <= names or (
        {"run_id", "status"} <= names and any(name.startswith(("metrics.", "params.")) for name in names)
    )


def _is_wandb(raw: pd.DataFrame) -> bool:
    names = {str(name).lower() for name in raw.columns}
    return names >= WANDB and bool({"runtime", "created", "sweep", "_runtime", "createdat"} & names)


def _is_nested(raw: pd.DataFrame) -> bool:
    """Whether runs are rows with a name and whole mappings as cells, as W&B's own example writes them."""
    names = [name for name in NESTED if name in raw.columns]
    return bool(names) and len(raw) > 0 and all(_mapping(raw[name].iloc[0]) is not None for name in names)


def _mapping(cell: Any) -> Mapping[str, Any] | None:
    """Return the mapping that a cell is or was written from; nothing in it is executed."""
    if isinstance(cell, Mapping):
        return cell
    if not isinstance(cell, str) or not cell.lstrip().startswith("{") or len(cell) > MOST_CELL:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return None


def from_tracker_export(raw: pd.DataFrame) -> Recognised:
    """Give a tracker's own columns our names; settings and metrics keep theirs, which are read like any others'."""
    if _is_nested(raw):
        raw = _unnested(raw)
    if _is_mlflow(raw):
        kind, recognised = "an export of MLflow", _from_mlflow(raw)
        own = _MLFLOW_OWN | {name for name in map(str, raw.columns) if name.startswith("tags.")}
    elif _is_trackio(raw):
        kind, recognised = "runs of Trackio", _from_trackio(raw)
        own = frozenset({"name", *(name for name in map(str, raw.columns) if name.startswith("config._"))})
    else:
        kind = "an export of W&B" if _is_wandb(raw) else "runs with their settings as mappings"
        recognised = _from_wandb(raw)
        own = _WANDB_OWN | {name for name in map(str, raw.columns) if name.startswith(("_wandb", "system/", "system."))}
    message = f"{kind[0].upper()}{kind[1:]}: settings and metrics are read by their names."
    return Recognised(
        kind=kind,
        frame=added(raw, recognised),
        warnings=(RunWarning(kind="tracker_export", message=message),),
        understood=frozenset(own),
    )


def _unnested(raw: pd.DataFrame) -> pd.DataFrame:
    """Replace columns of mappings by one column for each of their keys."""
    parts = [raw.drop(columns=[name for name in NESTED if name in raw.columns])]
    for name in NESTED:
        if name in raw.columns:
            cells = [_plain(_mapping(cell) or {}) for cell in raw[name]]
            prefix = "" if "summary" in name.lower() or name == "metrics" else f"{name.lstrip('_')}."
            parts.append(pd.DataFrame(cells, index=raw.index).add_prefix(prefix))
    frame = pd.concat(parts, axis=1)
    return frame.loc[:, ~frame.columns.duplicated()]


def _plain(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that fit into a cell; W&B writes some of them as {"value": …}.

    Those of mappings within have joined names, unless another one has the same last name: nobody knows which is meant.
    """
    values = {key: value["value"] if isinstance(value, Mapping) and set(value) >= {"value"} else value
              for key, value in mapping.items()}  # fmt: skip
    cells = {key: value for key, value in flat(values).items() if not isinstance(value, Mapping | list | tuple)}
    last = Counter(key.rpartition(".")[2] for key in cells)
    return {key: value for key, value in cells.items() if key in values or last[key.rpartition(".")[2]] == 1}


def _from_mlflow(raw: pd.DataFrame) -> dict[str, pd.Series]:
    if "Run ID" in raw:  # as its page downloads them, under names that are read like any others'
        return {}
    start, end = moments(text(raw, "start_time")), moments(text(raw, "end_time"))
    columns = {"started_at": isoformat(start), "name": text(raw, "tags.mlflow.runName")}
    if (end - start).notna().any():
        columns["total_s"] = (end - start).dt.total_seconds()
    return columns


def _from_trackio(raw: pd.DataFrame) -> dict[str, pd.Series]:
    started = isoformat(moments(text(raw, "config._Created")))
    return {"run_id": named_runs(raw, "name"), "started_at": started}


def _from_wandb(raw: pd.DataFrame) -> dict[str, pd.Series]:
    columns: dict[str, pd.Series] = {"run_id": named_runs(raw, "ID", "id", "Name", "name")}
    by_name = {str(name).lower(): str(name) for name in raw.columns}
    if "state" in by_name:
        columns["status"] = text(raw, by_name["state"])
    for name in ("runtime", "_runtime"):
        if name in by_name:
            columns["total_s"] = numbers(raw, by_name[name])
            break
    for name in ("created", "createdat"):
        if name in by_name:
            columns["started_at"] = isoformat(moments(text(raw, by_name[name])))
            break
    return columns


def with_trainer_work(raw: pd.DataFrame) -> pd.DataFrame:
    """Add `samples` from the Trainer's rate and runtime, where no column of a table gives them."""
    plain = {re.sub(r"^(?:\w+[./])+", "", str(name)): str(name) for name in raw.columns}
    needed = ("train_samples_per_second", "train_runtime", "epoch")
    if "samples" in raw or "train_samples" in plain or not all(name in plain for name in needed):
        return raw
    rate, runtime, epoch = (numbers(raw, plain[name]) for name in needed)
    shown = rate * runtime
    once = epoch < 1
    samples = (shown / epoch.where(~once, 1.0)).round()
    columns = {"samples": samples, "epochs": epoch.where(~once, 1.0)}
    return raw.assign(**columns) if samples.notna().any() else raw
