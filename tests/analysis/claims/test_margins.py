"""The margin of each claim is the one asked for, from both sides; and many claims share one error rate."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.claims.decide import ClaimsReport, decide
from analysis.claims.verdicts import Claim, Options, equivalence, holm
from analysis.regression.estimate import IntervalEstimate
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import KWH_PER_SAMPLE, Sweep, curve, geometric, noisy
from tests.support.claims import decided_alone

CV = 0.002  # so little scatter that only the margin decides


def report(frame: pd.DataFrame, **options: float) -> ClaimsReport:
    return decide(table_from_frame(frame), Options(**options))  # type: ignore[arg-type]


def named(frames: list[pd.DataFrame], rng: np.random.Generator) -> pd.DataFrame:
    """Parts of one study: in an order of their own, each run with its name."""
    frame = pd.concat(frames, ignore_index=True)
    frame["order"] = rng.permutation(len(frame))
    frame["run_id"] = [f"run-{i:04d}" for i in range(len(frame))]
    return frame


def powers(samples: float, epochs: float) -> pd.DataFrame:
    """E = a·samples^… ·epochs^… without a fixed cost."""
    rng = np.random.default_rng(0)
    frame = Sweep(samples=geometric(32, 16, 5), epochs=(1, 2, 4, 8), zero=0).draw(rng)
    return frame.assign(energy_kwh=noisy(rng, curve(frame, b=samples, b_epochs=epochs), CV))


def ranks(effect: float) -> pd.DataFrame:
    """Change by `effect` from the first rank to the last, over the whole range that was run."""
    rng = np.random.default_rng(0)
    sweep = Sweep(samples=(128, 512), replicates=4, zero=0)
    frame = named([sweep.draw(rng, {"rank": r, "method": "lora"}) for r in (4, 8, 16, 32, 64)], rng)
    return frame.assign(energy_kwh=noisy(rng, curve(frame) * (1 + effect) ** (np.log2(frame["rank"] / 4) / 4), CV))


def sizes(gamma: float) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = []
    for i, cost in enumerate(6 * np.array([1e6, 3e6, 1e7, 3e7, 1e8, 3e8])):
        frame = Sweep(samples=(256,), zero=0).draw(rng, {"model": f"m{i}", "method": "lora"})
        frame["tokens_seen"] = 200 * frame["samples_seen"]
        frame["flops"] = cost * frame["tokens_seen"]
        frame["energy_train_kwh"] = noisy(rng, 1e-9 * frame["tokens_seen"] * (cost / 6e6) ** gamma, CV)
        parts.append(frame.assign(energy_kwh=frame["energy_train_kwh"] + 1e-5))
    return named(parts, rng)


TRUTHS: dict[str, Callable[[float], pd.DataFrame]] = {
    "linear_in_samples": lambda off: powers(1 + off, 1.0),
    "linear_in_epochs": lambda off: powers(1.0, 1 + off),
    "doubling_doubles": lambda off: powers(1 + off, 1.0),
    "samples_epochs_interchangeable": lambda off: powers(1.0, 1 + off),
    "rank_effect": ranks,
    "size_exponent": lambda off: sizes(1 + off),
}


@pytest.mark.parametrize("claim_id", TRUTHS)
@pytest.mark.parametrize(
    ("off", "verdict"), [(-0.08, "refuted"), (-0.03, "supported"), (0.03, "supported"), (0.08, "refuted")]
)
def test_a_claim_is_decided_at_its_margin(claim_id: str, off: float, verdict: str) -> None:
    """5 %: three are inside, eight are not."""
    claim = next(claim for claim in report(TRUTHS[claim_id](off)).claims if claim.id == claim_id)
    assert claim.verdict == verdict, claim.reason


@pytest.mark.parametrize("claim_id", TRUTHS)
def test_another_margin_moves_the_verdict(claim_id: str) -> None:
    """What is refuted at 5 % is supported at 12 %, on the same runs."""
    frame = TRUTHS[claim_id](0.08)
    wide = next(claim for claim in report(frame, margin=0.12).claims if claim.id == claim_id)
    assert wide.verdict == "supported", wide.reason


@given(value=st.floats(-0.2, 0.2), se=st.floats(0.001, 0.2), df=st.floats(3, 100), level=st.sampled_from([0.9, 0.95]))
def test_the_interval_that_is_shown_decides(value: float, se: float, df: float, level: float) -> None:
    """Two one-sided tests at α are one look at the 1 − 2α interval: verdict and `ci` cannot contradict each other."""
    options, estimate = Options(level=level), IntervalEstimate(value=value, se=se, df=df)
    low, high = estimate.interval(options.ci_level)
    verdict, _ = equivalence(estimate, -0.05, 0.05, options)
    assert options.ci_level == pytest.approx(2 * level - 1)
    if min(abs(low + 0.05), abs(high - 0.05), abs(high + 0.05), abs(low - 0.05)) > 1e-9:
        expected = "supported" if low > -0.05 and high < 0.05 else "refuted" if high < -0.05 or low > 0.05 else None
        assert verdict == (expected or "undecided")


def decided(claims: tuple[Claim, ...]) -> list[float | None]:
    return [claim.p_value for claim in claims if claim.verdict != "undecided"]


@pytest.mark.simulation
def test_claims_on_one_table_share_the_error_rate() -> None:
    """Of verdicts near their error rate some must give way, and those that stand pass Holm's test together."""
    gave_way = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        frame = Sweep(samples=geometric(32, 16, 5), epochs=(1, 2, 4), replicates=2, zero=0).draw(rng)
        frame["energy_kwh"] = noisy(rng, curve(frame, b=0.93, b_epochs=1.0), 0.07)
        claims = report(frame).claims
        tested = sum(claim.estimate is not None for claim in claims)
        assert all(holm(decided(claims), 0.05, tested))
        for claim in claims:
            if "before_holm" in claim.tests:
                gave_way += 1
                assert claim.verdict == "undecided"
                assert f"but {tested} claims were tested" in claim.reason
                assert claim.needs is not None
                level = f"at level {100 * (1 - 0.05 / tested):.4g} %"
                assert claim.needs.message.startswith(f"To stand among {tested} claims it has to be decided {level}")
                assert claim.needs.command is not None
    assert gave_way


@pytest.mark.parametrize(("ratio", "verdict"), [(1.5, "supported"), (1.0, "refuted"), (0.8, "refuted")])
def test_full_against_lora_is_a_question_of_more_or_not(ratio: float, verdict: str) -> None:
    assert methods(ratio, seed=0).verdict == verdict


def methods(ratio: float, *, seed: int, cv: float = 0.01) -> Claim:
    rng = np.random.default_rng(seed)
    sweep = Sweep(samples=(64, 256, 1024), replicates=4, zero=0)
    frame = named([sweep.draw(rng, {"method": "lora", "rank": 8.0}), sweep.draw(rng, {"method": "full"})], rng)
    factor = np.where(frame["method"] == "full", ratio, 1.0)
    frame = frame.assign(energy_kwh=noisy(rng, KWH_PER_SAMPLE * frame["samples_seen"] * factor, cv))
    return decided_alone(frame, "full_vs_lora")


@pytest.mark.simulation
def test_no_difference_of_methods_is_seldom_called_one() -> None:
    """At a ratio of 1, five per cent below the threshold, `supported` hardly comes at all."""
    found = [methods(1.0, seed=seed, cv=0.08).verdict for seed in range(30)]
    assert found.count("supported") < 2
