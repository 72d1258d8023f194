"""A machine that makes the runs of an adaptive study without making them."""

import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from lora_scaling.config import RunConfig, run_id
from lora_scaling.records import record_path, write_record
from lora_scaling.runs.run import RunOutcome

LEVELS = "samples=64,128,256,512,1024"


class Machine:
    """Makes runs of E = F + a·x^b without making them; `stop_at` interrupts at the n-th."""

    def __init__(
        self,
        b: float = 1.0,
        cv: float = 0.01,
        stop_at: int | None = None,
        minutes: int = 0,
        complete: bool = True,
        session: str | None = None,
    ) -> None:
        self.b, self.cv, self.stop_at, self.minutes, self.complete = b, cv, stop_at, minutes, complete
        self.session = session
        self.made: list[str] = []
        self.configs: list[RunConfig] = []

    def run(self, config: RunConfig, listen: Callable[..., None]) -> RunOutcome:
        name = run_id(config)
        path = record_path(config.runs_dir, config.study, name)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        seen = 0 if config.max_steps == 0 else config.samples * config.epochs
        joules = (32 + seen**self.b) * float(np.exp(self.cv * rng.standard_normal()))
        lasts = timedelta(minutes=self.minutes, seconds=0.5)
        started = datetime(2026, 11, 23, 22, tzinfo=UTC) + len(self.made) * (lasts + timedelta(seconds=0.5))
        record: dict[str, Any] = {
            "schema_version": 1,
            "run_id": name,
            "study": config.study,
            "status": "ok",
            "replicate": config.replicate,
            "order": config.order,
            "session": self.session,
            "started_at": started.isoformat(timespec="microseconds"),
            "finished_at": (started + lasts).isoformat(timespec="microseconds"),
            "config": config.to_dict(),
            "model": {"name": config.model.name},
            "work": {"samples_seen": seen, "steps": -(-seen // 8), "tokens_seen": 64 * seen},
            "training": {},
            "emissions": None,
            "energy": {"joules": joules, "complete": self.complete, "phases": [], "components": {}},
        }
        self.made.append(name)
        self.configs.append(config)
        if self.stop_at is not None and len(self.made) == self.stop_at:
            write_record(path, record | {"status": "interrupted", "error": "interrupted from the keyboard"})
            raise KeyboardInterrupt
        write_record(path, record)
        return RunOutcome(path=path, record=record)


def study(words: list[str]) -> str:
    """Carry out the study that these words ask for; why it ended."""
    from analysis.adaptive import next_step  # tables and statistics, which a worker with a machine does not need
    from lora_scaling.commands.study import parse
    from lora_scaling.runs.study import conduct

    return conduct(parse(words), next_step)


def arguments(folder: Path, *more: str, budget: str = "max_kwh=1") -> list[str]:
    return ["claim=linear_in_samples", budget, LEVELS, f"runs_dir={folder}", *more]
