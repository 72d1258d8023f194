"""What each run processed, in the quantities that the energy model is written in.

`tokens` are positions processed, padding included (padding costs like data), `flops_per_token` is per such
position: the same definitions as `lora_scaling.estimate.target.target_of`, so that a fit and a target meet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_scaling.config.devices import same_device
from lora_scaling.workload import Counting, flops_per_param_token

from ..arrays import Array
from .preset_flops import flops_by_preset
from .table import Excluded

LABELS = ("method", "hardware", "precision")
UNSIZED_LABELS = ("model", "data")  # count as labels where their sizes are unknown: parameters, tokens
RANGED = ("flops_per_token", "tokens", "samples", "epochs", "params", "rank", "batch_size", "max_seq_len")


@dataclass(frozen=True, kw_only=True)
class Work:
    """n runs: `log_y` (n,) is the log of the response (joules or seconds of training).

    `values` and `labels` hold (n,) arrays by name (NaN and "" where unknown); models and data sets are labels where
    their sizes are unknown. The response is modelled per
    `per` (`tokens`, or `samples_seen` where tokens are unknown); `size` is the quantity that says how much
    work that is (`flops_per_token`, or `params`), None where neither is known. `row` (n,) are the rows of
    the table that these runs came from. `counting` says how tokens and FLOPs were counted, as a target's must be.
    """

    log_y: Array
    values: Mapping[str, Array]
    labels: Mapping[str, NDArray[np.object_]]
    per: str
    size: str | None
    run_ids: NDArray[np.object_]
    row: NDArray[np.int64]
    counting: Counting = field(default_factory=Counting)

    def __len__(self) -> int:
        return len(self.log_y)

    @property
    def total(self) -> str:
        """The quantity of all work done: FLOPs where they are known."""
        return "flops" if self.size == "flops_per_token" else self.per

    def take(self, keep: NDArray) -> "Work":
        """The runs at `keep` (a mask or positions)."""
        return replace(
            self,
            log_y=self.log_y[keep],
            values={name: value[keep] for name, value in self.values.items()},
            labels={name: label[keep] for name, label in self.labels.items()},
            run_ids=self.run_ids[keep],
            row=self.row[keep],
        )

    def levels(self, name: str, tolerance: float = 0.02) -> int:
        """How many distinct values of a quantity, those within `tolerance` in logs counted as one."""
        return len(group_levels(self.values[name], tolerance)[0])


def group_levels(values: Array, tolerance: float = 0.02) -> tuple[Array, NDArray[np.int64]]:
    """Distinct positive values (geometric means) and each row's level; a level is at most `tolerance` wide in logs."""
    logs = np.log(values)
    ordered = np.sort(logs)
    starts = []
    place = 0
    while place < len(ordered):
        starts.append(ordered[place])
        place = int(np.searchsorted(ordered, ordered[place] + tolerance, side="right"))
    index = (np.searchsorted(np.array(starts), logs, side="right") - 1).astype(np.int64)
    counts = np.bincount(index, minlength=len(starts))
    return np.exp(np.bincount(index, weights=logs, minlength=len(starts)) / counts), index


def quantities(frame: pd.DataFrame) -> tuple[dict[str, Array], dict[str, NDArray[np.object_]], Counting, list[str]]:
    """The work of every row of a table, by name, its labels, how it was counted, and what had to be assumed."""
    notes: list[str] = []
    values = {name: _numbers(frame, name) for name in ("samples", "epochs", "samples_seen", "steps", "params")}
    values |= {name: _numbers(frame, name) for name in ("rank", "batch_size", "max_seq_len", "trainable_params")}
    seen, padded = _numbers(frame, "tokens_seen"), _numbers(frame, "tokens_padded")
    trained = np.isfinite(seen) & (seen > 0)
    padding = not np.isnan(padded[trained]).any()
    values["tokens"] = seen + (np.where(np.isnan(padded), 0.0, padded) if padding else 0.0)
    if not padding:
        notes.append(
            "`tokens_padded` is unknown for some runs: padding is left out, of the runs and of what is predicted."
        )
    method = frame["method"].fillna("").astype(str).str.lower().to_numpy()
    values["flops"], by_parameters = _with_flops(frame, values, method, notes)
    flops = values["flops"]
    with np.errstate(divide="ignore", invalid="ignore"):
        values["flops_per_token"] = flops / values["tokens"]
    values["params_samples_seen"] = values["params"] * values["samples_seen"]
    values["adapter_rank"] = np.where((method != "full") & (values["rank"] > 0), values["rank"], 1.0)
    values["gpu_count"] = np.fmax(1.0, np.nan_to_num(_numbers(frame, "gpu_count"), nan=1.0))
    named = frame.assign(hardware=one_name_each(frame["hardware"]))
    labels = {name: named[name].fillna("").astype(str).to_numpy(dtype=object) for name in (*LABELS, *UNSIZED_LABELS)}
    return values, labels, Counting(padding=padding, by_parameters=by_parameters), notes


def _with_flops(
    frame: pd.DataFrame, values: Mapping[str, Array], method: NDArray, notes: list[str]
) -> tuple[Array, bool]:
    """Return FLOPs (n,), those that are missing counted from the models' presets, or else by the parameters.

    The flag says that all were counted by the parameters. If one of those that are missing has to be, all of them are.
    """
    flops = _numbers(frame, "flops")
    missing = np.isnan(flops) & (values["tokens"] > 0)
    exact = flops_by_preset(frame.loc[missing], values["tokens"][missing])
    if missing.any() and np.isfinite(exact).all():
        flops = flops.copy()
        flops[missing] = exact
        notes.append(f"`flops` is unknown for {int(missing.sum())} runs: counted from their models' presets.")
        return flops, False
    per_param = np.array([flops_per_param_token(m) for m in method], dtype=float)
    rough = missing & np.isfinite(values["params"])
    if not rough.any():
        return flops, False
    alone = not (np.isfinite(flops) & (values["tokens"] > 0)).any()
    flops = np.where(rough, per_param * values["params"] * values["tokens"], flops)
    notes.append(
        f"`flops` is unknown for {int(rough.sum())} runs: taken as 4 × parameters × tokens (LoRA) or 6 × (full)"
        f"{', of what is predicted as well' if alone else ''}."
    )
    return flops, alone


def one_name_each(hardware: pd.Series) -> pd.Series:
    """The devices (n,), each by its commonest name: effects of a fit and labels of its targets then mean the same."""
    names: list[str] = []
    called: dict[str, str] = {}
    for name in map(str, hardware.dropna().value_counts().index):
        called[name] = next((known for known in names if same_device(known, name)), name)
        names += [name] if called[name] == name else []
    return hardware.map(called).astype(object)


def work_of(frame: pd.DataFrame, response: Array) -> tuple[Work, list[Excluded], list[str]]:
    """The runs that trained, with a response (n,) in joules or seconds; who is left out; what was assumed.

    A quantity known for at least half of the runs is used, and those that lack it are left out by name;
    otherwise the next coarser one: FLOPs and tokens, tokens, samples.
    """
    values, labels, counting, notes = quantities(frame)
    keep = np.asarray(values["samples_seen"] > 0) & (values["steps"] != 0)
    excluded: list[Excluded] = []
    known = keep & np.isfinite(response) & (response > 0)
    excluded += _left_out(frame, keep & ~known, "its training energy or time is unknown")
    per, size = "samples_seen", None
    if _mostly(values["tokens"], known):
        per = "tokens"
        known, excluded = _require(frame, values["tokens"], known, excluded, "its tokens are unknown")
    if per == "tokens" and _mostly(values["flops"], known):
        size = "flops_per_token"
        known, excluded = _require(frame, values["flops"], known, excluded, "its FLOPs are unknown")
    elif _mostly(values["params"], known):
        size = "params"
        known, excluded = _require(frame, values["params"], known, excluded, "its model's parameters are unknown")
    if per == "samples_seen":
        notes.append("Tokens are unknown: the model is per sample, and longer samples would cost more than it says.")
    row = np.flatnonzero(known)
    unsized = [name for name, is_so in (("model", size is None), ("data", per == "samples_seen")) if is_so]
    labels = {name: label for name, label in labels.items() if name in LABELS or name in unsized}
    work = Work(
        log_y=np.log(response[row]),
        values={name: value[row] for name, value in values.items()},
        labels={name: label[row] for name, label in labels.items()},
        per=per,
        size=size,
        run_ids=frame["run_id"].to_numpy(dtype=object)[row],
        row=row,
        counting=counting,
    )
    return work, excluded, notes


def ranges_of(work: Work) -> dict[str, tuple[float, float]]:
    """Smallest and largest of each quantity that is known and positive in the fitted runs."""
    found: dict[str, tuple[float, float]] = {}
    for name in dict.fromkeys((*RANGED, work.per)):
        if name == "flops_per_token" and work.size != "flops_per_token":
            continue
        known = work.values[name][np.isfinite(work.values[name]) & (work.values[name] > 0)]
        if len(known):
            found[name] = (float(known.min()), float(known.max()))
    return found


def _numbers(frame: pd.DataFrame, name: str) -> Array:
    return frame[name].to_numpy(dtype=float)


def _mostly(values: Array, among: NDArray[np.bool_]) -> bool:
    usable = np.isfinite(values) & (values > 0) & among
    return bool(among.any()) and usable.sum() >= 0.5 * among.sum()


def _require(
    frame: pd.DataFrame, values: Array, known: NDArray[np.bool_], excluded: list[Excluded], reason: str
) -> tuple[NDArray[np.bool_], list[Excluded]]:
    good = known & np.isfinite(values) & (values > 0)
    return good, excluded + _left_out(frame, known & ~good, reason)


def _left_out(frame: pd.DataFrame, rows: NDArray[np.bool_], reason: str) -> list[Excluded]:
    return [Excluded(run_id=str(run_id), reason=reason) for run_id in frame["run_id"].to_numpy()[rows]]
