"""Samples: sources, layouts, selection, and what a person is told about bad input."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_scaling.config import RunConfig, compose, run_id
from lora_scaling.data.samples import Message, Sample, check_beginning, load_samples, split_samples
from lora_scaling.errors import UserError
from lora_scaling.runs.reach import refuse_out_of_reach
from lora_scaling.workload import Lengths
from tests.support.paths import ROOT, SHARED_DATA


@cache
def composed(*overrides: str) -> RunConfig:
    return compose(list(overrides))


def alpaca(count: int) -> list[dict[str, str]]:
    return [{"instruction": f"Question {i}", "input": "", "output": f"Answer {i}"} for i in range(count)]


def file_config(path: Path, rows: Any = None, *, samples: int = 1, eval_samples: int = 0, **data: Any) -> RunConfig:
    if rows is not None:
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    base = composed("data=file", "data.path=x")
    return replace(base, samples=samples, eval_samples=eval_samples, data=replace(base.data, path=str(path), **data))


def only(path: Path, row: Any, **data: Any) -> tuple[tuple[str, str], ...]:
    (sample,) = split_samples(file_config(path, [row], **data)).train
    return tuple((message.role, message.content) for message in sample.messages)


# Layouts


def test_each_layout_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    answered = (("user", "Hvad er 2+2?"), ("assistant", "4"))
    assert only(path, {"instruction": "Hvad er 2+2?", "output": "4"}) == answered
    assert only(path, {"instruction": "Hvad er", "input": "2+2?", "output": "4"}) == (
        ("user", "Hvad er\n\n2+2?"),
        ("assistant", "4"),
    )
    assert only(path, {"question": "Hvad er 2+2?", "response": "4", "system_prompt": ""}) == answered
    assert only(path, {"system_prompt": "Kort.", "question": "Hvad er 2+2?", "response": "4"}) == (
        ("system", "Kort."),
        *answered,
    )
    turns = [{"role": "user", "content": "Hvad er 2+2?"}, {"role": "assistant", "content": "4"}]
    assert only(path, {"messages": turns}) == answered
    shared = [{"from": "human", "value": "Hvad er 2+2?"}, {"from": "gpt", "value": "4"}]
    assert only(path, {"conversations": shared}) == answered


def test_system_and_history_columns_come_before_the_question(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    asked = {"instruction": "Og 3+3?", "output": "6"}
    last = (("user", "Og 3+3?"), ("assistant", "6"))
    earlier = (("user", "2+2?"), ("assistant", "4"))
    assert only(path, asked | {"system": "Kort.", "history": [["2+2?", "4"]]}) == (("system", "Kort."), *earlier, *last)
    assert only(path, asked | {"system": None, "history": []}) == last
    turns = [{"role": "user", "content": "Og 3+3?"}, {"role": "assistant", "content": "6"}]
    assert only(path, {"messages": turns, "system": "Kort."}) == (("system", "Kort."), *last)
    shared = [
        {"from": "system", "value": "Selv."},
        {"from": "human", "value": "Og 3+3?"},
        {"from": "gpt", "value": "6"},
    ]
    assert only(path, {"conversations": shared, "system": "Kort."}) == (("system", "Selv."), *last)


def test_a_weight_of_0_and_tools_are_kept(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 1},
    ]  # fmt: skip
    path, tools = tmp_path / "rows.json", [{"name": "sum", "parameters": {}}]
    split = split_samples(file_config(path, [{"messages": turns, "tools": tools}]))
    assert [message.trained for message in split.train[0].messages] == [True, False, True, True]
    assert json.loads(str(split.train[0].tools)) == tools
    as_text = split_samples(file_config(path, [{"messages": turns, "tools": json.dumps(tools)}]))
    assert as_text.fingerprint == split.fingerprint
    for other in (
        [{"messages": turns}],
        [{"messages": [*turns[:1], {**turns[1], "weight": 1}, *turns[2:]], "tools": tools}],
    ):
        assert split_samples(file_config(path, other)).fingerprint != split.fingerprint
    silent = [{"messages": [*turns[:2]]}, {"messages": turns[2:]}]
    assert split_samples(file_config(path, silent)).skipped == 1


@pytest.mark.parametrize(
    "text",
    [
        '{\n "data": [\n  {"instruction": "a", "output": "b"},\n  {"instruction": "c", "output": "d"}\n ]\n}',
        '{"version": 1, "data": [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": "d"}]}',
        '{\n "instruction": "a",\n "output": "b"\n}\n{\n "instruction": "c",\n "output": "d"\n}\n',
        '{"instruction": "a", "input": NaN, "output": "b"}\n{"instruction": "c", "output": "d"}',
    ],
)
def test_json_in_its_other_forms_is_read(tmp_path: Path, text: str) -> None:
    split = split_samples(file_config(tmp_path / "a.json", text, samples=2))
    assert sorted(sample.messages[0].content for sample in split.train) == ["a", "c"]
    lone = '{\n "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    assert split_samples(file_config(tmp_path / "b.json", lone)).available == 1


def test_fields_reach_into_rows_with_dots_and_indices(tmp_path: Path) -> None:
    row = {"task": {"text": "Add"}, "instances": [{"input": "1 2", "output": "3"}], "output": "not this"}
    fields = {"instruction": "task.text", "input": "instances[0].input", "output": "instances[0].output"}
    assert only(tmp_path / "a.json", row, fields=fields) == (("user", "Add\n\n1 2"), ("assistant", "3"))


def test_a_column_whose_name_has_dots_is_found(tmp_path: Path) -> None:
    fields = {"question": "q.text", "response": "r"}
    assert only(tmp_path / "a.json", {"q.text": "Hej?", "r": "Hej."}, fields=fields)[0] == ("user", "Hej?")


def test_fields_can_be_given_on_the_command_line() -> None:
    config = compose(["data=file", "data.path=x", 'data.fields={instruction: a, input: "b[0].c", output: "b[0].d"}'])
    assert config.data.fields == {"instruction": "a", "input": "b[0].c", "output": "b[0].d"}
    assert composed("data=file", "data.path=x").data.fields == {}


def test_conversations_keep_their_answered_part(tmp_path: Path) -> None:
    names = {"h": "human", "g": "gpt"}
    turns = [{"from": names[who], "value": f"{who}{i}"} for i, who in enumerate("ghghh")]
    assert [text for _, text in only(tmp_path / "a.json", {"conversations": turns})] == ["h1", "g2"]


def test_rows_without_an_answer_are_skipped_and_counted(tmp_path: Path) -> None:
    rows = alpaca(5)
    rows[1]["output"], rows[3]["output"] = "", "  "
    split = split_samples(file_config(tmp_path / "a.json", rows, samples=3))
    assert (split.available, split.skipped) == (3, 2)
    assert {sample.messages[-1].content for sample in split.train} == {"Answer 0", "Answer 2", "Answer 4"}


def test_json_lines_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    text = "\n".join(json.dumps(row) for row in alpaca(3)) + "\n\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("Answer", "S\u2028var").encode())
    assert split_samples(file_config(path)).available == 3


# Selection


def test_fewer_samples_are_a_prefix_of_more_and_the_held_out_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    small = split_samples(file_config(path, alpaca(40), samples=10, eval_samples=8))
    large = split_samples(file_config(path, samples=32, eval_samples=8))
    assert large.train[:10] == small.train
    assert large.evaluation == small.evaluation
    assert len(large.evaluation) == 8
    assert not set(large.train) & set(large.evaluation)
    assert small.train != [Sample(messages=(Message("user", "Question 0"), Message("assistant", "Answer 0")))] * 10
    assert load_samples(file_config(path).data, 10) == small.train


def test_the_seed_chooses_the_order(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    first = split_samples(file_config(path, alpaca(40), samples=20))
    again = split_samples(file_config(path, samples=20))
    other = split_samples(file_config(path, samples=20, seed=1))
    assert first.train == again.train
    assert first.fingerprint == again.fingerprint
    assert first.train != other.train
    assert first.fingerprint != other.fingerprint


def test_too_few_samples_says_how_many_there_are(tmp_path: Path) -> None:
    config = file_config(tmp_path / "a.json", alpaca(20), samples=17, eval_samples=4)
    with pytest.raises(UserError, match=r"samples: got 17.*20 samples, of which 4 are held.*16 or fewer.*data\.repeat"):
        split_samples(config)
    assert len(split_samples(replace(config, samples=16)).train) == 16


def test_repeating_cycles_the_training_samples_only(tmp_path: Path) -> None:
    split = split_samples(file_config(tmp_path / "a.json", alpaca(20), samples=40, eval_samples=4, repeat=True))
    assert split.train[16:32] == split.train[:16]
    assert split.train[32:] == split.train[:8]
    assert not set(split.train) & set(split.evaluation)


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"eval_samples: got 3.*3 samples; leave some"):
        split_samples(file_config(tmp_path / "a.json", alpaca(3), eval_samples=3, repeat=True))


# Synthetic


def test_synthetic_samples_are_deterministic_nested_and_follow_the_configured_lengths() -> None:
    base = composed("samples=512")
    split = split_samples(base)
    assert split_samples(replace(base, samples=64)).train == split.train[:64]
    assert split_samples(replace(base, samples=64)).evaluation == split.evaluation
    assert not {s.messages for s in split.train} & {s.messages for s in split.evaluation}
    expected = Lengths.lognormal(96, 0.6)
    for count, close in ((16, 0.06), (32, 0.04), (50, 0.06), (64, 0.02), (256, 0.01), (300, 0.02)):
        targets = [sample.target_tokens or 0 for sample in split.train[:count]]
        assert sum(targets) / count == pytest.approx(expected.mean, rel=close)
    assert sorted(sample.target_tokens or 0 for sample in split.train) == list(expected.values)
    assert split_samples(replace(base, data=replace(base.data, seed=1))).train != split.train


def test_synthetic_data_needs_a_length() -> None:
    base = composed()
    with pytest.raises(UserError, match=r"data\.tokens_per_sample: got null"):
        split_samples(replace(base, data=replace(base.data, tokens_per_sample=None)))


# Bad input: one sentence each


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"has no samples in it"),
        ("[]", r"has no samples in it"),
        ('[{"instruction": "a", "output": ""}]', r"has 1 rows and no answer in any"),
        ("not json", r"line 1 is not JSON \(Expecting value\)"),
        ('{"instruction": "a", "output": "b"}\n{"instruction"', r"line 2 is not JSON"),
        ('[\n{"instruction": "a"},\n{oops}]', r"line 3 is not JSON"),
        ("[" * 100_000, r"nests too deeply|is not JSON"),
        ('[{"instruction": "a", "output": "b"}, 7]', r"sample 2 is a number, not an object"),
        ('{"a": 1, "b": 2}', r"line 1 fits no layout: it has the columns a, b.*data\.fields"),
        (
            '{"instruction": "a", "output": "b"}\n\n{"instruction": "a", "answer": "b"}',
            r"line 3 lacks output \(layout alpaca\); it has answer, instruction",
        ),
        ('{"instruction": "a", "output": 3}', r"line 1 has a number in output; give a text"),
        (r'{"instruction": "a", "output": "b\ud83d"}', r"line 1 has half a character in output"),
        ('{"train": [{"a": 1}], "test": [{"a": 1}]}', r"holds several lists \(train, test\); give a file with one"),
        ('{\n "instruction": "a", "output": "b"\n}\n{\n oops', r"line 5 is not JSON"),
        (
            '{"messages": [{"role": "user", "content": "a", "weight": 0.5}]}',
            r"has 0\.5 as messages\[0\]\.weight; give 1",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}',
            r"has an object in messages\[0\]\.tool_calls; give a list",
        ),
        ('{"instruction": "a", "output": "b", "history": ["x"]}', r"has a text as history\[0\]; give a list of"),
        ('{"instruction": "a", "output": "b", "tools": "sum"}', r"has a text in tools; give a list of functions"),
        ('{"messages": "a"}', r"line 1 has a text in messages; give a list"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            r"has a part of type image_url in messages\[0\]\.content; give texts",
        ),
        (
            '{"messages": [{"role": "user", "content": [{"type": "text"}, {"type": "text", "text": 3}]}]}',
            r"has a number in messages\[0\]\.content\[1\]\.text; give a text",
        ),
        ("PK\x03\x04", r"a zip archive; unpack it, or save its sheet as CSV"),
        ('{"messages": [{"role": "user"}]}', r"a turn messages\[0\] that has role; give role and content"),
        ('{"messages": ["hi"]}', r"a turn messages\[0\] that is a text; give role"),
        ('{"messages": [{"role": "critic", "content": "x"}]}', r"has 'critic' as messages\[0\]\.role; allowed"),
        ('{"messages": [{"role": ["user"], "content": "x"}]}', r"as messages\[0\]\.role; allowed"),
        ('{"conversations": [{"from": "human", "value": {}}]}', r"line 1 has an object in value"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        split_samples(file_config(tmp_path / "bad.json", text))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "bad.json") in str(caught.value)


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        ({"inputs": "a", "targets": "b", "task": "c"}, 'instruction: "inputs", output: "targets"'),  # FLAN
        ({"id": 1, "dialogue": "a", "summary": "b"}, 'instruction: "dialogue", output: "summary"'),  # SAMSum
        (
            {"Context": "a", "Question": "b", "Answer": "c"},
            'instruction: "Question", output: "Answer", input: "Context"',
        ),
        ({"conversation": [{"content": "a", "role": "user"}], "turn": 1}, 'messages: "conversation"'),  # LMSYS
        ({"items": [{"from": "human", "value": "a"}]}, 'conversations: "items"'),
        ({"content": "a", "path": "b"}, 'text: "content"'),  # the Stack
    ],
)
def test_columns_of_other_names_are_mapped_by_the_suggestion(tmp_path: Path, row: dict[str, Any], mapping: str) -> None:
    with pytest.raises(UserError, match=r"fits no layout") as caught:
        split_samples(file_config(tmp_path / "rows.json", [row]))
    assert str(caught.value).endswith(f"map them with data.fields, such as 'data.fields={{{mapping}}}'")


def test_a_part_of_a_content_that_is_null_is_no_text(tmp_path: Path) -> None:
    """Arrow fills what a part does not have with null."""
    parts = [{"type": "text", "text": "a", "image": None}, {"type": "text", "text": None}, {"type": None, "text": "b"}]
    rows = [{"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]}] * 2
    split = split_samples(file_config(tmp_path / "rows.json", rows, samples=1))
    assert split.train[0].messages[0].content == "ab"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path: got .*none\.json, which cannot be read \(No such file"):
        split_samples(file_config(tmp_path / "none.json"))
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        split_samples(file_config(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 0\)"):
        split_samples(file_config(tmp_path / "binary"))
    base = file_config(tmp_path)
    with pytest.raises(UserError, match=r"data\.path: got null"):
        split_samples(replace(base, data=replace(base.data, path=None)))


def test_wrong_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = [{"q": "a", "a": "b"}]
    with pytest.raises(UserError, match=r"lacks answer .*it has a, q"):
        split_samples(file_config(path, rows, fields={"instruction": "q", "output": "answer"}))
    with pytest.raises(UserError, match=r"data\.fields\.inputs: no field of the alpaca layout; allowed"):
        split_samples(file_config(path, fields={"instruction": "q", "output": "a", "inputs": "x"}))
    with pytest.raises(UserError, match=r"data\.fields\.input: got 'x\[0\]', which no row of"):
        split_samples(file_config(path, fields={"instruction": "q", "output": "a", "input": "x[0]"}))
    with pytest.raises(UserError, match=r"data\.fields maps instruction, where a layout needs"):
        split_samples(file_config(path, fields={"instruction": "q"}))


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        ({"prompt": "q", "response": "r"}, 'data.fields={instruction: "prompt", output: "response"}'),
        ({"Input": "q", "Target": "r"}, 'data.fields={instruction: "Input", output: "Target"}'),
        (
            {"instruction": "q", "context": "c", "response": "r", "category": "x"},
            'data.fields={instruction: "instruction", output: "response", input: "context"}',
        ),
    ],
)
def test_columns_under_other_names_are_answered_with_their_mapping(
    row: dict[str, str], mapping: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row] * 3))
    words = ["data=file", f"data.path={path}", "samples=2", "eval_samples=1"]
    with pytest.raises(UserError) as caught:
        split_samples(compose(words))
    assert str(caught.value).endswith(f"map them with data.fields, such as '{mapping}'")
    (first, _) = split_samples(compose([*words, mapping])).train
    assert [message.content for message in first.messages] == ["q\n\nc" if "context" in row else "q", "r"]


def test_turns_as_other_programs_write_them_are_read(tmp_path: Path) -> None:
    """Contents in parts, the role of a developer, and ShareGPT's column with OpenAI's turns."""
    parts = [{"type": "text", "text": "Hvad "}, {"type": "text", "text": "så?"}]
    turns = [("developer", "Vær kort."), ("user", parts), ("assistant", "Det.")]
    for column in ("messages", "conversations"):
        row = {column: [{"role": role, "content": content} for role, content in turns]}
        (tmp_path / "rows.json").write_text(json.dumps([row] * 2))
        words = ["data=file", f"data.path={tmp_path / 'rows.json'}", "samples=1", "eval_samples=1"]
        (sample,) = split_samples(compose(words)).train
        assert [(m.role, m.content) for m in sample.messages] == [
            ("system", "Vær kort."), ("user", "Hvad så?"), ("assistant", "Det."),
        ]  # fmt: skip


def test_the_turns_of_a_conversation_are_known_by_their_names(tmp_path: Path) -> None:
    """OpenAI's and ShareGPT's in one table, where each has the other's names without values; as a text; with a call."""
    ours = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    theirs = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "sum", "arguments": {}}}]}
    none = dict.fromkeys(("role", "content", "from", "value"))
    for turns in (
        [{**none, **turn} for turn in ours], [{**none, **turn} for turn in theirs],
        json.dumps(ours), json.dumps(theirs), [ours[0], call, {"role": "tool", "content": "3"}, ours[1]],
    ):  # fmt: skip
        (tmp_path / "rows.json").write_text(json.dumps([{"conversations": turns}] * 2))
        words = ["data=file", f"data.path={tmp_path / 'rows.json'}", "samples=1", "eval_samples=1"]
        (sample,) = split_samples(compose(words)).train
        assert [(m.role, m.content) for m in (sample.messages[0], sample.messages[-1])] == [
            ("user", "a"), ("assistant", "b"),
        ]  # fmt: skip


# Hub data sets, with the hub's library replaced


def hub(monkeypatch: pytest.MonkeyPatch, result: Any) -> RunConfig:
    def load_dataset(path: str, *, split: str) -> Any:
        assert (path, split) == ("kobprof/skolegpt-instruct", "train")
        if isinstance(result, Exception):
            raise result
        return result

    module = SimpleNamespace(load_dataset=load_dataset, disable_progress_bars=lambda: None)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return replace(composed("data=skolegpt"), samples=1, eval_samples=0)


def test_a_hub_data_set_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    level = logging.getLogger("huggingface_hub").level
    rows = [{"id": "1", "system_prompt": "Du er kort.", "question": "Hvad?", "response": "Det.", "source": "x"}]
    (sample,) = split_samples(hub(monkeypatch, rows)).train
    assert [message.role for message in sample.messages] == ["system", "user", "assistant"]
    logging.getLogger("huggingface_hub").setLevel(level)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (type("DatasetNotFoundError", (Exception,), {})("Dataset doesn't exist"), r"does not have or show"),
        (
            type("DatasetNotFoundError", (Exception,), {})("is a gated dataset on the Hub"),
            r"needs permission",
        ),
        (
            ConnectionError("Couldn't reach\nthe Hub"),
            r"could not be loaded \(ConnectionError: Couldn't reach the",
        ),
        (ValueError('Unknown split "train". Should be one of [..]'), r"data\.split: got 'train', which"),
    ],
)
def test_a_hub_data_set_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        split_samples(hub(monkeypatch, error))
    assert "\n" not in str(caught.value)


def test_the_hub_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = hub(monkeypatch, [])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"datasets is not installed.*lora-scaling\[hub\]"):
        split_samples(config)


# Real files, where they are


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no shared data here")
def test_real_files() -> None:
    english = split_samples(file_config(SHARED_DATA / "alpaca_en_demo.json", samples=900, eval_samples=99))
    assert (english.available, english.skipped) == (999, 0)
    fields = {"instruction": "instruction", "input": "instances[0].input", "output": "instances[0].output"}
    path = SHARED_DATA / "danish_seed_tasks.jsonl"
    danish = split_samples(file_config(path, samples=160, eval_samples=16, fields=fields))
    assert danish.available == path.read_bytes().count(b"\n{") + 1


def test_samples_import_no_torch() -> None:
    code = "import sys, lora_scaling.data.samples; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_a_path_may_begin_with_the_user_s_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a?", "output": "b"}\n', encoding="utf-8")
    config = compose(["data=file", 'data.path="~/rows.jsonl"', "samples=1", "eval_samples=0"])
    assert split_samples(config).available == 1
    assert run_id(config) == run_id(compose(["data=file", f"data.path={tmp_path / 'rows.jsonl'}", "samples=1",
                                             "eval_samples=0"]))  # fmt: skip


def test_a_file_is_refused_by_its_beginning_and_its_size_before_a_model_is_loaded(tmp_path: Path) -> None:
    row = '{"instruction": "a", "output": "b"}\n'
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "short.jsonl").write_text(12 * row)
    (tmp_path / "long.jsonl").write_text(40_000 * row + "oops")  # 1.4 MB: its end is read with the model
    (tmp_path / "list.json").write_text("[" + ",".join(40_000 * [row]) + "]")

    def config(name: str, *more: str) -> RunConfig:
        return compose(["model=munin-7b", "data=file", f"data.path={tmp_path / name}", *more])

    with pytest.raises(UserError, match=r"other\.jsonl, whose line 1 fits no layout"):
        refuse_out_of_reach(config("other.jsonl"))
    with pytest.raises(UserError, match=r"^samples: got 20, and .*short\.jsonl has 12 samples; ask for 12 or fewer"):
        refuse_out_of_reach(config("short.jsonl", "samples=20", "eval_samples=0"))
    with pytest.raises(UserError, match=r"^model\.gguf_file: got .*, which does not exist"):
        refuse_out_of_reach(compose(["model=gguf", f"model.gguf_file={tmp_path / 'none.gguf'}"]))
    for name in ("long.jsonl", "list.json"):
        check_beginning(config(name))
