"""Cache series on disk, one file per UTC day: final days for ever, others for minutes. A failing disk is ignored."""

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
    """One UTC day of a zone: its slots, and when and from where they were retrieved."""

    start: datetime
    slots: tuple[Slot, ...]
    retrieved_at: datetime
    url: str

    def is_final(self, final_after: timedelta) -> bool:
        """Return whether the day was retrieved after its values settled, is observed throughout, and has no gap."""
        if self.retrieved_at < self.start + DAY + final_after:
            return False
        covered = sum((slot.end - slot.start for slot in self.slots), timedelta())
        return covered >= DAY and all(slot.kind == "actual" for slot in self.slots)


@dataclass(frozen=True, kw_only=True)
class DayCache:
    """Cached days of one provider, host and zone, in `folder`."""

    folder: Path
    provider: str
    base_url: str
    zone: str
    final_after: timedelta

    def _path(self, start: datetime) -> Path:
        host = hashlib.sha256(self.base_url.encode()).hexdigest()[:8]
        return self.folder / f"{self.provider}-{self.zone}-{host}" / f"{start:%Y-%m-%d}.json"

    def get(self, start: datetime, now: datetime) -> Day | None:
        """Return the day if it is final or was retrieved within the last minutes, else None."""
        try:
            stored = json.loads(self._path(start).read_text(encoding="utf-8"))
            slots = ordered(
                Slot(datetime.fromtimestamp(a, UTC), datetime.fromtimestamp(b, UTC), g, kind)
                for a, b, g, kind in stored["slots"]
            )
            retrieved_at = datetime.fromisoformat(stored["retrieved_at"])
            day = Day(start=start, slots=slots, retrieved_at=retrieved_at, url=stored["url"])
        except Exception:  # absent, half-written or not ours: treat as not cached
            return None
        fresh = timedelta(0) <= now - retrieved_at < PROVISIONAL_FOR
        return day if fresh or day.is_final(self.final_after) else None

    def put(self, day: Day) -> None:
        """Store a day atomically; do nothing if the disk refuses."""
        path = self._path(day.start)
        document = {
            "retrieved_at": day.retrieved_at.isoformat(),
            "url": day.url,
            "slots": [(s.start.timestamp(), s.end.timestamp(), s.g_per_kwh, s.kind) for s in day.slots],
        }
        with contextlib.suppress(UserError):
            write_text(path, json.dumps(document))
