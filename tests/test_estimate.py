"""Estimates through the public surface: the case study, physics that must hold, the pilot's arithmetic."""
# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false, reportOperatorIssue=false

import dataclasses
import json
import math
import random
import statistics
import time

import pytest

from lora_scaling.config import compose
from lora_scaling.errors import UserError
from lora_scaling.estimate import Price, estimate
from lora_scaling.estimate.compare import compare
from lora_scaling.estimate.pilot import Phase, PilotMeasurement, PilotStep, scale_pilot
from lora_scaling.estimate.plan import make_plan
from lora_scaling.estimate.priors import load_priors
from lora_scaling.estimate.shapes import shape_from_config, with_shape
from lora_scaling.estimate.validate import checks
from lora_scaling.workload import Lengths

BASE = (
    "model=llama-3.1-8b", "method=lora", "hardware=a100-80gb", "samples=20000", "data.tokens_per_sample=400",
    "max_seq_len=2048", "batch_size=4", "gradient_checkpointing=true", "eval_samples=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def base():
    return compose(BASE)


def kwh(config, **options):
    answer = estimate(config, **options)
    assert answer.energy_kwh is not None
    return answer.energy_kwh.estimate


def test_the_case_study_lies_inside_its_interval_and_fits_its_card():
    answer = estimate(compose(["+experiment=munin_skolegpt"]))
    assert answer.energy_kwh.low < 0.694 < answer.energy_kwh.high
    assert answer.time_s.low < 4 * 3600 < answer.time_s.high
    assert answer.energy_kwh.ratio < 6
    assert answer.memory.fits
    assert 150 < answer.power_w < 200  # 174 W were measured
    assert answer.basis == "priors"
    assert any("bytes a token" in text for text in answer.assumptions)


@pytest.mark.slow
def test_published_runs_are_covered_closely_and_not_by_width():
    found = checks()
    timed = [c for c in found if c.quantity != "peak, GB"]
    known = [c for c in timed if c.tokens_known]
    peaks = [c for c in found if c.quantity == "peak, GB"]
    assert statistics.fmean(c.inside for c in known) >= 0.8
    assert statistics.fmean(c.inside for c in timed) >= 0.8
    assert max(c.estimate.ratio for c in timed) <= 6
    assert math.exp(statistics.median(abs(math.log(c.ratio)) for c in timed)) < 1.5
    assert statistics.fmean(abs(c.ratio - 1) <= 0.2 for c in peaks) >= 0.8


def test_twice_the_samples_or_epochs_cost_twice_the_training(base):
    train = estimate(base).parts["train"]
    for change in ({"samples": 40000}, {"epochs": 2}):
        doubled = estimate(dataclasses.replace(base, **change)).parts["train"]
        assert doubled.seconds == pytest.approx(2 * train.seconds, rel=1e-3)
        assert doubled.energy_kwh == pytest.approx(2 * train.energy_kwh, rel=1e-3)


def test_methods_are_ordered_as_their_work_is():
    answers = {
        m: estimate(compose([*BASE, f"method={m}", "hardware=rtx-a4000", "batch_size=8"]))
        for m in ("lora", "qlora", "full")
    }
    assert answers["lora"].parts["train"].seconds < answers["qlora"].parts["train"].seconds
    assert answers["lora"].parts["train"].seconds < answers["full"].parts["train"].seconds
    peaks = {m: a.memory.peak_gb.estimate for m, a in answers.items()}
    assert peaks["qlora"] < peaks["lora"] < peaks["full"]


def test_rank_is_nearly_free_and_modules_are_not(base):
    def seconds(**changes):
        config = dataclasses.replace(base, lora=dataclasses.replace(base.lora, **changes), batch_size=1)
        return estimate(config).parts["train"].seconds

    few = seconds(r=8, target_modules=("q_proj",))
    assert seconds(r=16, target_modules=("q_proj",)) < 1.03 * few
    assert seconds(r=8, target_modules="all-linear") > 1.1 * few


def test_more_devices_are_faster_but_not_cheaper(base):
    many = dataclasses.replace(
        base, gradient_accumulation=8, hardware=dataclasses.replace(base.hardware, count=8), samples=80000
    )
    one = dataclasses.replace(many, hardware=base.hardware)
    single, eight = estimate(one), estimate(many)
    assert single.parts["train"].seconds / 8 <= eight.parts["train"].seconds < single.parts["train"].seconds / 6
    assert eight.parts["train"].energy_kwh >= 0.9 * single.parts["train"].energy_kwh
    assert any("DDP" in text for text in eight.assumptions)


SEVENTY = (
    "model=llama-3.1-70b", "method=full", "hardware=h100-sxm", "hardware.count=8", "batch_size=1",
    "gradient_accumulation=8", "gradient_checkpointing=true",
)  # fmt: skip


def test_seventy_billion_parameters_fit_eight_devices_where_the_run_shards_them():
    asked, unasked = estimate(compose([*SEVENTY, "sharding=fsdp"])), estimate(compose(SEVENTY))
    assert unasked.memory == asked.memory
    assert unasked.time_s == asked.time_s
    assert asked.memory.shards == 8
    assert asked.memory.fits
    assert any("FSDP" in text for text in asked.assumptions)
    [told] = set(unasked.assumptions) - set(asked.assumptions)
    assert told.endswith("ask for sharding=fsdp")


def test_what_the_run_cannot_split_is_not_promised_to_fit():
    whole = estimate(compose([*SEVENTY, "optimizer=adamw_8bit"]))
    assert whole.memory.shards == 1
    assert whole.memory.fits is False
    assert whole.memory.remedy.endswith("optimizer=adamw sharding=fsdp")
    assert whole.memory.peak_gb.estimate > 2 * 70.6  # 16-bit weights alone


def test_sharding_is_as_asked_also_where_the_model_would_fit():
    job = ["model=llama-3.2-1b", "hardware=a100-80gb", "gradient_accumulation=8"]
    whole, split, alone = (
        estimate(compose([*job, f"hardware.count={count}", f"sharding={sharding}"]))
        for count, sharding in ((8, "none"), (8, "fsdp"), (1, "fsdp"))
    )
    assert (whole.memory.shards, split.memory.shards, alone.memory.shards) == (1, 8, 1)
    assert split.memory.parts["weights"] == pytest.approx(whole.memory.parts["weights"] / 8)
    assert split.time_s.estimate > whole.time_s.estimate  # each layer is gathered for every pass
    assert any("needs two or more" in text for text in alone.assumptions)


def test_a_comparison_shards_the_methods_that_can_be():
    config = compose([*SEVENTY, "sharding=fsdp"])
    assert {name: answer.memory.shards for name, answer in compare(config, "method")} == {
        "lora": 8, "qlora": 1, "full": 8,
    }  # fmt: skip


def test_what_does_not_fit_says_by_how_much_and_what_would():
    memory = estimate(compose(["model=llama-2-7b", "method=full", "hardware=rtx-a4000"])).memory
    assert memory.fits is False
    assert memory.remedy is not None
    for words in ("GB more than the 16 GB of rtx-a4000", "method=qlora", "hardware="):
        assert words in memory.remedy


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["method=lora", "hardware=rtx-4090", "batch_size=8"], "gradient_checkpointing=true with batch_size=1"),
        (["method=full", "optimizer=adamw_8bit", "hardware=l40s"], "hardware.count=2 optimizer=adamw sharding=fsdp"),
        (
            ["method=full", "optimizer=adamw_8bit", "hardware=l40s", "hardware.count=4"],
            "optimizer=adamw sharding=fsdp",
        ),
        (["method=full", "hardware=rtx-4090", "hardware.count=2", "sharding=fsdp"], "hardware.count=16"),
        (
            ["method=qlora", "hardware=rtx-4060", "gradient_checkpointing=true"],
            "hardware.count=8 method=lora sharding=fsdp",
        ),
        (["method=full", "hardware=apple-m1-max"], "method=qlora"),
    ],
)
def test_what_the_remedy_names_does_fit(changes, named):
    """Each way out, given on the command line: none is refused by the run's own settings."""
    arguments = ["model=llama-3.1-8b", "max_seq_len=2048", "padding=max_length", "batch_size=1", *changes]
    remedy = estimate(compose(arguments)).memory.remedy
    assert remedy is not None
    options = remedy.rpartition("would fit: ")[2].split("; ")
    assert named in options
    for option in options:
        words = option.replace(" with ", " ").partition(" (")[0].split()
        assert estimate(compose([*arguments, *words])).memory.fits, option


def test_unknown_hardware_gives_memory_and_work_but_neither_time_nor_energy():
    answer = estimate(compose(["hardware=custom", "model=llama-3.1-8b"]))
    assert (answer.time_s, answer.energy_kwh, answer.emissions_g) == (None, None, None)
    assert "hardware.peak_tflops.bf16" in (answer.reason or "")
    assert answer.work["flops"] > 0
    assert answer.memory.peak_gb.estimate > 16
    sheet = ["hardware.peak_tflops.bf16=100", "hardware.bandwidth_gb_s=800", "hardware.board_power_w=250"]
    assert kwh(compose(["hardware=custom", "model=llama-3.1-8b", *sheet])) > 0


def test_a_run_of_no_steps_costs_all_but_its_training():
    whole = estimate(compose([*BASE, "eval_samples=16"]))
    answer = estimate(compose([*BASE, "max_steps=0", "eval_samples=16"]))
    assert answer.parts["train"].seconds == 0
    assert answer.parts["warmup"].seconds == pytest.approx(whole.parts["warmup"].seconds, rel=0.02)
    assert 0 < answer.parts["eval"].seconds < answer.time_s.estimate
    assert answer.time_s.estimate > 10


def test_grams_money_and_pue_follow_the_energy(base):
    grid = dataclasses.replace(base.grid, intensity_g_per_kwh=100.0, pue=1.5)
    answer = estimate(dataclasses.replace(base, grid=grid), price=Price(per_hour=2.0, per_kwh=0.5))
    assert answer.emissions_g.grams.estimate == pytest.approx(150 * answer.energy_kwh.estimate)
    money = 2 * answer.time_s.estimate / 3600 + 0.5 * answer.energy_kwh.estimate
    assert answer.cost.estimate == pytest.approx(money)


def test_a_provider_of_one_country_implies_it(base):
    implied, named, world = (
        estimate(compose([*BASE, *grid])).emissions_g for grid in (["grid.provider=uk"], ["grid.zone=GB"], [])
    )
    assert implied.g_per_kwh == named.g_per_kwh != world.g_per_kwh
    assert "United Kingdom" in implied.definition


def test_intervals_widen_with_the_level_and_hold_the_estimate(base):
    widths = [estimate(base, level=level).energy_kwh.ratio for level in (0.5, 0.8, 0.9, 0.99)]
    assert widths == sorted(widths)
    answer = estimate(base)
    assert answer.energy_kwh.low < answer.energy_kwh.estimate < answer.energy_kwh.high
    assert sum(answer.drivers.values()) == pytest.approx(1, abs=0.05)


def test_every_prior_says_what_it_was_set_from():
    from lora_scaling.estimate.priors import PRIORS_PATH

    constants = json.loads(PRIORS_PATH.read_text())["constants"]
    assert all(entry["set_from"] and entry["log_sd"] >= 0 for entry in constants.values())


def test_one_configuration_takes_milliseconds(base):
    estimate(base)
    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        estimate(base)
        best = min(best, time.perf_counter() - start)
    assert best < 0.02


def test_lengths_come_from_the_file_when_there_is_one(tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [{"instruction": "æ" * 270, "output": "b" * 540} for _ in range(20)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    config = compose(["data=file", f"data.path={path}", "hardware=t4", "samples=20", "max_seq_len=2048"])
    assert estimate(config).work["tokens"] == pytest.approx(20 * 1080 / 2.7, rel=0.01)  # not English: 2.7 bytes
    with pytest.raises(UserError, match=r"`data.path` was .*none.json, which cannot be read"):
        estimate(compose(["data=file", "data.path=none.json", "hardware=t4"]))


def test_a_shape_is_read_from_a_folder_and_refused_where_it_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    values = {
        "model_type": "qwen2", "num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    known = compose(["model=qwen2.5-0.5b"]).model.shape
    found = with_shape(compose(["model=hub", f"model.id={tmp_path}"]).model).shape
    assert found.params == known.params
    with pytest.raises(UserError, match="cannot be fetched"):
        with_shape(compose(["model=hub", "model.id=nobody/nothing"]).model)
    with pytest.raises(UserError, match="architecture 'gpt2'"):
        shape_from_config({"model_type": "gpt2"}, "gpt2")


def pilot_of(per_pass, per_flop, steps, watts=30.0, noise=0.0, seed=0):
    """A pilot on a device with a known law, drawn from steps of very different lengths."""
    draw = random.Random(seed)
    taken = []
    for _ in range(steps):
        flops = draw.uniform(1e9, 5e9)
        seconds = (per_pass + per_flop * flops) * math.exp(draw.gauss(0, noise))
        taken.append(PilotStep(seconds=seconds, micro_steps=1, flops=flops))
    total = sum(step.seconds for step in taken)
    return PilotMeasurement(
        device="fake", kind="cuda", energy_source="fake", setup=Phase(seconds=3, joules=60), warmup=None,
        train=Phase(seconds=total, joules=total * watts), evaluation=Phase(seconds=2, joules=50), steps=taken,
        whole_flops=2e12, whole_micro_steps=1000,
    )  # fmt: skip


@pytest.mark.parametrize(("per_pass", "per_flop"), [(0.05, 0.0), (0.0, 1e-11), (0.02, 2e-11)])
def test_a_pilot_recovers_a_known_law_exactly(base, per_pass, per_flop):
    plan = make_plan(base, base.workload(Lengths((400,))), "bf16", load_priors())
    pilot = pilot_of(per_pass, per_flop, 20)
    scaled = scale_pilot(pilot, plan, 0.9)
    train = 1000 * per_pass + 2e12 * per_flop
    assert scaled.parts["train"].seconds == pytest.approx(train)
    assert scaled.time_s.estimate == pytest.approx(train + 3 + 2)
    assert scaled.energy_kwh.estimate * 3.6e6 == pytest.approx(30 * train + 60 + 50)
    assert scaled.extrapolates[0]["factor"] > 10


def test_a_pilots_intervals_cover_noisy_devices(base):
    plan = make_plan(base, base.workload(Lengths((400,))), "bf16", load_priors())
    truth = 1000 * 0.02 + 2e12 * 2e-11 + 5
    covered, errors = 0, []
    for seed in range(100):
        found = scale_pilot(pilot_of(0.02, 2e-11, 40, noise=0.05, seed=seed), plan, 0.9).time_s
        covered += found.low <= truth <= found.high
        errors.append(abs(found.estimate / truth - 1))
    assert covered >= 90
    assert statistics.median(errors) < 0.02


def test_a_pilot_beside_other_processes_is_trusted_less(base):
    quiet = pilot_of(0.02, 2e-11, 30)
    shared = dataclasses.replace(quiet, exclusive=False)
    answers = [estimate(base, pilot=pilot) for pilot in (quiet, shared)]
    assert answers[1].energy_kwh.ratio > 1.3 * answers[0].energy_kwh.ratio
    assert any("other processes" in text for text in answers[1].assumptions)


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [True, False])
def test_a_pilot_scales_by_the_work_that_the_run_then_does(tmp_path, grouped):
    pytest.importorskip("torch")
    from lora_scaling.running import run
    from lora_scaling.training.pilot import run_pilot

    config = compose(
        ["samples=48", "batch_size=4", "epochs=3", "device=cpu", "eval_samples=4", "metering.idle_s=0",
         f"group_by_length={grouped}", f"runs_dir={tmp_path}"]
    )  # fmt: skip
    pilot = run_pilot(config, 1.0)
    record = run(config).record
    assert record is not None
    work = record["work"]
    assert pilot.whole_micro_steps == work["micro_steps"] == 36
    assert pilot.whole_flops == pytest.approx(work["flops"], rel=0.02)
    assert pilot.evaluation is not None


@pytest.mark.slow
def test_a_pilot_of_a_tiny_run_measures_this_device():
    pytest.importorskip("torch")
    from lora_scaling.training.pilot import run_pilot

    config = compose(["samples=4000", "batch_size=4", "device=cpu", "eval_samples=4", "max_seq_len=64"])
    pilot = run_pilot(config, 3.0)
    assert len(pilot.steps) >= 4
    assert 0 < sum(step.seconds for step in pilot.steps) <= pilot.train.seconds
    planned = config.workload(Lengths((40,))).micro_steps
    assert pilot.whole_micro_steps == planned
    answer = estimate(config, pilot=pilot)
    assert answer.basis == "pilot"
    assert answer.extrapolates[0]["factor"] > 5


def test_the_answer_says_that_it_rests_on_the_pilot(base):
    answer = estimate(base, pilot=pilot_of(0.02, 2e-11, 30))
    assert answer.basis == "pilot"
    assert answer.hardware == "fake"
    assert any("pilot of" in text for text in answer.assumptions)
