"""FLOPs of runs whose table tells none, counted from the presets of their models as those of a planned run are."""

import shlex
from dataclasses import replace

import numpy as np
import pandas as pd

from lora_scaling.config import RunConfig, compose
from lora_scaling.config.model_names import preset_model
from lora_scaling.errors import UserError
from lora_scaling.paths import choices
from lora_scaling.workload import Counting, Lengths

from ..arrays import Array

_SETTINGS = ("model", "method", "rank", "gradient_checkpointing", "settings_override")


def flops_by_preset(frame: pd.DataFrame, tokens: Array) -> Array:
    """Return the FLOPs (n,) of runs that processed `tokens` (n,); NaN if a model has no preset or a method is unknown.

    Attention depends on the lengths of samples: these are the mean of the runs alike, spread as those of a target are.
    """
    flops = np.full(len(frame), np.nan)
    keys = frame.reindex(columns=list(_SETTINGS)).astype(object)
    for _, rows in keys.groupby(list(_SETTINGS), dropna=False, sort=False):
        place = np.flatnonzero(frame.index.isin(rows.index))
        config = _config(rows.iloc[0])
        shown = float(frame["samples_seen"].to_numpy(dtype=float)[place].sum())
        if config is None or not shown > 0:
            continue
        mean = float(tokens[place].sum()) / shown
        try:
            # The runs' lengths are those after truncation: nothing more is cut off.
            config = replace(config, max_seq_len=max(config.max_seq_len, round(8 * mean)), packing=False)
            workload = config.workload(Lengths.lognormal(mean, config.data.tokens_cv))
            counted, each = Counting(padding=False).tokens_and_flops(workload)
        except UserError:  # an adapter that does not fit the model, or samples beyond measure
            continue
        flops[place] = each / counted * tokens[place]
    return flops


def _config(row: pd.Series) -> RunConfig | None:
    """Return the settings of a run, as far as FLOPs depend on them; None if they are not all known."""
    if not isinstance(row["model"], str) or row["method"] not in choices("method"):
        return None
    model = preset_model(row["model"])
    if model is None:
        return None
    words = [f"model={model}", f"method={row['method']}"]
    if row["method"] != "full" and pd.notna(row["rank"]):
        words.append(f"lora.r={row['rank']:.0f}")
    if row["gradient_checkpointing"] is True:
        words.append("gradient_checkpointing=true")
    if isinstance(row["settings_override"], str):
        words += [word for word in shlex.split(row["settings_override"]) if word.startswith("lora.target_modules=")]
    try:
        config = compose(words)
        return config if config.model.shape is not None else None
    except UserError:
        return None
