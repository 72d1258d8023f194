"""What the claims' warnings say of the order of the runs, of single runs, and of what both mean for the verdicts."""

import pandas as pd

from lora_scaling.text import counted

from ..regression.curve_analysis import MAX_ORDER_CORRELATION, Analysis
from ..regression.outliers_and_drift import Disturbances, find_disturbances
from ..regression.sessions import ALONE, MOST_LONE_RUNS, placed_in_sessions, shared_sessions
from ..tables.checks import apart_in_time, rank_correlation
from ..tables.parsing import RunWarning
from .context import ClaimContext
from .verdicts import Claim


def run_warnings(context: ClaimContext, claims: list[Claim]) -> list[RunWarning]:
    """Warn about the order of the runs, their scatter and single runs, and say what that means for the verdicts."""
    frame = context.response.frame
    if frame.empty:
        return []
    fitted = any("noise_cv" in claim.tests and "zero_step_runs" in claim.tests for claim in claims)
    analysis = context.total if fitted else None
    found = find_disturbances(frame)
    warnings = [*_order_warnings(frame), *_outlier_warnings(context, claims, found)]
    warnings += _session_warnings(frame)
    if drift := _drift_warning(context.response.noun, analysis, found):
        warnings.append(drift)
    if analysis is not None and analysis.weighted:
        message = f"Scatter differs with size (p = {analysis.variance_p:.1g}); runs were weighted accordingly."
        warnings.append(RunWarning(kind="heteroscedastic", message=message))
    return warnings


def _order_warnings(frame: pd.DataFrame) -> list[RunWarning]:
    """Warn about factors that follow the run order: their claims are left undecided."""
    trained = frame[frame["samples_seen"] > 0]
    if trained.empty:
        return []
    messages = []
    for factor in ("samples", "epochs"):
        r = rank_correlation(trained["position"].to_numpy(), trained[factor].to_numpy())
        if abs(r) > MAX_ORDER_CORRELATION:
            messages.append(f"The runs were made in order of {factor} (rank correlation {r:.2f}); shuffle them.")
    placed = placed_in_sessions(trained)
    for factor in ("samples", "epochs", "rank", "method", "model"):
        share = apart_in_time(placed["position"], placed[factor])
        if share is not None and not any(f"in order of {factor} " in message for message in messages):
            messages.append(
                f"Runs that differ in {factor} were made at different times, which explain {100 * share:.0f} % of the "
                f"run order: drift would look like an effect of {factor}; shuffle them."
            )
    return [RunWarning(kind="order_confounded", message=message) for message in messages]


def _session_warnings(frame: pd.DataFrame) -> list[RunWarning]:
    """Say whether the sessions are known, and which runs cannot be compared within one."""
    if frame["session"].isna().any():
        message = (
            "The table does not say which runs share a session (`session`: a process or a day), so runs are taken as "
            "independent. If each level had a session of its own, what differs between sessions looks like an effect."
        )
        return [RunWarning(kind="session_unknown", message=message)]
    labels = shared_sessions(frame)
    lone = frame["run_id"][labels == ALONE] if labels is not None else frame["run_id"][:0]
    if not len(lone) or len(lone) > MOST_LONE_RUNS * len(frame):
        return []
    message = (
        f"{counted(len(lone), 'run')} had a session alone: nothing can be compared with it there, and no verdict on "
        "samples and epochs rests on it."
    )
    return [RunWarning(kind="alone_in_session", message=message, run_ids=tuple(lone))]


def _drift_warning(noun: str, analysis: Analysis | None, found: Disturbances) -> RunWarning | None:
    size = "" if found.drift is None else f" by {100 * (found.drift.ratio - 1):+.0f} % from the first to the last"
    if analysis is not None and analysis.drift:
        message = (
            f"At the same work {noun} drifted over the run order{size} (p = {analysis.order_p:.1g}); the drift was "
            "taken out of the verdicts on samples and epochs, and of no other."
        )
    elif found.drift is not None:
        message = (
            f"At the same work {noun} drifted over the run order{size} (p = {found.drift.p:.1g}), and no verdict "
            "takes that out: in shuffled runs it adds to the scatter, in others it can pass for an effect. "
            "Look for what changed (heat, other work, another session) and make the runs again in shuffled order."
        )
    else:
        return None
    return RunWarning(kind="order_drift", message=message)


def _outlier_warnings(context: ClaimContext, claims: list[Claim], found: Disturbances) -> list[RunWarning]:
    """Warn about each outlier once: those found in any table, and those that a verdict hangs on.

    A verdict is tried without a run that lies far off even where unequal scatter explains it: no harm, no warning.
    """
    tried = [(claim.tests["outlier"], claim.verdict) for claim in claims if claim.tests.get("outlier")]
    mads = {outlier["run_id"]: outlier["mads"] for outlier, _ in tried}
    hanging = [outlier["run_id"] for outlier, verdict in tried if outlier.get("verdict_without", verdict) != verdict]
    ratios = {outlier.run_id: outlier for outlier in found.outliers}
    warnings = []
    for run_id in dict.fromkeys([*hanging, *ratios]):
        if run_id in context.suspects:
            continue
        if run_id in ratios:
            off = (
                f"took {ratios[run_id].ratio:.2g} times the {context.response.noun} that the other runs lead to expect "
                f"at its work (p = {ratios[run_id].p:.1g})"
            )
        else:
            off = f"lies {mads[run_id]:.0f} times the usual scatter off the others"
        meaning = (
            "verdicts that hang on it are left undecided"
            if run_id in mads
            else "it counts in the verdicts like any other"
        )
        message = f"Run {run_id} {off}: {meaning}; repeat it, or leave it out with --exclude."
        warnings.append(RunWarning(kind="outlier", message=message, run_ids=(run_id,)))
    return warnings
