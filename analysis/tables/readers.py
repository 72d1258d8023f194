"""Reads what RUNS names: folders of run records, CSV, Parquet and JSON-lines tables, as they are."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lora_scaling.config.again import override_columns
from lora_scaling.errors import LoraScalingError, RecordError, UserError
from lora_scaling.records import find_records, read_record, record_to_row

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".jsonl", ".ndjson", ".json")


def read_sources(paths: Sequence[Path]) -> tuple[pd.DataFrame, list[tuple[str, str]], tuple[str, ...]]:
    """All rows with a column `_place` (where each stood), unreadable ones (name, reason), the sources."""
    if not paths:
        raise UserError("RUNS: missing; name folders of run records or tables")
    frames: list[pd.DataFrame] = []
    unreadable: list[tuple[str, str]] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"RUNS: got {str(path)!r}, which does not exist; name a folder of run records or a table")
        frame, bad = _read_folder(path) if path.is_dir() else _read_file(path, alone=len(paths) == 1)
        frames.append(frame)
        unreadable += bad
    raw = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0].reset_index(drop=True)
    return raw, unreadable, tuple(str(path) for path in paths)


def _read_folder(folder: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    found = find_records([folder])
    if not found:
        tables = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in TABLE_SUFFIXES)
        hint = f"name one of its tables ({', '.join(tables[:5])})" if tables else "make runs first"
        raise UserError(f"RUNS: got {str(folder)!r}, a folder without run records (run.json); {hint}")
    return _read_records(found)


def _read_records(files: Sequence[Path]) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    rows: list[dict[str, Any]] = []
    unreadable: list[tuple[str, str]] = []
    for file in files:
        try:
            record = read_record(file)
            rows.append({**record_to_row(record), **override_columns(record), "_place": file.parent.name})
        except (LoraScalingError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            text = " ".join(str(error).split())
            unreadable.append((file.parent.name, f"the record cannot be read: {text}"))
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["_place"]), unreadable


def _read_file(path: Path, *, alone: bool) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    if path.name == "run.json":
        return _read_records([path])
    unreadable: list[tuple[str, str]] = []
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            frame = _read_parquet(path)
        elif suffix in (".jsonl", ".ndjson", ".json"):
            frame, unreadable = _read_json_lines(path)
        else:
            frame = _read_csv(path)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise RecordError(
            f"{path.name}: cannot be read as a table ({' '.join(str(error).split())}); give CSV, Parquet or JSON lines"
        ) from error
    frame.columns = [str(column).strip().lstrip("\ufeff") for column in frame.columns]
    frame["_place"] = [f"row {i}" if alone else f"{path.name} row {i}" for i in range(1, len(frame) + 1)]
    return frame, unreadable


def _read_csv(path: Path) -> pd.DataFrame:
    """Every cell as text: what is a number is decided in `parsing`, where oddities can be named."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.read(65536)
    if not head.strip():
        raise RecordError(f"{path.name}: empty; a table has a line of column names and a line for each run")
    first = head.splitlines()[0]
    separator = max(",;\t", key=first.count) if any(mark in first for mark in ",;\t") else ","
    names = [name.strip() for name in next(csv.reader([first], delimiter=separator))]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecordError(f"{path.name}: has the column `{twice[0]}` twice; give each a name of its own")
    return pd.read_csv(
        path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", quoting=csv.QUOTE_MINIMAL
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise UserError(f"{path.name}: Parquet, which needs pyarrow; pip install 'lora-scaling[parquet]'") from error
    except Exception as error:  # pyarrow's own errors share no base with pandas'
        raise RecordError(f"{path.name}: no readable Parquet table; write it again or use CSV") from error


def _read_json_lines(path: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        document = json.loads(text)
    except ValueError as error:
        if text.lstrip().startswith("["):
            raise RecordError(f"{path.name}: no valid JSON ({error}); write one object a line") from error
    else:
        return _frame_of_document(path, document), []
    rows: list[dict[str, Any]] = []
    unreadable: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            unreadable.append((f"{path.name} line {number}", "the line is not a JSON object"))
    if not rows:
        raise RecordError(f"{path.name}: holds no JSON object; write one object a line, one line a run")
    return pd.DataFrame(rows), unreadable


def _frame_of_document(path: Path, document: Any) -> pd.DataFrame:
    """Make a frame of one JSON document: a list of rows, pandas' orients, or an object that holds such a list."""
    if _is_rows(document):
        return pd.DataFrame(document)
    if isinstance(document, dict) and document:
        if {"columns", "data"} <= set(document):  # orient="split"
            return pd.DataFrame(document["data"], columns=document["columns"])
        values = list(document.values())
        lists = [value for value in values if _is_rows(value)]
        if len(lists) == 1:
            return pd.DataFrame(lists[0])
        if all(isinstance(value, dict | list) for value in values):
            if all(isinstance(value, dict) for value in values):
                frame = pd.DataFrame(document)
                return (frame.T if all(key.isdigit() for key in document) else frame).reset_index(drop=True)
            if len({len(value) for value in values}) == 1:
                return pd.DataFrame(document)
        elif not any(isinstance(value, dict | list) for value in values):
            return pd.DataFrame([document])
    raise RecordError(f"{path.name}: JSON but no table; write a list of objects, one for each run")


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)
