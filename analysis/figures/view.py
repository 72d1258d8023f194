"""What the figures draw: runs with their fit, and the fit as a curve in one variable with the others held."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_scaling.errors import UserError
from lora_scaling.estimate.fit_file import Bands, training_bands
from lora_scaling.estimate.terms import Target
from lora_scaling.text import counted, number

from ..arrays import Array
from ..claims.verdicts import Options
from ..energy_model.energy_fit import fit_table
from ..energy_model.groups import runs_of_group
from ..energy_model.response_kind import ResponseKind
from ..energy_model.validated_fit import ValidatedFit
from ..regression.curve_analysis import CELL_COLUMNS
from ..tables.checks import group_noun
from ..tables.response import response_noun
from ..tables.run_quantities import Work, group_levels
from ..tables.table import RunTable
from .style import MOST_POINTS, clip_name, thin

GRID_POINTS = 60
UNMOVED = "Every run is where it was observed."
NOT_MOVED = 1.005  # times: a move that no figure shows
LEAST_RANGE = np.log(1.1)  # what varies less makes no line


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A variable to plot against: its column in `Work.values`, its axis label, how a curve moves along it."""

    name: str
    label: str
    noun: str


FACTORS = (
    Factor(name="samples", label="Samples in the training set", noun="samples"),
    Factor(name="epochs", label="Epochs", noun="epochs"),
    Factor(name="tokens", label="Tokens processed (padding included)", noun="tokens"),
    Factor(name="rank", label="LoRA rank", noun="LoRA rank"),
    Factor(name="params", label="Parameters of the model", noun="parameters"),
    Factor(name="flops_per_token", label="FLOPs per token", noun="FLOPs per token"),
)


@dataclass(frozen=True, kw_only=True)
class View:
    """A table with its fit, as the figures need it; `margin` is what counts as equal, as a share."""

    table: RunTable
    result: ValidatedFit
    margin: float = Options.margin

    @property
    def work(self) -> Work:
        return self.result.fitted.explained.work

    @property
    def kind(self) -> ResponseKind:
        return self.result.fitted.kind

    @property
    def observed(self) -> Array:
        """Return what the fit explains of each fitted run (n,), in the unit of its kind (kWh, s)."""
        return np.exp(self.work.log_y) / self.kind.per_unit

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Return the fitted runs' rows of the table, with `explained`, the response that the fit explains."""
        frame = self.table.frame.iloc[self.work.row].reset_index(drop=True)
        return frame.assign(explained=self.observed)

    @property
    def noun(self) -> str:
        noun = response_noun(self.table, self.result.fitted.response)
        return noun[0].upper() + noun[1:]

    @property
    def noun_inside(self) -> str:
        """The noun within a sentence."""
        return response_noun(self.table, self.result.fitted.response)

    @property
    def source(self) -> str:
        names = [name.rstrip("/").rsplit("/", 1)[-1] for name in self.table.sources]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    @property
    def split(self) -> dict[str, Any] | None:
        """The setting whose groups do not share an exponent: they are drawn and fitted apart."""
        return self.result.fitted.document.get("groups")

    def alone(self, name: str) -> "View | None":
        """Return the view of one group of `split`, with a fit of its runs alone; None where they are too few."""
        assert self.split is not None
        table = runs_of_group(self.table, self.split["column"], name)
        try:
            fitted = fit_table(table.frame, response=table.response)
        except UserError:
            return None
        fitted.document["groups"] = None
        return dataclasses.replace(
            self, table=table, result=dataclasses.replace(self.result, table=table, fitted=fitted)
        )

    def caption(self, text: str) -> str:
        """Write a caption: `text`, then n, what is pooled, the model and whether it fits, and the source."""
        models = self.result.fitted.document["models"]
        mixture = "; ".join(f"{model['name']} ({100 * model['weight']:.0f} %)" for model in models[:3])
        more = f"; {len(models) - 3} more" if len(models) > 3 else ""
        return (
            f"{text} n = {len(self.work)} runs. {self.pooled}Model: {mixture}{more}. {self.fits} Source: {self.source}."
        )

    @property
    def pooled(self) -> str:
        """Say which settings differ among the runs that share the fit; empty if none does."""
        runs = self.runs
        differing = [
            _several(levels, group_noun(column)) + " (a level of its own for each)" * (column in self.work.labels)
            for column in CELL_COLUMNS
            if (levels := runs[column].nunique()) > 1 and column != "work_settings"
        ]
        return f"One fit of all: {', '.join(differing)}. " if differing else ""

    @property
    def fits(self) -> str:
        """Say whether the best form fits."""
        return self.result.fits

    def predict(self, values: Mapping[str, Array], labels: Mapping[str, NDArray[np.object_]], **options: Any) -> Bands:
        """Predict what the fit explains by its models, in the unit of its kind."""
        target = Target(values=values, labels=labels)
        fit = self.result.fitted.fit
        bands = training_bands(fit.explained, target, log_floor=fit.log_floor(target), **options)
        scale = 1 / self.kind.per_unit
        return Bands(estimate=bands.estimate * scale, low=bands.low * scale, high=bands.high * scale, sd=bands.sd)


def _several(count: int, noun: str) -> str:
    """Format a count of two or more of a noun that may be a plural already: 2 kinds of weights."""
    return f"{count} kinds of {noun}" if noun.endswith("s") else counted(count, noun)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line: x (m,), the fit's median with the 95 % interval of the mean and the 90 % interval of a new run."""

    x: Array
    mean: Bands
    new: Bands


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs that share a hue: their x and response (kWh, s) moved by the fit to the held settings, and the curve.

    `total` counts them all; x, y and run_ids hold at most as many as are drawn.
    """

    name: str
    total: int
    x: Array
    y: Array
    run_ids: tuple[str, ...]
    curve: Curve


def varied(view: View, name: str, tolerance: float = 0.02) -> int:
    """Count the levels of a quantity in the fitted runs; 0 if it is unknown."""
    values = view.work.values[name]
    known = values[np.isfinite(values) & (values > 0)]
    return len(group_levels(known, tolerance)[0]) if len(known) else 0


def _counts(runs: pd.DataFrame, column: str) -> pd.Series:
    numbers = runs[column].to_numpy(dtype=float)
    return pd.Series([counted(value, column.removesuffix("s")) for value in numbers], index=runs.index)


def ruled_out_of(factor: str) -> set[str]:
    """Return the columns that move with a factor, and cannot colour a plot against it."""
    return {
        "params": {"model"},
        "flops_per_token": {"model", "rank"},
        "rank": {"rank", "method"},
        "tokens": {"samples", "epochs"},
    }.get(factor, {factor})


def hue_of(view: View, factor: str) -> tuple[str | None, pd.Series]:
    """Choose the column that colours the runs in a plot against `factor`, or None, with its value for each run."""
    runs = view.runs
    candidates = {
        "model": runs["model"],
        "method": runs["method"],
        "hardware": runs["hardware"],
        "epochs": _counts(runs, "epochs"),
        "samples": _counts(runs, "samples"),
        "rank": runs["rank"].map(lambda rank: f"rank {rank:g}" if np.isfinite(rank) else "no adapter"),
    }
    ruled_out = ruled_out_of(factor)
    if view.split is not None and (column := view.split["column"]) not in ruled_out_of(factor):
        candidates = {column: runs[column].astype(str)} | candidates
    for name, values in candidates.items():
        if name in ruled_out or values.isna().any():
            continue
        if 2 <= values.nunique() <= 6:
            return name, values.astype(str)
    return None, pd.Series(["all runs"] * len(runs))


def run_groups(view: View, factor: str) -> tuple[list[RunGroup], str]:
    """Group the runs and the fit along one factor by hue, with a sentence for the caption on what was held.

    Each run is moved along the fit to the held settings (a partial-residual plot): its ratio to the fit stays.
    """
    column, hues = hue_of(view, factor)
    groups: list[RunGroup] = []
    held: dict[str, list[str]] = {}
    moved_by = 1.0
    like = {name: value for name, value in _typical(view.work, factor).items() if name != column}  # a hue stays its own
    order = list(dict.fromkeys(hues[np.argsort(view.work.values["params"], kind="stable")])) if column else ["all runs"]
    apart = view.split is not None and column == view.split["column"]
    whole, all_hues = view, hues
    for name in order:
        view, hues = whole, all_hues
        if apart and (own := whole.alone(name)) is not None:
            view, hues = own, pd.Series([name] * len(own.runs))
        rows = np.flatnonzero((hues == name).to_numpy() & np.isfinite(view.work.values[factor]))
        if len(rows) == 0 or np.ptp(np.log(view.work.values[factor][rows])) < LEAST_RANGE:
            continue
        total = len(rows)
        ends = rows[[*_ends(view.work.values[factor][rows])]]
        rows = np.unique(np.concatenate([rows[thin(total, MOST_POINTS // len(order))[0]], ends]))
        member = view.work.take(rows)
        holder = _Holder(work=member, factor=factor, like=like)
        actual = view.predict(member.values, member.labels)
        moved = view.predict(*holder.at(member.values[factor]))
        x = np.geomspace(member.values[factor].min(), member.values[factor].max(), GRID_POINTS)
        values, labels = holder.at(x)
        curve = Curve(
            x=x,
            mean=view.predict(values, labels, level=0.95, noise=False),
            new=view.predict(values, labels, level=0.9),
        )
        shift = moved.estimate / actual.estimate
        moved_by = max(moved_by, float(np.exp(np.abs(np.log(shift)).max())))
        y = np.exp(member.log_y) / view.kind.per_unit * shift
        run_ids = tuple(map(str, view.work.run_ids[rows]))
        groups.append(RunGroup(name=name, x=member.values[factor], y=y, run_ids=run_ids, curve=curve, total=total))
        held.setdefault(holder.held(), []).append(name)
    return groups, _held_sentence(held, moved_by)


def _ends(values: Array) -> tuple[int, int]:
    """Return the positions of the smallest and the largest value."""
    return int(np.argmin(values)), int(np.argmax(values))


def _typical(work: Work, factor: str) -> dict[str, float]:
    """Settings of the run nearest the medians of size and length, of the commonest method and rank; along ranks, of a
    model that was run with several."""
    logs = [np.log(work.values[name]) for name in (work.size, work.per) if name]
    names, counts = np.unique(work.labels["method"].astype(str), return_counts=True)
    usual = work.labels["method"] == names[int(np.argmax(counts))]
    ranks = work.values["adapter_rank"]
    if factor == "rank":
        several = pd.Series(ranks).where(usual).groupby(work.values["params"]).transform("nunique").to_numpy() > 1
        usual = usual & several if (usual & several).any() else usual
    levels, times = np.unique(ranks[usual & np.isfinite(ranks)], return_counts=True)
    if len(levels):
        usual &= ranks == levels[int(np.argmax(times))]
    distance = sum((log - np.median(log[usual])) ** 2 for log in logs) + np.where(usual, 0.0, 1e6)
    run = int(np.argmin(distance))
    names = ("samples", "epochs", "adapter_rank", "params", "batch_size", "max_seq_len")
    return {name: float(work.values[name][run]) for name in names if np.isfinite(work.values[name]).all()}


@dataclass(frozen=True, kw_only=True)
class _Holder:
    """Holds everything but one factor at the values of a typical run, keeping the work consistent."""

    work: Work
    factor: str
    like: Mapping[str, float]

    @cached_property
    def typical(self) -> int:
        """The run nearest the settings of the whole table's typical run, the factor itself aside."""
        distance = np.zeros(len(self.work))
        for name, value in self.like.items():
            own = self.work.values[name]
            if name != self.factor and value > 0 and (own > 0).all():
                distance += (np.log(own) - np.log(value)) ** 2
        return int(np.argmin(distance))

    @cached_property
    def settings(self) -> dict[str, float]:
        """All quantities of the typical run, at the whole table's typical amount of work: series share a figure."""
        own = {name: float(value[self.typical]) for name, value in self.work.values.items()}
        for name in ("samples", "epochs"):
            if name == self.factor or name not in self.like or _moves_with(self.factor, name):
                continue
            ratio = self.like[name] / own[name]
            own |= {key: own[key] * ratio for key in (name, "samples_seen", "tokens", "flops") if key in own}
        return own

    def at(self, x: Array) -> tuple[dict[str, Array], dict[str, NDArray[np.object_]]]:
        """Values and labels of runs that are typical but for the factor being x (m,)."""
        own = self.settings
        values = {name: np.full(len(x), value) for name, value in own.items()}
        values[self.factor] = np.asarray(x, dtype=float)
        per = self.work.per
        if self.factor in ("samples", "epochs"):
            ratio = values["samples"] * values["epochs"] / (own["samples"] * own["epochs"])
            values["samples_seen"] = own["samples_seen"] * ratio
            values["tokens"] = own["tokens"] * ratio
        if self.factor in ("rank", "params") and self.work.size == "flops_per_token":
            values["flops_per_token"] = self._size_along(np.asarray(x, dtype=float))
        if self.factor == "rank":
            values["adapter_rank"] = values["rank"]
        if self.work.size == "flops_per_token":
            values["flops"] = values["flops_per_token"] * values[per if per == "tokens" else "tokens"]
        labels = {name: np.full(len(x), label[self.typical], dtype=object) for name, label in self.work.labels.items()}
        return values, labels

    def _size_along(self, x: Array) -> Array:
        """FLOPs a token along rank or parameters: interpolated in logs between the runs like the typical one."""
        like = self.work.labels["method"] == self.work.labels["method"][self.typical]
        if self.factor == "params" and np.isfinite(self.settings["rank"]):
            like &= self.work.values["rank"] == self.settings["rank"]
        if self.factor == "rank":
            like &= self.work.values["params"] == self.settings["params"]
        like &= np.isfinite(self.work.values[self.factor])
        levels, index = group_levels(self.work.values[self.factor][like], 1e-6)
        sizes = np.log(self.work.values["flops_per_token"][like])
        mean = np.bincount(index, weights=sizes) / np.bincount(index)
        return np.exp(np.interp(np.log(x), np.log(levels), mean))

    def held(self) -> str:
        """What was held, of what varied; empty where nothing did."""
        held = []
        for name, noun in (("samples", "samples"), ("epochs", "epochs"), ("rank", "rank"), ("params", "parameters")):
            values, own = self.work.values[name], self.settings[name]
            known = values[np.isfinite(values)]
            moved = len(np.unique(known)) > 1 or (len(known) > 0 and known[0] != own)
            if name != self.factor and moved and not _moves_with(self.factor, name):
                shown = f"{number(own / 1e6)} M" if name == "params" else number(own, 4)
                held.append(f"{noun} {shown}" if np.isfinite(own) else f"no {noun}")
        for name, label in self.work.labels.items():
            if len(set(label)) > 1:
                held.append(f"{name} {label[self.typical]}")
        return ", ".join(held)


def _held_sentence(held: Mapping[str, Sequence[str]], moved_by: float) -> str:
    """Say what was held, from the names of the series that share each set of settings, and how far runs were moved."""
    if moved_by < NOT_MOVED:
        return UNMOVED
    far = f", by a factor of up to {number(moved_by)}" if moved_by >= 2 else f", by up to {100 * (moved_by - 1):.2g} %"
    each = [(settings, f"{', '.join(map(clip_name, names))} to ") for settings, names in held.items() if settings]
    if not each:
        return f"Runs are moved along the fit to the work of a typical run{far}."
    if len(held) == 1:
        return f"Runs are moved along the fit to {each[0][0]}{far}."
    return f"Runs are moved along the fit: {'; '.join(names + settings for settings, names in each)}{far}."


def _moves_with(factor: str, name: str) -> bool:
    return (factor == "tokens" and name in ("samples", "epochs")) or (
        factor == "flops_per_token" and name in ("params", "rank")
    )
