"""What a person sees while runs go on: one line that moves, one line per finished run, a table at the end."""

import contextlib
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from lora_scaling import terminal
from lora_scaling.errors import UserError
from lora_scaling.estimate import Estimate
from lora_scaling.grid import GridSettings, static_of
from lora_scaling.records import Record, record_to_row
from lora_scaling.records.sources import energy_kind, energy_kind_of_all, measured_share
from lora_scaling.runs.run import WAITING, WARMING_UP, Onlooker, RunOutcome
from lora_scaling.runs.warmup import STEPS as WARMUP_STEPS
from lora_scaling.text import ENERGY, MASS, counted, duration, printable
from lora_scaling.units import JOULES_PER_KWH

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from lora_scaling.estimate.outlook import Outlook
    from lora_scaling.training.watch import Seen

_REFRESH_S = 0.5
_PLAIN_S = 60.0  # between two lines where none can move: a pipe, the log of a CI job
_MOST_LINES = 40  # of the closing table
_LEAST_BAR, _LONGEST_BAR = 10, 40  # columns


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a run is expected to take before it starts, in seconds: its set-up, its training, and the rest."""

    setup_s: float
    train_s: float
    rest_s: float

    @classmethod
    def of(cls, estimate: Estimate) -> "Expected | None":
        """Take it from an estimate; None if its time is unknown."""
        seconds = {name: part.seconds for name, part in estimate.parts.items()}
        if not seconds:
            return None
        setup_s, train_s = seconds.pop("setup", 0.0), seconds.pop("train", 0.0)
        return cls(setup_s=setup_s, train_s=train_s, rest_s=sum(seconds.values()))

    @property
    def work_s(self) -> float:
        return self.train_s + self.rest_s


@dataclass
class _Training:
    """How the training of the run on display goes: when it began, at which energy, and how its steps followed."""

    began: float
    joules: float | None
    outlook: "Outlook"
    share: float = 0.0
    seconds: float = 0.0


@dataclass
class Display(Onlooker):
    """Progress over a sweep and within its runs. `total` is None where this process does not know the sweep.

    expected: what each of its runs is expected to take, in their order; None if that is unknown.
    """

    total: int | None = None
    out: TextIO = field(default_factory=lambda: sys.stdout)
    moving: TextIO = field(default_factory=lambda: sys.stderr)
    expected: Sequence[Expected] | None = None
    done: int = 0
    energy_kwh: float = 0.0
    _warned: set[str] = field(default_factory=set)
    _label: str = ""  # of the run on display
    _last: float = 0.0
    _live: "Live | None" = None
    _training: _Training | None = None
    _g_per_kwh: float | None = None
    _passed: tuple[float, float] = (0.0, 0.0)  # seconds of finished runs without their set-up: taken, and expected
    _waits: bool = False

    @contextlib.contextmanager
    def run(self, label: str, *, g_per_kwh: float | None = None) -> Iterator[Onlooker]:
        """Show the progress of one run: it is reported to what is yielded. The line is gone afterwards.

        g_per_kwh: carbon intensity, for the grams of the whole training that the line predicts after some steps.
        """
        self._label, self._training, self._g_per_kwh = label, None, g_per_kwh
        if not self._animated:
            self._last = time.monotonic()  # a short run needs no line beside the one at its end
        try:
            yield self
        finally:
            if self._live is not None:
                self._live.stop()
                self._live = None

    @functools.cached_property
    def _console(self) -> "Console":
        return terminal.open_console(self.moving)

    @functools.cached_property
    def _animated(self) -> bool:
        """Whether the line can move: on a terminal, but not in a pipe, a notebook, or a log."""
        return self.moving.isatty() and not self._console.is_dumb_terminal and not terminal.is_notebook()

    def __call__(
        self, phase: str, step: int, steps: int, joules: float | None, seen: "Callable[[], Seen] | None" = None, /
    ) -> None:
        """Draw the line, at most twice a second where it can move and once a minute elsewhere: it costs energy as well.

        seen: looks at the training, without waiting for the device.
        """
        now = time.monotonic()
        if phase == "train":
            self._note_training(step, steps, now, joules)
        if phase == WARMING_UP:
            line = f"Warm-up of this process: {WARMUP_STEPS} steps, neither measured nor recorded"
            print(f"{line} (warmup_run=false: none)", file=self.out, flush=True)
        if phase == WAITING and not self._animated and not self._waits:
            self._waits = True
            line = f"{self._place()}{self._label}: {WAITING}; another run is measured on it"
            print(printable(line), file=self.moving, flush=True)
        if self._animated and now - self._last < _REFRESH_S and 0 < step < steps:
            return
        if not self._animated and now - self._last < _PLAIN_S:
            return
        self._last = now
        parts = self._parts(phase, step, steps, joules, seen() if seen is not None else None)
        if not self._animated:
            print(printable(_joined([text for _, text in parts])), file=self.moving, flush=True)
            return
        if self._live is None:
            from rich.live import Live

            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        self._live.update(self._line(parts, step, steps), refresh=True)

    def _parts(
        self, phase: str, step: int, steps: int, joules: float | None, seen: "Seen | None"
    ) -> list[tuple[int, str]]:
        """List what is known, in the order of reading, each with its rank: those of high rank are left out first."""
        parts = [(1, self._place().rstrip())] if self.total else []
        parts += [(4, self._label), (0, f"{phase} {step}/{steps}" if steps else phase)]
        spent_kwh = self.energy_kwh + (joules or 0.0) / JOULES_PER_KWH
        if spent_kwh:
            parts.append((2, f"{ENERGY.show(spent_kwh)} so far"))
        left = self._seconds_left(phase)
        if left is not None:
            parts.append((1, f"about {duration(round(left))} left"))
        training = self._training
        if phase != "train" or training is None:
            return parts
        if seen is not None and seen.loss is not None:
            parts.append((5, f"loss {seen.loss:.3g}"))
        if seen is not None and seen.tokens and training.seconds > 0:
            parts.append((6, f"{seen.tokens / training.seconds:,.0f} tokens/s"))
        whole = self._predicted(training, steps, joules)
        if whole is not None:
            parts.append((7, whole))
        return parts

    def _line(self, parts: Sequence[tuple[int, str]], step: int, steps: int) -> "RenderableType":
        """Draw the parts that fit into the terminal's width, with a bar where there is room for one."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = self._console.width
        kept = sorted(range(len(parts)), key=lambda place: parts[place][0])
        while True:
            text = Text(printable(_joined([parts[place][1] for place in sorted(kept)])), no_wrap=True)
            if text.cell_len < width or len(kept) == 1:
                break
            kept.pop()
        text.truncate(max(width - 1, 1), overflow="ellipsis")
        room = width - text.cell_len - 1
        if not steps or room < _LEAST_BAR:
            return text
        line = Table.grid(padding=(0, 1))
        line.add_row(text, ProgressBar(total=steps, completed=step, width=min(room, _LONGEST_BAR)))
        return line

    def _note_training(self, step: int, steps: int, now: float, joules: float | None) -> None:
        """Note the end of a training step."""
        if self._training is None:
            from lora_scaling.estimate.outlook import Outlook

            self._training = _Training(began=now, joules=joules, outlook=Outlook())
        training = self._training
        training.seconds = now - training.began
        training.share = step / steps if steps else 0.0
        training.outlook.note(step, training.seconds)

    def _predicted(self, training: _Training, steps: int, joules: float | None) -> str | None:
        """Say what the whole training will take and emit, at the mean power so far."""
        spent = 0.0 if joules is None or training.joules is None else joules - training.joules
        whole = training.outlook.whole(steps, spent / training.seconds if spent > 0 and training.seconds > 0 else None)
        return None if whole is None else whole.sentence(self._g_per_kwh)

    def _place(self) -> str:
        return f"[{self.done + 1}/{self.total}] " if self.total else ""

    def _seconds_left(self, phase: str) -> float | None:
        """Add up what is left of this run and of the sweep's others, by what was expected and the pace since then."""
        training = self._training
        share = training.share if training is not None else 0.0
        here = None if training is None or not share else training.seconds * (1 - share) / share
        if self.total is None or self.total == 1:
            return here if phase == "train" else None
        if self.expected is None or self.done >= len(self.expected):
            return None
        mine, *others = self.expected[self.done :]
        taken, expected = self._passed
        if training is not None and share:
            taken, expected = taken + training.seconds, expected + share * mine.train_s
        pace = taken / expected if expected > 0 else 1.0
        rest = mine.rest_s if training is None else mine.rest_s / 2  # the evaluation before it is over
        here = pace * mine.train_s if here is None else here
        return here + pace * rest + sum(run.setup_s + pace * run.work_s for run in others)

    def run_finished(self, outcome: RunOutcome) -> None:
        """Print one line: what ran, what it took, or why it did not."""
        made = outcome.record if outcome.skipped is None else None
        if made is not None:
            self.energy_kwh += ((made.get("energy") or {}).get("joules") or 0.0) / JOULES_PER_KWH
        print(self._place() + printable(describe(outcome)), file=self.out, flush=True)
        if made is not None:
            for kind, message in warnings_of(made):
                if kind not in self._warned:  # the closing lines count the runs
                    print(f"  warning: {printable(message)}", file=self.out, flush=True)
                    self._warned.add(kind)
            if made["status"] == "ok" and self.expected is not None and self.done < len(self.expected):
                row = record_to_row(made)
                taken, expected = self._passed
                taken += (row["total_s"] or 0.0) - (row["setup_s"] or 0.0)
                self._passed = (taken, expected + self.expected[self.done].work_s)
        self.done += 1


def _joined(parts: Sequence[str]) -> str:
    """Join parts by dots; the place of a run in its sweep stands before what it is the place of."""
    text = " · ".join(parts)
    return text.replace("] · ", "] ", 1) if text.startswith("[") else text


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
    """Format the closing table: a line per work, in the order of its first run, with means ± standard deviations.

    Of more works than fit a screen, the first ones are shown.
    """
    made = list(records)
    rows = [record_to_row(record) for record in made]
    rows.sort(key=lambda row: (row["order"] is None, row["order"], row["started_at"]))
    energy = ENERGY.column_unit(row["energy_kwh"] for row in rows)
    mass = MASS.column_unit(row["emissions_g"] for row in rows)
    shares = {str(record["run_id"]): measured_share(record) for record in made}
    energetic = [str(row["run_id"]) for row in rows if row["energy_kwh"] is not None]
    kind = energy_kind_of_all([shares[name] for name in energetic])
    apart = kind is None and any(shares[name] is not None for name in energetic)  # then each line has its own share
    energies, masses = f"{energy.name} ({kind})" if kind else f"energy ({energy.name})", f"CO2e ({mass.name})"
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
            "0" if row["steps"] == 0 else _summary([run["tokens_seen"] for run in runs], "{:,.0f}".format),
            "no training" if row["steps"] == 0 else _summary([_pace(run) for run in runs], "{:,.0f}".format),
            _summary([run["energy_kwh"] for run in runs], energy.number),
            *[_shares([shares[str(run["run_id"])] for run in runs])] * apart,
            _summary([run["emissions_g"] for run in runs], mass.number),
            _summary([_last_loss(run) for run in runs], "{:.4g}".format),
        )
        for runs in itertools.islice(alike.values(), _MOST_LINES)
        for row in runs[:1]
    ]
    text = terminal.table([header, *cells], left=2)
    return text if len(alike) <= _MOST_LINES else f"{text}\n… and {len(alike) - _MOST_LINES} more"


def _summary(values: Sequence[float | None], write: Callable[[float], str]) -> str:
    """Write a value, or the mean of several and their standard deviation; a dash if one is unknown."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "–"
    mean = write(statistics.fmean(known))
    return mean if len(set(known)) == 1 else f"{mean} ± {_spread(statistics.stdev(known), mean, write)}"


def _spread(deviation: float, mean: str, write: Callable[[float], str]) -> str:
    """Write a standard deviation with as many decimals as the mean has, unless that would make it 0."""
    written = write(deviation)
    if "e" in mean + written:
        return written
    rounded = f"{float(written.replace(',', '')):,.{len(mean.partition('.')[2])}f}"
    return rounded if float(rounded.replace(",", "")) > 0 else written


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
