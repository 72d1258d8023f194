"""Adaptive looks: their error rate, the runs they choose, and what a fixed sweep costs beside them."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.adaptive import LOOKS, Study, advance, comparable_context, next_runs, next_step
from analysis.claims.linear import linear
from benchmarks.adaptive_simulation import (
    StudyTruth,
    adaptive_study,
    render,
    simulate,
    sweep_kwh,
    sweep_points,
)
from lora_scaling.adaptive import Point
from lora_scaling.errors import RecordError
from tests.support.studies import LEVELS, STUDY, table


def test_levels_of_all_looks_together_spend_the_error_rate_once() -> None:
    assert (1 - STUDY.look_level) * LOOKS == pytest.approx(1 - STUDY.level)
    assert len(STUDY.schedule) == LOOKS
    assert list(STUDY.schedule) == sorted(set(STUDY.schedule))


def test_the_opening_is_every_level_with_repeats_at_three_and_runs_of_no_steps() -> None:
    counts = Counter(point.key for point in STUDY.opening)
    assert counts == {
        (64, 1, False): 2,
        (128, 1, False): 2,
        (256, 1, False): 1,
        (512, 1, False): 1,
        (1024, 1, False): 2,
        (64, 1, True): 2,
    }
    assert STUDY.schedule[0] == len(STUDY.opening)


@settings(max_examples=15, deadline=None)
@given(
    low=st.integers(1, 50),
    ratio=st.sampled_from([2, 3]),
    count=st.integers(4, 7),
    seed=st.integers(0, 10**6),
    factor=st.sampled_from(["samples", "epochs"]),
)
def test_every_opening_passes_the_gates(low: int, ratio: int, count: int, seed: int, factor: str) -> None:
    levels = tuple(low * ratio**i for i in range(count))
    study = Study(claim=f"linear_in_{factor}", margin=0.05, level=0.95, levels=levels, at=3, seed=seed)
    context = comparable_context(study, table(study.opening, cv=0.01, seed=seed))
    assert context.blocks[factor] is None


def test_an_opening_that_was_cut_short_is_completed_and_not_looked_at() -> None:
    done = STUDY.opening[:6]
    step = advance(STUDY, table(done))
    assert step.look is None
    assert [p.key for p in step.runs] == [p.key for p in STUDY.opening[6:]]


def test_nothing_is_looked_at_between_the_looks() -> None:
    first = advance(STUDY, table(STUDY.opening, cv=0.05, seed=2))
    assert first.look is not None
    assert first.look.verdict == "undecided"
    looked = replace(STUDY, looked=(10,))
    midway = advance(looked, table((*STUDY.opening, *first.runs[:2]), cv=0.05, seed=2))
    assert midway.look is None
    assert len(midway.runs) == STUDY.schedule[1] - 12


@pytest.mark.parametrize(("b", "verdict"), [(1.0, "supported"), (0.8, "refuted")])
def test_clear_truths_are_decided_at_the_first_look(b: float, verdict: str) -> None:
    step = advance(STUDY, table(STUDY.opening, b=b, cv=0.005))
    assert step.stop == verdict
    assert step.runs == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_run_is_the_one_that_lowers_the_variance_of_the_exponent_most_per_kwh(seed: int) -> None:
    made = table(STUDY.opening, cv=0.01, seed=seed)
    context = comparable_context(STUDY, made)
    [chosen] = next_runs(STUDY, context, made, count=1)
    fit = context.total.fit
    b, share = float(fit.exponents[0]), float(fit.shares[0])
    mean = float(np.log([p.samples for p in STUDY.opening if not p.zero]).mean())

    def log_energy(theta: np.ndarray, point: Point) -> float:
        z = 0.0 if point.zero else np.exp(theta[0] * (np.log(point.samples) - mean))
        return float(np.log(theta[1] + (1 - theta[1]) * z) + theta[2])

    def gradient(point: Point) -> np.ndarray:
        theta = np.array([b, share, 0.0])
        steps = 1e-6 * np.eye(3)
        return np.array([(log_energy(theta + s, point) - log_energy(theta - s, point)) / 2e-6 for s in steps])

    now = sum(np.outer(gradient(p), gradient(p)) for p in STUDY.opening)
    candidates = [*map(STUDY.point, LEVELS), STUDY.zero]
    before = np.linalg.inv(now)[0, 0]
    cost = {p.key: 32 + (0 if p.zero else p.samples) for p in candidates}
    gains = {
        p.key: (before - np.linalg.inv(now + np.outer(gradient(p), gradient(p)))[0, 0]) / cost[p.key]
        for p in candidates
    }
    assert chosen.key == max(gains, key=lambda key: gains[key])


def test_runs_that_scatter_less_tell_more() -> None:
    """Where small runs scatter, the next is the best one by the fit's weights; by equal ones it would be another."""
    points = [*STUDY.opening * 3, *[STUDY.point(level) for level in LEVELS] * 4, *[STUDY.zero] * 20]
    made = table(points, cv=0.0)
    rng = np.random.default_rng(3)
    kwh = made.frame["energy_kwh"].to_numpy()
    made = replace(
        made, frame=made.frame.assign(energy_kwh=kwh * np.exp(0.2 * kwh.min() / kwh * rng.normal(size=len(kwh))))
    )
    context = comparable_context(STUDY, made)
    fit = context.total.fit
    assert context.total.weighted
    b, share = float(fit.exponents[0]), float(fit.shares[0])
    keys = [(int(s), int(e), seen == 0) for s, e, seen in made.frame[["samples", "epochs", "samples_seen"]].to_numpy()]
    weight = dict(zip(keys, fit.data.weights, strict=True))
    mean = float(np.log([p.samples for p in points if not p.zero]).mean())

    def row(point: Point) -> np.ndarray:
        centred = np.log(point.samples) - mean
        z = 0.0 if point.zero else np.exp(b * centred)
        m = share + (1 - share) * z
        return np.array([0.0 if point.zero else (1 - share) * z / m * centred, (1 - z) / m, 1.0])

    def best(weight: dict[tuple[int, int, bool], float]) -> tuple[int, int, bool]:
        now = sum(weight[p.key] * np.outer(row(p), row(p)) for p in points)
        before = np.linalg.inv(now)[0, 0]
        cost = {p.key: 32 + (0 if p.zero else p.samples) for p in points}
        gains = {
            p.key: (before - np.linalg.inv(now + weight[p.key] * np.outer(row(p), row(p)))[0, 0]) / cost[p.key]
            for p in points
        }
        return max(gains, key=lambda key: gains[key])

    [chosen] = next_runs(STUDY, context, made, count=1)
    assert chosen.key == best(weight)
    assert chosen.key != best(dict.fromkeys(weight, 1.0))


def test_runs_stay_within_what_is_left() -> None:
    made = table(STUDY.opening, cv=0.05, seed=2)
    step = advance(STUDY, made, kwh_left=0.004)
    assert step.runs
    assert sum(p.energy_kwh or 0 for p in step.runs) <= 0.004
    step = advance(STUDY, made, seconds_left=20.0)
    assert step.runs
    assert sum(p.seconds or 0 for p in step.runs) <= 20.0


def test_a_spent_budget_takes_the_next_look_early_and_only_once() -> None:
    looked = replace(STUDY, looked=(10,))
    runs = table((*STUDY.opening, STUDY.point(64), STUDY.point(1024)), cv=0.05, seed=2)
    step = advance(looked, runs, kwh_left=0.0)
    assert step.look is not None
    assert (step.look.runs, step.stop) == (12, "budget")
    again = advance(replace(STUDY, looked=(10, 12)), runs, kwh_left=0.0)
    assert (again.look, again.stop) == (None, "budget")


def test_runs_that_have_passed_several_looks_are_looked_at_once() -> None:
    """35 runs are past the looks at 14, 20 and 28: one look for the three, and the next at 39."""
    runs = table(STUDY.opening * 3 + STUDY.opening[:5], cv=0.3)
    step = advance(replace(STUDY, looked=(10,)), runs)
    assert step.look is not None
    assert (step.look.runs, step.stop, len(step.runs)) == (35, None, 39 - 35)
    again = advance(replace(STUDY, looked=(10, 35)), runs)
    assert (again.look, again.stop, len(again.runs)) == (None, None, 39 - 35)


def test_no_verdict_from_an_opening_that_could_not_be_paid() -> None:
    step = advance(STUDY, table(STUDY.opening[:7]), kwh_left=0.0)
    assert (step.look, step.stop) == (None, "budget")


def test_no_look_is_taken_beyond_the_last() -> None:
    done = replace(STUDY, looked=STUDY.schedule)
    assert advance(done, table(STUDY.opening * 12, cv=0.3)).stop == "looks"


@pytest.mark.parametrize("seed", [2, 4, 7])
def test_a_design_heavy_at_its_cheap_end_refutes_no_exponent_within_the_margin(seed: int) -> None:
    heavy = (*STUDY.opening, *[STUDY.point(64)] * 30, *[STUDY.zero] * 8, *[STUDY.point(1024)] * 6)
    order = np.random.default_rng(seed).permutation(len(heavy))
    made = table([heavy[i] for i in order], b=1.045, cv=0.01, seed=seed)
    claim = linear(comparable_context(STUDY, made), "samples")
    assert claim.verdict == "undecided"
    assert claim.tests["broken_level"] is None  # the far end lies off, as such an exponent puts it in this design
    look = advance(replace(STUDY, looked=STUDY.schedule[:5]), made).look
    assert look is not None
    assert look.verdict == "undecided"


def test_a_break_at_the_top_is_still_refuted() -> None:
    made = table(STUDY.opening * 2, cv=0.01)
    top = made.frame["samples_seen"] == 1024
    frame = made.frame.assign(energy_kwh=made.frame["energy_kwh"] * np.where(top, 1.6, 1.0))
    step = advance(replace(STUDY, looked=(10, 14)), replace(made, frame=frame))
    assert step.stop == "refuted"


def test_runs_of_setup_alone_are_no_measure_of_the_fixed_cost() -> None:
    made = table(STUDY.opening, cv=0.002)
    zero = made.frame["samples_seen"] == 0
    energy = made.frame["energy_kwh"].where(~zero, 1e-6)
    frame = made.frame.assign(energy_kwh=energy, energy_setup_kwh=1e-6, setup_reused=[False] + [True] * 9)
    context = comparable_context(STUDY, replace(made, frame=frame))
    assert (context.response.frame["samples_seen"] > 0).all()
    assert not any(p.zero for p in next_runs(STUDY, context, replace(made, frame=frame), count=5))


def test_the_fixed_sweep_is_the_one_of_its_yaml() -> None:
    from lora_scaling.estimate.sweeps import expand

    configs = expand(["+sweeps=linear_claim"])
    made = Counter((c.samples, c.epochs, c.max_steps == 0) for c in configs)
    assert Counter(p.key for p in sweep_points()) == made


@pytest.mark.simulation
def test_adaptive_studies_decide_like_the_sweep_at_a_fraction_of_its_energy() -> None:
    rows = simulate(4, exponents=(0.9, 1.0), noises=(0.03,))
    assert all(row.passes for row in rows), render(rows)
    assert all(row.energy_share < 0.25 for row in rows)
    assert "adaptive" in render(rows)


@pytest.mark.simulation
def test_on_the_edge_neither_verdict_comes_more_often_than_its_error_rate() -> None:
    [row] = simulate(12, exponents=(1.05,), noises=(0.05,))
    assert row.truth.right is None
    assert row.passes
    assert row.energy_share <= 0.5


@pytest.mark.parametrize(("b", "verdict"), [(1.0, "supported"), (0.8, "refuted")])
def test_devices_that_differ_by_much_more_than_the_noise_do_not_sway_a_study_in_batches(b: float, verdict: str) -> None:
    """Four workers whose devices differ by a fifth, each with a part of every batch, and runs that scatter by 0.5 %."""
    truth = StudyTruth(exponent=b, noise=0.005, session=0.2, batch=4)
    outcome = adaptive_study(truth, np.random.default_rng(0), sweep_kwh(truth), seed=0)
    assert outcome.verdict == verdict
    assert outcome.runs <= STUDY.schedule[2]


@pytest.mark.simulation
def test_studies_in_batches_on_devices_that_differ_keep_to_their_error_rate() -> None:
    rows = simulate(6, exponents=(1.0, 1.05), noises=(0.03,), batch=4, session=0.02)
    assert all(row.passes for row in rows), render(rows)
    assert "batches of 4, by 4 workers" in render(rows)


def test_what_is_due() -> None:
    due = [StudyTruth(exponent=b, noise=0.01).right for b in (0.9, 0.95, 1.0, 1.05, 1.1)]
    assert due == ["refuted", None, "supported", None, "refuted"]


def test_a_study_begins_with_its_opening_and_knows_its_schedule(tmp_path: Path) -> None:
    state = {"claim": STUDY.claim, "margin": 0.05, "level": 0.95, "levels": LEVELS, "at": 1, "seed": 0, "looks": []}
    step = next_step(tmp_path, json.loads(json.dumps(state)))
    assert step.runs == STUDY.opening
    assert step.schedule == STUDY.schedule
    assert (step.stop, step.look) == (None, None)


def test_a_spoilt_state_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"study\.json: no study's state") as caught:
        next_step(tmp_path, {"claim": "linear_in_samples"})
    assert "\n" not in str(caught.value)
