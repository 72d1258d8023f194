"""The claims on LoRA rank, model size and method: effects compared at matched work."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .checks import rank_correlation
from .curve_analysis import (
    CELL_COLUMNS,
    MAX_ORDER_CORRELATION,
    OUTLIER_MADS,
    apart_gate,
    order_gate,
    session_columns,
)
from .needs import sweep_needs
from .regression import Array, CollinearError, ols, wls
from .response import Response, measured_sentence
from .verdicts import Claim, Estimate, Needs, Options, Verdict, equivalence, runs_needed, undecided

LEAST_SIZE_RANGE = 4  # of FLOPs per token
MOSTLY_TRAINING = 0.9  # of a run's energy
WORK_COLUMNS = ("samples", "epochs", "samples_seen")


def rank_effect(response: Response, options: Options, suspects: tuple[str, ...]) -> Claim:
    """`rank_effect`: the relative change of energy for each doubling of the LoRA rank, all else matched."""
    quantity = f"relative change of {response.noun} for each doubling of the LoRA rank"
    frame = response.frame
    rows = frame[(frame["rank"] > 0) & (frame["samples_seen"] > 0) & (frame["method"] != "full")]
    rows = rows.assign(factor=np.log2(rows["rank"].astype(float)), group=_groups(rows, ("rank",)))
    rows = _informative(rows)
    blocked = _block(frame, rows, suspects, "the LoRA rank")
    blocked = blocked or order_gate(rows, "rank") or apart_gate(rows, "rank", "rank")
    if blocked:
        return undecided("rank_effect", quantity, blocked, _rank_needs(frame, suspects))
    estimate, resid = within_slope(rows, "y")
    bounds = math.log1p(-options.margin), math.log1p(options.margin)
    verdict, p = equivalence(estimate, *bounds, options)
    low, high = float(rows["rank"].min()), float(rows["rank"].max())
    tests = _effect_tests(rows, estimate, p, resid)
    verdict, veto = _checked(rows, response, verdict, bounds, options, tests)
    jump = _level_jump(rows, resid)
    tests["level_jump"] = jump
    if verdict == "supported" and jump is not None and jump["p"] < 0.01 and jump["deviation"] > options.margin:
        verdict, veto = (
            "undecided",
            f"rank {jump['rank']:g} departs from the trend by {100 * jump['deviation']:.1f} %",
        )
    ends = [math.expm1(end) for end in estimate.interval(options.ci_level)]
    step = f"{100 * math.expm1(estimate.value):+.1f} % ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f} %)"
    over = 100 * math.expm1(estimate.value * math.log2(high / low))
    change = f"each doubling changes {response.noun} by {step}, from rank {low:g} to {high:g} by {over:+.0f} %"
    reason = {
        "supported": f"Rank hardly matters: {change}.",
        "refuted": f"Rank matters: {change}.",
        "undecided": f"Undecided: {veto}." if veto else f"Not precise enough: {change}.",
    }[verdict]
    needs = None
    if verdict == "undecided":
        needs = _rank_needs(frame, suspects, rows, estimate, bounds, options)
    return Claim(
        id="rank_effect",
        verdict=verdict,
        estimate=math.expm1(estimate.value),
        ci=(ends[0], ends[1]),
        quantity=quantity,
        reason=reason + measured_sentence(response, tests["measured"]),
        tests=tests,
        needs=needs,
        p_value=p if verdict != "undecided" else None,
    )


def full_vs_lora(response: Response, options: Options, suspects: tuple[str, ...]) -> Claim:
    """`full_vs_lora`: the ratio of energies at matched work; supported where the ratio is above 1."""
    quantity = f"{response.noun} of full fine-tuning ÷ LoRA at the same work"
    frame = response.frame
    rows = frame[frame["method"].isin(["full", "lora"]) & (frame["samples_seen"] > 0)]
    rows = rows.assign(factor=(rows["method"] == "full").astype(float), group=_groups(rows, ("rank", "method")))
    rows = _informative(rows)
    blocked = _block(frame, rows, suspects, "the method (full and lora)")
    if not blocked:
        r = rank_correlation(rows["position"].to_numpy(), rows["factor"].to_numpy())
        if abs(r) > MAX_ORDER_CORRELATION:
            blocked = f"one method was run after the other (rank correlation {r:.2f}): drift would look alike"
    if blocked:
        return undecided("full_vs_lora", quantity, blocked, _method_needs(frame, suspects))
    estimate, resid = within_slope(rows, "y")
    tests = _effect_tests(rows, estimate, None, resid)
    verdict, p = _dearer(estimate, options)
    tests["p_value"] = p
    tests["measured"] = _measured(rows, response, lambda e: _dearer(e, options)[0])
    if (run_id := _worst(rows, resid, tests)) is not None:
        without, _ = within_slope(_informative(rows[rows["run_id"] != run_id]), "y")
        tests["outlier"]["verdict_without"] = _dearer(without, options)[0]
        if tests["outlier"]["verdict_without"] != verdict:
            verdict = "undecided"
    ends = [math.exp(end) for end in estimate.interval(options.ci_level)]
    ratio = f"{math.exp(estimate.value):.2f} times ({ends[0]:.2f} to {ends[1]:.2f})"
    size = f"{ratio} LoRA's {response.noun} for the same work"
    reason = {
        "supported": f"Yes: full fine-tuning takes {size}.",
        "refuted": f"No: full fine-tuning takes {size}, no more than the margin above it.",
        "undecided": f"Undecided: full fine-tuning takes {size}; more or less is not settled.",
    }[verdict]
    return Claim(
        id="full_vs_lora",
        verdict=verdict,
        estimate=math.exp(estimate.value),
        ci=(ends[0], ends[1]),
        quantity=quantity,
        reason=reason + measured_sentence(response, tests["measured"]),
        tests=tests,
        needs=_method_needs(frame, suspects) if verdict == "undecided" else None,
        p_value=p if verdict != "undecided" else None,
    )


def _dearer(estimate: Estimate, options: Options) -> tuple[Verdict, float | None]:
    above = 2 * estimate.p_above(0.0)  # the ratio could have gone either way: a two-sided question
    if above <= options.alpha:
        return "supported", above
    below = estimate.p_below(math.log1p(options.margin))
    return ("refuted", below) if below <= options.alpha else ("undecided", None)


def size_exponent(response: Response, options: Options, suspects: tuple[str, ...]) -> Claim:
    """`size_exponent`: γ in E_train/token ∝ (FLOPs/token)^γ; supported is γ = 1 within the margin."""
    quantity = "exponent γ of training energy per token in FLOPs per token"
    frame = response.frame
    rows, blocked = _size_rows(frame, suspects)
    if blocked:
        return undecided("size_exponent", quantity, blocked, _size_needs(frame, suspects))
    try:
        estimate, tests = size_fit(rows)
    except CollinearError:
        why = "each model was run with another method or hardware: the effects look alike"
        return undecided("size_exponent", quantity, why, _size_needs(frame, suspects))
    verdict, p = equivalence(estimate, 1 - options.margin, 1 + options.margin, options)
    tests |= {"p_value": p, "df": estimate.df, "measured": _size_measured(rows, response, options)}
    verdict, veto = _contradicted(verdict, tests["measured"])
    ci = estimate.interval(options.ci_level)
    ten = 10**estimate.value
    gamma = f"γ = {estimate.value:.2f}, {ci[0]:.2f} to {ci[1]:.2f}"
    shown = f"ten times the FLOPs per token cost {ten:.1f} times the energy ({gamma})"
    below = "larger models use the device better" if estimate.value < 1 else "larger models use the device worse"
    reason = {
        "supported": f"Energy per token grows in proportion to the FLOPs per token: {shown}.",
        "refuted": f"Energy per token does not grow in proportion to FLOPs: {shown}; {below}.",
        "undecided": f"Undecided: {veto}."
        if veto
        else f"Not precise enough: {shown}, from {tests['sizes']} model sizes.",
    }[verdict]
    return Claim(
        id="size_exponent",
        verdict=verdict,
        estimate=estimate.value,
        ci=ci,
        quantity=quantity,
        reason=reason + measured_sentence(response, tests["measured"]),
        tests=tests,
        needs=_size_needs(frame, suspects) if verdict == "undecided" else None,
        p_value=p if verdict != "undecided" else None,
    )


def _size_measured(rows: pd.DataFrame, response: Response, options: Options) -> dict[str, Any] | None:
    """γ of the metered part. Components are known over whole runs only: training takes its share of each.

    Said where training is nearly all of every run, so that this share cannot bend the answer.
    """
    if response.measured_noun is None:
        return None if response.measured_gap is None else {"reason": response.measured_gap}
    share = rows["energy"] / rows["energy_kwh"]
    if share.min() < MOSTLY_TRAINING:
        return {"reason": "components are known over whole runs only, and some of these did not mostly train"}
    metered = np.log(rows["y_measured"] * share / rows["tokens_seen"])
    estimate, _ = size_fit(rows.assign(z=metered))
    verdict, _ = equivalence(estimate, 1 - options.margin, 1 + options.margin, options)
    return {
        "part": response.measured_noun,
        "share": response.measured_share,
        "verdict": verdict,
        "estimate": estimate.value,
        "ci": estimate.interval(options.ci_level),
    }


def size_fit(rows: pd.DataFrame) -> tuple[Estimate, dict[str, Any]]:
    """γ from one mean a model: a model's own efficiency is what scatters, so models are the sample.

    `rows` has `x` (log FLOPs per token), `z` (log energy per token) and `group` (method, hardware …, as
    fixed effects). Means are weighted by 1/(σ²/n + τ²) with τ² between models (DerSimonian–Laird), the
    interval is Hartung and Knapp's with their factor held at 1 or more, on models − parameters df.
    """
    points = rows.assign(unit=rows.groupby(["group", "model", "x_round"], dropna=False).ngroup())
    grouped = points.groupby("unit")
    x, z = grouped["x"].mean().to_numpy(), grouped["z"].mean().to_numpy()
    count, group = grouped.size().to_numpy(dtype=float), grouped["group"].first().to_numpy()
    df_within = int(len(points) - len(x))
    within = float(((points["z"] - grouped["z"].transform("mean")) ** 2).sum())
    groups = np.unique(group)
    X = np.column_stack([np.equal.outer(group, groups).astype(float), x - x.mean()])
    names = [*(f"group {g}" for g in range(len(groups))), "gamma"]
    plain = ols(z, X, names)
    sigma2 = within / df_within if df_within >= 2 else plain.sigma**2
    weights = count / max(sigma2, 1e-18)
    fixed = wls(z, X, weights, names)
    leverage_sum = float(np.sum(weights * (1 - fixed.leverage)))
    tau2 = max(0.0, (fixed.rss - fixed.df) / leverage_sum) if df_within >= 2 else 0.0
    final = wls(z, X, 1 / (sigma2 / count + tau2) if sigma2 + tau2 > 0 else count, names)
    inflation = max(1.0, final.rss / final.df) if df_within >= 2 else final.rss / final.df
    se = math.sqrt(final.cov_unscaled[-1, -1] * inflation)
    resid = z - X @ final.params
    tests = {
        "sizes": int(points["model"].nunique()) if points["model"].notna().any() else len(x),
        "points": len(x),
        "runs": len(points),
        "range": float(np.exp(np.ptp(x))),
        "between_models_sd": math.sqrt(tau2),
        "within_models_sd": math.sqrt(sigma2),
        "largest_departure": float(np.expm1(np.abs(resid).max())),
    }
    return Estimate(value=final.param("gamma"), se=se, df=final.df), tests


def _size_rows(frame: pd.DataFrame, suspects: tuple[str, ...]) -> tuple[pd.DataFrame, str | None]:
    if suspects:
        return frame, f"the unit of run {', '.join(suspects[:5])} is in doubt: correct it or leave it out"
    missing = [name for name in ("flops", "tokens_seen") if not (frame[name] > 0).any()]
    if missing:
        return frame, f"the table does not tell {' and '.join(f'`{name}`' for name in missing)}"
    energy = frame["energy_train_kwh"].fillna(frame["y"]) if frame["energy_train_kwh"].notna().all() else frame["y"]
    rows = frame.assign(energy=energy)
    rows = rows[(rows["samples_seen"] > 0) & (rows["flops"] > 0) & (rows["tokens_seen"] > 0) & (rows["energy"] > 0)]
    x = np.log(rows["flops"] / rows["tokens_seen"])
    columns = [name for name in CELL_COLUMNS if name not in ("model", "rank", "weights") and rows[name].notna().any()]
    keys = rows[columns].apply(lambda column: pd.factorize(column.astype(object))[0])
    group = keys.groupby(columns).ngroup().to_numpy() if columns and len(rows) else np.zeros(len(rows), int)
    rows = rows.assign(x=x, x_round=x.round(1), z=np.log(rows["energy"] / rows["tokens_seen"]), group=group)
    rows = _sizes_side_by_side(rows)
    if rows.empty or rows["x_round"].nunique() < 3:
        return rows, "fewer than 3 sizes of model were run with everything else equal"
    spans = rows.groupby("group")["x"].agg(np.ptp)
    if spans.max() < math.log(LEAST_SIZE_RANGE):
        factor = math.exp(float(spans.max()))
        return rows, f"FLOPs per token span only a factor {factor:.2g}; {LEAST_SIZE_RANGE} is the least"
    if len(rows.groupby(["group", "model", "x_round"], dropna=False)) - rows["group"].nunique() - 1 < 1:
        return rows, "too few sizes of model were run to judge the scatter between them"
    return rows, order_gate(rows, "x") or apart_gate(rows, "x_round", "the size of the model")


def _sizes_side_by_side(rows: pd.DataFrame) -> pd.DataFrame:
    """The groups in which sizes can be compared; those within one session, where there are such.

    Studies put together hold their commonest model in many sessions: against another session's sizes it would tell
    that session's conditions.
    """
    alone = rows.assign(group=rows.groupby(["group", "session"]).ngroup()) if rows["session"].notna().all() else rows
    for candidates in (alone, rows):
        by_group = candidates.groupby("group")
        wide = (by_group["x_round"].nunique() >= 3) & (by_group["x"].agg(np.ptp) >= math.log(LEAST_SIZE_RANGE))
        if wide.any():
            return candidates[candidates["group"].isin(list(wide[wide].index))]
    sizes = rows.groupby("group")["x_round"].nunique()
    return rows[rows["group"].isin(list(sizes[sizes >= 2].index))]


def _groups(frame: pd.DataFrame, without: tuple[str, ...]) -> NDArray[np.intp]:
    """Number (n,) of the group of runs that are alike in everything but the columns `without`."""
    columns = [
        name
        for name in (*CELL_COLUMNS, *WORK_COLUMNS)
        if name not in without and name != "trainable_params" and frame[name].notna().any()
    ]
    keys = frame[columns].apply(lambda column: pd.factorize(column.astype(object))[0])
    return np.asarray(keys.groupby(columns).ngroup() if len(frame) else [], dtype=np.intp)


def _informative(rows: pd.DataFrame) -> pd.DataFrame:
    """Only the groups in which the factor varies."""
    varies = rows.groupby("group")["factor"].transform("nunique") > 1 if len(rows) else rows["group"] < 0
    return rows[varies].reset_index(drop=True)


def _block(frame: pd.DataFrame, rows: pd.DataFrame, suspects: tuple[str, ...], noun: str) -> str | None:
    if suspects:
        return f"the unit of run {', '.join(suspects[:5])} is in doubt: correct it or leave it out"
    if len(frame) < 2:
        return "no usable run" if frame.empty else "there is only one usable run"
    if rows.empty:
        return f"{noun} never varied with everything else equal"
    if len(rows) - rows["group"].nunique() - 1 < 3:
        return f"only {len(rows)} runs can be compared at the same work; more repeats are needed to know the noise"
    return None


def within_slope(rows: pd.DataFrame, y: str) -> tuple[Estimate, Array]:
    """Slope of log y on `factor` within groups of matched work (sessions as fixed effects), and residuals (n,)."""
    group = pd.factorize(rows["group"])[0]
    columns = np.column_stack([rows["factor"], session_columns(rows), np.log(rows[y].to_numpy(dtype=float))])
    count = np.bincount(group)
    means = np.column_stack([np.bincount(group, column) / count for column in columns.T])
    within = columns - means[group]
    extra = within[:, 1:-1]
    extra = extra[:, np.abs(extra).max(axis=0, initial=0.0) > 1e-9]
    design = np.column_stack([within[:, 0], extra])
    try:
        fit = ols(within[:, -1], design, ["slope", *(f"session {i}" for i in range(extra.shape[1]))])
    except CollinearError:  # a session is one group or one level: it explains nothing within groups
        fit = ols(within[:, -1], design[:, :1], ["slope"])
    df = len(rows) - len(count) - len(fit.names)
    se = math.sqrt(fit.cov_unscaled[0, 0] * fit.rss / df) if df > 0 else float("nan")
    return Estimate(value=fit.param("slope"), se=se, df=df), fit.resid


def _effect_tests(rows: pd.DataFrame, estimate: Estimate, p: float | None, resid: Array) -> dict[str, Any]:
    return {
        "runs": len(rows),
        "matched_groups": int(rows["group"].nunique()),
        "df": estimate.df,
        "noise_cv": math.sqrt(float(resid @ resid) / estimate.df) if estimate.df > 0 else None,
        "p_value": p,
        "outlier": None,
        "measured": None,
    }


def _worst(rows: pd.DataFrame, resid: Array, tests: dict[str, Any]) -> str | None:
    """Run id of the most extreme run beyond OUTLIER_MADS from its group's median; noted in `tests`."""
    log_y = pd.Series(np.log(rows["y"]))
    rest = (log_y - log_y.groupby([rows["group"], rows["factor"]]).transform("median")).to_numpy()
    spread = 1.4826 * float(np.median(np.abs(resid)))
    worst = int(np.argmax(np.abs(rest)))
    if spread <= 0 or abs(rest[worst]) <= OUTLIER_MADS * spread:
        return None
    run_id = str(rows["run_id"][worst])
    tests["outlier"] = {"run_id": run_id, "mads": abs(rest[worst]) / spread}
    return run_id


def _checked(
    rows: pd.DataFrame,
    response: Response,
    verdict: Verdict,
    bounds: tuple[float, float],
    options: Options,
    tests: dict[str, Any],
) -> tuple[Verdict, str | None]:
    """The outlier refit and the metered part, as for the curve."""
    _, resid = within_slope(rows, "y")
    if (run_id := _worst(rows, resid, tests)) is not None:
        again, _ = equivalence(within_slope(_informative(rows[rows["run_id"] != run_id]), "y")[0], *bounds, options)
        tests["outlier"]["verdict_without"] = again
        if again != verdict:
            return "undecided", f"the verdict hangs on run {run_id} (without it: {again}): repeat that run"
    tests["measured"] = _measured(rows, response, lambda e: equivalence(e, *bounds, options)[0])
    return _contradicted(verdict, tests["measured"])


def _contradicted(verdict: Verdict, measured: dict[str, Any] | None) -> tuple[Verdict, str | None]:
    """`undecided` where the metered part alone says the opposite."""
    part = (measured or {}).get("verdict")
    if {part, verdict} == {"supported", "refuted"}:
        return "undecided", f"the total says {verdict}, its metered part says {part}"
    return verdict, None


def _measured(rows: pd.DataFrame, response: Response, decide: Any) -> dict[str, Any] | None:
    if response.measured_noun is None:
        return None if response.measured_gap is None else {"reason": response.measured_gap}
    estimate, _ = within_slope(rows, "y_measured")
    return {
        "part": response.measured_noun,
        "share": response.measured_share,
        "verdict": decide(estimate),
        "estimate": estimate.value,
    }


def _level_jump(rows: pd.DataFrame, resid: Array) -> dict[str, float] | None:
    """Whether some rank departs from the trend over ranks: the largest mean residual, Bonferroni over ranks."""
    levels = rows.groupby("rank").indices
    if len(levels) < 3:
        return None
    spread = float(resid.std(ddof=len(levels)))
    worst, size = max(
        ((float(str(r)), abs(float(resid[i].mean()))) for r, i in levels.items()), key=lambda pair: pair[1]
    )
    t = Estimate(value=size, se=spread / math.sqrt(len(levels[worst])), df=max(len(rows) - len(levels) - 1, 1))
    return {
        "rank": float(worst),
        "deviation": math.expm1(size),
        "p": min(1.0, 2 * len(levels) * t.p_above(0.0)),
    }


def _smallest(frame: pd.DataFrame) -> tuple[int, int] | None:
    trained = frame[frame["samples_seen"] > 0] if len(frame) else frame
    if trained.empty:
        return None
    row = trained.sort_values("samples_seen").iloc[len(trained) // 2]
    return max(1, int(row["samples"])), max(1, int(row["epochs"]))


def _rank_needs(
    frame: pd.DataFrame,
    suspects: tuple[str, ...],
    rows: pd.DataFrame | None = None,
    estimate: Estimate | None = None,
    bounds: tuple[float, float] = (0.0, 0.0),
    options: Options | None = None,
) -> Needs | None:
    work = _smallest(frame)
    if work is None or suspects:
        return None
    replicates, extra = 4, None
    if rows is not None and estimate is not None and options is not None:
        gap = min((estimate.value - bounds[0], bounds[1] - estimate.value), key=abs)
        extra = runs_needed(len(rows), estimate, gap, options)
        replicates = max(4, math.ceil((extra or len(rows)) / 4))
    message = (
        "Ranks over a factor of 16 at the same work, repeated, in shuffled order."
        if extra is None
        else f"About {extra:.0f} more runs that differ in rank alone."
    )
    return sweep_needs(
        frame,
        message=message,
        samples=[work[0]],
        epochs=[work[1]],
        replicates=replicates,
        extra=("method=lora", "lora.r=4,8,16,64"),
    )


def _method_needs(frame: pd.DataFrame, suspects: tuple[str, ...]) -> Needs | None:
    work = _smallest(frame)
    if work is None or suspects:
        return None
    message = "Both methods at the same work, four of each, in shuffled order."
    return sweep_needs(
        frame, message=message, samples=[work[0]], epochs=[work[1]], replicates=4, extra=("method=lora,full",)
    )


def _size_needs(frame: pd.DataFrame, suspects: tuple[str, ...]) -> Needs | None:
    work = _smallest(frame)
    if work is None or suspects:
        return None
    message = "Five sizes of model or more over a factor of 16 in FLOPs per token, three runs of each, shuffled."
    return sweep_needs(
        frame,
        message=message,
        samples=[work[0]],
        epochs=[work[1]],
        replicates=3,
        extra=("model=ladder-1m,ladder-3m,ladder-10m,ladder-30m,ladder-100m",),
    )
