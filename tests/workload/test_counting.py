"""The work of a planned run, counted with and without padding and by the parameters."""

import pytest

from lora_scaling.config import compose
from lora_scaling.config.model_names import preset_model
from lora_scaling.workload import Counting, Lengths, Workload


def planned(*overrides: str) -> Workload:
    return compose(["model=llama-3.2-1b", "samples=800", "batch_size=8", *overrides]).workload(Lengths((100, 200)))


def test_with_padding_the_work_is_that_of_the_run() -> None:
    run = planned()
    tokens, flops = Counting().tokens_and_flops(run)
    assert (tokens, flops) == (run.tokens_seen + run.tokens_padded, run.flops.total)


def test_without_padding_each_sample_is_as_long_as_it_is() -> None:
    """Batches of one have no padding: the same samples one by one."""
    alone = planned("batch_size=1")
    assert alone.tokens_padded == 0
    assert planned().tokens_padded > 0
    assert Counting(padding=False).tokens_and_flops(planned()) == (150 * 800, alone.flops.total)


@pytest.mark.parametrize(("method", "factor"), [("lora", 4), ("full", 6)])
def test_by_parameters(method: str, factor: int) -> None:
    run = planned(f"method={method}")
    tokens, flops = Counting(padding=False, by_parameters=True).tokens_and_flops(run)
    assert flops == factor * 1_235_814_400 * tokens


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("llama-3.2-3b", "llama-3.2-3b"),
        ("meta-llama/Llama-3.2-3B-Instruct", "llama-3.2-3b"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama-3.1-8b"),
        ("Llama-2-7b-chat-hf", "llama-2-7b"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b"),
        ("llama-3.2-30b", None),
        ("gpt2", None),
        ("", None),
        ("../llama-2-7b.yaml", None),
    ],
)
def test_models_are_known_by_the_names_of_their_checkpoints(name: str, preset: str | None) -> None:
    assert preset_model(name) == preset
