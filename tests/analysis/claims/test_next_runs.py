"""What deciding a claim would cost: by the method and the model of the runs that are asked for."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims.decide import decide
from analysis.claims.next_runs import energy_line, repeat_needs, sweep_needs
from analysis.claims.verdicts import Claim, Needs, Options, equivalence, runs_needed
from analysis.regression.estimate import IntervalEstimate
from analysis.tables.overrides import further_overrides
from analysis.tables.response import choose_response
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import Sweep, curve, geometric, scaling


def runs(**columns: object) -> pd.DataFrame:
    """Exact energies of 3.2e-4 + 2e-5·samples kWh."""
    frame = Sweep(zero=0).draw(np.random.default_rng(0), columns)
    return frame.assign(energy_kwh=curve(frame, fixed=0.5))


def table(frame: pd.DataFrame) -> pd.DataFrame:
    return choose_response(table_from_frame(frame)).frame


def both_methods() -> pd.DataFrame:
    lora, full = runs(method="lora", rank=8.0, model="ladder-1m"), runs(method="full", model="ladder-1m")
    full["energy_kwh"] *= 3
    return pd.concat([lora, full], ignore_index=True).assign(run_id=lambda f: [f"r{i}" for i in range(len(f))])


def test_each_method_costs_what_its_own_runs_did() -> None:
    frame = table(both_methods())
    own = 3.2e-4 + 2e-5 * 100
    assert energy_line(frame, ["method=lora"])(100) == pytest.approx(own, rel=1e-6)
    assert energy_line(frame, ["method=full"])(100) == pytest.approx(3 * own, rel=1e-6)
    needs = sweep_needs(frame, message="", samples=[100], epochs=[1], replicates=4, extra=("method=lora,full",))
    assert needs.runs == 8
    assert needs.energy_kwh == pytest.approx(4 * (own + 3 * own), rel=0.01)


def test_a_method_or_model_that_was_never_run_is_scaled_by_its_flops() -> None:
    frame = table(runs(method="lora", rank=8.0, model="ladder-1m"))
    one = energy_line(frame, ["method=lora", "model=ladder-1m"])(256)
    assert energy_line(frame, ["method=full"])(256) == pytest.approx(1.5 * one)
    ten = energy_line(frame, ["model=ladder-10m"])(256)
    # by hand: layers × (attention + gated MLP) + head, of the two presets
    small = 4 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 384) + 128 * 4096
    assert ten / one == pytest.approx(
        (8 * (320 * 320 * 2 + 320 * 160 * 2 + 3 * 320 * 864) + 320 * 4096) / small, rel=0.1
    )
    assert energy_line(frame, ["model=somebody/elses"])(256) == pytest.approx(one)


def test_the_claims_on_methods_and_sizes_quote_the_dear_runs() -> None:
    report = decide(table_from_frame(runs(method="lora", rank=8.0, model="ladder-1m")), Options())
    frame = report.response.frame
    one = energy_line(frame)(float(frame["samples_seen"].median()))
    sizes, methods = (claim.needs for claim in report.claims if claim.id in ("size_exponent", "full_vs_lora"))
    assert sizes is not None
    assert methods is not None
    assert sizes.energy_kwh is not None
    assert sizes.energy_kwh > 5 * 15 * one  # fifteen runs, of up to a hundred times the size
    assert methods.energy_kwh is not None
    assert methods.energy_kwh > 8 * one


def test_runs_of_another_method_are_none_that_the_table_has() -> None:
    frame = table(both_methods().query("method == 'full' or samples > 32"))
    needs = sweep_needs(frame, message="", samples=[32], epochs=[1], replicates=3, extra=("method=lora", "lora.r=8"))
    assert needs.runs == 3


def test_new_runs_join_the_study() -> None:
    needs = sweep_needs(
        table(runs(study="mine", model="ladder-1m")), message="", samples=[1], epochs=[1], replicates=1, zero_runs=2
    )
    assert needs.command is not None
    assert needs.command.count("study=mine") == 2
    other = sweep_needs(table(runs(study="not a folder!")), message="", samples=[1], epochs=[1], replicates=1)
    assert "study" not in (other.command or "")


def test_runs_that_are_there_are_not_asked_for_again_method_by_method() -> None:
    """Three of each method at 32 samples, one of them left out: two more of the one, three of the other make five."""
    frame = both_methods()
    frame = table(frame[~((frame["method"] == "full") & (frame["samples"] == 32) & (frame["replicate"] == 0))])
    needs = sweep_needs(frame, message="", samples=[32], epochs=[1], replicates=5, extra=("method=lora,full",))
    own = 3.2e-4 + 2e-5 * 32
    assert needs.runs == 2 + 3
    assert needs.energy_kwh == pytest.approx((2 + 3 * 3) * own, rel=0.01)


def test_runs_without_the_setting_that_is_asked_for_do_not_count() -> None:
    frame = table(runs(method="lora", rank=8.0, model="ladder-1m"))
    needs = sweep_needs(frame, message="", samples=[32, 74], epochs=[1], replicates=3, extra=("padding=max_length",))
    assert needs.runs == 6
    assert needs.energy_kwh == pytest.approx(3 * (2 * 3.2e-4 + 2e-5 * (32 + 74)), rel=0.02)


LADDER: dict[str, Any] = {"model": "ladder-1m", "method": "lora", "rank": 8.0, "data": "synthetic", "study": "mine"}


def needs_of(frame: pd.DataFrame, claim_id: str, response: str = "total") -> Needs:
    needs = claims_of(frame, response)[claim_id].needs
    assert needs is not None
    return needs


def claims_of(frame: pd.DataFrame, response: str = "total") -> dict[str, Claim]:
    return {claim.id: claim for claim in decide(table_from_frame(frame, response=response), Options()).claims}


def unclear(**columns: str) -> pd.DataFrame:
    """Too few noisy runs over a factor of eight to decide on samples."""
    frame = scaling(Sweep(samples=geometric(32, 8, 4), zero=0), fixed=0.2, cv=0.03)(np.random.default_rng(5))
    return frame.assign(**LADDER | columns)


@pytest.mark.parametrize("apart", ["order", "session"])
def test_runs_in_order_or_in_sessions_are_made_anew(apart: str) -> None:
    """In the same study they would be found finished and skipped."""
    frame = runs(**LADDER)
    frame[apart] = frame["samples"].rank(method="first") if apart == "order" else frame["samples"].astype(str)
    needs = needs_of(frame, "linear_in_samples")
    assert needs.command is not None
    assert needs.command.count("study=mine_more") == 2
    assert needs.runs == 6 * 3 + 3  # six levels, three of each, and three without training
    pairs = runs(**LADDER).assign(epochs=lambda f: 1 + f["order"] % 2)
    pairs["order"] = pairs["samples"].rank(method="first")
    assert "study=mine_more" in str(needs_of(pairs, "samples_epochs_interchangeable").command)


def test_runs_that_are_all_there_are_not_asked_for() -> None:
    """Each device has half of the levels: the same command would find every run finished."""
    frame = Sweep(samples=[32, 64, 128, 256, 512, 1024], zero=3).draw(np.random.default_rng(0), LADDER)
    hardware = np.where(frame["samples"].isin([32, 128, 512]), "a", "b")
    claim = claims_of(frame.assign(hardware=hardware, energy_kwh=curve(frame, fixed=0.5)))["linear_in_samples"]
    assert "only 3 different numbers" in claim.reason
    assert claim.needs is None


def test_settings_of_most_runs_are_repeated_also_where_they_are_the_defaults() -> None:
    frame = runs(**LADDER).assign(settings_override=lambda f: np.where(f["order"] < 5, "packing=true", ""))
    assert further_overrides(table(frame)) == []
    needs = sweep_needs(table(frame), message="", samples=[32], epochs=[1], replicates=3)
    packed = int((frame["settings_override"][frame["samples"] == 32] == "packing=true").sum())
    assert packed > 0
    assert needs.runs == packed


@pytest.mark.parametrize(
    ("column", "name"), [("model", "my llama 7B"), ("method", "dora"), ("data", "alpaca"), ("model", "llama;rm -r x")]
)
def test_a_name_that_this_program_does_not_have_is_no_command(column: str, name: str) -> None:
    needs = needs_of(unclear(**{column: name}), "linear_in_samples")
    assert needs.command is None
    assert f"no `{column}` called {name!r}: choose one with `{column}=`" in needs.message
    assert needs.settings
    assert needs.energy_kwh is not None


def test_what_a_record_says_of_its_model_is_a_command() -> None:
    words = "model=shape model.name='my llama 7B' model.shape.layers=2"
    needs = needs_of(unclear(model="my llama 7B", model_override=words), "linear_in_samples")
    assert words in str(needs.command)


def test_ranks_are_asked_for_in_the_method_of_the_runs() -> None:
    assert "method=qlora" in str(needs_of(runs(**LADDER | {"method": "qlora"}), "rank_effect").command)
    assert "method=lora" in str(needs_of(runs(**LADDER | {"method": "full", "rank": np.nan}), "rank_effect").command)


@pytest.mark.parametrize(("response", "column"), [("time", "train_s"), ("train", "energy_train_kwh")])
def test_no_runs_without_training_where_only_training_counts(response: str, column: str) -> None:
    frame = unclear()
    frame[column] = frame["energy_kwh"] * (3e4 if response == "time" else 1)
    assert "max_steps=0" in str(needs_of(frame, "linear_in_samples").command)
    assert "max_steps=0" not in str(needs_of(frame, "linear_in_samples", response).command)
    narrow = frame[frame["samples"] < 200]
    assert "max_steps=0" in str(needs_of(narrow, "linear_in_samples").command)
    needs = needs_of(narrow, "linear_in_samples", response)
    assert "max_steps=0" not in str(needs.command)
    assert "without training" not in needs.message


def test_the_run_that_is_named_is_the_one_that_is_repeated() -> None:
    """Its own batch size, length, data, settings and study; counted among its own repeats."""
    frame = runs(**LADDER | {"batch_size": 8.0, "max_seq_len": 256.0}).assign(settings_override="")
    other = frame.assign(run_id=lambda f: "other-" + f["run_id"], study="theirs", batch_size=2.0, max_seq_len=128.0)
    other = other.assign(settings_override="packing=true", energy_kwh=lambda f: 1.3 * f["energy_kwh"])
    both = pd.concat([frame, other[other["samples"].isin([32, 170, 2048])]], ignore_index=True)
    frame = table(both)
    row = frame[(frame["study"] == "theirs") & (frame["samples"] == 2048)].iloc[0]
    needs = repeat_needs(frame, row)
    assert needs.message.startswith(f"Repeat run {row['run_id']}")
    words = "samples=2048 epochs=1 model=ladder-1m data=synthetic method=lora lora.r=8 batch_size=2 max_seq_len=128"
    assert f"{words} packing=true study=theirs replicates=5" in str(needs.command)


def test_runs_of_another_study_do_not_count_among_the_repeats() -> None:
    frame = unclear()
    more = frame.assign(study="theirs", run_id=lambda f: "other-" + f["run_id"])[frame["replicate"] == 0]
    alone, both = (needs_of(each, "linear_in_samples") for each in (frame, pd.concat([frame, more])))
    for needs in (alone, both):
        for setting, command in zip(needs.settings, str(needs.command).split(" && "), strict=True):
            have = 0 if "max_steps" in setting or setting["samples"] > 256 else 3
            assert command.endswith(f"replicates={have + setting['runs']}")


def test_a_model_that_several_words_choose_has_its_own_cost() -> None:
    words = "model=smollm2-135m model.gguf_file=a.gguf"
    small, large = runs(**LADDER), runs(model="smollm2-135m", model_override=words, method="lora", rank=8.0)
    large["energy_kwh"] *= 20
    both = pd.concat([small.assign(model_override="model=ladder-1m"), large], ignore_index=True)
    frame = table(both.assign(run_id=[f"r{i}" for i in range(len(both))]))
    own = 3.2e-4 + 2e-5 * 100
    assert energy_line(frame, [words])(100) == pytest.approx(20 * own, rel=1e-6)
    assert energy_line(frame, ["model=ladder-1m"])(100) == pytest.approx(own, rel=1e-6)
    never = energy_line(table(runs(**LADDER)), [words])(100)
    assert never == pytest.approx(energy_line(table(runs(**LADDER)), ["model=smollm2-135m"])(100))


@pytest.mark.parametrize("value", [1.0, 1.01, 0.97, 0.9])
def test_the_runs_asked_for_decide_with_a_chance_of_80_per_cent(value: float) -> None:
    """20,000 estimates, each with a standard error of its own, of a truth inside the margin or outside."""
    n, se, options = 30, 0.03, Options()
    more = runs_needed(n, IntervalEstimate(value=value, se=se, df=1000), 0.95, 1.05, options)
    assert more is not None
    rng, then = np.random.default_rng(0), se * (n / (n + more)) ** 0.5
    values = value + then * rng.standard_normal(20000)
    errors = then * np.sqrt(rng.chisquare(1000, 20000) / 1000)
    due = "refuted" if value < 0.95 else "supported"
    share = np.mean(
        [
            equivalence(IntervalEstimate(value=v, se=e, df=1000), 0.95, 1.05, options)[0] == due
            for v, e in zip(values, errors, strict=True)
        ]
    )
    assert share == pytest.approx(0.8, abs=0.02)


def test_one_bound_alone_is_one_test() -> None:
    """n·((SE/SE*)² − 1) with SE* = distance/(t.95 + t.80), by hand for a thousand degrees of freedom."""
    wanted = 0.05 / (1.6464 + 0.8420)
    estimate = IntervalEstimate(value=1.0, se=0.06, df=1000)
    assert runs_needed(30, estimate, -np.inf, 1.05, Options()) == np.ceil(30 * ((0.06 / wanted) ** 2 - 1))
