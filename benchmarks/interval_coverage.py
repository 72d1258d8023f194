"""Measure the coverage of prediction intervals: fit tables drawn from known truths, and predict new runs.

python -m benchmarks.interval_coverage [--seeds 200]
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.energy_model.energy_fit import EnergyFit, fit_table
from analysis.energy_model.extrapolate import validation
from analysis.energy_model.family import target_of_runs
from analysis.energy_model.floor import EIGHT_BIT
from analysis.energy_model.validated_fit import ValidatedFit, validated_fit
from analysis.regression.least_squares import Array
from analysis.tables.run_quantities import Work, work_of
from analysis.tables.table import NUMERIC_COLUMNS, TEXT_COLUMNS, TRUTH_COLUMNS, RunTable
from lora_scaling.config.devices import listed_as, preset
from lora_scaling.estimate.fit_file import training_bands
from lora_scaling.estimate.terms import Target
from lora_scaling.paths import presets
from lora_scaling.units import JOULES_PER_KWH

Generator = np.random.Generator
SIZES = (0.135e9, 0.36e9, 0.5e9, 1.5e9, 3e9, 8e9)
TOKENS = (1e5, 4e5, 1.6e6)
JOULES_PER_FLOP = 8e-12  # about what the case study took on an RTX A4000, whose best is 1.8e-12
DEVICE = "NVIDIA RTX A4000"
FAR = 10.0  # how far beyond the data the outer questions lie
PROBES = 8  # questions of each kind per table


@dataclass(frozen=True, kw_only=True)
class EnergyLaw:
    """A law: mean joules of training by FLOPs per token, tokens and method, noise by FLOPs, joules of set-up by size.

    `inside_family` says whether the fitted family contains it; only then is coverage promised.
    """

    name: str
    joules: Callable[[Array, Array, Array], Array]
    noise: Callable[[Array], Array] = lambda flops: np.full_like(flops, 0.03)
    methods: tuple[str, ...] = ("lora",)
    inside_family: bool = True
    sizes: tuple[float, ...] = SIZES
    hardware: str = DEVICE
    setup: Callable[[Array], Array] = lambda params: 500 * (params / 1e9) ** 0.5


def _launch_bound(joules_per_token: float, joules_per_flop: float, power: float) -> Callable[..., Array]:
    """Make joules per token = |joules_per_token, joules_per_flop · FLOPs per token|, a maximum as sharp as `power`."""

    def joules(flops_per_token: Array, tokens: Array, is_full: Array) -> Array:
        ratio = joules_per_flop * flops_per_token / joules_per_token
        return tokens * joules_per_token * np.exp(np.logaddexp(0.0, power * np.log(ratio)) / power)

    return joules


def _law(utilisation: Callable[[Array], Array], fixed: float = 0.0, full: float = 1.0) -> Callable[..., Array]:
    """Make joules = J/FLOP · FLOPs · φ(FLOPs per token) · (1 + fixed/tokens), times `full` for full fine-tuning."""

    def joules(flops_per_token: Array, tokens: Array, is_full: Array) -> Array:
        work = JOULES_PER_FLOP * flops_per_token * tokens
        return work * utilisation(flops_per_token) * (1 + fixed / tokens) * np.where(is_full, full, 1.0)

    return joules


def _flat(f: Array) -> Array:
    return np.ones_like(f)


def _break(f: Array) -> Array:
    """Double the energy from 10 B parameters on, as if one device were no longer enough."""
    return np.where(f > 4 * 10e9, 2.0, 1.0)


def _early_break(f: Array) -> Array:
    return np.where(f > 4 * 2e9, 2.0, 1.0)


def _rising_noise(flops: Array) -> Array:
    return np.clip(0.02 * (flops / 1e15) ** 0.15, 0.01, 0.2)


def _falling_noise(flops: Array) -> Array:
    return np.clip(0.05 * (flops / 1e14) ** -0.25, 0.01, 0.3)


TRUTHS = (
    EnergyLaw(name="proportional", joules=_law(_flat)),
    EnergyLaw(name="gamma 0.8", joules=_law(lambda f: (f / 1e10) ** -0.2)),
    EnergyLaw(name="gamma 1.2", joules=_law(lambda f: (f / 1e10) ** 0.2)),
    EnergyLaw(name="saturating", joules=_law(lambda f: 1 + 4 * 1e9 / f)),
    EnergyLaw(name="saturating, late", joules=_law(lambda f: 1 + 4 * 8e9 / f)),
    EnergyLaw(name="saturating, k = 0.5", joules=_law(lambda f: 1 + (4 * 1e9 / f) ** 0.5)),
    EnergyLaw(name="affine in tokens", joules=_law(_flat, fixed=1e5)),
    EnergyLaw(name="saturating and affine", joules=_law(lambda f: 1 + 4 * 1e9 / f, fixed=1e5)),
    EnergyLaw(name="two methods", joules=_law(lambda f: 1 + 4 * 1e9 / f, full=1.3), methods=("lora", "full")),
    EnergyLaw(name="noise falls with work", joules=_law(_flat), noise=_falling_noise),
    EnergyLaw(name="noise rises with work", joules=_law(_flat), noise=_rising_noise),
    EnergyLaw(name="break beyond the data", joules=_law(_break), inside_family=False),
    EnergyLaw(name="break in the data", joules=_law(_early_break), inside_family=False),
)

# A ladder of small models on a large device: energy per token hardly depends on the size, which 70B will not keep to.
# On an H100, which takes 0.71 pJ/FLOP at its best.
LADDER = (1e6, 3e6, 10e6, 30e6, 100e6)
SHARP = 50.0


H100 = "NVIDIA H100 80GB HBM3"
UNLISTED = "Some accelerator"


def _ladder(
    name: str, joules_per_token: float, joules_per_flop: float, power: float, hardware: str = H100
) -> EnergyLaw:
    law = _launch_bound(joules_per_token, joules_per_flop, power)
    return EnergyLaw(name=name, joules=law, sizes=LADDER, hardware=hardware, inside_family=power != SHARP)


def _saturating_ladder(name: str, joules_per_flop: float, half_size: float) -> EnergyLaw:
    """Make joules per token = joules_per_flop · (FLOPs per token + 4 · half_size), in parameters."""

    def joules(flops_per_token: Array, tokens: Array, is_full: Array) -> Array:
        return tokens * joules_per_flop * (flops_per_token + 4 * half_size)

    return EnergyLaw(name=name, joules=joules, sizes=LADDER, hardware=H100)


LADDER_TRUTHS = (
    _saturating_ladder("proportional, 2 pJ", 2e-12, 0.0),
    _saturating_ladder("proportional, 10 pJ", 10e-12, 0.0),
    _saturating_ladder("saturating at 30M, 1.5 pJ", 1.5e-12, 30e6),
    _saturating_ladder("saturating at 300M, 3 pJ", 3e-12, 300e6),
    _ladder("launch 0.5 mJ, 3 pJ", 0.5e-3, 3e-12, SHARP),
    _ladder("launch 4 mJ, 2 pJ", 4e-3, 2e-12, SHARP),
    _ladder("launch 20 mJ, 1.5 pJ", 20e-3, 1.5e-12, SHARP),
    _ladder("bend of 2, 1.5 mJ, 1.3 pJ", 1.5e-3, 1.3e-12, 2),
    _ladder("bend of 2, 8 mJ, 4 pJ", 8e-3, 4e-12, 2),
    _ladder("sum, 4 mJ, 2 pJ", 4e-3, 2e-12, 1),
    _ladder("device not listed, 4 mJ, 3 pJ", 4e-3, 3e-12, 2, UNLISTED),
)


def _setup(name: str, setup: Callable[[Array], Array], sizes: tuple[float, ...] = LADDER) -> EnergyLaw:
    return EnergyLaw(name=name, joules=_law(_flat), setup=setup, sizes=sizes)


SETUP_TRUTHS = (
    _setup("300 J", lambda n: 300 + 0 * n),
    _setup("300 J + 0.05 µJ", lambda n: 300 + 5e-8 * n),
    _setup("300 J + 0.4 µJ", lambda n: 300 + 4e-7 * n),
    _setup("300 J + 2 µJ", lambda n: 300 + 2e-6 * n),
    _setup("3 kJ + 1 µJ", lambda n: 3000 + 1e-6 * n),
    _setup("500 J a B^0.5", lambda n: 500 * (n / 1e9) ** 0.5),
)


def simulate(truth: EnergyLaw, rng: Generator, *, replicates: int = 1, jitter: float = 0.05) -> pd.DataFrame:
    """Simulate a sweep of sizes × tokens × methods in shuffled order, with the columns of a run table.

    Token counts differ from the levels by up to `jitter`, as in batches of different samples.
    """
    grid = [(n, t, m) for n in truth.sizes for t in TOKENS for m in truth.methods for _ in range(replicates)]
    params, tokens, method = (np.array(column) for column in zip(*grid, strict=True))
    return runs_of(
        truth, rng, params=params, tokens=tokens * rng.uniform(1 - jitter, 1 + jitter, len(tokens)), method=method
    )


def runs_of(truth: EnergyLaw, rng: Generator, *, params: Array, tokens: Array, method: Array) -> pd.DataFrame:
    """Simulate runs of these sizes (parameters), lengths (tokens) and methods, n each, measured once."""
    n = len(params)
    per_token = np.where(method == "full", 6.0, 4.0) * params
    mean = truth.joules(per_token, tokens, method == "full")
    joules = mean * np.exp(truth.noise(per_token * tokens) * rng.standard_normal(n))
    fixed = truth.setup(params) * np.exp(0.05 * rng.standard_normal(n))
    frame = pd.DataFrame({name: np.full(n, np.nan) for name in NUMERIC_COLUMNS})
    for name in (*TEXT_COLUMNS, *TRUTH_COLUMNS):
        frame[name] = pd.Series([None] * n, dtype=object)
    order = rng.permutation(n)
    frame = frame.assign(
        run_id=[f"run-{i}" for i in range(n)],
        model=[f"model-{p / 1e9:g}b" for p in params],
        method=method,
        hardware=truth.hardware,
        precision="bf16",
        samples=np.round(tokens / 100),
        samples_seen=np.round(tokens / 100),
        epochs=1.0,
        steps=np.ceil(tokens / 800),
        tokens_seen=tokens,
        tokens_padded=0.0,
        flops=per_token * tokens,
        params=params,
        rank=np.where(method == "full", np.nan, 8.0),
        batch_size=8.0,
        energy_train_kwh=joules / JOULES_PER_KWH,
        energy_setup_kwh=fixed / JOULES_PER_KWH,
        energy_kwh=(joules + fixed) / JOULES_PER_KWH,
        train_s=joules / 170,
        total_s=(joules + fixed) / 170,
        order=order.astype(float),
        position=order.astype(float),
        work_settings=None,
    )
    return frame.copy()


@dataclass(frozen=True, kw_only=True)
class TargetQuestion:
    """The place of new runs: inside the data, or FAR beyond its largest size or most tokens."""

    name: str
    size: float = 0.0
    length: float = 0.0


QUESTIONS = (
    TargetQuestion(name="inside"),
    TargetQuestion(name="10× size", size=FAR),
    TargetQuestion(name="10× tokens", length=FAR),
    TargetQuestion(name="10× both", size=FAR, length=FAR),
)
LADDER_QUESTIONS = (
    TargetQuestion(name="inside"),
    TargetQuestion(name="1B", size=10.0),
    TargetQuestion(name="7B", size=70.0),
    TargetQuestion(name="70B", size=700.0),
)


def questions_of(truth: EnergyLaw) -> tuple[TargetQuestion, ...]:
    """Return the questions that are asked about a truth."""
    return LADDER_QUESTIONS if truth.sizes == LADDER else QUESTIONS


def ask(truth: EnergyLaw, rng: Generator, question: TargetQuestion) -> Work:
    """Draw PROBES new runs of the truth at the place of the question."""
    low, high = np.log(truth.sizes[0]), np.log(truth.sizes[-1])
    params = np.exp(rng.uniform(low, high, PROBES))
    if question.size:
        params = np.full(PROBES, truth.sizes[-1] * question.size)
    low, high = np.log(TOKENS[0]), np.log(TOKENS[-1])
    tokens = np.exp(rng.uniform(low, high, PROBES))
    if question.length:
        tokens = np.full(PROBES, TOKENS[-1] * question.length)
    method = np.array([truth.methods[i % len(truth.methods)] for i in range(PROBES)])
    frame = runs_of(truth, rng, params=params, tokens=tokens, method=method)
    work, _, _ = work_of(frame, frame["energy_train_kwh"].to_numpy(dtype=float) * JOULES_PER_KWH)
    return work


def label_of(result: ValidatedFit, new: Work) -> str:
    """Return how far the backtest validates the first of new runs."""
    target = Target(
        values={name: value[0] for name, value in new.values.items()},
        labels={name: label[0] for name, label in new.labels.items()},
    )
    return validation(result.backtest, result.fitted, target)["label"]


def inside(fitted: EnergyFit, new: Work) -> tuple[Array, Array]:
    """Return whether each new run lay inside its interval (m,), and the width of the interval in logs (m,)."""
    target = target_of_runs(new)
    bands = fitted.fit.training(target)
    observed = np.exp(new.log_y)
    held = (observed >= bands.low) & (observed <= bands.high)
    return held.astype(float), np.log(bands.high / bands.low)


class Tally:
    """New runs of several tables at each place: whether they lay inside, how wide, and by how far it is validated."""

    def __init__(self, places: Iterable[str]) -> None:
        self.held: dict[str, list[float]] = {place: [] for place in places}
        self.width: dict[str, list[float]] = {place: [] for place in places}
        self.labels: dict[str, tuple[int, int]] = {}

    def add(self, place: str, within: Array, wide: Array) -> None:
        """Count new runs (m,) at a place."""
        self.held[place] += list(within)
        self.width[place] += list(wide)

    def ask(self, place: str, result: ValidatedFit, new: Work) -> None:
        """Count new runs at a place, and by how far a fit's backtest validates them."""
        within, wide = inside(result.fitted, new)
        self.add(place, within, wide)
        label = label_of(result, new)
        runs, covered = self.labels.get(label, (0, 0))
        self.labels[label] = (runs + len(within), covered + int(within.sum()))

    def shares(self) -> dict[str, dict[str, float]]:
        """Return the coverage and the median interval (high/low) of each place."""
        return {
            "coverage": {place: float(np.mean(values)) for place, values in self.held.items()},
            "high_over_low": {place: float(np.exp(np.median(values))) for place, values in self.width.items()},
        }


def coverage_of(truth: EnergyLaw, *, seeds: int) -> dict[str, Any]:
    """Return coverage and median interval (high/low) of each question over `seeds` tables of one truth.

    `labels` has (runs, covered) by how far the backtest validates them; `below_floor` counts intervals that reach below
    what the device can do by its sheet (or the best listed device can).
    """
    least = _least_j_per_flop(truth.hardware)
    questions = questions_of(truth)
    tally = Tally([question.name for question in questions])
    failed = below_floor = 0
    for seed in range(seeds):
        rng = np.random.default_rng([seed, *truth.name.encode()])
        result = validated_fit(as_table(simulate(truth, rng)))
        failed += bool(result.backtest.failed)
        for question in questions:
            new = ask(truth, rng, question)
            tally.ask(question.name, result, new)
            low = result.fitted.fit.training(target_of_runs(new)).low
            below_floor += int(np.sum(low < least * new.values["flops"] * (1 - 1e-9)))
    return {
        "truth": truth.name,
        "inside_family": truth.inside_family,
        "seeds": seeds,
        **tally.shares(),
        "backtest_failed": failed / seeds,
        "labels": tally.labels,
        "below_floor": below_floor,
    }


def _least_j_per_flop(hardware: str) -> float:
    """Return board power ÷ dense peak (no 8 bit) of a device, or the least of all that are listed."""
    listed = listed_as(hardware)
    sheets = [preset(name) for name in ([listed] if listed else presets("hardware"))]
    return min(
        sheet.board_power_w / 1e12 / peak
        for sheet in sheets
        for name, peak in sheet.peak_tflops.items()
        if peak and sheet.board_power_w and name not in EIGHT_BIT
    )


def setup_coverage_of(truth: EnergyLaw, *, seeds: int) -> dict[str, Any]:
    """Return coverage and median interval (high/low) of the set-up of one more run, at the places of the questions."""
    questions = questions_of(truth)
    tally = Tally([question.name for question in questions])
    for seed in range(seeds):
        rng = np.random.default_rng([seed, *truth.name.encode()])
        fixed = fit_table(simulate(truth, rng), with_time=False).fit.fixed_energy_j
        assert fixed is not None
        for question in questions:
            low, high = np.log(truth.sizes[0]), np.log(truth.sizes[-1])
            params = np.exp(rng.uniform(low, high, PROBES))
            if question.size:
                params = np.full(PROBES, truth.sizes[-1] * question.size)
            new = truth.setup(params) * np.exp(0.05 * rng.standard_normal(PROBES))
            labels = {name: np.full(PROBES, value) for name, value in (("method", "lora"), ("hardware", DEVICE))}
            bands = training_bands(fixed.models, Target(values={"params": params}, labels=labels))
            held = ((new >= bands.low) & (new <= bands.high)).astype(float)
            tally.add(question.name, held, np.log(bands.high / bands.low))
    return {
        "truth": truth.name,
        "seeds": seeds,
        **tally.shares(),
    }


def coverage_table(*, seeds: int, truths: Sequence[EnergyLaw] = TRUTHS) -> list[dict[str, Any]]:
    """Return one row per truth, as `coverage_of` gives it."""
    return [coverage_of(truth, seeds=seeds) for truth in truths]


def as_table(frame: pd.DataFrame) -> RunTable:
    """Return a simulated frame as `load_runs` would give it."""
    return RunTable(
        frame=frame,
        excluded=(),
        warnings=(),
        sources=("simulated",),
        rows_read=len(frame),
        columns=tuple(frame.columns),
        response="energy_kwh",
    )


def format_header(questions: Sequence[TargetQuestion] = QUESTIONS) -> str:
    """Return the names of the columns of `format_row`."""
    return f"{'truth':<26}" + "".join(f"{question.name:>18}" for question in questions) + f"{'backtest failed':>18}"


def format_row(row: dict[str, Any]) -> str:
    """Format one truth: coverage in per cent, with the median high ÷ low."""
    cells = [f"{100 * share:.1f} % (×{row['high_over_low'][name]:.2f})" for name, share in row["coverage"].items()]
    failed = f"{100 * row['backtest_failed']:>16.0f} %" if "backtest_failed" in row else ""
    return f"{row['truth']:<26}" + "".join(f"{cell:>18}" for cell in cells) + failed


def format_labels(rows: Sequence[dict[str, Any]]) -> str:
    """Format the coverage by how far the backtest validates a prediction."""
    lines = []
    for label in ("validated", "PARTLY VALIDATED", "NOT VALIDATED"):
        runs, covered = (sum(row["labels"].get(label, (0, 0))[i] for row in rows) for i in (0, 1))
        share = f"{100 * covered / runs:.1f} % of {runs:,} runs" if runs else "no run"
        lines.append(f"{label:<26}{share}")
    return "\n".join(lines)


def format_footer(seeds: int) -> str:
    """Explain what the table shows."""
    return (
        f"{seeds} tables of {len(SIZES) * len(TOKENS)} or {len(LADDER) * len(TOKENS)} runs (for each method) a truth; "
        "coverage of 90 % intervals for new runs; in brackets the interval's high over low. Truths with a break or a "
        "sharp bend are outside the family."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the coverage table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.interval_coverage", description="Coverage over simulated truths."
    )
    parser.add_argument("--seeds", type=int, default=200, help="tables simulated for each truth")
    args = parser.parse_args(argv)
    for truths, title in ((TRUTHS, "Models of 0.1 to 8 B parameters"), (LADDER_TRUTHS, "Models of 1 to 100 M")):
        print(f"{title}\n{format_header(questions_of(truths[0]))}", flush=True)
        rows = []
        for truth in truths:
            rows.append(coverage_of(truth, seeds=args.seeds))
            print(format_row(rows[-1]), flush=True)
        print(format_labels(rows))
        print(f"{'below the floor':<26}{sum(row['below_floor'] for row in rows)} intervals", end="\n\n", flush=True)
    print("Set-up, of models of 1 to 100 M", flush=True)
    for truth in SETUP_TRUTHS:
        print(format_row(setup_coverage_of(truth, seeds=args.seeds)), flush=True)
    print(format_footer(args.seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
