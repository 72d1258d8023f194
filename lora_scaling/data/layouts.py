"""Define samples as conversations, and convert rows of the usual instruction layouts into them."""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lora_scaling.errors import UserError

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    """A turn.

    trained: whether the loss is on it, if it is an answer; a `weight` of 0 says that it is not.
    calls: what else a chat template shows of it, as JSON: the `tool_calls` of an answer, or the `name` and
        `tool_call_id` of a tool's result.
    """

    role: Role
    content: str
    trained: bool = True
    calls: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A conversation that ends with an answer.

    tools: the functions that the chat template describes, as JSON.
    target_tokens: trim the text to exactly this many tokens.
    raw: the text is that of the turns, one after the other, without a template.
    """

    messages: tuple[Message, ...]
    tools: str | None = None
    target_tokens: int | None = None
    raw: bool = False


class RowError(Exception):
    """An unusable row; the message is the second half of a sentence."""


@dataclass(frozen=True)
class _Layout:
    """The columns of a layout, and how they become turns."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Callable[[dict[str, Any]], tuple[Message, ...]]


_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "tool_response": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
_CALLING = ("function_call", "tool_call")  # roles of answers whose text is a call
# Fields of a turn that some templates show and others drop.
_UNSHOWN = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = ("text", "input_text", "output_text")  # of OpenAI's two interfaces
_ABSENT = object()


def convert_rows(
    rows: Iterable[tuple[str, Any]], *, layout: str, fields: Mapping[str, str], where: str
) -> tuple[list[Sample], int]:
    """Convert the rows that have an answer into samples, and count the rows that have none.

    Args:
        rows: (place, row) pairs; the place (`line 3`) is named in errors.
        layout: alpaca, chat, sharegpt, skolegpt, or `auto` to recognise it by the fields or the first row.
        fields: layout field → path in the row, where dots and `[i]` reach nested values; by default, the field's name.
        where: the source, for messages.

    Raises:
        UserError: a row lacks a column of the layout or has another type in it, or a field is unknown.
    """
    samples: list[Sample] = []
    empty, found, chosen = 0, set[str](), None if layout == "auto" else layout
    for place, row in rows:
        try:
            if not isinstance(row, Mapping):
                raise RowError(f"is {_kind(row)}, not an object with columns")
            if chosen is None:
                chosen = _recognise(row, fields)
            values = _read(row, _LAYOUTS[chosen], chosen, _checked(fields, chosen))
            raw = chosen in _RAW and not isinstance(values.get("prompt"), (list, tuple))
            if samples and raw != samples[0].raw:
                raise RowError("has a prompt of another type than the rows before; give texts, or lists of turns")
            messages = _LAYOUTS[chosen].convert(values)
            messages = _nonempty(messages) if raw else _trim_to_answers(messages)
            tools = _tools(values)
        except RowError as error:
            raise UserError(f"data.path: got {where}, whose {place} {error}") from None
        found.update(name for name, value in values.items() if value is not _ABSENT)
        if messages:
            samples.append(Sample(messages=messages, tools=tools, raw=raw))
        else:
            empty += 1
    never = sorted(set(fields) - found) if samples else []
    if never:
        raise UserError(
            f"data.fields.{never[0]}: got {fields[never[0]]!r}, which no row of {where} has; correct or remove it"
        )
    return samples, empty


def _recognise(row: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    names = set(fields) or set(row)
    for name, layout in _LAYOUTS.items():
        if names.issuperset(layout.required):
            return name
    wanted = "; ".join(f"{name}: {', '.join(layout.required)}" for name, layout in _LAYOUTS.items())
    what = f"data.fields maps {_listed(names)}" if fields else f"has the columns {_listed(names)}"
    hint = "" if fields else _mapping(row)
    raise RowError(f"fits no layout: it {what}, where a layout needs ({wanted}); map them with data.fields{hint}")


# Names that columns have elsewhere.
_QUESTIONS = (
    "instruction", "prompt", "question", "query", "input", "inputs", "input_text", "user", "human", "problem", "source",
    "src", "document", "article", "dialogue",
)  # fmt: skip
_ANSWERS = (
    "output", "outputs", "output_text", "response", "answer", "completion", "chosen", "target", "targets",
    "target_text", "tgt", "assistant", "bot", "solution", "reply", "summary", "highlights",
)  # fmt: skip
_CONTEXTS = ("input", "context")
_TEXTS = ("content", "document", "article", "body", "sentence", "raw_content", "code")


def _mapping(row: Mapping[str, Any]) -> str:
    """Write the mapping that the columns suggest, by their turns or their names; nothing if they suggest none."""
    found = _turns_column(row) or _question_and_answer(row) or _text_column(row)
    pairs = ", ".join(f'{field}: "{name}"' for field, name in found.items())
    return f", such as 'data.fields={{{pairs}}}'" if found else ""


def _turns_column(row: Mapping[str, Any]) -> dict[str, str]:
    for column, turns in row.items():
        first = turns[0] if isinstance(turns, (list, tuple)) and turns else None
        for field, keys in (("messages", {"role", "content"}), ("conversations", {"from", "value"})):
            if isinstance(first, Mapping) and keys <= first.keys():
                return {field: str(column)}
    return {}


def _question_and_answer(row: Mapping[str, Any]) -> dict[str, str]:
    named = _text_columns(row)
    found: dict[str, str] = {}
    for field, names in (("instruction", _QUESTIONS), ("output", _ANSWERS), ("input", _CONTEXTS)):
        free = [named[name] for name in names if name in named and named[name] not in found.values()]
        if free:
            found[field] = free[0]
    return found if {"instruction", "output"} <= found.keys() else {}


def _text_column(row: Mapping[str, Any]) -> dict[str, str]:
    named = _text_columns(row)
    return next(({"text": named[name]} for name in _TEXTS if name in named), {})


def _text_columns(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns that may hold texts, by their names in small letters."""
    return {str(name).lower(): str(name) for name, value in row.items() if value is None or isinstance(value, str)}


def _checked(fields: Mapping[str, str], layout: str) -> Mapping[str, str]:
    allowed = _LAYOUTS[layout].required + _LAYOUTS[layout].optional
    for name in fields:
        if name not in allowed:
            raise UserError(f"data.fields.{name}: no field of the {layout} layout; allowed: {', '.join(allowed)}")
    return fields


def _read(row: Mapping[str, Any], layout: _Layout, name: str, fields: Mapping[str, str]) -> dict[str, Any]:
    paths = {field: fields.get(field, field) for field in layout.required + layout.optional}
    values = {field: _value_at_path(row, path) for field, path in paths.items()}
    missing = [paths[field] for field in layout.required if values[field] is _ABSENT]
    if missing:
        raise RowError(
            f"lacks {_listed(missing)} (layout {name}); it has {_listed(row)}: "
            "name another data.layout or map the columns with data.fields"
        )
    return values


def _value_at_path(row: Any, path: str) -> Any:
    """Return the value at a path such as `instances[0].input`, or `_ABSENT` if the path does not exist."""
    value = row
    if path in row:  # a column whose name contains dots
        return row[path]
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = value[int(index)] if index else value[key]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return value


def _alpaca(values: dict[str, Any]) -> tuple[Message, ...]:
    request = _text(values, "instruction")
    context = _text(values, "input")
    question = f"{request}\n\n{context}" if context.strip() else request
    turns = Message("user", question), Message("assistant", _text(values, "output"))
    return (*_system(values, "system"), *_history(values), *turns)


def _skolegpt(values: dict[str, Any]) -> tuple[Message, ...]:
    turns = Message("user", _text(values, "question")), Message("assistant", _text(values, "response"))
    return (*_system(values, "system_prompt"), *turns)


def _completion(values: dict[str, Any]) -> tuple[Message, ...]:
    """Return a prompt and its completion: texts, which are trained as they are, or lists of turns (TRL has both)."""
    prompt, completion = values["prompt"], values["completion"]
    if not isinstance(prompt, (list, tuple)):
        return Message("user", _text(values, "prompt")), Message("assistant", _text(values, "completion"))
    if not isinstance(completion, (list, tuple)):
        completion = [{"role": "assistant", "content": _text(values, "completion")}]
    asked = [
        replace(turn, trained=turn.trained and turn.role != "assistant")
        for turn in _turns(prompt, "prompt", "role", "content")
    ]
    return (*asked, *_turns(completion, "completion", "role", "content"))


def _plain_text(values: dict[str, Any]) -> tuple[Message, ...]:
    return (Message("assistant", _text(values, "text")),)


def _nonempty(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the turns of a raw sample without an empty prompt; () if there is nothing to train on."""
    return tuple(turn for turn in messages if turn.content) if messages[-1].content.strip() else ()


def _chat(values: dict[str, Any]) -> tuple[Message, ...]:
    return _with_system(values, _turns(values["messages"], "messages", "role", "content"))


def _sharegpt(values: dict[str, Any]) -> tuple[Message, ...]:
    """Return the turns of a column that some tables fill with OpenAI's turns instead of ShareGPT's."""
    turns = _unpacked(values["conversations"])
    first = turns[0] if isinstance(turns, (list, tuple)) and turns else None
    keys = ("role", "content") if _is_openai_turn(first) else ("from", "value")
    return _with_system(values, _turns(turns, "conversations", *keys))


def _is_openai_turn(turn: Any) -> bool:
    """Decide by the names; in a table that has both kinds of turns, those of the other kind are there and empty."""
    if not isinstance(turn, Mapping) or turn.get("role") is None:
        return False
    return "content" in turn or "value" not in turn


def _system(values: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    system = _text(values, column)
    return (Message("system", system),) if system.strip() else ()


def _with_system(values: Mapping[str, Any], turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put the system column first, unless the conversation begins with a system turn."""
    own = bool(turns) and turns[0].role == "system"
    return turns if own else (*_system(values, "system"), *turns)


def _history(values: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the earlier turns of an alpaca row: a list of [question, answer]."""
    pairs = values["history"]
    if pairs is None or pairs is _ABSENT or pairs == "":
        return ()
    turns: list[Message] = []
    for i, pair in enumerate(pairs if isinstance(pairs, (list, tuple)) else [pairs]):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RowError(f"has {_kind(pair)} as history[{i}]; give a list of [question, answer]")
        texts: dict[str, Any] = dict(zip(("question", "answer"), pair, strict=True))
        turns += [Message("user", _text(texts, "question")), Message("assistant", _text(texts, "answer"))]
    return tuple(turns)


def _tools(values: Mapping[str, Any]) -> str | None:
    """Return the tools column as JSON: a list of functions, or that list as a text."""
    tools = values.get("tools")
    if tools is None or tools is _ABSENT or tools in ("", []):
        return None
    if isinstance(tools, str):
        with contextlib.suppress(ValueError):
            tools = json.loads(tools)
    if not isinstance(tools, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RowError(f"has {_kind(tools)} in tools; give a list of functions, or that list as JSON")
    return json.dumps(tools, sort_keys=True) if tools else None


def _turns(turns: Any, column: str, role: str, content: str) -> tuple[Message, ...]:
    if isinstance(turns, str):  # as in a CSV file
        with contextlib.suppress(ValueError):
            turns = json.loads(turns)
    if not isinstance(turns, (list, tuple)):
        raise RowError(f"has {_kind(turns)} in {column}; give a list of {{{role}, {content}}}")
    messages = []
    for i, turn in enumerate(turns):
        calls = _calls(turn, f"{column}[{i}]") if isinstance(turn, Mapping) else None
        if not isinstance(turn, Mapping) or role not in turn or (content not in turn and calls is None):
            what = f"has {_listed(turn)}" if isinstance(turn, Mapping) else f"is {_kind(turn)}"
            raise RowError(f"has a turn {column}[{i}] that {what}; give {role} and {content}")
        if not isinstance(turn[role], str) or turn[role] not in _ROLES:
            raise RowError(f"has {turn[role]!r} as {column}[{i}].{role}; allowed: {', '.join(_ROLES)}")
        for name in _UNSHOWN:
            if turn.get(name):
                raise RowError(f"has {column}[{i}].{name}; write it into its {content}, as the template shows it")
        text = _text({content: _joined(turn.get(content), f"{column}[{i}].{content}")}, content)
        if turn[role] in _CALLING and calls is None:
            calls = _calls({"function_call": text}, f"{column}[{i}]")
            text = "" if calls is not None else text
        messages.append(Message(_ROLES[turn[role]], text, _trained(turn, f"{column}[{i}]"), calls))
    return tuple(messages)


def _joined(content: Any, place: str) -> Any:
    """Return the text of a content in parts, as OpenAI writes it; other contents as they are."""
    if not isinstance(content, (list, tuple)) or not content or not all(isinstance(part, Mapping) for part in content):
        return content
    texts = []
    for i, part in enumerate(content):
        kind, text = part.get("type"), part.get("text")
        if kind is not None and kind not in _TEXT_PARTS:
            raise RowError(f"has a part of type {kind} in {place}; give texts")
        if text is not None and not isinstance(text, str):
            raise RowError(f"has {_kind(text)} in {place}[{i}].text; give a text")
        texts.append(text or "")
    return "".join(texts)


def _calls(turn: Mapping[str, Any], place: str) -> str | None:
    """Return the calls of an answer, or what names the call of a result, as templates read them; None without any.

    OpenAI writes the arguments of a call as a text of JSON; templates expect what it holds.
    """
    found = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    found = _unpacked(found)
    calls = []
    for call in found if isinstance(found, (list, tuple)) else [found]:
        call = _unpacked(call)
        inner = _unpacked(call.get("function", call)) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            if "tool_calls" not in turn and isinstance(turn.get("function_call"), str):
                return None  # a text that is no call
            raise RowError(f"has {_kind(call)} in {place}.tool_calls; give a list of {{name, arguments}}")
        function = {"name": inner["name"], "arguments": _unpacked(inner.get("arguments") or {})}
        named = {"id": call["id"]} if isinstance(call, Mapping) and isinstance(call.get("id"), str) else {}
        calls.append({**named, "type": "function", "function": function})
    extra: dict[str, Any] = {"tool_calls": calls} if calls else {}
    if turn.get("role") in ("tool", "function"):
        extra |= {key: turn[key] for key in ("name", "tool_call_id") if isinstance(turn.get(key), str)}
    return json.dumps(extra, ensure_ascii=False) if extra else None


def _unpacked(value: Any) -> Any:
    """Return what a text of JSON holds; any other value as it is, without the empty fields that tables fill in."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            held = json.loads(value)
            return held if isinstance(held, (dict, list)) else value
    if isinstance(value, Mapping):
        return {key: item for key, item in value.items() if item is not None}
    return value


def _trained(turn: Mapping[str, Any], place: str) -> bool:
    """Return whether the loss is on a turn. `weight` is OpenAI's name; `train` and `training` are Axolotl's."""
    for name in ("weight", "train", "training"):
        value = turn.get(name)
        if value is not None and value not in (0, 1):  # true and false are 1 and 0
            raise RowError(f"has {value!r} as {place}.{name}; give 1 (trained) or 0 (shown, not trained)")
        if value is not None:
            return bool(value)
    return True


def _trim_to_answers(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Drop answers before the first question and unanswered questions at the end.

    Return () if no answer is left that is to be trained.
    """
    turns = list(messages)
    asked = next((i for i, turn in enumerate(turns) if turn.role == "user"), len(turns))
    turns = [turn for turn in turns[:asked] if turn.role == "system"] + turns[asked:]
    while turns and not (turns[-1].role == "assistant" and (turns[-1].content.strip() or turns[-1].calls)):
        turns.pop()
    return tuple(turns) if any(turn.role == "assistant" and turn.trained for turn in turns) else ()


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values[name]
    if value is None or value is _ABSENT:
        return ""
    if not isinstance(value, str):
        raise RowError(f"has {_kind(value)} in {name}; give a text")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can write half of a surrogate pair; no tokenizer can read it
        raise RowError(f"has half a character in {name} (a lone \\ud800 to \\udfff); repair the text") from None
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _listed(names: Iterable[Any]) -> str:
    listed = [str(name) for name in sorted(names, key=str)]
    return ", ".join(listed[:12]) + (" …" if len(listed) > 12 else "") if listed else "nothing"


_LAYOUTS = {
    "chat": _Layout(("messages",), ("system", "tools"), _chat),
    "sharegpt": _Layout(("conversations",), ("system", "tools"), _sharegpt),
    "skolegpt": _Layout(("question", "response"), ("system_prompt",), _skolegpt),
    "alpaca": _Layout(("instruction", "output"), ("input", "system", "history", "tools"), _alpaca),
    "completion": _Layout(("prompt", "completion"), ("tools",), _completion),
    "text": _Layout(("text",), (), _plain_text),
}
_RAW = ("completion", "text")  # layouts whose texts are trained as they are
