"""Series on disk, one UTC day a file: final days for ever, others for minutes; its failures never matter."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lora_scaling.errors import UserError
from lora_scaling.grid.series import Slot, ordered
from lora_scaling.records import write_text

DAY = timedelta(days=1)
PROVISIONAL_FOR = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Day:
    """One UTC day of a zone: its slots, when they were retrieved, from where."""

    start: datetime
    slots: tuple[Slot, ...]
    retrieved_at: datetime
    url: str

    def is_final(self, final_after: timedelta) -> bool:
        """Whether it was retrieved late enough to be settled, is observed throughout, and has no hole."""
        if self.retrieved_at < self.start + DAY + final_after:
            return False
        covered = sum((slot.end - slot.start for slot in self.slots), timedelta())
        return covered >= DAY and all(slot.kind == "actual" for slot in self.slots)


@dataclass(frozen=True, kw_only=True)
class DayCache:
    """Days of one provider, host and zone below `folder`."""

    folder: Path
    provider: str
    base_url: str
    zone: str
    final_after: timedelta

    def _path(self, start: datetime) -> Path:
        host = hashlib.sha256(self.base_url.encode()).hexdigest()[:8]
        return self.folder / f"{self.provider}-{self.zone}-{host}" / f"{start:%Y-%m-%d}.json"

    def get(self, start: datetime, now: datetime) -> Day | None:
        """The day, if it is final or was retrieved just now."""
        try:
            stored = json.loads(self._path(start).read_text(encoding="utf-8"))
            slots = ordered(
                Slot(datetime.fromtimestamp(a, UTC), datetime.fromtimestamp(b, UTC), g, kind)
                for a, b, g, kind in stored["slots"]
            )
            retrieved_at = datetime.fromisoformat(stored["retrieved_at"])
            day = Day(start=start, slots=slots, retrieved_at=retrieved_at, url=stored["url"])
        except Exception:  # absent, torn or foreign: as good as not there
            return None
        fresh = timedelta(0) <= now - retrieved_at < PROVISIONAL_FOR
        return day if fresh or day.is_final(self.final_after) else None

    def put(self, day: Day) -> None:
        """Stores a day atomically, if the disk lets us."""
        path = self._path(day.start)
        document = {
            "retrieved_at": day.retrieved_at.isoformat(),
            "url": day.url,
            "slots": [(s.start.timestamp(), s.end.timestamp(), s.g_per_kwh, s.kind) for s in day.slots],
        }
        with contextlib.suppress(UserError):
            write_text(path, json.dumps(document))
