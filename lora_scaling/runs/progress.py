"""What a person sees while runs go on: one line that moves, one line per finished run, a table at the end."""

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from lora_scaling.records import Record, record_to_row
from lora_scaling.runs.run import Ran
from lora_scaling.text import ENERGY, MASS, columns, duration
from lora_scaling.units import JOULES_PER_KWH

_REFRESH_S = 0.2


@dataclass
class Display:
    """Progress over a sweep and within its runs. `total` is None where this process does not know the sweep."""

    total: int | None = None
    out: TextIO = field(default_factory=lambda: sys.stdout)
    moving: TextIO = field(default_factory=lambda: sys.stderr)
    done: int = 0
    joules: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _run_started: float = 0.0
    _last: float = 0.0
    _width: int = 0

    def run_started(self) -> None:
        self._run_started = time.monotonic()

    def progress(self, label: str, phase: str, step: int, steps: int, joules: float | None) -> None:
        """Redraw the moving line, at most a few times a second and only on a terminal."""
        now = time.monotonic()
        if not self.moving.isatty() or (now - self._last < _REFRESH_S and 0 < step < steps):
            return
        self._last = now
        parts = [f"{self._place()}{label}", f"{phase} {step}/{steps}" if steps else phase]
        spent = self.joules + (joules or 0.0)
        if spent:
            parts.append(f"{ENERGY.show(spent / JOULES_PER_KWH)} so far")
        left = self._seconds_left(now, step / steps if steps else 0.0)
        if left is not None:
            parts.append(f"about {duration(left)} left")
        self._draw(" · ".join(parts))

    def _place(self) -> str:
        return f"[{self.done + 1}/{self.total}] " if self.total else ""

    def _seconds_left(self, now: float, share: float) -> float | None:
        """From the pace so far: of the sweep's finished runs, or within the only one."""
        if self.total is None or self.total == 1:
            return (now - self._run_started) * (1 - share) / share if share > 0 else None
        finished = self.done + share
        return (now - self._started) * (self.total - finished) / finished if self.done else None

    def _draw(self, text: str) -> None:
        self.moving.write("\r" + text.ljust(self._width))
        self.moving.flush()
        self._width = len(text)

    def clear(self) -> None:
        if self._width:
            self.moving.write("\r" + " " * self._width + "\r")
            self.moving.flush()
            self._width = 0

    def run_finished(self, ran: Ran) -> None:
        """One line: what ran, what it took, or why it did not."""
        self.clear()
        if ran.record is not None and ran.skipped is None:
            self.joules += (ran.record.get("energy") or {}).get("joules") or 0.0
        print(self._place() + describe(ran), file=self.out, flush=True)
        self.done += 1


display = Display()
"""Of this process; a sweep in one process puts its own here."""


def describe(ran: Ran) -> str:
    """A finished run in one line."""
    if ran.skipped is not None:
        return f"{ran.path.parent.name}: {ran.skipped}"
    assert ran.record is not None
    record = ran.record
    if record["status"] != "ok":
        return f"{record['run_id']}: {record['status']}: {record['error']}"
    row = record_to_row(record)
    return " · ".join(
        [
            str(record["run_id"]),
            f"train {duration(row['train_s'])}" if row["train_s"] is not None else "no training",
            f"{_tokens_per_s(row)} tokens/s",
            "energy unknown" if row["energy_kwh"] is None else ENERGY.show(row["energy_kwh"]),
            "– g" if row["emissions_g"] is None else MASS.show(row["emissions_g"]),
            f"loss {_loss(row['eval_loss_before'])} → {_loss(row['eval_loss_after'])}",
        ]
    )


def table(records: Iterable[Record]) -> str:
    """Format the closing table: a line per finished run, in the order in which they were made."""
    rows = [record_to_row(record) for record in records]
    rows.sort(key=lambda row: (row["order"] is None, row["order"], row["started_at"]))
    energy = ENERGY.column_unit(row["energy_kwh"] for row in rows)
    mass = MASS.column_unit(row["emissions_g"] for row in rows)
    energies, masses = f"energy ({energy.name})", f"CO2e ({mass.name})"
    header = ("model", "method", "rank", "samples", "epochs", "rep", "tokens", "tokens/s", energies, masses, "loss")
    cells = [
        (
            str(row["model"]),
            str(row["method"]),
            "–" if row["rank"] is None else str(row["rank"]),
            str(row["samples"]),
            str(row["epochs"]),
            str(row["replicate"]),
            "–" if row["tokens_seen"] is None else f"{row['tokens_seen']:,}",
            _tokens_per_s(row),
            energy.number(row["energy_kwh"]),
            mass.number(row["emissions_g"]),
            _loss(row["eval_loss_after"] if row["eval_loss_after"] is not None else row["train_loss"]),
        )
        for row in rows
    ]
    return "\n".join(columns([header, *cells], left=2))


def _tokens_per_s(row: Mapping[str, Any]) -> str:
    tokens, seconds = row["tokens_seen"], row["train_s"]
    return f"{tokens / seconds:,.0f}" if tokens and seconds else "–"


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
