"""Read the energy timeline of a run as bins of joules."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lora_scaling.errors import RecordError
from lora_scaling.grid.series import is_utc
from lora_scaling.records import check_plain
from lora_scaling.records.timeline import ENERGY_COLUMNS, TIMELINE_COLUMNS

MOST_JOULES = 1e21  # of a bin: more than the world uses in a year, and their sum is a finite number


@dataclass(frozen=True, slots=True)
class EnergyBin:
    """`joules` drawn evenly over `[start, end)` in aware UTC. Raises ValueError for impossible values."""

    start: datetime
    end: datetime
    joules: float

    def __post_init__(self) -> None:
        if not (is_utc(self.start) and is_utc(self.end)):
            raise ValueError(f"a bin's times must be aware UTC, got {self.start!r} to {self.end!r}")
        if not self.start < self.end:
            raise ValueError(f"a bin must end after it starts, got {self.start} to {self.end}")
        if not 0 <= self.joules <= MOST_JOULES:
            raise ValueError(
                f"joules must be finite, not negative and at most {MOST_JOULES:g}, got {self.joules} at {self.start}"
            )


def parse_utc(text: str) -> datetime:
    """Parse an ISO 8601 time as aware UTC; a time without an offset is UTC."""
    moment = datetime.fromisoformat(text.strip())
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def read_timeline(path: str | Path) -> list[EnergyBin]:
    """Read the bins of `timeline.csv`: the joules of all known components (an empty cell is unknown).

    A row is left out if all its cells are empty, because its energy is unknown and not zero, or if it has no length.
    Raises RecordError if the file is absent or is not a timeline.
    """
    bins: list[EnergyBin] = []
    try:
        check_plain(Path(path))
        with open(path, newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(stream)
            absent = {"start", "end", *ENERGY_COLUMNS} - set(rows.fieldnames or ())
            if absent:
                raise ValueError(f"the columns {', '.join(sorted(absent))} are absent")
            for row in rows:
                joules = [float(row[name]) for name in ENERGY_COLUMNS if (row[name] or "").strip()]
                start, end = parse_utc(row["start"]), parse_utc(row["end"])
                if joules and start != end:
                    bins.append(EnergyBin(start, end, sum(joules)))
        if _overlap(bins):
            raise ValueError("its rows overlap, as those of one run do not")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); expected a CSV file") from error
    except (ValueError, OverflowError, TypeError, AttributeError, csv.Error) as error:
        raise RecordError(
            f"{path}: not an energy timeline ({error}); "
            f"expected the columns {','.join(TIMELINE_COLUMNS)} with UTC times"
        ) from error
    return bins


def _overlap(bins: Sequence[EnergyBin]) -> bool:
    """Return whether the bins cover their time many times over; once again they may, after a clock was set back."""
    if not bins:
        return False
    covered = sum((b.end - b.start for b in bins), timedelta())
    return covered > 10 * (max(b.end for b in bins) - min(b.start for b in bins))
