"""Generate tables whose runs come in groups: sessions, blocks of the run order, ranks, models and devices.

Like `simulated_tables`, each process draws a table of known truth; the battery judges both lists.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.simulated_tables import (
    ClaimTruth,
    Generator,
    Process,
    Sweep,
    curve,
    edge,
    geometric,
    no,
    noisy,
    not_refuted,
    together,
    unknowable,
    yes,
)

CURVE_CLAIMS = ("linear_in_samples", "doubling_doubles")


def not_supported() -> ClaimTruth:
    """The claim is false, but hard to see: both `refuted` and `undecided` are right."""
    return ClaimTruth(right=frozenset({"refuted", "undecided"}), wrong=frozenset({"supported"}))


def not_decided() -> ClaimTruth:
    """The truth differs between groups and is hard to see; only one verdict for all of them is wrong."""
    return ClaimTruth(right=frozenset({"undecided"}), wrong=frozenset({"supported", "refuted"}), powered=False)


def each(truth: ClaimTruth, claims: Sequence[str] = CURVE_CLAIMS) -> dict[str, ClaimTruth]:
    """Return the same truth for several claims."""
    return dict.fromkeys(claims, truth)


def in_sessions(
    sweep: Sweep,
    place: Callable[[Generator, pd.DataFrame], np.ndarray],
    *,
    shift: float,
    cv: float = 0.02,
    recorded: bool = True,
    ordered: bool = True,
    **shape: float,
) -> Callable[[Generator], pd.DataFrame]:
    """Return a function that makes tables of sessions, each shifted by its own log-normal factor.

    place: the number (n,) of each run's session, which is also their order in time. shift: the standard deviation of
    the sessions' effects on the log scale. recorded, ordered: whether the table has the sessions and the order.
    """

    def make(rng: Generator) -> pd.DataFrame:
        frame = sweep.draw(rng)
        session = np.asarray(place(rng, frame), dtype=int)
        effect = np.exp(shift * rng.standard_normal(session.max() + 1))[session]
        energy = noisy(rng, curve(frame, **shape) * effect, cv)
        frame = frame.assign(order=np.lexsort((rng.random(len(frame)), session)).argsort(), energy_kwh=energy)
        if recorded:
            frame["session"] = [f"s{i:03d}" for i in session]
        return frame if ordered else frame.drop(columns="order")

    return make


def _shuffled(rng: Generator, session: np.ndarray) -> np.ndarray:
    """Number the sessions anew, in random order."""
    names = np.unique(session, return_inverse=True)[1]
    return rng.permutation(names.max() + 1)[names]


def per_level(sessions: int = 1) -> Callable[[Generator, pd.DataFrame], np.ndarray]:
    """Give each level so many sessions of its own, in random order; zero-step runs are a level."""

    def place(rng: Generator, frame: pd.DataFrame) -> np.ndarray:
        level = frame.groupby(["samples", "epochs", "samples_seen"]).ngroup().to_numpy()
        return _shuffled(rng, level * sessions + frame["replicate"].to_numpy() % sessions)

    return place


def mixed(count: int) -> Callable[[Generator, pd.DataFrame], np.ndarray]:
    """Deal the runs at random to so many sessions of about equal length."""

    def place(rng: Generator, frame: pd.DataFrame) -> np.ndarray:
        return rng.permutation(np.arange(len(frame)) % count)

    return place


def uneven(rng: Generator, frame: pd.DataFrame) -> np.ndarray:
    """Deal the runs at random to sessions of one, two or three runs."""
    lengths = rng.integers(1, 4, len(frame))
    return rng.permutation(np.repeat(np.arange(len(frame)), lengths)[: len(frame)])


def alone(rng: Generator, frame: pd.DataFrame) -> np.ndarray:
    """Give each run a session of its own."""
    return rng.permutation(len(frame))


def halves(rng: Generator, frame: pd.DataFrame) -> np.ndarray:
    """Run the smaller levels in one session and the larger in another, two levels in both."""
    size = frame["samples"].rank(method="dense").to_numpy()
    both = (size == 3) | (size == 4) | (frame["samples_seen"] == 0)
    return np.where(both, rng.integers(0, 2, len(frame)), (size > 3).astype(int))


LADDER = geometric(32, 64, 6)
TWICE, SIXFOLD = Sweep(samples=LADDER, replicates=2, zero=2), Sweep(samples=LADDER, replicates=6, zero=6)


def _sessions() -> list[Process]:
    found = []
    for shift in (0.01, 0.05, 0.2):
        found += [
            Process(
                name=f"one process per level, two repeats, sessions {shift:.0%}",
                make=in_sessions(TWICE, per_level(), shift=shift, fixed=0.2),
                truths=each(unknowable()),
            ),
            Process(
                name=f"levels in blocks, sessions not recorded, {shift:.0%}",
                make=in_sessions(TWICE, per_level(), shift=shift, fixed=0.2, recorded=False),
                truths=each(unknowable()),
                warnings=("order_confounded",),
            ),
            Process(
                name=f"two sessions, one of small and one of large runs, {shift:.0%}",
                make=in_sessions(Sweep(replicates=4, zero=4), halves, shift=shift, fixed=0.2),
                truths={"linear_in_samples": not_refuted()},
            ),
            Process(
                name=f"three sessions per level of two runs each, {shift:.0%}",
                make=in_sessions(SIXFOLD, per_level(3), shift=shift, fixed=0.2),
                truths={"linear_in_samples": yes() if shift <= 0.01 else not_refuted()},
            ),
        ]
    for count, shift in ((2, 0.2), (8, 0.05), (20, 0.1), (40, 0.04)):
        sweep = Sweep(samples=LADDER, replicates=max(6, count // 4), zero=4)
        found.append(
            Process(
                name=f"{count} sessions of mixed levels, {shift:.0%}",
                make=in_sessions(sweep, mixed(count), shift=shift, fixed=0.2),
                truths={"linear_in_samples": yes()},
            )
        )
    found += [
        Process(
            name="sessions of one to three runs, 5 %",
            make=in_sessions(Sweep(samples=LADDER, replicates=8, zero=6), uneven, shift=0.05, fixed=0.2),
            truths={"linear_in_samples": yes()},
        ),
        Process(
            name="sessions of one to three runs, 5 %, power 1.1",
            make=in_sessions(Sweep(samples=LADDER, replicates=8, zero=6), uneven, shift=0.05, fixed=0.05, b=1.1),
            truths={"linear_in_samples": no(powered=False)},
        ),
        Process(
            name="each run its own process, 4 %",
            make=in_sessions(Sweep(samples=LADDER, replicates=8, zero=6), alone, shift=0.04, fixed=0.2),
            truths={"linear_in_samples": yes()},
        ),
    ]
    return found


def in_blocks(rng: Generator, frame: pd.DataFrame, column: str) -> pd.Series:
    """Return an order in which all runs of one level of a column follow each other, the levels in random order."""
    values = frame[column].to_numpy()
    place = {value: i for i, value in enumerate(rng.permutation(np.unique(values)))}
    block = np.array([place[value] for value in values])
    return pd.Series(np.lexsort((rng.random(len(frame)), block)).argsort(), index=frame.index)


def ranks(
    levels: Sequence[int],
    effect: float = 0.0,
    *,
    cv: float = 0.02,
    jump: tuple[int, float] | None = None,
    method: str | None = "lora",
    blocks: bool = False,
    shift: float = 0.0,
    sessions: int | None = None,
) -> Callable[[Generator], pd.DataFrame]:
    """Return a function that makes runs of several ranks; each doubling costs `effect` more, one level `jump` more.

    sessions: how many sessions each rank has for itself, which differ by `shift`; None if all share one.
    """

    def make(rng: Generator) -> pd.DataFrame:
        sweep = Sweep(samples=(128, 512), replicates=4, zero=0)
        frame = together(rng, [sweep.draw(rng, {"rank": float(rank), "method": method}) for rank in levels])
        factor = (1 + effect) ** np.log2(frame["rank"] / levels[0])
        if jump is not None:
            factor = factor * np.where(frame["rank"] == jump[0], 1 + jump[1], 1.0)
        if sessions is not None:
            session = (frame["rank"].rank(method="dense") * sessions + frame["replicate"] % sessions).astype(int)
            factor = factor * np.exp(shift * rng.standard_normal(session.max() + 1))[session]
            frame["session"] = session.map("s{}".format)
        frame = frame.assign(energy_kwh=noisy(rng, curve(frame, fixed=0.2) * factor, cv))
        return frame.assign(order=in_blocks(rng, frame, "rank")) if blocks else frame

    return make


FOUR, EIGHT = (8, 16, 32, 64, 128), (2, 4, 8, 16, 32, 64, 128, 256, 512)


def _ranks() -> list[Process]:
    def rank(name: str, truth: ClaimTruth, levels: Sequence[int] = FOUR, **options: Any) -> Process:
        return Process(name=f"rank: {name}", make=ranks(levels, **options), truths={"rank_effect": truth})

    return [
        rank("no effect over 4 doublings", yes()),
        rank("no effect over 8 doublings", yes(), EIGHT),
        rank("1 % a doubling over 8", not_supported(), EIGHT, effect=0.01),
        rank("2 % a doubling over 4", not_supported(), effect=0.02),
        rank("4 % a doubling over 6", no(), (4, 8, 16, 32, 64, 128, 256), effect=0.04),
        rank("8 % a doubling over 4", no(), effect=0.08),
        rank("5 % over the range, on the edge", edge(), effect=1.05**0.25 - 1),
        rank("one rank costs 10 % more", not_supported(), jump=(32, 0.10)),
        rank("one rank costs 5 % more, on the edge", edge(), jump=(32, 0.05)),
        rank("the largest rank costs 15 % more", no(), jump=(128, 0.15)),
        rank("of PVERA", unknowable(), method="pvera"),
        rank("of LILY, 10 % a doubling", unknowable(), method="LILY", effect=0.1),
        rank("of rsLoRA, 8 % a doubling", no(), method="rsLoRA", effect=0.08),
        rank("in blocks", unknowable(), blocks=True),
        rank("one session each, sessions 5 %", unknowable(), sessions=1, shift=0.05),
        rank("two sessions each, sessions 5 %", not_refuted(), sessions=2, shift=0.05),
        rank("four sessions each, 12 % a doubling, sessions 1 %", no(), sessions=4, shift=0.01, effect=0.12),
    ]


def groups(
    column: str, exponents: Mapping[str, float], sweep: Sweep, *, cv: float = 0.02, **shape: float
) -> Callable[[Generator], pd.DataFrame]:
    """Return a function that makes the same sweep for each value of a column, each with its own exponent of samples."""

    def make(rng: Generator) -> pd.DataFrame:
        parts = []
        for i, (name, b) in enumerate(exponents.items()):
            frame = sweep.draw(rng, {column: name})
            energy = (1 + 0.7 * i) * curve(frame, b=b, **shape)
            parts.append(frame.assign(energy_kwh=noisy(rng, energy, cv)))
        return together(rng, parts)

    return make


def _groups() -> list[Process]:
    usual, small = Sweep(), Sweep(samples=geometric(32, 16, 5), replicates=3, zero=3)

    def case(name: str, column: str, exponents: Sequence[float], truth: ClaimTruth, **options: Any) -> Process:
        sweep, options = options.pop("sweep", usual), {"fixed": 0.2, **options}
        named = {f"{column[0]}{i}": b for i, b in enumerate(exponents)}
        return Process(name=name, make=groups(column, named, sweep, **options), truths={"linear_in_samples": truth})

    return [
        case("two devices, 1.00 and 1.09", "hardware", (1.0, 1.09), unknowable()),
        case("two devices, 1.00 and 1.20", "hardware", (1.0, 1.2), unknowable()),
        case("two devices, 1.00 and 1.06, noisy", "hardware", (1.0, 1.06), not_decided(), cv=0.05),
        case("two models, 0.97 and 1.03", "model", (0.97, 1.03), not_refuted()),
        case("two data sets, 0.90 and 1.00", "data", (0.9, 1.0), unknowable()),
        case("three models, 1.00, 1.00 and 1.10", "model", (1.0, 1.0, 1.1), not_decided(), sweep=small),
        case("three models, all 1.00, fixed cost 23 %", "model", (1.0, 1.0, 1.0), yes(), fixed=0.3),
        case("two devices, both 1.12", "hardware", (1.12, 1.12), no()),
        case("two precisions, 0.88 and 1.00", "precision", (0.88, 1.0), unknowable()),
        case("two devices, 0.88 and 0.80", "hardware", (0.88, 0.8), no()),
    ]


IN_GROUPS: tuple[Process, ...] = (*_sessions(), *_ranks(), *_groups())
