"""Rows into bins and batches, and what a batch holds."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lora_scaling.config import RunConfig

IGNORED = -100  # PyTorch's cross entropy leaves out this label

Row = dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class BatchCounts:
    """`tokens` of samples, `padding` beside them, and `pairs` = rows x length², which attention works on."""

    tokens: int
    padding: int
    pairs: int


def pack(rows: Sequence[Row], limit: int) -> list[Row]:
    """Several samples in a row of at most `limit` tokens: best fit, longest first.

    Positions start again with every sample. Without an attention mask and a cache (`use_cache` false),
    transformers takes a position that does not follow its predecessor as the start of another sequence, and
    confines attention to it: one block of the causal mask for each sample. The first label of each sample is
    `IGNORED` already, so that no sample's end predicts the next one's beginning.

    Args:
        rows: `input_ids` and `labels` of 2 to `limit` tokens each.

    Raises:
        ValueError: a row is shorter or longer than that.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), ordered
    for index in sorted(range(len(rows)), key=lambda i: (-len(rows[i]["input_ids"]), i)):
        length = len(rows[index]["input_ids"])
        if not 2 <= length <= limit:
            raise ValueError(f"a row of {length} tokens cannot be packed into {limit}")
        place = bisect_left(room, (length, -1))
        if place == len(room):
            bins.append([])
            left, chosen = limit, len(bins) - 1
        else:
            left, chosen = room.pop(place)
        bins[chosen].append(index)
        if left - length >= 2:
            insort(room, (left - length, chosen))
    return [_joined([rows[i] for i in sorted(members)]) for members in bins]


def _joined(rows: Sequence[Row]) -> Row:
    return {
        "input_ids": [token for row in rows for token in row["input_ids"]],
        "labels": [label for row in rows for label in row["labels"]],
        "position_ids": [position for row in rows for position in range(len(row["input_ids"]))],
    }


class Collator:
    """Rows → tensors of shape (rows, length), padded on the right.

    Not packed: `input_ids`, `attention_mask`, `labels`. Packed: `input_ids`, `labels`, `position_ids`, where
    every padding token has position 0, a sequence of its own; a packed sample has two tokens at least, so
    that it never ends at position 0 and padding can be told apart from it.
    """

    def __init__(self, pad_id: int, config: RunConfig) -> None:
        self._pad_id = pad_id
        self._packed = config.packing
        self._length = config.max_seq_len if config.padding == "max_length" else None

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        length = self._length or max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": _padded([row["input_ids"] for row in rows], length, self._pad_id),
            "labels": _padded([row["labels"] for row in rows], length, IGNORED),
        }
        if self._packed:
            batch["position_ids"] = _padded([row["position_ids"] for row in rows], length, 0)
        else:
            kept = torch.tensor([[len(row["input_ids"])] for row in rows])  # (rows, 1)
            batch["attention_mask"] = (torch.arange(length) < kept).long()
        return batch


def _padded(values: Sequence[list[int]], length: int, filler: int) -> torch.Tensor:
    return torch.tensor([value + [filler] * (length - len(value)) for value in values], dtype=torch.long)


def batch_counts(batch: dict[str, torch.Tensor]) -> BatchCounts:
    """Exact counts of a batch that `Collator` made."""
    rows, length = batch["input_ids"].shape
    if "attention_mask" in batch:
        tokens = int(batch["attention_mask"].sum())
    else:
        # The last token of a row's samples is the last whose position is not 0.
        ends = (batch["position_ids"] != 0) * torch.arange(1, length + 1, device=batch["position_ids"].device)
        tokens = int(ends.amax(dim=1).sum())
    return BatchCounts(tokens=tokens, padding=rows * length - tokens, pairs=rows * length * length)
