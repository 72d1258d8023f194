"""Count how often the runs that `needs` asks for decide, made as asked: `python -m benchmarks.needs_as_asked`.

Tables of known truth that leave a claim undecided, because they lack levels, repeats or range or are too noisy. The
runs that the claim asks for are drawn from the same truth, and the claim is decided again on both.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator

from analysis.claims.decide import decide
from analysis.claims.registry import CLAIMS
from analysis.claims.verdicts import Claim, Options, Verdict
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import SMALL, Sweep, curve, geometric, noisy

CURVE_CLAIMS = ("linear_in_samples", "linear_in_epochs", "doubling_doubles", "samples_epochs_interchangeable")


@dataclass(frozen=True, kw_only=True)
class OpenTable:
    """Runs of E = fixed + n^b (in units of the smallest run) with scatter `cv`, and a claim on them with its truth."""

    name: str
    sweep: Callable[[Generator], pd.DataFrame]
    claim: str
    due: Verdict
    fixed: float = 0.25
    b: float = 1.0
    cv: float = 0.02
    lacks_levels: bool = False

    def draw(self, rng: Generator, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the runs with energies of this truth."""
        energy = curve(frame, fixed=self.fixed, b=self.b, b_epochs=self.b)
        return frame.assign(energy_kwh=noisy(rng, energy, self.cv))


def _collinear(rng: Generator) -> pd.DataFrame:
    parts = [Sweep(samples=(32 * 2**i,), epochs=(2**i,), zero=0).draw(rng) for i in range(5)]
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(run_id=[f"run-{i}" for i in range(len(frame))], order=rng.permutation(len(frame)))


FEW: dict[str, Callable[[Generator], pd.DataFrame]] = {
    "three runs": Sweep(samples=(32, 128, 512), replicates=1, zero=0).draw,
    "samples and epochs together": _collinear,
    "no repeats": Sweep(samples=geometric(32, 16, 5), replicates=1, zero=0).draw,
    "two levels": Sweep(samples=(64, 256), replicates=3, zero=0).draw,
    "a factor of four": Sweep(samples=geometric(100, 4, 5), replicates=2, zero=0).draw,
    "two numbers of epochs": Sweep(samples=(64,), epochs=(1, 4), replicates=3, zero=0).draw,
}
TRUTHS: tuple[tuple[float, Verdict], ...] = ((1.0, "supported"), (0.85, "refuted"))
IDLE = Sweep(samples=geometric(32, 16, 5), replicates=2).draw
TABLES: tuple[OpenTable, ...] = (
    *(
        OpenTable(name=name, sweep=sweep, claim=claim, b=b, due=due, lacks_levels=True)
        for name, sweep in FEW.items()
        for b, due in TRUTHS
        for claim in CURVE_CLAIMS[:2]
    ),
    *(
        OpenTable(name=name, sweep=sweep, claim="doubling_doubles", fixed=1.0, due="refuted", lacks_levels=True)
        for name, sweep in FEW.items()
    ),
    OpenTable(name="noisy", sweep=SMALL.draw, claim="linear_in_samples", fixed=0.05, cv=0.05, due="supported"),
    OpenTable(name="noisy", sweep=SMALL.draw, claim="linear_in_samples", cv=0.03, due="supported"),
    OpenTable(name="large fixed cost", sweep=SMALL.draw, claim="linear_in_samples", fixed=2.0, due="supported"),
    OpenTable(name="noisy", sweep=SMALL.draw, claim="linear_in_samples", b=0.85, cv=0.03, due="refuted"),
    OpenTable(name="noisy", sweep=SMALL.draw, claim="doubling_doubles", fixed=0.02, cv=0.08, due="supported"),
    OpenTable(name="noisy, runs of zero steps", sweep=IDLE, claim="linear_in_samples", cv=0.05, due="supported"),
    OpenTable(name="noisy, runs of zero steps", sweep=IDLE, claim="linear_in_samples", b=0.85, cv=0.05, due="refuted"),
    OpenTable(name="noisy, runs of zero steps", sweep=IDLE, claim="linear_in_samples", b=1.15, cv=0.05, due="refuted"),
)


def run_as_asked(table: OpenTable, seed: int) -> str:
    """Return how one draw ends: right, wrong, still open, decided before, or nothing to run."""
    rng = np.random.default_rng([TABLES.index(table), seed])
    frame = table.draw(rng, table.sweep(rng))
    claim = _decided(frame, table.claim)
    if claim.verdict != "undecided":
        return "decided before"
    if claim.needs is None or not claim.needs.settings:
        return "nothing to run"
    asked = pd.DataFrame(
        [
            {
                "samples": setting["samples"],
                "epochs": setting["epochs"],
                "samples_seen": 0 if "max_steps" in setting else setting["samples"] * setting["epochs"],
            }
            for setting in claim.needs.settings
            for _ in range(setting["runs"])
        ]
    )
    more = table.draw(rng, asked.assign(run_id=[f"more-{i}" for i in range(len(asked))]))
    verdict = _decided(pd.concat([frame.drop(columns="order"), more], ignore_index=True), table.claim).verdict
    return {table.due: "right", "undecided": "still open"}.get(verdict, "wrong")


def _decided(frame: pd.DataFrame, claim_id: str) -> Claim:
    asked = [claim for claim in CLAIMS if claim.id in CURVE_CLAIMS]
    report = decide(table_from_frame(frame), Options(), asked)
    return next(claim for claim in report.claims if claim.id == claim_id)


def main(argv: Sequence[str] | None = None) -> int:
    """Print how the draws of each table ended; the exit status is 1 if a verdict was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.needs_as_asked", description=__doc__)
    parser.add_argument("--seeds", type=int, default=8, help="draws of each table")
    args = parser.parse_args(argv)
    totals: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for table in TABLES:
        ended = Counter(run_as_asked(table, seed) for seed in range(args.seeds))
        totals[table.lacks_levels] += ended
        print(f"{table.name:<28} {table.claim:<18} b = {table.b:<5g}", *_shares(ended), flush=True)
    for lacks, what in ((True, "lack levels, repeats or range"), (False, "lack precision")):
        print(f"Tables that {what}:", *_shares(totals[lacks]))
    return int(any(ended["wrong"] for ended in totals.values()))


def _shares(ended: Counter[str]) -> list[str]:
    return [f"{count} {how}" for how, count in sorted(ended.items())]


if __name__ == "__main__":
    sys.exit(main())
