"""Generate tables of runs whose truth is known, to test whether a method judges them correctly.

Each process draws a table from a seeded generator. For each claim that it concerns, it says which verdicts are right
and which are wrong. The battery and the tests use these tables; they can test any other method as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from lora_scaling.units import JOULES_PER_KWH

Generator = np.random.Generator
KWH_PER_SAMPLE = 2e-5


@dataclass(frozen=True, kw_only=True)
class ClaimTruth:
    """For one claim: the verdicts that are `right` and those that are `wrong`; any other is honest doubt.

    `powered` says that the design is good enough to expect the right verdict in 95 % of the draws.
    """

    right: frozenset[str]
    wrong: frozenset[str]
    powered: bool = True


@dataclass(frozen=True, kw_only=True)
class Process:
    """A named way to make a table, the truth about it, and the warnings it must cause."""

    name: str
    make: Callable[[Generator], pd.DataFrame]
    truths: Mapping[str, ClaimTruth]
    warnings: tuple[str, ...] = field(default=())


def yes(powered: bool = True) -> ClaimTruth:
    """The claim is true."""
    return ClaimTruth(right=frozenset({"supported"}), wrong=frozenset({"refuted"}), powered=powered)


def no(powered: bool = True) -> ClaimTruth:
    """The claim is false."""
    return ClaimTruth(right=frozenset({"refuted"}), wrong=frozenset({"supported"}), powered=powered)


def unknowable() -> ClaimTruth:
    """These runs cannot decide: any verdict but `undecided` is wrong."""
    return ClaimTruth(right=frozenset({"undecided"}), wrong=frozenset({"supported", "refuted"}))


def edge() -> ClaimTruth:
    """The truth lies on the edge of the margin: neither verdict may come more often than its error rate."""
    return ClaimTruth(right=frozenset({"undecided"}), wrong=frozenset({"supported", "refuted"}), powered=False)


def not_refuted() -> ClaimTruth:
    """The claim is true, but disturbed: both `supported` and `undecided` are right."""
    return ClaimTruth(right=frozenset({"supported", "undecided"}), wrong=frozenset({"refuted"}))


def geometric(low: int, span: float, count: int) -> list[int]:
    """Return `count` sample numbers from low to low·span in about equal ratios."""
    return [round(low * span ** (i / (count - 1))) for i in range(count)]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A full factorial of samples × epochs × replicates with `zero` runs of no steps, in shuffled order."""

    samples: Sequence[int] = tuple(geometric(32, 64, 6))
    epochs: Sequence[int] = (1,)
    replicates: int = 3
    zero: int = 3
    shuffled: bool = True

    def draw(self, rng: Generator, columns: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Draw the runs without their energies, one row each, with the `order` in which they are made."""
        rows = [(s, e, r) for s in self.samples for e in self.epochs for r in range(self.replicates)]
        frame = pd.DataFrame(rows, columns=["samples", "epochs", "replicate"])
        frame["samples_seen"] = frame["samples"] * frame["epochs"]
        idle = pd.DataFrame(
            {"samples": self.samples[0], "epochs": self.epochs[0], "replicate": range(self.zero), "samples_seen": 0}
        )
        frame = pd.concat([frame, idle], ignore_index=True) if self.zero else frame
        frame["steps"] = np.ceil(frame["samples_seen"] / 4)
        frame["order"] = rng.permutation(len(frame)) if self.shuffled else np.arange(len(frame))
        for name, value in (columns or {}).items():
            frame[name] = value
        frame["run_id"] = [f"run-{i:04d}" for i in range(len(frame))]
        frame["status"] = "ok"
        return frame


def together(rng: Generator, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Combine parts of one study in a new order, and name each run."""
    frame = pd.concat(parts, ignore_index=True)
    frame["order"] = rng.permutation(len(frame))
    frame["run_id"] = [f"run-{i:04d}" for i in range(len(frame))]
    return frame


def noisy(rng: Generator, expected: Any, cv: Any) -> np.ndarray:
    """Draw multiplicative log-normal noise with coefficient of variation cv (scalar or (n,))."""
    expected = np.asarray(expected, dtype=float)
    return expected * np.exp(cv * rng.standard_normal(len(expected)))


def curve(
    frame: pd.DataFrame,
    *,
    fixed: float = 0.0,
    b: float = 1.0,
    b_epochs: float | None = None,
    per_sample: float = 0.0,
    per_epoch: float = 0.0,
    idle_pays: float = 0.0,
    smallest: float = 32.0,
) -> np.ndarray:
    """kWh of F + c·samples + d·epochs + a·samples^b·epochs^b_epochs; F, c and d are in units of the smallest run's a.

    `fixed` is F (below 0: idle power was subtracted), `per_sample` is c, `per_epoch` is d. Runs of zero steps cost F,
    and `idle_pays` of c and d.
    """
    unit, trained = KWH_PER_SAMPLE * smallest, frame["samples_seen"] > 0
    samples, epochs = frame["samples"] / smallest, frame["epochs"].astype(float)
    work = samples**b * epochs ** (b if b_epochs is None else b_epochs)
    once = per_sample * samples + per_epoch * epochs
    return unit * (fixed + np.where(trained, work, 0.0) + np.where(trained, once, idle_pays * once))


def scaling(sweep: Sweep, *, cv: float = 0.02, **shape: float) -> Callable[[Generator], pd.DataFrame]:
    """Return a function that makes tables on the curve of `shape`."""

    def make(rng: Generator) -> pd.DataFrame:
        frame = sweep.draw(rng)
        return frame.assign(energy_kwh=noisy(rng, curve(frame, **shape), cv))

    return make


def _quadratic(rng: Generator) -> pd.DataFrame:
    frame = Sweep().draw(rng)
    line = curve(frame, fixed=0.2)
    bend = 1 + 0.4 * frame["samples_seen"] / frame["samples_seen"].max()
    return frame.assign(energy_kwh=noisy(rng, line * bend, 0.02))


def _heteroscedastic(rng: Generator) -> pd.DataFrame:
    frame = Sweep(replicates=4).draw(rng)
    expected = curve(frame, fixed=0.2)
    cv = 0.06 * np.sqrt(expected.min() / expected)
    return frame.assign(energy_kwh=noisy(rng, expected, cv))


def _outlier(rng: Generator) -> pd.DataFrame:
    frame = scaling(Sweep(), fixed=0.2)(rng)
    factor = np.ones(len(frame))
    factor[rng.integers(len(frame))] = rng.choice([0.3, 3.0])
    return frame.assign(energy_kwh=frame["energy_kwh"] * factor)


def _three_runs(rng: Generator) -> pd.DataFrame:
    return scaling(Sweep(samples=(32, 64, 128), replicates=1, zero=0))(rng)


def _collinear(rng: Generator) -> pd.DataFrame:
    frame = pd.concat([Sweep(samples=(32 * 2**i,), epochs=(2**i,), zero=0).draw(rng) for i in range(5)])
    frame = frame.reset_index(drop=True)
    frame["run_id"] = [f"run-{i:04d}" for i in range(len(frame))]
    frame["order"] = rng.permutation(len(frame))
    return frame.assign(energy_kwh=noisy(rng, curve(frame, fixed=0.2), 0.02))


def _drift(shuffled: bool) -> Callable[[Generator], pd.DataFrame]:
    def make(rng: Generator) -> pd.DataFrame:
        frame = Sweep(shuffled=shuffled).draw(rng)
        warm = 1 + 0.12 * (1 - np.exp(-3 * frame["order"] / len(frame)))
        return frame.assign(energy_kwh=noisy(rng, curve(frame, fixed=0.2) * warm, 0.015))

    return make


def _bad_energies(rng: Generator) -> pd.DataFrame:
    frame = scaling(Sweep(replicates=4), fixed=0.2)(rng)
    rows = rng.choice(len(frame), 4, replace=False)
    frame.loc[rows, "energy_kwh"] = [0.0, -0.001, np.nan, np.inf]
    return frame


def _two_gpus(labelled: bool) -> Callable[[Generator], pd.DataFrame]:
    def make(rng: Generator) -> pd.DataFrame:
        frames = [Sweep().draw(rng, {"hardware": name}) for name in ("NVIDIA A100", "NVIDIA H100")]
        parts = [
            frame.assign(energy_kwh=noisy(rng, factor * curve(frame, fixed=0.2), 0.02))
            for frame, factor in zip(frames, (1.0, 0.6 if labelled else 0.9), strict=True)
        ]
        both = together(rng, parts)
        return both if labelled else both.assign(hardware="NVIDIA A100")

    return make


def _duplicated(rng: Generator) -> pd.DataFrame:
    """Make two runs per level at high noise, with each row three times, which gives false certainty."""
    frame = scaling(Sweep(replicates=2, zero=0), cv=0.08, b=1.05)(rng)
    return pd.concat([frame] * 3, ignore_index=True)


def _watt_hours(rng: Generator) -> pd.DataFrame:
    frame = scaling(Sweep(), fixed=0.2)(rng)
    factor = np.ones(len(frame))
    factor[rng.integers(len(frame))] = 1000
    return frame.assign(energy_kwh=frame["energy_kwh"] * factor)


def _whole_table_wh(rng: Generator) -> pd.DataFrame:
    frame = scaling(Sweep(), fixed=0.2)(rng)
    seconds = frame["energy_kwh"] * JOULES_PER_KWH / 300  # 300 W, before the unit goes wrong
    return frame.assign(total_s=seconds, energy_kwh=frame["energy_kwh"] * 1000)


def _few_sizes(disturb: Callable[[Generator, pd.DataFrame], Any]) -> Callable[[Generator], pd.DataFrame]:
    """Make three ranks and sizes × two numbers of epochs, each once: too few to decide, enough to notice oddities."""

    def make(rng: Generator) -> pd.DataFrame:
        sweep = Sweep(samples=(64, 128, 256), epochs=(1, 2), replicates=1, zero=0)
        parts = [sweep.draw(rng, {"rank": rank, "method": "lora"}) for rank in (4.0, 8.0, 16.0)]
        frame = together(rng, parts)
        energy = noisy(rng, curve(frame, fixed=0.5, smallest=64.0), 0.08)
        return frame.assign(energy_kwh=energy * disturb(rng, frame))

    return make


def _tenfold(rng: Generator, frame: pd.DataFrame) -> Any:
    return np.where(frame.index == rng.integers(len(frame)), 10.0, 1.0)


def _slowing(rng: Generator, frame: pd.DataFrame) -> Any:
    return 1 + 0.6 * frame["order"] / len(frame)


def _another_day(rng: Generator) -> pd.DataFrame:
    """Make runs without an effect of rank, but with all runs of the middle rank made later, at half the speed."""
    frame = _ranks(0.0)(rng)
    late = frame["rank"] == 16
    frame["order"] = (frame["order"] + len(frame) * late).rank() - 1
    return frame.assign(energy_kwh=frame["energy_kwh"] * np.where(late, 2.0, 1.0))


def _ranks(effect: float) -> Callable[[Generator], pd.DataFrame]:
    def make(rng: Generator) -> pd.DataFrame:
        sweep = Sweep(samples=(128, 512), replicates=4, zero=0)
        parts = [sweep.draw(rng, {"rank": rank, "method": "lora"}) for rank in (4, 8, 16, 32, 64)]
        frame = together(rng, parts)
        factor = (1 + effect) ** np.log2(frame["rank"] / 4)
        return frame.assign(energy_kwh=noisy(rng, curve(frame, fixed=0.2) * factor, 0.03))

    return make


def _sizes(gamma: float, scatter: float = 0.02) -> Callable[[Generator], pd.DataFrame]:
    def make(rng: Generator) -> pd.DataFrame:
        flops_per_token = 6 * np.array([1e6, 3e6, 1e7, 3e7, 6e7, 1e8, 3e8])
        own = np.exp(scatter * rng.standard_normal(len(flops_per_token)))
        parts = []
        for i, cost in enumerate(flops_per_token):
            frame = Sweep(samples=(256,), zero=0).draw(rng, {"model": f"m{i}", "method": "lora"})
            frame["tokens_seen"] = frame["samples_seen"] * 200
            frame["flops"] = frame["tokens_seen"] * cost
            frame["energy_train_kwh"] = noisy(rng, frame["tokens_seen"] * 1e-9 * own[i] * (cost / 6e6) ** gamma, 0.03)
            parts.append(frame.assign(energy_kwh=frame["energy_train_kwh"] + 1e-5))
        return together(rng, parts)

    return make


def _methods(ratio: float) -> Callable[[Generator], pd.DataFrame]:
    def make(rng: Generator) -> pd.DataFrame:
        sweep = Sweep(samples=(64, 256, 1024), replicates=4, zero=0)
        lora = sweep.draw(rng, {"method": "lora", "rank": 8.0})
        full = sweep.draw(rng, {"method": "full", "rank": np.nan})
        frame = together(rng, [lora, full])
        factor = np.where(frame["method"] == "full", ratio, 1.0)
        return frame.assign(energy_kwh=noisy(rng, curve(frame, fixed=0.2) * factor, 0.03))

    return make


def _methods_of_models(*ratios: float) -> Callable[[Generator], pd.DataFrame]:
    """Make runs of full and LoRA for models that grow tenfold each; small runs scatter more."""

    def make(rng: Generator) -> pd.DataFrame:
        sweep, parts = Sweep(samples=geometric(64, 4, 6), zero=0), []
        for i, (ratio, cv) in enumerate(zip(ratios, np.linspace(0.06, 0.03, len(ratios)), strict=True)):
            known = {"model": f"m{i}", "params": 10.0 ** (6 + i)}
            for method, rank, factor in (("lora", 8.0, 1.0), ("full", np.nan, ratio)):
                frame = sweep.draw(rng, {**known, "method": method, "rank": rank})
                energy = 10.0**i * factor * curve(frame, fixed=0.2, smallest=64.0)
                parts.append(frame.assign(energy_kwh=noisy(rng, energy, cv)))
        return together(rng, parts)

    return make


def _regime_break(rng: Generator) -> pd.DataFrame:
    frame = Sweep().draw(rng)
    factor = np.where(frame["samples"] == frame["samples"].max(), 1.5, 1.0)
    return frame.assign(energy_kwh=noisy(rng, curve(frame, fixed=0.2) * factor, 0.02))


def _early_stop(told: bool) -> Callable[[Generator], pd.DataFrame]:
    """Stop long runs after 5 to 8 epochs, or after 12 to 16 if that is told: then the epochs done must span 8."""

    def make(rng: Generator) -> pd.DataFrame:
        frame = Sweep(samples=(64,), epochs=(1, 2, 4, 8, 16, 32), replicates=4).draw(rng)
        stopped = rng.integers(12, 17, len(frame)) if told else rng.integers(5, 9, len(frame))
        patience = np.where(frame["epochs"] > 6, stopped, frame["epochs"])
        shown = np.where(frame["samples_seen"] > 0, 64 * np.minimum(patience, frame["epochs"]), 0)
        unit = KWH_PER_SAMPLE * 64
        frame["energy_kwh"] = noisy(rng, unit * (0.2 + shown / 64), 0.02)
        return (
            frame.assign(samples_seen=shown)
            if told
            else frame.drop(columns=["samples_seen", "steps"]).query("samples > 0").loc[shown > 0]
        )

    return make


def _below_one_batch(rng: Generator) -> pd.DataFrame:
    frame = Sweep(samples=(4, 8, 16, 32, 64, 128, 256)).draw(rng)
    steps = np.ceil(frame["samples_seen"] / 32)
    return frame.assign(steps=steps, batch_size=32, energy_kwh=noisy(rng, 1e-3 * (0.2 + steps), 0.02))


def _longer_samples(rng: Generator) -> pd.DataFrame:
    frame = Sweep().draw(rng)
    length = 100 * (frame["samples"] / 32) ** 0.1
    tokens = frame["samples_seen"] * length
    energy = noisy(rng, KWH_PER_SAMPLE * 32 * (0.05 + tokens / 3200), 0.02)
    return frame.assign(tokens_padded=0.0, tokens_seen=tokens, energy_kwh=energy)


def rounded(
    step: float, make: Callable[[Generator], pd.DataFrame], *, down: bool = False
) -> Callable[..., pd.DataFrame]:
    """Read the energies of a table by a meter with such steps, in units of what the smallest run's training costs."""
    unit = step * KWH_PER_SAMPLE * 32

    def read(rng: Generator) -> pd.DataFrame:
        frame = make(rng)
        counts = frame["energy_kwh"] / unit
        return frame.assign(energy_kwh=unit * (np.floor(counts) if down else np.round(counts)))

    return read


def _sessions(rng: Generator) -> pd.DataFrame:
    """Make four sessions that differ by about ten per cent, with different shares of the sizes."""
    frame = Sweep(replicates=4).draw(rng)
    sizes = frame["samples"].rank(method="dense").to_numpy()
    session = np.clip(np.floor((sizes - 1) / 2 + rng.integers(0, 2, len(frame))), 0, 3).astype(int)
    shift = np.exp(0.1 * rng.standard_normal(4))[session]
    energy = noisy(rng, curve(frame, fixed=0.2) * shift, 0.015)
    return frame.assign(session=[f"s{i}" for i in session], energy_kwh=energy)


def _flat(rng: Generator) -> pd.DataFrame:
    frame = Sweep().draw(rng)
    return frame.assign(energy_kwh=noisy(rng, np.full(len(frame), 1e-3), 0.02))


def _part_modelled(rng: Generator) -> pd.DataFrame:
    """Make a metered GPU that bends (b = 0.88), with a modelled CPU and RAM that are linear by construction."""
    frame = Sweep().draw(rng)
    gpu = noisy(rng, 0.5 * curve(frame, fixed=0.2, b=0.88), 0.02)
    rest = noisy(rng, 3 * curve(frame, fixed=0.2), 0.01)
    return frame.assign(
        energy_gpu_kwh=gpu,
        energy_cpu_kwh=rest,
        energy_kwh=gpu + rest,
        energy_source_gpu="nvml_counter",
        energy_source_cpu="load_model",
    )


FACTORIAL = Sweep(samples=(32, 64, 128, 256, 512), epochs=(1, 2, 4, 8), replicates=2)
LARGE = Sweep(samples=(32, 64, 128, 256, 512), epochs=(1, 2, 4, 8, 16), replicates=3)
SMALL = Sweep(samples=geometric(32, 8, 4), replicates=2, zero=0)

# Straight in both factors, whatever comes once per sample or per epoch; interchangeable as far as that is little.
COSTS_APART: tuple[Process, ...] = (
    *(
        Process(
            name=f"{cost:g} smallest runs per epoch",
            make=scaling(LARGE, fixed=0.5, per_epoch=cost),
            truths={"linear_in_samples": yes(), "linear_in_epochs": yes(), "samples_epochs_interchangeable": alike},
        )
        for cost, alike in ((0.05, yes(powered=False)), (0.3, no(powered=False)), (2.0, no()))
    ),
    *(
        Process(
            name=f"{cost:g} smallest runs once per sample",
            make=scaling(LARGE, fixed=0.5, per_sample=cost),
            truths={"linear_in_samples": yes(), "linear_in_epochs": yes(), "samples_epochs_interchangeable": alike},
        )
        for cost, alike in ((0.05, yes(powered=False)), (0.3, no(powered=False)), (1.0, no()))
    ),
    *(
        Process(
            name=f"costs per epoch and once per sample, {100 * cv:g} % noise",
            make=scaling(replace(FACTORIAL, replicates=3, zero=0), fixed=0.3, per_epoch=0.7, per_sample=0.4, cv=cv),
            # At 3 % the interval is ±0.023 wide: among four claims (level 0.05 / 4) it decides 9 of 10 tables.
            truths={"linear_in_samples": yes(powered=cv < 0.03), "linear_in_epochs": yes(powered=False)},
        )
        for cv in (0.02, 0.03)
    ),
    Process(
        name="costs apart, epochs cheaper than samples",
        make=scaling(FACTORIAL, fixed=0.5, per_epoch=0.5, b_epochs=0.8),
        truths={"linear_in_samples": yes(), "linear_in_epochs": no()},
    ),
    *(
        Process(
            name=f"{cost:g} smallest runs that zero-step runs are spared",
            make=scaling(Sweep(), fixed=0.25, per_epoch=cost),
            truths={"linear_in_samples": yes()},
        )
        for cost in (0.1, 0.3, 1.0)
    ),
    *(
        Process(
            name=f"power {b:g}, 0.1 smallest runs that zero-step runs are spared",
            make=scaling(Sweep(samples=geometric(32, 16, 4)), fixed=0.25, per_epoch=0.1, b=b),
            truths={"linear_in_samples": truth},
        )
        for b, truth in ((0.97, not_refuted()), (0.95, edge()), (0.85, no()))
    ),
    *(
        Process(
            name=f"offset of {offset:g} smallest runs",
            make=scaling(Sweep(replicates=4, zero=0), fixed=offset),
            truths={"linear_in_samples": yes()},
        )
        for offset in (-0.5, -0.2, 1.0)
    ),
    Process(
        name="offset of -0.3 smallest runs, power 0.9",
        make=scaling(Sweep(zero=0), fixed=-0.3, b=0.9),
        truths={"linear_in_samples": no()},
    ),
    Process(
        name="offset, cost per epoch and coarse meter",
        make=rounded(0.2, scaling(replace(FACTORIAL, zero=0), fixed=-0.3, per_epoch=0.3)),
        truths={"linear_in_samples": yes(powered=False), "linear_in_epochs": yes(powered=False)},
        warnings=("coarse_meter",),
    ),
)

PROCESSES: tuple[Process, ...] = (
    Process(
        name="proportional",
        make=scaling(Sweep(zero=0)),
        truths={"linear_in_samples": yes(), "doubling_doubles": yes()},
    ),
    Process(
        name="affine, fixed cost 20 %",
        make=scaling(Sweep(), fixed=0.25, cv=0.03),
        truths={"linear_in_samples": yes()},
    ),
    Process(
        name="affine, fixed cost 5 %",
        make=scaling(Sweep(), fixed=0.05),
        truths={"linear_in_samples": yes(), "doubling_doubles": yes()},
    ),
    Process(
        name="affine, fixed cost 67 %",
        make=scaling(Sweep(), fixed=2.0),
        truths={"linear_in_samples": yes(), "doubling_doubles": no()},
    ),
    Process(
        name="affine, no zero-step runs",
        make=scaling(Sweep(zero=0), fixed=0.25),
        truths={"linear_in_samples": yes()},
    ),
    Process(
        name="power 0.9",
        make=scaling(Sweep(), fixed=0.1, b=0.9),
        truths={"linear_in_samples": no(), "doubling_doubles": no()},
    ),
    Process(
        name="power 1.1",
        make=scaling(Sweep(zero=0), b=1.1),
        truths={"linear_in_samples": no(), "doubling_doubles": no()},
    ),
    Process(
        name="power 1.02, inside the margin",
        make=scaling(Sweep(), fixed=0.1, b=1.02),
        truths={"linear_in_samples": yes()},
    ),
    Process(
        name="power 1.05, on the edge", make=scaling(Sweep(), fixed=0.1, b=1.05), truths={"linear_in_samples": edge()}
    ),
    Process(
        name="power 0.95, on the edge", make=scaling(Sweep(), fixed=0.1, b=0.95), truths={"linear_in_samples": edge()}
    ),
    Process(
        name="on the edge, few and noisy", make=scaling(SMALL, cv=0.03, b=1.05), truths={"linear_in_samples": edge()}
    ),
    Process(name="quadratic term", make=_quadratic, truths={"linear_in_samples": no()}),
    Process(name="unequal noise", make=_heteroscedastic, truths={"linear_in_samples": yes()}),
    Process(
        name="one gross outlier", make=_outlier, truths={"linear_in_samples": not_refuted()}, warnings=("outlier",)
    ),
    Process(
        name="one run tenfold, three sizes only",
        make=_few_sizes(_tenfold),
        truths={"linear_in_samples": unknowable()},
        warnings=("outlier",),
    ),
    Process(
        name="drift, three sizes only",
        make=_few_sizes(_slowing),
        truths={"linear_in_samples": unknowable()},
        warnings=("order_drift",),
    ),
    Process(
        name="one rank on another day",
        make=_another_day,
        truths={"rank_effect": unknowable()},
        warnings=("order_confounded", "order_drift"),
    ),
    Process(
        name="three runs only",
        make=_three_runs,
        truths={"linear_in_samples": unknowable(), "doubling_doubles": unknowable()},
    ),
    Process(
        name="collinear design",
        make=_collinear,
        truths={
            "linear_in_samples": unknowable(),
            "linear_in_epochs": unknowable(),
            "samples_epochs_interchangeable": unknowable(),
        },
    ),
    Process(
        name="drift, runs in order",
        make=_drift(shuffled=False),
        truths={"linear_in_samples": unknowable(), "doubling_doubles": unknowable()},
        warnings=("order_confounded",),
    ),
    Process(
        name="drift, runs shuffled",
        make=_drift(shuffled=True),
        truths={"linear_in_samples": yes()},
        warnings=("order_drift",),
    ),
    Process(name="zero and negative energies", make=_bad_energies, truths={"linear_in_samples": yes()}),
    Process(
        name="two GPUs mixed",
        make=_two_gpus(labelled=True),
        truths={"linear_in_samples": yes()},
        warnings=("mixed_hardware",),
    ),
    Process(name="one GPU relabelled", make=_two_gpus(labelled=False), truths={"linear_in_samples": not_refuted()}),
    Process(name="duplicated rows", make=_duplicated, truths={"linear_in_samples": edge()}, warnings=("duplicate",)),
    Process(name="one row in Wh", make=_watt_hours, truths={"linear_in_samples": unknowable()}, warnings=("unit",)),
    Process(name="whole table in Wh", make=_whole_table_wh, truths={"linear_in_samples": yes()}, warnings=("unit",)),
    Process(
        name="samples × epochs, interchangeable",
        make=scaling(FACTORIAL, fixed=0.5),
        truths={
            "samples_epochs_interchangeable": yes(),
            "linear_in_samples": yes(),
            "linear_in_epochs": yes(),
        },
    ),
    Process(
        name="epochs cheaper than samples",
        make=scaling(FACTORIAL, fixed=0.5, b_epochs=0.85),
        truths={
            "samples_epochs_interchangeable": no(),
            "linear_in_samples": yes(),
            "linear_in_epochs": no(),
        },
    ),
    *COSTS_APART,
    Process(name="rank effect absent", make=_ranks(0.0), truths={"rank_effect": yes()}),
    Process(name="rank effect 10 % a doubling", make=_ranks(0.10), truths={"rank_effect": no()}),
    Process(name="rank effect 5 % a doubling", make=_ranks(0.05), truths={"rank_effect": no()}),
    Process(name="sizes, γ = 0.8", make=_sizes(0.8), truths={"size_exponent": no()}),
    Process(name="sizes, γ = 1", make=_sizes(1.0), truths={"size_exponent": yes()}),
    Process(name="sizes, γ = 1.2", make=_sizes(1.2), truths={"size_exponent": no()}),
    Process(name="sizes, γ = 1.05, on the edge", make=_sizes(1.05, 0.08), truths={"size_exponent": edge()}),
    Process(name="full costs 1.5 × LoRA", make=_methods(1.5), truths={"full_vs_lora": yes()}),
    Process(name="full costs the same as LoRA", make=_methods(1.0), truths={"full_vs_lora": no()}),
    Process(name="full costs 1.05 × LoRA, on the edge", make=_methods(1.05), truths={"full_vs_lora": edge()}),
    Process(
        name="full costs the same for each of three models",
        make=_methods_of_models(1.0, 1.0, 1.0),
        truths={"full_vs_lora": no()},
    ),
    Process(
        name="full costs 0.97 × and 1.3 ×, by the model",
        make=_methods_of_models(0.97, 1.3),
        truths={"full_vs_lora": unknowable()},
    ),
    Process(
        name="full costs 0.97, 1.15 and 1.3 ×, by the model",
        make=_methods_of_models(0.97, 1.15, 1.3),
        truths={"full_vs_lora": unknowable()},
    ),
    Process(name="regime break at the top", make=_regime_break, truths={"linear_in_samples": no()}),
    Process(name="early stopping, not told", make=_early_stop(told=False), truths={"linear_in_epochs": no()}),
    Process(name="early stopping, told", make=_early_stop(told=True), truths={"linear_in_epochs": yes()}),
    Process(name="samples below one batch", make=_below_one_batch, truths={"linear_in_samples": no()}),
    Process(
        name="longer samples in larger runs",
        make=_longer_samples,
        truths={"linear_in_samples": unknowable(), "doubling_doubles": no()},
    ),
    *(
        Process(
            name=f"meter with steps of {step:g} smallest runs",
            make=rounded(step, scaling(Sweep(samples=geometric(32, 128, 7), replicates=4), fixed=0.2)),
            truths={"linear_in_samples": truth},
            warnings=("coarse_meter",),
        )
        for step, truth in ((0.15, yes()), (0.4, yes()), (1.0, not_refuted()), (2.0, not_refuted()))
    ),
    Process(
        name="meter that rounds down, steps of 0.4",
        make=rounded(0.4, scaling(Sweep(replicates=4), fixed=0.1, cv=0.01), down=True),
        truths={"linear_in_samples": yes()},
        warnings=("coarse_meter",),
    ),
    Process(
        name="power 0.85, meter with steps of 0.5",
        make=rounded(0.5, scaling(Sweep(replicates=4), fixed=0.1, b=0.85)),
        truths={"linear_in_samples": no()},
        warnings=("coarse_meter",),
    ),
    Process(name="sessions that differ", make=_sessions, truths={"linear_in_samples": yes()}),
    Process(name="energy does not depend on samples", make=_flat, truths={"doubling_doubles": no()}),
    Process(
        name="metered part bends, modelled part does not",
        make=_part_modelled,
        truths={
            "linear_in_samples": ClaimTruth(right=frozenset({"undecided", "refuted"}), wrong=frozenset({"supported"}))
        },
    ),
)
