"""Compute how samples of different lengths become batches: tokens, padding, truncation and steps."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import NormalDist

from lora_scaling.errors import UserError

QUANTILES = 512
# transformers' LengthGroupedSampler sorts within at most this many batches, and sorts at least this many times.
MEGA_BATCHES = 50
MEGA_BATCHES_LEAST = 4
EXACT_UP_TO = 128  # rows sorted together; for more, quantiles approximate the order statistics within 0.5 %


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How rows are laid out. `padding` is `longest` (of the batch) or `max_length`; packing removes most padding.

    bounded: attention is told where packed samples begin, and computes no pair of tokens of two samples.
    """

    batch_size: int
    max_seq_len: int
    padding: str = "longest"
    group_by_length: bool = False
    packing: bool = False
    bounded: bool = False


@dataclass(frozen=True, kw_only=True)
class BatchStatistics:
    """Expected values per sample of the training set."""

    tokens: float
    padding: float
    truncated: float
    pairs: float
    rows: float

    @property
    def processed(self) -> float:
        return self.tokens + self.padding


@dataclass(frozen=True)
class Lengths:
    """A distribution of sample lengths in tokens; all values are equally likely."""

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values or min(self.values) < 1:
            raise UserError("data.tokens_per_sample: got a sample of no token; give lengths of at least one token each")
        object.__setattr__(self, "values", tuple(sorted(self.values)))

    @classmethod
    def lognormal(cls, mean: float, cv: float) -> "Lengths":
        """Build the quantiles of a log-normal distribution with this mean (tokens) and coefficient of variation.

        The lengths of instruction data are close to log-normal. The quantiles are rescaled to the exact mean.
        """
        if not mean >= 1 or not cv >= 0:
            raise UserError(
                f"data.tokens_per_sample: got {mean} (cv {cv}); give a mean of 1 or more and a cv of 0 or more"
            )
        sigma = math.sqrt(math.log1p(cv * cv))
        normal = NormalDist()
        raw = [math.exp(sigma * normal.inv_cdf((i + 0.5) / QUANTILES)) for i in range(QUANTILES)]
        scale = mean * QUANTILES / sum(raw)
        return cls(tuple(max(1, round(scale * value)) for value in raw))

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    def statistics(self, batching: Batching, samples: int | None = None) -> BatchStatistics:
        """Compute the expected tokens, padding, truncation and attended pairs per sample.

        samples: size of the training set; None means large. In a small set, length grouping has less to choose from.
        """
        # The sets of a sweep differ in their number of samples, of which most make no difference here.
        return self._statistics(batching, sorted_together(samples, batching.batch_size))

    @lru_cache(maxsize=64)  # noqa: B019 - of a frozen value
    def _statistics(self, batching: Batching, together: int) -> BatchStatistics:
        limit = batching.max_seq_len
        kept = [min(value, limit) for value in self.values]
        tokens = sum(kept) / len(kept)
        truncated = self.mean - tokens
        if batching.packing:
            within = sum(value * value for value in kept) / len(kept)
            return self._packed(tokens, truncated, limit, within if batching.bounded else tokens * limit)
        if batching.padding == "max_length":
            length, square = float(limit), float(limit * limit)
        elif batching.group_by_length:
            length, square = _grouped_maximum(kept, batching.batch_size, together)
        else:
            length, square = _expected_maximum(kept, batching.batch_size)
        padding = max(0.0, length - tokens)  # rounding may leave it a hair below 0
        return BatchStatistics(tokens=tokens, padding=padding, truncated=truncated, pairs=square, rows=1.0)

    def _packed(self, tokens: float, truncated: float, limit: int, pairs: float) -> BatchStatistics:
        # Best-fit packing leaves little room: assume full rows, which is exact in the limit of many samples.
        rows = tokens / limit
        return BatchStatistics(tokens=tokens, padding=0.0, truncated=truncated, pairs=pairs, rows=rows)


def sorted_together(samples: int | None, batch: int) -> int:
    """Return how many batches transformers' length grouping sorts together (`get_length_grouped_indices`)."""
    if samples is None:
        return MEGA_BATCHES
    return max(1, min(samples // (MEGA_BATCHES_LEAST * batch), MEGA_BATCHES))


def _expected_maximum(ordered: Sequence[int], batch: int) -> tuple[float, float]:
    """Return E[max] and E[max²] of `batch` independent draws from equally likely ordered values."""
    return _moments(ordered, lambda p: p**batch)


def _grouped_maximum(ordered: Sequence[int], batch: int, mega: int) -> tuple[float, float]:
    """Return E[max] and E[max²] of batches cut from a sorted mega-batch of `mega` batches."""
    n, size = len(ordered), batch * mega
    if size <= EXACT_UP_TO:
        return _moments(ordered, lambda p: _batches_below(p, batch, mega))
    # Draw the quantiles at (i + 1/2) / size for i below size: count how often each value is drawn.
    starts = [math.ceil(k * size / n - 0.5) for k in range(n + 1)]
    counts = [after - before for before, after in itertools.pairwise(starts)]
    tops = [ordered[min(n - 1, int((batch * (j + 1) - 0.5) / size * n))] for j in range(mega)]
    # Take only the excess over their mean from the drawn samples, because that mean is not exact.
    drawn = sum(count * x for count, x in zip(counts, ordered, strict=True)) / size
    squares = sum(count * x * x for count, x in zip(counts, ordered, strict=True)) / size
    length = sum(ordered) / n + sum(tops) / mega - drawn
    return length, sum(x * x for x in ordered) / n + sum(x * x for x in tops) / mega - squares


def _moments(ordered: Sequence[int], below: Callable[[float], float]) -> tuple[float, float]:
    """Return E[x] and E[x²] of a batch's longest sample x; below(p) is P(x ≤ the p-quantile of the lengths)."""
    n, length, square, before = len(ordered), 0.0, 0.0, 0.0
    for i, value in enumerate(ordered):
        if i + 1 < n and ordered[i + 1] == value:
            continue
        now = below((i + 1) / n)
        length += (now - before) * value
        square += (now - before) * value * value
        before = now
    return length, square


@cache
def _batches_below(p: float, batch: int, mega: int) -> float:
    """Return the expected share of the batches of a sorted mega-batch that lie wholly below the p-quantile.

    This is E[⌊K / batch⌋] / mega, where K, the number of rows below the quantile, is binomial.
    """
    size, expected = batch * mega, 0.0
    low = p <= 0.5  # sum from the likely end, because the first term at the other end would underflow
    odds = p / (1 - p) if low else (1 - p) / p
    probability = (1 - p if low else p) ** size
    for j in range(size + 1):
        expected += probability * ((j if low else size - j) // batch)
        probability *= (size - j) / (j + 1) * odds
    return expected / mega


def step_count(rows: int, *, epochs: int, batch_size: int, gradient_accumulation: int, max_steps: int | None) -> int:
    """Count optimizer steps as `transformers.Trainer` does, including the last, smaller batch and accumulation."""
    micro = math.ceil(rows / batch_size)
    steps = epochs * max(1, math.ceil(micro / gradient_accumulation))
    return steps if max_steps is None else min(steps, max_steps)


def epochs_and_passes(steps: int, passes_an_epoch: int, gradient_accumulation: int) -> tuple[int, int]:
    """Split optimizer steps into whole epochs and the passes of an unfinished one.

    The last step of an epoch may take fewer passes than the others.
    """
    epochs, rest = divmod(steps, math.ceil(passes_an_epoch / gradient_accumulation))
    return epochs, rest * gradient_accumulation
