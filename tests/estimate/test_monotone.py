"""More work takes longer, more energy and more memory: samples, epochs, rank, length, and each dimension of a model."""

import functools
import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_scaling.config import RunConfig, compose
from lora_scaling.config.devices import preset
from lora_scaling.estimate import estimate
from lora_scaling.estimate.shapes import with_shape
from lora_scaling.paths import choices

STACKS = ("hf", "unsloth", "other")
DEVICES = ("h100-sxm", "rtx-4090", "t4", "mi300x", "apple-m3-max")
# What every device has: fp16; only the training counts.
JOB = ("eval_samples=0", "warmup_steps=0", "precision=fp16", "hardware=h100-sxm", "batch_size=1", "max_seq_len=1024",
       "data.tokens_per_sample=90", "data.tokens_cv=0", "samples=50")  # fmt: skip
DIMENSIONS = ("layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "vocab_size")


@functools.cache
def job(model: str, method: str) -> RunConfig:
    """Compose the run of a model; the tests replace its other settings, which is quicker."""
    return compose([*JOB, f"model={model}", f"method={method}"])


def figures(config: RunConfig, stack: str) -> tuple[float, ...]:
    """Seconds, kWh and GB of tensors."""
    answer = estimate(config, stack=stack)
    assert answer.time_s is not None
    assert answer.energy_kwh is not None
    return answer.time_s.estimate, answer.energy_kwh.estimate, answer.memory.allocated_gb


def never_less(more: tuple[float, ...], less: tuple[float, ...]) -> bool:
    return all(a >= b * (1 - 1e-9) for a, b in zip(more, less, strict=True))


@st.composite
def runs(draw: st.DrawFn) -> RunConfig:
    def pick(*choice):
        return draw(st.sampled_from(choice))

    config = job(pick("llama-3.2-1b", "qwen2.5-7b", "llama-2-70b", "mixtral-8x7b"), pick("lora", "qlora"))
    return replace(
        config,
        hardware=preset(pick(*DEVICES)),
        samples=pick(1, 7, 500, 20000),
        epochs=pick(1, 3),
        lora=replace(config.lora, r=pick(1, 8, 64)),
        data=replace(config.data, tokens_per_sample=pick(16, 90, 700), tokens_cv=pick(0.0, 0.8)),
        batch_size=pick(1, 8),
        gradient_accumulation=pick(1, 4),
        max_seq_len=pick(512, 4096),
        gradient_checkpointing=pick(True, False),
    )


@settings(max_examples=25, deadline=None)
@given(runs(), st.sampled_from(STACKS), st.integers(2, 7))
def test_more_samples_epochs_rank_or_length_are_never_less(config: RunConfig, stack: str, factor: int) -> None:
    before = figures(config, stack)
    tokens = config.data.tokens_per_sample
    assert tokens is not None
    for more in (
        replace(config, samples=factor * config.samples),
        replace(config, samples=config.samples + 1),
        replace(config, epochs=factor * config.epochs),
        replace(config, lora=replace(config.lora, r=factor * config.lora.r)),
        replace(config, data=replace(config.data, tokens_per_sample=factor * tokens)),
    ):
        assert never_less(figures(more, stack), before), more


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(
        st.sampled_from((2, 16, 40)), st.sampled_from((1, 2, 8)), st.sampled_from((16, 64)), st.sampled_from((1, 4)),
        st.sampled_from((256, 50000)),
    ),
    method=st.sampled_from(("lora", "qlora", "full")), tokens=st.sampled_from((4, 40, 900)),
    device=st.sampled_from(DEVICES), stack=st.sampled_from(STACKS), factor=st.sampled_from((2, 3)),
)  # fmt: skip
def test_a_model_larger_in_any_dimension_is_never_less(
    size: tuple[int, ...], method: str, tokens: int, device: str, stack: str, factor: int
) -> None:
    layers, heads, width, ratio, vocabulary = size
    base = shaped(method)
    base = replace(base, hardware=preset(device), data=replace(base.data, tokens_per_sample=float(tokens)))

    def answer(*, layers=layers, heads=heads, ratio=ratio, vocabulary=vocabulary):
        assert base.model.shape is not None
        shape = replace(
            base.model.shape, layers=layers, hidden_size=heads * width, intermediate_size=heads * width * ratio,
            heads=heads, kv_heads=heads, head_dim=width, vocab_size=vocabulary,
        )  # fmt: skip
        return figures(replace(base, model=replace(base.model, shape=shape)), stack)

    before = answer()
    assert never_less(answer(layers=factor * layers), before)
    assert never_less(answer(ratio=factor * ratio), before)
    assert never_less(answer(vocabulary=factor * vocabulary), before)
    assert never_less(answer(heads=factor * heads), before)


@functools.cache
def shaped(method: str) -> RunConfig:
    shape = ("layers=2", "hidden_size=64", "intermediate_size=64", "heads=4")
    return compose([*JOB, "model=shape", *(f"model.shape.{word}" for word in shape), f"method={method}"])


@pytest.mark.parametrize("tokens", [20.0, 600.0])
def test_of_two_listed_models_the_one_that_is_larger_in_every_dimension_is_never_less(tokens: float) -> None:
    """With few tokens a step lasts as long as the launches of its layers: then fewer, wider layers may be faster, as
    LitGPT measured (1,000 iterations: StableLM-3B of 16 layers 1.24 minutes, phi-1.5 of 24 layers 1.62 minutes)."""
    base = job("llama-3.2-1b", "lora")
    base = replace(base, data=replace(base.data, tokens_per_sample=tokens))
    shapes, found = {}, {}
    for name in set(choices("model")) - {"hub", "gguf", "shape"}:
        model = with_shape(compose([f"model={name}"]).model)
        if model.shape is not None and model.shape.experts == 1:
            shapes[name] = [getattr(model.shape, dimension) for dimension in DIMENSIONS]
            found[name] = figures(replace(base, model=model), "hf")
    pairs = [
        (one, other) for one, other in itertools.permutations(shapes, 2)
        if all(a >= b for a, b in zip(shapes[one], shapes[other], strict=True))
    ]  # fmt: skip
    assert len(pairs) > 200
    for one, other in pairs:
        assert never_less(found[one][:1], found[other][:1]), (one, other)
