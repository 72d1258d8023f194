"""Software stacks, measured speeds, and devices that have no preset."""
# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false, reportOperatorIssue=false

import dataclasses
import json
import math
import statistics
import time

import pytest

from lora_scaling.commands.estimate import main
from lora_scaling.config import compose
from lora_scaling.config.devices import preset
from lora_scaling.errors import UserError
from lora_scaling.estimate import estimate
from lora_scaling.estimate.measured import Measured, earlier_run, parse_measured
from lora_scaling.estimate.priors import load_priors
from lora_scaling.workload import Batching, Lengths
from lora_scaling.workload.lengths import _grouped_maximum
from tests.support.paths import STUDY_RUNS

BASE = (
    "model=llama-3.1-8b", "method=lora", "hardware=a100-80gb", "samples=2000", "data.tokens_per_sample=400",
    "data.tokens_cv=0", "max_seq_len=1024", "batch_size=4", "eval_samples=0", "gradient_checkpointing=true",
)  # fmt: skip
SEVENTY = (
    "model=llama-2-70b", "method=lora", "sharding=fsdp", "hardware.count=8", "gradient_accumulation=8", "batch_size=1",
    "max_seq_len=4096", "data.tokens_per_sample=4096", "data.tokens_cv=0", "samples=800", "eval_samples=0",
)  # fmt: skip


def train_s(*words, **options):
    return estimate(compose(words), **options).parts["train"].seconds


def test_a_stack_multiplies_the_time_of_training_and_no_stack_is_this_program_s():
    levels = {name: stack.software for name, stack in load_priors().stacks.items()}
    assert set(levels) == {"hf", "unsloth", "torchtune", "litgpt", "llm-foundry", "megatron", "other"}
    assert train_s(*BASE) == train_s(*BASE, stack="hf")
    for name, level in levels.items():
        assert train_s(*BASE, stack=name) / train_s(*BASE) == pytest.approx(
            level / levels["hf"], rel=0.05
        )  # unsloth moves fewer logits, and less between the layers
    with pytest.raises(UserError, match=r"^stack: got 'axolot'; choose one of hf, "):
        estimate(compose(BASE), stack="axolot")


def test_a_stranger_s_time_and_energy_stay_within_a_factor_six():
    answer = estimate(compose(BASE), stack="other")
    assert answer.time_s.ratio < 6
    assert answer.energy_kwh.ratio < 6
    assert answer.power_w == pytest.approx(estimate(compose(BASE), stack="hf").power_w, rel=0.05)


TOKENS, STEPS = 2000 * 400, 500


@pytest.mark.parametrize(
    ("text", "step_s"),
    [
        ("3200 tokens/s", TOKENS / STEPS / 3200),
        ("tokens/s=3200", TOKENS / STEPS / 3200),
        ("1e3tok/s/GPU", TOKENS / STEPS / 1000),
        ("0.9 s/step", 0.9),
        ("1.25 it/s", 0.8),
        ("8 samples/s", 0.5),
        ("3.2k tokens per second", 0.5),
        ("train_samples_per_second: 8", 0.5),
        ("480 samples/min", 0.5),
        ("0.125 s/sample", 0.5),
        ("500 ms/iter", 0.5),
        ("4 min", 240 / STEPS),
        ("62.4 TFLOP/s/GPU", None),
        ("mfu: 0.2", None),
        ("20 % MFU", None),
    ],
)
def test_a_measured_speed_takes_the_place_of_the_stack(text, step_s):
    answer = estimate(compose(BASE), measured=text)
    assert answer.basis == "measured"
    if step_s is None:
        step_s = answer.work["model_flops"] / STEPS / (0.2 * 312e12)
    assert answer.parts["train"].seconds == pytest.approx(STEPS * step_s)
    assert answer.time_s.ratio < 1.6
    assert answer.energy_kwh.ratio < 2.5
    assert train_s(*BASE, measured=text, stack="unsloth") == pytest.approx(STEPS * step_s)


def test_a_speed_measured_in_other_settings_is_scaled_and_less_certain():
    words = ["samples=4000", "batch_size=8"]
    there = train_s(*BASE)
    text = f"{there / STEPS} s/step @ samples=2000 batch_size=4"
    measured = earlier_run(parse_measured(text), [*BASE, *words])
    answer = estimate(compose([*BASE, *words]), measured=measured)
    assert answer.parts["train"].seconds == pytest.approx(train_s(*BASE, *words))
    assert 1.6 < answer.time_s.ratio < 2.5
    assert measured.config == compose([*BASE, "samples=2000", "batch_size=4"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fast", "give a number with its unit"),
        ("2300", "give a number with its unit"),
        ("2,300 tokens/s", "without commas"),
        ("0 tokens/s", "above 0"),
        ("130 % MFU", "above 0"),
        ("3 min/epoch", "give a number with its unit"),
        ("2300 tokens per furlong", "give a number with its unit"),
        ("90000000 tokens/s", "times the peak of a100-80gb"),
        ("1 s/step @ batch_size=2", "settings after @"),
    ],
)
def test_a_measured_speed_that_cannot_be_is_one_sentence(text, words):
    with pytest.raises(UserError, match=rf"^measured: got .*{words}"):
        estimate(compose(BASE), measured=text)


def test_a_speed_that_skips_half_of_the_attention_is_no_mistake():
    """LLaMA-Factory with Unsloth: 4,050 tokens/s in rows of 16,384, more than the peak if all scores are counted."""
    job = ["model=llama-2-7b", "method=qlora", "hardware=a100-40gb", "batch_size=1", "gradient_accumulation=4",
           "gradient_checkpointing=true", "max_seq_len=16384", "data.tokens_per_sample=16384", "data.tokens_cv=0",
           "samples=400", "eval_samples=0"]  # fmt: skip
    answer = estimate(compose(job), measured="4050 tokens/s", stack="unsloth")
    assert answer.parts["train"].seconds == pytest.approx(400 * 16384 / 4050)


def test_a_record_is_a_measured_run(capsys):
    path = next(p for p in sorted(STUDY_RUNS.glob("linear/*-s512-e1-*/run.json"))
                if json.loads(p.read_text())["status"] == "ok")  # fmt: skip
    record = json.loads(path.read_text())
    measured = parse_measured(str(path.parent))
    train = next(phase for phase in record["energy"]["phases"] if phase["name"] == "train")
    assert measured.value == pytest.approx(train["seconds"] / record["work"]["steps"])
    joules = sum(part["joules"] or 0.0 for part in train["components"].values())
    assert measured.joules_per_step == pytest.approx(joules / record["work"]["steps"])
    assert (measured.config.samples, measured.config.lora.r) == (512, record["config"]["lora"]["r"])
    assert main([*BASE, "measured=3200 tokens/s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["basis"] == "measured"


def test_a_renamed_preset_is_the_same_device():
    for name in ("b200", "rtx-3090", "apple-m1-max", "a100-40gb"):
        words = [w for w in SEVENTY if not w.startswith("model=")] + ["model=llama-3.2-1b", f"hardware={name}"]
        one, other = (estimate(compose([*words, *more])) for more in ([], ["hardware.name=b300"]))
        assert (one.time_s, one.energy_kwh, one.memory.peak_gb) == (
            other.time_s,
            other.energy_kwh,
            other.memory.peak_gb,
        )


def test_an_unknown_link_is_said_and_wide_and_can_be_given():
    sheet = ["hardware=b200", "hardware.link_gb_s=null"]
    unknown, known = estimate(compose([*SEVENTY, *sheet])), estimate(compose([*SEVENTY, "hardware=b200"]))
    assert any("the link between devices is unknown" in text for text in unknown.assumptions)
    assert not any("link" in text for text in known.assumptions)
    assert unknown.time_s.ratio >= known.time_s.ratio
    assert 0.5 < unknown.time_s.estimate / known.time_s.estimate < 2
    slow = estimate(compose([*SEVENTY, "hardware=b200", "hardware.link_gb_s=3"]))
    assert slow.time_s.estimate > 10 * known.time_s.estimate
    apart = estimate(compose([*SEVENTY, "hardware=a100-80gb", "hardware.count=16", "gradient_accumulation=16",
                              "hardware.network_gb_s=null"]))  # fmt: skip
    assert any("the network between machines of 8 devices is unknown" in text for text in apart.assumptions)


def test_fp8_makes_the_layers_matrices_faster_and_nothing_else():
    job = [*SEVENTY, "hardware=h100-sxm"]
    half, eight = (estimate(compose([*job, f"precision={p}"])) for p in ("bf16", "fp8"))
    faster = half.parts["train"].seconds / eight.parts["train"].seconds
    assert 1.2 < faster < 1402.6 / 794.5
    assert eight.memory == half.memory
    refused = estimate(compose([*job, "hardware=a100-80gb", "precision=fp8"]))
    assert refused.time_s is None
    assert "peak_tflops.fp8 of a100-80gb unknown: give precision=bf16" in refused.reason


@pytest.mark.parametrize(
    "setting",
    ["bandwidth_gb_s=1e-9", "memory_gb=1e9", "peak_tflops.bf16=1e9", "board_power_w=1e-6", "link_gb_s=0",
     "matmul_share.bf16=1.2", "devices_per_node=0", "idle_power_w=1000"],
)  # fmt: skip
def test_an_absurd_sheet_is_refused(setting):
    name = setting.partition("=")[0]
    with pytest.raises(UserError, match=rf"^hardware\.{name}: got .*; give "):
        compose([*BASE, f"hardware.{setting}"])


def test_the_few_tokens_that_fill_a_device_follow_its_balance():
    """An M1 Max has 26 FLOPs a byte and an L40S 419: the former computes short rows at nearly its full rate."""

    def slowdown(name):
        words = [w for w in BASE if not w.startswith(("hardware", "model", "data", "batch"))]
        few, many = (
            train_s(*words, "model=llama-3.2-3b", f"hardware={name}", f"data.tokens_per_sample={n}", "batch_size=1")
            for n in (64, 1024)
        )
        return 16 * few / many

    assert slowdown("apple-m1-max") < 0.6 * slowdown("l40s")


@pytest.mark.parametrize(
    ("chip", "model", "rows", "speed"),
    [("apple-m2-ultra", "llama-2-7b", 4, 475), ("apple-m1-max", "mistral-7b", 1, 250)],
)
def test_short_rows_on_apple_chips_are_within_a_factor_of_two(chip, model, rows, speed):
    """The README of mlx-examples, WikiSQL at about 100 tokens a sample; adapters in a part of the layers."""
    seconds = train_s(f"model={model}", "method=lora", "lora.target_modules=[q_proj,v_proj]", f"hardware={chip}",
                      "precision=fp16", f"batch_size={rows}", "samples=400", "data.tokens_per_sample=100",
                      "data.tokens_cv=0.3", "eval_samples=0", "warmup_steps=0", stack="other")  # fmt: skip
    assert 0.5 < 40000 / seconds / speed < 2


QLORA_PAPER = (
    "method=qlora", "lora.r=64", "batch_size=1", "gradient_accumulation=16", "max_seq_len=512", "padding=max_length",
    "gradient_checkpointing=true", "model=shape", "model.weights=pretrained",
)  # fmt: skip
SIZES = {
    "33b": (60, 6656, 17920, 52, "rtx-3090"),
    "65b": (80, 8192, 22016, 64, "rtx-a6000"),
}


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"])
@pytest.mark.parametrize("size", SIZES)
def test_the_headline_runs_of_the_qlora_paper_fit(size, optimizer):
    layers, hidden, middle, heads, device = SIZES[size]
    shape = [f"model.shape.layers={layers}", f"model.shape.hidden_size={hidden}", f"model.shape.heads={heads}",
             f"model.shape.intermediate_size={middle}"]  # fmt: skip
    memory = estimate(compose([*QLORA_PAPER, *shape, f"hardware={device}", f"optimizer={optimizer}"])).memory
    assert memory.fits
    assert memory.allocated_gb < memory.peak_gb.estimate


def test_the_case_study_lies_inside_with_and_without_its_stack():
    """Just under 4 h, 0.694 kWh, 14.8 GB reserved; Unsloth made it."""
    for stack in ("hf", "unsloth", "other"):
        answer = estimate(compose(["+experiment=munin_skolegpt"]), stack=stack)
        peak = answer.memory.peak_gb
        assert answer.time_s.low < 4 * 3600 < answer.time_s.high
        assert answer.energy_kwh.low < 0.694 < answer.energy_kwh.high
        assert peak.low < 14.8 < peak.high
        assert max(answer.time_s.ratio, answer.energy_kwh.ratio) < 6


def test_4_bit_weights_split_over_devices_are_estimated():
    """Answer.AI's runs of QLoRA with FSDP, of 1,024 rows of 2,048 tokens on cards of 24 to 80 GB: seconds."""
    job = ["method=qlora", "sharding=fsdp", "lora.r=64", "samples=1024", "max_seq_len=2048", "eval_samples=0",
           "warmup_steps=0", "data.tokens_per_sample=2048", "data.tokens_cv=0", "gradient_checkpointing=true",
           "precision=bf16"]  # fmt: skip
    measured = (
        ("llama-2-7b", "rtx-3090", 2, 4, 998), ("llama-2-7b", "rtx-4090", 2, 10, 466),
        ("llama-2-70b", "rtx-a5000", 4, 1, 4829), ("llama-2-70b", "h100-sxm", 4, 8, 667),
    )  # fmt: skip
    for model, device, count, rows, seconds in measured:
        words = [f"model={model}", f"hardware={device}", f"hardware.count={count}", f"batch_size={rows}",
                 f"gradient_accumulation={count}"]  # fmt: skip
        answer = estimate(compose([*job, *words]), stack="other")
        assert answer.memory.fits
        assert answer.memory.shards == count
        assert answer.time_s.low < seconds < answer.time_s.high
        assert any("does not run 4-bit weights that are split" in text for text in answer.assumptions)
    alone = estimate(compose([*job, "model=llama-2-70b", "hardware=rtx-a5000", "sharding=none"]))
    assert not alone.memory.fits


def test_liger_and_unsloth_hold_no_whole_logits():
    """Llama-3's vocabulary of 128,256 at 12 bytes: 12.6 GB for two rows of 4,096 tokens."""
    job = [*BASE, "max_seq_len=4096", "padding=max_length", "batch_size=2"]
    whole, liger = estimate(compose(job)), estimate(compose([*job, "use_liger_kernel=true"]))
    assert whole.memory.parts["logits"] == pytest.approx(12 * 128256 * 8192 / 1e9)
    assert liger.memory.parts["logits"] < 0.1 * whole.memory.parts["logits"]
    lean = estimate(compose(job), stack="unsloth").memory.parts  # which waits in the host's memory with what it keeps
    kept = 2 * 4096 * 8192 / 1e9  # bytes of a layer's input in 16 bit
    assert liger.memory.parts["activations"] - lean["activations"] == pytest.approx(30 * kept)
    assert {**lean, "activations": 0} == {**liger.memory.parts, "activations": 0}


def test_the_peak_of_an_unknown_stack_reaches_down_to_that_of_one_without_logits():
    """torchtune's QLoRA of Llama-3.1-8B on an RTX 4090: 7.9 GB active, of which whole logits alone would be 6.3."""
    job = ["model=llama-3.1-8b", "method=qlora", "hardware=rtx-4090", "batch_size=2", "max_seq_len=2048",
           "data.tokens_per_sample=2048", "data.tokens_cv=0", "gradient_checkpointing=true", "samples=100"]  # fmt: skip
    known, unknown, own = (estimate(compose(job), stack=stack).memory.peak_gb for stack in ("hf", "other", "torchtune"))
    assert unknown.low < 7.9 < known.low
    assert (unknown.estimate, unknown.high) == (known.estimate, known.high)
    assert own.low < 7.9 < own.high


def test_a_ring_over_machines_uses_the_adapters_of_all_their_devices():
    """MPT-13B on 8 to 64 H100 takes as long a token; two rows a GPU leave little time to send its weights."""
    job = ["model=llama-2-13b", "method=full", "pure_bf16=true", "hardware=h100-sxm", "sharding=fsdp", "batch_size=2",
           "max_seq_len=2048", "data.tokens_per_sample=2048", "data.tokens_cv=0", "eval_samples=0"]  # fmt: skip

    def seconds(count, *more):
        words = [f"hardware.count={count}", f"gradient_accumulation={count}", f"samples={200 * count}", *more]
        return train_s(*job, *words)

    assert seconds(64) < 1.2 * seconds(8)
    assert seconds(64, "hardware.network_gb_s=1") > 3 * seconds(64)
    assert seconds(64, "hardware.network_gb_s=1000") == pytest.approx(seconds(8), rel=0.05)  # no faster than inside


def test_every_device_s_measured_products_are_below_its_peak():
    for name in ("a100-80gb", "h100-sxm", "b200", "mi300x", "gh200"):
        share = preset(name).matmul_share["bf16"]
        assert share is not None
        assert 0.4 < share < 0.9
    assert math.isclose(preset("a100-80gb").matmul_share["bf16"] * 312, 271.2, rel_tol=1e-3)


def test_more_work_takes_longer():
    base = compose(BASE)
    seconds = [
        estimate(config).time_s.estimate
        for config in (
            base, dataclasses.replace(base, samples=3000), dataclasses.replace(base, samples=3000, epochs=2),
            compose([*BASE, "samples=3000", "epochs=2", "lora.r=64"]),
            compose([*BASE, "samples=3000", "epochs=2", "lora.r=64", "data.tokens_per_sample=700"]),
            compose([*BASE, "samples=3000", "epochs=2", "lora.r=64", "data.tokens_per_sample=700",
                     "model=llama-2-13b"]),
        )
    ]  # fmt: skip
    assert seconds == sorted(seconds)
    assert isinstance(Measured(text="1 s/step", unit="s_per_step", value=1.0), Measured)


def test_the_largest_layouts_take_no_longer_than_small_ones():
    """Fifty batches of a million rows are sorted together; their quantiles are counted, not listed."""
    start = time.perf_counter()
    answer = estimate(compose([*BASE, "data.tokens_cv=0.8", "batch_size=1000000", "samples=10000000000"]))
    assert time.perf_counter() - start < 5
    assert answer.work["tokens_padded"] >= 0


def test_lengths_sorted_together_are_those_of_a_list_of_all_draws():
    values = tuple(round(10 * 1.01**i) for i in range(300))
    batch, mega = 40, 50
    size = batch * mega
    drawn = [values[min(299, int((i + 0.5) / size * 300))] for i in range(size)]
    tops = drawn[batch - 1 :: batch]
    length, square = _grouped_maximum(values, batch, mega)
    assert length == pytest.approx(statistics.fmean(values) + statistics.fmean(tops) - statistics.fmean(drawn))
    squared = [statistics.fmean(x * x for x in xs) for xs in (values, tops, drawn)]
    assert square == pytest.approx(squared[0] + squared[1] - squared[2])


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_padding_is_never_negative(rows):
    for cv in (0, 0.3, 2.0):
        stats = Lengths.lognormal(37.3, cv).statistics(Batching(batch_size=rows, max_seq_len=64, group_by_length=True))
        assert stats.padding >= 0


def test_a_sample_of_half_a_token_is_refused():
    with pytest.raises(UserError, match=r"^data\.tokens_per_sample: got 0\.5 .*give a mean of 1 or more"):
        estimate(compose([*BASE, "data.tokens_per_sample=0.5"]))


def test_a_comparison_names_its_device_and_keeps_the_interval_of_memory(capsys):
    assert main([*BASE, "compare=method", "stack=unsloth"]) == 0
    said = capsys.readouterr().out
    assert "on a100-80gb, compared by method" in said
    peak = estimate(compose(BASE), stack="unsloth").memory.peak_gb
    assert f"{peak.estimate:.3g} ({peak.low:.3g} … {peak.high:.3g})" in said


def test_a_speed_of_this_run_scales_its_alternatives_and_sweeps_need_to_know_of_which(capsys):
    job = [*BASE, "measured=3200 tokens/s"]
    assert main([*job, "compare=method:lora,full", "--json"]) == 0
    rows = {row["label"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["lora"]["parts"]["train"]["seconds"] == pytest.approx(TOKENS / 3200)
    assert rows["full"]["parts"]["train"]["seconds"] > 1.2 * TOKENS / 3200
    assert main(["-m", *job, "lora.r=8,16"]) == 2
    assert "for a sweep; of which run?" in capsys.readouterr().err
    words = [w for w in BASE if not w.startswith("lora")]
    assert main(["-m", *words, "lora.r=8,16", "measured=0.9 s/step @ lora.r=8", "--json"]) == 0
    assert [run["basis"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["measured", "measured"]
