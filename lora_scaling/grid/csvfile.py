"""Read the user's own series: CSV with `start,end,g_per_kwh`, times in UTC."""

from __future__ import annotations

import csv
from pathlib import Path

from lora_scaling.grid.series import Definition, GridError, Series, Slot, ordered
from lora_scaling.grid.timeline import parse_utc
from lora_scaling.records import check_plain

DEFINITION = Definition(
    gas=None,
    signal="average",
    accounting=None,
    scope=None,
    includes_losses=None,
    sentence="g/kWh of the user's own file (grid.file); its definition is not known",
)


def read_series(path: str | Path, zone: str | None) -> Series:
    """Read the file as a series. Its name is recorded, but not its folder. A row with an empty `g_per_kwh` is a gap.

    Raises:
        GridError: the file cannot be used.
    """
    name = Path(path).name
    try:
        check_plain(Path(path))
        with open(path, newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            absent = {"start", "end", "g_per_kwh"} - set(rows.fieldnames or ())
            if absent:
                raise ValueError(f"the columns {', '.join(sorted(absent))} are absent")
            slots = [
                Slot(parse_utc(row["start"]), parse_utc(row["end"]), float(row["g_per_kwh"]))
                for row in rows
                if (row["g_per_kwh"] or "").strip()
            ]
    except OSError as error:
        raise GridError(f"grid.file {name} cannot be read ({error.strerror})") from error
    except (ValueError, OverflowError, TypeError, AttributeError, csv.Error) as error:
        raise GridError(f"grid.file {name} is not a series ({error})") from error
    return Series(
        slots=ordered(slots),
        provider="file",
        zone=zone or name,
        definition=DEFINITION,
        retrieved_at=None,
        url=None,
        licence=None,
        attribution=f"file {name}",
    )
