"""FLOPs and parameters against torch's own counts on small models of each architecture."""

import pytest

from lora_scaling.workload import LINEAR, ModelShape, Tuning, training_flops

torch = pytest.importorskip("torch")

ROWS, LENGTH = 2, 32
LLAMA = ModelShape(
    architecture="llama", layers=3, hidden_size=96, intermediate_size=256, heads=6, kv_heads=2, head_dim=16,
    vocab_size=320, tied_embeddings=False,
)  # fmt: skip
TIED = ModelShape(
    architecture="llama", layers=2, hidden_size=64, intermediate_size=160, heads=4, kv_heads=4, head_dim=16,
    vocab_size=500, tied_embeddings=True,
)  # fmt: skip
QWEN = ModelShape(
    architecture="qwen2", layers=2, hidden_size=64, intermediate_size=192, heads=4, kv_heads=2, head_dim=16,
    vocab_size=256, tied_embeddings=True, attention_bias=True,
)  # fmt: skip
MIXTRAL = ModelShape(
    architecture="mixtral", layers=2, hidden_size=64, intermediate_size=128, heads=4, kv_heads=2, head_dim=16,
    vocab_size=256, tied_embeddings=False, experts=4, experts_per_token=2,
)  # fmt: skip


def network(shape, tuning, checkpointing):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from lora_scaling.training.models import config_of_shape

    torch.manual_seed(0)
    # Kernels that fuse attention or experts are unknown to torch's counter.
    unfused = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_config(config_of_shape(shape), dtype=torch.float32, **unfused)
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if tuning.adapted:
        targets = [m.name for m in tuning.adapters(shape)]
        model = get_peft_model(model, LoraConfig(r=tuning.rank, target_modules=targets))
        if checkpointing:
            model.enable_input_require_grads()
    return model.train()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("shape", [LLAMA, TIED, QWEN, MIXTRAL], ids=["llama-gqa", "tied", "qwen2", "mixtral"])
@pytest.mark.parametrize(
    ("method", "targets"),
    [("full", LINEAR), ("lora", LINEAR), ("lora", ("q_proj", "v_proj")), ("lora", ("o_proj",))],
    ids=["full", "lora-all", "lora-qv", "lora-o"],
)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])
def test_flops_and_parameters_are_those_torch_counts(shape, method, targets, checkpointing):
    from torch.utils.flop_counter import FlopCounterMode

    tuning = Tuning(method=method, rank=4, targets=targets)
    model = network(shape, tuning, checkpointing)
    inputs = torch.randint(0, shape.vocab_size, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=inputs, labels=inputs).loss.backward()
    ours = training_flops(
        shape, tuning, tokens=ROWS * LENGTH, pairs=ROWS * LENGTH * LENGTH, checkpointing=checkpointing
    )
    assert ours.total == pytest.approx(counter.get_total_flops(), rel=0.01)
    counted = {name: p.numel() for name, p in model.named_parameters()}
    assert shape.params == sum(n for name, n in counted.items() if "lora_" not in name)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert tuning.trainable_params(shape) == trained


def test_full_costs_three_forward_passes_and_lora_about_two():
    shape = LLAMA
    full = training_flops(shape, Tuning(method="full"), tokens=1000, pairs=0)
    lora = training_flops(shape, Tuning(method="lora", rank=1, targets=("q_proj",)), tokens=1000, pairs=0)
    assert full.total == 3 * full.forward
    assert lora.total / lora.forward == pytest.approx(2, rel=0.1)
