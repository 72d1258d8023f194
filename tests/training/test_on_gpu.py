"""What a run does on a GPU beyond what it does on a CPU, as far as a CPU and stand-ins show it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from lora_scaling.config import RunConfig
from lora_scaling.training import checkpoints, fetching
from lora_scaling.training.batches import Collator
from lora_scaling.training.device import Device
from lora_scaling.training.fetching import fetch_weights
from lora_scaling.training.model_cache import ModelCache
from lora_scaling.training.models import attach, load_base
from lora_scaling.training.trainer import MeteredTrainer, make_trainer, training_arguments
from tests.support.runs import Record

Make = Callable[..., Record]
GPU = Device(kind="cuda", name="Stub", precision="bf16")


@pytest.fixture
def bf16(tiny: Callable[..., RunConfig], tmp_path: Path) -> MeteredTrainer:
    config = tiny("precision=bf16", "samples=8", "batch_size=4", "eval_samples=2")
    device, models = Device(kind="cpu", name="cpu", precision="bf16"), ModelCache()
    base, _ = models.base(config, device)
    tokens, _ = models.tokens(config, base)
    return make_trainer(
        attach(base, config), tokens.train.rows, tokens.held_out.rows, Collator(0, config), config=config,
        device=device, progress=lambda done, total: None, folder=tmp_path,
    )  # fmt: skip


def test_the_allocator_that_warm_up_filled_is_not_emptied_as_training_starts(
    bf16: MeteredTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr("accelerate.utils.memory.clear_device_cache", lambda *_, **__: emptied.append(True))
    bf16.warm_up(1)
    bf16.train()
    assert emptied == []
    assert bf16.state.global_step == 2


def test_logits_are_not_copied_to_32_bits_and_the_loss_is_the_same(bf16: MeteredTrainer) -> None:
    """Accelerate wraps the model in a conversion of all its outputs as training starts."""
    before = bf16.evaluate_held_out().loss
    bf16.args.learning_rate = 1e-30  # trains, and changes nothing
    bf16.train()
    model: Any = bf16.model
    out = model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]]))
    assert (out.logits.dtype, out.loss.dtype) == (torch.bfloat16, torch.float32)
    assert bf16.evaluate_held_out().loss == pytest.approx(before, rel=1e-6)


def test_steps_that_the_scaler_skips_are_counted(bf16: MeteredTrainer) -> None:
    args, state, control = bf16.args, TrainerState(), TrainerControl()
    for skipped in (True, False, True):
        bf16.callback_handler.optimizer = SimpleNamespace(step_was_skipped=skipped)  # type: ignore[assignment]
        bf16.callback_handler.on_step_end(args, state, control)
    assert bf16.skipped_steps == 2


def test_a_step_does_not_wait_for_the_gpu(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def arguments(**given: Any) -> TrainingArguments:
        asked.append(given)
        return TrainingArguments(output_dir=str(tmp_path), use_cpu=True)

    monkeypatch.setattr("lora_scaling.training.trainer.TrainingArguments", arguments)
    for device in (GPU, Device(kind="cpu", name="cpu", precision="fp32")):
        training_arguments(tiny(), device, tmp_path)
    pinned = [(given["dataloader_pin_memory"], given["accelerator_config"]["non_blocking"]) for given in asked]
    assert pinned == [(True, True), (False, False)]
    # Trainer would read each loss from the device, to leave out one that is no number.
    assert not any(given["logging_nan_inf_filter"] for given in asked)


class Elsewhere(Device):
    """A GPU whose memory is nowhere, since torch here has no CUDA."""

    @property
    def torch_device(self) -> torch.device:
        return torch.device("meta")


class Enough(BaseException):
    """What was looked for has happened."""


@pytest.mark.parametrize(
    ("overrides", "where"),
    [((), "meta"), (("method=full",), "meta"), (("method=qlora",), "cpu")],
)
def test_random_weights_are_drawn_on_the_gpu(
    overrides: tuple[str, ...], where: str, tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of 32 B parameters do not fit into 64 GB of the host."""

    def draw(*_: object, **__: object) -> None:
        raise Enough(torch.get_default_device().type)

    monkeypatch.setattr("lora_scaling.training.models.AutoModelForCausalLM.from_config", draw)
    with pytest.raises(Enough, match=where):
        load_base(tiny(*overrides), Elsewhere(kind="cuda", name="Stub", precision="bf16"))


@pytest.mark.parametrize(("kind", "expected"), [("cuda", {"": 0}), ("cpu", None)])
def test_pretrained_weights_are_loaded_onto_the_gpu_file_by_file(
    kind: str, expected: dict[str, int] | None, tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **options: Any) -> None:
        raise Enough(options.get("device_map"))

    monkeypatch.setattr("lora_scaling.training.checkpoints.AutoModelForCausalLM.from_pretrained", load)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    config = tiny("model=hub", "model.id=some/model", "model.weights=pretrained")
    device = Device(kind=kind, name="Stub", precision="bf16")
    stored: Any = SimpleNamespace(quantization_config=None)
    with pytest.raises(Enough) as enough:
        checkpoints.load_pretrained(config, stored, torch.bfloat16, device)
    assert enough.value.args == (expected,)


@pytest.mark.parametrize(
    ("overrides", "held", "asked", "shards"),
    [
        (("model=hub", "model.id=some/model"), "model.safetensors", 1, 0),
        (("model=hub", "model.id=some/model"), "model.safetensors.index.json", 2, 1),
        (("model=hub", "model.id=some/model"), "", 4, 0),
        ((), "model.safetensors", 0, 0),  # random weights
        (("model=hub", "model.id=."), "model.safetensors", 0, 0),  # a folder
    ],
)
def test_weights_on_the_hub_are_downloaded_before_they_are_loaded(
    overrides: tuple[str, ...], held: str, asked: int, shards: int,
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    names: list[str] = []
    found: list[str] = []

    def cached(model: str, name: str, **_: object) -> str | None:
        names.append(name)
        return name if name == held else None

    monkeypatch.setattr(fetching, "cached_file", cached)
    monkeypatch.setattr(fetching, "get_checkpoint_shard_files", lambda model, index, **_: found.append(index))
    fetch_weights(tiny(*overrides))
    assert (len(names), len(found)) == (asked, shards)


def test_a_failing_download_is_left_to_the_loading(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr(fetching, "cached_file", fail)
    fetch_weights(tiny("model=hub", "model.id=some/model"))


def test_a_record_says_that_no_step_was_skipped(made: Make) -> None:
    training = made("study=plain")["training"]
    assert (training["skipped_steps"], training["peak_allocated_gb"]) == (0, None)


def test_cuda_counts_gpus_as_nvml_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the place on the bus, and not the fastest first; before anything of torch asks the driver."""
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    importlib.reload(importlib.import_module("lora_scaling.training"))
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
