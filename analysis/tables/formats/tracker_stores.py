"""The stores in which trackers keep their runs: MLflow's database and folder, Trackio's database; as their exports are.

Nothing in a database is executed: it is read in memory or read-only, table by table, and only so long.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from lora_scaling.errors import RecordError

SQLITE = b"SQLite format 3\0"
MLFLOW_TABLES = {"runs", "latest_metrics", "params"}
TRACKIO_TABLES = {"metrics", "configs"}
STATUSES = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}  # of MLflow's meta.yaml
STEP = 1_000_000  # instructions of a database
MOST_STEPS = 20_000
MOST_RUNS = 100_000
_META = "meta.yaml"


def read_database(path: Path, data: bytes) -> pd.DataFrame:
    """Return the runs of a tracker's SQLite database, one a row.

    Raises:
        RecordError: the database is damaged, or no tracker's.
    """
    try:
        with closing(_opened(path, data)) as store:
            rows = store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in rows}
            if tables >= MLFLOW_TABLES:
                return pd.DataFrame(_of_mlflow(store))
            if tables >= TRACKIO_TABLES:
                return pd.DataFrame(_of_trackio(store))
    except (sqlite3.Error, ValueError, UnicodeDecodeError) as error:
        raise RecordError(f"{path.name}: an SQLite database that cannot be read ({error}); write it again") from error
    raise RecordError(f"{path.name}: an SQLite database of no known tracker; export its table of runs as CSV")


def _opened(path: Path, data: bytes) -> sqlite3.Connection:
    """Open the file itself, whose last changes may lie beside it; what was unpacked from an archive, in memory."""
    beside = path.with_name(f"{path.name}-wal")
    if beside.exists():
        store = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    else:
        store = sqlite3.connect(":memory:")
        store.deserialize(data[:18] + b"\x01\x01" + data[20:])  # without a log beside it
    store.execute("PRAGMA trusted_schema = OFF")
    store.execute("PRAGMA query_only = ON")
    steps = iter(range(MOST_STEPS))
    store.set_progress_handler(lambda: next(steps, None) is None, STEP)
    return store


def _of_mlflow(store: sqlite3.Connection) -> Iterable[dict[str, Any]]:
    runs: dict[str, dict[str, Any]] = {}
    names = dict(store.execute("SELECT experiment_id, name FROM experiments")) if _has(store, "experiments") else {}
    query = (
        "SELECT run_uuid, name, status, start_time, end_time, experiment_id FROM runs "
        f"WHERE lifecycle_stage = 'active' LIMIT {MOST_RUNS}"
    )
    for run, name, status, start, end, experiment in store.execute(query):
        runs[run] = {
            "run_id": run, "status": status, "start_time": _moment(start), "end_time": _moment(end),
            "tags.mlflow.runName": name, "experiment": names.get(experiment, experiment),
        }  # fmt: skip
    for table, prefix in (("latest_metrics", "metrics"), ("params", "params")):
        for run, key, value in store.execute(f"SELECT run_uuid, key, value FROM {table}"):
            if run in runs:
                runs[run][f"{prefix}.{key}"] = value
    if len({row["experiment"] for row in runs.values()}) < 2:
        for row in runs.values():
            del row["experiment"]
    return runs.values()


def _of_trackio(store: sqlite3.Connection) -> Iterable[dict[str, Any]]:
    runs: dict[str, dict[str, Any]] = {}
    columns = {str(row[1]) for row in store.execute("PRAGMA table_info(metrics)")}
    named = "run_id" if "run_id" in columns else "run_name"  # older versions have names alone
    for run, name, config in store.execute(f"SELECT {named}, run_name, config FROM configs LIMIT {MOST_RUNS}"):
        runs[run] = {"name": name, **{f"config.{key}": value for key, value in _mapping(config).items()}}
    for run, name, metrics in store.execute(f"SELECT {named}, run_name, metrics FROM metrics ORDER BY step, id"):
        runs.setdefault(run, {"name": name}).update(_mapping(metrics))
    for row in runs.values():
        row.setdefault("config._Created", None)
    return runs.values()


def _mapping(text: str | bytes | None) -> dict[str, Any]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def _has(store: sqlite3.Connection, table: str) -> bool:
    return (
        store.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone() is not None
    )


def _moment(milliseconds: object) -> str | None:
    if not isinstance(milliseconds, int | float) or not milliseconds > 0:
        return None
    moment = pd.to_datetime(milliseconds, unit="ms", utc=True, errors="coerce")
    return None if pd.isna(moment) else moment.isoformat()


def mlflow_folders(files: Sequence[Path]) -> list[Path]:
    """Return the folders of runs of MLflow's file store, of those that hold one of the files."""
    folders = [file.parent for file in files if file.name == _META]
    return [folder for folder in folders if (folder / "metrics").is_dir() or (folder / "params").is_dir()]


def read_mlflow_folders(folders: Sequence[Path]) -> pd.DataFrame:
    """Return the runs of MLflow's file store, one a row: each metric's last value, and the settings."""
    rows = []
    for folder in folders[:MOST_RUNS]:
        meta = dict(line.split(": ", 1) for line in _text(folder / _META).splitlines() if ": " in line)
        if meta.get("lifecycle_stage", "active").strip("'") != "active":
            continue
        times = {name: _moment(int(meta[name])) for name in ("start_time", "end_time") if meta.get(name, "").isdigit()}
        row: dict[str, Any] = {
            "run_id": folder.name,
            **times,
            "tags.mlflow.runName": meta.get("run_name", "").strip("'"),
        }
        row["status"] = STATUSES.get(meta.get("status", ""), meta.get("status"))
        for file in sorted((folder / "params").glob("*")):
            row[f"params.{file.name}"] = _text(file).strip()
        for file in sorted((folder / "metrics").glob("*")):
            lines = [line.split() for line in _text(file).splitlines()]
            values = [cells[1] for cells in lines if len(cells) >= 2]
            if values:
                row[f"metrics.{file.name}"] = values[-1]
        rows.append(row)
    return pd.DataFrame(rows)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    except OSError:
        return ""
