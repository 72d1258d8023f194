"""Compare adaptive studies with the fixed `linear_claim` sweep, on energies E = F + a·x^b drawn with a known b.

Both decide the same claim at the same margin and confidence level. The adaptive study may use half of the energy that
the sweep is expected to take. The sweep's verdict is not adjusted for the other claims that its table also tests, which
would only reduce its power.

    python -m benchmarks.adaptive_simulation [--seeds 40] [--session 0.04] [--batch 4]

With --session, every start of the study is a session that shifts its runs together: the study is started again after
each look, the sweep after each block of replicates. With --batch, the study makes its runs in batches on as many
workers, each of which is a session from beginning to end, on a device of its own.
"""

import argparse
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.adaptive import LOOKS, Study, advance
from analysis.claims.context import ClaimContext
from analysis.claims.linear import linear
from analysis.claims.verdicts import Options
from analysis.tables.checks import check_rows, suspicious
from analysis.tables.response import choose_response
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import KWH_PER_SAMPLE, Generator
from lora_scaling.adaptive import Point
from lora_scaling.claim_defaults import LEVEL, MARGIN

LEVELS, EPOCHS, REPLICATES = (64, 128, 256, 512, 1024), (1, 2, 4), 3
EXPONENTS, NOISES = (0.9, 0.95, 1.0, 1.05, 1.1), (0.01, 0.03, 0.05)
FIXED_COST = 1.0  # in units of the energy that the smallest run adds
BUDGET_SHARE, MAX_WRONG = 0.5, 0.05
SLACK_SE = 2.0


@dataclass(frozen=True, kw_only=True)
class StudyTruth:
    """E = F + a·x^b with log-normal noise; x is samples × epochs."""

    exponent: float
    noise: float
    fixed: float = FIXED_COST
    session: float = 0.0  # standard deviation of what a session adds, on the log scale
    batch: int = 1  # runs of the adaptive study that are made at once, each by a worker of its own

    def kwh(self, point: Point) -> float:
        """Return the expected energy of a run."""
        work = 0.0 if point.zero else (point.samples * point.epochs / LEVELS[0]) ** self.exponent
        return KWH_PER_SAMPLE * LEVELS[0] * (self.fixed + work)

    @property
    def right(self) -> str | None:
        """The right verdict; None on the edge of the margin."""
        distance = abs(self.exponent - 1) - MARGIN
        return None if abs(distance) < 1e-9 else "supported" if distance < 0 else "refuted"

    @property
    def wrong(self) -> frozenset[str]:
        """The verdicts that may not come more often than the error rate allows."""
        return frozenset({"supported", "refuted"} - {self.right})


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """The end of one study."""

    verdict: str
    energy_kwh: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One truth: the share of each verdict, fixed and adaptive, and medians over the seeds."""

    truth: StudyTruth
    seeds: int
    fixed: dict[str, float]
    adaptive: dict[str, float]
    agree: float
    energy_share: float
    runs: float

    def wrong(self, shares: dict[str, float]) -> float:
        """Return the share of the more frequent wrong verdict, because each wrong verdict has its own error rate."""
        return max(shares[verdict] for verdict in self.truth.wrong)

    @property
    def passes(self) -> bool:
        """Return whether at most 5 % (plus two standard errors) are wrong, with at most half the energy."""
        spare = SLACK_SE * (MAX_WRONG * (1 - MAX_WRONG) / self.seeds) ** 0.5
        right = self.truth.right
        able = right is None or self.adaptive[right] >= min(0.95, self.fixed[right]) - spare
        return able and self.wrong(self.adaptive) <= MAX_WRONG + spare and self.energy_share <= BUDGET_SHARE


def simulate(
    seeds: int,
    *,
    exponents: Sequence[float] = EXPONENTS,
    noises: Sequence[float] = NOISES,
    fixed: float = FIXED_COST,
    session: float = 0.0,
    batch: int = 1,
) -> list[StudyRow]:
    """Simulate a row for each truth × noise, from `seeds` fixed sweeps and as many adaptive studies."""
    truths = [
        StudyTruth(exponent=b, noise=cv, fixed=fixed, session=session, batch=batch) for b in exponents for cv in noises
    ]
    return [_row(truth, seeds) for truth in truths]


def _row(truth: StudyTruth, seeds: int) -> StudyRow:
    pairs = []
    for seed in range(seeds):
        key = [zlib.crc32(repr((truth.exponent, truth.noise)).encode()), seed]
        rng = np.random.default_rng(key)
        sweep = fixed_sweep(truth, rng)
        pairs.append((sweep, adaptive_study(truth, rng, BUDGET_SHARE * sweep_kwh(truth), seed)))
    shares = [
        {
            verdict: Counter(o.verdict for o in side)[verdict] / seeds
            for verdict in ("supported", "refuted", "undecided")
        }
        for side in zip(*pairs, strict=True)
    ]
    return StudyRow(
        truth=truth,
        seeds=seeds,
        fixed=shares[0],
        adaptive=shares[1],
        agree=sum(sweep.verdict == study.verdict for sweep, study in pairs) / seeds,
        energy_share=float(np.median([study.energy_kwh / sweep.energy_kwh for sweep, study in pairs])),
        runs=float(np.median([study.runs for _, study in pairs])),
    )


def sweep_points() -> list[Point]:
    """Return the runs of sweeps/linear_claim.yaml: full factorial, zero-step runs, a centre point every six runs."""
    points = [Point(samples=s, epochs=e) for s in LEVELS for e in EPOCHS]
    points += [Point(samples=s, epochs=1, zero=True) for s in (LEVELS[0], LEVELS[-1])]
    points = points * REPLICATES
    return points + [Point(samples=256, epochs=2)] * -(-len(points) // 6)


def sweep_kwh(truth: StudyTruth) -> float:
    """Return the expected energy of the fixed sweep."""
    return sum(truth.kwh(point) for point in sweep_points())


def fixed_sweep(truth: StudyTruth, rng: Generator) -> StudyOutcome:
    """Draw a sweep, and return its verdict on `linear_in_samples`."""
    points = sweep_points()
    order = rng.permutation(len(points))
    sessions = order * REPLICATES // len(points)
    kwh = _draw(truth, points, _shifts(truth, rng)[sessions], rng)
    frame = _frame(truth, points, kwh, order, sessions if truth.session else None)
    response = choose_response(table_from_frame(frame))
    suspects = suspicious(check_rows(response.frame), len(frame))
    claim = linear(ClaimContext(response, Options(margin=MARGIN, level=LEVEL), suspects), "samples")
    return StudyOutcome(verdict=claim.verdict, energy_kwh=float(frame["energy_kwh"].sum()), runs=len(frame))


def adaptive_study(truth: StudyTruth, rng: Generator, max_kwh: float, seed: int) -> StudyOutcome:
    """Carry out a study as `lora_scaling.study` does, with runs that are drawn instead of made."""
    study = Study(claim="linear_in_samples", margin=MARGIN, level=LEVEL, levels=LEVELS, at=EPOCHS[0], seed=seed)
    points: list[Point] = []
    kwh, sessions = np.zeros(0), np.zeros(0, dtype=int)
    workers = _shifts(truth, rng) if truth.batch > 1 else None
    apart = truth.batch > 1 or truth.session
    while True:
        table = None
        if points:
            table = table_from_frame(_frame(truth, points, kwh, np.arange(len(points)), sessions if apart else None))
        step = advance(study, table, kwh_left=max_kwh - float(kwh.sum()))
        if step.look is not None:
            study = replace(study, looked=(*study.looked, step.look.runs))
        if step.stop is not None:
            verdict = step.stop if step.stop in ("supported", "refuted") else "undecided"
            return StudyOutcome(verdict=verdict, energy_kwh=float(kwh.sum()), runs=len(points))
        points += step.runs
        if workers is None:
            made_by = np.full(len(step.runs), len(study.looked))
            shifts = _shifts(truth, rng)[made_by]
        else:
            made_by = _workers(truth.batch, len(step.runs), rng)
            shifts = workers[made_by]
        kwh = np.concatenate([kwh, _draw(truth, step.runs, shifts, rng)])
        sessions = np.concatenate([sessions, made_by])


def _workers(batch: int, runs: int, rng: Generator) -> np.ndarray:
    """Draw which worker makes each run: in every batch each of them has one at most, in any order."""
    turns = [rng.permutation(batch) for _ in range(-(-runs // batch))]
    return np.concatenate(turns)[:runs]


def _shifts(truth: StudyTruth, rng: Generator) -> np.ndarray:
    """Draw what each session adds to all of its runs, on the log scale."""
    count = max(LOOKS + 1, truth.batch)
    return truth.session * rng.standard_normal(count) if truth.session else np.zeros(count)


def _draw(truth: StudyTruth, points: Sequence[Point], shifts: np.ndarray, rng: Generator) -> np.ndarray:
    expected = np.array([truth.kwh(point) for point in points])
    return expected * np.exp(shifts + truth.noise * rng.standard_normal(len(points)))


def _frame(
    truth: StudyTruth, points: Sequence[Point], kwh: np.ndarray, order: np.ndarray, sessions: np.ndarray | None
) -> pd.DataFrame:
    seen = [0 if point.zero else point.samples * point.epochs for point in points]
    return pd.DataFrame(
        {
            "run_id": [f"run-{i:04d}" for i in range(len(points))],
            "status": "ok",
            "order": order,
            "samples": [point.samples for point in points],
            "epochs": [point.epochs for point in points],
            "samples_seen": seen,
            "steps": np.ceil(np.array(seen) / 4),
            "energy_kwh": kwh,
        }
        | ({} if sessions is None else {"session": [f"session-{i}" for i in sessions]})
    )


def render(rows: Sequence[StudyRow]) -> str:
    """Render the comparison as a text table."""
    head = (
        f"{'b':>5} {'noise':>5} {'due':>10} | {'fixed: right':>12} {'wrong':>6} | "
        f"{'adaptive: right':>15} {'wrong':>6} {'runs':>5} {'energy':>7} | {'agree':>5}"
    )
    lines = [head, "-" * (len(head) + 6)]
    for row in rows:
        right = row.truth.right
        shown = ["-" if right is None else f"{shares[right]:.2f}" for shares in (row.fixed, row.adaptive)]
        lines.append(
            f"{row.truth.exponent:5.2f} {row.truth.noise:5.0%} {right or 'edge':>10} | {shown[0]:>12} "
            f"{row.wrong(row.fixed):6.3f} | {shown[1]:>15} {row.wrong(row.adaptive):6.3f} {row.runs:5.0f} "
            f"{row.energy_share:7.3f} | {row.agree:5.2f}  {'ok' if row.passes else 'FAIL'}"
        )
    batch = rows[0].truth.batch if rows else 1
    edge = [row for row in rows if row.truth.right is None]
    seeds = rows[0].seeds if rows else 0
    lines += [
        "",
        f"{seeds} studies a row. energy: median share of the fixed sweep's; its budget was {BUDGET_SHARE:g} of it, "
        f"over {LOOKS} looks at most.",
        *([f"The adaptive runs are made in batches of {batch}, by {batch} workers."] if batch > 1 else []),
        "edge: the truth lies on the margin, where neither verdict may come in more than 5 %; "
        "such a study goes on until its budget is spent.",
        f"Median of the rows: {np.median([row.energy_share for row in rows]):.3f} of the sweep's energy.",
    ]
    if edge:
        pooled = [
            f"{name} supported {np.mean([side['supported'] for side in sides]):.3f}, "
            f"refuted {np.mean([side['refuted'] for side in sides]):.3f}"
            for name, sides in (("fixed", [row.fixed for row in edge]), ("adaptive", [row.adaptive for row in edge]))
        ]
        lines.append(f"On the edge, {seeds * len(edge)} studies together: {'; '.join(pooled)}.")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison with the fixed sweep; the exit status is 1 if a row fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptive_simulation", description="Adaptive against fixed on simulated truths."
    )
    parser.add_argument("--seeds", type=int, default=40, help="simulated studies of each truth and noise")
    parser.add_argument("--session", type=float, default=0.0, help="what a session adds, such as 0.04")
    parser.add_argument("--batch", type=int, default=1, help="adaptive runs made at once, each by a worker of its own")
    given = parser.parse_args(argv)
    rows = simulate(given.seeds, session=given.session, batch=given.batch)
    print(render(rows))
    return 0 if all(row.passes for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
