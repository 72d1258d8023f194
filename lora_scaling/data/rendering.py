"""Render conversations as text, with a chat template or plainly, and locate the answers in the text."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from jinja2.exceptions import TemplateError

from lora_scaling.data.layouts import Message
from lora_scaling.errors import UserError

Conversations = Sequence[tuple[Message, ...]]
Render = Callable[[Conversations, bool], list[str]]  # (conversations, open the next answer?) → texts


def find_answers(conversations: Conversations, render: Render) -> tuple[list[str], list[list[tuple[int, int]]]]:
    """Render texts, and return for each the half-open character ranges of its answers, in order.

    An answer starts at the end of the text of the turns before it, opened for an answer. It ends, with its end mark,
    at the end of the text of the turns up to it. A template that rewrites earlier turns breaks both rules. Then the
    answer's own words are searched for, and an answer that is not found has no range.
    """
    texts = [text.rstrip() for text in render(conversations, False)]
    turns = [
        (index, turn)
        for index, messages in enumerate(conversations)
        for turn, message in enumerate(messages)
        if message.role == "assistant"
    ]
    before = render([conversations[index][:turn] for index, turn in turns], True)
    inner = [(index, turn) for index, turn in turns if turn + 1 < len(conversations[index])]
    after = dict(zip(inner, render([conversations[i][: t + 1] for i, t in inner], False), strict=True))
    ranges: list[list[tuple[int, int]]] = [[] for _ in texts]
    for (index, turn), prefix in zip(turns, before, strict=True):
        text, content = texts[index], conversations[index][turn].content
        floor = ranges[index][-1][1] if ranges[index] else 0
        start = _start(text, prefix, content, floor)
        if start is not None:
            until = after.get((index, turn), text).rstrip()
            ranges[index].append((start, _end(text, until, start, content)))
    return texts, ranges


def _start(text: str, prefix: str, content: str, floor: int) -> int | None:
    if text.startswith(prefix) and len(prefix) >= floor:
        return len(prefix)
    # Some templates open an answer differently than they write an existing one, or rewrite earlier turns.
    agreed = common_length(prefix, text)
    found = text.find(content.strip(), max(agreed, floor))
    return None if found < 0 else found


def _end(text: str, until: str, start: int, content: str) -> int:
    if text.startswith(until) and len(until) > start:
        return len(until)
    return start + len(content.strip())


def chat_renderer(tokenizer: Any) -> Render:
    """Render with the tokenizer's chat template.

    Raises:
        UserError: while rendering, if the template refuses a conversation even without its system turn.
    """

    def apply(conversations: Conversations, opened: bool) -> list[str]:
        if not conversations:
            return []
        turns = [[{"role": m.role, "content": m.content} for m in messages] for messages in conversations]
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opened)

    def render(conversations: Conversations, opened: bool) -> list[str]:
        try:
            return apply(conversations, opened)
        except TemplateError:
            pass
        try:  # many templates have no system turn, so put it before the first question
            return apply([_without_system(messages) for messages in conversations], opened)
        except TemplateError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"chat_template: got true, and the tokenizer's template refuses a conversation ({reason}); "
                "set chat_template=false"
            ) from None

    return render


def _without_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    system = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    if system and rest:
        rest[0] = Message(rest[0].role, "\n\n".join([*system, rest[0].content]))
    return tuple(rest)


def plain_renderer(tokenizer: Any) -> Render:
    """Render in Alpaca's format: headings for requests and responses, and an end mark after every response."""
    eos = tokenizer.eos_token or ""
    before = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}
    after = {"system": "\n\n", "user": "\n\n", "assistant": f"{eos}\n\n"}

    def render(conversations: Conversations, opened: bool) -> list[str]:
        tail = before["assistant"] if opened else ""
        return [
            "".join(before[m.role] + m.content + after[m.role] for m in messages) + tail for messages in conversations
        ]

    return render


def common_length(prefix: Sequence[Any], whole: Sequence[Any]) -> int:
    """Return the length of the common beginning. A token that straddles the end of a prefix belongs to what follows."""
    if whole[: len(prefix)] == prefix:
        return len(prefix)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prefix, whole, strict=False)))
