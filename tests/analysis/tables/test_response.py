"""Where part of the energy is modelled, claims are told on the metered part too; a contradiction decides nothing."""

import numpy as np
import pandas as pd
import pytest

from analysis.claims.decide import decide
from analysis.claims.verdicts import Claim, Options
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import FACTORIAL, Sweep, curve, noisy

METERED = {"energy_source_gpu": "nvml_counter", "energy_source_cpu": "load_model"}


def claim_on(frame: pd.DataFrame, claim_id: str) -> Claim:
    report = decide(table_from_frame(frame), Options())
    return next(claim for claim in report.claims if claim.id == claim_id)


def factorial(b_epochs: float) -> pd.DataFrame:
    """A metered tenth whose energy follows epochs^b_epochs under a modelled rest that cannot tell them apart."""
    rng = np.random.default_rng(2)
    frame = FACTORIAL.draw(rng)
    gpu = noisy(rng, 0.1 * curve(frame, fixed=0.2, b_epochs=b_epochs), 0.01)
    cpu = noisy(rng, 0.9 * curve(frame, fixed=0.2), 0.01)
    return frame.assign(energy_gpu_kwh=gpu, energy_cpu_kwh=cpu, energy_kwh=gpu + cpu, **METERED)


def sizes(gamma: float, fixed: float = 1e-7) -> pd.DataFrame:
    """Seven models; the metered twentieth follows FLOPs^gamma, the modelled rest FLOPs themselves."""
    rng = np.random.default_rng(5)
    parts = []
    for i, cost in enumerate(6 * np.geomspace(1e6, 3e8, 7)):
        frame = Sweep(samples=(256,), zero=0).draw(rng, {"model": f"m{i}", "method": "lora"})
        frame["tokens_seen"] = 200.0 * frame["samples_seen"]
        frame["flops"] = cost * frame["tokens_seen"]
        work = frame["tokens_seen"] * 1e-9
        gpu = noisy(rng, 0.05 * work * (cost / 6e6) ** gamma, 0.02)
        cpu = noisy(rng, 0.95 * work * (cost / 6e6), 0.02)
        frame["energy_train_kwh"] = gpu + cpu
        parts.append(
            frame.assign(energy_gpu_kwh=gpu, energy_cpu_kwh=cpu + fixed, energy_kwh=gpu + cpu + fixed, **METERED)
        )
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(order=rng.permutation(len(frame)), run_id=[f"r{i}" for i in range(len(frame))])


@pytest.mark.parametrize(
    ("claim_id", "agreeing", "contradicting"),
    [
        ("samples_epochs_interchangeable", factorial(1.0), factorial(0.8)),
        ("size_exponent", sizes(1.0), sizes(0.8)),
    ],
)
def test_a_contradiction_of_the_metered_part_leaves_the_claim_open(
    claim_id: str, agreeing: pd.DataFrame, contradicting: pd.DataFrame
) -> None:
    claim = claim_on(agreeing, claim_id)
    assert claim.verdict == claim.tests["measured"]["verdict"] == "supported"
    assert claim.tests["measured"]["part"] == "GPU"
    assert "On the metered part alone (GPU" in claim.reason
    claim = claim_on(contradicting, claim_id)
    assert claim.tests["measured"]["verdict"] == "refuted"
    assert claim.verdict == "undecided"
    assert "its metered part" in claim.reason


def test_size_needs_to_know_what_training_alone_took() -> None:
    claim = claim_on(sizes(0.8, fixed=1e-3), "size_exponent")
    assert "verdict" not in claim.tests["measured"]
    assert "did not mostly train" in claim.tests["measured"]["reason"]


def test_a_table_of_metered_energy_alone_says_nothing_of_parts() -> None:
    frame = factorial(1.0).drop(columns=["energy_source_gpu", "energy_source_cpu"])
    claim = claim_on(frame, "samples_epochs_interchangeable")
    assert "verdict" not in claim.tests["measured"]
    assert "metered part" not in claim.reason
