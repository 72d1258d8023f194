"""Read the rows of a data file: JSON, JSON lines, CSV or Parquet, each also gzipped. Recognised by content."""

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from lora_scaling.errors import UserError

FORMATS = "JSON, JSON lines, CSV or Parquet"

_GZIP, _PARQUET, _ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
_DELIMITERS = ",;\t|"
_TABLES = (".csv", ".tsv")


def rows_of(raw: bytes, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, row) of the contents of a file, such as ("line 3", {…}).

    Raises:
        UserError: the contents are in no known format, damaged, or not UTF-8 text.
    """
    if raw.startswith(_GZIP):
        raw = _unzipped(raw, path)
    if raw.startswith(_ZIP):  # Excel's files are archives as well
        raise UserError(f"data.path: got {path}, a zip archive; unpack it, or save its sheet as CSV")
    if raw.startswith(_PARQUET):
        yield from _parquet_rows(raw, path)
    elif is_table(raw, path):
        yield from _csv_rows(raw, path)
    else:
        yield from _json_rows(raw, path)


def read_beginning(path: str, most_bytes: int) -> tuple[bytes, bool]:
    """Read the first bytes of a file, unzipped, and say whether that is all of it; Parquet is read to its end.

    Raises:
        UserError: a gzipped file is damaged.
    """
    with open(path, "rb") as file:
        zipped, parquet = (file.peek(4).startswith(magic) for magic in (_GZIP, _PARQUET))
        if parquet:
            return file.read(), True
        with gzip.open(file) if zipped else file as opened:
            try:
                raw = opened.read(most_bytes)
                return raw, not opened.read(1)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise _damaged(path, error) from None


def is_table(raw: bytes, path: str) -> bool:
    """Return whether the contents are a CSV file: by its name, unless it has another usual one, or its first letter."""
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes if suffix.lower() != ".gz"]
    begins_as_json = raw.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[", b"")
    return bool(suffixes) and suffixes[-1] in _TABLES and not begins_as_json


def _unzipped(raw: bytes, path: str) -> bytes:
    try:
        return gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(f"data.path: got {path}, a gzipped file that is damaged ({error}); pack it again")


def _text(raw: bytes, path: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.path: got {path}, which is not UTF-8 text (byte {error.start}); give {FORMATS} in UTF-8"
        ) from None


def _csv_rows(raw: bytes, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a table whose first line names its columns; commas, semicolons, tabs and bars separate them."""
    text = _text(raw, path)
    header = text.lstrip("\n\r").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row:
                raise UserError(
                    f"data.path: got {path}, whose line {reader.line_num} has more cells than its first line; "
                    'put texts that hold the separator in quotes: "…"'
                )
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise UserError(
            f"data.path: got {path}, whose line {reader.line_num} is not CSV ({error}); "
            'put texts that hold the separator in quotes: "…"'
        ) from None


def _parquet_rows(raw: bytes, path: str) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"data.path: got {path}, a Parquet file, and the package pyarrow is not installed; "
            'install it with: pip install "lora-scaling[parquet]"'
        ) from None
    try:
        batches = pyarrow.parquet.ParquetFile(io.BytesIO(raw)).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for i, row in enumerate(rows, start=1):
            yield f"row {i}", row
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"data.path: got {path}, a Parquet file that is damaged ({reason}); write it again") from None


def _json_rows(raw: bytes, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, row) of a JSON list, of JSON lines, or of one object with a list of rows."""
    text = _text(raw, path)
    if text.lstrip().startswith("["):
        for i, row in enumerate(_parsed(text, path, first_line=1), start=1):
            yield f"sample {i}", row
        return
    rows = _objects(text, path)
    first = next(rows, None)
    if first is None:
        return
    second = next(rows, None)
    if second is None:
        yield from _only_list(first, path)
        return
    yield first
    yield second
    yield from rows


def _objects(text: str, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, object) of JSON lines, or of objects that each take several lines."""
    start = len(text) - len(text.lstrip())
    with contextlib.suppress(ValueError, RecursionError):
        _, end = _DECODER.raw_decode(text, start)
        if "\n" in text[start:end]:
            yield from _indented_objects(text, path, start)
            return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parsed(line, path, first_line=number)


def _indented_objects(text: str, path: str, start: int) -> Iterator[tuple[str, Any]]:
    while start < len(text):
        try:
            value, end = _DECODER.raw_decode(text, start)
        except ValueError as error:
            raise _not_json(path, getattr(error, "lineno", 1), error) from None
        yield f"line {text.count(chr(10), 0, start) + 1}", value
        start = end + len(text[end:]) - len(text[end:].lstrip())


# Columns of a row, whose other columns may hold lists of objects.
_OF_A_ROW = {"messages", "conversations", "instruction", "question", "prompt"}


def _only_list(first: tuple[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a file that holds one object: those of the list in it, such as `data`, or the object itself."""
    row = first[1]
    if not isinstance(row, Mapping) or _OF_A_ROW & row.keys():
        yield first
        return
    lists = [key for key, value in row.items() if isinstance(value, list) and value and isinstance(value[0], Mapping)]
    if len(lists) > 1:
        raise UserError(
            f"data.path: got {path}, which holds several lists ({', '.join(lists)}); give a file with one of them"
        )
    if not lists:
        yield first
        return
    for i, item in enumerate(row[lists[0]], start=1):
        yield f"{lists[0]}[{i - 1}]", item


# Python writes NaN for a missing value, which JSON does not have.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def _parsed(text: str, path: str, *, first_line: int) -> Any:
    try:
        return _DECODER.decode(text)
    except ValueError as error:
        raise _not_json(path, first_line + getattr(error, "lineno", 1) - 1, error) from None
    except RecursionError:
        raise UserError(f"data.path: got {path}, which nests too deeply; give flat objects") from None


def _not_json(path: str, line: int, error: ValueError) -> UserError:
    reason = getattr(error, "msg", "too deep or too large a value")
    return UserError(
        f"data.path: got {path}, whose line {line} is not JSON ({reason}); "
        "give one list of objects, or one object a line"
    )
