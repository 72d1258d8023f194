"""The contract's words on the command line: overrides, groups, what names a run, and one value for each default."""

import dataclasses
from operator import attrgetter

import pytest

from lora_scaling.config import RunConfig, compose, run_id
from lora_scaling.energy import MeteringSettings
from lora_scaling.estimate import estimate
from lora_scaling.grid import GridSettings
from lora_scaling.paths import choices

# As the contract lists them, word by word; `ladder-*` and the Qwen sizes written out.
MODELS = """
    ladder-1m ladder-3m ladder-10m ladder-30m ladder-100m smollm2-135m smollm2-360m smollm2-1.7b
    llama-3.2-1b llama-3.2-3b llama-3.1-8b llama-3.1-70b llama-2-7b llama-2-13b llama-2-70b mistral-7b munin-7b
    qwen2.5-0.5b qwen2.5-1.5b qwen2.5-3b qwen2.5-7b qwen2.5-14b qwen2.5-32b qwen2.5-72b hub
"""

# One change of each setting. Those below determine the work of a run, …
WORK = (
    "samples=257", "epochs=2", "max_steps=3", "batch_size=4", "gradient_accumulation=2", "max_seq_len=128",
    "padding=max_length", "group_by_length=false", "packing=true", "loss_on=all", "chat_template=false",
    "precision=fp32", "pure_bf16=true method=full", "attn_implementation=eager",
    "gradient_checkpointing=true", "optimizer=adamw_8bit", "use_liger_kernel=true", "torch_compile=true",
    "learning_rate=0.01",
    "lr_scheduler=linear", "weight_decay=0.1", "max_grad_norm=2.0", "eval_samples=4", "warmup_steps=3", "device=cpu",
    "seed=1", "replicate=1", "model=ladder-3m", "model.weights=pretrained", "method=full", "method=qlora",
    "lora.r=4", "lora.alpha=8", "lora.dropout=0.1", "lora.target_modules=q_proj", "lora.use_dora=true",
    "data=skolegpt", "data.seed=1",
    "data.tokens_per_sample=64", "data.tokens_cv=0.1", "sharding=fsdp",
)  # fmt: skip
# … these only how and where it is measured, kept and paid for.
NOT_WORK = (
    "warmup_run=false", "objective=eval_loss",
    "hardware=t4", "metering.interval_s=2.0", "grid.zone=DK1", "study=other", "runs_dir=elsewhere",
    "on_existing=rerun", "replicates=2", "order=3", "order_seed=1", "reuse=false", "exclusive_device=false",
    "cooldown_s=1.0", "max_kwh=1.0", "max_hours=1.0", "session=job-1", "save_adapter=true",
    "resume=auto", "checkpoint_minutes=5 resume=auto", "score=none",
    "report_to=mlflow", "report_to=[wandb,tensorboard]",
)  # fmt: skip


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("samples=33", "samples", 33),
        ("epochs=3", "epochs", 3),
        ("model=llama-2-7b", "model.name", "llama-2-7b"),
        ("method=qlora", "method.name", "qlora"),
        ("lora.r=5", "lora.r", 5),
        ("lora.alpha=3", "lora.alpha", 3.0),
        ("lora.target_modules=[q_proj,v_proj]", "lora.target_modules", ("q_proj", "v_proj")),
        ("data=skolegpt", "data.name", "skolegpt"),
        ("data.tokens_per_sample=70.5", "data.tokens_per_sample", 70.5),
        ("data.tokens_per_sample=null", "data.tokens_per_sample", None),
        ("max_seq_len=99", "max_seq_len", 99),
        ("batch_size=3", "batch_size", 3),
        ("gradient_accumulation=6", "gradient_accumulation", 6),
        ("hardware=h200", "hardware.name", "h200"),
        ("hardware=auto", "hardware.name", "auto"),
        ("hardware.count=4", "hardware.count", 4),
        ("precision=fp16", "precision", "fp16"),
        ("gradient_checkpointing=true", "gradient_checkpointing", True),
        ("grid.zone=DK1", "grid.zone", "DK1"),
        ("seed=5", "seed", 5),
        ("replicate=2", "replicate", 2),
        ("study=mine", "study", "mine"),
        ("runs_dir=/elsewhere", "runs_dir", "/elsewhere"),
        ("on_existing=rerun", "on_existing", "rerun"),
        ("+experiment=munin_skolegpt", "model.name", "munin-7b"),
    ],
)
def test_every_main_override_reaches_its_setting(override: str, path: str, value: object) -> None:
    assert attrgetter(path)(compose([override])) == value


def test_every_model_and_method_of_the_contract_is_listed() -> None:
    assert set(MODELS.split()) <= set(choices("model"))
    assert choices("method") == ["full", "lora", "qlora"]


def test_every_setting_either_names_the_run_or_is_known_not_to() -> None:
    """A setting that nobody placed would let two different runs share a record, or one run be made twice."""
    settings = {field.name for field in dataclasses.fields(RunConfig)}
    assert {override.partition("=")[0].partition(".")[0] for override in (*WORK, *NOT_WORK)} == settings


@pytest.mark.parametrize("override", WORK)
def test_what_determines_the_work_names_the_run(override: str) -> None:
    assert run_id(compose(override.split())) != run_id(compose([]))


@pytest.mark.parametrize("override", NOT_WORK)
def test_what_does_not_determine_the_work_leaves_the_name(override: str) -> None:
    assert run_id(compose(override.split())) == run_id(compose([]))


def test_an_estimate_takes_every_override_of_a_run() -> None:
    for override in (*WORK, *NOT_WORK):
        assert estimate(compose(["hardware=rtx-4090", *override.split()])).energy_kwh is not None, override


def test_checkpointing_is_more_work_and_no_more_use() -> None:
    """A second forward pass: half as much again where adapters are trained. Utilisation counts the first one only."""
    job = ["model=llama-3.1-8b", "hardware=a100-80gb", "data.tokens_per_sample=200"]
    plain, again = (estimate(compose([*job, f"gradient_checkpointing={flag}"])) for flag in ("false", "true"))
    assert plain.work["model_flops"] == plain.work["flops"]
    assert again.work["flops"] == pytest.approx(1.5 * plain.work["flops"], rel=0.05)
    assert again.work["model_flops"] == pytest.approx(plain.work["flops"], rel=0.02)
    assert again.memory.peak_gb.estimate < plain.memory.peak_gb.estimate


def test_replicates_are_runs_of_their_own_and_the_same_work() -> None:
    names = [run_id(compose([f"replicate={number}"])) for number in range(3)]
    assert len(set(names)) == 3
    assert len({name.rpartition("-")[0] for name in names}) == 1


def test_a_method_s_own_learning_rate_may_be_written_out() -> None:
    config = compose([])
    assert run_id(config) == run_id(compose([f"learning_rate={config.method.learning_rate}"]))


def test_the_settings_that_a_library_user_gets_are_those_of_the_yaml() -> None:
    """`footprint` and `emissions` start from the dataclasses; only the idle baseline waits for a run of ours."""
    config = compose([])
    assert config.grid == GridSettings()
    assert dataclasses.replace(config.metering, idle_s=0.0) == MeteringSettings()
