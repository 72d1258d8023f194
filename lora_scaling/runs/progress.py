"""What a person sees while runs go on: one line that moves, one line per finished run, a table at the end."""

import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from lora_scaling import terminal
from lora_scaling.errors import UserError
from lora_scaling.grid import GridSettings, static_of
from lora_scaling.records import Record, record_to_row
from lora_scaling.records.sources import energy_kind, energy_kind_of_all, measured_share
from lora_scaling.runs.run import Listener, RunOutcome
from lora_scaling.text import ENERGY, MASS, counted, duration, printable
from lora_scaling.units import JOULES_PER_KWH

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from lora_scaling.estimate.outlook import Outlook

_REFRESH_S = 0.5
_LEAST_BAR, _LONGEST_BAR = 10, 40  # columns


@dataclass
class Display:
    """Progress over a sweep and within its runs. `total` is None where this process does not know the sweep."""

    total: int | None = None
    out: TextIO = field(default_factory=lambda: sys.stdout)
    moving: TextIO = field(default_factory=lambda: sys.stderr)
    done: int = 0
    energy_kwh: float = 0.0
    _warned: set[str] = field(default_factory=set)
    _started: float = field(default_factory=time.monotonic)
    _run_started: float = 0.0
    _last: float = 0.0
    _live: "Live | None" = None
    _outlook: "Outlook | None" = None
    _train_started: tuple[float, float | None] | None = None
    _g_per_kwh: float | None = None

    @contextlib.contextmanager
    def run(self, label: str, *, g_per_kwh: float | None = None) -> Iterator[Listener]:
        """Show the progress of one run: it is reported to the function that is yielded. The line is gone afterwards.

        g_per_kwh: carbon intensity, for the grams of the whole training that the line predicts after some steps.
        """
        self._run_started = time.monotonic()
        self._outlook, self._train_started, self._g_per_kwh = None, None, g_per_kwh
        try:
            yield functools.partial(self._progress, label)
        finally:
            if self._live is not None:
                self._live.stop()
                self._live = None

    def _progress(self, label: str, phase: str, step: int, steps: int, joules: float | None) -> None:
        """Redraw the moving line, at most twice a second and only on a terminal: drawing costs energy as well."""
        now = time.monotonic()
        if phase == "train" and self.moving.isatty():
            self._look_ahead(step, now, joules)
        if not self.moving.isatty() or (now - self._last < _REFRESH_S and 0 < step < steps):
            return
        self._last = now
        if self._live is None:
            from rich.live import Live

            console = terminal.open_console(self.moving)
            self._live = Live(
                console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        self._live.update(self._line(label, phase, step, steps, joules, now), refresh=True)

    def _line(
        self, label: str, phase: str, step: int, steps: int, joules: float | None, now: float
    ) -> "RenderableType":
        """Draw what is done, with a bar where there is room for one; what matters less comes last and is cut first."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        parts = [f"{self._place()}{label}", f"{phase} {step}/{steps}" if steps else phase]
        spent_kwh = self.energy_kwh + (joules or 0.0) / JOULES_PER_KWH
        if spent_kwh:
            parts.append(f"{ENERGY.show(spent_kwh)} so far")
        left = self._seconds_left(now, step / steps if steps else 0.0)
        if left is not None:
            parts.append(f"about {duration(left)} left")
        whole = self._predicted(steps, now, joules) if phase == "train" else None
        if whole is not None:
            parts.append(whole)
        text = Text(printable(" · ".join(parts)), no_wrap=True, overflow="ellipsis")
        assert self._live is not None
        room = self._live.console.width - text.cell_len - 1
        if not steps or room < _LEAST_BAR:
            return text
        line = Table.grid(padding=(0, 1))
        line.add_row(text, ProgressBar(total=steps, completed=step, width=min(room, _LONGEST_BAR)))
        return line

    def _look_ahead(self, step: int, now: float, joules: float | None) -> None:
        """Note the end of a training step, for the prediction of the whole training."""
        if self._outlook is None or self._train_started is None:
            from lora_scaling.estimate.outlook import Outlook

            self._outlook, self._train_started = Outlook(), (now, joules)
        self._outlook.note(step, now - self._train_started[0])

    def _predicted(self, steps: int, now: float, joules: float | None) -> str | None:
        """Say what the whole training will take and emit; the energy is that of the GPUs, which is read as it goes."""
        if self._outlook is None or self._train_started is None:
            return None
        began, before = self._train_started
        spent = 0.0 if joules is None or before is None else joules - before
        whole = self._outlook.whole(steps, spent / (now - began) if spent > 0 and now > began else None)
        if whole is None:
            return None
        return whole.sentence(self._g_per_kwh) + (" (GPUs)" if whole.joules is not None else "")

    def _place(self) -> str:
        return f"[{self.done + 1}/{self.total}] " if self.total else ""

    def _seconds_left(self, now: float, share: float) -> float | None:
        """Extrapolate the pace so far: of the sweep's finished runs, or within the only one."""
        if self.total is None or self.total == 1:
            return (now - self._run_started) * (1 - share) / share if share > 0 else None
        finished = self.done + share
        return (now - self._started) * (self.total - finished) / finished if self.done else None

    def run_finished(self, outcome: RunOutcome) -> None:
        """Print one line: what ran, what it took, or why it did not."""
        if outcome.record is not None and outcome.skipped is None:
            self.energy_kwh += ((outcome.record.get("energy") or {}).get("joules") or 0.0) / JOULES_PER_KWH
        print(self._place() + printable(describe(outcome)), file=self.out, flush=True)
        if outcome.record is not None and outcome.skipped is None:
            for kind, message in warnings_of(outcome.record):
                if kind not in self._warned:  # the closing lines count the runs
                    print(f"  warning: {printable(message)}", file=self.out, flush=True)
                    self._warned.add(kind)
        self.done += 1


def yearly_mean(grid: GridSettings) -> float | None:
    """Return the grams per kWh that a run's progress line counts with; None if its zone has no value."""
    with contextlib.suppress(UserError):
        return static_of(grid).g_per_kwh * grid.pue
    return None


display = Display()
"""Of this process; a sweep in one process puts its own here."""


def describe(ran: RunOutcome) -> str:
    """Describe a run that ended in one line."""
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
            _energy(record, row),
            "– g" if row["emissions_g"] is None else MASS.show(row["emissions_g"]),
            f"loss {_loss(row['eval_loss_before'])} → {_loss(row['eval_loss_after'])}",
        ]
    )


def warnings_of(record: Record) -> list[tuple[str, str]]:
    """Return the warnings of a run and of its measurement as (kind, sentence)."""
    found = [*((record.get("energy") or {}).get("warnings") or []), *(record.get("warnings") or [])]
    return list(dict.fromkeys((str(warning.get("kind")), str(warning.get("message"))) for warning in found))


def warning_lines(records: Iterable[Record]) -> list[str]:
    """Return a line per kind of warning: in how many runs, and the first one's sentence."""
    first: dict[str, str] = {}
    runs: dict[str, int] = {}
    for record in records:
        for kind, message in dict(warnings_of(record)).items():
            first.setdefault(kind, message)
            runs[kind] = runs.get(kind, 0) + 1
    return [f"Warning in {counted(runs[kind], 'run')} ({kind}): {message}" for kind, message in first.items()]


def _energy(record: Record, row: Mapping[str, Any]) -> str:
    if row["energy_kwh"] is not None:
        kind = energy_kind(measured_share(record))
        return f"{ENERGY.show(row['energy_kwh'])}{f' {kind}' if kind else ''}"
    parts = ((record.get("energy") or {}).get("components") or {}).items()
    reasons = [f"{name}: {part['reason']}" for name, part in parts if part.get("joules") is None and part.get("reason")
               and part.get("source") != "none"]  # fmt: skip
    return f"energy unknown ({reasons[0]})" if reasons else "energy unknown"


def table(records: Iterable[Record]) -> str:
    """Format the closing table: a line per work, in the order of its first run, with means ± standard deviations."""
    made = list(records)
    rows = [record_to_row(record) for record in made]
    rows.sort(key=lambda row: (row["order"] is None, row["order"], row["started_at"]))
    energy = ENERGY.column_unit(row["energy_kwh"] for row in rows)
    mass = MASS.column_unit(row["emissions_g"] for row in rows)
    shares = {str(record["run_id"]): measured_share(record) for record in made}
    energetic = [str(row["run_id"]) for row in rows if row["energy_kwh"] is not None]
    kind = energy_kind_of_all([shares[name] for name in energetic])
    apart = kind is None and any(shares[name] is not None for name in energetic)  # then each line has its own share
    energies, masses = f"energy ({energy.name}{f', {kind}' if kind else ''})", f"CO2e ({mass.name})"
    header = (
        "model",
        "method",
        "rank",
        "samples",
        "epochs",
        "runs",
        "tokens",
        "tokens/s",
        energies,
        *["measured"] * apart,
        masses,
        "loss",
    )
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        alike.setdefault(str(row["run_id"]).removesuffix(f"-{row['replicate']}"), []).append(row)
    cells = [
        (
            str(row["model"]),
            str(row["method"]),
            "–" if row["rank"] is None else str(row["rank"]),
            str(row["samples"]),
            str(row["epochs"]),
            str(len(runs)),
            "no training" if row["steps"] == 0 else _summary([run["tokens_seen"] for run in runs], "{:,.0f}".format),
            _summary([_pace(run) for run in runs], "{:,.0f}".format),
            _summary([run["energy_kwh"] for run in runs], energy.number),
            *[_shares([shares[str(run["run_id"])] for run in runs])] * apart,
            _summary([run["emissions_g"] for run in runs], mass.number),
            _summary([_last_loss(run) for run in runs], "{:.4g}".format),
        )
        for runs in alike.values()
        for row in runs[:1]
    ]
    return terminal.table([header, *cells], left=2)


def _summary(values: Sequence[float | None], write: Callable[[float], str]) -> str:
    """Write a value, or the mean of several and their standard deviation; a dash if one is unknown."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "–"
    mean = write(statistics.fmean(known))
    return mean if len(set(known)) == 1 else f"{mean} ± {write(statistics.stdev(known))}"


def _shares(shares: Sequence[float | None]) -> str:
    """Write the share of energies that was measured: 83 %, or 82–85 %; a dash if one is unknown."""
    known = [f"{100 * share:.0f}" for share in sorted(share for share in shares if share is not None)]
    return f"{'–'.join(dict.fromkeys([known[0], known[-1]]))} %" if known and len(known) == len(shares) else "–"


def _last_loss(row: Mapping[str, Any]) -> float | None:
    return row["eval_loss_after"] if row["eval_loss_after"] is not None else row["train_loss"]


def _pace(row: Mapping[str, Any]) -> float | None:
    """Compute tokens per second of the train window."""
    tokens, seconds = row["tokens_seen"], row["train_s"]
    return tokens / seconds if tokens and seconds else None


def _tokens_per_s(row: Mapping[str, Any]) -> str:
    pace = _pace(row)
    return "–" if pace is None else f"{pace:,.0f}"


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
