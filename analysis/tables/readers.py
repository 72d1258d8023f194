"""Read what RUNS names: folders of run records or of other programs' results, and tables, as they are."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lora_scaling.config.again import override_columns
from lora_scaling.errors import LoraScalingError, RecordError, UserError
from lora_scaling.records import find_records, read_record, record_to_row
from lora_scaling.records.row import COLUMNS

from .column_names import meaning_of
from .files import TABLE_SUFFIXES, FileContent, distinct_names, read_content
from .formats import (
    carbontracker,
    codecarbon,
    eco2ai,
    peft_benchmark,
    tracker_exports,
    tracker_stores,
    trainer_folder,
    zeus,
)
from .formats.recognised import Recognised, flat
from .header_rows import with_units_below
from .parsing import RunWarning

MOST_FILES = 10_000  # of a folder of results
FRAMES = (
    (codecarbon.is_codecarbon, codecarbon.from_codecarbon),
    (eco2ai.is_eco2ai, eco2ai.from_eco2ai),
    (zeus.is_zeus, zeus.from_zeus),
    (tracker_exports.is_tracker_export, tracker_exports.from_tracker_export),
)


@dataclass(frozen=True, kw_only=True)
class ReadRows:
    """Rows with a column `_place` (where each stood), and what has to be known of them.

    unreadable: rows or files without a run (name, reason). kinds: the programs that wrote the files. understood: the
    columns of theirs whose meaning is known. `timed`: whether the kind records no energy, only times.
    """

    frame: pd.DataFrame
    unreadable: tuple[tuple[str, str], ...] = ()
    warnings: tuple[RunWarning, ...] = ()
    kinds: tuple[str, ...] = ()
    understood: frozenset[str] = field(default_factory=frozenset)
    sources: tuple[str, ...] = ()
    timed: bool = False


def read_sources(paths: Sequence[Path]) -> ReadRows:
    """Read all files and folders, one below the other.

    Raises:
        UserError: a path does not exist, or no path is given.
        RecordError: a file holds no table, or a folder no runs.
    """
    if not paths:
        raise UserError("RUNS: missing; name folders of run records or tables")
    parts = []
    for path in paths:
        if not path.exists():
            raise UserError(f"RUNS: got {str(path)!r}, which does not exist; name a folder of run records or a table")
        parts.append(_read_folder(path) if path.is_dir() else _read_file(path, alone=len(paths) == 1))
    frames = [part.frame for part in parts]
    return ReadRows(
        frame=pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0].reset_index(drop=True),
        unreadable=tuple(item for part in parts for item in part.unreadable),
        warnings=tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
        kinds=tuple(dict.fromkeys(kind for part in parts for kind in part.kinds)),
        understood=frozenset().union(*(part.understood for part in parts)),
        sources=tuple(str(path) for path in paths),
        timed=all(part.timed for part in parts),
    )


def recognise(frame: pd.DataFrame, ragged: Sequence[tuple[int, list[str]]] = ()) -> Recognised:
    """Give a frame of another program our names; one of no known program stays as it is."""
    left_out: list[tuple[str, str]] = []
    width = frame.shape[1]
    if ragged and codecarbon.is_codecarbon(frame):
        frame, ragged = codecarbon.with_ragged_rows(frame, ragged)
    for number, cells in ragged:
        reason = f"the line has {len(cells)} cells, and the line of names {width}"
        left_out.append((f"line {number}", reason))
    for is_kind, read in FRAMES:
        if is_kind(frame):
            found = read(frame)
            rows = tracker_exports.with_trainer_work(found.frame)
            return Recognised(
                kind=found.kind, frame=rows, warnings=found.warnings, understood=found.understood,
                left_out=(*left_out, *found.left_out),
            )  # fmt: skip
    return Recognised(kind="", frame=tracker_exports.with_trainer_work(frame), left_out=tuple(left_out))


def _read_folder(folder: Path) -> ReadRows:
    if found := find_records([folder]):
        return _read_records(found)
    if outputs := trainer_folder.trainer_folders(folder):
        return _read_outputs(outputs, folder)
    # Unlike rglob, os.walk goes on where a folder vanishes meanwhile, as those of a training that still runs do.
    below = sorted(Path(place, name) for place, _, names in os.walk(folder) for name in names)
    files = [file for file in below if file.is_file() and not file.is_symlink()][:MOST_FILES]
    for rows in (_read_logs(files), _read_results(files), _read_stores(files)):
        if rows is not None:
            return rows
    tables = [file for file in files if file.suffix.lower() in TABLE_SUFFIXES]
    if len(tables) == 1:
        return _read_file(tables[0], alone=True)
    written = [file for file in tables if file.name in ("emissions.csv", "emission.csv")]
    if written:
        parts = [_read_file(file, alone=False, place=str(file.parent.relative_to(folder))) for file in written]
        return _joined(parts)
    names = ", ".join(str(file.relative_to(folder)) for file in tables[:5])
    hint = f"name one of its tables ({names})" if tables else "make runs first"
    raise UserError(f"RUNS: got {str(folder)!r}, a folder without run records (run.json); {hint}")


def _joined(parts: Sequence[ReadRows]) -> ReadRows:
    return ReadRows(
        frame=pd.concat([part.frame for part in parts], ignore_index=True),
        unreadable=tuple(item for part in parts for item in part.unreadable),
        warnings=tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
        kinds=tuple(dict.fromkeys(kind for part in parts for kind in part.kinds)),
        understood=frozenset().union(*(part.understood for part in parts)),
    )


def _read_records(files: Sequence[Path]) -> ReadRows:
    rows: list[dict[str, Any]] = []
    unreadable: list[tuple[str, str]] = []
    for file in files:
        try:
            record = read_record(file)
            rows.append({**record_to_row(record), **override_columns(record), "_place": file.parent.name})
        except (LoraScalingError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            text = " ".join(str(error).split())
            unreadable.append((file.parent.name, f"the record cannot be read: {text}"))
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["_place"])
    return ReadRows(frame=frame, unreadable=tuple(unreadable))


def _read_outputs(folders: Sequence[Path], root: Path) -> ReadRows:
    frame, left_out, warnings = trainer_folder.read_trainer_folders(list(folders), root)
    return ReadRows(
        frame=_placed(frame, "run"), unreadable=tuple(left_out), warnings=tuple(warnings),
        kinds=(trainer_folder.KIND,), timed="energy_kwh" not in frame,
    )  # fmt: skip


def _read_logs(files: Sequence[Path]) -> ReadRows | None:
    """Read the logs of carbontracker among the files; None where there are none.

    A run has a log of its output, with its consumption, and one of its epochs, which is read where the first lacks.
    """
    texts = {}
    for file in files:
        if file.suffix.lower() in (".log", ".txt") and not file.name.endswith("_err.log"):
            content = _content_or_none(file)
            if content is not None and content.text and carbontracker.is_carbontracker(content.text):
                texts[file] = content.text
    outputs = {file: text for file, text in texts.items() if "_output" in file.name} or texts
    return _rows_of_logs(outputs) if outputs else None


def _rows_of_logs(texts: Mapping[Path, str]) -> ReadRows:
    rows, left_out = [], []
    apart = len({file.parent for file in texts}) > 1  # then the folders' names say which run is which
    for file, text in texts.items():
        row, reason = carbontracker.from_carbontracker(file, text)
        if row is None:
            left_out.append((file.name, reason))
        else:
            rows.append(row | ({"folder": file.parent.name} if apart else {}))
    return ReadRows(
        frame=_placed(pd.DataFrame(rows), "log"), unreadable=tuple(left_out),
        warnings=carbontracker.notes(len(rows)), kinds=(carbontracker.KIND,),
    )  # fmt: skip


def _read_results(files: Sequence[Path]) -> ReadRows | None:
    """Read the results of PEFT's method_comparison among the files; None where there are none."""
    rows: list[dict[str, Any]] = []
    for file in files:
        if file.suffix.lower() == ".json":
            content = _content_or_none(file)
            if content is not None and peft_benchmark.is_peft_benchmark(content.document):
                rows += peft_benchmark.from_peft_benchmark(content.document, file.stem, windows=False)
    return _rows_of_results(rows, len(rows)) if rows else None


def _read_stores(files: Sequence[Path]) -> ReadRows | None:
    """Read the folders of MLflow's file store among the files; None where there are none.

    Raises:
        RecordError: the files are W&B's own, which no other program reads.
    """
    if folders := tracker_stores.mlflow_folders(files):
        found = recognise(tracker_stores.read_mlflow_folders(folders))
        return ReadRows(
            frame=_placed(found.frame, "run"), warnings=found.warnings, kinds=(found.kind,) if found.kind else (),
            understood=found.understood,
        )  # fmt: skip
    own = next((file for file in files if file.suffix == ".wandb"), None)
    if own is not None and not any(file.suffix.lower() == ".csv" for file in files):
        read_content(own)
    return None


def _rows_of_results(rows: list[dict[str, Any]], results: int) -> ReadRows:
    return ReadRows(
        frame=_placed(pd.DataFrame(rows), "result"), warnings=peft_benchmark.notes(results),
        kinds=(peft_benchmark.KIND,), timed=True,
    )  # fmt: skip


def _content_or_none(file: Path) -> FileContent | None:
    try:
        return read_content(file)
    except (RecordError, UserError):
        return None


def _read_file(path: Path, *, alone: bool, place: str = "") -> ReadRows:
    if path.name == "run.json":
        return _read_records([path])
    if path.name in (trainer_folder.STATE, *trainer_folder.SUMMARIES):
        return _read_outputs([path.parent], path.parent)
    try:
        content = read_content(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise RecordError(
            f"{path.name}: cannot be read as a table ({' '.join(str(error).split())}); give CSV, Parquet or JSON lines"
        ) from error
    if content.text is not None:
        if not carbontracker.is_carbontracker(content.text):
            raise RecordError(f"{path.name}: a log that is no table and is of no known program; give CSV or JSON")
        rows = _rows_of_logs({path: content.text})
        if rows.unreadable:
            raise RecordError(f"{path.name}: {rows.unreadable[0][1]}; give the log that ends in _output.log")
        return rows
    if peft_benchmark.is_peft_benchmark(content.document):
        return _rows_of_results(
            peft_benchmark.from_peft_benchmark(content.document, path.stem, windows=alone), results=1
        )
    frame = content.frame if content.frame is not None else _frame_of_document(path, content.document)
    frame.columns = distinct_names(path, [str(column).strip().lstrip("\ufeff") for column in frame.columns])
    frame, below = with_units_below(frame)
    found = recognise(frame, content.ragged)
    return ReadRows(
        frame=_placed(found.frame, place or "row", None if alone or place else path.name),
        unreadable=(*content.broken, *found.left_out),
        warnings=(*content.warnings, *below, *found.warnings),
        kinds=(found.kind,) if found.kind else (),
        understood=found.understood,
    )


def _placed(frame: pd.DataFrame, noun: str, file: str | None = None) -> pd.DataFrame:
    """Note where each row stood: what it is called if it has no id."""
    lead = f"{file} {noun}" if file else noun
    return frame.assign(_place=[f"{lead} {i}" for i in range(1, len(frame) + 1)])


def _frame_of_document(path: Path, document: Any) -> pd.DataFrame:
    """Make a frame of one JSON document: a list of rows, pandas' orients, or an object that holds such a list."""
    if _is_rows(document):
        return _frame_of_rows(document)
    if isinstance(document, dict) and document:
        if "schema_version" in document and "run_id" not in document:
            what = "a fit" if "models" in document else "an answer"
            raise RecordError(f"{path.name}: {what} of this program, not runs; name the folder or table of runs")
        if set(document) >= zeus.MEASUREMENT:
            return pd.DataFrame([document])
        if all(isinstance(value, dict) and set(value) >= zeus.MEASUREMENT for value in document.values()):
            return pd.DataFrame([{"window_name": name, **value} for name, value in document.items()])
        if {"columns", "data"} <= set(document) and isinstance(document["data"], list):  # orient="split"
            try:
                return pd.DataFrame(document["data"], columns=document["columns"])
            except ValueError as error:
                raise RecordError(
                    f"{path.name}: JSON whose columns and rows differ in number; write it again"
                ) from error
        values = list(document.values())
        lists = [value for value in values if _is_rows(value)]
        if len(lists) == 1:
            return _frame_of_rows(lists[0])
        if all(isinstance(value, dict | list) for value in values):
            if all(isinstance(value, dict) for value in values):
                return _frame_of_objects(document)
            if len({len(value) for value in values}) == 1:
                return pd.DataFrame(document)
        elif not any(isinstance(value, dict | list) for value in values):
            return pd.DataFrame([document])
    raise RecordError(f"{path.name}: JSON but no table; write a list of objects, one for each run")


def _frame_of_objects(document: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Make a frame of an object of objects: runs by name or number, or columns (pandas' orient="columns")."""
    if all(key.isdigit() for key in document):
        return pd.DataFrame(document).T.reset_index(drop=True)
    names = list(dict.fromkeys(name for row in document.values() for name in row))
    if any(name in COLUMNS or meaning_of(name, COLUMNS) for name in names):
        frame = pd.DataFrame(document).T
        return frame.reset_index(names="run_id") if "run_id" not in frame else frame.reset_index(drop=True)
    return pd.DataFrame(document).reset_index(drop=True)


def _frame_of_rows(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Make a frame of rows; an entry of a mapping in them is called by its own name where no other has that."""
    frame = pd.DataFrame([flat(row, whole=(*tracker_exports.NESTED, *zeus.PARTS)) for row in rows])
    own = [name.rpartition(".")[2] for name in map(str, frame.columns)]
    return frame.set_axis(
        [last if own.count(last) == 1 else str(name) for name, last in zip(frame.columns, own, strict=True)], axis=1
    )


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)
