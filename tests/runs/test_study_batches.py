"""Adaptive studies whose runs a launcher makes in batches: the runs, looks and verdict are those of a serial study."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from analysis.adaptive import next_step
from lora_scaling.adaptive import Planner, Point, Step
from lora_scaling.commands.study import parse
from lora_scaling.config import from_omegaconf
from lora_scaling.errors import RunFailure, UserError
from lora_scaling.records import write_record
from lora_scaling.runs.hydra_jobs import HydraPlugin, carry_out, job_config
from lora_scaling.runs.study import conduct
from tests.support.machine import Machine, arguments, study
from tests.support.paths import ROOT
from tests.support.processes import wait_until
from tests.support.runs import read_record

FOLDER = "adaptive_linear_in_samples"


class InTurn(HydraPlugin, Launcher):
    """Makes the runs in this process, and notes how many it was given at once."""

    given: list[int]

    def __init__(self, **_: object) -> None:
        super().__init__()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        InTurn.given.append(len(job_overrides))
        jobs = enumerate(job_overrides, initial_job_idx)
        configs = [job_config(self.hydra_context, self.config, number, words) for number, words in jobs]
        return [carry_out(self.hydra_context, self.task_function, config) for config in configs]


@pytest.fixture(autouse=True)
def _launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Plugins.instance().class_name_to_class, "hydra_plugins.test.InTurn", InTurn)
    InTurn.given = []


def batches(made: Machine, folder: Path, *more: str, planner: Planner = next_step, budget: str = "max_kwh=1") -> str:
    """Carry out a study whose runs the launcher hands to the machine."""
    launcher = ("hydra/launcher=workers", "hydra.launcher._target_=hydra_plugins.test.InTurn")
    request = parse([*arguments(folder, *launcher, *more, budget=budget)])
    return conduct(request, planner, lambda node: made.run(from_omegaconf(node), lambda *_: None))


def outcome(folder: Path) -> tuple[dict[str, int], list[Any]]:
    """The order of each run by its name, and the looks."""
    records = [read_record(path) for path in (folder / FOLDER).glob("*/run.json")]
    assert {record["status"] for record in records} == {"ok"}
    looks = json.loads((folder / FOLDER / "study.json").read_text(encoding="utf-8"))["looks"]
    return {record["run_id"]: record["order"] for record in records}, looks


@pytest.mark.parametrize(("size", "given"), [("batch=4", [4, 4, 2, 4]), ("", [10, 4])])
def test_batches_are_the_runs_the_looks_and_the_verdict_of_a_serial_study(
    tmp_path: Path, machine: Callable[..., Machine], size: str, given: list[int]
) -> None:
    """Looks come after 10 and 14 runs, and no batch crosses one."""
    machine(cv=0.04)
    verdict = study(arguments(tmp_path / "serial"))
    made = Machine(cv=0.04)
    assert batches(made, tmp_path / "batches", *filter(None, [size])) == verdict == "supported"
    assert outcome(tmp_path / "batches") == outcome(tmp_path / "serial")
    assert InTurn.given == given
    assert len(made.made) == 14


def test_a_batch_is_as_many_runs_as_are_expected_to_fit_into_the_budget(
    tmp_path: Path, machine: Callable[..., Machine]
) -> None:
    """Of 0.5 kWh, two runs of 0.2 kWh fit; of 10 minutes, one of 9; the next is begun as these took next to nothing."""
    steps = iter(
        [
            Step(usable=0, look=None, stop=None, runs=(point(64, 0.2), point(128, 0.2), point(64, 0.2))),
            Step(usable=2, look=None, stop=None, runs=(point(64, 0.1, 540), point(64, 0.1, 540))),
            Step(usable=3, look=None, stop="budget"),
        ]
    )
    made = machine()
    planner: Planner = lambda *_, **__: next(steps)  # noqa: E731
    assert batches(made, tmp_path, "max_minutes=10", planner=planner, budget="max_kwh=0.5") == "budget"
    assert InTurn.given == [2, 1, 1, 1]


def point(samples: int, energy_kwh: float, seconds: float = 1.0) -> Point:
    return Point(samples=samples, epochs=1, energy_kwh=energy_kwh, seconds=seconds)


def test_runs_under_way_at_the_same_time_spend_the_minutes_once(tmp_path: Path) -> None:
    """Two runs of a minute overlap by half of it, and one of 30 s comes later: two minutes are spent of ten."""
    left: list[float] = []

    def planner(*_: object, seconds_left: float, **__: object) -> Step:
        left.append(seconds_left)
        return Step(usable=0, look=None, stop="budget")

    batches(Machine(), tmp_path, planner=planner, budget="max_minutes=10")
    for name, start, end in (("a", "00:00", "01:00"), ("b", "00:30", "01:30"), ("c", "05:00", "05:30")):
        record = {"schema_version": 1, "run_id": name, "status": "ok", "energy": {"joules": 1.0}}
        record |= {key: f"2026-11-23T22:{at}+00:00" for key, at in (("started_at", start), ("finished_at", end))}
        write_record(tmp_path / FOLDER / name / "run.json", record)
    batches(Machine(), tmp_path, planner=planner, budget="max_minutes=10")
    assert left == [600, 480]


def test_a_run_that_fails_ends_the_study_after_its_batch_and_is_made_again(tmp_path: Path) -> None:
    def fails(config: Any, _: object) -> None:
        path = usual(config, lambda *_: None).path
        if len(made.made) == 3:
            write_record(path, dict(read_record(path)) | {"status": "failed", "error": "no luck"})

    made = Machine(cv=0.004)
    usual, made.run = made.run, fails  # type: ignore[method-assign]
    with pytest.raises(RunFailure, match=r"1 of the 4 runs of this batch did not finish: .* \(failed: no luck\)"):
        batches(made, tmp_path, "batch=4")
    assert len(made.made) == 4
    failed = made.made[2]
    again = Machine(cv=0.004)
    assert batches(again, tmp_path, "batch=4") == "supported"
    assert Counter([*made.made, *again.made]) == Counter([*outcome(tmp_path)[0], failed])


def test_an_interrupted_batch_is_continued_and_nothing_is_made_twice(tmp_path: Path) -> None:
    made = Machine(cv=0.004, stop_at=6)
    with pytest.raises(KeyboardInterrupt):
        batches(made, tmp_path, "batch=4")
    again = Machine(cv=0.004)
    assert batches(again, tmp_path, "batch=4") == "supported"
    assert Counter([*made.made, *again.made]) == Counter([*outcome(tmp_path)[0], made.made[5]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["batch=4"], "batch: got 4, and this study makes its runs one after the other; add a launcher"),
        (["batch=0", "hydra/launcher=workers"], "batch: got '0'; give a whole number from 1 up, such as batch=4"),
        (["hydra/sweeper=optuna"], "hydra/sweeper: got 'optuna'; an adaptive study sets it itself: leave it out"),
        (["hydra/launcher=worker"], "hydra/launcher: got 'worker'; did you mean workers?"),
        (["hydra/launcher=workers", "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs: got 0; give a whole number"),
        (["hydra/launcher=workers", "hydra.launcher.jobs=2"], "hydra.launcher.jobs: not a setting"),
        (["hydra/launcher=slurm"], "hydra.launcher.timeout_min: got null with hardware=auto"),
    ],
)
def test_launchers_that_cannot_be_had(tmp_path: Path, given: list[str], message: str) -> None:
    with pytest.raises(UserError) as told:
        conduct(parse(arguments(tmp_path, *given)), next_step, lambda _: None)
    assert message in str(told.value)
    assert not list(tmp_path.glob("*/*/run.json"))


# The study as the command starts it, of runs that only wait until they may go on, in real workers.
STUDY = """
import os, sys, time
from pathlib import Path

from lora_scaling.commands.cli import command
from lora_scaling.config import from_omegaconf
from tests.support.machine import Machine

machine = Machine(cv=0.004, session=f"worker-{os.getpid()}")


def task(node):
    config = from_omegaconf(node)
    folder = Path(config.runs_dir)
    with (folder / "begun").open("a") as file:
        print(os.getpid(), file=file)
    while not (folder / "go on").exists():
        time.sleep(0.01)
    machine.run(config, lambda *_: None)


@command()
def main(words):
    from analysis.adaptive import next_step
    from lora_scaling.commands.study import parse
    from lora_scaling.runs.study import conduct

    conduct(parse(words), next_step, task)
    return 0


if __name__ == "__main__":
    sys.exit(main())
"""


def begun(folder: Path) -> list[int]:
    """Of each run that was begun, the process."""
    path = folder / "begun"
    return [int(text) for text in path.read_text().split()] if path.exists() else []


def test_a_study_that_is_killed_goes_on_with_two_workers_that_stay_for_all_its_batches(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(STUDY)
    words = arguments(tmp_path, "hydra/launcher=workers", "batch=4", "batch_size=8")
    started = [sys.executable, str(tmp_path / "study.py"), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(started, env=environment, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: len(begun(tmp_path)) == 2)
        os.kill(process.pid, signal.SIGKILL)
    killed = begun(tmp_path)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in killed))
    (tmp_path / "go on").touch()
    ended = subprocess.run(started, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "linear_in_samples supported: " in ended.stdout
    made = begun(tmp_path)[2:]
    runs, looks = outcome(tmp_path)
    assert len(made) == len(runs) == looks[-1]["runs"]
    assert len(set(killed)) == len(set(made)) == 2
    sessions = {read_record(path)["session"] for path in (tmp_path / FOLDER).glob("*/run.json")}
    assert sessions == {f"worker-{pid}" for pid in made}
