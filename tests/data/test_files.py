"""Data files in each format, and held-out samples from a file of their own."""

import csv
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lora_scaling.config import RunConfig, compose, run_id
from lora_scaling.data.samples import Message, Sample, split_samples
from lora_scaling.errors import UserError
from lora_scaling.estimate.lengths import lengths_of
from lora_scaling.estimate.priors import load_priors
from lora_scaling.training.batches import IGNORED
from lora_scaling.training.bytes_tokenizer import bytes_tokenizer
from lora_scaling.training.tokens import tokenize

ROWS = [
    {"instruction": f"Hvad er {i}; eller, {i}?", "input": "", "output": f'Æble "{i}"\nog én linje til'}
    for i in range(6)
]
EXPECTED = {(row["instruction"], row["output"]) for row in ROWS}


def table(delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode("utf-8-sig")


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


LINES = "\n".join(map(json.dumps, ROWS)).encode()
FILES = {
    "rows.csv": table(","), "danish.csv": table(";"), "rows.tsv": table("\t"), "rows.csv.gz": gzip.compress(table(",")),
    "rows.parquet": parquet(ROWS), "rows.jsonl.gz": gzip.compress(LINES), "named.gz": gzip.compress(LINES),
    "misnamed.csv": LINES, "rows": parquet(ROWS),
}  # fmt: skip


def config_of(path: Path, *, samples: int = 6, eval_samples: int = 0, **data: Any) -> RunConfig:
    base = compose(["data=file", "data.path=x"])
    return replace(base, samples=samples, eval_samples=eval_samples, data=replace(base.data, path=str(path), **data))


def written(tmp_path: Path, name: str, content: bytes) -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize("name", FILES)
def test_each_format_gives_the_same_samples(name: str, tmp_path: Path) -> None:
    split = split_samples(config_of(written(tmp_path, name, FILES[name])))
    assert {tuple(turn.content for turn in sample.messages) for sample in split.train} == EXPECTED


def test_an_estimate_reads_each_format_as_the_run_does(tmp_path: Path) -> None:
    means = {
        lengths_of(config_of(path).data, load_priors()).lengths.mean
        for path in (written(tmp_path, name, content) for name, content in FILES.items())
    }
    assert len(means) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"instruction,output\nx,y,z\n", "whose line 2 has more cells than its first line"),
        ("a.csv", b'instruction,output\n"x,y\n', "is not CSV"),
        ("a.csv", "instruction,output\næ,ø\n".encode("cp1252"), "which is not UTF-8 text"),
        ("a.gz", gzip.compress(LINES)[:-12], "a gzipped file that is damaged"),
        ("a.gz", b"\x1f\x8b\x08", "a gzipped file that is damaged"),
        ("a.parquet", b"PAR1 and no more", "a Parquet file that is damaged"),
        ("a.parquet", parquet([{"instruction": 1, "output": "x"}]), "whose row 1 has a number in instruction"),
    ],
)
def test_a_damaged_file_is_one_sentence(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(UserError) as failure:
        split_samples(config_of(path, samples=1))
    assert str(failure.value).startswith(f"data.path: got {path}, ")
    assert said in str(failure.value)


def test_conversations_in_a_table(tmp_path: Path) -> None:
    """Lists in Parquet, and as a text of JSON in CSV."""
    turns = [{"role": "user", "content": "Hej"}, {"role": "assistant", "content": "Goddag"}]
    rows = written(tmp_path, "chat.parquet", parquet([{"messages": turns}]))
    text = written(tmp_path, "chat.csv", f'messages\n"{json.dumps(turns).replace(chr(34), chr(34) * 2)}"\n'.encode())
    for path in (rows, text):
        [sample] = split_samples(config_of(path, samples=1)).train
        assert sample.messages == (Message("user", "Hej"), Message("assistant", "Goddag"))


# An evaluation file


def test_held_out_samples_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    held = [{"instruction": f"E{i}", "output": f"e{i}"} for i in range(3)]
    path, other = written(tmp_path, "train.jsonl", LINES), written(tmp_path, "held.parquet", parquet(held))
    split = split_samples(config_of(path, samples=6, eval_samples=2, eval_path=str(other)))
    assert [sample.messages[0].content for sample in split.evaluation] == ["E0", "E1"]
    assert (len(split.train), split.available) == (6, 6)
    with pytest.raises(UserError, match=r"^eval_samples: got 4, and .*held\.parquet has 3 samples; ask for 3 or fewer"):
        split_samples(config_of(path, samples=6, eval_samples=4, eval_path=str(other)))
    with pytest.raises(UserError, match=r"^data\.eval_path: got .*absent, which cannot be read"):
        split_samples(config_of(path, samples=6, eval_samples=4, eval_path=str(tmp_path / "absent")))


def test_an_evaluation_file_names_the_run_by_its_content(tmp_path: Path) -> None:
    path = written(tmp_path, "train.jsonl", LINES)
    words = ["data=file", f"data.path={path}"]
    names = {run_id(compose(words))}
    for content in (b"one", b"two"):
        names.add(run_id(compose([*words, f"data.eval_path={written(tmp_path, 'held', content)}"])))
    assert len(names) == 3
    moved = written(tmp_path, "moved", b"two")
    assert run_id(compose([*words, f"data.eval_path={moved}"])) in names
    with pytest.raises(UserError, match=r"^data\.eval_path: got .*; data=synthetic does not use it"):
        compose([f"data.eval_path={path}"])


# Texts that are trained as they are


def labelled(sample: Sample, *overrides: str) -> tuple[str, str]:
    """The text of a sample, and its trained part."""
    tokenizer = bytes_tokenizer()
    [row] = tokenize([sample], tokenizer, compose(list(overrides))).rows
    trained = [token for token in row["labels"] if token != IGNORED]
    return tuple(tokenizer.decode(ids) for ids in (row["input_ids"], trained))  # type: ignore[return-value]


def sample_of(tmp_path: Path, row: dict[str, Any]) -> Sample:
    path = written(tmp_path, "row.jsonl", json.dumps(row).encode())
    [sample] = split_samples(config_of(path, samples=1)).train
    return sample


def test_a_completion_is_trained_after_its_prompt_as_written(tmp_path: Path) -> None:
    text, trained = labelled(sample_of(tmp_path, {"prompt": "2 + 2 = ", "completion": "4"}))
    assert (text, trained) == ("2 + 2 = 4<eos>", "4<eos>")


def test_a_text_is_trained_from_its_second_token(tmp_path: Path) -> None:
    assert labelled(sample_of(tmp_path, {"text": "En sætning."})) == ("En sætning.<eos>", "n sætning.<eos>")


def test_a_completion_of_turns_is_a_conversation(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"}]
    row = {"prompt": prompt, "completion": [{"role": "assistant", "content": "D"}]}
    text, trained = labelled(sample_of(tmp_path, row))
    assert text == "<bos><|user|>A<eos><|assistant|>B<eos><|user|>C<eos><|assistant|>D<eos>"
    assert trained == "D<eos>"


# Tools

CALLS = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + (message['content'] or '') }}"
    "{% for call in message['tool_calls'] or [] %}{{ '<call>' + (call['function'] | tojson) }}{% endfor %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
FUNCTION = {"name": "weather", "arguments": {"city": "Ribe"}}
OPENAI = {
    "messages": [
        {"role": "user", "content": "Vejret?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ribe"}'}}]},
        {"role": "tool", "tool_call_id": "1", "content": "12 grader"},
        {"role": "assistant", "content": "Der er 12 grader."},
    ]
}  # fmt: skip
LEGACY = {
    "messages": [
        {"role": "user", "content": "Vejret?"},
        {"role": "assistant", "content": "", "function_call": {"name": "weather", "arguments": '{"city": "Ribe"}'}},
        {"role": "function", "name": "weather", "content": "12 grader"},
        {"role": "assistant", "content": "Der er 12 grader."},
    ]
}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Vejret?"},
        {"from": "function_call", "value": json.dumps(FUNCTION)},
        {"from": "observation", "value": "12 grader"},
        {"from": "gpt", "value": "Der er 12 grader."},
    ]
}


@pytest.mark.parametrize("row", [OPENAI, LEGACY, SHAREGPT], ids=["openai", "legacy", "sharegpt"])
def test_calls_of_tools_are_text_of_the_template_and_trained_on(row: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = CALLS
    sample = sample_of(tmp_path, row)
    tokens = tokenize([sample], tokenizer, compose([]))
    call = "<call>" + json.dumps(FUNCTION)
    trained = tokenizer.decode([token for token in tokens.rows[0]["labels"] if token != IGNORED])
    assert trained == f"{call}<eos>Der er 12 grader.<eos>"
    text = f"<|user|>Vejret?<eos><|assistant|>{call}<eos><|tool|>12 grader<eos><|assistant|>Der er 12 grader.<eos>"
    assert tokenizer.decode(tokens.rows[0]["input_ids"]) == text
    assert tokens.warnings == []
    hidden = tokenize([sample], bytes_tokenizer(), compose([])).warnings
    assert "the chat template of this tokenizer does not show the tool calls of synthetic" in dict(hidden)["tool_calls"]
    plain = labelled(sample, "chat_template=false")[1]
    assert plain == json.dumps(FUNCTION) + "<eos>Der er 12 grader.<eos>"


def test_a_call_that_is_none_is_named(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]
    with pytest.raises(
        UserError, match=r"has an object in messages\[1\]\.tool_calls; give a list of \{name, arguments"
    ):
        sample_of(tmp_path, {"messages": turns})
