"""Turn conversations into rows of token ids and labels, and account for every token.

A sample's tokens are those of its whole text. Its labels are the tokens to be predicted. A label is `IGNORED` for the
first token, which nothing precedes. With loss on the answers only, it is also `IGNORED` for every token outside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from lora_scaling.config import RunConfig
from lora_scaling.data.rendering import chat_renderer, common_length, find_answers, plain_renderer, raw_renderer
from lora_scaling.data.samples import Sample
from lora_scaling.data.synthetic import prompt_tokens
from lora_scaling.errors import UserError
from lora_scaling.training.batches import IGNORED, TokenRow, pack
from lora_scaling.training.generated import generated_answers

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
    """Token ids, and half-open ranges of them, in order and disjoint.

    answers: ranges with loss. silent: ranges of answers without (a message of weight 0). lost: number of answers that
    were not found in the text.
    """

    ids: list[int]
    answers: list[tuple[int, int]]
    silent: list[tuple[int, int]] = field(default_factory=list)
    lost: int = 0


def tokenize(
    samples: Sequence[Sample], tokenizer: Any, config: RunConfig, *, held_out: bool = False
) -> TokenizedDataset:
    """Make rows of the samples: cut to `max_seq_len`, labelled, and packed if the configuration says so.

    Args:
        tokenizer: a transformers tokenizer; its chat template is used if `chat_template` is true.
        held_out: whether the samples are only evaluated. Without any answer left, their loss is unknown; training
            samples are refused.

    Raises:
        UserError: the chat template refuses the conversations or shows no answer that can be found, `max_seq_len`
            leaves no answer anywhere, or the tokenizer belongs to another model.
    """
    encoded: list[_Encoded] = []
    for start in range(0, len(samples), _CHUNK):
        encoded += _encode(samples[start : start + _CHUNK], tokenizer, use_chat=config.chat_template)
    _refuse_foreign(encoded, config)
    rows = [_row(item, config) for item in encoded]
    lengths = [len(row["input_ids"]) for row in rows]
    trained = [len(row["labels"]) - row["labels"].count(IGNORED) for row in rows]
    lengthless = any(s.target_tokens and not item.answers for s, item in zip(samples, encoded, strict=True))
    if lengthless or (rows and not any(trained) and not held_out):
        _refuse_unanswered(encoded, config)
    warnings = []
    if any(m.calls for sample in samples for m in sample.messages) and not _shows("tool_calls", tokenizer, config):
        text = f"the chat template of this tokenizer does not show the tool calls of {config.data.name}"
        warnings.append(("tool_calls", text))
    if any(sample.tools for sample in samples) and not _shows("tools", tokenizer, config):
        warnings.append(("tools", f"the chat template of this tokenizer does not show the tools of {config.data.name}"))
    cut = sum(not count and bool(item.answers) for count, item in zip(trained, encoded, strict=True))
    return TokenizedDataset(
        rows=pack(rows, config.max_seq_len) if config.packing else rows,
        sample_lengths=lengths,
        truncated=sum(len(item.ids) for item in encoded) - sum(lengths),
        trained=sum(trained),
        unanswered=trained.count(0),
        warnings=warnings + _warnings(cut, sum(item.lost for item in encoded), len(rows), config, held_out=held_out),
    )


def _refuse_unanswered(encoded: Sequence[_Encoded], config: RunConfig) -> None:
    """Say why no sample has anything to train on."""
    if not any(item.answers for item in encoded):
        raise UserError(
            f"chat_template: got true, and the answers of {config.data.name} cannot be found in the text that the "
            "template of this tokenizer makes; set chat_template=false, or for your own data loss_on=all to train on "
            "the whole text"
        )
    raise UserError(
        f"max_seq_len: got {config.max_seq_len}, which cuts off every answer of {config.data.name}; "
        f"raise it (the longest sample has {max(len(item.ids) for item in encoded)} tokens)"
    )


def _refuse_foreign(encoded: Sequence[_Encoded], config: RunConfig) -> None:
    """Raise if the model lacks an embedding for a token, which happens if the tokenizer belongs to another model."""
    largest = max((max(item.ids, default=0) for item in encoded), default=0)
    if config.model.shape is not None and largest >= config.model.shape.vocab_size:
        raise UserError(
            f"model: got {config.model.name}, which has {config.model.shape.vocab_size:,} tokens, but its tokenizer "
            f"gave number {largest:,}; `model.gguf_file` and `model.id` must belong to the model that is named"
        )


def _warnings(cut: int, lost: int, samples: int, config: RunConfig, *, held_out: bool) -> list[tuple[str, str]]:
    warnings = []
    which = "held-out samples" if held_out else "samples"
    if cut:
        cost = "their loss is not measured" if held_out else "they cost energy and teach nothing"
        warnings.append(
            (
                "unanswered",
                f"{cut} of {samples} {which} have no answer left within max_seq_len={config.max_seq_len}: {cost}",
            )
        )
    if lost:
        warnings.append(
            (
                "unmarked_answer",
                f"{lost} answers of the {which} could not be found in the text that the tokenizer's chat template "
                "makes: they are shown but not trained on",
            )
        )
    return warnings


def _row(item: _Encoded, config: RunConfig) -> TokenRow:
    ids = item.ids[: config.max_seq_len]
    if config.loss_on == "all":
        labels = [IGNORED, *ids[1:]]
        for start, end in item.silent:
            labels[start:end] = [IGNORED] * len(labels[start:end])
        return {"input_ids": ids, "labels": labels}
    labels = [IGNORED] * len(ids)
    for start, end in item.answers:
        labels[max(1, start) : end] = ids[max(1, start) : end]
    return {"input_ids": ids, "labels": labels}


def _encode(samples: Sequence[Sample], tokenizer: Any, *, use_chat: bool) -> list[_Encoded]:
    raw = samples[0].raw  # as all of a data set are
    chat = use_chat and not raw and getattr(tokenizer, "chat_template", None) is not None
    render = raw_renderer() if raw else chat_renderer(tokenizer) if chat else plain_renderer(tokenizer)
    texts, ranges = find_answers(samples, render, _marks(tokenizer))
    if chat:
        ranges = generated_answers(samples, tokenizer, texts, ranges)
    full = _ids(tokenizer, texts)
    cuts = [sorted(set(chain(*found.values())) - {len(text)}) for text, found in zip(texts, ranges, strict=True)]
    prefixes = iter(_ids(tokenizer, [text[:cut] for text, at in zip(texts, cuts, strict=True) for cut in at]))
    # A template writes its own first token; plain text gets the one that the tokenizer would add.
    lead = [] if chat else _lead(tokenizer)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id  # looked up once: transformers searches for them
    encoded = []
    for sample, ids, text, found, at in zip(samples, full, texts, ranges, cuts, strict=True):
        place = {cut: len(lead) + common_length(next(prefixes), ids) for cut in at}
        place[len(text)] = len(lead) + len(ids)
        ended = [*lead, *ids]
        if eos is not None and ended[-1:] != [eos]:  # it is part of the answer that it ends
            ended.append(eos)
            place[len(text)] += 1
        spans = [(sample.messages[turn].trained, (place[start], place[end])) for turn, (start, end) in found.items()]
        item = _Encoded(
            ended,
            [span for trained, span in spans if trained],
            [span for trained, span in spans if not trained],
            sum(turn.role == "assistant" and turn.trained for turn in sample.messages)
            - len({turn for turn in found if sample.messages[turn].trained}),
        )
        if sample.target_tokens is not None and item.answers:
            item = _trimmed(item, sample.target_tokens, bos)
        encoded.append(item)
    return encoded


def _shows(name: str, tokenizer: Any, config: RunConfig) -> bool:
    template = getattr(tokenizer, "chat_template", None) if config.chat_template else None
    return template is None or name in str(template)


def _marks(tokenizer: Any) -> frozenset[str]:
    """Return the texts of the tokenizer's special tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return frozenset([*tokenizer.all_special_tokens, *(token.content for token in added if token.special)])


def _lead(tokenizer: Any) -> list[int]:
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _trimmed(item: _Encoded, target: int, bos: int | None) -> _Encoded:
    """Trim a single turn to exactly `target` tokens: the end of its prompt, the start of its answer, its last token."""
    split = item.answers[0][0]
    asked = prompt_tokens(target)
    first = 1 if item.ids[0] == bos else 0
    prompt = item.ids[:first] + item.ids[split - asked + first : split]
    answer = item.ids[split : split + target - asked - 1] + item.ids[-1:]
    return _Encoded(prompt + answer, [(asked, target)])
