"""Claims on what one setting does to runs that are alike in everything else: the LoRA rank, the method."""

import math
import re
from typing import Any

import numpy as np
import pandas as pd

from lora_scaling.settings import SETTINGS
from lora_scaling.text import shown

from ..regression.curve_analysis import OUTLIER_MADS
from ..regression.estimate import IntervalEstimate
from ..regression.least_squares import Array
from ..regression.within_groups import within_rows
from ..tables.response import measured_sentence
from .context import ClaimContext
from .effects import Effect, EffectFinding, block, doublings, find, informative, matched_runs
from .next_runs import first_runs, further_runs
from .verdicts import Claim, Options, undecided
from .vetoes import FarthestRun, Veto, vetoed

# Full fine-tuning has no adapter: it differs from LoRA in these as well.
ADAPTER_COLUMNS = tuple(s.column for s in SETTINGS if s.name.startswith("lora.") and s.column is not None)
# LoRA under its names and those of its variants. The rank of other adapters (VeRA, LILY, OFT …) is another quantity.
LORA_METHODS = frozenset(
    "lora qlora dora qdora rslora qrslora adalora lora+ loraplus lorafa pissa qpissa olora eva loftq corda loraga "
    "peftlora".split()
)
OTHER_ADAPTERS = re.compile(
    r"(?<![a-z])(?:p?vera|vb-?lora|lily|c?oft|boft|psoft|ia3|loha|lokr|hra|fourierft|c3a|shira|rand-?lora|delora|"
    r"waveft|x-?lora|p-?tuning|ln-?tuning|bitfit|galore)(?![a-z])"
)


def is_lora(runs: pd.DataFrame) -> pd.Series:
    """Return whether each run (n,) is LoRA's or a named variant's, so that its rank is a LoRA rank.

    A run that names no method may be LoRA's, unless its name or its study's is that of another adapter.
    """
    named = runs["method"].map(lambda text: re.sub(r"[^a-z0-9+]", "", str(text).lower()) in LORA_METHODS)
    text = runs["study"].fillna("").astype(str).str.lower() + " " + runs["run_id"].astype(str).str.lower()
    return named.where(runs["method"].notna(), ~text.str.replace("_", " ").str.contains(OTHER_ADAPTERS)).astype(bool)


RANK = Effect(
    id="rank_effect",
    title="{} does not depend on the LoRA rank",
    quantity="relative change of {} for each doubling of the LoRA rank",
    noun="the LoRA rank",
    column="rank",
    factor=lambda runs: doublings("rank")(runs).where(is_lora(runs)),
    vary="lora.r=4,8,16,64",
)
METHOD = Effect(
    id="full_vs_lora",
    title="Full fine-tuning costs more than LoRA",
    quantity="{} of full fine-tuning ÷ LoRA at the same work",
    noun="the method (full and lora)",
    column="method",
    along=ADAPTER_COLUMNS,
    factor=lambda runs: runs["method"].map({"lora": 0.0, "full": 1.0}).where(runs["use_dora"].ne(True)).astype(float),
    vary="method=lora,full",
    costs_more=True,
    says="full fine-tuning takes {times} LoRA's {response} for the same work",
)


def decide_effect(effect: Effect, context: ClaimContext) -> Claim:
    """Decide the claim on the runs that differ in its setting alone."""
    response, options, frame = context.response, context.options, context.response.frame
    quantity, rows = effect.quantity.format(response.noun), matched_runs(effect, frame)
    if blocked := block(effect, frame, rows, context.suspects):
        return undecided(effect.id, quantity, blocked, first_runs(effect, context, rows))
    found = find(effect, rows, "y", options)
    off, tests = _worst(rows), _tests(rows, found, options)
    rest = rows if off is None else informative(rows.drop(index=off.row))
    verdict, veto = vetoed(
        found.decision,
        response,
        tests,
        outlier=off,
        without=lambda: find(effect, rest, "y", options).decision,
        measured=lambda: find(effect, rows, "y_measured", options).decision,
        own=_vetoes(effect, rows, found, options, tests),
    )
    change = math.exp if effect.costs_more else math.expm1
    low, high = found.estimate.interval(options.ci_level)
    text = f"Undecided: {veto.why}." if veto is not None else _reason(effect, context, rows, found)
    return Claim(
        id=effect.id,
        verdict=verdict,
        estimate=change(found.estimate.value),
        ci=(change(low), change(high)),
        quantity=quantity,
        reason=text + measured_sentence(response, tests["measured"]),
        tests=tests,
        needs=further_runs(effect, context, rows, found, veto, off) if verdict == "undecided" else None,
        p_value=found.decision.p_value if verdict != "undecided" else None,
    )


def _tests(rows: pd.DataFrame, found: EffectFinding, options: Options) -> dict[str, Any]:
    df, resid = found.estimate.df, found.resid
    return {
        "runs": len(rows),
        "matched_groups": int(rows["group"].nunique()),
        "df": df,
        "noise_cv": math.sqrt(float(resid @ resid) / df) if df > 0 else None,
        "p_value": found.decision.p_value,
        "by_model": found.by_model,
        "models_alike_p": found.alike_p,
        "depends_on_model": found.depends,
        "over_range": _over_range(found, options),
        "levels": found.levels,
    }


def _over_range(found: EffectFinding, options: Options) -> dict[str, Any]:
    """Return the whole change over the range run, as a ratio with its interval."""
    low, high = (math.exp(found.span * end) for end in found.estimate.interval(options.ci_level))
    return {"factor": found.span, "ratio": math.exp(found.span * found.estimate.value), "ci": (low, high)}


def _worst(rows: pd.DataFrame) -> FarthestRun | None:
    """Find the run farthest from the median of its repeats, or from its model's trend if they are few.

    It is compared with the scatter without this run, because a high-leverage run inflates it.
    """
    resid, leverage = _apart(rows)
    cells = pd.Series(resid).groupby([rows["group"], rows["factor"]])
    from_median = resid - cells.transform("median").to_numpy()
    deleted = np.where(leverage < 1 - 1e-6, resid / np.sqrt(np.maximum(1 - leverage, 1e-6)), 0.0)
    rest = np.where(cells.transform("size") >= 3, from_median, deleted)
    others = informative(rows.drop(index=rows.index[int(np.argmax(np.abs(rest)))]))
    return farthest(rows, rest, _apart(others)[0]) if len(others) else None


def _apart(rows: pd.DataFrame) -> tuple[Array, Array]:
    """Return residuals (n,) about each model's own trend, and the leverage (n,) of each run."""
    return within_rows(rows, "y").slopes_apart(pd.factorize(rows["of_model"])[0])


def farthest(rows: pd.DataFrame, rest: Array, resid: Array) -> FarthestRun | None:
    """Return the run with the largest `rest` (n,) if that exceeds OUTLIER_MADS times the usual residual."""
    spread = 1.4826 * float(np.median(np.abs(resid)))
    worst = int(np.argmax(np.abs(rest)))
    if spread <= 0 or abs(rest[worst]) <= OUTLIER_MADS * spread:
        return None
    return FarthestRun(row=worst, run_id=str(rows["run_id"].iloc[worst]), mads=abs(float(rest[worst])) / spread)


def _vetoes(
    effect: Effect, rows: pd.DataFrame, found: EffectFinding, options: Options, tests: dict[str, Any]
) -> list[Veto]:
    """Collect vetoes: models that differ, and a level that departs from the trend."""
    vetoes: list[Veto] = []
    if found.depends and found.decision.verdict == "undecided":
        why = f"it depends on the model (p = {shown(found.alike_p or 0.0, '.2g')}): {_by_model(effect, found)}"
        vetoes.append(Veto(kind="models", why=why))
    if effect.costs_more:
        return vetoes
    tests["level_jump"] = _level_jump(effect, rows, found)
    levels = found.levels
    if found.depends or levels is None or not levels.depart or found.decision.verdict != "undecided":
        return vetoes
    if effect.judge(found.estimate, found.span, options)[0] == "supported":
        change = _size(effect, levels.ratio, *levels.ci)
        words = f"{effect.words} {levels.worst:g} costs {change} against the lowest"
        vetoes.append(Veto(kind="level", why=f"{words}, though the trend over all levels is within the margin"))
    return vetoes


def _level_jump(effect: Effect, rows: pd.DataFrame, found: EffectFinding) -> dict[str, float] | None:
    """Test whether a level departs from the trend: the largest mean residual, Bonferroni over the levels."""
    levels, df = rows.groupby(effect.column).indices, found.estimate.df
    if len(levels) < 3 or df < 1:
        return None
    spread = math.sqrt(float(found.resid @ found.resid) / df)
    means = {float(str(level)): (abs(float(found.resid[i].mean())), len(i)) for level, i in levels.items()}
    worst = max(means, key=lambda level: means[level][0])
    size, runs = means[worst]
    t = IntervalEstimate(value=size, se=spread / math.sqrt(runs), df=df)
    return {effect.column: worst, "deviation": math.expm1(size), "p": min(1.0, 2 * len(levels) * t.p_above(0.0))}


def _size(effect: Effect, ratio: float, low: float, high: float, more: str = "") -> str:
    """Format a ratio with its interval, as 1.31 times (1.30 to 1.32) or in per cent."""
    if effect.costs_more:
        return f"{shown(ratio)} times ({shown(low)} to {shown(high)}{more})"
    step, *ends = (shown(100 * (number - 1), "+.1f") for number in (ratio, low, high))
    return f"{step} % ({ends[0]} to {ends[1]} %{more})"


def _by_model(effect: Effect, found: EffectFinding) -> str:
    own = found.by_model.items()
    return ", ".join(
        f"{name} {_size(effect, it['ratio'], it['ci'][0], it['ci'][1], '; ' + it['verdict'])}" for name, it in own
    )


def _reason(effect: Effect, context: ClaimContext, rows: pd.DataFrame, found: EffectFinding) -> str:
    """Say the verdict before vetoes in a sentence, and what each model says alone."""
    estimate, verdict = found.estimate, found.decision.verdict
    low, high = (math.exp(end) for end in estimate.interval(context.options.ci_level))
    size = _size(effect, math.exp(estimate.value), low, high)
    words = {"times": size, "percent": size, "response": context.response.noun, "column": effect.words}
    if not effect.costs_more:
        whole = _over_range(found, context.options)
        ends = float(rows[effect.column].min()), float(rows[effect.column].max())
        words |= {"low": f"{ends[0]:g}", "high": f"{ends[1]:g}", "over": _size(effect, whole["ratio"], *whole["ci"])}
    change = effect.says.format(**words)
    subject = effect.noun[0].upper() + effect.noun[1:]
    text = {
        ("supported", False): f"{subject} hardly matters: {change}.",
        ("refuted", False): f"{subject} matters: {change}.",
        ("supported", True): f"Yes: {change}.",
        ("refuted", True): f"No: {change}, no more than the margin above it.",
    }.get((verdict, effect.costs_more), f"Not precise enough: {change}.")
    if found.levels is not None and found.decision.p_value == found.levels.outside_p and verdict == "refuted":
        step = _size(effect, found.levels.ratio, *found.levels.ci)
        text += f" {effect.words.capitalize()} {found.levels.worst:g} costs {step} against the lowest."
    if not found.by_model:
        return text
    differ = f" (they differ, p = {shown(found.alike_p or 0.0, '.2g')})" if found.depends else ""
    return f"{text} By model{differ}: {_by_model(effect, found)}."
