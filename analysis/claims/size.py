"""`size_exponent`: how the energy of a token grows with the FLOPs that it costs, from one point a model."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..regression.curve_analysis import CELL_COLUMNS, apart_gate, order_gate
from ..regression.estimate import IntervalEstimate
from ..regression.least_squares import CollinearError, influence, ols, wls
from ..regression.sessions import placed_in_sessions
from ..tables.checks import doubt_about
from ..tables.response import Response, measured_sentence
from .context import ClaimContext
from .next_runs import repeat_needs, sweep_needs, typical_work
from .rank_and_method import farthest
from .verdicts import Claim, Decision, Needs, decided, undecided
from .vetoes import FarthestRun, Veto, vetoed

LEAST_SIZE_RANGE = 4  # of FLOPs per token
STEPS_NEEDED = 10  # of a coarse meter in a run: its repeats share the rounding, 3 % then
MOSTLY_TRAINING = 0.9  # of a run's energy
LEAST_SIZES = 3


def size_exponent(context: ClaimContext) -> Claim:
    """Decide `size_exponent`: γ in E_train/token ∝ (FLOPs/token)^γ; supported is γ = 1 within the margin."""
    trained, noun = _trained(context.response)
    return replace(_decide(context, trained, noun), title=f"{noun} per token is proportional to FLOPs per token")


def _decide(context: ClaimContext, trained: pd.DataFrame, noun: str) -> Claim:
    response, options = context.response, context.options
    quantity = f"exponent γ of {noun} per token in FLOPs per token"
    rows, blocked = _size_rows(trained, context.suspects)
    if blocked:
        needs = None if blocked == doubt_about(rows, context.suspects) else _size_needs(context)
        return undecided("size_exponent", quantity, blocked, needs)

    def decision_on(rows: pd.DataFrame) -> Decision:
        try:
            return decided(size_fit(rows)[0], 1 - options.margin, 1 + options.margin, options)
        except CollinearError:
            return Decision(verdict="undecided", estimate=math.nan, ci=(math.nan, math.nan), p_value=None)

    try:
        estimate, tests = size_fit(rows)
    except CollinearError:
        why = "each model was run with another method or hardware: the effects look alike"
        return undecided("size_exponent", quantity, why, _size_needs(context))
    decision, off = decision_on(rows), _worst(rows)
    tests |= {"p_value": decision.p_value, "df": estimate.df}
    verdict, veto = vetoed(
        decision,
        _part_of_training(rows, response),
        tests,
        outlier=off,
        without=lambda: decision_on(rows if off is None else rows.drop(index=off.row)),
        measured=lambda: decision_on(rows.assign(z=np.log(rows["y_measured"] * _share(rows) / rows["tokens_seen"]))),
    )
    return Claim(
        id="size_exponent",
        verdict=verdict,
        estimate=estimate.value,
        ci=decision.ci,
        quantity=quantity,
        reason=_reason(decision, veto, noun, tests) + measured_sentence(response, tests["measured"]),
        tests=tests,
        needs=_size_needs(context, rows, veto, off) if verdict == "undecided" else None,
        p_value=decision.p_value if verdict != "undecided" else None,
    )


def _reason(decision: Decision, veto: Veto | None, noun: str, tests: dict[str, Any]) -> str:
    if veto is not None:
        return f"Undecided: {veto.why}."
    gamma = f"γ = {decision.estimate:.2f}, {decision.ci[0]:.2f} to {decision.ci[1]:.2f}"
    shown = f"ten times the FLOPs per token cost {10**decision.estimate:.1f} times the {noun} ({gamma})"
    use = "better" if decision.estimate < 1 else "worse"
    subject = noun[0].upper() + noun[1:]
    return {
        "supported": f"{subject} per token grows in proportion to the FLOPs per token: {shown}.",
        "refuted": f"{subject} per token does not grow in proportion to FLOPs: {shown}; "
        f"larger models use the device {use}.",
        "undecided": f"Not precise enough: {shown}, from {tests['sizes']} model sizes.",
    }[decision.verdict]


def _trained(response: Response) -> tuple[pd.DataFrame, str]:
    """Select the runs that trained, with the `energy` to explain and its name: training's own if known."""
    rows = response.frame[response.frame["samples_seen"] > 0]
    if response.column == "energy_kwh" and rows["energy_train_kwh"].notna().all():
        return rows.assign(energy=rows["energy_train_kwh"]), "training energy"
    return rows.assign(energy=rows["y"]), response.noun


def _share(rows: pd.DataFrame) -> pd.Series:
    """Return what is explained as a share of the whole run's energy."""
    return rows["energy"] / rows["energy_kwh"]


def _part_of_training(rows: pd.DataFrame, response: Response) -> Response:
    """Give training its share of each component, because components are known over whole runs only.

    Said where training is nearly all of every run, so that this share cannot bend the answer.
    """
    if response.measured_noun is None or _share(rows).min() >= MOSTLY_TRAINING:
        return response
    gap = "components are known over whole runs only, and some of these did not mostly train"
    return replace(response, measured_noun=None, measured_share=None, measured_gap=gap)


def size_fit(rows: pd.DataFrame) -> tuple[IntervalEstimate, dict[str, Any]]:
    """Estimate γ from one point per model: a model's own efficiency is what scatters, so models are the sample.

    `rows` has `x` (log FLOPs per token), `z` (log energy per token), `model_no` and `group` (method, hardware,
    session …). What groups do is taken out first, by least squares on models and groups together; models that share no
    group with others are compared with none. The points are weighted by 1/(σ²/n + τ²) with τ² between models
    (DerSimonian–Laird), the interval is Hartung and Knapp's with their factor held at 1 or more.
    """
    model, group = (pd.factorize(rows[name])[0] for name in ("model_no", "group"))
    models, groups = np.arange(model.max() + 1), np.arange(1, group.max() + 1)
    columns = np.column_stack([np.equal.outer(model, models), np.equal.outer(group, groups)]).astype(float)
    effects = np.linalg.lstsq(columns, rows[["x", "z"]].to_numpy(dtype=float), rcond=None)[0]
    x, z = effects[: len(models)].T
    part = linked(model, group)
    X = np.column_stack([np.equal.outer(part, np.unique(part)).astype(float), x - x.mean()])
    names = [*(f"part {k}" for k in range(X.shape[1] - 1)), "gamma"]
    cells = rows["z"].groupby([model, group])
    rest = rows["z"] - cells.transform("mean")
    df_within, within = len(rows) - cells.ngroups, float((rest**2).sum())
    count = np.bincount(model).astype(float)
    sigma2 = within / df_within if df_within >= 2 else float(ols(z, X, names).scale)
    weights = count / max(sigma2, 1e-18)
    fixed = wls(z, X, weights, names)
    leverage_sum = float(np.sum(weights * (1 - influence(fixed).hat_matrix_diag)))
    tau2 = max(0.0, (fixed.ssr - fixed.df_resid) / leverage_sum) if df_within >= 2 else 0.0
    final = wls(z, X, 1 / (sigma2 / count + tau2) if sigma2 + tau2 > 0 else count, names)
    inflation = max(1.0, final.scale) if df_within >= 2 else final.scale
    se = math.sqrt(final.normalized_cov_params[-1, -1] * inflation)
    tests = {
        "sizes": len(models),
        "runs": len(rows),
        "range": float(np.exp(max(np.ptp(x[part == k]) for k in np.unique(part)))),
        "between_models_sd": math.sqrt(tau2),
        "within_models_sd": math.sqrt(sigma2),
        "largest_departure": float(np.expm1(np.abs(z - X @ final.params).max())),
    }
    return IntervalEstimate(value=float(final.params[-1]), se=se, df=int(final.df_resid)), tests


def linked(model: NDArray[np.intp], group: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each model the least number among the models that groups link it to, directly or not."""
    label = np.arange(model.max(initial=-1) + 1)
    while True:
        of_group = np.full(group.max(initial=-1) + 1, len(label))
        np.minimum.at(of_group, group, label[model])
        again = label.copy()
        np.minimum.at(again, model, of_group[group])
        if (again == label).all():
            return label
        label = again


def _size_rows(trained: pd.DataFrame, suspects: tuple[str, ...]) -> tuple[pd.DataFrame, str | None]:
    """Select the rows for `size_fit`, or say why none can be used."""
    missing = [name for name in ("flops", "tokens_seen") if not (trained[name] > 0).any()]
    if missing:
        return trained, f"the table does not tell {' and '.join(f'`{name}`' for name in missing)}"
    rows = trained[(trained["flops"] > 0) & (trained["tokens_seen"] > 0) & (trained["energy"] > 0)]
    level = rows["energy"].groupby([rows["flops"], rows["tokens_seen"]]).transform("mean")
    rows = rows[level >= STEPS_NEEDED * rows["y_step"]]
    x = np.log(rows["flops"] / rows["tokens_seen"])
    columns = [name for name in CELL_COLUMNS if name not in ("model", "rank", "weights") and rows[name].notna().any()]
    keys = rows[columns].apply(lambda column: pd.factorize(column.astype(object))[0])
    group = keys.groupby(columns).ngroup().to_numpy() if columns and len(rows) else np.zeros(len(rows), int)
    rows = rows.assign(x=x, x_round=x.round(1), z=np.log(rows["energy"] / rows["tokens_seen"]), group=group)
    rows["model_no"] = rows["model"].fillna(rows["x_round"].map("{:g}".format))
    rows = _sizes_side_by_side(rows).reset_index(drop=True)
    if doubt := doubt_about(rows, suspects):
        return rows, doubt
    if rows.empty or rows["x_round"].nunique() < LEAST_SIZES:
        return rows, f"fewer than {LEAST_SIZES} sizes of model were run with everything else equal"
    span = float(rows.groupby("group")["x"].agg(np.ptp).max())
    if span < math.log(LEAST_SIZE_RANGE):
        factor = math.exp(span)
        return rows, f"FLOPs per token span only a factor {factor:.2g}; {LEAST_SIZE_RANGE} is the least"
    parts = linked(pd.factorize(rows["model_no"])[0], pd.factorize(rows["group"])[0])
    if len(parts) - len(np.unique(parts)) - 1 < 1:
        return rows, "too few sizes of model were run to judge the scatter between them"
    placed, noun = placed_in_sessions(rows), "the size of the model"
    return rows, order_gate(placed, "x", noun) or apart_gate(placed, "x_round", noun)


def _sizes_side_by_side(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the groups in which sizes can be compared; those within one session, if any.

    Studies put together hold their commonest model in many sessions: against another session's sizes it would tell
    that session's conditions.
    """
    alone = rows.assign(group=rows.groupby(["group", "session"]).ngroup()) if rows["session"].notna().all() else rows
    for candidates in (alone, rows):
        by_group = candidates.groupby("group")
        wide = (by_group["x_round"].nunique() >= LEAST_SIZES) & (
            by_group["x"].agg(np.ptp) >= math.log(LEAST_SIZE_RANGE)
        )
        if wide.any():
            return candidates[candidates["group"].isin(list(wide[wide].index))]
    sizes = rows.groupby("group")["x_round"].nunique()
    return rows[rows["group"].isin(list(sizes[sizes >= 2].index))]


def _worst(rows: pd.DataFrame) -> FarthestRun | None:
    """Find the run farthest from the median of its model's other runs."""
    cells = rows["z"].groupby([rows["model_no"], rows["group"]])
    rest, resid = (rows["z"] - cells.transform(centre) for centre in ("median", "mean"))
    return farthest(rows, rest.to_numpy(), resid.to_numpy())


def _size_needs(
    context: ClaimContext, rows: pd.DataFrame | None = None, veto: Veto | None = None, off: FarthestRun | None = None
) -> Needs | None:
    frame = context.trusted
    work = typical_work(frame)
    if work is None:
        return None
    if veto is not None and veto.kind == "outlier" and rows is not None and off is not None:
        return repeat_needs(frame, rows.iloc[off.row])
    if veto is not None:
        return Needs(message="Find what is different about the runs named; more runs alone do not settle it.")
    message = "Five sizes of model or more over a factor of 16 in FLOPs per token, three runs of each, shuffled."
    return sweep_needs(
        frame,
        message=message,
        samples=[work[0]],
        epochs=[work[1]],
        replicates=3,
        extra=("model=ladder-1m,ladder-3m,ladder-10m,ladder-30m,ladder-100m",),
        together=True,
    )
