"""Two comparisons: samples against epochs at the same total, and LoRA against full fine-tuning at the same work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from scipy.special import stdtrit

from lora_scaling.text import counted

from ..claims.effects import matched_runs
from ..claims.rank_and_method import METHOD
from ..regression.curve_analysis import CELL_COLUMNS
from ..regression.within_groups import within_slope
from .style import (
    FAINT,
    INK,
    MARKERS,
    SHADE,
    DrawnFigure,
    SkippedFigure,
    canvas,
    clip_name,
    linear_axis,
    log_axis,
    palette,
    styled,
    thin,
)
from .view import View

DODGE = 0.25  # rows between the methods of a model
JITTER = 0.06


@styled
def interchangeability(view: View) -> DrawnFigure | SkippedFigure:
    """Draw the response against samples × epochs, coloured by epochs, and each run against its peers."""
    name, title = "samples_vs_epochs", "Are samples and epochs interchangeable?"
    runs, margin = view.runs, 100 * view.margin
    runs = runs.assign(product=(runs["samples"] * runs["epochs"]).round())
    if runs["epochs"].nunique() < 2 or runs["samples"].nunique() < 2:
        return SkippedFigure(name=name, title=title, reason="samples and epochs did not both vary")
    cells = runs.groupby([*CELL_COLUMNS, "product"], dropna=False)
    matched = runs[(cells["epochs"].transform("nunique") > 1) & (runs["epochs"] > 0)].copy()
    if matched.empty:
        return SkippedFigure(
            name=name, title=title, reason="no two runs have the same samples × epochs in different ways"
        )
    peers = matched.groupby([*CELL_COLUMNS, "product"], dropna=False)["explained"]
    matched["percent"] = 100 * (matched["explained"] / np.exp(peers.transform(lambda e: np.log(e).mean())) - 1)
    figure, axes = canvas()
    levels = sorted(matched["epochs"].unique())
    colours = dict(zip(levels, palette(len(levels)), strict=True))
    rows, note = thin(len(matched))
    drawn = matched.iloc[rows]
    scale, unit = view.kind.best_unit(drawn["explained"].to_numpy())
    for i, epochs in enumerate(levels):
        some = drawn[drawn["epochs"] == epochs]
        sns.scatterplot(
            x=some["product"],
            y=some["explained"] * scale,
            color=colours[epochs],
            marker=MARKERS[i % len(MARKERS)],
            s=34,
            ax=axes[0],
            label=counted(epochs, "epoch"),
        )
        axes[0].collections[-1].set_gid(f"p0s{i}points")
    log_axis(axes[0], "x")
    log_axis(axes[0], "y")
    axes[0].set(
        xlabel="Samples × epochs", ylabel=f"{view.noun} ({unit})", title=f"{view.kind.name.capitalize()} by total shown"
    )
    axes[0].legend(title=None, loc="best")
    axes[1].axhspan(-margin, margin, color=SHADE, zorder=0)
    axes[1].axhline(0, color=INK, lw=0.8, zorder=1)
    sns.stripplot(
        data=drawn,
        x="epochs",
        y="percent",
        hue="epochs",
        palette=colours,
        ax=axes[1],
        legend=False,
        size=5,
        jitter=0.15,
    )
    for i, dots in enumerate(axes[1].collections[-len(levels) :]):
        dots.set(gid=f"p1s{i}points", label=counted(levels[i], "epoch"))
    for i, epochs in enumerate(levels):
        some = matched["percent"][matched["epochs"] == epochs]
        half = stdtrit(len(some) - 1, 0.95) * some.std(ddof=1) / np.sqrt(len(some)) if len(some) > 1 else np.nan
        bar = axes[1].errorbar(i + 0.28, some.mean(), yerr=half, fmt="_", color=INK, capsize=3, ms=9, zorder=4)
        for part in bar.get_children():
            part.set_gid(f"p1s{i}mean")
    axes[1].set_xticks(range(len(levels)), [f"{epochs:g}" for epochs in levels])
    axes[1].set_xlim(-0.6, len(levels) - 0.4)
    axes[1].set(xlabel="Epochs", ylabel="Against runs of the same total (%)", title="Same total, split differently")
    axes[1].text(0.99, -margin, f"margin ± {margin:.3g} %", transform=axes[1].get_yaxis_transform(), ha="right",
                 va="top", fontsize="x-small", color=FAINT)  # fmt: skip
    linear_axis(axes[1], "y")
    note += _limit(axes[1], matched["percent"].to_numpy(), margin)
    text = (
        f"{len(matched)} runs whose samples × epochs was reached in more than one way. "
        f"Bars: mean, with its 90 % interval if there are several; shaded: what counts as equal, ±{margin:.3g} %."
    )
    runs_of = [tuple(drawn["run_id"][drawn["epochs"] == epochs].astype(str)) for epochs in levels]
    return DrawnFigure(
        name=name, title=title, figure=figure, caption=_data_caption(view, text + note, len(matched)),
        series=tuple(counted(epochs, "epoch") for epochs in levels),
        run_ids={f"p{panel}s{i}points": ids for panel in (0, 1) for i, ids in enumerate(runs_of)},
    )  # fmt: skip


def _limit(ax: Axes, percent: np.ndarray, margin: float) -> str:
    """Keep single wild runs from flattening the rest; say how many lie outside the picture."""
    reach = max(2 * margin, 8 * float(np.median(np.abs(percent))))
    outside = np.abs(percent) > reach
    ax.set_ylim(-min(reach, 1.2 * max(2 * margin, -percent.min())), min(reach, 1.2 * max(2 * margin, percent.max())))
    if not outside.any():
        return ""
    return f" {int(outside.sum())} runs lie outside the right picture ({percent.min():+.0f} to {percent.max():+.0f} %)."


@styled
def lora_and_full(view: View) -> DrawnFigure | SkippedFigure:
    """Energy or time per thousand tokens (or samples) by method and model, and full ÷ LoRA at matched work."""
    name, title = "lora_vs_full", "LoRA against full fine-tuning"
    runs = view.runs
    methods = [m for m in ("lora", "qlora", "full") if (runs["method"] == m).any()]
    if "full" not in methods or len(methods) < 2:
        return SkippedFigure(
            name=name, title=title, reason="the runs do not include both adapters and full fine-tuning"
        )
    named = runs.assign(
        model=runs["model"].fillna("model not named").astype(str),
        flops=view.work.values["flops"],
        base=1e3 * np.exp(view.work.log_y) / view.work.values[view.work.per],
    )
    ratios = _ratios(named, methods)
    if not ratios:
        return SkippedFigure(name=name, title=title, reason="no two runs differ in the method (and rank) alone")
    models = list(named.assign(p=view.work.values["params"]).sort_values("p", kind="stable")["model"].unique())
    rows, note = thin(len(named))
    figure, axes = canvas(width=9.0, height=max(3.4, 1.6 + 0.45 * max(len(models), len(ratios))))
    colours = dict(zip(methods, palette(len(methods)), strict=True))
    run_ids = {}
    chance = np.random.default_rng(0)
    for i, method in enumerate(methods):
        some = named.iloc[rows][lambda drawn, method=method: drawn["method"] == method]
        places = some["model"].map(models.index).to_numpy() + DODGE * (i - (len(methods) - 1) / 2)
        axes[0].scatter(
            some["base"], places + chance.uniform(-JITTER, JITTER, len(some)), s=25, color=colours[method],
            label=method, gid=f"p0s{i}points",
        )  # fmt: skip
        run_ids[f"p0s{i}points"] = tuple(some["run_id"].astype(str))
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    log_axis(axes[0], "x")
    unit_work = "token" if view.work.per == "tokens" else "sample"
    axes[0].set(xlabel=f"{view.noun} per thousand {unit_work}s ({view.kind.base})", ylabel="",
                title=f"{view.kind.name.capitalize()} for the same work")  # fmt: skip
    axes[0].set_yticks(range(len(models)), [clip_name(model, 20) for model in models])
    axes[0].legend(title=None, loc="best")
    _draw_ratios(axes[1], ratios, models, colours, view.noun_inside, methods)
    alone = [ratio for ratio in ratios if math.isnan(ratio.low)]
    unsure = ", ".join(f"{clip_name(ratio.model, 20)} ({ratio.method})" for ratio in alone)
    text = (
        "Right: geometric means over runs that differ in the method (and rank) alone, with 95 % intervals "
        f"({sum(ratio.cells for ratio in ratios)} matched cells); grey bars: the ratio of FLOPs."
    ) + (f" Without an interval, as nothing was repeated: {unsure}." if unsure else "")
    return DrawnFigure(
        name=name, title=title, figure=figure, caption=_data_caption(view, text + note, len(named)),
        series=tuple(methods), run_ids=run_ids,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Full ÷ an adapter method for one model: energy or time with its 95 % interval (NaN if unknown), and FLOPs."""

    model: str
    method: str
    value: float
    low: float
    high: float
    flops: float
    cells: int


def _draw_ratios(
    ax: Axes,
    ratios: Sequence[Ratio],
    models: Sequence[str],
    colours: dict[str, Any],
    noun: str,
    methods: Sequence[str],
) -> None:
    """Draw a row for each model, with a place for each adapter method."""
    shown = [model for model in models if model in {ratio.model for ratio in ratios}]
    adapters = list(dict.fromkeys(ratio.method for ratio in ratios))
    for ratio in ratios:
        y = shown.index(ratio.model) + 0.4 * (adapters.index(ratio.method) - (len(adapters) - 1) / 2)
        colour = colours[ratio.method]
        spread = None if math.isnan(ratio.low) else [[ratio.value - ratio.low], [ratio.high - ratio.value]]
        gid = f"p1s{methods.index(ratio.method)}"
        bar = ax.errorbar(ratio.value, y, xerr=spread, fmt="o", color=colour, capsize=3, zorder=3)
        bar.lines[0].set_label(ratio.method)
        for part in bar.get_children():
            part.set_gid(f"{gid}ratio")
        ax.plot(ratio.flops, y, "|", color=FAINT, ms=14, mew=2, zorder=2, gid=f"{gid}flops")
        ax.annotate(f"{ratio.value:.2f}×", (ratio.value, y), xytext=(0, 7), textcoords="offset points",
                    ha="center", fontsize="small", color=colour, gid=f"{gid}value")  # fmt: skip
    ax.axvline(1, color=INK, lw=0.8)
    ax.set_yticks(range(len(shown)), [clip_name(model, 20) for model in shown])
    ax.set_ylim(len(shown) - 0.5, -0.6)
    ax.margins(x=0.12)
    ax.set(xlabel=f"Full ÷ adapter, {noun}", title="How many times more expensive")
    log_axis(ax, "x")


def _ratios(runs: pd.DataFrame, methods: Sequence[str]) -> list[Ratio]:
    """Compute full ÷ each adapter method, model by model, from the runs that `full_vs_lora` would compare.

    The ratio is of what the fit explains; the claim is about the whole run. The interval is from the scatter
    within cells: Student's for repeats of one cell, the paired one for cells of single runs, none without repeats.
    """
    found: list[Ratio] = []
    for method in methods:
        places = {method: 0.0, "full": 1.0}
        effect = replace(METHOD, factor=lambda rows, places=places: rows["method"].map(places).astype(float))
        for model, rows in matched_runs(effect, runs).groupby("model", sort=False):
            rows = rows.reset_index(drop=True)
            energy, _ = within_slope(rows, "explained")
            work = within_slope(rows, "flops")[0].value if rows["flops"].notna().all() else math.nan
            low, high = energy.interval(0.95) if energy.df > 0 else (math.nan, math.nan)
            found.append(
                Ratio(
                    model=str(model), method=method, value=math.exp(energy.value), low=math.exp(low),
                    high=math.exp(high), flops=math.exp(work), cells=int(rows["group"].nunique()),
                )
            )  # fmt: skip
    return found


def _data_caption(view: View, text: str, n: int) -> str:
    """Write the caption of a figure without a fit: n, source, and that no model was used."""
    return f"{text} n = {n} runs. Model: none, observed values. Source: {view.source}."
