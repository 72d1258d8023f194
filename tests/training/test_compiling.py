"""torch.compile and Liger's kernels as settings: part of the work, said in estimates, refused where they cannot be."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import nn

from lora_scaling.config import RunConfig, compose
from lora_scaling.errors import UserError
from lora_scaling.estimate import estimate
from lora_scaling.runs.run import run
from lora_scaling.training import trainer
from lora_scaling.training.compiling import compile_network
from lora_scaling.training.device import choose_device
from tests.support.runs import TINY, read_record


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[datetime]]:
    """When torch compiled something. It traces as always, but leaves out the C++ compiler, which takes a minute."""
    compile_module = nn.Module.compile
    times: list[datetime] = []

    def compile_without(module: nn.Module) -> None:
        handler = torch._dynamo.callback.callback_handler
        handler.clear()
        handler.register_start_callback(lambda _: times.append(datetime.now(UTC)))
        compile_module(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_without)
    yield times
    torch._dynamo.reset()


def test_nothing_is_compiled_while_training_is_measured(tmp_path: Path, traced: list[datetime]) -> None:
    """Rows of many lengths, and a last batch of one row."""
    rows = [{"instruction": "a" * (1 + 5 * i), "output": "b" * (60 - 3 * i)} for i in range(13)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    words = [
        *(word for word in TINY if not word.startswith("data.")), "samples=13", "eval_samples=0",
        f"runs_dir={tmp_path}",
        "data=file", f"data.path={tmp_path / 'rows.json'}", "model=shape", "model.shape.layers=1",
        "model.shape.hidden_size=32", "model.shape.intermediate_size=48", "model.shape.heads=2", "model.name=small",
        "lora.target_modules=q_proj",
    ]  # fmt: skip
    plain, compiled = (read_record(run(compose([*words, word])).path) for word in ("seed=0", "torch_compile=true"))
    assert compiled["status"] == "ok", compiled["error"]
    windows = {p["name"]: [datetime.fromisoformat(p[edge]) for edge in ("started_at", "ended_at")]
               for p in compiled["energy"]["phases"]}  # fmt: skip
    assert list(windows) == ["setup", "warmup", "train"]
    counts = {name: sum(start <= time <= end for time in traced) for name, (start, end) in windows.items()}
    assert counts["train"] == 0
    assert counts["warmup"] >= 2  # of several rows, and of one
    # Compiled without changing anything, and the passes of warm-up leave no trace.
    assert compiled["training"]["train_loss"] == pytest.approx(plain["training"]["train_loss"], rel=1e-6)
    assert compiled["work"]["tokens_seen"] == plain["work"]["tokens_seen"]
    assert compiled["run_id"] != plain["run_id"]


def test_every_run_of_a_process_is_compiled(traced: list[datetime]) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    device = choose_device("cpu", "fp32")
    for runs in range(1, 12):  # torch gives up at the eighth model of one class
        network = Net()
        compile_network(network, device)
        network(torch.ones(2))
        assert len(traced) == runs


def test_a_machine_without_a_compiler_is_told(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    failure = run(tiny("torch_compile=true")).failure
    assert isinstance(failure, UserError)
    assert str(failure).startswith("torch_compile: got true, which needs a C++ compiler (g++, clang++, cl); install it")


def test_an_estimate_says_that_compiling_is_not_counted() -> None:
    said = estimate(compose(["hardware=rtx-4090", "torch_compile=true"])).assumptions
    assert [text for text in said if "torch.compile" in text] != []


def test_liger_is_refused_where_it_is_not_and_after_it_was_used(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(run(tiny("use_liger_kernel=true")).failure).startswith("use_liger_kernel: got true; it needs a GPU and")
    monkeypatch.setattr(trainer, "_patched_by_liger", True)
    assert str(run(tiny("study=liger")).failure).startswith("use_liger_kernel: got false; an earlier run of this proc")
