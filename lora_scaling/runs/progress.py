"""What a person sees while runs go on: one line that moves, one line per finished run, a table at the end."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from lora_scaling.records import Record, record_to_row
from lora_scaling.runs.run import Ran
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
            parts.append(f"{format_energy(spent)} so far")
        left = self._seconds_left(now, step / steps if steps else 0.0)
        if left is not None:
            parts.append(f"about {format_duration(left)} left")
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
            f"train {format_duration(row['train_s'])}" if row["train_s"] is not None else "no training",
            format_rate(row),
            _format_kwh(row["energy_kwh"]),
            format_grams(row["emissions_g"]),
            f"loss {format_number(row['eval_loss_before'])} → {format_number(row['eval_loss_after'])}",
        ]
    )


def table(records: Iterable[Record]) -> str:
    """The closing table, a line per finished run, in the order they were made."""
    rows = [record_to_row(record) for record in records]
    rows.sort(key=lambda row: (row["order"] is None, row["order"], row["started_at"]))
    header = (
        "model",
        "method",
        "rank",
        "samples",
        "epochs",
        "rep",
        "tokens",
        "tokens/s",
        "energy",
        "grams",
        "loss",
    )
    cells: list[tuple[str, ...]] = [header]
    for row in rows:
        cells.append(
            (
                str(row["model"]),
                str(row["method"]),
                "–" if row["rank"] is None else str(row["rank"]),
                str(row["samples"]),
                str(row["epochs"]),
                str(row["replicate"]),
                "–" if row["tokens_seen"] is None else f"{row['tokens_seen']:,}",
                format_rate(row).removesuffix(" tokens/s"),
                _format_kwh(row["energy_kwh"]),
                format_grams(row["emissions_g"]),
                format_number(row["eval_loss_after"] if row["eval_loss_after"] is not None else row["train_loss"]),
            )
        )
    return align(cells, left=2)


def align(cells: Sequence[Sequence[str]], left: int) -> str:
    """Columns of equal width; the first `left` flush left, the rest flush right; a rule under the header."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "─" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def format_energy(joules: float | None) -> str:
    if joules is None:
        return "energy unknown"
    wh = joules / 3600
    return f"{wh / 1000:.3g} kWh" if wh >= 1000 else f"{wh:.3g} Wh" if wh >= 0.01 else f"{wh * 1000:.3g} mWh"


def _format_kwh(kwh: float | None) -> str:
    return format_energy(None if kwh is None else kwh * JOULES_PER_KWH)


def format_grams(grams: float | None) -> str:
    if grams is None:
        return "– g"
    return (
        f"{grams / 1000:.3g} kg" if grams >= 1000 else f"{grams:.3g} g" if grams >= 0.01 else f"{grams * 1000:.3g} mg"
    )


def format_duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def format_rate(row: Mapping[str, Any]) -> str:
    tokens, seconds = row["tokens_seen"], row["train_s"]
    return f"{tokens / seconds:,.0f} tokens/s" if tokens and seconds else "– tokens/s"


def format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
