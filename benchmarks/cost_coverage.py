"""Measure the coverage of prediction intervals where costs come once per sample, per epoch or per run.

python -m benchmarks.cost_coverage [--seeds 200]

Tables of samples × epochs are drawn from E = a·samples·epochs·(1 + C/epochs + D/samples + F/(samples·epochs)).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.energy_model.validated_fit import validated_fit
from analysis.regression.least_squares import Array
from analysis.tables.run_quantities import Work, work_of
from benchmarks.interval_coverage import TRUTHS, Generator, Tally, as_table, format_labels, format_row, runs_of
from lora_scaling.units import JOULES_PER_KWH

SAMPLES = (64, 128, 256, 512, 1024)
EPOCHS = (1, 2, 4, 8)
REPLICATES = 2
TOKENS_PER_SAMPLE = 100
PARAMS = 1e9
PROBES = 8
PLACES = {  # of new runs: the range of samples and of epochs
    "inside": (SAMPLES, EPOCHS),
    "10× samples": ((10 * SAMPLES[-1],), (1,)),
    "10× epochs": ((SAMPLES[0],), (10 * EPOCHS[-1],)),
    "10× both": ((10 * SAMPLES[-1],), (10 * EPOCHS[-1],)),
}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs in passes over a sample: once for each sample, for each epoch and for each run."""

    name: str
    per_sample: float = 0.0
    per_epoch: float = 0.0
    per_run: float = 0.0


TRUTHS_OF_COSTS = (
    Costs(name="no other costs"),
    Costs(name="0.5 per sample", per_sample=0.5),
    Costs(name="32 per epoch", per_epoch=32),
    Costs(name="0.1 and 10", per_sample=0.1, per_epoch=10),
    Costs(name="1 and 64", per_sample=1, per_epoch=64),
    Costs(name="3 and 192", per_sample=3, per_epoch=192),
    Costs(name="6 and 400", per_sample=6, per_epoch=400),
    Costs(name="1, 64 and 300 per run", per_sample=1, per_epoch=64, per_run=300),
)


def runs(costs: Costs, rng: Generator, samples: Array, epochs: Array) -> pd.DataFrame:
    """Simulate runs of these samples and epochs, n each, measured once."""
    shown = samples * epochs
    params, method = np.full(len(shown), PARAMS), np.full(len(shown), "lora")
    frame = runs_of(TRUTHS[0], rng, params=params, tokens=TOKENS_PER_SAMPLE * shown, method=method)
    factor = 1 + costs.per_sample / epochs + costs.per_epoch / samples + costs.per_run / shown
    energy = frame["energy_train_kwh"] * factor
    return frame.assign(
        samples=samples,
        epochs=epochs,
        energy_train_kwh=energy,
        energy_kwh=energy + frame["energy_setup_kwh"],
        train_s=frame["train_s"] * factor,
        total_s=frame["total_s"] * factor,
    )


def ask(costs: Costs, rng: Generator, samples: Sequence[int], epochs: Sequence[int]) -> Work:
    """Draw PROBES new runs within these ranges of samples and epochs."""
    one, other = (
        np.round(np.exp(rng.uniform(np.log(levels[0]), np.log(levels[-1]), PROBES))) for levels in (samples, epochs)
    )
    frame = runs(costs, rng, one, other)
    return work_of(frame, frame["energy_train_kwh"].to_numpy(dtype=float) * JOULES_PER_KWH)[0]


def coverage_of(costs: Costs, *, seeds: int) -> dict[str, Any]:
    """Return coverage and median interval (high/low) at each place, as `interval_coverage.coverage_of` does."""
    tally, failed = Tally(PLACES), 0
    grid = np.array([(s, e) for s in SAMPLES for e in EPOCHS for _ in range(REPLICATES)], dtype=float)
    for seed in range(seeds):
        rng = np.random.default_rng([seed, *costs.name.encode()])
        result = validated_fit(as_table(runs(costs, rng, *grid.T)))
        failed += bool(result.backtest.failed)
        for name, (samples, epochs) in PLACES.items():
            tally.ask(name, result, ask(costs, rng, samples, epochs))
    return {
        "truth": costs.name,
        **tally.shares(),
        "backtest_failed": failed / seeds,
        "labels": tally.labels,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the coverage table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost_coverage", description="Coverage where costs come per sample, epoch and run."
    )
    parser.add_argument("--seeds", type=int, default=200, help="tables simulated for each truth")
    args = parser.parse_args(argv)
    print(f"{'costs':<26}" + "".join(f"{name:>18}" for name in PLACES) + f"{'backtest failed':>18}", flush=True)
    rows = []
    for costs in TRUTHS_OF_COSTS:
        rows.append(coverage_of(costs, seeds=args.seeds))
        print(format_row(rows[-1]), flush=True)
    print(format_labels(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
