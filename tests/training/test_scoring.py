"""Scores of tasks by lm-eval, on a task file of our own and offline; and the accuracy that every run has."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from lora_scaling.config import RunConfig, compose, run_id
from lora_scaling.data.samples import split_samples
from lora_scaling.errors import UserError
from lora_scaling.records import record_to_row
from lora_scaling.runs.run import run
from lora_scaling.training.batches import IGNORED
from lora_scaling.training.device import choose_device
from lora_scaling.training.models import load_base
from lora_scaling.training.scoring import TaskScore, mean_points
from lora_scaling.training.tokens import tokenize
from tests.support.checkpoints import save_checkpoint
from tests.support.processes import two_ranks
from tests.support.runs import TINY, only_record, read_record
from tests.support.tasks import write_task


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"))


def choice_points(record: Any) -> list[float]:
    scores = record["training"]["scores"]["tasks"]["mine"]
    return [scores["before"], scores["after"]]


def test_a_task_is_scored_before_and_after_in_windows_of_its_own(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    # Every answer of the training is the second word: the trained model prefers it, and half of the tasks want it.
    rows = [{"instruction": f"{i}?", "output": "qqqqqq"} for i in range(40)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    words = [
        *TINY, f"runs_dir={tmp_path}", "data=file", f"data.path={tmp_path / 'rows.json'}", "epochs=3",
        "learning_rate=0.01", "lora.dropout=0.1",
    ]  # fmt: skip
    words = [word for word in words if not word.startswith("data.tokens")]
    config = compose([*words, "score=lm_eval", f"score.tasks=[{task}]"])
    outcome = run(config)
    assert outcome.failure is None
    record: Any = read_record(outcome.path)
    names = [phase["name"] for phase in record["energy"]["phases"]]
    assert names == ["setup", "eval", "score", "warmup", "train", "eval", "score"]
    scores = record["training"]["scores"]
    assert (scores["by"], list(scores["tasks"])) == ("lm_eval", ["mine"])
    assert (scores["tasks"]["mine"]["metric"], scores["tasks"]["mine"]["samples"]) == ("acc", 12)
    assert record["training"]["score_before"] == choice_points(record)[0]
    assert record["training"]["score_after"] == choice_points(record)[1] == 50.0
    row = record_to_row(record)
    assert row["score_after"] == 50.0
    assert 0 < row["energy_score_kwh"] < row["energy_kwh"]
    # Scoring leaves the training as it is, and does not name it.
    plain: Any = read_record(run(compose([*words, "study=plain"])).path)
    assert plain["training"]["train_loss"] == pytest.approx(record["training"]["train_loss"], rel=1e-6)
    assert run_id(compose(words)) == run_id(config)
    assert run(compose([*words, "study=plain", "score=lm_eval", f"score.tasks=[{task}]"])).skipped == (
        "finished before, and was not scored; on_existing=rerun trains again"
    )


def test_what_cannot_be_scored_is_refused_before_training(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    absent = tmp_path / "absent.yaml"
    failure = run(tiny("score=lm_eval", f"score.tasks=[{absent}]", "study=absent")).failure
    assert str(failure).startswith(f"score.tasks: got {absent}, which does not exist; ")
    (tmp_path / "broken.yaml").write_text("task: broken\n")
    failure = run(tiny("score=lm_eval", f"score.tasks=[{tmp_path / 'broken.yaml'}]", "study=broken")).failure
    assert str(failure).startswith(f"score.tasks: got {tmp_path / 'broken.yaml'}, which ")
    with pytest.raises(UserError, match=r"^score\.tasks: got \['x'\]; score=none does not use it.*use score=lm_eval"):
        compose(["score.tasks=[x]"])
    with pytest.raises(UserError, match=r"^score\.tasks: got \[\] with score=lm_eval; name at least one task"):
        compose(["score=lm_eval"])
    with pytest.raises(UserError, match=r"^score\.limit: got 0; give 1 or more"):
        compose(["score=lm_eval", "score.tasks=[x]", "score.limit=0"])


# What EuroEval 16.11 takes and writes: its points are those of the weights that it is given.
EUROEVAL = """\
#!{python}
import argparse, json, os, pathlib, sys
from safetensors.numpy import load_file
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--model", "-m", required=True)
parser.add_argument("--dataset", action="append")
parser.add_argument("--device", choices=["cpu", "cuda", "mps"])
parser.add_argument("--num-iterations", type=int, default=10)
parser.add_argument("--cache-dir")
for flag in ("--no-progress-bar", "--raise-errors", "--save-results", "--zero-shot"):
    parser.add_argument(flag, action="store_true")
asked = parser.parse_args()
assert asked.zero_shot and asked.num_iterations == 2 and "RANK" not in os.environ
folder = pathlib.Path(asked.model)
assert (folder / "config.json").exists() and (folder / "tokenizer_config.json").exists()
weights = {{name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}}
[matrix] = [value for name, value in weights.items() if name.endswith("layers.0.self_attn.q_proj.weight")]
if "absent" in asked.dataset:
    sys.exit("Dataset absent not found.\\x1b[2J")
for dataset in asked.dataset:
    total = {{"test_mcc": float(abs(matrix).sum()), "test_mcc_se": 0.98, "test_macro_f1": 1.0, "test_macro_f1_se": 0.1}}
    if dataset == "scala-da":
        total["test_mcc"] = float("nan")
    result = {{"dataset": dataset, "task": "t", "languages": ["da"], "model": asked.model,
              "results": {{"raw": [], "total": total}}, "euroeval_version": "16.11.0"}}
    with open("euroeval_benchmark_results.jsonl", "a") as file:
        file.write("\\n" + json.dumps(result))
"""


@pytest.fixture
def euroeval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    program = tmp_path / "an environment" / "euroeval"
    program.parent.mkdir()
    program.write_text(EUROEVAL.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = save_checkpoint(tmp_path / "checkpoint")
    return (
        *TINY, f"runs_dir={tmp_path}", "model=hub", f"model.id={checkpoint}", "learning_rate=0.01", "score.limit=2",
        "score=euroeval", f"""score.command='"{program}" --zero-shot'""",
    )  # fmt: skip


def test_euroeval_scores_the_base_and_what_was_trained_of_it(tmp_path: Path, euroeval: tuple[str, ...]) -> None:
    outcome = run(compose([*euroeval, "score.tasks=[angry-tweets,scala-da]", "save_adapter=true"]))
    assert outcome.failure is None
    record: Any = read_record(outcome.path)
    assert "unscored" not in {warning["kind"] for warning in record["warnings"]}
    scores = record["training"]["scores"]
    assert (scores["by"], scores["version"]) == ("euroeval", "16.11.0")
    angry, scala = scores["tasks"]["angry-tweets"], scores["tasks"]["scala-da"]
    [file] = (tmp_path / "checkpoint").glob("*.safetensors")
    matrix = load_file(file)["model.layers.0.self_attn.q_proj.weight"]
    adapter = load_file(outcome.path.parent / "adapter" / "adapter_model.safetensors")
    down, up = (adapter[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight"] for half in ("A", "B"))
    assert angry["before"] == pytest.approx(float(matrix.abs().sum()))
    assert angry["after"] == pytest.approx(float((matrix + 16 / 8 * up @ down).abs().sum()))
    assert angry["after"] != angry["before"]
    assert (angry["metric"], angry["after_stderr"]) == ("mcc", pytest.approx(0.5))
    assert (scala["before"], record["training"]["score_after"]) == (None, None)
    names = [phase["name"] for phase in record["energy"]["phases"]]
    assert names == ["setup", "eval", "score", "warmup", "train", "eval", "score"]


def test_what_euroeval_refuses_is_one_sentence(euroeval: tuple[str, ...], tiny: Callable[..., RunConfig]) -> None:
    failure = run(compose([*euroeval, "score.tasks=[absent]"])).failure
    assert str(failure) == (
        "score.tasks: got absent, which cannot be scored: EuroEval ended with status 1 "
        "(Dataset absent not found.\\u001b[2J)"
    )
    failure = run(compose([*euroeval, "score.tasks=[a]", "score.command=no-such-euroeval"])).failure
    assert str(failure).startswith("score.command: got no-such-euroeval, which is no program here; install EuroEval in")
    failure = run(tiny("score=euroeval", "score.tasks=[angry-tweets]", "study=euro")).failure
    assert str(failure).startswith("score: got euroeval with random weights")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_several_processes_score_what_one_does(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharding: str
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    words = ("gradient_accumulation=2", "score=lm_eval", f"score.tasks=[{task}]", "learning_rate=0.01")
    one: Any = read_record(run(compose([*TINY, *words, f"runs_dir={tmp_path / 'one'}"])).path)
    env = {name: os.environ[name] for name in ("HF_HOME", "HF_DATASETS_CACHE")}
    status, _, errors = two_ranks(tmp_path / "two", *words, f"sharding={sharding}", env=env)
    assert status == 0, errors
    assert only_record(tmp_path / "two")["training"]["scores"] == one["training"]["scores"]


def test_the_mean_of_tasks_is_unknown_if_one_is() -> None:
    def of(points: float | None) -> TaskScore:
        return TaskScore(metric="acc", points=points, stderr=None, samples=None)

    assert mean_points({"a": of(40.0), "b": of(50.0)}) == 45.0
    assert mean_points({"a": of(40.0), "b": of(None)}) is None


def test_accuracy_is_the_share_of_answer_tokens_predicted_right(tmp_path: Path) -> None:
    """Against a count by hand of what the saved model predicts."""
    config = compose([*TINY, "learning_rate=0.01", "epochs=2", f"runs_dir={tmp_path}", "save_adapter=true"])
    outcome = run(config)
    record: Any = read_record(outcome.path)
    base = load_base(config, choose_device("cpu", "auto"))
    folder = str(outcome.path.parent / "adapter")
    network = PeftModel.from_pretrained(base.model, folder).eval()  # pyright: ignore[reportArgumentType]
    right = count = 0
    for row in tokenize(split_samples(config).evaluation, base.tokenizer, config, held_out=True).rows:
        with torch.no_grad():
            predicted = network(input_ids=torch.tensor([row["input_ids"]])).logits[0].argmax(-1).tolist()
        pairs = [(p, w) for p, w in zip(predicted, row["labels"][1:], strict=False) if w != IGNORED]
        right += sum(p == w for p, w in pairs)
        count += len(pairs)
    assert record["training"]["eval_accuracy_after"] == pytest.approx(right / count)
    assert record["training"]["eval_accuracy_after"] > record["training"]["eval_accuracy_before"]
