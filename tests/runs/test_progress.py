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
from lora_scaling.runs.run import RunOutcome
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
    assert "energy (Wh, modelled)" in header
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


def test_time_left_follows_the_pace_of_the_finished_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now[0]))
    display = console.Display(total=4, out=io.StringIO(), moving=Terminal(), _started=100.0)
    assert isinstance(display.moving, Terminal)
    with display.run("first") as listen:
        listen("train", 5, 10, 1800.0)
    assert "[1/4] first · train 5/10 · 0.5 Wh so far" in display.moving.getvalue()
    assert "left" not in display.moving.getvalue()  # nothing is known of the pace yet
    now[0] = 110.0
    display.run_finished(ran())
    with display.run("second") as listen:
        now[0] = 115.0
        listen("train", 5, 10, 1800.0)  # one and a half of four in 15 s
    assert "[2/4] second · train 5/10 · 1.5 Wh so far · about 25 s left" in display.moving.getvalue()


def test_a_run_of_its_own_tells_from_its_steps_and_a_pipe_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now[0]))
    single = console.Display(out=io.StringIO(), moving=Terminal(), _started=100.0)
    with single.run("only") as listen:
        now[0] = 106.0
        listen("train", 2, 8, None)
    assert isinstance(single.moving, Terminal)
    assert "only · train 2/8 · about 18 s left" in single.moving.getvalue()
    piped = console.Display(out=io.StringIO(), moving=io.StringIO())
    with piped.run("only") as listen:
        listen("train", 2, 8, None)
    assert isinstance(piped.moving, io.StringIO)
    assert piped.moving.getvalue() == ""


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_moving_line_fits_and_the_cursor_comes_back_when_a_run_is_interrupted(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    display = console.Display(total=400, out=io.StringIO(), moving=Terminal())

    def interrupted() -> None:
        with display.run("ladder-100m qlora with a long name") as listen:
            listen("train", 5000, 10000, 1800.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert isinstance(display.moving, Terminal)
    shown = display.moving.getvalue()
    line = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown).split("\r")[0].strip("\n")
    assert "[1/400] ladder-100m" in line
    assert len(line) <= width
    assert shown.count("\x1b[?25h") >= shown.count("\x1b[?25l") > 0


def test_when_to_run_is_answered_or_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    ahead = datetime.now(UTC) + timedelta(hours=3)
    with serving(energinet(lambda moment: 100.0 if moment < ahead else 25.0)) as server:
        advice = when_to_run(record(), compose(["grid.zone=DK1", f"grid.base_url={server.url}"]))
    assert "75% less" in advice
    assert when_to_run(record(), compose([])).endswith("this provider has no forecast; set grid.zone.")
    assert when_to_run(record(energy=None), compose([])).endswith("its energy is unknown.")
