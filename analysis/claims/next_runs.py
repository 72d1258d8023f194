"""What would decide an undecided claim: runs, settings, expected energy, and the command that makes them.

First what all claims share (expected energy, overrides, sweeps); then the claims on one setting, which ask for more
runs that differ in it alone; then those on samples and epochs, whose runs are chosen one by one by what they tell per
kWh (c-optimality on the fitted curve, greedy).
"""

import itertools
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from scipy.special import stdtrit

from lora_scaling.errors import UserError
from lora_scaling.paths import choices, config_dir
from lora_scaling.workload import ModelShape

from ..regression.curve_analysis import Analysis, follows_order
from ..regression.estimate import IntervalEstimate
from ..regression.fisher_information import Tangent, gain, inverse_of
from ..regression.least_squares import Array, wls
from ..regression.within_groups import within_slope
from ..tables.checks import doubt_about
from ..tables.overrides import COLUMN_OF, commonest, further_overrides, split_words
from ..tables.run_quantities import flops_per_param_token
from .context import COLUMN, ClaimContext
from .effects import Effect, EffectFinding
from .verdicts import Decision, Needs, Options, decisive_se, runs_needed
from .vetoes import FarthestRun, Veto

TARGET_RANGE = 32
FULL_LEVELS = 6
SWEEP = "python -m lora_scaling -m"


def energy_line(frame: pd.DataFrame, overrides: Sequence[str] = ()) -> Callable[[float], float]:
    """Return the expected kWh of a run by its work (samples × epochs): an affine line through the median energies.

    Of the runs with the method and model that `overrides` name. What was never run is taken from the other
    runs, in proportion to the FLOPs that a token costs it: rough, but of the right size.
    """
    rows, scale = _alike(frame[frame["energy_kwh"] > 0], _named(overrides))
    if rows.empty:
        return lambda work: float("nan")
    line = rows.groupby("samples_seen")["energy_kwh"].median()
    x, y = line.index.to_numpy(dtype=float), scale * line.to_numpy(dtype=float)
    if len(x) == 1:
        return lambda work: float(y[0] * work / x[0]) if x[0] > 0 else float(y[0])
    X = np.column_stack([np.ones_like(x), x])
    intercept, slope = wls(y, X, (y.max() / y) ** 2, ["fixed", "work"]).params
    floor = 0.5 * float(y.min())
    return lambda work: max(float(intercept + slope * work), floor)


def _named(overrides: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in overrides)}


def _alike(frame: pd.DataFrame, named: dict[str, str]) -> tuple[pd.DataFrame, float]:
    """Select the rows of a method and a model (all if none match), and how much more a token costs there."""
    scale = 1.0
    for column in ("model", "method"):
        wanted = named.get(column)
        if wanted is None or frame[column].isna().all():
            continue
        same = frame[_chosen(frame, column, wanted)]
        if len(same):
            frame = same
        elif column == "method":
            scale *= flops_per_param_token(wanted) / float(frame["method"].dropna().map(flops_per_param_token).median())
        else:
            known = [size for name in frame["model"].dropna().unique() if (size := _flops_per_token(name)) is not None]
            target = _flops_per_token(wanted.partition(" ")[0])
            scale *= target / float(np.median(known)) if known and target is not None else 1.0
    return frame, scale


@cache
def _flops_per_token(model: str) -> float | None:
    """Return the weights of a preset that each token meets; None if the name is no preset's or its shape is unknown."""
    file = config_dir() / "model" / f"{model}.yaml"
    if not re.fullmatch(r"[\w.-]{1,200}", model) or not file.is_file():  # no system has longer names of files
        return None
    preset: Any = OmegaConf.to_container(OmegaConf.load(file))
    try:
        known = ModelShape(**preset["shape"])
    except (TypeError, UserError):  # a preset whose shape is to be given
        return None
    return float(sum(m.layers * m.active * m.weights for m in known.matmuls()) + known.head.weights)


def common_overrides(frame: pd.DataFrame) -> list[str]:
    """Return the overrides that most runs share, for a command that repeats them."""
    found = []
    for name, column in COLUMN_OF.items():
        if name == "study":
            continue
        values = frame[column].dropna()
        if len(values) == 0 or (column == "rank" and (frame["method"] == "full").all()):
            continue
        value = values.mode().iloc[0]
        override = f"{column}_override"
        again = commonest(frame[override]) if override in frame else None
        if again is not None:  # records say how to choose a file or a checkpoint again, which a name does not
            found.append(str(again))
            continue
        found.append(f"{name}={_plain(value)}")
    found += further_overrides(frame)
    study = frame["study"].dropna()
    if len(study) and re.fullmatch(r"[A-Za-z0-9][\w.+-]*", str(study.mode().iloc[0])):
        found.append(f"study={study.mode().iloc[0]}")  # so that the new runs join these
    return found


def existing_run_counts(frame: pd.DataFrame, overrides: Sequence[str], *, zero: bool = False) -> dict[Any, int]:
    """Count the runs with these settings, with or without (`zero`) steps, of each samples × epochs.

    Those are the ones that a command would find finished; where a setting is not known, runs have its default.
    """
    named = _named(overrides)
    further = {word for word in overrides if word.partition("=")[0] not in COLUMN_OF}
    rows = frame[(frame["samples_seen"] <= 0) == zero]
    settings = rows["settings_override"].fillna("").astype(str)
    rows = rows[np.array([set(split_words(text)) == further for text in settings], dtype=bool)]
    for setting, column in COLUMN_OF.items():
        wanted = named.get(setting)
        if wanted is None or rows[column].isna().all() or (setting == "lora.r" and named.get("method") == "full"):
            continue
        rows = rows[_chosen(rows, setting, wanted)]
    return rows.groupby(["samples", "epochs"]).size().to_dict()


def _chosen(frame: pd.DataFrame, setting: str, wanted: str) -> pd.Series:
    """Return which runs (n,) were made with `setting=wanted`, which may be several words."""
    column = COLUMN_OF[setting]
    words = setting + "=" + frame[column].map(_plain).astype(str)
    if (again := f"{column}_override") in frame:
        words = frame[again].where(frame[again].notna(), words)
    return words == f"{setting}={wanted}"


def _plain(value: Any) -> str:
    """Format a value as overrides write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unchosen(overrides: Sequence[str]) -> str:
    """Say which names this program does not know (tables from elsewhere have their own); empty if it knows all."""
    found = [
        f"this program has no `{group}` called {name!r}: choose one with `{group}=`"
        for group, value in _named(overrides).items()
        if group in ("model", "data", "method")
        for name in value.partition(f" {group}.")[0].split(",")
        if name not in choices(group)
    ]
    return f" No command is given, since {'; '.join(found)}." if found else ""


def commanded(needs: Needs, command: str | None, overrides: Sequence[str]) -> Needs:
    """Add the command that makes the runs, or what has to be chosen first."""
    unchosen = _unchosen(overrides)
    return replace(needs, message=needs.message + unchosen, command=None if unchosen else command)


def geometric(low: float, high: float, count: int) -> list[int]:
    """Return `count` whole numbers in about equal ratios from low to high."""
    return sorted({max(1, round(low * (high / low) ** (i / (count - 1)))) for i in range(count)})


def sweep_needs(
    frame: pd.DataFrame,
    *,
    message: str,
    samples: Sequence[int],
    epochs: Sequence[int],
    replicates: int,
    extra: Sequence[str] = (),
    zero_runs: int = 0,
    together: bool = False,
) -> Needs:
    """Ask for a full factorial of samples × epochs up to `replicates` of each, and for runs of zero steps.

    Runs that the table already has are not counted: the sweep skips them. `extra` are further overrides
    that replace the shared ones; commas in them multiply the runs. `together`: what is compared within a session has to
    be run in one, whatever is there already, hence as a study of its own.
    """
    replaced = {word.split("=")[0] for word in extra}
    shared = [word for word in common_overrides(frame) if word.split("=")[0] not in replaced]
    if together:
        shared = [_study_beside(frame, word) for word in shared]
    swept = [[f"{key}={value}" for value in values.split(",")] for key, values in _named(extra).items()]
    settings: list[dict[str, Any]] = []
    energy = 0.0
    variants = [[*shared, *words] for words in itertools.product(*swept)]
    costs = [energy_line(frame, words) for words in variants]
    finished = [{} if together else existing_run_counts(frame, words) for words in variants]
    for s in samples:
        for e in epochs:
            new = [max(0, replicates - have.get((s, e), 0)) for have in finished]
            if any(new):
                settings.append({"samples": s, "epochs": e, "runs": sum(new)})
                energy += sum(n * cost(s * e) for n, cost in zip(new, costs, strict=True) if n)
    levels = f"samples={','.join(map(str, samples))} epochs={','.join(map(str, epochs))}"
    command = " ".join([SWEEP, levels, *extra, *shared, f"replicates={replicates}"])
    if zero_runs:
        settings.append({"samples": samples[0], "epochs": epochs[0], "max_steps": 0, "runs": zero_runs})
        zero = f"samples={samples[0]} epochs={epochs[0]}"
        command += " && " + " ".join([SWEEP, zero, *shared, "max_steps=0", f"replicates={zero_runs}"])
        energy += zero_runs * energy_line(frame, shared)(0)
    needs = Needs(
        message=message,
        runs=sum(setting["runs"] for setting in settings),
        settings=tuple(settings),
        energy_kwh=_expected(energy),
    )
    return commanded(needs, command, [*extra, *shared])


def _study_beside(frame: pd.DataFrame, word: str) -> str:
    """Return `study=NAME` with a name that no run has yet; any other word as it is."""
    key, _, name = word.partition("=")
    if key != "study":
        return word
    taken = set(frame["study"].dropna())
    while name in taken:
        name += "_more"
    return f"study={name}"


def repeat_needs(frame: pd.DataFrame, row: pd.Series) -> Needs:
    """Ask for two more runs of the setting of one that lies far off."""
    zero, samples, epochs = bool(row["samples_seen"] == 0), float(row["samples"]), float(row["epochs"])
    message = f"Repeat run {row['run_id']} and look at what disturbed it."
    if samples != int(samples) or epochs != int(epochs):
        return Needs(message=message)
    shared = common_overrides(row.to_frame().T)
    repeats = existing_run_counts(frame, shared, zero=zero).get((samples, epochs), 0) + 2
    idle = ["max_steps=0"] if zero else []
    needs = Needs(
        message=message,
        runs=2,
        settings=({"samples": int(samples), "epochs": int(epochs), "runs": 2} | ({"max_steps": 0} if zero else {}),),
        energy_kwh=_expected(2 * energy_line(frame, shared)(0.0 if zero else samples * epochs)),
    )
    words = [f"samples={samples:.0f}", f"epochs={epochs:.0f}", *shared, *idle, f"replicates={repeats}"]
    return commanded(needs, " ".join([SWEEP, *words]), shared)


def joined(parts: Sequence[Needs]) -> Needs:
    """Combine several needs into one."""
    energies = [part.energy_kwh for part in parts if part.energy_kwh is not None]
    return Needs(
        message=" ".join(part.message for part in parts),
        runs=sum(part.runs or 0 for part in parts),
        settings=tuple(setting for part in parts for setting in part.settings),
        energy_kwh=_expected(sum(energies)) if len(energies) == len(parts) else None,
        command=" && ".join(part.command for part in parts if part.command) or None,
    )


def _expected(kwh: float) -> float | None:
    return round_to(kwh, 3) if math.isfinite(kwh) and kwh > 0 else None


def round_to(value: float, digits: int) -> float:
    """Round `value` to so many significant digits."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value


LEAST_HALF_WIDTH = 0.5  # of the margin: an estimate on its edge that is known better stays there
ON_THE_EDGE = "lies on the margin's edge, where no reasonable number of runs decides; another margin may"
NEAR_THE_EDGE = "lies near the margin's edge, where no number of runs decides, but it is known only to"
MAY_MOVE = "the runs of the command narrow that, and the estimate may move"
REPEATS = 4  # of each run that is asked for where there are none
LEAST_REPEATS = 2


def typical_work(frame: pd.DataFrame) -> tuple[int, int] | None:
    """Return the samples and epochs of a run of middling size; None if no run trained."""
    trained = frame[frame["samples_seen"] > 0] if len(frame) else frame
    if trained.empty:
        return None
    row = trained.sort_values("samples_seen").iloc[len(trained) // 2]
    return max(1, int(row["samples"])), max(1, int(row["epochs"]))


def first_runs(effect: Effect, context: ClaimContext, rows: pd.DataFrame) -> Needs | None:
    """Ask for the first runs that can be compared, unless a run of `rows` in doubt is what stops the claim."""
    frame = context.trusted
    if doubt_about(rows, context.suspects) or typical_work(frame) is None:
        return None
    message = f"Runs that differ in {effect.noun} alone, {REPEATS} of each, in shuffled order."
    return _runs(effect, frame, message, REPEATS)


def further_runs(
    effect: Effect,
    context: ClaimContext,
    rows: pd.DataFrame,
    found: EffectFinding,
    veto: Veto | None,
    outlier: FarthestRun | None,
) -> Needs:
    """Ask for more of the runs that were compared; if models differ, of those that are not decided."""
    frame = context.response.frame
    if veto is not None and veto.kind == "outlier" and outlier is not None:
        return repeat_needs(frame, rows.iloc[outlier.row])
    if veto is not None and veto.kind != "models":
        return Needs(message="Find what is different about the runs named; more runs alone do not settle it.")
    if not found.depends:
        return _more_runs(effect, context.options, rows, found.estimate)
    if {"supported", "refuted"} <= {own["verdict"] for own in found.by_model.values()}:
        return Needs(message=_apart(rows, found))
    parts = []
    for name, own in found.by_model.items():
        if own["verdict"] != "undecided":
            continue
        mine = rows[rows["of_model"] == name].reset_index(drop=True)
        parts.append(_more_runs(effect, context.options, mine, within_slope(mine, "y")[0], f"{name}: "))
    return joined(parts)


def _apart(rows: pd.DataFrame, found: EffectFinding) -> str:
    """Say that the models differ, which more runs would only confirm."""
    message = "No more runs settle it: the models differ. Decide it for each alone, on a table of its runs"
    names = [name for name in found.by_model if rows["run_id"].str.startswith(f"{name}-").any()]
    if len(names) == len(found.by_model):  # run folders are called after their model
        message += f" (of records: lora-scaling analyse claims RUNS/{shlex.quote(names[0])}-*)"
    return message + "."


def _more(effect: Effect, options: Options, rows: pd.DataFrame, estimate: IntervalEstimate) -> float | None:
    """Return how many more runs like these decide with 80 % power; None if the margin's edge is too close."""
    return runs_needed(len(rows), estimate, *effect.bounds(float(np.ptp(rows["factor"])), options), options)


def _more_runs(
    effect: Effect, options: Options, rows: pd.DataFrame, estimate: IntervalEstimate, name: str = ""
) -> Needs:
    """Ask for more of the runs compared, unless the effect is known to lie on the margin's edge."""
    more = _more(effect, options, rows, estimate)
    on_the_edge = more is None and _on_the_edge(effect, options, rows, estimate)
    message = name + _asked(effect, options, estimate, more, on_the_edge=on_the_edge)
    if on_the_edge:
        return Needs(message=message)
    return _more_like(effect, rows, message, more or len(rows))


def _on_the_edge(effect: Effect, options: Options, rows: pd.DataFrame, estimate: IntervalEstimate) -> bool:
    """Return whether the effect is known to lie on the margin's edge, where no number of runs decides."""
    low, high = estimate.interval(options.ci_level)
    return (high - low) / 2 < LEAST_HALF_WIDTH * effect.bounds(float(np.ptp(rows["factor"])), options)[1]


def _asked(
    effect: Effect, options: Options, estimate: IntervalEstimate, more: float | None, *, on_the_edge: bool
) -> str:
    if more is not None:
        return f"About {more:.0f} more runs that differ in {effect.noun} alone."
    low, high = (100 * math.expm1(end) for end in estimate.interval(options.ci_level))
    if on_the_edge:
        return f"The estimate {ON_THE_EDGE}."
    known = f" ±{(high - low) / 2:.2g} %" if math.isfinite(high - low) else " roughly"
    return f"The estimate {NEAR_THE_EDGE}{known}: {MAY_MOVE}."


def _vary(effect: Effect, frame: pd.DataFrame) -> list[str]:
    """Return the overrides that the new runs vary; full fine-tuning has no adapters to vary."""
    adapters = effect.vary.startswith("lora.") and (frame["method"].mode() == "full").any()
    return [*(["method=lora"] if adapters else []), *effect.vary.split()]


def _more_like(effect: Effect, rows: pd.DataFrame, message: str, runs: float) -> Needs:
    """Ask for so many runs (or more, for as many of each) like those compared, all in one session."""
    models = sorted(rows["model"].dropna().unique()) if rows["model_override"].isna().all() else []
    vary = [*_vary(effect, rows), *([f"model={','.join(models)}"] if len(models) > 1 else [])]
    kinds = math.prod(len(word.partition("=")[2].split(",")) for word in vary)
    return _runs(effect, rows, message, max(LEAST_REPEATS, math.ceil(runs / kinds)), vary)


def _runs(
    effect: Effect, frame: pd.DataFrame, message: str, replicates: int, vary: Sequence[str] | None = None
) -> Needs:
    samples, epochs = typical_work(frame) or (1, 1)
    extra = tuple(_vary(effect, frame) if vary is None else vary)
    return sweep_needs(
        frame,
        message=message,
        samples=[samples],
        epochs=[epochs],
        replicates=replicates,
        extra=extra,
        together=True,
    )


MAX_RUNS = 60
STEPS_WANTED = 10  # of the meter in the smallest run that is asked for: rounding is then 3 % of it


@dataclass(frozen=True, kw_only=True)
class ExponentPlan:
    """Runs for one exponent: settings, commands, energy, and the half-width now and expected then.

    No commands where a level is no whole number, which no run could be asked for.
    `overrides` are those that the commands share.
    """

    runs: int
    settings: tuple[dict[str, Any], ...]
    commands: tuple[str, ...]
    overrides: tuple[str, ...]
    energy_kwh: float | None
    half_width_now: float
    half_width_then: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that could be made, of as many samples and epochs (or of no steps), and its expected energy."""

    samples: float
    epochs: float
    zero: bool
    energy_kwh: float


def plan_exponent(
    context: ClaimContext, analysis: Analysis, factor: str, estimate: float, low: float, high: float
) -> ExponentPlan | None:
    """Choose runs greedily until the exponent is expected to decide with 80 % power.

    `analysis` is the one that has to decide; runs of no steps count only in the one of all runs. `low` and `high` are
    the bounds of the equivalence region. None where the estimate is too close to a
    bound for any number of runs, or where even MAX_RUNS runs are not expected to decide.
    """
    options, zero = context.options, context.response.of_whole_runs and not _refutes(context, estimate, low, high)
    j = analysis.design.factors.index(factor)
    gap = min(abs(estimate - low), abs(high - estimate))
    if gap < 0.1 * (high - low) / 2:
        return None
    tangent, candidates = Tangent(analysis=analysis), _candidates(analysis, zero=zero)
    rows, information, sigma = tangent.rows(candidates), tangent.information, analysis.fit.sigma
    inverse = inverse_of(information)
    now = _se(inverse, j, sigma)
    chosen: list[Candidate] = []
    while True:
        df = analysis.fit.data.df + len(chosen)
        if chosen and _se(inverse, j, sigma) <= decisive_se(estimate, low, high, options, df):
            break
        gains = [gain(inverse, row, j) / one.energy_kwh for row, one in zip(rows, candidates, strict=True)]
        best = int(np.argmax(gains))
        if len(chosen) == MAX_RUNS or gains[best] <= 0:
            return None
        information = information + np.outer(rows[best], rows[best])
        inverse = inverse_of(information)
        chosen.append(candidates[best])
    t = float(stdtrit(analysis.fit.data.df, 0.5 + options.ci_level / 2))
    overrides = common_overrides(_largest(analysis))
    settings, commands = _commands(chosen, context.response.frame, overrides)
    known = bool((context.response.frame["energy_kwh"] > 0).any())
    return ExponentPlan(
        runs=len(chosen),
        settings=settings,
        commands=commands,
        overrides=tuple(overrides),
        energy_kwh=round_to(sum(c.energy_kwh for c in chosen), 3) if known else None,
        half_width_now=t * now,
        half_width_then=t * _se(inverse, j, sigma),
    )


def _refutes(context: ClaimContext, estimate: float, low: float, high: float) -> bool:
    """Return whether a refutation is expected that has to hold without the runs that did not train."""
    return not (low <= estimate <= high or context.idle_alike)


def _se(inverse: Array, j: int, sigma: float) -> float:
    return sigma * float(np.sqrt(max(inverse[j, j], 0.0)))


def _largest(analysis: Analysis) -> pd.DataFrame:
    """Return the runs of the cell with the most runs: further ones are like these."""
    frame = analysis.design.frame
    return frame[frame["cell"] == int(np.bincount(frame["cell"]).argmax())]


def _candidates(analysis: Analysis, *, zero: bool) -> list[Candidate]:
    """List the levels of the largest cell, twice its largest level, and (`zero`) a run of no steps."""
    frame = _largest(analysis)
    trained = frame[frame["samples_seen"] > 0]
    levels: dict[str, list[float]] = {}
    for name, column in COLUMN.items():
        run = sorted(float(value) for value in trained[column].unique())
        run = [*run, 2 * run[-1]] if name in analysis.design.factors else run[:1]
        levels[name] = [int(value) if value == int(value) else value for value in run]
    zero = zero and not analysis.idle_left_out
    points = [(samples, epochs, False) for samples in levels["samples"] for epochs in levels["epochs"]]
    if zero:
        points.append((math.ceil(levels["samples"][0]), math.ceil(levels["epochs"][0]), True))
    cost = energy_line(frame, common_overrides(frame))
    found = [Candidate(samples=s, epochs=e, zero=z, energy_kwh=cost(0 if z else s * e)) for s, e, z in points]
    known = [one for one in found if np.isfinite(one.energy_kwh) and one.energy_kwh > 0]
    return known or [replace(one, energy_kwh=1e-3 if one.zero else one.samples * one.epochs) for one in found]


def _commands(
    chosen: Sequence[Candidate], frame: pd.DataFrame, shared: Sequence[str]
) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """Write one sweep per level and its number of repeats; the sweep skips runs that exist."""
    count = Counter((c.samples, c.epochs, c.zero) for c in chosen)
    have = {zero: existing_run_counts(frame, shared, zero=zero) for zero in (False, True)}
    settings, commands = [], []
    for (samples, epochs, zero), runs in sorted(count.items()):
        words = [f"samples={samples}", f"epochs={epochs}", *shared, *(["max_steps=0"] if zero else [])]
        settings.append({"samples": samples, "epochs": epochs, "runs": runs} | ({"max_steps": 0} if zero else {}))
        commands.append(" ".join([SWEEP, *words, f"replicates={have[zero].get((samples, epochs), 0) + runs}"]))
    whole = all(isinstance(number, int) for samples, epochs, _ in count for number in (samples, epochs))
    return tuple(settings), tuple(commands) if whole else ()


def gate_needs(context: ClaimContext, factor: str) -> Needs | None:
    """Ask for the sweep that passes the gates: six geometric levels, a range of 32, three of each, zero-step runs."""
    frame = context.trusted
    trained = frame[frame["samples_seen"] > 0] if len(frame) else frame
    if trained.empty or doubt_about(context.design.frame, context.suspects):
        return None
    smallest = _smallest_seen(trained)
    if factor == "epochs":
        levels, samples = [1, 2, 4, 8, 16], [smallest]
    else:
        top = max(TARGET_RANGE * smallest, int(trained["samples"].max()))
        levels, samples = [max(1, round(trained["epochs"].mode().iloc[0]))], geometric(smallest, top, FULL_LEVELS)
    apart = factor in context.design.factors and follows_order(context.design, factor) is not None
    zero_runs = _zero_runs(context, anew=apart)
    needs = sweep_needs(
        frame,
        message=_large_enough(context)
        + f"Runs over a wider range of {factor}, three of each in shuffled order"
        + (", and three without training." if zero_runs else "."),
        samples=samples,
        epochs=levels,
        replicates=3,
        zero_runs=zero_runs,
        together=apart,
    )
    return needs if needs.runs else None


def _large_enough(context: ClaimContext) -> str:
    """Ask for a finer meter or larger runs, where the meter hardly sees the small ones; empty otherwise."""
    few = (context.response.frame["y"] < STEPS_WANTED * context.response.frame["y_step"]).any()
    return "A finer meter, or runs of many steps of this one. " if few else ""


def _rounding_dominates(analysis: Analysis) -> bool:
    """Return whether the meter's rounding is the larger part of some run's variance: repeats may not lessen it."""
    data = analysis.fit.data
    return data.least_sigma > 0 and float(data.weights.min()) < 0.5


def _smallest_seen(trained: pd.DataFrame) -> int:
    """Return the least number of samples that was run and that the meter sees, or else that it would see."""
    wanted = STEPS_WANTED * trained["y_step"]
    seen = trained[trained["y"] >= wanted]
    if len(seen):
        return max(1, int(seen["samples"].min()))
    largest = trained.iloc[int(trained["y"].argmax())]
    return max(1, math.ceil(largest["samples"] * STEPS_WANTED * largest["y_step"] / largest["y"]))


def _zero_runs(context: ClaimContext, *, anew: bool = False) -> int:
    """Return how many runs of zero steps to ask for: none if some exist (unless `anew`) or they have no response."""
    have = not anew and (context.response.frame["samples_seen"] == 0).any()
    return 3 if context.response.of_whole_runs and not have else 0


def pair_needs(context: ClaimContext) -> Needs | None:
    frame = context.trusted
    trained = frame[frame["samples_seen"] > 0] if len(frame) else frame
    if trained.empty or doubt_about(context.design.frame, context.suspects):
        return None
    smallest, design = max(1, int(trained["samples"].min())), context.design
    needs = sweep_needs(
        frame,
        message="The same work both ways: samples × epochs in full, three of each in shuffled order.",
        samples=[smallest * 2**i for i in range(4)],
        epochs=[1, 2, 4],
        replicates=3,
        together=any(follows_order(design, factor) is not None for factor in design.factors),
    )
    return needs if needs.runs else None


def more_runs(
    context: ClaimContext,
    factor: str,
    decision: Decision,
    low: float,
    high: float,
    veto: Veto | None,
    *,
    analysis: Analysis | None = None,
    of_exponent: bool = True,
) -> Needs:
    """Ask for runs until an interval of the expected width decides with 80 % power, or for what a veto asks for.

    Chosen one by one for what they tell per kWh where the claim is on the factor's own exponent
    (`of_exponent`); else more of the same. `analysis` is the one that was decided on, the curve by tokens if not given.
    """
    analysis = analysis or context.total
    frame, design = context.response.frame, context.design
    if veto is not None and veto.kind == "outlier" and analysis.outlier is not None:
        return repeat_needs(frame, design.frame.iloc[analysis.outlier])
    if veto is not None and veto.kind == "length":
        return _sweep(
            frame,
            message="The same runs with every sample padded to one length, decided on by themselves.",
            samples=list(design.trained["samples"].unique()),
            epochs=list(design.trained["epochs"].unique()),
            replicates=3,
            extra=("padding=max_length",),
            together=True,
        )
    if veto is not None and veto.kind == "witness":
        return _as_many_again(context)
    if veto is not None and veto.kind == "growth":
        return Needs(message=f"No more runs settle it: what twice the {factor} cost depends on where in the range.")
    if veto is not None and veto.kind != "trained":
        what = "why the two differ" if veto.kind == "witnesses" else "what is different about the runs named"
        return Needs(message=f"Find {what}; more runs alone do not settle it.")
    if _rounding_dominates(analysis) and (larger := gate_needs(context, factor)) is not None:
        return larger
    if of_exponent and _refutes(context, decision.estimate, low, high):
        analysis = context.trained
        decision = replace(decision, ci=analysis.profile(factor).interval(context.options.ci_level))
    df = analysis.fit.data.df
    half = (decision.ci[1] - decision.ci[0]) / 2
    se = half / float(stdtrit(df, 0.5 + context.options.ci_level / 2))
    estimate = IntervalEstimate(value=decision.estimate, se=se, df=df)
    extra = runs_needed(len(design.frame), estimate, low, high, context.options)
    like = "" if extra is None else f" (or about {extra:.0f} more like these)"
    plan = plan_exponent(context, analysis, factor, decision.estimate, low, high) if of_exponent else None
    if plan is not None:
        needs = Needs(
            message=f"{_large_enough(context)}{plan.runs} runs where they tell most per kWh{like}.",
            runs=plan.runs,
            settings=plan.settings,
            energy_kwh=plan.energy_kwh,
            half_width_now=plan.half_width_now,
            half_width_then=plan.half_width_then,
        )
        return commanded(needs, " && ".join(plan.commands) or None, plan.overrides)
    trained = design.trained
    samples, epochs = sorted(trained["samples"].unique()), sorted(trained["epochs"].unique())
    points = max(1, trained[["samples", "epochs"]].drop_duplicates().shape[0])
    replicates = math.ceil(len(trained) / points)
    if extra is None and half < LEAST_HALF_WIDTH * (high - low) / 2:
        return Needs(message=f"The estimate {decision.estimate:.3f} {ON_THE_EDGE}.")
    if extra is None:
        message = f"The estimate {decision.estimate:.3f} {NEAR_THE_EDGE} ±{half:.2g}: {MAY_MOVE}."
    else:
        message = f"About {extra:.0f} more runs like these, or fewer over a wider range."
        if extra > 2 * len(design.frame):
            message += " The command makes a first part of them."
    if factor == "samples" and len(samples) < 12:
        samples = [*samples, 2 * samples[-1]] if extra is None or extra > len(design.frame) else samples
    more = math.ceil(min(extra or len(design.frame), 2 * len(design.frame)) / points)
    return _sweep(
        frame,
        message=message,
        samples=samples,
        epochs=epochs,
        replicates=replicates + more,
        zero_runs=_zero_runs(context),
    )


def _as_many_again(context: ClaimContext) -> Needs:
    """Ask for as many runs again of all levels that trained, and for the same of twice the largest."""
    trained = context.design.trained
    levels = {name: sorted(trained[name].unique()) for name in ("samples", "epochs")}
    for name in context.design.factors:
        levels[name] = [*levels[name], 2 * levels[name][-1]]
    points = max(1, trained[["samples", "epochs"]].drop_duplicates().shape[0])
    return _sweep(
        context.response.frame,
        message="As many runs again with training, over a wider range.",
        replicates=2 * math.ceil(len(trained) / points),
        **levels,
    )


def _sweep(
    frame: pd.DataFrame, *, message: str, samples: Sequence[float], epochs: Sequence[float], **options: Any
) -> Needs:
    """Ask for a sweep; only its message remains if a level is no whole number, because no run could have it."""
    if any(level != int(level) or level < 1 for level in (*samples, *epochs)):
        return Needs(message=message)
    whole = {"samples": sorted(map(int, samples)), "epochs": sorted(map(int, epochs))}
    return sweep_needs(frame, message=message, **whole, **options)
