"""What would decide an undecided claim on an effect: runs that differ in its setting alone."""

import math
from collections.abc import Sequence

import pandas as pd

from ..regression.estimate import Estimate
from ..regression.within_groups import within_slope
from .context import CurveSet
from .effects import Effect, EffectFinding
from .next_runs import joined, repeat_needs, sweep_needs
from .verdicts import Needs, Options, runs_needed
from .vetoes import FarthestRun, Veto

REPEATS = 4  # of each run that is asked for where there are none
LEAST_REPEATS = 2


def typical_work(frame: pd.DataFrame) -> tuple[int, int] | None:
    """Samples and epochs of a run of middling size; None where none trained."""
    trained = frame[frame["samples_seen"] > 0] if len(frame) else frame
    if trained.empty:
        return None
    row = trained.sort_values("samples_seen").iloc[len(trained) // 2]
    return max(1, int(row["samples"])), max(1, int(row["epochs"]))


def first_runs(effect: Effect, curves: CurveSet) -> Needs | None:
    """Runs where there are none to compare."""
    frame = curves.response.frame
    if curves.suspects or typical_work(frame) is None:
        return None
    message = f"Runs that differ in {effect.noun} alone, {REPEATS} of each, in shuffled order."
    return _runs(effect, frame, message, REPEATS)


def further_runs(
    effect: Effect,
    curves: CurveSet,
    rows: pd.DataFrame,
    found: EffectFinding,
    veto: Veto | None,
    outlier: FarthestRun | None,
) -> Needs:
    """More of the runs that were compared; of the models that are not decided, where each has an answer of its own."""
    frame = curves.response.frame
    if veto is not None and veto.kind == "outlier" and outlier is not None:
        return repeat_needs(frame, rows.iloc[outlier.row])
    if veto is not None and veto.kind != "models":
        return Needs(message="Find what is different about the runs named; more runs alone do not settle it.")
    if not found.depends:
        more = _more(effect, curves.options, len(rows), found.estimate)
        return _more_like(effect, rows, _asked(effect, more), more or len(rows))
    if {"supported", "refuted"} <= {own["verdict"] for own in found.by_model.values()}:
        return Needs(message=_apart(rows, found))
    parts = []
    for name, own in found.by_model.items():
        if own["verdict"] != "undecided":
            continue
        mine = rows[rows["of_model"] == name].reset_index(drop=True)
        more = _more(effect, curves.options, len(mine), within_slope(mine, "y")[0])
        parts.append(_more_like(effect, mine, f"{name}: {_asked(effect, more)}", more or len(mine)))
    return joined(parts)


def _apart(rows: pd.DataFrame, found: EffectFinding) -> str:
    """Models that were shown to answer differently: more runs would only make that surer."""
    message = "No more runs settle it: the models differ. Decide it for each alone, on a table of its runs"
    names = [name for name in found.by_model if rows["run_id"].str.startswith(f"{name}-").any()]
    if len(names) == len(found.by_model):  # run folders are called after their model
        message += f" (of records: python -m analysis claims RUNS/{names[0]}-*)"
    return message + "."


def _more(effect: Effect, options: Options, runs: int, estimate: Estimate) -> float | None:
    """How many more runs like these decide with 80 % power; None where the margin's edge is too close."""
    low = -math.inf if effect.costs_more else math.log1p(-options.margin)
    return runs_needed(runs, estimate, low, math.log1p(options.margin), options)


def _asked(effect: Effect, more: float | None) -> str:
    if more is None:
        return (
            "If the estimate is right, it is so close to the margin's edge that no reasonable number of like runs "
            f"decides; the command makes some that differ in {effect.noun} alone."
        )
    return f"About {more:.0f} more runs that differ in {effect.noun} alone."


def _vary(effect: Effect, frame: pd.DataFrame) -> list[str]:
    """What differs between the runs that are asked for; those of full fine-tuning have no adapters to vary."""
    adapters = effect.vary.startswith("lora.") and (frame["method"].mode() == "full").any()
    return [*(["method=lora"] if adapters else []), *effect.vary.split()]


def _more_like(effect: Effect, rows: pd.DataFrame, message: str, runs: float) -> Needs:
    """So many runs (or some more, for as many of each) like those compared, all in one session."""
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
