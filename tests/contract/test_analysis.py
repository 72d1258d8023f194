"""What the analysis promises of records and overrides: no column lost, none ignored, its commands continue a study."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from analysis.claims.decide import decide
from analysis.claims.verdicts import Options
from analysis.energy_model.extrapolate import extrapolate
from analysis.energy_model.target import tokens_per_sample
from analysis.tables.table import NUMERIC_COLUMNS, TEXT_COLUMNS, TRUTH_COLUMNS, load_runs, table_from_frame
from benchmarks.interval_coverage import as_table
from benchmarks.simulated_tables import Sweep, geometric, scaling
from lora_scaling import records
from tests.support.fit_tables import frame_of, law


def test_the_analysis_knows_every_column_of_a_record() -> None:
    """A column that the table does not know is dropped without a word."""
    assert set(records.COLUMNS) <= {*NUMERIC_COLUMNS, *TEXT_COLUMNS, *TRUTH_COLUMNS}


def test_samples_that_were_cut_are_as_long_as_they_were_before(tmp_path: Path) -> None:
    """100 tokens a sample, of which max_seq_len left 60: a target with a longer limit has to know the 100."""
    config = {"samples": 10, "epochs": 1}
    work = {"samples_seen": 10, "tokens_seen": 600, "tokens_truncated": 400}
    energy = {"joules": 1000.0, "phases": [], "components": {}}
    record = {"schema_version": 1, "run_id": "r", "status": "ok", "config": config, "work": work, "energy": energy}
    records.write_record(tmp_path / "s" / "r" / "run.json", record)
    assert tokens_per_sample(load_runs([tmp_path]).frame) == pytest.approx(100)


@pytest.mark.parametrize(("override", "grams"), [("grid.intensity_g_per_kwh=50", 50.0), ("grid.pue=1.5", 1.5 * 80.0)])
def test_grid_overrides_of_a_target_count(override: str, grams: float) -> None:
    frame = frame_of(law(), cv=0.02).assign(intensity_g_per_kwh=80.0, intensity_source="uk")
    document = extrapolate(as_table(frame), ["model=llama-3.2-1b", "samples=1000", override]).document
    assert document["emissions_g"]["estimate"] == pytest.approx(grams * document["energy_kwh"]["estimate"])


def test_the_runs_that_a_claim_asks_for_join_the_study_that_it_was_about() -> None:
    frame = scaling(Sweep(samples=geometric(32, 8, 4), zero=0), fixed=0.2, cv=0.03)(np.random.default_rng(5))
    report = decide(table_from_frame(frame.assign(study="mine", model="ladder-1m", method="lora", rank=8)), Options())
    needs = report.claims[0].needs
    assert needs is not None
    assert needs.command is not None
    assert all("study=mine" in shlex.split(command) for command in needs.command.split(" && "))
