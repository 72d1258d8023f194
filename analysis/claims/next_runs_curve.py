"""What would decide the claims on samples and epochs."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from scipy.special import stdtrit

from ..regression.curve_analysis import Analysis, follows_order
from ..regression.estimate import Estimate
from .context import CurveSet
from .exponent_plan import plan_exponent
from .next_runs import FULL_LEVELS, TARGET_RANGE, commanded, geometric, repeat_needs, sweep_needs
from .verdicts import Decision, Needs, runs_needed
from .vetoes import Veto


def gate_needs(curves: CurveSet, factor: str) -> Needs | None:
    """The sweep that passes the gates: six geometric levels, a range of 32, three of each, zero-step runs."""
    frame = curves.response.frame
    if frame.empty or curves.suspects:
        return None
    trained = frame[frame["samples_seen"] > 0]
    if trained.empty:
        return None
    smallest = max(1, int(trained["samples"].min()))
    if factor == "epochs":
        levels, samples = [1, 2, 4, 8, 16], [smallest]
    else:
        top = max(TARGET_RANGE * smallest, int(trained["samples"].max()))
        levels, samples = [max(1, round(trained["epochs"].mode().iloc[0]))], geometric(smallest, top, FULL_LEVELS)
    apart = factor in curves.design.factors and follows_order(curves.design, factor) is not None
    zero_runs = _zero_runs(curves, anew=apart)
    needs = sweep_needs(
        frame,
        message=f"Runs over a wider range of {factor}, three of each in shuffled order"
        + (", and three without training." if zero_runs else "."),
        samples=samples,
        epochs=levels,
        replicates=3,
        zero_runs=zero_runs,
        together=apart,
    )
    return needs if needs.runs else None


def _zero_runs(curves: CurveSet, *, anew: bool = False) -> int:
    """Runs of zero steps to ask for: none where there are some (unless `anew`), or where they have no response."""
    have = not anew and (curves.response.frame["samples_seen"] == 0).any()
    return 3 if curves.response.of_whole_runs and not have else 0


def pair_needs(curves: CurveSet) -> Needs | None:
    frame = curves.response.frame
    trained = frame[frame["samples_seen"] > 0] if len(frame) else frame
    if trained.empty or curves.suspects:
        return None
    smallest, design = max(1, int(trained["samples"].min())), curves.design
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
    curves: CurveSet,
    factor: str,
    decision: Decision,
    low: float,
    high: float,
    veto: Veto | None,
    *,
    analysis: Analysis | None = None,
    of_exponent: bool = True,
) -> Needs:
    """Runs until an interval of the expected width decides with 80 % power; or what a veto asks for.

    Chosen one by one for what they tell per kWh where the claim is on the factor's own exponent
    (`of_exponent`); else more of the same. `analysis` is the one that was decided on, the curve by tokens if not given.
    """
    analysis = analysis or curves.total
    frame, design = curves.response.frame, curves.design
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
    if veto is not None:
        what = "why the two differ" if veto.kind == "witnesses" else "what is different about the runs named"
        return Needs(message=f"Find {what}; more runs alone do not settle it.")
    df = analysis.fit.data.df
    half = (decision.ci[1] - decision.ci[0]) / 2
    se = half / float(stdtrit(df, 0.5 + curves.options.ci_level / 2))
    estimate = Estimate(value=decision.estimate, se=se, df=df)
    extra = runs_needed(len(design.frame), estimate, low, high, curves.options)
    like = "" if extra is None else f" (or about {extra:.0f} more like these)"
    plan = plan_exponent(curves, factor, decision.estimate, low, high) if of_exponent else None
    if plan is not None:
        needs = Needs(
            message=f"{plan.runs} runs where they tell most per kWh{like}.",
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
    if extra is None:
        message = (
            f"The estimate {decision.estimate:.3f} is so close to the margin's edge that no reasonable number "
            "of like runs decides; a wider range may, or another margin."
        )
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
        zero_runs=_zero_runs(curves),
    )


def _sweep(
    frame: pd.DataFrame, *, message: str, samples: Sequence[float], epochs: Sequence[float], **options: Any
) -> Needs:
    """`sweep_needs`; without its runs where a level is no whole number, which none could be asked for."""
    if any(level != int(level) or level < 1 for level in (*samples, *epochs)):
        return Needs(message=message)
    whole = {"samples": sorted(map(int, samples)), "epochs": sorted(map(int, epochs))}
    return sweep_needs(frame, message=message, **whole, **options)
