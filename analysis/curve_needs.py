"""What would decide the claims on samples and epochs."""

import math

from .curve_plan import plan_exponent
from .curve_set import CurveSet, Decision
from .needs import FULL_LEVELS, TARGET_RANGE, geometric, sweep_needs
from .regression import t_quantile
from .verdicts import Estimate, Needs, runs_needed


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
        levels, samples = [int(trained["epochs"].mode().iloc[0])], geometric(smallest, top, FULL_LEVELS)
    return sweep_needs(
        frame,
        message=f"Runs over a wider range of {factor}, three of each in shuffled order, and three without training.",
        samples=samples,
        epochs=levels,
        replicates=3,
        zero_runs=0 if (frame["samples_seen"] == 0).any() else 3,
    )


def pair_needs(curves: CurveSet) -> Needs | None:
    frame = curves.response.frame
    trained = frame[frame["samples_seen"] > 0] if len(frame) else frame
    if trained.empty or curves.suspects:
        return None
    smallest = max(1, int(trained["samples"].min()))
    return sweep_needs(
        frame,
        message="The same work both ways: samples × epochs in full, three of each in shuffled order.",
        samples=[smallest * 2**i for i in range(4)],
        epochs=[1, 2, 4],
        replicates=3,
    )


def more_runs(
    curves: CurveSet,
    factor: str,
    decision: Decision,
    low: float,
    high: float,
    veto: str | None,
    *,
    of_exponent: bool = True,
) -> Needs | None:
    """Runs until an interval of the expected width decides with 80 % power.

    Chosen one by one for what they tell per kWh where the claim is on the factor's own exponent
    (`of_exponent`); else more of the same.
    """
    frame, design = curves.response.frame, curves.design
    if veto and "repeat" in veto and curves.total.outlier is not None:
        row = design.frame.iloc[curves.total.outlier]
        have = int(((frame["samples"] == row["samples"]) & (frame["epochs"] == row["epochs"])).sum())
        return sweep_needs(
            frame,
            message=f"Repeat run {row['run_id']} and look at what disturbed it.",
            samples=[int(row["samples"])],
            epochs=[int(row["epochs"])],
            replicates=have + 2,
        )
    if veto and "padding=max_length" in veto:
        trained = design.trained
        return sweep_needs(
            frame,
            message="The same runs with every sample padded to one length.",
            samples=sorted(int(s) for s in trained["samples"].unique()),
            epochs=sorted(int(e) for e in trained["epochs"].unique()),
            replicates=3,
            extra=("padding=max_length",),
        )
    if veto:
        return Needs(message="Find what is different about the runs named; more runs alone do not settle it.")
    df = curves.total.fit.data.df
    half = (decision.ci[1] - decision.ci[0]) / 2
    se = half / t_quantile(0.5 + curves.options.ci_level / 2, df)
    estimate = Estimate(value=decision.estimate, se=se, df=df)
    gap = min((decision.estimate - low, high - decision.estimate), key=abs)
    extra = runs_needed(len(design.frame), estimate, gap, curves.options)
    like = "" if extra is None else f" (or about {extra:.0f} more like these)"
    plan = plan_exponent(curves, factor, decision.estimate, low, high) if of_exponent else None
    if plan is not None:
        return Needs(
            message=f"{plan.runs} runs where they tell most per kWh{like}.",
            runs=plan.runs,
            settings=plan.settings,
            energy_kwh=plan.energy_kwh,
            command=" && ".join(plan.commands),
        )
    trained = design.trained
    samples = sorted(int(s) for s in trained["samples"].unique())
    epochs = sorted(int(e) for e in trained["epochs"].unique())
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
    zero_runs = 0 if (frame["samples_seen"] == 0).any() else 3
    return sweep_needs(
        frame,
        message=message,
        samples=samples,
        epochs=epochs,
        replicates=replicates + more,
        zero_runs=zero_runs,
    )
