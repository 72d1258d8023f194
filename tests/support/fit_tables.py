"""Tables of runs from known laws, for the tests of fit, extrapolate, backtest and plot."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.tables.table import RunTable
from benchmarks.interval_coverage import SIZES, TOKENS, EnergyLaw, as_table, runs_of

J_PER_FLOP = 3e-12


def law(
    phi: Callable[[np.ndarray], np.ndarray] = np.ones_like, *, fixed_tokens: float = 0.0, full: float = 1.0
) -> Callable[..., np.ndarray]:
    def joules(per_token: np.ndarray, tokens: np.ndarray, is_full: np.ndarray) -> np.ndarray:
        return J_PER_FLOP * per_token * (tokens + fixed_tokens) * phi(per_token) * np.where(is_full, full, 1.0)

    return joules


def frame_of(
    joules: Callable[..., np.ndarray],
    *,
    cv: float = 0.0,
    methods: tuple[str, ...] = ("lora",),
    sizes: tuple[float, ...] = SIZES,
    tokens: tuple[float, ...] = TOKENS,
    replicates: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """sizes × tokens × methods × replicates, with multiplicative noise of this coefficient of variation."""
    truth = EnergyLaw(name="test", joules=joules, noise=lambda flops: np.full_like(flops, cv), methods=methods)
    grid = [(n, t, m) for n in sizes for t in tokens for m in methods for _ in range(replicates)]
    params, lengths, method = (np.array(column) for column in zip(*grid, strict=True))
    return runs_of(truth, np.random.default_rng(seed), params=params, tokens=lengths, method=method)


def table_of(joules: Callable[..., np.ndarray], **options: object) -> RunTable:
    return as_table(frame_of(joules, **options))  # type: ignore[arg-type]
