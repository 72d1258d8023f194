"""Measure how well one published speed predicts the others of its source: `measured=` on published runs.

    python -m benchmarks.measured_coverage [--source TEXT]

Of each source with several times, pairs of rows are drawn: the speed of one is given as `measured=`, with its settings,
and the time of the other is estimated.
"""

import argparse
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.published_tables import config_of
from lora_scaling.estimate import estimate
from lora_scaling.estimate.measured import Measured
from lora_scaling.estimate.validate import published_rows

_PAIRS = 30  # of a source
_SEED = 1


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """A time that was estimated from the speed of another row: its log error, and the interval."""

    log_error: float
    inside: bool
    width: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measured_coverage", description=__doc__)
    parser.add_argument("--source", default="", help="only the sources whose name holds this text")
    text = parser.parse_args(arguments).source
    shares, widths = [], []
    for source, rows in _timed(text).items():
        found = results(rows)
        if not found:
            continue
        shares.append(statistics.fmean(one.inside for one in found))
        widths.append(statistics.median(one.width for one in found))
        error = math.exp(statistics.median(abs(one.log_error) for one in found))
        print(f"{source:28} {len(found):3} pairs, {shares[-1]:4.0%} inside, width {widths[-1]:.2f}, error ×{error:.2f}")
    if shares:
        print(f"by source: {statistics.fmean(shares):.0%} inside, median width {statistics.median(widths):.2f}")


def _timed(text: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for row in published_rows():
        if row["quantity"] == "train s" and text in row["source"]:
            found.setdefault(row["source"], []).append(row)
    return found


def results(rows: Sequence[Mapping[str, str]]) -> list[PairResult]:
    """Estimate rows of one source from others of it."""
    pairs = [(one, other) for one in rows for other in rows if one is not other]
    random.Random(_SEED).shuffle(pairs)
    return [_pair(one, other) for one, other in pairs[:_PAIRS]]


def _pair(known: Mapping[str, str], asked: Mapping[str, str]) -> PairResult:
    config = config_of(known)
    steps = estimate(config).work["steps"]
    measured = Measured(text=known["id"], unit="s_per_step", value=float(known["value"]) / steps, config=config)
    answer = estimate(config_of(asked), stack=asked["stack"], measured=measured)
    assert answer.time_s is not None
    seconds, whole = float(asked["value"]), answer.time_s
    share = answer.parts["train"].seconds / whole.estimate
    return PairResult(
        log_error=math.log(answer.parts["train"].seconds / seconds),
        inside=whole.low * share <= seconds <= whole.high * share,
        width=whole.ratio,
    )


if __name__ == "__main__":
    main()
