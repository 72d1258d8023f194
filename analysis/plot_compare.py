"""Two comparisons: samples against epochs at the same total, and LoRA against full fine-tuning at the same work."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from .claims_text import counted
from .plot_data import View
from .plot_scaling import zero_line
from .plot_style import (
    FAINT,
    INK,
    MARKERS,
    SHADE,
    Drawn,
    Skipped,
    canvas,
    clip_name,
    energy_unit,
    linear_axis,
    log_axis,
    palette,
    styled,
    thin,
)
from .regression import t_quantile

MARGIN = 5.0  # per cent, the default margin of the claims
SAME = ("model", "method", "rank", "hardware", "batch_size", "max_seq_len")


@styled
def interchangeability(view: View) -> Drawn | Skipped:
    """Energy against samples × epochs coloured by epochs, and each run against its peers of the same product."""
    name, title = "samples_vs_epochs", "Are samples and epochs interchangeable?"
    runs = view.runs
    runs = runs.assign(product=(runs["samples"] * runs["epochs"]).round())
    if runs["epochs"].nunique() < 2 or runs["samples"].nunique() < 2:
        return Skipped(name=name, title=title, reason="samples and epochs did not both vary")
    cells = runs.groupby([*SAME, "product"], dropna=False)
    matched = runs[(cells["epochs"].transform("nunique") > 1) & (runs["epochs"] > 0)].copy()
    if matched.empty:
        return Skipped(name=name, title=title, reason="no two runs have the same samples × epochs in different ways")
    peers = matched.groupby([*SAME, "product"], dropna=False)["kwh"]
    matched["percent"] = 100 * (matched["kwh"] / np.exp(peers.transform(lambda e: np.log(e).mean())) - 1)
    figure, axes = canvas()
    levels = sorted(matched["epochs"].unique())
    colours = dict(zip(levels, palette(len(levels)), strict=True))
    rows, note = thin(len(matched))
    drawn = matched.iloc[rows]
    scale, unit = energy_unit(drawn["kwh"].to_numpy())
    for i, epochs in enumerate(levels):
        some = drawn[drawn["epochs"] == epochs]
        sns.scatterplot(
            x=some["product"],
            y=some["kwh"] * scale,
            color=colours[epochs],
            marker=MARKERS[i % len(MARKERS)],
            s=34,
            ax=axes[0],
            label=counted(epochs, "epoch"),
        )
    log_axis(axes[0], "x")
    log_axis(axes[0], "y")
    axes[0].set(xlabel="Samples × epochs", ylabel=f"{view.noun} ({unit})", title="Energy by total shown")
    axes[0].legend(title=None, loc="upper left")
    axes[1].axhspan(-MARGIN, MARGIN, color=SHADE, zorder=0)
    zero_line(axes[1])
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
    for i, epochs in enumerate(levels):
        some = matched["percent"][matched["epochs"] == epochs]
        half = t_quantile(0.95, len(some) - 1) * some.std(ddof=1) / np.sqrt(len(some)) if len(some) > 1 else 0.0
        axes[1].errorbar(i + 0.28, some.mean(), yerr=half, fmt="_", color=INK, capsize=3, ms=9, zorder=4)
    axes[1].set_xticks(range(len(levels)), [f"{epochs:g}" for epochs in levels])
    axes[1].set_xlim(-0.6, len(levels) - 0.4)
    axes[1].set(xlabel="Epochs", ylabel="Against runs of the same total (%)", title="Same total, split differently")
    axes[1].text(0.99, -MARGIN, "margin ± 5 %", transform=axes[1].get_yaxis_transform(), ha="right", va="top",
                 fontsize="x-small", color=FAINT)  # fmt: skip
    linear_axis(axes[1], "y")
    note += _limit(axes[1], matched["percent"].to_numpy())
    text = (
        f"{len(matched)} runs whose samples × epochs was reached in more than one way. "
        "Bars: mean with its 90 % interval; shaded: the margin of the claims."
    )
    return Drawn(name=name, title=title, figure=figure, caption=_data_caption(view, text + note, len(matched)))


def _limit(ax: Axes, percent: np.ndarray) -> str:
    """Keep single wild runs from flattening the rest; say how many lie outside the picture."""
    reach = max(2 * MARGIN, 8 * float(np.median(np.abs(percent))))
    outside = np.abs(percent) > reach
    ax.set_ylim(-min(reach, 1.2 * max(2 * MARGIN, -percent.min())), min(reach, 1.2 * max(2 * MARGIN, percent.max())))
    if not outside.any():
        return ""
    return f" {int(outside.sum())} runs lie outside the right picture ({percent.min():+.0f} to {percent.max():+.0f} %)."


@styled
def lora_and_full(view: View) -> Drawn | Skipped:
    """Energy per thousand tokens (or samples) by method and model, and full ÷ LoRA at matched work."""
    name, title = "lora_vs_full", "LoRA against full fine-tuning"
    runs = view.runs
    methods = [m for m in ("lora", "qlora", "full") if (runs["method"] == m).any()]
    if "full" not in methods or len(methods) < 2:
        return Skipped(name=name, title=title, reason="the runs do not include both adapters and full fine-tuning")
    ratios = _ratios(view, methods)
    if ratios.empty:
        return Skipped(name=name, title=title, reason="no model was tuned both ways with the same samples and epochs")
    unit_work = "token" if view.work.per == "tokens" else "sample"
    joules = 1e3 * np.exp(view.work.log_y) / view.work.values[view.work.per]
    models = list(runs.assign(p=view.work.values["params"]).sort_values("p")["model"].astype(str).unique())
    frame = pd.DataFrame({"model": runs["model"].astype(str), "method": runs["method"], "j": joules})
    rows, note = thin(len(frame))
    figure, axes = canvas(width=9.0, height=max(3.4, 1.6 + 0.45 * len(models)))
    colours = dict(zip(methods, palette(len(methods)), strict=True))
    sns.stripplot(
        data=frame.iloc[rows], y="model", x="j", hue="method", order=models, hue_order=methods, palette=colours,
        dodge=True, jitter=0.08, size=5, ax=axes[0],
    )  # fmt: skip
    log_axis(axes[0], "x")
    axes[0].set(xlabel=f"Energy per thousand {unit_work}s (J)", ylabel="", title="Energy for the same work")
    axes[0].set_yticks(range(len(models)), [clip_name(model, 20) for model in models])
    axes[0].legend(title=None, loc="best")
    shown = [model for model in models if model in set(ratios["model"])]
    for i, model in enumerate(shown):
        for method in dict.fromkeys(ratios["method"]):
            one = ratios[(ratios["model"] == model) & (ratios["method"] == method)]
            for row in one.itertuples():
                axes[1].errorbar(row.ratio, i, xerr=[[row.ratio - row.low], [row.high - row.ratio]], fmt="o",
                                 color=colours[method], capsize=3, zorder=3)  # fmt: skip
                axes[1].plot(row.flops, i, "|", color=FAINT, ms=14, mew=2, zorder=2)
                axes[1].annotate(f"{row.ratio:.2f}×", (row.ratio, i), xytext=(0, 8), textcoords="offset points",
                                 ha="center", fontsize="small", color=colours[method])  # fmt: skip
    axes[1].axvline(1, color=INK, lw=0.8)
    axes[1].set_yticks(range(len(shown)), [clip_name(model, 20) for model in shown])
    axes[1].set_ylim(len(shown) - 0.5, -0.6)
    axes[1].margins(x=0.12)
    axes[1].set(xlabel="Full ÷ adapter, energy", title="How many times dearer")
    log_axis(axes[1], "x")
    text = (
        f"Right: geometric means over matched samples and epochs with 95 % intervals ({int(ratios['n'].sum())} matched "
        "cells); grey bars: the ratio of FLOPs."
    )
    return Drawn(name=name, title=title, figure=figure, caption=_data_caption(view, text + note, len(frame)))


def _ratios(view: View, methods: list[str]) -> pd.DataFrame:
    """Full ÷ each adapter method by model: ratio, its 95 % interval, ratio of FLOPs, matched cells."""
    runs = view.runs.assign(logs=view.work.log_y, log_flops=np.log(view.work.values["flops"]))
    keys = ["model", "samples", "epochs", "batch_size"]
    means = runs.groupby([*keys, "method"], dropna=False)[["logs", "log_flops"]].mean().unstack("method")
    rows = []
    for method in methods:
        if method == "full":
            continue
        difference = (means["logs"]["full"] - means["logs"][method]).dropna()
        flops = means["log_flops"]["full"] - means["log_flops"][method]
        for model, some in difference.groupby(level="model"):
            half = t_quantile(0.975, len(some) - 1) * some.std(ddof=1) / np.sqrt(len(some)) if len(some) > 1 else 0.0
            centre = float(some.mean())
            rows.append(
                {
                    "model": str(model), "method": method, "ratio": np.exp(centre), "n": len(some),
                    "low": np.exp(centre - half), "high": np.exp(centre + half),
                    "flops": float(np.exp(flops.loc[some.index].mean())),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _data_caption(view: View, text: str, n: int) -> str:
    """For figures without a fit: n and source, and that no model stands behind them."""
    return f"{text} n = {n} runs. Model: none, observed energies. Source: {view.source}."
