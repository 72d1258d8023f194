"""Sweeps: planned the same at every start, carried out once, resumed after anything, summed up."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lora_scaling.config import compose, run_id
from lora_scaling.config.compose import compose_by_hydra, from_omegaconf
from lora_scaling.config.sweep import PlannedRun, SweepDesign, plan
from lora_scaling.errors import UserError
from lora_scaling.paths import choices, sweeps_dir
from lora_scaling.records import blank_record, find_records, locked, record_path, write_record
from tests.support.commands import command as in_process
from tests.support.paths import STUDY_RUNS
from tests.support.processes import forked, wait_until
from tests.support.runs import TINY, read_record


def planned(design: SweepDesign, *arguments: str) -> list[PlannedRun]:
    return plan(design, arguments, compose_by_hydra)


def test_every_combination_of_every_replicate_is_planned_once() -> None:
    runs = planned(SweepDesign(), "samples=8,16,32", "lora.r=2,4", "replicates=3")
    points = {(run.config.samples, run.config.lora.r, run.config.replicate) for run in runs}
    assert len(runs) == len(points) == 18
    assert [run.overrides[-1] for run in runs] == [f"order={place}" for place in range(18)]


def test_replicates_are_blocks_that_each_hold_every_point_in_an_order_of_their_own() -> None:
    runs = planned(SweepDesign(), "samples=8,16,32,64,128,256", "replicates=3")
    blocks = [[run.config.samples for run in runs[i : i + 6]] for i in (0, 6, 12)]
    assert all(sorted(block) == [8, 16, 32, 64, 128, 256] for block in blocks)
    assert blocks[0] != blocks[1] or blocks[1] != blocks[2]
    assert [run.config.replicate for run in runs] == [0] * 6 + [1] * 6 + [2] * 6


def test_the_order_is_that_of_its_seed() -> None:
    def order(seed: int) -> list[str]:
        return [run.run_id for run in planned(SweepDesign(), "samples=8,16,32,64,128", f"order_seed={seed}")]

    assert order(0) == order(0)
    assert sorted(order(0)) == sorted(order(1))
    assert order(0) != order(1)


def test_a_run_of_another_process_is_left_to_it_and_not_called_interrupted(tmp_path: Path) -> None:
    """Two sweeps of the same points at once: the record of a run that is underway says interrupted until it ends."""
    words = [*TINY, f"runs_dir={tmp_path}", "study=s", "samples=8"]
    path = record_path(tmp_path, "s", run_id(compose(words)))
    write_record(path, blank_record(run_id=path.parent.name, study="s", config={}, provenance={}))
    (tmp_path / "s" / ".x3f9.tmp").write_text("half of idle.json")  # of a killed process
    with locked(path.parent):
        ended = in_process("lora_scaling", "-m", *words)
    assert not list(tmp_path.rglob("*.tmp"))
    assert ended.returncode == 1
    assert f"{path.parent.name}: another process is running it" in ended.stdout
    assert f"1 of 1 runs did not finish: {path.parent.name} (another process is running it)" in ended.stderr


def test_a_sweep_whose_runs_cannot_be_recorded_ends_with_one_sentence(tmp_path: Path) -> None:
    """Hydra would print a line of its own before it."""
    words = [*TINY, f"runs_dir={tmp_path}", "study=s", "samples=8"]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / run_id(compose(words))).touch()  # a file in place of the run's folder
    ended = in_process("lora_scaling", "-m", *words)
    assert ended.returncode == 2
    [sentence] = ended.stderr.splitlines()
    assert sentence.startswith("lora-scaling: runs_dir: ")


def test_extra_and_centre_points_join_the_design() -> None:
    design = SweepDesign(
        params={"samples": "8,16"}, extra=[["samples=8", "max_steps=0"]], centre=["samples=12"], centre_every=2
    )
    runs = planned(design, "epochs=2", "replicates=2")
    assert all(run.config.epochs == 2 for run in runs)
    assert sum(run.config.max_steps == 0 for run in runs) == 2
    centres = [run.config.replicate for run in runs if run.config.samples == 12]
    assert centres == [2, 3, 4]  # before each second of six runs, numbered after the design's own replicates


def test_the_command_line_wins_over_the_sweep_file() -> None:
    runs = planned(SweepDesign(params={"samples": "8,16", "epochs": "1,2"}), "samples=32")
    assert {(run.config.samples, run.config.epochs) for run in runs} == {(32, 1), (32, 2)}


def test_ranks_of_full_fine_tuning_are_one_run() -> None:
    runs = planned(SweepDesign(), "method=lora,full", "lora.r=2,4")
    assert sorted(run.config.method.name for run in runs) == ["full", "lora", "lora"]


@pytest.mark.parametrize(
    "name", [name for name in choices("sweeps") if "extra:" in (sweeps_dir() / f"{name}.yaml").read_text()]
)
def test_the_runs_that_are_planned_are_those_that_the_overrides_make(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extra point does not say what the command line sweeps: that is at its default in it."""
    from lora_scaling.estimate.sweeps import _design

    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpaca.json").write_text("[]")
    given = [f"+sweeps={name}", "epochs=2,4", "replicates=1"]
    design = _design(given)
    runs = [run for run in plan(design, given, compose_by_hydra) if not {"epochs=2", "epochs=4"} & set(run.overrides)]
    assert len(runs) >= len(design.extra)
    assert {run.overrides: run.run_id for run in runs} == {
        run.overrides: run_id(compose(run.overrides)) for run in runs
    }


@pytest.mark.parametrize(
    "words",
    [
        ["samples=8,16", "lora.r=4,8", "epochs=1,2"],
        [
            "model=shape",
            "model.shape.layers=2",
            "model.shape.intermediate_size=64",
            "model.shape.hidden_size=64,128",
            "model.shape.heads=2,4",
        ],  # from which others are computed
        ["model=hub", "model.id=a/b,c/d"],
        ["method=lora,full", "learning_rate=null,1e-3"],
        ["lora.target_modules=[q_proj],all-linear", "grid.zone=DK1,null"],
        ["+experiment=munin_skolegpt", "samples=8,16", "metering.interval_s=1,2.5"],
    ],
)
def test_points_that_share_a_composition_are_what_hydra_composes_for_each(words: list[str]) -> None:
    runs = plan(SweepDesign(), words, compose_by_hydra)
    assert len({run.run_id for run in runs}) > 1 or "grid.zone=DK1,null" in words
    for run in runs:
        assert run.config == from_omegaconf(compose_by_hydra(run.overrides[:-1]))  # but for its place in the order


def test_a_value_of_the_wrong_type_is_told_of_a_later_point_too() -> None:
    with pytest.raises(UserError, match=r"lora\.r: got 'x'; give a whole number"):
        plan(SweepDesign(), ["lora.r=4,x"], compose_by_hydra)


def test_a_mapping_of_one_point_is_not_in_the_next() -> None:
    runs = planned(SweepDesign(), "data=file", "data.path=pyproject.toml", "data.fields={a: x},{b: y}")
    assert sorted(str(dict(run.config.data.fields)) for run in runs) == ["{'a': 'x'}", "{'b': 'y'}"]


def command(runs_dir: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "lora_scaling", "-m", *TINY, f"runs_dir={runs_dir}", "study=s", *overrides]


def finish(runs_dir: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(runs_dir, *overrides), capture_output=True, text=True, timeout=300)


def statuses(runs_dir: Path) -> dict[str, str]:
    records = [read_record(path) for path in find_records([runs_dir])]
    return {record["run_id"]: record["status"] for record in records}


@pytest.mark.slow
def test_a_sweep_runs_prints_its_table_and_resumes(tmp_path: Path) -> None:
    first = finish(tmp_path, "samples=8,16", "epochs=1,2")
    assert first.returncode == 0, first.stderr
    assert "4 runs in" in first.stdout
    assert "0 finished before, 4 to do" in first.stdout
    assert "Expected:" in first.stdout
    assert len(re.findall(r"^\[\d/4\] ladder-1m", first.stdout, re.M)) == 4
    assert len(re.findall(r"^ladder-1m  lora ", first.stdout, re.M)) == 4  # the closing table
    assert f"lora-scaling analyse report {tmp_path}/s" in first.stdout
    assert first.stderr == ""  # quiet libraries
    records = {path: read_record(path) for path in find_records([tmp_path])}
    assert sorted(record["order"] for record in records.values()) == [0, 1, 2, 3]
    assert len({record["session"] for record in records.values()}) == 1
    for record in records.values():
        assert record["provenance"]["command"] == ["python", *command(tmp_path, "samples=8,16", "epochs=1,2")[1:]]
    again = in_process("lora_scaling", *command(tmp_path, "samples=8,16", "epochs=1,2")[3:])
    assert "4 finished before, 0 to do" in again.stdout
    assert {path: read_record(path) for path in find_records([tmp_path])} == records


@pytest.mark.slow
def test_a_finished_sweep_ends_with_what_its_runs_say(tmp_path: Path) -> None:
    """The published sweep: its fixed cost keeps twice the samples from costing twice as much, its growth is linear."""
    shutil.copytree(STUDY_RUNS / "linear", tmp_path / "linear")
    done = in_process("lora_scaling", "-m", "+sweeps=study_linear", f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert ", 0 to do" in done.stdout
    said = done.stdout.partition("What these runs say:\n")[2]
    assert re.search(r"^  SUPPORTED  Energy without setup is linear in the number of samples: ", said, re.MULTILINE)
    assert re.search(r"^  REFUTED    Twice the samples cost twice the energy without setup: No, ", said, re.MULTILINE)
    assert f"lora-scaling analyse design {tmp_path / 'linear'}" in said


def test_one_failure_does_not_stop_the_others_and_is_named(tmp_path: Path) -> None:
    sweep = in_process("lora_scaling", *command(tmp_path, "samples=8,16", "model=ladder-1m,llama-3.2-1b")[3:])
    assert sweep.returncode == 1
    assert sorted(statuses(tmp_path).values()) == ["failed", "failed", "ok", "ok"]
    assert "2 of 4 runs did not finish: " in sweep.stderr
    assert "llama-3.2-1b-lora" in sweep.stderr
    assert "Traceback" not in sweep.stderr


@pytest.mark.slow
def test_interrupted_and_killed_sweeps_lose_nothing_and_continue(tmp_path: Path) -> None:
    words = command(tmp_path, "samples=8,16,24", "epochs=2", "exclusive_device=false")[2:]
    for sent, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        trains = tmp_path / f"trains {sent}"
        process = forked(*words, "samples=20000", trains=trains)  # a minute of training: longer than we wait
        wait_until(trains.exists)
        os.kill(process.pid, sent)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        [status] = statuses(tmp_path).values()
        assert status == "interrupted"
        if sent == signal.SIGINT:
            assert "interrupted; what was finished is kept" in errors
            assert "Traceback" not in errors
    two = [forked(*words) for _ in range(2)]
    printed = "".join(process.communicate(timeout=200)[0] for process in two)
    assert len(re.findall(r"^\[\d/3\] ladder-1m.* tokens/s ", printed, re.M)) == 3  # each run was one process's
    assert in_process(*words).returncode == 0
    done = statuses(tmp_path)
    assert sorted(done.values()) == ["interrupted", "ok", "ok", "ok"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("samples=8,-1",), "samples: got -1; give 1 or more"),
        (("lora.r=2,200",), "at most 64 makes sense"),
        (("smples=1,2",), "smples: not a setting"),
        (("model=ladder-1m,ladder-x",), "model: got 'ladder-x'"),
        (("samples=8,16", "max_kwh=1e-12"), "max_kwh: got 1e-12; this sweep is expected to take"),
        (("samples=8,16", "max_hours=1e-12"), "max_hours: got 1e-12; this sweep is expected to take"),
        (("replicate=0,1,2",), "replicate: got 0,1,2 in a sweep, which numbers its repetitions; use replicates=3"),
        (("replicate=3",), "replicate: got 3 in a sweep"),
        (("+sweeps=nothing",), "sweeps: got 'nothing'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_sweep_that_cannot_be_is_refused_before_it_starts(
    tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    refused = in_process("lora_scaling", *command(tmp_path, *overrides)[3:])
    assert refused.returncode == 2
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_long_sweep_that_was_finished_before_is_a_short_page_without_a_new_analysis(tmp_path: Path) -> None:
    words = ["samples=range(8,608)", f"runs_dir={tmp_path}", "device=cpu"]
    for run in planned(SweepDesign(), *words):
        record = blank_record(run_id=run.run_id, study="default", config=run.config.to_dict(), provenance={})
        path = record_path(tmp_path, "default", run.run_id)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**record, "status": "ok"}))
    done = in_process("lora_scaling", "-m", *words)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) < 60
    assert lines[0].endswith("600 runs in " + str(tmp_path / "default") + ": 600 finished before, 0 to do")
    assert "… and 560 more" in lines
    assert lines[-1].startswith("Nothing was left to do; lora-scaling analyse claims ")


def test_help_shows_every_setting_with_its_comment() -> None:
    shown = in_process("lora_scaling", "--help")
    assert shown.returncode == 0
    for name in compose([]).to_dict():
        assert name in shown.stdout
    assert "# size of the training set" in shown.stdout
    assert "linear_claim" in shown.stdout
