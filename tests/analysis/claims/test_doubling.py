"""What twice the samples do to the bill: counted in samples, whatever their lengths."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.claims.decide import decide
from analysis.claims.verdicts import Claim, Options
from analysis.cli import main
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import Sweep, noisy, scaling

FIXED_KWH, KWH_PER_TOKEN = 4e-5, 1e-8


def doubling(frame: pd.DataFrame) -> Claim:
    return next(c for c in decide(table_from_frame(frame), Options()).claims if c.id == "doubling_doubles")


def grouped(power: float, *, metered: float | None = None, seed: int = 0) -> pd.DataFrame:
    """Samples of 200·(samples/64)^power tokens, as length grouping pads them less; energy goes by tokens.

    `metered`: the power of a metered tenth beside it.
    """
    rng = np.random.default_rng(seed)
    frame = Sweep(samples=(64, 128, 256, 512, 1024), replicates=4).draw(rng)
    seen = frame["samples_seen"].to_numpy(dtype=float)
    tokens = 200 * seen * (frame["samples"] / 64) ** power
    energy = FIXED_KWH + KWH_PER_TOKEN * tokens
    frame = frame.assign(tokens_seen=tokens, tokens_padded=0.0, energy_kwh=noisy(rng, energy, 0.01))
    if metered is None:
        return frame
    gpu = noisy(rng, 0.1 * (FIXED_KWH + KWH_PER_TOKEN * 200 * seen * (frame["samples"] / 64) ** metered), 0.01)
    return frame.assign(
        energy_gpu_kwh=gpu, energy_cpu_kwh=frame["energy_kwh"], energy_kwh=frame["energy_kwh"] + gpu,
        energy_source_gpu="nvml_counter", energy_source_cpu="load_model",
    )  # fmt: skip


def elasticity(power: float) -> float:
    ends = [FIXED_KWH + KWH_PER_TOKEN * 200 * samples * (samples / 64) ** power for samples in (64, 1024)]
    return float(np.log(ends[1] / ends[0]) / np.log(1024 / 64))


def test_samples_that_get_shorter_are_doubled_as_they_are() -> None:
    found = doubling(grouped(-0.15))
    assert found.verdict == "refuted"
    assert found.estimate == pytest.approx(elasticity(-0.15), abs=0.005)
    assert f"costs {100 * (2 ** elasticity(-0.15) - 1):.0f} % more" in found.reason
    assert found.tests["holds_from"] is None  # of growth like samples^0.85, no size doubles


def test_samples_that_get_longer_are_doubled_as_they_are() -> None:
    found = doubling(grouped(0.15))
    assert elasticity(0.15) > 1.05
    assert found.estimate == pytest.approx(elasticity(0.15), abs=0.005)
    assert found.verdict == "refuted"
    assert "no size makes it hold" in found.reason


def test_the_metered_part_is_doubled_likewise() -> None:
    found = doubling(grouped(-0.15, metered=-0.15))
    assert found.tests["measured"]["estimate"] == pytest.approx(elasticity(-0.15), abs=0.01)


def test_the_outlier_that_it_hangs_on_is_named() -> None:
    frame = grouped(0.02)
    frame.loc[frame.index[frame["samples"] == 1024][0], "energy_kwh"] *= 4
    found = doubling(frame)
    assert found.tests["outlier"]["run_id"] == frame["run_id"][frame.index[frame["samples"] == 1024][0]]
    assert found.tests["outlier"]["estimate_without"] == pytest.approx(elasticity(0.02), abs=0.01)


def test_the_title_names_what_was_doubled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    epochs = scaling(Sweep(samples=(64,), epochs=(1, 2, 4, 8, 16)), smallest=64.0)(np.random.default_rng(0))
    samples = scaling(Sweep())(np.random.default_rng(0))
    for frame, factor in ((epochs, "epochs"), (samples, "samples")):
        frame.to_csv(tmp_path / "t.csv", index=False)
        assert main(["claims", str(tmp_path / "t.csv"), "--json"]) == 0
        claims = {claim["id"]: claim for claim in json.loads(capsys.readouterr().out)["claims"]}
        assert claims["doubling_doubles"]["title"] == f"Twice the {factor} cost twice the energy"
        assert claims["doubling_doubles"]["tests"]["factor"] == factor
        assert main(["claims", str(tmp_path / "t.csv")]) == 0
        assert f"SUPPORTED  Twice the {factor} cost twice the energy" in capsys.readouterr().out
