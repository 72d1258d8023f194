"""Lengths, padding and steps, against simulation and by property."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scaling.errors import UserError
from lora_scaling.workload import Batching, Lengths, step_count

lengths = st.lists(st.integers(1, 3000), min_size=1, max_size=60).map(lambda values: Lengths(tuple(values)))


@given(lengths, st.integers(1, 16), st.integers(8, 1024), st.booleans())
def test_tokens_are_kept_or_cut_and_padding_is_never_negative(values, batch, limit, grouped):
    found = values.statistics(Batching(batch_size=batch, max_seq_len=limit, group_by_length=grouped))
    assert found.tokens + found.truncated == pytest.approx(values.mean)
    assert found.padding >= -1e-6
    assert found.processed <= limit + 1e-6 or batch == 1


@given(lengths, st.integers(8, 1024), st.booleans())
def test_a_batch_of_one_row_has_no_padding(values, limit, grouped):
    found = values.statistics(Batching(batch_size=1, max_seq_len=limit, group_by_length=grouped))
    assert found.padding == pytest.approx(0, abs=1e-6)


def test_padding_is_the_mean_of_the_longest_as_simulated():
    values = Lengths.lognormal(120, 0.7)
    draw = random.Random(1)
    simulated = statistics.fmean(max(draw.choices(values.values, k=8)) for _ in range(20_000))
    found = values.statistics(Batching(batch_size=8, max_seq_len=100_000))
    assert found.processed == pytest.approx(simulated, rel=0.02)


def test_grouping_by_length_and_packing_pad_less():
    values = Lengths.lognormal(120, 0.7)
    plain, grouped, packed = (
        values.statistics(Batching(batch_size=8, max_seq_len=512, group_by_length=group, packing=pack)).padding
        for group, pack in ((False, False), (True, False), (False, True))
    )
    assert packed == 0 < grouped < plain / 4


@pytest.mark.parametrize(("samples", "batch"), [(20, 8), (80, 8), (300, 8), (40, 2), (2000, 8), (30, 16), (6000, 32)])
def test_grouping_pads_a_small_training_set_more_as_transformers_does_it(samples, batch):
    torch = pytest.importorskip("torch")
    from transformers.trainer_pt_utils import get_length_grouped_indices

    values = Lengths.lognormal(96, 0.6)
    draw, padded = random.Random(2), []
    for seed in range(200 if samples < 1000 else 20):
        drawn = draw.choices(values.values, k=samples)
        order = get_length_grouped_indices(drawn, batch, generator=torch.Generator().manual_seed(seed))
        cut = [[drawn[i] for i in order[start : start + batch]] for start in range(0, samples, batch)]
        padded.append(sum(len(rows) * max(rows) for rows in cut) / samples)
    found = values.statistics(Batching(batch_size=batch, max_seq_len=10_000, group_by_length=True), samples)
    # Of 20 rows the last batch is half empty and pads less; nothing else is that small.
    assert found.processed == pytest.approx(statistics.fmean(padded), rel=0.12 if samples < 4 * batch else 0.03)


def test_lognormal_has_the_mean_asked_for():
    assert Lengths.lognormal(250, 0.8).mean == pytest.approx(250, rel=0.01)
    with pytest.raises(UserError, match=r"data\.tokens_per_sample"):
        Lengths.lognormal(0, 0.8)


@pytest.mark.parametrize(
    ("rows", "epochs", "batch", "accumulation", "most", "steps"),
    [
        (100, 1, 8, 1, None, 13),
        (100, 2, 8, 4, None, 8),
        (100, 3, 8, 4, 5, 5),
        (3, 1, 8, 4, None, 1),
        (8, 1, 8, 1, 0, 0),
    ],
)
def test_steps_are_those_trainer_takes(rows, epochs, batch, accumulation, most, steps):
    found = step_count(rows, epochs=epochs, batch_size=batch, gradient_accumulation=accumulation, max_steps=most)
    assert found == steps
