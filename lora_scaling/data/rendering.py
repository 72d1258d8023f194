"""Render conversations as text, with a chat template or plainly, and locate the answers in the text."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from jinja2.exceptions import TemplateError

from lora_scaling.data.layouts import Message, Sample
from lora_scaling.errors import UserError

Render = Callable[[Sequence[Sample], bool], list[str]]  # (conversations, open the next answer?) → texts
Answers = dict[int, tuple[int, int]]  # number of the turn → half-open range of characters

# Two contents that share neither their first nor their last letter with each other.
_PROBES = ("Qbxj7Z", "Kvwq4M")


def find_answers(
    samples: Sequence[Sample], render: Render, marks: Collection[str] = ()
) -> tuple[list[str], list[Answers]]:
    """Render texts, and return for each the ranges of its answers, by the number of the turn and in order.

    An answer starts where the text of the turns before it ends, opened for an answer. It ends, with its end mark, where
    the text of the turns up to it ends. Where the whole text does not begin with both, because the template rewrites
    earlier turns, the turn is located by changing its content (`_located`). An answer that is not found has no range.

    marks: special tokens of the tokenizer. An answer that the template does not end itself ends with the one that
        follows, which opens the next turn and is where the model has to stop.
    """
    texts = [text.rstrip() for text in render(samples, False)]
    turns = [
        (index, turn)
        for index, sample in enumerate(samples)
        for turn, message in enumerate(sample.messages)
        if message.role == "assistant"
    ]
    before = render([_up_to(samples[index], turn) for index, turn in turns], True)
    inner = [(index, turn) for index, turn in turns if turn + 1 < len(samples[index].messages)]
    after = dict(zip(inner, render([_up_to(samples[i], t + 1) for i, t in inner], False), strict=True))
    ranges: list[Answers] = [{} for _ in texts]
    for (index, turn), prefix in zip(turns, before, strict=True):
        text, sample = texts[index], samples[index]
        until = after.get((index, turn), text).rstrip()
        if text.startswith(prefix) and text.startswith(until) and len(prefix) < len(until):
            end = len(until)
            if not until.endswith(tuple(marks)) and _through_mark(text, end, marks) > end:
                end = end if _closing(sample, turn, render) else _through_mark(text, end, marks)
            found = len(prefix), end
        else:
            found = _located_answer(sample, turn, text, render, marks)
        floor = max((end for _, end in ranges[index].values()), default=0)
        if found is not None and found[1] > max(found[0], floor):
            ranges[index][turn] = (max(found[0], floor), found[1])
    return texts, ranges


def _up_to(sample: Sample, turn: int) -> Sample:
    return replace(sample, messages=sample.messages[:turn])


def _located_answer(
    sample: Sample, turn: int, text: str, render: Render, marks: Collection[str]
) -> tuple[int, int] | None:
    """Find an answer in a text whose beginning differs from the text of the turns up to it.

    What opens and what ends an answer are taken from the texts of the turns up to it, as far as the whole text agrees.
    """
    content = _located(sample, turn, text, render)
    if content is None:
        return None
    start, end = content
    asked = _located(sample, turn - 1, text, render)
    if asked is not None and asked[1] > start:  # the content changes more of the text than its own turn
        return None
    if asked is not None:
        opening = _after_probe(_up_to(sample, turn), turn - 1, render, True)
        start = asked[1] + common_length(opening, text[asked[1] : start])
    if turn + 1 == len(sample.messages):
        return start, len(text)
    closing = _closing(sample, turn, render)
    if closing and text.startswith(closing, end):
        return start, end + len(closing)
    return start, _through_mark(text, end, marks)


def _located(sample: Sample, turn: int, text: str, render: Render) -> tuple[int, int] | None:
    """Return the range of a turn's content in the text: what differs if the content is another; None if not shown."""
    others = [other.rstrip() for other in render([_with_content(sample, turn, probe) for probe in _PROBES], False)]
    if any(probe not in other for probe, other in zip(_PROBES, others, strict=True)):
        return None
    start = min(common_length(other, text) for other in others)
    after = min(common_length(other[start:][::-1], text[start:][::-1]) for other in others)
    return start, len(text) - after


def _with_content(sample: Sample, turn: int, content: str) -> Sample:
    messages = list(sample.messages)
    messages[turn] = replace(messages[turn], content=content)
    return replace(sample, messages=tuple(messages))


def _closing(sample: Sample, turn: int, render: Render) -> str:
    """Return what the template writes after an answer that is the last turn."""
    return _after_probe(_up_to(sample, turn + 1), turn, render, False).rstrip()


def _after_probe(sample: Sample, turn: int, render: Render, opened: bool) -> str:
    """Return what follows the content of a turn in the text of a conversation."""
    (text,) = render([_with_content(sample, turn, _PROBES[0])], opened)
    return text.rpartition(_PROBES[0])[2]


def _through_mark(text: str, end: int, marks: Collection[str]) -> int:
    """Return the end of the special token that follows, white space aside; `end` if none does."""
    following = len(text) - len(text[end:].lstrip())
    lengths = [len(mark) for mark in marks if mark and text.startswith(mark, following)]
    return following + max(lengths) if lengths else end


def chat_renderer(tokenizer: Any) -> Render:
    """Render with the tokenizer's chat template. A system turn that it leaves out stands before the first question.

    Raises:
        UserError: while rendering, if the template refuses a conversation even without its system turn.
    """

    drops_system = _drops_system(tokenizer)

    def apply(samples: Sequence[Sample], opened: bool) -> list[str]:
        if drops_system:
            samples = [_without_system(sample) for sample in samples]
        if any(sample.tools for sample in samples):
            return [_apply(tokenizer, [sample], opened, json.loads(sample.tools or "null"))[0] for sample in samples]
        return _apply(tokenizer, samples, opened, None) if samples else []

    def render(samples: Sequence[Sample], opened: bool) -> list[str]:
        try:
            return apply(samples, opened)
        except TemplateError:
            pass
        try:  # many templates have no system turn, so put it before the first question
            return apply([_without_system(sample) for sample in samples], opened)
        except TemplateError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"chat_template: got true, and the tokenizer's template refuses a conversation ({reason}); "
                "set chat_template=false"
            ) from None

    return render


def _drops_system(tokenizer: Any) -> bool:
    """Return whether the template shows no system turn in a conversation that ends with an answer."""
    turns = Message("system", _PROBES[0]), Message("user", "a"), Message("assistant", "b")
    try:
        return _PROBES[0] not in _apply(tokenizer, [Sample(messages=turns)], False, None)[0]
    except TemplateError:
        return False  # it is refused, which is seen where there is one


def turns_of(sample: Sample) -> list[dict[str, Any]]:
    """Return the messages as a chat template reads them."""
    return [
        {"role": message.role, "content": message.content, **json.loads(message.calls or "{}")}
        for message in sample.messages
    ]


def _apply(tokenizer: Any, samples: Sequence[Sample], opened: bool, tools: Any) -> list[str]:
    return tokenizer.apply_chat_template(
        [turns_of(sample) for sample in samples], tools=tools, tokenize=False, add_generation_prompt=opened
    )


def _without_system(sample: Sample) -> Sample:
    system = [message.content for message in sample.messages if message.role == "system"]
    rest = [message for message in sample.messages if message.role != "system"]
    if system and rest:
        rest[0] = replace(rest[0], content="\n\n".join([*system, rest[0].content]))
    return replace(sample, messages=tuple(rest))


def plain_renderer(tokenizer: Any) -> Render:
    """Render in Alpaca's format: headings for requests and responses, and an end mark after every response."""
    eos = tokenizer.eos_token or ""
    before = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n", "tool": "### Result:\n"}
    after = {"system": "\n\n", "user": "\n\n", "assistant": f"{eos}\n\n", "tool": "\n\n"}

    def written(message: Message) -> str:
        calls = [json.dumps(call["function"]) for call in json.loads(message.calls or "{}").get("tool_calls", ())]
        text = "\n".join([*([message.content] if message.content else []), *calls])
        return before[message.role] + text + after[message.role]

    def render(samples: Sequence[Sample], opened: bool) -> list[str]:
        tail = before["assistant"] if opened else ""
        return [
            (f"### Tools:\n{sample.tools}\n\n" if sample.tools else "") + "".join(map(written, sample.messages)) + tail
            for sample in samples
        ]

    return render


def raw_renderer() -> Render:
    """Render as the texts of the turns, one after the other."""

    def render(samples: Sequence[Sample], opened: bool) -> list[str]:
        return ["".join(message.content for message in sample.messages) for sample in samples]

    return render


def common_length(prefix: Sequence[Any], whole: Sequence[Any]) -> int:
    """Return the length of the common beginning. A token that straddles the end of a prefix belongs to what follows."""
    if whole[: len(prefix)] == prefix:
        return len(prefix)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prefix, whole, strict=False)))
