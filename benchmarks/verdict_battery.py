"""Count how often claims are judged correctly on tables of known truth: `python -m benchmarks.verdict_battery`."""

import argparse
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context

import numpy as np
from scipy.special import bdtrc

from analysis.claims.decide import decide
from analysis.claims.verdicts import Options
from analysis.jsonout import dumps
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import PROCESSES as TABLES
from benchmarks.simulated_tables import ClaimTruth, Process
from benchmarks.tables_in_groups import IN_GROUPS

PROCESSES = (*TABLES, *IN_GROUPS)
MIN_RIGHT, MAX_WRONG = 0.95, 0.05
CHANCE = 1e-3  # 5 % over all rows of the table


@dataclass(frozen=True, kw_only=True)
class ClaimRow:
    """One process × claim: how often each verdict came in `seeds` draws.

    `right` sums the right verdicts. `wrong` is the more frequent wrong verdict, because `supported` and `refuted` each
    have their own error rate.
    """

    process: str
    claim: str
    powered: bool
    expected: str
    seeds: int
    supported: float
    refuted: float
    undecided: float
    right: float
    wrong: float
    warned: float | None

    def passes(self) -> bool:
        """Return whether the criterion is met: right often enough if powered, and wrong seldom enough."""
        right = not self.powered or self.right >= MIN_RIGHT
        warned = self.warned is None or self.warned >= MIN_RIGHT
        return right and warned and self.wrong <= MAX_WRONG

    def compatible(self) -> bool:
        """Return whether these draws could come from a method that meets the criterion (binomial, p > CHANCE).

        With few draws of many processes, some row exceeds 5 % by chance; that is not a failure.
        """
        misses = [self.wrong]
        misses += [1 - self.right] if self.powered else []
        misses += [1 - self.warned] if self.warned is not None else []
        return all(_tail(round(miss * self.seeds), self.seeds) > CHANCE for miss in misses)


def _tail(count: int, seeds: int) -> float:
    """Return P(at least `count` misses in `seeds` draws) if 5 % of the draws miss."""
    return 1.0 if count == 0 else float(bdtrc(count - 1, seeds, MAX_WRONG))


def judge(process: Process, seed: int) -> tuple[dict[str, str], bool]:
    """Return the verdict for each claim of one draw, and whether all expected warnings came."""
    rng = np.random.default_rng([zlib.crc32(process.name.encode()), seed])
    report = decide(table_from_frame(process.make(rng)), Options())
    kinds = {warning.kind for warning in report.warnings}
    return {claim.id: claim.verdict for claim in report.claims}, set(process.warnings) <= kinds


def _judge_many(task: tuple[int, range]) -> list[tuple[dict[str, str], bool]]:
    index, seeds = task
    return [judge(PROCESSES[index], seed) for seed in seeds]


def run_battery(seeds: int, *, workers: int = 1, processes: Sequence[Process] = PROCESSES) -> Iterator[list[ClaimRow]]:
    """Judge every process on `seeds` draws, and yield the rows of one process at a time, in order."""
    chunk = max(1, min(25, seeds))
    tasks = [
        (PROCESSES.index(process), range(start, min(start + chunk, seeds)))
        for process in processes
        for start in range(0, seeds, chunk)
    ]
    with ExitStack() as stack:
        results = map(_judge_many, tasks)
        if workers > 1:
            # spawn: a fork of a process that already has threads (BLAS, pytest plugins) may deadlock
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn")))
            results = pool.map(_judge_many, tasks)
        for index, group in groupby(zip(tasks, results, strict=True), key=lambda pair: pair[0][0]):
            draws = [draw for _, result in group for draw in result]
            process = PROCESSES[index]
            yield [_row(process, claim, truth, draws) for claim, truth in process.truths.items()]


def _row(process: Process, claim: str, truth: ClaimTruth, draws: list[tuple[dict[str, str], bool]]) -> ClaimRow:
    counts = Counter(verdicts[claim] for verdicts, _ in draws)
    share = {verdict: counts[verdict] / len(draws) for verdict in ("supported", "refuted", "undecided")}
    return ClaimRow(
        process=process.name,
        claim=claim,
        powered=truth.powered,
        expected=" or ".join(sorted(truth.right)),
        seeds=len(draws),
        **share,
        right=sum(share[verdict] for verdict in truth.right),
        wrong=max(share[verdict] for verdict in truth.wrong),
        warned=sum(ok for _, ok in draws) / len(draws) if process.warnings else None,
    )


HEAD = f"{'process':<44} {'claim':<31} {'due':<22} {'supp':>5} {'refut':>5} {'undec':>5} {'wrong':>6}"


def render(row: ClaimRow) -> str:
    """Render one line of the table. A verdict in brackets is not required (no power, or a truth on the edge)."""
    due = row.expected if row.powered else f"({row.expected})"
    return (
        f"{row.process:<44} {row.claim:<31} {due:<22} {row.supported:5.3f} {row.refuted:5.3f} "
        f"{row.undecided:5.3f} {row.wrong:6.3f}  {'ok' if row.passes() else 'FAIL'}"
        + ("" if row.warned is None else f" warned {row.warned:.2f}")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the battery; the exit status is 1 if a row fails by more than chance explains."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdict_battery", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="draws of each process")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--only", default="", help="processes whose name contains this")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    chosen = [process for process in PROCESSES if args.only in process.name]
    rows: list[ClaimRow] = []
    if not args.json:
        print(HEAD)
    for found in run_battery(args.seeds, workers=args.workers, processes=chosen):
        rows += found
        if not args.json:
            print("\n".join(map(render, found)), flush=True)
    failed = sum(not row.passes() for row in rows)
    print(dumps(rows) if args.json else f"{len(rows)} rows, {failed} failed; {args.seeds} draws each.")
    return 0 if all(row.compatible() for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
