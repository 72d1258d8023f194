"""CodeCarbon's own file, written by CodeCarbon, as a table of runs."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import decide, load_runs
from analysis.tables.column_options import ColumnOptions

NAMED = ColumnOptions(samples_from=r"project_name:n(\d+)", constants={"epochs": "1"})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`emissions.csv` of one tracked block of 0.2 s, by the CodeCarbon that is installed."""
    codecarbon = pytest.importorskip("codecarbon")
    folder = tmp_path_factory.mktemp("codecarbon")
    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code="DNK", project_name="bert_n64", output_dir=str(folder), log_level="critical",
        allow_multiple_runs=True,
    )  # fmt: skip
    tracker.start()
    time.sleep(0.2)
    tracker.stop()
    return folder / "emissions.csv"


@pytest.fixture(scope="module")
def study(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file's own row repeated for runs of four sizes, three of each, with energies linear in samples."""
    row = pd.read_csv(written).iloc[0]
    generator = np.random.default_rng(1)
    rows = []
    for place, samples in enumerate(generator.permutation([1000, 2000, 4000, 8000] * 3)):
        energy = (1e-3 + 2e-5 * samples) * np.exp(0.005 * generator.standard_normal())
        end = pd.Timestamp("2026-11-02T10:00:00") + pd.Timedelta(hours=int(place))
        rows.append(
            {**row, "run_id": f"r{place}", "project_name": f"bert_n{samples}_e1", "energy_consumed": energy,
             "emissions": 0.15 * energy, "duration": 600.0, "timestamp": end.isoformat(), "cpu_energy": 0.9 * energy,
             "gpu_energy": 0.0, "ram_energy": 0.1 * energy, "gpu_model": None}
        )  # fmt: skip
    path = tmp_path_factory.mktemp("study") / "emissions.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_the_file_that_codecarbon_writes_is_read_with_its_units(written: Path) -> None:
    raw = pd.read_csv(written).iloc[0]
    table = load_runs(written, options=NAMED)
    [row] = table.frame.to_dict("records")
    assert row["samples"] == 64
    assert row["energy_kwh"] == pytest.approx(raw["energy_consumed"], rel=1e-9)
    assert row["emissions_g"] == pytest.approx(1000 * raw["emissions"], rel=1e-9)
    assert row["total_s"] == pytest.approx(raw["duration"], rel=1e-9)
    assert row["intensity_g_per_kwh"] == pytest.approx(1000 * raw["emissions"] / raw["energy_consumed"], rel=1e-9)
    assert "codecarbon" in {warning.kind for warning in table.warnings}


@pytest.mark.slow
def test_a_study_of_codecarbon_has_its_verdict_with_the_samples_from_the_project_s_name(study: Path) -> None:
    table = load_runs(study, options=NAMED)
    verdicts = {claim.id: claim.verdict for claim in decide(table).claims}
    assert verdicts["linear_in_samples"] == "supported"
    assert verdicts["doubling_doubles"] == "supported"  # 2^(log 7.67/log 8) = 1.97 over the range, and 1.95 would do
    assert sorted(table.frame["position"]) == list(range(1, 13))


@pytest.mark.slow
def test_what_a_codecarbon_file_leaves_out_is_said(study: Path) -> None:
    frame = pd.read_csv(study).assign(gpu_model="NVIDIA A100", tracking_mode="process", pue=1.3)
    table = load_runs(frame, options=NAMED)
    kinds = {warning.kind for warning in table.warnings}
    assert {"gpu_energy_missing", "process_share", "pue"} <= kinds
    assert table.frame["energy_gpu_kwh"].isna().all()
    assert set(table.frame["energy_source_gpu"]) == {"unknown"}


@pytest.mark.slow
def test_without_samples_the_sentence_names_the_column(study: Path) -> None:
    with pytest.raises(
        Exception,
        match=r"\(CodeCarbon's emissions file\): lacks the columns `samples`, `epochs`; .*"
        r" --samples-from 'project_name:n\(",
    ):
        load_runs(study)
