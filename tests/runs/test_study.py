"""Adaptive studies: what is asked, when they stop, and that stopping and continuing changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_scaling.adaptive import Point, Step
from lora_scaling.commands.study import parse
from lora_scaling.errors import RunFailure, UserError
from lora_scaling.records import locked, write_record
from lora_scaling.runs.study import conduct
from tests.support.commands import command
from tests.support.machine import Machine, arguments, study
from tests.support.runs import read_record


def point(samples: int, energy_kwh: float, seconds: float = 1.0) -> Point:
    return Point(samples=samples, epochs=1, energy_kwh=energy_kwh, seconds=seconds)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "claim: got ''; choose one of linear_in_samples, linear_in_epochs"),
        (["claim=rank_effect", "max_kwh=1"], "claim: got 'rank_effect', which is not adaptive yet"),
        (["claim=linear_in_samples"], "max_kwh, max_minutes: missing"),
        (["claim=linear_in_samples", "max_kwh=much"], "max_kwh: got 'much'; give a number above 0"),
        (["claim=linear_in_samples", "max_minutes=-1"], "max_minutes: got -1; give a number above 0"),
        (["claim=linear_in_samples", "max_kwh=1", "margin=0.6"], "margin: got 0.6; give a number between 0 and 0.5"),
        (["claim=linear_in_samples", "max_kwh=1", "level=0.4"], "level: got 0.4; give a number between 0.5 and 1"),
        (["claim=linear_in_samples", "max_kwh=1", "samples=8,16,32"], "at least 4 levels and a factor of 8"),
        (["claim=linear_in_epochs", "max_kwh=1", "epochs=1,2,3,x"], "epochs: got 'x'; give a whole number"),
        (["claim=linear_in_samples", "max_kwh=1", "replicates=3"], "replicates: got '3'; an adaptive study sets it"),
    ],
)
def test_what_cannot_be_asked(given: list[str], message: str) -> None:
    with pytest.raises(UserError) as told:
        parse(given)
    assert message in str(told.value)


def test_defaults_of_a_request() -> None:
    request = parse(["claim=linear_in_epochs", "max_minutes=5", "model=ladder-3m"])
    assert (request.levels, request.at) == ((1, 2, 4, 8, 16), 64)
    assert (request.margin, request.level, request.max_kwh) == (0.05, 0.95, None)
    assert request.overrides == ("model=ladder-3m",)


@pytest.mark.parametrize(("b", "verdict"), [(1.0, "supported"), (0.85, "refuted")])
def test_a_clear_claim_stops_the_study_at_its_opening(
    tmp_path: Path, machine: Callable[..., Machine], capsys: pytest.CaptureFixture[str], b: float, verdict: str
) -> None:
    made = machine(b=b, cv=0.005)
    assert study(arguments(tmp_path)) == verdict
    assert len(made.made) == 10
    told = capsys.readouterr().out
    assert "look 1 of 8 · 10 runs" in told
    assert f"linear_in_samples {verdict}: " in told
    assert f"Records: {tmp_path}/adaptive_linear_in_samples" in told


def test_the_same_for_epochs(tmp_path: Path, machine: Callable[..., Machine]) -> None:
    made = machine(cv=0.003)
    assert study(["claim=linear_in_epochs", "max_kwh=1", f"runs_dir={tmp_path}"]) == "supported"
    assert len(made.made) == 10


@pytest.mark.parametrize(("given", "grouped"), [((), False), (("group_by_length=true",), True)])
def test_batches_are_not_grouped_by_length_unless_asked(
    tmp_path: Path, machine: Callable[..., Machine], given: tuple[str, ...], grouped: bool
) -> None:
    """Grouping pads less the more samples there are: the analysis could not tell that from a curve."""
    made = machine(cv=0.005)
    study(arguments(tmp_path, *given))
    assert {config.group_by_length for config in made.configs} == {grouped}


def test_runs_of_which_a_part_was_not_measured_end_the_study(tmp_path: Path, machine: Callable[..., Machine]) -> None:
    """The table leaves them out, so that no number of them would ever be enough."""
    made = machine(complete=False)
    with pytest.raises(RunFailure, match=r"the energy of .* is unknown, so no study can rest on it"):
        study(arguments(tmp_path))
    assert len(made.made) == 1


@pytest.mark.parametrize("stop_at", [1, 12])
def test_a_study_that_is_stopped_and_continued_ends_like_one_that_was_not(
    tmp_path: Path, machine: Callable[..., Machine], stop_at: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    straight = machine(cv=0.05)
    verdict = study(arguments(whole))
    machine(cv=0.05, stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        study(arguments(broken))
    machine(cv=0.05)
    assert study(arguments(broken)) == verdict
    states = [json.loads((folder / "adaptive_linear_in_samples/study.json").read_text()) for folder in (whole, broken)]
    assert len(straight.made) > stop_at
    assert states[0]["looks"][0]["runs"] == states[1]["looks"][0]["runs"] == 10
    assert [look["runs"] for look in states[1]["looks"]] == states[1]["schedule"][: len(states[1]["looks"])]
    assert len(states[1]["overwritten"]) == 1
    finished = list(broken.glob("*/*/run.json"))
    assert {read_record(path)["status"] for path in finished} == {"ok"}


def test_a_decided_study_makes_no_further_run(tmp_path: Path, machine: Callable[..., Machine]) -> None:
    machine(cv=0.005)
    first = study(arguments(tmp_path))
    again = machine(cv=0.005)
    assert study(arguments(tmp_path)) == first
    assert again.made == []


def test_the_budget_holds_and_a_larger_one_continues(
    tmp_path: Path, machine: Callable[..., Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(b=0.95, cv=0.05)
    assert study(arguments(tmp_path, budget="max_kwh=0.0015")) == "budget"
    folder = tmp_path / "adaptive_linear_in_samples"
    spent = sum(read_record(path)["energy"]["joules"] for path in folder.glob("*/run.json"))
    assert 0.0012 < spent / 3.6e6 < 0.0015 * 1.1
    assert "the same command with a larger one continues" in capsys.readouterr().out
    looks = json.loads((folder / "study.json").read_text())["looks"]
    more = machine(b=0.95, cv=0.05)
    study(arguments(tmp_path, budget="max_kwh=0.003"))
    after = json.loads((folder / "study.json").read_text())["looks"]
    assert more.made
    assert after[: len(looks)] == looks


def test_minutes_count_over_all_starts(tmp_path: Path, machine: Callable[..., Machine]) -> None:
    machine(minutes=3, stop_at=6)
    with pytest.raises(KeyboardInterrupt):
        study(arguments(tmp_path, budget="max_minutes=60"))
    made = machine()
    assert study(arguments(tmp_path, budget="max_minutes=10")) == "budget"
    assert made.made == []
    assert study(arguments(tmp_path, budget="max_minutes=60")) == "supported"


def test_another_question_needs_another_study(tmp_path: Path, machine: Callable[..., Machine]) -> None:
    machine(cv=0.005)
    study(arguments(tmp_path))
    with pytest.raises(UserError, match=r"was begun with margin = 0\.05 and is now asked with 0\.1"):
        study(arguments(tmp_path, "margin=0.1"))
    with pytest.raises(UserError, match="was begun with work"):
        study(arguments(tmp_path, "batch_size=4"))
    write_record(tmp_path / "mine" / "a" / "run.json", {"schema_version": 1, "run_id": "a", "status": "ok"})
    with pytest.raises(UserError, match="holds runs of another kind of study"):
        study(arguments(tmp_path, "study=mine"))


def test_one_process_at_a_time(tmp_path: Path, machine: Callable[..., Machine]) -> None:
    machine()
    with locked(tmp_path / "adaptive_linear_in_samples") as mine:
        assert mine
        with pytest.raises(UserError, match="another process is carrying out"):
            study(arguments(tmp_path))


def test_a_study_must_be_able_to_measure(tmp_path: Path, machine: Callable[..., Machine]) -> None:
    machine()
    with pytest.raises(UserError, match=r"metering\.enabled: got false"):
        study(arguments(tmp_path, "metering.enabled=false"))


def test_a_budget_below_the_opening_is_refused_before_anything_is_spent(
    tmp_path: Path, machine: Callable[..., Machine]
) -> None:
    made = machine(known=True)
    with pytest.raises(UserError, match="the smallest design that can decide, 10 runs, is expected to take"):
        study(arguments(tmp_path, "model=llama-3.1-8b", "hardware=a100-80gb", budget="max_kwh=1e-6"))
    assert made.made == []


def test_a_failing_analysis_ends_the_study_with_its_reason(tmp_path: Path) -> None:
    def failing(*_: object, **__: object) -> Step:
        raise ValueError("no")

    with pytest.raises(RunFailure, match=r"the analysis of .* failed: ValueError: no"):
        conduct(parse(arguments(tmp_path)), failing)


def test_no_run_is_made_that_is_expected_to_exceed_what_is_left(
    tmp_path: Path, machine: Callable[..., Machine]
) -> None:
    """Of a batch the first run is always made; the next only if its energy and time fit, and none after it."""
    steps = [
        Step(usable=0, look=None, stop=None, runs=(point(64, 1e-5), point(128, 0.9), point(256, 1e-5))),
        Step(usable=1, look=None, stop=None, runs=(point(64, 1e-5), point(128, 1e-5, 601.0), point(256, 1e-5))),
        Step(usable=2, look=None, stop="budget"),
    ]
    made = machine()
    planned = iter(steps)
    request = parse([*arguments(tmp_path, budget="max_kwh=0.5"), "max_minutes=10"])
    assert conduct(request, lambda *_, **__: next(planned)) == "budget"
    assert [config.samples for config in made.configs] == [64, 64]


def test_a_study_is_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="does not run under torchrun"):
        study(arguments(tmp_path))


@pytest.mark.slow
def test_the_command_line_refuses_in_one_sentence() -> None:
    told = command("lora_scaling.study", "claim=size_exponent", "max_kwh=1")
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert "not adaptive yet" in told.stderr
    assert "max_minutes" in command("lora_scaling.study", "--help").stdout
