"""Keep run records: one JSON file per run, written whole or not at all, and the table made of them."""

from lora_scaling.records.files import (
    RECORD_NAME,
    TIMELINE_NAME,
    check_plain,
    find_records,
    finished_record,
    is_finished,
    read_record,
    read_text,
    record_path,
    remove_stale_temporary_files,
    unwritable,
    write_record,
    write_text,
)
from lora_scaling.records.locks import doubts_about_locks, locked
from lora_scaling.records.row import COLUMNS, missing_part, record_to_row
from lora_scaling.records.schema import SCHEMA_VERSION, STATUSES, Record, RunRecord, blank_record, now, now_after

__all__ = [
    "COLUMNS",
    "RECORD_NAME",
    "SCHEMA_VERSION",
    "STATUSES",
    "TIMELINE_NAME",
    "Record",
    "RunRecord",
    "blank_record",
    "check_plain",
    "doubts_about_locks",
    "find_records",
    "finished_record",
    "is_finished",
    "locked",
    "missing_part",
    "now",
    "now_after",
    "read_record",
    "read_text",
    "record_path",
    "record_to_row",
    "remove_stale_temporary_files",
    "unwritable",
    "write_record",
    "write_text",
]
