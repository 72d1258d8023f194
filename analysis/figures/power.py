"""Power over time of one run, from the energy timeline beside its record."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from lora_scaling.errors import LoraScalingError
from lora_scaling.records import TIMELINE_NAME, check_plain, find_records

from ..arrays import Array
from .style import INK, SHADE, DrawnFigure, SkippedFigure, canvas, clip_name, linear_axis, palette, styled
from .view import View

PARTS: tuple[str, ...] = ("gpu", "cpu", "ram")
TITLE = "Power over time of a run"
MOST_BINS = 500  # more are narrower than a point of the drawing


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """m bins of a run: ends in seconds since its start, their phase, watts of each part (NaN where unknown)."""

    start: Array
    end: Array
    phase: list[str]
    watts: dict[str, Array]


def read_watts(path: Path) -> Timeline:
    """Read a timeline as power.

    Raises:
        ValueError, OSError: the file cannot be read, or is a link: a record may come from elsewhere.
    """
    if path.is_symlink():
        raise ValueError(f"{path.name} is a link")
    check_plain(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"start", "end", "phase"} <= set(rows[0]):
        raise ValueError(f"{path.name} has no bins")
    begin = [datetime.fromisoformat(row["start"]).timestamp() for row in rows]
    finish = [datetime.fromisoformat(row["end"]).timestamp() for row in rows]
    start, end = np.array(begin) - begin[0], np.array(finish) - begin[0]
    seconds = np.maximum(end - start, 1e-9)
    joules = {part: np.array([float(row.get(f"{part}_j") or "nan") for row in rows]) for part in PARTS}
    watts = {part: values / seconds for part, values in joules.items() if np.isfinite(values).any()}
    return Timeline(start=start, end=end, phase=[row["phase"] for row in rows], watts=watts)


@styled
def power_figure(view: View, run_id: str | None = None) -> DrawnFigure | SkippedFigure:
    """Draw the power of a run's parts over its phases: of `run_id`, else of the largest run with a timeline."""
    chosen = _find_timeline(view, run_id)
    if chosen is None:
        which = f"run {run_id} has" if run_id else "these runs have"
        return SkippedFigure(name="power", title=TITLE, reason=f"{which} no readable timeline.csv beside a record")
    name, timeline = chosen
    figure, axes = canvas(1, width=6.4, height=3.4)
    ax = axes[0]
    colours = dict(zip(PARTS, palette(3), strict=True))
    edges, stacked = _steps(timeline)
    bottom = np.zeros(len(edges))
    heights: dict[str, list[float]] = {}
    areas = []
    for i, (part, level) in enumerate(stacked.items()):
        areas.append(
            ax.fill_between(
                edges, bottom, bottom + level, color=colours[part], alpha=0.75, lw=0, label=part.upper(),
                gid=f"p0s{i}area",
            )
        )  # fmt: skip
        bottom = bottom + level
        # Unseen points at the top of the layer, which a page has values for.
        middles = (edges[::2] + edges[1::2]) / 2
        ax.plot(middles, bottom[::2], ls="none", marker="none", label=part.upper(), gid=f"p0s{i}points")
        heights[f"p0s{i}points"] = [float(value) for value in level[::2]]
    _phases(ax, timeline, float(bottom.max()))
    ax.set(xlabel="Time since the start of the run (s)", ylabel="Power (W)", xlim=(0, float(timeline.end[-1])))
    linear_axis(ax, "x")
    linear_axis(ax, "y")
    ax.legend(handles=areas, loc="upper left", bbox_to_anchor=(1.0, 1.0), title=None, reverse=True)
    missing = [part.upper() for part in PARTS if part not in timeline.watts]
    bins = f"{len(timeline.start)} bins"
    if len(edges) < 2 * len(timeline.start):
        bins += f", drawn as the means of {len(edges) // 2} groups of them"
    caption = (
        f"Power of run {clip_name(name, 60)} by part, {bins}; mean "
        f"{_mean(timeline):.3g} W over {timeline.end[-1]:.3g} s. "
        + "Phases: "
        + ", ".join(f"{name} {end - begin:.3g} s" for name, begin, end in spans(timeline)[:12])
        + ". "
        + (f"No figures for: {', '.join(missing)}. " if missing else "")
        + f"{_origin(view, name)}n = 1 run. Model: none, recorded energies. Source: {view.source}."
    )
    return DrawnFigure(
        name="power", title=TITLE, figure=figure, caption=caption, heights=heights,
        series=tuple(part.upper() for part in stacked),
    )  # fmt: skip


def _find_timeline(view: View, run_id: str | None) -> tuple[str, Timeline] | None:
    frame = view.table.frame.sort_values("energy_kwh", ascending=False)
    wanted = [run_id] if run_id else list(frame["run_id"].astype(str).head(50))
    folders = _folders(view.table.sources)
    for name in wanted:
        for path in folders.get(name, []):
            try:
                return name, read_watts(path)
            except (OSError, ValueError, OverflowError, KeyError, TypeError, csv.Error, LoraScalingError):
                continue
    return None


def _folders(sources: Sequence[str]) -> dict[str, list[Path]]:
    """Find the timelines, by the name of their run's folder."""
    found: dict[str, list[Path]] = {}
    for source in map(Path, sources):
        for record in find_records([source]) if source.is_dir() else []:
            found.setdefault(record.parent.name, []).append(record.parent / TIMELINE_NAME)
    return found


def _steps(timeline: Timeline) -> tuple[Array, dict[str, Array]]:
    """Return edges and levels of a step plot; long runs are averaged into MOST_BINS bins."""
    start, end, watts = timeline.start, timeline.end, timeline.watts
    if len(start) > MOST_BINS:
        group = np.minimum(np.arange(len(start)) * MOST_BINS // len(start), MOST_BINS - 1)
        seconds = np.bincount(group, weights=end - start)
        watts = {
            part: np.bincount(group, weights=np.nan_to_num(level) * (end - start)) / seconds
            for part, level in watts.items()
        }
        first = np.flatnonzero(np.diff(group, prepend=-1))
        start, end = start[first], np.append(start[first[1:]], end[-1])
    edges = np.column_stack([start, end]).ravel()
    return edges, {part: np.repeat(np.nan_to_num(level), 2) for part, level in watts.items()}


def _phases(ax: Axes, timeline: Timeline, top: float) -> None:
    """Draw a strip above the power with a block for each phase, named if it is wide enough; the caption names all."""
    ax.set_ylim(0, top * 1.22)
    names = list(dict.fromkeys(timeline.phase))
    shades = dict(zip(names, (SHADE, "#c9d3df", "#dfe5ec", "#b4c2d2", "#eef1f5"), strict=False))
    length = float(timeline.end[-1])
    for name, begin, end in spans(timeline):
        ax.axvspan(begin, end, ymin=0.9, ymax=1.0, color=shades.get(name, SHADE), lw=0)
        if (end - begin) / length > 0.012 * len(name):
            ax.text((begin + end) / 2, top * 1.16, name, fontsize="small", color=INK, va="center", ha="center")
        if begin > 0:
            ax.axvline(begin, color=INK, lw=0.6, ls=(0, (2, 2)))


def spans(timeline: Timeline) -> list[tuple[str, float, float]]:
    """List the phases in order: name, begin and end in seconds since the start of the run."""
    found: list[tuple[str, float, float]] = []
    for name, begin, end in zip(timeline.phase, timeline.start, timeline.end, strict=True):
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1], float(end))
        else:
            found.append((name, float(begin), float(end)))
    return found


def _mean(timeline: Timeline) -> float:
    seconds = timeline.end - timeline.start
    return float(sum(np.nansum(level * seconds) for level in timeline.watts.values()) / seconds.sum())


def _origin(view: View, name: str) -> str:
    """Name the source of each part's energy, as the record has it."""
    row = view.table.frame[view.table.frame["run_id"].astype(str) == name]
    if row.empty:
        return ""
    sources = {part: row[f"energy_source_{part}"].tolist()[0] for part in PARTS}
    named = [f"{part.upper()} {source}" for part, source in sources.items() if source and source != "none"]
    return f"Sources: {', '.join(named)}. " if named else ""
