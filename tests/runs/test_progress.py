"""What a person reads while runs go on and when they end: figures in fitting units, honest gaps, time left."""

import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_scaling.commands.run import when_to_run
from lora_scaling.config import compose
from lora_scaling.runs import progress as console
from lora_scaling.runs.run import WAITING, RunOutcome
from tests.support.grid_server import energinet, serving


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def record(name: str = "r", **changes: Any) -> dict[str, Any]:
    """A finished run of 3,600 J in 20 s, 10 s of them training on 1,000 tokens."""
    phase = {"name": "train", "seconds": 10.0, "components": {"cpu": {"joules": 3000.0, "source": "rapl"}}}
    return {
        "schema_version": 1, "run_id": name, "status": "ok", "error": None, "total_s": 20.0, "order": 0,
        "started_at": "2026-11-24T00:00:00+00:00", "replicate": 0, "model": {"name": "ladder-1m"},
        "config": {"samples": 8, "epochs": 1, "lora": {"r": 4}, "method": {"name": "lora"}},
        "work": {"tokens_seen": 1000}, "training": {"eval_loss_before": 2.5, "eval_loss_after": 2.25},
        "energy": {"joules": 3600.0, "phases": [phase], "components": {}}, "emissions": {"grams": 0.475},
    } | changes  # fmt: skip


def ran(**changes: Any) -> RunOutcome:
    return RunOutcome(path=Path("runs/s/r/run.json"), record=record(**changes))


def test_a_finished_run_is_one_line_of_what_it_took() -> None:
    line = console.describe(ran())
    assert line == "r · train 10 s · 100 tokens/s · 1 Wh · 0.475 g · loss 2.5 → 2.25"


def test_measured_and_modelled_energy_are_told_apart_and_an_unknown_one_gives_its_reason() -> None:
    gpu = {"joules": 3000.0, "source": "nvml_counter"}
    ram = {"joules": 600.0, "source": "constant_model"}

    def energy_of(**parts: dict[str, Any]) -> str:
        return console.describe(ran(energy={**record()["energy"], "components": parts})).split(" · ")[3]

    assert energy_of(gpu=gpu) == "1 Wh measured"
    assert energy_of(ram=ram) == "1 Wh modelled"
    assert energy_of(gpu=gpu, ram=ram, cpu={"joules": None, "source": "none"}) == "1 Wh 83 % measured"
    assert energy_of(gpu={"joules": 3600.0, "source": "wall_meter"}) == "1 Wh"
    lost = {"joules": None, "source": "nvml_counter", "reason": "GPU is lost"}
    part = {**record()["energy"], "complete": False, "components": {"gpu": lost, "ram": ram}}
    assert "energy unknown (gpu: GPU is lost)" in console.describe(ran(energy=part))
    header = console.table([record(energy={**record()["energy"], "components": {"ram": ram}})]).splitlines()[0]
    assert " Wh (modelled) " in header
    mixed = {**record()["energy"], "components": {"gpu": gpu, "ram": ram}}
    some = {**record()["energy"], "components": {"gpu": gpu, "ram": {**ram, "joules": 1000.0}}}  # 75 % of it measured
    made = [record("a-0", energy=mixed), record("a-1", order=1, replicate=1, energy=some)]
    header, line = console.table(made).splitlines()
    assert " energy (Wh)  measured " in header
    assert " 75–83 % " in line


def test_the_warnings_of_a_run_reach_the_reader_once_and_are_counted_at_the_end() -> None:
    warned = {**record()["energy"], "warnings": [{"kind": "cpu_load", "message": "Others kept 1.5 cores busy."}]}
    display = console.Display(total=2, out=io.StringIO())
    for _ in range(2):
        display.run_finished(ran(energy=warned))
    assert isinstance(display.out, io.StringIO)
    assert display.out.getvalue().count("  warning: Others kept 1.5 cores busy.") == 1
    made = [record("a", energy=warned), record("b", energy=warned), record("c")]
    assert console.warning_lines(made) == ["Warning in 2 runs (cpu_load): Others kept 1.5 cores busy."]


def test_what_is_unknown_is_said_and_never_0() -> None:
    line = console.describe(ran(energy=None, emissions=None, training={}))
    assert line == "r · no training · – tokens/s · energy unknown · – g · loss – → –"
    part = {**record()["energy"], "complete": False}  # a GPU was lost on the way
    assert " · energy unknown · – g · " in console.describe(ran(energy=part))
    assert console.describe(ran(status="oom", error="no room")) == "r: oom: no room"
    skipped = RunOutcome(path=Path("runs/s/r/run.json"), record=None, skipped="finished before")
    assert console.describe(skipped) == "r: finished before"


def test_the_closing_table_is_in_the_order_of_the_runs() -> None:
    made = [record("b", order=1, config={"samples": 16, "epochs": 1, "method": {"name": "full"}}), record("a")]
    lines = console.table(made).splitlines()
    assert lines[0].split() == [
        "model", "method", "rank", "samples", "epochs", "runs", "tokens", "tokens/s", "energy", "(Wh)", "CO2e", "(g)",
        "loss",
    ]  # fmt: skip
    assert lines[1].split() == ["ladder-1m", "lora", "4", "8", "1", "1", "1,000", "100", "1", "0.475", "2.25"]
    assert lines[2].split()[:4] == ["ladder-1m", "full", "–", "16"]


def test_of_a_long_sweep_the_first_works_are_shown_and_the_others_counted() -> None:
    lines = console.table([record(f"r{i}", order=i) for i in range(2000)]).splitlines()
    assert len(lines) < 60
    shown = len(lines) - 2  # without the head and the last line
    assert lines[-1] == f"… and {2000 - shown} more"


def test_repeats_of_a_run_are_one_line_with_their_spread() -> None:
    energies = (1.0, 1.2, 1.4)  # Wh: mean 1.2, standard deviation 0.2
    made = [
        record(f"a-{i}", order=i, replicate=i, energy={**record()["energy"], "joules": 3600 * wh})
        for i, wh in enumerate(energies)
    ]
    lines = console.table([*made, record("b-0", order=3, work={"tokens_seen": 0, "steps": 0})]).splitlines()
    assert len(lines) == 3
    assert lines[1].split()[5:12] == ["3", "1,000", "100", "1.2", "±", "0.2", "0.475"]
    assert " no training " in lines[2]


def test_the_closing_table_of_a_sweep_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and epochs vary, each work is made twice, and runs without training are among them."""
    ram = {"joules": 600.0, "source": "constant_model"}
    made = []
    for order, (samples, epochs, repeat) in enumerate([(s, e, i) for s in (64, 512) for e in (0, 2) for i in (0, 1)]):
        config = {"samples": samples, "epochs": max(epochs, 1), "lora": {"r": 8}, "method": {"name": "lora"}}
        joules = (1234.5 + epochs) * (1 + 0.1 * repeat)
        energy = {**record()["energy"], "joules": joules, "components": {"ram": ram}}
        work = {"tokens_seen": 97032 * epochs + repeat, "steps": epochs}
        name = f"s{samples}-e{epochs}-{repeat}"
        made.append(
            record(name, order=order, replicate=repeat, config=config, energy=energy, work=work,
                   emissions={"grams": 0.16288 + 0.01 * repeat + 0.001 * epochs})
        )  # fmt: skip
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", console.table(made)).splitlines()
    assert len(lines) == 6, lines  # what is the same in all, the head, and a line for each work
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["64", "1", "0", "no", "training", "0.36", "±", "0.02", "0.168", "±", "0.007"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that displays see, a list of one number; and a terminal that is wide enough."""
    now = [100.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    return now


def on_terminal(**fields: Any) -> tuple[console.Display, Terminal]:
    shown = Terminal()
    return console.Display(out=io.StringIO(), moving=shown, **fields), shown


def seen(tokens: int) -> Any:
    return SimpleNamespace(tokens=tokens, loss=2.3456)


def lines_of(shown: io.StringIO) -> list[str]:
    return re.split(r"[\r\n]", re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.getvalue()))


def last_line(shown: io.StringIO) -> str:
    return [line for line in lines_of(shown) if line.strip()][-1]


def test_time_left_is_what_was_expected_at_the_pace_so_far_without_setup_and_waiting(clock: list[float]) -> None:
    """Four runs of 8 + 2 s expected, the first with 5 s of set-up; they take twice as long."""
    expected = [console.Expected(setup_s=5.0 if i == 0 else 0.0, train_s=8.0, rest_s=2.0) for i in range(4)]
    display, shown = on_terminal(total=4, expected=expected)
    with display.run("first") as listen:
        listen("setup", 0, 0, None)
        assert "[1/4] first · setup · about 40 s left" in last_line(shown)
        clock[0] += 50.0  # spent waiting and setting up
        listen("train", 0, 10, 1800.0)
        clock[0] += 8.0
        listen("train", 5, 10, 5400.0)
        # Half of the training in 8 s, where 4 s were expected: 8 s, half of the rest twice over, three runs twice over.
        assert "[1/4] first · train 5/10 · 1.5 Wh so far · about 70 s left" in last_line(shown)
    display.run_finished(ran(total_s=25.0, energy={"joules": 7200.0, "phases": [{"name": "setup", "seconds": 15.0}]}))
    with display.run("second") as listen:  # 10 s without set-up, as expected
        listen("train", 0, 10, None)
        assert "[2/4] second · train 0/10 · 2 Wh so far · about 29 s left" in last_line(shown)


def test_what_is_left_of_a_sweep_of_unknown_cost_is_not_said(clock: list[float]) -> None:
    display, shown = on_terminal(total=4)
    with display.run("first") as listen:
        listen("train", 0, 10, None)
        clock[0] += 8.0
        listen("train", 5, 10, None)
    assert " left" not in shown.getvalue()


def test_a_run_of_its_own_tells_from_its_steps(clock: list[float]) -> None:
    single, shown = on_terminal()
    with single.run("only") as listen:
        clock[0] += 60.0  # of set-up
        listen("train", 0, 8, None)
        clock[0] += 6.0
        listen("train", 2, 8, None, lambda: seen(1200))
    assert last_line(shown).startswith("only · train 2/8 · about 18 s left · loss 2.35 · 200 tokens/s")


def test_a_pipe_gets_a_plain_line_a_minute_and_is_told_of_waiting(clock: list[float]) -> None:
    piped = io.StringIO()
    display = console.Display(total=2, out=io.StringIO(), moving=piped)
    for name in ("first", "second"):
        with display.run(name) as listen:
            listen(WAITING, 0, 0, None)
            listen("train", 0, 600, None)
            for step in range(1, 130):
                clock[0] += 1.0
                listen("train", step, 600, 3600.0)
        display.run_finished(ran(energy=None))
    shown = [line.partition(" · the whole training: ")[0] for line in piped.getvalue().splitlines()]
    assert shown == [
        "[1/2] first: waiting for the device; another run is measured on it",
        *(
            f"[{place} · train {step}/600 · 1 Wh so far"
            for place in ("1/2] first", "2/2] second")
            for step in (60, 120)
        ),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TERM", "dumb"),
        # `!lora-scaling` in a notebook has a terminal, but each move of the line would be a line of the cell's output.
        ("JPY_PARENT_PID", "1"),
    ],
)
def test_a_terminal_that_cannot_move_its_cursor_is_a_pipe(
    name: str, value: str, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    display, shown = on_terminal()
    with display.run("only") as listen:
        listen("train", 0, 8, None)
        clock[0] += 61.0
        listen("train", 1, 8, None)
    assert shown.getvalue() == "only · train 1/8 · about 7 min 07 s left\n"


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (40, "[1/40] train 5000/10000 · 1.5 Wh so far"),
        (80, "[1/40] ladder-100m qlora with a long name · train 5000/10000 · 1.5 Wh so far"),
        (
            200,
            "[1/40] ladder-100m qlora with a long name · train 5000/10000 · 1.5 Wh so far · loss 2.35 · 250 tokens/s",
        ),
    ],
)
def test_what_matters_most_fits_and_the_cursor_comes_back_when_a_run_is_interrupted(
    width: int, line: str, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    display, shown = on_terminal(total=40)

    def interrupted() -> None:
        with display.run("ladder-100m qlora with a long name") as listen:
            listen("train", 0, 10000, 1800.0)
            clock[0] += 1.0
            listen("train", 5000, 10000, 5400.0, lambda: seen(250))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert last_line(shown).startswith(line)
    assert max(len(part) for part in lines_of(shown)) <= width
    assert shown.getvalue().count("\x1b[?25h") >= shown.getvalue().count("\x1b[?25l") > 0


def test_when_to_run_is_answered_or_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    ahead = datetime.now(UTC) + timedelta(hours=3)
    with serving(energinet(lambda moment: 100.0 if moment < ahead else 25.0)) as server:
        advice = when_to_run(record(), compose(["grid.zone=DK1", f"grid.base_url={server.url}"]))
    assert "75% less" in advice
    assert when_to_run(record(), compose([])).endswith("this provider has no forecast; set grid.zone.")
    assert when_to_run(record(energy=None), compose([])).endswith("its energy is unknown.")
