"""What Slurm itself counted stands beside our figures, asked of programs that answer as Slurm's do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_scaling.records import record_to_row, write_record
from lora_scaling.runs import slurm_energy
from lora_scaling.runs.slurm_energy import add_what_sacct_says, comparison, slurm_count
from tests.support.commands import Done, command
from tests.support.runs import TINY, only_record, read_record

SETTLED = "case $1 in show) echo 'AcctGatherEnergyType    = acct_gather_energy/rapl';; esac"
NOTHING = "exit 1"
# As `sstat` of a job step: 1,000 J at the first question, and 700 J more at each further one.
ADVANCING = """n=$(cat "$0.asked" 2>/dev/null || echo 0); echo $((n + 1)) > "$0.asked"
echo "77.batch|$((1000 + 700 * n))" """
Programs = Callable[..., None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Put programs of Slurm's on the path, by their scripts; this process is the job 77 on the nodes n[1-2]."""
    place = tmp_path / "bin"
    place.mkdir()

    def put(**scripts: str) -> None:
        for name, script in {"sstat": NOTHING, "sacct": NOTHING, "scontrol": SETTLED, **scripts}.items():
            (place / name).write_text(f"#!/bin/sh\n{script}\n")
            (place / name).chmod(0o755)

    monkeypatch.setenv("PATH", str(place), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    return put


def sweep(tmp_path: Path) -> tuple[Done, Any]:
    done = command("lora_scaling", "-m", *TINY, f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr
    return done, only_record(tmp_path / "runs")


def test_a_runs_share_of_what_sstat_counts_stands_beside_our_figure_and_in_no_total(
    programs: Programs, tmp_path: Path
) -> None:
    programs(sstat=ADVANCING)
    done, record = sweep(tmp_path)
    ours = record["energy"]["joules"]
    assert record["slurm_energy"] == {
        "joules": 700.0,
        "source": "sstat",
        "covers": "run",
        "of": "processors and memory of n[1-2] during the run, whoever used them",
        "step": "77.batch",
        "plugin": "acct_gather_energy/rapl",
        "measured_joules": ours,
    }
    assert ours == pytest.approx(sum(part["joules"] or 0 for part in record["energy"]["components"].values()))
    row = record_to_row(record)
    assert (row["slurm_energy_kwh"], row["energy_kwh"]) == (700 / 3.6e6, ours / 3.6e6)
    assert "Slurm's own count for the nodes of 1 run: 0.194 Wh, where this program has " in done.stdout


def counted() -> dict[str, Any]:
    """What the counter of this process's job says, without a run."""
    count = slurm_count()
    assert count is not None
    count.measured_joules = 5.0
    count.begin()
    return count.end()


def test_a_step_of_srun_is_asked_for_as_that_step(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    programs(sstat='case "$*" in *77.3*) echo "77.3|90";; esac')
    # A count that does not advance in the run is one from the step's start.
    assert (counted()["joules"], counted()["covers"]) == (90.0, "step")


@pytest.mark.parametrize(
    ("says", "joules"),
    [
        ("echo '77|900'; echo '77.batch|850'; echo '77.extern|850'", 850.0),
        ("echo 900", 900.0),
        ("echo '77.batch|'", None),
        ("echo '77.batch|0'", None),
        ("echo '77.batch|18446744073709551614'", None),  # Slurm's NO_VAL64
        ("echo '78.batch|12'", None),  # of another job
        ("echo 'Slurm accounting storage is disabled' >&2; exit 1", None),
        ("echo '77.batch|-3'; echo '77.batch|nan'; printf '\\377|9'", None),
        ("exec sleep 60", None),
    ],
)
def test_what_accounts_say_is_read_or_null_with_a_reason(
    says: str, joules: float | None, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_energy, "_PATIENCE_S", 0.5)
    programs(sacct=says)
    section = counted()
    assert (section["joules"], section["measured_joules"]) == (joules, 5.0)
    if joules is None:
        assert section["reason"].startswith("neither sstat nor sacct has a figure")
    else:
        assert (section["source"], section["covers"]) == ("sacct", "step")


def test_programs_that_give_no_answer_block_no_run(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_energy, "_PATIENCE_S", 0.2)
    programs(**dict.fromkeys(("sstat", "sacct", "scontrol"), "exec sleep 600"))
    done, record = sweep(tmp_path)
    assert record["slurm_energy"]["reason"] == "neither sstat nor sacct has a figure"
    assert record["energy"]["joules"] > 0
    assert "Slurm's own count" not in done.stdout


def test_without_slurm_nothing_is_asked(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ("", "no number"):
        monkeypatch.setenv("SLURM_JOB_ID", number)
        assert slurm_count() is None


def test_the_waiting_command_enters_what_the_accounts_say_of_jobs_that_have_ended(
    programs: Programs, tmp_path: Path
) -> None:
    """Of the last job of a run in two parts no share of ours is known, and the figure is no figure of the run."""
    programs(sacct='case "$*" in *=77,78,79*) echo "77.batch|500"; echo "78|600"; echo "79.batch|";; esac')
    base: dict[str, Any] = {"schema_version": 1, "run_id": "r", "status": "ok"}
    part = {"joules": 100.0}
    for job, energy, known in (
        ("77", {"joules": 400.0}, None),
        ("78", {"joules": 200.0, "parts": [part, part]}, {"joules": None, "measured_joules": 150.0}),
        ("79", {"joules": 400.0}, None),
        ("80", {"joules": 400.0}, {"joules": 7.0}),
    ):
        origin = {"slurm": {"job_id": job, "job_nodelist": f"n{job}"}}
        record = {**base, "energy": energy, "provenance": origin, "slurm_energy": known}
        write_record(tmp_path / job / "run.json", record)
    paths = [tmp_path / job / "run.json" for job in ("77", "78", "79", "80", "missing")]
    add_what_sacct_says(paths)
    sections = [read_record(path)["slurm_energy"] for path in paths[:4]]
    assert [section and section["joules"] for section in sections] == [500.0, 600.0, None, 7.0]
    assert [section["measured_joules"] for section in sections[:2]] == [400.0, 150.0]
    assert sections[0]["of"] == "processors and memory of n77 from the step's start, whoever used them"
    rows = [record_to_row(read_record(path))["slurm_energy_kwh"] for path in paths[:2]]
    assert rows == [500 / 3.6e6, None]
    said = comparison(read_record(path) for path in paths[:4])
    assert said is not None
    assert said.startswith("Slurm's own count for the nodes of 2 runs, from the start of their jobs: 0.306 Wh, ")
