"""Power over time of one run, from the energy timeline beside its record."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from lora_scaling.errors import LoraScalingError
from lora_scaling.records import RECORD_NAME, TIMELINE_NAME

from .plot_data import View
from .plot_style import FAINT, INK, Drawn, Skipped, canvas, clip_name, linear_axis, palette, styled
from .regression import Array

PARTS: tuple[str, ...] = ("gpu", "cpu", "ram")
TITLE = "Power over time of a run"
MOST_BINS = 1500


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """m bins of a run: ends in seconds since its start, their phase, watts of each part (NaN where unknown)."""

    start: Array
    end: Array
    phase: list[str]
    watts: dict[str, Array]


def read_watts(path: Path) -> Timeline:
    """The timeline as power. Raises ValueError or OSError where it cannot be read."""
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
def power_figure(view: View, run_id: str | None = None) -> Drawn | Skipped:
    """Stacked power of the parts over a run's phases: of `run_id`, else of the dearest run with a timeline."""
    found = _find(view, run_id)
    if found is None:
        which = f"run {run_id} has" if run_id else "these runs have"
        return Skipped(name="power", title=TITLE, reason=f"{which} no readable timeline.csv beside a record")
    name, timeline = found
    figure, axes = canvas(1, width=9.0, height=3.6)
    ax = axes[0]
    colours = dict(zip(PARTS, palette(3), strict=True))
    edges, stacked = _steps(timeline)
    bottom = np.zeros(len(edges))
    for part, level in stacked.items():
        ax.fill_between(edges, bottom, bottom + level, color=colours[part], alpha=0.75, lw=0, label=part.upper())
        bottom = bottom + level
    _phases(ax, timeline, float(bottom.max()))
    ax.set(xlabel="Time since the start of the run (s)", ylabel="Power (W)", xlim=(0, float(timeline.end[-1])))
    linear_axis(ax, "x")
    linear_axis(ax, "y")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title=None, reverse=True)
    missing = [part.upper() for part in PARTS if part not in timeline.watts]
    caption = (
        f"Power of run {clip_name(name, 60)} by part, {len(timeline.start)} bins; mean "
        f"{_mean(timeline):.3g} W over {timeline.end[-1]:.3g} s. "
        + (f"Not measured: {', '.join(missing)}. " if missing else "")
        + f"{_origin(view, name)}n = 1 run. Model: none, recorded energies. Source: {view.source}."
    )
    return Drawn(name="power", title=TITLE, figure=figure, caption=caption)


def _find(view: View, run_id: str | None) -> tuple[str, Timeline] | None:
    frame = view.table.frame.sort_values("energy_kwh", ascending=False)
    wanted = [run_id] if run_id else list(frame["run_id"].astype(str).head(50))
    folders = _folders(view.table.sources)
    for name in wanted:
        for path in folders.get(name, []):
            try:
                return name, read_watts(path)
            except (OSError, ValueError, KeyError, LoraScalingError):
                continue
    return None


def _folders(sources: Sequence[str]) -> dict[str, list[Path]]:
    """Timelines by the name of their run's folder."""
    found: dict[str, list[Path]] = {}
    for source in map(Path, sources):
        for path in source.rglob(TIMELINE_NAME) if source.is_dir() else []:
            if (path.parent / RECORD_NAME).is_file():
                found.setdefault(path.parent.name, []).append(path)
    return found


def _steps(timeline: Timeline) -> tuple[Array, dict[str, Array]]:
    """Edges and levels of a step plot; long runs are averaged into MOST_BINS bins."""
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
    """A line and a name where a phase begins; names that would touch are moved to a second row."""
    ax.set_ylim(0, top * 1.25)
    length, last, row = float(timeline.end[-1]), -1.0, 0
    for i, phase in enumerate(timeline.phase):
        if i and phase == timeline.phase[i - 1]:
            continue
        x = float(timeline.start[i])
        if i:
            ax.axvline(x, color=INK, lw=0.8, ls=(0, (2, 2)))
        row = 1 - row if (x - last) / length < 0.07 else 0
        ax.text(x + 0.004 * length, top * (1.22 - 0.085 * row), phase, fontsize="small", color=FAINT, va="top")
        last = x


def _mean(timeline: Timeline) -> float:
    seconds = timeline.end - timeline.start
    return float(sum(np.nansum(level * seconds) for level in timeline.watts.values()) / seconds.sum())


def _origin(view: View, name: str) -> str:
    """Which parts were measured and which modelled, as the record says."""
    row = view.table.frame[view.table.frame["run_id"].astype(str) == name]
    if row.empty:
        return ""
    sources = {part: row[f"energy_source_{part}"].tolist()[0] for part in PARTS}
    named = [f"{part.upper()} {source}" for part, source in sources.items() if source and source != "none"]
    return f"Sources: {', '.join(named)}. " if named else ""
