"""Pilots: their arithmetic against known laws, and the real thing on this device."""
# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false, reportOperatorIssue=false

import dataclasses
import json
import math
import random
import statistics
import sys

import pytest

from lora_scaling.commands.estimate import main
from lora_scaling.config import compose
from lora_scaling.errors import OutOfMemory, UserError
from lora_scaling.estimate import estimate
from lora_scaling.estimate.pilot import PilotMeasurement, PilotPhase, PilotStep, scale_pilot
from lora_scaling.estimate.plan import make_plan
from lora_scaling.estimate.priors import load_priors
from lora_scaling.workload import Lengths
from tests.support.runs import TINY

BASE = (
    "model=llama-3.1-8b", "method=lora", "hardware=a100-80gb", "samples=20000", "data.tokens_per_sample=400",
    "max_seq_len=2048", "batch_size=4", "gradient_checkpointing=true", "eval_samples=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def base():
    return compose(BASE)


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
        device="NVIDIA A100-SXM4-80GB", kind="cuda", energy_source="fake", setup=PilotPhase(seconds=3, joules=60),
        warmup=None, train=PilotPhase(seconds=total, joules=total * watts), evaluation=PilotPhase(seconds=2, joules=50),
        steps=taken, whole_flops=2e12, whole_micro_steps=1000,
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
    from lora_scaling.estimate.pilot_run import run_pilot
    from lora_scaling.runs.run import run

    config = compose(
        ["samples=48", "batch_size=4", "epochs=3", "device=cpu", "eval_samples=4", "metering.idle_s=0",
         "data.tokens_per_sample=60",
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
    from lora_scaling.estimate.pilot_run import run_pilot

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
    assert answer.hardware == "NVIDIA A100-SXM4-80GB"
    assert any("pilot of" in text for text in answer.assumptions)


def test_a_pilot_on_one_device_says_nothing_of_several(base):
    several = dataclasses.replace(base, hardware=dataclasses.replace(base.hardware, count=8), gradient_accumulation=8)
    with pytest.raises(UserError, match=r"hardware\.count: got 8 with pilot=, which measures one device"):
        estimate(several, pilot=pilot_of(0.02, 2e-11, 30))


@pytest.mark.parametrize("hardware", ["h100-sxm", "apple-m1", "mi300x"])
def test_a_pilot_of_another_device_is_no_basis(base, hardware):
    elsewhere = compose([*BASE, f"hardware={hardware}"])
    with pytest.raises(UserError, match=rf"hardware: got {hardware} with pilot=, which measures NVIDIA A100"):
        estimate(elsewhere, pilot=pilot_of(0.02, 2e-11, 30))


def test_lengths_that_the_pilot_counted_stand_where_none_were_known():
    config = compose(["data=hub", "data.path=a/b", "samples=4", "max_seq_len=40", "hardware=a100-80gb"])
    with pytest.raises(UserError, match=r"`data\.tokens_per_sample` of a/b is unknown"):
        estimate(config)
    answer = estimate(config, pilot=dataclasses.replace(pilot_of(0.02, 2e-11, 30), lengths=(10, 20, 30, 60)))
    assert answer.work["tokens"] == 10 + 20 + 30 + 40
    assert answer.work["tokens_truncated"] == 20
    assert "30 tokens a sample, counted by the pilot" in answer.assumptions


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["grid.zone=QQ"], "grid.zone: got 'QQ'"),
        (["hardware.count=2"], "hardware.count: got 2 with pilot="),
        (["model=llama-3.1-70b", "method=full", "hardware=rtx-4090"], "more than the 24 GB of rtx-4090"),
        (["fit=/nowhere/fit.json"], "fit: got /nowhere/fit.json"),
    ],
)
def test_what_is_refused_is_refused_before_the_pilot(monkeypatch, capsys, overrides, words):
    monkeypatch.setitem(sys.modules, "lora_scaling.estimate.pilot_run", None)  # to measure would be to fail
    assert main(["pilot=60s", *overrides]) == 2
    assert words in capsys.readouterr().err


def test_a_pilot_measures_only_the_device_that_is_here(monkeypatch):
    pytest.importorskip("torch")
    from lora_scaling.estimate import pilot_run as pilot

    monkeypatch.setattr(pilot, "open_meter", None)  # refused before anything is measured
    with pytest.raises(UserError, match="hardware: got h100-sxm with pilot=, which measures "):
        pilot.run_pilot(compose(["hardware=h100-sxm", "device=cpu"]), 1.0)


def test_a_pilot_without_enough_memory_ends_in_a_sentence(monkeypatch):
    torch = pytest.importorskip("torch")
    from lora_scaling.estimate import pilot_run as pilot

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(pilot, "attach", full)
    with pytest.raises(OutOfMemory, match=r"ran out of memory with batch_size=4.*CUDA out of memory.*method=qlora"):
        pilot.run_pilot(compose([*TINY]), 1.0)


@pytest.mark.slow
def test_a_pilot_counts_the_samples_of_the_run():
    """Of synthetic samples the lengths are known: kept and cut tokens are as those say."""
    pytest.importorskip("torch")
    from lora_scaling.estimate.pilot_run import run_pilot

    config = compose([*TINY, "data.tokens_cv=0.8", "max_seq_len=32"])
    known = estimate(config).work
    counted = estimate(config, pilot=run_pilot(config, 0.5)).work
    for name in ("tokens", "tokens_truncated"):
        assert counted[name] == pytest.approx(known[name], rel=0.1)


def test_what_a_pilot_did_once_is_added_once(base):
    """Warm-up, and what training does before its first step: measured, not scaled; the window's mean power for both."""
    plan = make_plan(base, base.workload(Lengths((400,))), "bf16", load_priors())
    quiet = pilot_of(0.02, 2e-11, 30)
    steps_s = sum(step.seconds for step in quiet.steps)
    window = PilotPhase(seconds=steps_s + 5, joules=40 * (steps_s + 5))
    pilot = dataclasses.replace(quiet, train=window, warmup=PilotPhase(seconds=4, joules=100))
    scaled = scale_pilot(pilot, plan, 0.9)
    train_s = 5 + 1000 * 0.02 + 2e12 * 2e-11
    assert scaled.parts["train"].seconds == pytest.approx(train_s)
    assert scaled.parts["train"].energy_kwh * 3.6e6 == pytest.approx(40 * train_s)
    assert (scaled.parts["warmup"].seconds, scaled.parts["warmup"].energy_kwh * 3.6e6) == pytest.approx((4, 100))
    assert scaled.time_s.estimate == pytest.approx(3 + 4 + train_s + 2)
    assert scaled.energy_kwh.estimate * 3.6e6 == pytest.approx(60 + 100 + 40 * train_s + 50)


@pytest.mark.parametrize(
    ("kind", "exclusive", "sd"), [("cuda", True, 0.025), ("cpu", None, 0.065), ("cpu", False, 0.12)]
)
def test_the_interval_of_a_pilot_holds_what_runs_differ_by(base, kind, exclusive, sd):
    """Without noise in its steps: runs apart by `sd`, and a per cent for each factor e that the run is longer."""
    plan = make_plan(base, base.workload(Lengths((400,))), "bf16", load_priors())
    pilot = dataclasses.replace(pilot_of(0.02, 2e-11, 2000), kind=kind, exclusive=exclusive, whole_flops=1e14)
    scaled = scale_pilot(pilot, plan, 0.9)
    longer = scaled.parts["train"].seconds / pilot.train.seconds
    assert longer > 10
    spread = math.hypot(sd, 0.01 * math.log(longer))
    for figure in (scaled.time_s, scaled.energy_kwh):
        assert math.log(figure.high / figure.estimate) == pytest.approx(1.646 * spread, rel=0.01)
        assert math.log(figure.estimate / figure.low) == pytest.approx(1.646 * spread, rel=0.01)


STAND_IN = (*TINY, "model=ladder-1m", "model.weights=pretrained", "model.id=nobody/nothing", "samples=400")


@pytest.mark.slow
def test_random_weights_stand_in_for_those_that_are_not_here(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    from lora_scaling.estimate.pilot_run import run_pilot

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    config = compose(STAND_IN)
    pilot = run_pilot(config, 1.0)
    assert pilot.random_weights
    assert len(pilot.steps) >= 4
    assert any("random weights of the right shape" in text for text in estimate(config, pilot=pilot).assumptions)


@pytest.mark.slow
def test_a_shape_alone_suffices_for_a_pilot(monkeypatch, tmp_path):
    """A model of the hub of which only the config.json is here."""
    pytest.importorskip("torch")
    from lora_scaling.estimate.pilot_run import run_pilot

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    values = {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96,
        "num_attention_heads": 4, "vocab_size": 512,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = compose([*TINY, "model=hub", f"model.id={tmp_path}"])
    pilot = run_pilot(config, 0.5)
    assert pilot.random_weights
    assert estimate(config, pilot=pilot).work["params"] == 2 * 512 * 64 + 2 * (4 * 64**2 + 3 * 64 * 96 + 128) + 64


@pytest.mark.slow
def test_no_tokenizer_stands_in_for_that_of_real_samples(monkeypatch, tmp_path):
    """Bytes would be four times as many tokens as the run will have."""
    pytest.importorskip("torch")
    from lora_scaling.estimate.pilot_run import run_pilot

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    path = tmp_path / "samples.json"
    path.write_text(json.dumps([{"instruction": "Say it.", "output": "It is said."}] * 500))
    config = compose([*STAND_IN, "data=file", f"data.path={path}"])
    with pytest.raises(UserError, match=r"^pilot: needs the tokenizer of nobody/nothing, which is not here"):
        run_pilot(config, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("gradient_accumulation=2", "max_steps=5")])
def test_a_pilot_on_the_command_line_foretells_the_run(capsys, tmp_path, overrides):
    """A short one beside whatever else this machine does: within a factor 2 of the run, and said to be a pilot."""
    pytest.importorskip("torch")
    from lora_scaling.runs.run import run

    job = [*TINY, "model=ladder-1m", "samples=600", *overrides]
    assert main([*job, "pilot=2s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    record = run(compose([*job, f"runs_dir={tmp_path}"])).record
    assert record is not None
    assert record["status"] == "ok", record["error"]
    assert found["basis"] == "pilot"
    assert found["work"]["steps"] == record["work"]["steps"]
    assert any("pilot of" in text for text in found["assumptions"])
    train_s = next(phase["seconds"] for phase in record["energy"]["phases"] if phase["name"] == "train")
    assert found["parts"]["train"]["seconds"] == pytest.approx(train_s, rel=1.0)
    assert found["parts"]["train"]["seconds"] > 0.5 * train_s
    assert 0 < found["energy_kwh"]["low"] < found["energy_kwh"]["estimate"]
