"""A task of lm-evaluation-harness that needs no network."""

import json
from pathlib import Path

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


def write_task(folder: Path) -> Path:
    """Write the task `mine` and its twelve documents, and return its file."""
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, DOCS)))
    (folder / "mine.yaml").write_text(TASK.format(data=folder / "docs.jsonl"))
    return folder / "mine.yaml"
