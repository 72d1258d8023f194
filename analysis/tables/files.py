"""Read a file as what its bytes say it is: delimited text, JSON, Parquet, Excel, plain text; name what cannot be read.

Nothing is unpickled, and nothing is unpacked beyond `MOST_BYTES`.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lora_scaling.errors import RecordError, UserError

from .formats.tracker_stores import SQLITE, read_database
from .header_rows import MARKS, known_names, titles_above, with_group
from .parsing import RunWarning
from .text_tables import html_tables, joined, markdown_table, no_table, notebook_tables

MOST_BYTES = 2**30  # of a file, unpacked
MOST_UNPACKING_BYTES = 2**28  # of memory that an xz archive may ask for
ZSTANDARD = b"\x28\xb5\x2f\xfd"
SNIFFED_BYTES = 65536
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".jsonl", ".ndjson", ".json", ".xlsx", ".log",
                  ".db", ".sqlite", ".gz", ".bz2", ".xz", ".zst", ".zip")  # fmt: skip
# The first bytes of files that are no table, and what to do with them.
UNREADABLE = {
    b"\xd0\xcf\x11\xe0": "an Excel workbook of the old format (.xls); save it as .xlsx or CSV",
    b"\x89HDF": "an HDF5 file; write its table as CSV or Parquet",
    b"ARROW1": "a Feather (Arrow) file; write it as Parquet or CSV",
    b":W&B": "W&B's own log of a run; `wandb sync` its folder, and export the table of runs as CSV",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x93NUMPY": "a NumPy array without column names; write a table with a line of names",
    b"%PDF": "a PDF; give the table in it as CSV",
    b"\x89PNG": "an image; give the table behind it as CSV",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; run `git lfs pull`",
}
RULE = re.compile(rb"(?m)^[ |+:=-]*[-=]{2}[ |+:=-]*\r?$")  # between a table's names and its rows
NESTED = "an archive in an archive; unpack it"
PICKLED = "a pickled file, which could run any program when opened and is never opened; write CSV, JSON or Parquet"


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """What a file holds: a frame, or a JSON document, or text that is neither; and what had to be interpreted.

    `ragged`: rows with more cells than the header, by line number. `broken`: lines that could not be read, with why.
    """

    frame: pd.DataFrame | None = None
    document: Any = None
    text: str | None = None
    ragged: tuple[tuple[int, list[str]], ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    warnings: tuple[RunWarning, ...] = ()


def read_content(path: Path) -> FileContent:
    """Read a file by its content.

    Raises:
        RecordError: it is empty, damaged, too large, or of a kind that holds no table; the text says which.
    """
    return _content_of(path, _bytes_of(path))


def _content_of(path: Path, data: bytes, *, packed: bool = False) -> FileContent:
    if not data.strip():
        raise RecordError(f"{path.name}: empty; a table has a line of column names and a line for each run")
    _refuse(path, data)
    if data[:4] == b"PAR1":
        return FileContent(frame=_read_parquet(path, data))
    if data[:2] == b"PK":
        return _read_zip(path, data, packed=packed)
    if data.startswith(SQLITE):
        return FileContent(frame=read_database(path, data))
    text_bytes, found = _as_utf8(path, data)
    start = text_bytes[:SNIFFED_BYTES].lstrip()
    if what := no_table(start.decode(errors="replace")):
        raise RecordError(f"{path.name}: {what}")
    if start[:1] in (b"{", b"["):
        return _read_json(path, text_bytes.decode(), found)
    if start[:1] == b"<":
        tables = html_tables(text_bytes.decode(errors="replace"))
        if not tables:
            raise RecordError(f"{path.name}: a web page or XML, not a table; download the file itself, or give CSV")
        return _of_tables(path, tables, "page", found)
    if (
        b"|" in start
        and RULE.search(start)
        and (table := markdown_table(text_bytes.decode(errors="replace"))) is not None
    ):
        return _read_delimited(path, table.encode(), found)
    if path.suffix.lower() == ".log" or b"CarbonTracker" in start[:4096]:
        return FileContent(text=text_bytes.decode(), warnings=found)
    return _read_delimited(path, text_bytes, found)


def distinct_names(path: Path, names: list[str]) -> list[str]:
    """Return the names of a table's columns, blank ones by their place.

    Raises:
        RecordError: two columns have one name.
    """
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise RecordError(f"{path.name}: has the column `{twice[0]}` twice; give each a name of its own")
    return [name or f"column {place}" for place, name in enumerate(names, start=1)]


def _bytes_of(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.is_char_device() or path.is_block_device():
            raise RecordError(f"{path.name}: a device, not a table; give a file")
        if size > MOST_BYTES:
            raise RecordError(f"{path.name}: {size / 2**30:.1f} GiB; give at most 1 GiB, e.g. only the columns needed")
        data = _unpacked(path, path.read_bytes())
    except (OSError, lzma.LZMAError, zlib.error) as error:
        text = getattr(error, "strerror", None) or error
        raise RecordError(f"{path.name}: cannot be read ({text}); write it again") from error
    except EOFError as error:
        raise RecordError(f"{path.name}: an archive that ends too early; write it again") from error
    if len(data) > MOST_BYTES:
        raise RecordError(f"{path.name}: unpacks to more than 1 GiB; unpack it yourself and give what is needed")
    return data


def _unpacked(path: Path, data: bytes) -> bytes:
    """Return what an archive of one file holds, at most a byte more than MOST_BYTES of it."""
    if data.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(data)) as file:
            return file.read(MOST_BYTES + 1)
    if data.startswith(b"BZh"):
        with bz2.open(io.BytesIO(data)) as file:
            return file.read(MOST_BYTES + 1)
    if data.startswith(b"\xfd7zXZ"):
        return _unpacked_xz(data)
    if data.startswith(ZSTANDARD):
        return _unpacked_zstandard(path, data)
    return data


def _unpacked_xz(data: bytes) -> bytes:
    """Unpack the streams of an xz archive one after the other; one that asks for much memory is an LZMAError."""
    parts, size = [], 0
    while data and size <= MOST_BYTES:
        stream = lzma.LZMADecompressor(memlimit=MOST_UNPACKING_BYTES)
        parts.append(stream.decompress(data, MOST_BYTES + 1 - size))
        size += len(parts[-1])
        if not stream.eof and size <= MOST_BYTES:
            raise EOFError
        data = stream.unused_data.lstrip(b"\x00")
    return b"".join(parts)


def _unpacked_zstandard(path: Path, data: bytes) -> bytes:
    """Unpack by pyarrow, which the standard library's zstd is too new to replace."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(f"{path.name}: Zstandard, which needs pyarrow; pip install 'lora-scaling[parquet]'") from error
    with pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd") as stream:
        return stream.read(MOST_BYTES + 1)


def _refuse(path: Path, data: bytes) -> None:
    """Name the kinds of files that hold no table."""
    if (data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05") or path.suffix.lower() in (".pkl", ".pickle"):
        raise RecordError(f"{path.name}: {PICKLED}")
    for magic, what in UNREADABLE.items():
        if data.startswith(magic):
            raise RecordError(f"{path.name}: {what}")
    if data[257:262] == b"ustar":
        raise RecordError(f"{path.name}: a tar archive; unpack it and name its folder or table")


def _read_parquet(path: Path, data: bytes) -> pd.DataFrame:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{path.name}: Parquet, which needs pyarrow; pip install 'lora-scaling[parquet]'") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        groups = range(file.metadata.num_row_groups)
        if sum(file.metadata.row_group(group).total_byte_size for group in groups) > MOST_BYTES:
            raise RecordError(f"{path.name}: unpacks to more than 1 GiB; give only the columns needed")
        return file.read().to_pandas()
    except RecordError:
        raise
    except Exception as error:  # pyarrow's own errors share no base with pandas'
        raise RecordError(f"{path.name}: no readable Parquet table; write it again or use CSV") from error


def _read_zip(path: Path, data: bytes, *, packed: bool) -> FileContent:
    """Read an Excel workbook, or the only table of an archive; name the other kinds of ZIP files."""
    try:
        entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except zipfile.BadZipFile as error:
        raise RecordError(f"{path.name}: a damaged ZIP file or workbook; write it again") from error
    names = {entry.filename for entry in entries}
    if any(name.endswith(("/data.pkl", ".npy")) for name in names):
        raise RecordError(f"{path.name}: {PICKLED}")
    if "xl/workbook.xml" not in names:
        if "content.xml" in names:
            raise RecordError(f"{path.name}: an OpenDocument file; save it as .xlsx or CSV")
        if packed:
            raise RecordError(f"{path.name}: {NESTED}")
        return _read_only_table(path, data, entries)
    if sum(entry.file_size for entry in entries) > MOST_BYTES // 2:
        raise RecordError(f"{path.name}: unpacks to more than 512 MiB; save the sheet as CSV")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl's, about styles and extensions
            sheets = pd.read_excel(io.BytesIO(data), sheet_name=None, header=None, dtype=object, engine="openpyxl")
    except ImportError as error:
        raise UserError(f"{path.name}: Excel, which needs openpyxl; pip install 'lora-scaling[excel]'") from error
    except Exception as error:  # openpyxl raises whatever its XML reader does
        raise RecordError(f"{path.name}: no readable workbook; save it again, or as CSV") from error
    filled = {name: cells for name, cells in sheets.items() if cells.dropna(how="all").shape[0] > 1}
    if not filled:
        raise RecordError(f"{path.name}: a workbook without a table; a sheet has a row of column names and one per run")
    return _of_sheets({str(name): _with_header(cells) for name, cells in filled.items()})


def _of_sheets(sheets: Mapping[str, pd.DataFrame]) -> FileContent:
    """Read the sheet whose names are known best; sheets with the same columns one below the other, by their names."""
    if len(sheets) == 1:
        return FileContent(frame=next(iter(sheets.values())))
    known = {name: known_names(list(map(str, frame.columns))) for name, frame in sheets.items()}
    best = max(known, key=lambda name: known[name])
    alike = [name for name in sheets if list(sheets[name].columns) == list(sheets[best].columns)]
    others = ", ".join(f"`{name}`" for name in sheets if name not in alike)
    but = f"; not {others}" if others else ""
    if len(alike) == 1 or known[best] == 0 or "sheet" in sheets[best].columns:
        message = f"Read the sheet `{best}`; not {', '.join(f'`{name}`' for name in sheets if name != best)}."
        return FileContent(frame=sheets[best], warnings=(RunWarning(kind="sheet", message=message),))
    frame = pd.concat([sheets[name].assign(sheet=name) for name in alike], ignore_index=True)
    names = ", ".join(f"`{name}`" for name in alike)
    message = f"Read the sheets {names}, which have the same columns, with their names in `sheet`{but}."
    return FileContent(frame=frame, warnings=(RunWarning(kind="sheet", message=message),))


def _read_only_table(path: Path, data: bytes, entries: Sequence[zipfile.ZipInfo]) -> FileContent:
    """Read the one table that a ZIP archive holds, without writing any of it to the disk."""
    tables = [
        entry
        for entry in entries
        if entry.filename.lower().endswith(TABLE_SUFFIXES)
        and not entry.filename.startswith("__MACOSX/")
        and not Path(entry.filename).name.startswith(".")
    ]
    if len(tables) != 1:
        listed = f" ({', '.join(repr(entry.filename) for entry in tables[:5])})" if tables else ""
        raise RecordError(
            f"{path.name}: a ZIP archive of {len(tables)} tables{listed}; unpack it and name a table, or its folder"
        )
    inside = tables[0]
    if inside.flag_bits & 1:
        raise RecordError(f"{path.name}: a ZIP archive with a password; unpack it yourself")
    try:
        with zipfile.ZipFile(io.BytesIO(data)).open(inside) as file:
            content = file.read(MOST_BYTES + 1)
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
        raise RecordError(
            f"{path.name}: a damaged ZIP archive or of an unknown kind ({error}); write it again"
        ) from error
    if len(content) > MOST_BYTES:
        raise RecordError(f"{path.name}: unpacks to more than 1 GiB; unpack it yourself and give what is needed")
    if content.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", ZSTANDARD)):
        raise RecordError(f"{path.name}: {NESTED}")
    return _content_of(path.with_name(Path(inside.filename).name), content, packed=True)


def _with_header(cells: pd.DataFrame) -> pd.DataFrame:
    """Take the first row that is filled as far as the table is wide for the names; a title above it is no name."""
    cells = cells.dropna(how="all").dropna(how="all", axis=1)
    filled = cells.notna().sum(axis=1)
    head = int((filled >= 0.5 * filled.max()).to_numpy().argmax())
    frame = cells.iloc[head + 1 :].reset_index(drop=True)
    names = [f"column {i}" if pd.isna(name) else str(name).strip() for i, name in enumerate(cells.iloc[head], start=1)]
    frame.columns = with_group(list(cells.iloc[head - 1].fillna("").astype(str).str.strip()), names) if head else names
    return frame


def _as_utf8(path: Path, data: bytes) -> tuple[bytes, tuple[RunWarning, ...]]:
    """Return text as UTF-8 without a byte order mark; text of one byte a letter is read as Windows-1252."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif data.startswith(b"\xef\xbb\xbf"):
        encoding = "utf-8-sig"
    elif b"\x00" in data[:SNIFFED_BYTES]:
        odd, even = (data[place:SNIFFED_BYTES:2].count(0) for place in (1, 0))
        if max(odd, even) < 0.4 * min(len(data), SNIFFED_BYTES) / 2:
            raise RecordError(f"{path.name}: no table that is known here; give CSV, JSON, Parquet or Excel")
        encoding = "utf-16-le" if odd > even else "utf-16-be"
    else:
        encoding = "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise RecordError(f"{path.name}: damaged text in {encoding.upper()}; save it as UTF-8") from None
        message = f"{path.name} is not in UTF-8: read as Windows-1252 (Latin-1)."
        text = data.decode("cp1252", errors="replace")
        return text.encode(), (RunWarning(kind="encoding", message=message),)
    return (data if encoding == "utf-8" else text.encode()), ()


# Half of a character, as JSON may escape it and no text can hold it.
_LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def _read_json(path: Path, text: str, found: tuple[RunWarning, ...]) -> FileContent:
    if "\\ud" in text or "\\uD" in text:
        text = _LONE_SURROGATE.sub(r"\\ufffd", text)
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise RecordError(f"{path.name}: JSON nested too deeply to be a table") from error
    except ValueError as error:
        if text.lstrip().startswith("["):
            raise RecordError(f"{path.name}: no valid JSON ({error}); write one object a line") from error
    else:
        if (tables := notebook_tables(document)) is not None:
            return _of_tables(path, tables, "notebook", found)
        return FileContent(document=document, warnings=found)
    rows: list[dict[str, Any]] = []
    broken: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken.append((f"{path.name} line {number}", "the line is not a JSON object"))
    if not rows:
        raise RecordError(f"{path.name}: holds no JSON object; write one object a line, one line a run")
    return FileContent(frame=pd.DataFrame(rows), broken=tuple(broken), warnings=found)


def _of_tables(path: Path, tables: Sequence[list[list[str]]], noun: str, found: tuple[RunWarning, ...]) -> FileContent:
    """Read the table of a page or notebook whose names are of columns that are known."""
    known = [table for table in tables if known_names(table[0]) > 1]
    if len(known) != 1:
        shown = f"{len(known)} tables of runs" if known else "no table of runs"
        raise RecordError(f"{path.name}: a {noun} with {shown}; give the table itself as CSV")
    names, rows = joined(known[0])
    names = [name if name else f"column {place}" for place, name in enumerate(names, start=1)]
    frame = pd.DataFrame(rows, columns=distinct_names(path, names), dtype=str)
    if names[0] == "column 1" and frame["column 1"].is_unique:  # the rows' numbers, as notebooks show them
        frame = frame.drop(columns="column 1")
    others = f"; not {len(tables) - 1} others" if len(tables) > 1 else ""
    message = f"Read the table of {', '.join(f'`{name}`' for name in frame.columns[:4])} in the {noun}{others}."
    return FileContent(frame=frame, warnings=(*found, RunWarning(kind="inner_table", message=message)))


def _read_delimited(path: Path, data: bytes, found: tuple[RunWarning, ...]) -> FileContent:
    """Read every cell as text: what is a number is decided in `parsing`, where oddities can be named."""
    lines, separator = _beginning(data)
    if _in_blanks(lines):
        numbered = _numbered_rows([line.strip() for line in lines if line.strip() and not line.startswith("#")][:4])
        data = re.sub(rb"[ \t]+", b"\t", re.sub(rb"(?m)^[ \t]+|[ \t]+$", b"", data))
        data = b"index\t" + data.lstrip() if numbered else data
        lines, separator = _beginning(data)
    skipped = 0
    while lines and (not lines[0].strip() or _is_comment(lines, separator) or lines[0].lower().startswith("sep=")):
        skipped += 1
        lines = lines[1:]
    if (titles := titles_above(lines)) > 0:
        text = " ".join(" ".join(lines[:titles]).split())
        message = f"Left out above the names of the columns: {text[:120]!r}."
        found = (*found, RunWarning(kind="title", message=message))
        skipped, lines = skipped + titles, lines[titles:]
        separator = max(MARKS, key=lines[0].count)
    if not lines:
        raise RecordError(f"{path.name}: no line of column names; a table has one, and a line for each run")
    while lines[0].count('"') % 2 and len(lines) > 1:  # a name of several lines, as spreadsheets have them
        lines = [f"{lines[0]} {lines[1]}", *lines[2:]]
    first = next(csv.reader([lines[0]], delimiter=separator, skipinitialspace=True))
    names = [" ".join(name.split()) for name in first]
    names[0] = names[0].removeprefix("#").strip() or names[0]  # `# samples`, as numpy's savetxt writes it
    while names and not names[-1]:
        names.pop()
    if not names:
        raise RecordError(f"{path.name}: no column names in its first line; a table begins with them")
    names = distinct_names(path, names)
    widths = [len(_trimmed(row)) for row in csv.reader(lines[1:-1], delimiter=separator, skipinitialspace=True)]
    if max(widths, default=0) <= len(names):
        try:
            frame = pd.read_csv(
                io.BytesIO(data), sep=separator, dtype=str, keep_default_na=False, encoding="utf-8",
                quoting=csv.QUOTE_MINIMAL, skipinitialspace=True, header=None, names=names, usecols=range(len(names)),
                index_col=False, skiprows=skipped + 1, skip_blank_lines=True,
            )  # fmt: skip
            return FileContent(frame=_without_repeated_headers(frame.fillna("")), warnings=found)
        except pd.errors.EmptyDataError:
            return FileContent(frame=pd.DataFrame(columns=names), warnings=found)
        except (pd.errors.ParserError, ValueError):
            pass  # a later line is longer than the header
    return _read_ragged(path, data.decode(), separator, names, skipped, found)


def _in_blanks(lines: Sequence[str]) -> bool:
    """Whether blanks alone separate the columns: no line has another mark, and the first ones have as many words."""
    first = [line.strip() for line in lines if line.strip() and not line.startswith("#")][:4]
    if len(first) < 2 or any(mark in line for line in first for mark in ",;\t|"):
        return False
    if _numbered_rows(first):
        return True
    words = {len(line.split()) for line in first[: -1 if len(first) > 2 else None]}
    return len(words) == 1 and words.pop() > 1


def _numbered_rows(lines: Sequence[str]) -> bool:
    """Whether the names are one fewer than the cells, whose first ones number the rows, as a data frame is printed."""
    words = [line.split() for line in lines]
    return len(words) > 2 and len(words[0]) > 1 and all(
        len(row) == len(words[0]) + 1 and row[0].strip('"').isdigit() for row in words[1:-1]
    )  # fmt: skip


def _is_comment(lines: Sequence[str], separator: str) -> bool:
    """Whether the first line is a comment, and not the names of as many columns as the next line has."""
    if not lines[0].startswith("#"):
        return False
    after = next((line for line in lines[1:] if line.strip()), "#")
    cells = lines[0].count(separator)
    return cells == 0 or after.startswith("#") or after.count(separator) != cells


def _beginning(data: bytes) -> tuple[list[str], str]:
    """Return the first lines, the last of them perhaps cut off, and the separator."""
    cut = data[:SNIFFED_BYTES]
    lines = cut.decode(errors="ignore").splitlines() + ([""] if len(data) <= SNIFFED_BYTES else [])
    said = next((line for line in lines[:1] if line.lower().startswith("sep=")), "")
    if len(said) == 5:
        return lines, said[4]
    head = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    return lines, max(",;\t|", key=head.count) if any(mark in head for mark in ",;\t|") else ","


def _trimmed(row: list[str]) -> list[str]:
    """Drop empty cells at the end of a row."""
    end = len(row)
    while end and not row[end - 1].strip():
        end -= 1
    return row[:end]


def _without_repeated_headers(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop lines that repeat the header, as files have them that were written one after the other."""
    first = frame.columns[0]
    again = frame[first].str.strip() == first
    if not again.any():
        return frame
    same = again & (frame == pd.Series(frame.columns, index=frame.columns)).all(axis=1)
    return frame[~same].reset_index(drop=True)


def _read_ragged(
    path: Path, data: str, separator: str, names: list[str], skipped: int, found: tuple[RunWarning, ...]
) -> FileContent:
    """Read lines of unequal length one by one: short ones are filled up, longer ones are `ragged`."""
    rows: list[list[str]] = []
    ragged: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(data, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        for number, cells in enumerate(reader, start=1):
            row = _trimmed(cells)
            if number <= skipped + 1 or not row or [cell.strip() for cell in row] == names:
                continue
            if len(row) > len(names):
                ragged.append((number, cells))
            else:
                rows.append(row + [""] * (len(names) - len(row)))
    except csv.Error as error:
        line = reader.line_num
        raise RecordError(f"{path.name}: cannot be read as a table (line {line}: {error}); write it again") from error
    return FileContent(frame=pd.DataFrame(rows, columns=names, dtype=str), ragged=tuple(ragged), warnings=found)
