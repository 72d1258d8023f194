"""The exponent over model sizes: a model is one point, however often and with whatever methods it was run."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.claims.decide import decide
from analysis.claims.verdicts import Claim, Options
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import Sweep, noisy, together

COSTS = 6 * np.array([1e6, 3e6, 1e7, 3e7, 6e7, 1e8])


def size_claim(frame: pd.DataFrame, response: str = "total") -> Claim:
    report = decide(table_from_frame(frame, response=response), Options())
    return next(claim for claim in report.claims if claim.id == "size_exponent")


def sizes(
    gamma: float,
    *,
    own: np.ndarray | None = None,
    groups: tuple[dict[str, object], ...] = ({"method": "lora"},),
    cv: float = 0.0,
    seed: int = 0,
    replicates: int = 3,
) -> pd.DataFrame:
    """Models with efficiencies of their `own` (in logs), run in each of the `groups`, which cost `factor` as much."""
    rng = np.random.default_rng(seed)
    own = np.zeros(len(COSTS)) if own is None else own
    parts = []
    for i, cost in enumerate(COSTS):
        for group in groups:
            known = {key: value for key, value in group.items() if key not in ("factor", "only")}
            if i not in group.get("only", range(len(COSTS))):  # type: ignore[operator]
                continue
            frame = Sweep(samples=(256,), replicates=replicates, zero=0).draw(rng, {"model": f"m{i}", **known})
            frame["tokens_seen"] = 200 * frame["samples_seen"]
            frame["flops"] = cost * frame["tokens_seen"]
            factor = np.exp(own[i]) * float(group.get("factor", 1.0))  # type: ignore[arg-type]
            frame["energy_train_kwh"] = noisy(rng, 1e-9 * frame["tokens_seen"] * factor * (cost / 6e6) ** gamma, cv)
            parts.append(frame.assign(energy_kwh=frame["energy_train_kwh"] + 1e-5))
    return together(rng, parts)


FOUR_GROUPS = tuple(
    {"method": method, "session": session, "factor": factor * shift}
    for method, factor in (("lora", 1.0), ("full", 1.4))
    for session, shift in (("a", 1.0), ("b", 1.2))
)


def test_a_model_counts_once_for_all_sessions_and_methods() -> None:
    """Six models in four groups are six points: slope, error and degrees of freedom are those of their regression."""
    own = np.array([0.05, -0.04, 0.02, -0.06, 0.03, 0.0])
    found = size_claim(sizes(0.9, own=own, groups=FOUR_GROUPS))
    x = np.log(COSTS)
    slope, level = np.polyfit(x, 0.9 * x + own, 1)
    scatter = float(np.sum((0.9 * x + own - level - slope * x) ** 2)) / (len(x) - 2)
    assert found.tests["df"] == len(COSTS) - 2
    assert found.tests["sizes"] == len(COSTS)
    assert found.estimate == pytest.approx(slope, abs=1e-6)
    assert found.ci is not None
    half = stats.t.ppf(0.95, len(x) - 2) * np.sqrt(scatter / float(np.sum((x - x.mean()) ** 2)))
    assert (found.ci[1] - found.ci[0]) / 2 == pytest.approx(half, rel=1e-3)


def test_more_repeats_and_methods_make_no_surer_of_models() -> None:
    own = np.array([0.05, -0.04, 0.02, -0.06, 0.03, 0.0])
    one, many = size_claim(sizes(0.9, own=own)), size_claim(sizes(0.9, own=own, groups=FOUR_GROUPS, replicates=6))
    assert one.ci is not None
    assert many.ci is not None
    assert many.ci == pytest.approx(one.ci, abs=1e-3)


def test_groups_that_share_no_model_are_not_compared_in_level() -> None:
    """Three models on one device, three on another that takes five times as much: slopes within each, 6 − 2 − 1 df."""
    groups = (
        {"method": "lora", "hardware": "A", "only": (0, 2, 4)},
        {"method": "lora", "hardware": "B", "factor": 5.0, "only": (1, 3, 5)},
    )
    found = size_claim(sizes(0.8, groups=groups, cv=0.01))
    assert found.tests["df"] == 3
    assert found.estimate == pytest.approx(0.8, abs=0.02)


def test_a_run_that_did_not_train_does_not_change_what_is_explained() -> None:
    """Evaluation costs most of a small run: with it in, the exponent would be far lower."""
    frame = sizes(1.0, cv=0.01)
    frame["energy_kwh"] = frame["energy_train_kwh"] + 1e-3
    idle = frame.iloc[:1].assign(
        run_id="idle", samples_seen=0, steps=0, tokens_seen=0, flops=0, energy_train_kwh=np.nan, energy_kwh=1e-3
    )
    for table in (frame, pd.concat([frame, idle], ignore_index=True)):
        found = size_claim(table)
        assert found.estimate == pytest.approx(1.0, abs=0.02)
        assert found.quantity == "exponent γ of training energy per token in FLOPs per token"


def test_the_response_that_is_asked_for_is_explained() -> None:
    frame = sizes(1.0, cv=0.01)
    frame["train_s"] = 1e-4 * frame["tokens_seen"] * (frame["flops"] / frame["tokens_seen"] / 6e6) ** 0.7
    found = size_claim(frame, "time")
    assert found.estimate == pytest.approx(0.7, abs=0.01)
    assert "of training time per token" in found.quantity
    assert found.title == "Training time per token is proportional to FLOPs per token"
    assert "times the training time" in found.reason
    assert size_claim(frame).estimate == pytest.approx(1.0, abs=0.02)


def test_a_run_that_the_exponent_hangs_on_is_named() -> None:
    frame = sizes(1.0, cv=0.01)
    row = frame.index[frame["model"] == "m5"][0]
    frame.loc[row, ["energy_train_kwh", "energy_kwh"]] *= 8
    found = size_claim(frame)
    assert found.tests["outlier"]["run_id"] == frame["run_id"][row]
    assert found.tests["outlier"]["verdict_without"] == "supported"
    assert found.verdict == "undecided"
    assert f"hangs on run {frame['run_id'][row]}" in found.reason
