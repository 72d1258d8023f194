"""Pack rows into bins, collate them into batches, and count what a batch holds."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from lora_scaling.config import RunConfig

IGNORED = -100  # PyTorch's cross entropy ignores this label

TokenRow = dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class BatchCounts:
    """`tokens` of samples, `padding` tokens, `pairs`, which attention computes, and `labels`, which are predicted.

    Pairs are rows x length², or those within each sample of a packed row if attention is told where samples begin.
    """

    tokens: int
    padding: int
    pairs: int
    labels: int


def pack(rows: Sequence[TokenRow], limit: int) -> list[TokenRow]:
    """Pack several samples into each row of at most `limit` tokens: best fit, longest first.

    Positions start again with every sample. Without an attention mask and a cache (`use_cache` false), transformers
    treats a position that does not follow its predecessor as the start of a new sequence, and limits attention to that
    sequence: one block of the causal mask for each sample. The first label of each sample is already `IGNORED`, so the
    end of one sample does not predict the beginning of the next.

    Args:
        rows: `input_ids` and `labels` of 2 to `limit` tokens each.

    Raises:
        ValueError: a row is shorter or longer.
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


def _joined(rows: Sequence[TokenRow]) -> TokenRow:
    return {
        "input_ids": [token for row in rows for token in row["input_ids"]],
        "labels": [label for row in rows for label in row["labels"]],
        "position_ids": [position for row in rows for position in range(len(row["input_ids"]))],
    }


class Collator:
    """Collate rows into tensors of shape (rows, length), padded on the right.

    Not packed: `input_ids`, `attention_mask`, `labels`. Packed: `input_ids`, `labels`, `position_ids`, where every
    padding token has position 0, so it is a sequence of its own. A packed sample has at least two tokens, so it never
    ends at position 0 and can be distinguished from padding.

    bounded: add where the packed samples begin, for kernels that take rows of variable length (`sample_bounds`).
    """

    def __init__(self, pad_id: int, config: RunConfig, *, bounded: bool = False) -> None:
        self._pad_id = pad_id
        self._packed = config.packing
        self._bounded = bounded and config.packing
        self._length = config.max_seq_len if config.padding == "max_length" else None

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, Any]:
        length = self._length or max(len(row["input_ids"]) for row in rows)
        batch: dict[str, Any] = {
            "input_ids": _padded([row["input_ids"] for row in rows], length, self._pad_id),
            "labels": _padded([row["labels"] for row in rows], length, IGNORED),
        }
        if self._packed:
            batch["position_ids"] = _padded([row["position_ids"] for row in rows], length, 0)
            if self._bounded:
                batch |= sample_bounds([row["position_ids"] for row in rows], length)
        else:
            kept = torch.tensor([[len(row["input_ids"])] for row in rows])  # (rows, 1)
            batch["attention_mask"] = (torch.arange(length) < kept).long()
        return batch


def _padded(values: Sequence[list[int]], length: int, filler: int) -> torch.Tensor:
    return torch.tensor([value + [filler] * (length - len(value)) for value in values], dtype=torch.long)


def sample_bounds(positions: Sequence[Sequence[int]], length: int) -> dict[str, Any]:
    """Return where the samples of packed rows begin, as transformers hands it to kernels of variable length.

    The rows stand one after the other; the padding of a row is a sample of its own.

    Args:
        positions: of the tokens of each row, which are 0 where a sample begins.
        length: of the rows with their padding.
    """
    bounds = [0]
    for i, row in enumerate(positions):
        starts = [start for start, position in enumerate(row) if position == 0]
        ends = [*starts[1:], len(row)]
        if len(row) < length:
            ends.append(length)
        bounds += [i * length + end for end in ends]
    longest = max(end - start for start, end in pairwise(bounds))
    begins = torch.tensor(bounds, dtype=torch.int32)
    return {"cu_seq_lens_q": begins, "cu_seq_lens_k": begins, "max_length_q": longest, "max_length_k": longest}


def batch_counts(batch: dict[str, Any]) -> BatchCounts:
    """Count exactly what a batch made by `Collator` holds."""
    rows, length = batch["input_ids"].shape
    if "attention_mask" in batch:
        tokens = int(batch["attention_mask"].sum())
    else:
        # The last token of a row's samples is the last whose position is not 0.
        ends = (batch["position_ids"] != 0) * torch.arange(1, length + 1, device=batch["position_ids"].device)
        tokens = int(ends.amax(dim=1).sum())
    labels = int((batch["labels"][:, 1:] != IGNORED).sum())  # nothing precedes the first
    pairs = rows * length * length
    if "cu_seq_lens_q" in batch:
        pairs = int(batch["cu_seq_lens_q"].diff().long().square().sum())
    return BatchCounts(tokens=tokens, padding=rows * length - tokens, pairs=pairs, labels=labels)
