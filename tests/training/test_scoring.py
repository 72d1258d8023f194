"""Scores of tasks by lm-eval, on a task file of our own and offline; and the accuracy that every run has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

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
from tests.support.runs import TINY, read_record

# Of two words, the one that stands in every answer of the training.
DOCS = [{"question": f"{i}?", "choices": ["ja", "qqqqqq"], "answer": i % 2} for i in range(12)]
TASK = """\
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: " "
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, DOCS)))
    (folder / "mine.yaml").write_text(TASK.format(data=folder / "docs.jsonl"))
    return folder / "mine.yaml"


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


def test_euroeval_is_asked_only_for_weights_that_it_can_load(tiny: Callable[..., RunConfig]) -> None:
    failure = run(tiny("score=euroeval", "score.tasks=[angry-tweets]", "study=euro")).failure
    assert isinstance(failure, UserError)
    assert str(failure).startswith("score: ")


def test_euroeval_without_the_engine_that_it_runs_models_on_is_refused(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "euroeval-16.11.0.dist-info").mkdir()
    (tmp_path / "euroeval-16.11.0.dist-info" / "METADATA").write_text("Name: euroeval\nVersion: 16.11.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    failure = run(tiny("score=euroeval", "score.tasks=[angry-tweets]", "study=no-vllm")).failure
    assert str(failure).startswith("score: got euroeval, which runs language models on vllm, and that is not installed")


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
