"""The extrapolation to a target, and the backtest that grades it."""

from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from lora_scaling.estimate.fit_file import Bands
from lora_scaling.estimate.result import LEVEL
from lora_scaling.estimate.terms import Target
from lora_scaling.text import number

from ..arrays import Array
from ..energy_model.backtest import BacktestSplit
from ..energy_model.extrapolate import Extrapolation
from ..energy_model.family import target_of_runs
from ..tables.run_quantities import Work
from .style import (
    FAINT,
    INK,
    SHADE,
    DrawnFigure,
    SkippedFigure,
    canvas,
    clip_name,
    log_axis,
    palette,
    short,
    styled,
    thin,
)
from .view import View

PATH_POINTS = 80


@styled
def extrapolation_figure(view: View, result: Extrapolation) -> DrawnFigure:
    """Draw the response along a path from the runs to the target, the data's range shaded, and per unit of work."""
    document = result.document
    values = {name: float(value) for name, value in result.planned.target.values.items()}
    total, work = view.work.total, view.work
    path = _path(work, result.planned.target)
    fitted = view.result.fitted
    extra_sd = np.hypot(fitted.fit.form_sd(target_of_runs(path)), fitted.fit.session_sd)
    bands = view.predict(path.values, path.labels, level=LEVEL, extra_sd=extra_sd)
    kind = view.kind
    predicted = document[kind.predicted_key]
    figure, axes = canvas()
    colour, accent = palette(4)[0], palette(4)[3]
    note = thin(len(work))[1]
    scale, unit = kind.best_unit(np.array([predicted["estimate"]]))
    observed = view.observed
    same = work.labels["method"] == result.planned.config.method.name
    _draw_path(axes[0], work.values[total], observed * scale, same, path.values[total], _times(bands, scale), colour)
    _draw_target(axes[0], values[total], {key: value * scale for key, value in predicted.items()}, accent)
    axes[0].set(
        xlabel=_work_label(total),
        ylabel=f"{view.noun} ({unit})",
        title=f"{kind.name.capitalize()} on the path to the target",
    )
    size = work.size or work.per
    per_work = kind.per_unit * (1e12 if total == "flops" else 1e3)
    scaled = _times(bands, per_work / path.values[total])
    _draw_path(
        axes[1], work.values[size], observed * per_work / work.values[total], same, path.values[size], scaled, colour
    )
    if same.any() and not same.all():
        axes[1].legend(title=None, loc="best")
    _draw_target(
        axes[1], values[size], {key: value * per_work / values[total] for key, value in predicted.items()}, accent
    )
    of_work = f"{kind.base} per TFLOP" if total == "flops" else f"{kind.base} per thousand {total.replace('_', ' ')}"
    axes[1].set(
        xlabel=_work_label(size), ylabel=f"{view.noun} ({of_work})", title=f"{kind.name.capitalize()} per unit of work"
    )
    for ax in axes:
        log_axis(ax, "x")
        log_axis(ax, "y")
    name = clip_name(f"{result.planned.model or 'the same model'}, {result.planned.config.method.name}", 34)
    axes[0].annotate(
        f"{name}\n{_three(predicted['estimate'] * scale)} {unit}\n"
        f"({_three(predicted['low'] * scale)} to {_three(predicted['high'] * scale)})",
        (values[total], predicted["high"] * scale),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right" if values[total] > np.sqrt(np.prod(axes[0].get_xlim())) else "left",
        va="bottom",
        fontsize="small",
        color=accent,
    )
    _add_headroom(axes[0])
    label = document["validation"]["label"]
    figure.suptitle(
        label if label != "validated" else "", x=0.01, ha="left", color=accent, fontweight="bold", fontsize="medium"
    )
    text = (
        f"Target: {' '.join(document['target']['overrides']) or 'the default configuration'}. Shaded: the range of the "
        f"runs; line and band: median and 90 % interval on a straight path (in logs) through their middle; "
        f"diamond: the whole run, set-up, evaluation and scenarios included. {_outside(document)} "
        f"Backtest: {label}{'; ' if document['validation']['reasons'] else ''}"
        f"{'; '.join(document['validation']['reasons'])}."
    )
    title = f"Extrapolation to {name}"
    return DrawnFigure(name="extrapolation", title=title, figure=figure, caption=view.caption(text + note))


def _outside(document: dict[str, Any]) -> str:
    parts = [f"{number(item['factor'])}× in {item['variable'].replace('_', ' ')}" for item in document["extrapolates"]]
    parts += [f"scenario: {item['variable']} {item['value']}" for item in document["scenarios"]]
    return f"Outside the data: {', '.join(parts)}." if parts else "Inside the data."


def _path(work: Work, target: Target) -> Work:
    """Make runs on a straight line in logs, from the near end of the data through its middle to the target."""
    start = {name: float(np.exp(np.mean(np.log(value)))) for name, value in work.values.items() if _positive(value)}
    back = 1.0  # how far the line can go the other way before it leaves the data
    for name in filter(None, (work.total, work.size, work.per)):
        ahead = np.log(target.values[name] / start[name])
        near = work.values[name].min() if ahead > 0 else work.values[name].max()
        if abs(ahead) > 1e-9:
            back = min(back, abs(np.log(near / start[name]) / ahead))
    steps = np.linspace(-back, 1, PATH_POINTS)
    values = {
        name: np.exp((1 - steps) * np.log(begin) + steps * np.log(target.values.get(name, begin)))
        for name, begin in start.items()
    }
    return Work(
        log_y=np.zeros(PATH_POINTS),
        values=values,
        labels={name: np.full(PATH_POINTS, target.labels.get(name, ""), dtype=object) for name in work.labels},
        per=work.per,
        size=work.size,
        run_ids=np.full(PATH_POINTS, "", dtype=object),
        row=np.zeros(PATH_POINTS, dtype=np.int64),
    )


def _positive(values: Array) -> bool:
    return bool(np.isfinite(values).all() and (values > 0).all())


def _draw_path(ax: Axes, x: Array, y: Array, same: np.ndarray, path_x: Array, bands: Bands, colour: tuple) -> None:
    """Draw the runs (those of the target's method darker), the path to the target and the range of the data."""
    rows, _ = thin(len(x))
    ax.axvspan(float(x.min()), float(x.max()), color=SHADE, zorder=0, lw=0)
    ax.fill_between(path_x, bands.low, bands.high, color=colour, alpha=0.18, lw=0)
    ax.plot(path_x, bands.estimate, color=colour, lw=1.5)
    size = 18 if len(rows) < 300 else 8
    for mask, name, ink in ((same, "runs of the target's method", INK), (~same, "other runs", FAINT)):
        some = rows[mask[rows]]
        if len(some):
            sns.scatterplot(
                x=x[some], y=y[some], color=ink, s=size, ax=ax, edgecolor="white", zorder=3, label=name, legend=False
            )


def _draw_target(ax: Axes, x: float, interval: dict[str, float], colour: tuple) -> None:
    error = [[interval["estimate"] - interval["low"]], [interval["high"] - interval["estimate"]]]
    ax.errorbar(x, interval["estimate"], yerr=error, fmt="D", color=colour, capsize=4, ms=6, zorder=5)


def _add_headroom(ax: Axes) -> None:
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.18)


def _work_label(name: str) -> str:
    return {
        "flops": "FLOPs of training",
        "flops_per_token": "FLOPs per token",
        "tokens": "Tokens processed",
        "samples_seen": "Samples shown",
        "params": "Parameters of the model",
    }.get(name, name)


def _times(bands: Bands, factor: Array | float) -> Bands:
    return Bands(estimate=bands.estimate * factor, low=bands.low * factor, high=bands.high * factor, sd=bands.sd)


def _three(value: float) -> str:
    return short(float(f"{value:.3g}"))


@styled
def backtest_figure(view: View) -> DrawnFigure | SkippedFigure:
    """Draw predicted against observed values of every split, with intervals."""
    name, title = "backtest", "Fitted on the cheaper runs, tested on the most expensive"
    splits = view.result.backtest.made
    if not splits:
        reasons = "; ".join(f"{split.name}: {split.reason}" for split in view.result.backtest.splits)
        return SkippedFigure(name=name, title=title, reason=f"no backtest could be made ({reasons})")
    figure, axes = canvas(len(splits), width=min(3.4 * len(splits) + 0.8, 10.5), height=3.9)
    everything = np.concatenate([s.column(name) for s in splits for name in ("observed", "predicted")])
    scale, unit = view.kind.best_unit(everything)
    note, run_ids = "", {}
    for panel, (ax, split) in enumerate(zip(axes, splits, strict=True)):
        note = _observed_predicted(ax, split, scale, f"p{panel}", run_ids) or note
        ax.set_xlabel(f"Observed ({unit})")
    axes[0].set_ylabel(f"Predicted {view.noun_inside} ({unit})")
    text = " ".join(_split_sentence(split) for split in splits)
    missing = [split for split in view.result.backtest.splits if not split.made]
    text += "".join(f" No split by {split.name}: {split.reason}." for split in missing)
    return DrawnFigure(
        name=name,
        title=title,
        figure=figure,
        caption=view.caption(f"{text} Bars: 90 % intervals; grey: equality.{note}"),
        run_ids=run_ids,
    )


def _observed_predicted(
    ax: Axes, split: BacktestSplit, scale: float, panel: str, run_ids: dict[str, tuple[str, ...]]
) -> str:
    """Draw one split, put the names of its runs into `run_ids`, and return a note if some are not drawn."""
    rows, note = thin(len(split.table), 200)
    columns = (split.column(name).iloc[rows] * scale for name in ("observed", "predicted", "low", "high"))
    observed, predicted, low, high = columns
    inside = (observed >= low) & (observed <= high)
    good, bad = palette(4)[0], palette(4)[3]
    for i, (mask, colour) in enumerate(((inside, good), (~inside, bad))):
        if not mask.any():
            continue
        error = [
            (predicted - low)[mask].clip(lower=0),
            (high - predicted)[mask].clip(lower=0),
        ]
        bars = ax.errorbar(observed[mask], predicted[mask], yerr=error, fmt="o", color=colour, ms=4.5, lw=1, capsize=2)
        bars[0].set_gid(f"{panel}s{i}points")
        run_ids[f"{panel}s{i}points"] = tuple(split.table["run_id"].iloc[rows][mask].astype(str))
    ends = [min(observed.min(), low.min()), max(observed.max(), high.max())]
    margin = (ends[1] / ends[0]) ** 0.05
    ax.plot([ends[0] / margin, ends[1] * margin], [ends[0] / margin, ends[1] * margin], color=FAINT, lw=1, zorder=0)
    log_axis(ax, "x")
    log_axis(ax, "y")
    ax.set_title(f"By {'model size' if split.name == 'size' else split.name}")
    ax.text(
        0.04,
        0.96,
        f"median error {100 * split.median_ape:.1f} %\n{100 * split.coverage:.0f} % inside",
        transform=ax.transAxes,
        va="top",
        fontsize="small",
    )
    return note


def _split_sentence(split: BacktestSplit) -> str:
    worst = split.worst
    assert worst is not None
    return (
        f"By {split.name}: {split.n_fitted} runs fitted, {len(split.table)} predicted, worst "
        f"{100 * float(worst['error']):+.0f} %, up to {_reach(split.horizons)} beyond."
    )


def _reach(horizons: dict[str, float]) -> str:
    farthest = max(horizons.items(), key=lambda item: item[1])
    return f"{number(farthest[1])}× in {farthest[0].replace('_', ' ')}"
