"""Turn conversations into rows of token ids and labels, and account for every token.

A sample's tokens are those of its whole text. Its labels are the tokens to be predicted. A label is `IGNORED` for the
first token, which nothing precedes. With loss on the answers only, it is also `IGNORED` for every token outside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from lora_scaling.config import RunConfig
from lora_scaling.data.rendering import chat_renderer, common_length, find_answers, plain_renderer
from lora_scaling.data.samples import Sample
from lora_scaling.data.synthetic import prompt_tokens
from lora_scaling.errors import UserError
from lora_scaling.training.batches import IGNORED, TokenRow, pack

_CHUNK = 2048  # samples rendered and tokenised at once; limits memory at no cost


@dataclass(frozen=True, kw_only=True)
class TokenizedDataset:
    """Rows to train on, and counts of what they hold, for one epoch.

    rows: `input_ids` and `labels` of equal length, and `position_ids` if samples are packed.
    sample_lengths: tokens kept of each sample, in order; packing does not change them.
    truncated: tokens cut off by `max_seq_len`.
    trained: loss positions, which are the labels that are not `IGNORED`. A sample's first label always is, so the
        model's shift by one loses none.
    unanswered: samples that are kept but have no loss position left.
    warnings: (kind, message).
    """

    rows: list[TokenRow]
    sample_lengths: list[int]
    truncated: int
    trained: int
    unanswered: int
    warnings: list[tuple[str, str]]

    @property
    def samples(self) -> int:
        return len(self.sample_lengths)

    @property
    def lengths(self) -> list[int]:
        return [len(row["input_ids"]) for row in self.rows]

    @property
    def tokens(self) -> int:
        return sum(self.sample_lengths)


@dataclass(frozen=True)
class _Encoded:
    """Token ids, and the half-open ranges of them that are answers, in order and disjoint."""

    ids: list[int]
    answers: list[tuple[int, int]]


def tokenize(samples: Sequence[Sample], tokenizer: Any, config: RunConfig) -> TokenizedDataset:
    """Make rows of the samples: cut to `max_seq_len`, labelled, and packed if the configuration says so.

    Args:
        tokenizer: a transformers tokenizer; its chat template is used if `chat_template` is true.

    Raises:
        UserError: the chat template refuses the conversations, `max_seq_len` leaves no answer anywhere, or the
            tokenizer belongs to another model.
    """
    encoded: list[_Encoded] = []
    lost = 0
    for start in range(0, len(samples), _CHUNK):
        part, unmarked = _encode(samples[start : start + _CHUNK], tokenizer, use_chat=config.chat_template)
        encoded += part
        lost += unmarked
    _refuse_foreign(encoded, config)
    rows = [_row(item, config) for item in encoded]
    lengths = [len(row["input_ids"]) for row in rows]
    trained = [len(row["labels"]) - row["labels"].count(IGNORED) for row in rows]
    if rows and not any(trained):
        raise UserError(
            f"max_seq_len: got {config.max_seq_len}, which cuts off every answer of {config.data.name}; "
            f"raise it (the longest sample has {max(len(item.ids) for item in encoded)} tokens)"
        )
    unanswered = trained.count(0)
    return TokenizedDataset(
        rows=pack(rows, config.max_seq_len) if config.packing else rows,
        sample_lengths=lengths,
        truncated=sum(len(item.ids) for item in encoded) - sum(lengths),
        trained=sum(trained),
        unanswered=unanswered,
        warnings=_warnings(unanswered, lost, len(rows), config),
    )


def _refuse_foreign(encoded: Sequence[_Encoded], config: RunConfig) -> None:
    """Raise if the model lacks an embedding for a token, which happens if the tokenizer belongs to another model."""
    largest = max((max(item.ids, default=0) for item in encoded), default=0)
    if config.model.shape is not None and largest >= config.model.shape.vocab_size:
        raise UserError(
            f"model: got {config.model.name}, which has {config.model.shape.vocab_size:,} tokens, but its tokenizer "
            f"gave number {largest:,}; `model.gguf_file` and `model.id` must belong to the model that is named"
        )


def _warnings(unanswered: int, lost: int, samples: int, config: RunConfig) -> list[tuple[str, str]]:
    warnings = []
    if unanswered:
        warnings.append(
            (
                "unanswered",
                f"{unanswered} of {samples} samples have no answer left within "
                f"max_seq_len={config.max_seq_len}: they cost energy and teach nothing",
            )
        )
    if lost:
        warnings.append(
            (
                "unmarked_answer",
                f"{lost} answers could not be found in the text that the tokenizer's chat template makes: "
                "they are shown but not trained on",
            )
        )
    return warnings


def _row(item: _Encoded, config: RunConfig) -> TokenRow:
    ids = item.ids[: config.max_seq_len]
    if config.loss_on == "all":
        return {"input_ids": ids, "labels": [IGNORED, *ids[1:]]}
    labels = [IGNORED] * len(ids)
    for start, end in item.answers:
        labels[max(1, start) : end] = ids[max(1, start) : end]
    return {"input_ids": ids, "labels": labels}


def _encode(samples: Sequence[Sample], tokenizer: Any, *, use_chat: bool) -> tuple[list[_Encoded], int]:
    """Return tokens and answer ranges, and the number of answers not found in their rendered text."""
    chat = use_chat and getattr(tokenizer, "chat_template", None) is not None
    render = chat_renderer(tokenizer) if chat else plain_renderer(tokenizer)
    conversations = [sample.messages for sample in samples]
    texts, ranges = find_answers(conversations, render)
    full = _ids(tokenizer, texts)
    cuts = [sorted(set(chain(*spans)) - {len(text)}) for text, spans in zip(texts, ranges, strict=True)]
    prefixes = iter(_ids(tokenizer, [text[:cut] for text, at in zip(texts, cuts, strict=True) for cut in at]))
    # A template writes its own first token; plain text gets the one that the tokenizer would add.
    lead = [] if chat else _lead(tokenizer)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id  # looked up once: transformers searches for them
    encoded = []
    for sample, ids, text, spans, at in zip(samples, full, texts, ranges, cuts, strict=True):
        place = {cut: len(lead) + common_length(next(prefixes), ids) for cut in at}
        place[len(text)] = len(lead) + len(ids)
        item = _Encoded([*lead, *ids], [(place[start], place[end]) for start, end in spans])
        item = _ended(item, eos, last=bool(spans) and spans[-1][1] == len(text))
        if sample.target_tokens is not None:
            item = _trimmed(item, sample.target_tokens, bos)
        encoded.append(item)
    wanted = sum(message.role == "assistant" for messages in conversations for message in messages)
    return encoded, wanted - sum(map(len, ranges))


def _lead(tokenizer: Any) -> list[int]:
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _ended(item: _Encoded, eos: int | None, *, last: bool) -> _Encoded:
    """End the sample with `eos`, which is part of its last answer."""
    if eos is None or item.ids[-1:] == [eos]:
        return item
    answers = list(item.answers)
    if last:
        answers[-1] = (answers[-1][0], len(item.ids) + 1)
    return _Encoded([*item.ids, eos], answers)


def _trimmed(item: _Encoded, target: int, bos: int | None) -> _Encoded:
    """Trim a single turn to exactly `target` tokens: the end of its prompt, the start of its answer, its last token."""
    split = item.answers[0][0]
    asked = prompt_tokens(target)
    first = 1 if item.ids[0] == bos else 0
    prompt = item.ids[:first] + item.ids[split - asked + first : split]
    answer = item.ids[split : split + target - asked - 1] + item.ids[-1:]
    return _Encoded(prompt + answer, [(asked, target)])
