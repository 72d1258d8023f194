"""Whether devices, models or data sets share an exponent, which the forms of a fit assume."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lora_scaling.claim_defaults import MARGIN
from lora_scaling.config.devices import same_device
from lora_scaling.config.model_names import preset_model
from lora_scaling.text import shown

from ..regression.curve_analysis import CELL_COLUMNS, CurveDesign, analyse, build_design
from ..regression.estimate import POOLING_P, IntervalEstimate, from_interval, welch_p
from ..regression.least_squares import CollinearError, ols
from ..tables.checks import group_noun
from ..tables.response import choose_response
from ..tables.run_quantities import Work, group_levels
from ..tables.table import RunTable
from .target import Z_90, PlannedTarget

LEVEL = 0.9
SURE_P = 0.05  # groups differ surely below it, and may differ above
MOST_GROUPS = 20
LEAST_LEVELS = 3
LEAST_SIZE_RANGE = 4  # of what models cost for each token
OF_SIZE = ("model", "weights", "rank")  # what changes with the model, or with the FLOPs
SAME_SIZE = 0.05  # in logs: full fine-tuning takes 1.5 times LoRA's FLOPs for a token
EXACT = 1e-14  # a sum of squares of logs that is rounding


def differing_groups(table: RunTable, work: Work | None = None) -> dict[str, Any] | None:
    """Return the setting whose groups of runs do not share an exponent of samples, epochs or size; None if all may.

    The exponent is that of E = F + a·samples^b, fitted to each group alone, as the claims test it (Welch's test at
    POOLING_P), unless they may differ but surely by less than the claims' margin. With `work`, the runs that a fit
    explains, the power of the model's size is tested as well. Returns the `column`, what its groups are called
    (`noun`), the `factor`, p and each group's `exponents` with their 90 % intervals.
    """
    frame = choose_response(table).frame
    worst: dict[str, Any] | None = None
    divided: set[bytes] = set()
    tested = 0
    for column in CELL_COLUMNS:
        division = pd.factorize(frame[column].astype(object))[0].tobytes()
        if division in divided or not 1 < frame[column].nunique() <= MOST_GROUPS:
            continue
        divided.add(division)
        designs = {str(name): build_design(rows.reset_index(drop=True)) for name, rows in frame.groupby(column)}
        for factor in ("samples", "epochs"):
            found = {name: one for name, design in designs.items() if (one := _exponent(design, factor)) is not None}
            p = welch_p(list(found.values()))
            if p is None:
                continue
            tested += 1
            if worst is None or p < worst["p"]:
                worst = {"column": column, "noun": group_noun(column), "factor": factor, "p": p, "found": found}
        sizes = None if work is None or column in OF_SIZE else size_exponents(table.frame, work, column)
        if work is not None and sizes is not None:
            tested += 1
            p, found = sizes
            if worst is None or p < worst["p"]:
                worst = {"column": column, "noun": group_noun(column), "factor": work.size, "p": p, "found": found}
    if worst is None or (p := min(1.0, tested * worst["p"])) > POOLING_P:
        return None
    exponents = {
        name: {"estimate": one.value, "low": one.interval(LEVEL)[0], "high": one.interval(LEVEL)[1]}
        for name, one in worst.pop("found").items()
    }
    if p > SURE_P and _surely_close(exponents):
        return None
    return worst | {"p": p, "exponents": exponents}


def size_exponents(frame: pd.DataFrame, work: Work, column: str) -> tuple[float, dict[str, IntervalEstimate]] | None:
    """Test whether groups share the power of the model's size: p, and each group's own; None where runs cannot tell.

    Only models that were run in several groups, at the same lengths and with the same work for a token there, are
    compared: over other sizes, utilisation that saturates would differ by itself. One point for each model and group is
    the sample, as for `size_exponent`.
    """
    if work.size is None:
        return None
    model = frame["model"].iloc[work.row].reset_index(drop=True)
    points = pd.DataFrame(
        {
            "group": frame[column].iloc[work.row].astype(str).where(frame[column].iloc[work.row].notna()).to_numpy(),
            "model": model.where(model.notna(), group_levels(work.values[work.size])[1]).astype(str),
            "length": group_levels(work.values[work.per])[1],
            "x": np.log(work.values[work.size]),
            "z": work.log_y - np.log(work.values[work.per]),
        }
    ).dropna()
    own_x = points.groupby(["model", "group"])["x"].transform("mean")
    spread = own_x.groupby(points["model"]).transform("max") - own_x.groupby(points["model"]).transform("min")
    points = points[spread <= SAME_SIZE]
    cells = points.groupby(["model", "group", "length"], as_index=False)[["x", "z"]].mean()
    present = cells.groupby("model")["group"].transform("nunique")
    everywhere = cells.groupby(["model", "length"])["group"].transform("nunique") == present
    cells = cells[everywhere & (present > 1)].groupby(["model", "group"], as_index=False)[["x", "z"]].mean()
    cells = cells[cells.groupby("group")["model"].transform("nunique") >= LEAST_LEVELS]
    cells = cells[cells.groupby("model")["group"].transform("nunique") > 1]
    if cells["group"].nunique() < 2 or np.ptp(cells["x"]) < np.log(LEAST_SIZE_RANGE):
        return None
    x = cells.groupby("model")["x"].transform("mean").to_numpy()
    models, groups = (pd.get_dummies(cells[name], dtype=float).to_numpy() for name in ("model", "group"))
    apart = groups[:, 1:]
    common = np.column_stack([models, apart])
    names = [f"c{i}" for i in range(common.shape[1] + apart.shape[1])]
    try:
        free = ols(cells["z"], np.column_stack([common, apart * (x - x.mean())[:, None]]), names)
        same = ols(cells["z"], common, names[: common.shape[1]])
    except CollinearError:
        return None
    if free.df_resid < 1 or same.ssr < EXACT:
        return None
    own = {}
    for name, rows in cells.groupby("group"):
        line = ols(rows["z"], np.column_stack([np.ones(len(rows)), rows["x"]]), ["alpha", "gamma"])
        own[str(name)] = IntervalEstimate(value=float(line.params[1]), se=float(line.bse[1]), df=int(line.df_resid))
    return float(free.compare_f_test(same)[1]), own


def _surely_close(exponents: dict[str, dict[str, float]]) -> bool:
    """Return whether all intervals lie within the claims' margin of each other."""
    return max(one["high"] for one in exponents.values()) - min(one["low"] for one in exponents.values()) <= MARGIN


def _exponent(design: CurveDesign, factor: str) -> IntervalEstimate | None:
    """Estimate a group's own exponent; None where its runs cannot tell."""
    column = {"samples": "samples", "epochs": "epochs_seen"}[factor]
    if factor not in design.factors or design.levels(column) < LEAST_LEVELS:
        return None
    parameters = len(design.factors) + 2 * (int(design.frame["cell"].max()) + 1)
    if len(design.frame) < parameters + 3:
        return None
    analysis = analyse(design, per_token=True)
    profile = analysis.profile(factor)
    return from_interval(profile.estimate, profile.interval(LEVEL), analysis.fit.data.df, LEVEL)


def own_group(groups: dict[str, Any], planned: PlannedTarget) -> str | None:
    """Return the target's group of those that differ; None if it is another, or they are of an unknown setting."""
    config, column = planned.config, groups["column"]
    own = {"model": planned.model, "method": config.method.name, "data": config.data.name}.get(column)
    if column in ("hardware", "precision"):
        own = planned.target.labels.get(column)
    if own is None:
        return None
    for name in groups["exponents"]:
        if name == own or (column == "model" and preset_model(name) == own):
            return name
        if column == "hardware" and same_device(name, own):
            return name
    return None


def runs_of_group(table: RunTable, column: str, name: str) -> RunTable:
    """Return the table with the runs of one group alone."""
    keep = table.frame[column].astype(str) == name
    return replace(table, frame=table.frame[keep].reset_index(drop=True))


def spread_of_exponents(groups: dict[str, Any]) -> float:
    """Return the standard deviation between the groups' exponents, beyond the errors of their estimates (moments)."""
    found = [(one["estimate"], (one["high"] - one["low"]) / 2 / Z_90) for one in groups["exponents"].values()]
    estimates, errors = np.array(found).T
    return float(np.sqrt(max(0.0, np.var(estimates, ddof=1) - np.mean(errors**2))))


def factor_words(groups: dict[str, Any]) -> str:
    """Return what the exponent that differs is of."""
    factor = str(groups["factor"])
    return {"flops_per_token": "FLOPs per token", "params": "the model's parameters"}.get(factor, factor)


def sentence(groups: dict[str, Any]) -> str:
    """Say that groups differ, for notes and captions."""
    each = ", ".join(
        f"{name} {shown(one['estimate'])} ({shown(one['low'])} to {shown(one['high'])})"
        for name, one in groups["exponents"].items()
    )
    verb = "depends" if groups["p"] <= SURE_P else "may depend"
    return f"The exponent of {factor_words(groups)} {verb} on the {groups['noun']} (p = {groups['p']:.2g}): {each}."
