"""torch.compile and Liger's kernels as settings: part of the work, said in estimates, refused where they cannot be."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from lora_scaling.config import RunConfig, compose
from lora_scaling.errors import UserError
from lora_scaling.estimate import estimate
from lora_scaling.runs.run import run
from lora_scaling.training import trainer
from tests.support.runs import TINY, read_record


def test_the_network_is_compiled_before_its_first_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling itself takes a minute on a CPU, so that torch is only watched."""
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    words = [*TINY, "samples=4", "eval_samples=0", f"runs_dir={tmp_path}"]
    names = {read_record(run(compose([*words, word])).path)["run_id"] for word in ("seed=0", "torch_compile=true")}
    assert compiled == ["PeftModelForCausalLM"]
    assert len(names) == 2


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
