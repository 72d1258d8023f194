"""What the runs of a table were, said by a run's own settings: `model=llama-3.2-1b data.tokens_per_sample=400`.

A setting fills its column where the table does not know it, and never changes what the table says. Sizes, tokens and
FLOPs that follow from the settings are computed as an estimate computes them.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from lora_scaling.config import compose
from lora_scaling.config.model_names import preset_model
from lora_scaling.errors import UserError
from lora_scaling.paths import choices, presets
from lora_scaling.settings import SETTINGS
from lora_scaling.workload import Lengths, Workload

from .parsing import RunWarning

COLUMN_OF = {s.name: s.column for s in SETTINGS if s.column and s.changes in ("work", "device")}
TOKENS = "data.tokens_per_sample"
# Of these, the settings that decide how much work a run is, and whose columns hold values of the configuration.
_OF_WORK = {s.name: s.column for s in SETTINGS if s.column and (s.changes, s.repeat) in (("work", "column"), ("work",
            "words")) and (s.kind != "text" or s.name in ("model", "method"))}  # fmt: skip
# What follows from a run's settings, and how.
SIZES: dict[str, Callable[[Workload], float]] = {
    "params": lambda work: work.shape.params,
    "layers": lambda work: work.shape.layers,
    "hidden_size": lambda work: work.shape.hidden_size,
}
OF_TOKENS: dict[str, Callable[[Workload], float]] = {
    "tokens_seen": lambda work: work.tokens_seen,
    "tokens_padded": lambda work: work.tokens_padded,
    "flops": lambda work: work.flops.total,
    "steps": lambda work: work.steps,
}
MOST_KINDS = 2000  # of runs, each of which is computed


def fill_columns(raw: pd.DataFrame, settings: Sequence[str]) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Fill the columns that the settings name, where cells are blank, or all hold a name that this program has not.

    Raises:
        UserError: the settings are none of a run, or contradict the table.
    """
    if not settings:
        return raw, []
    compose(settings)
    warnings = []
    for word in settings:
        name, _, value = word.partition("=")
        if (column := COLUMN_OF.get(name)) is None:
            continue
        cells = raw[column].astype(object) if column in raw else pd.Series(None, index=raw.index, dtype=object)
        blank = cells.isna() | (cells.astype(str).str.strip() == "")
        names = cells[~blank].astype(str).unique()
        if len(names) == 1 and _is_unknown(name, names[0]):  # what a message asked for: which of ours it is
            blank |= True
            message = f"`{column}`: {names[0]} is taken to be {value}, as the settings say."
            warnings.append(RunWarning(kind="named_by_setting", message=message))
        other = [cell for cell in names if not _same(cell, value, preset_model(cell) if name == "model" else None)]
        if len(other) and not blank.all():
            raise UserError(
                f"{name}: got {value}, and the table says {other[0]!r} in `{column}`; leave {name}= out, or "
                f"replace the column with --set {column}={value}"
            )
        raw = raw.assign(**{column: cells.where(~blank, value)})
    return raw, warnings


def _is_unknown(setting: str, name: str) -> bool:
    """Whether a name in a table is that of no model, data set or method that can be chosen."""
    if setting not in ("model", "data", "method"):
        return False
    return name not in choices(setting) and not (setting == "model" and preset_model(name))


def _same(cell: str, value: str, preset: str | None) -> bool:
    try:
        return float(cell) == float(value)
    except ValueError:
        return value.strip().lower() in (cell.strip().lower(), preset)


def fill_sizes(frame: pd.DataFrame, settings: Sequence[str]) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Compute what follows from the settings where the table does not know it: sizes, tokens and FLOPs.

    frame: usable rows, whose `model` is that of a preset where sizes shall be known. Tokens need
    `data.tokens_per_sample` among the settings, or the table's own.

    Raises:
        UserError: samples so long would be truncated at a length that nobody has given.
    """
    names = {name: column for name, column in _OF_WORK.items() if frame[column].notna().any()}
    kinds = frame.groupby([*names.values(), "samples", "epochs"], dropna=False) if settings and len(frame) else []
    if not 0 < len(kinds) <= MOST_KINDS:
        return frame, []
    frame, filled = frame.copy(), set[str]()
    given = [word for word in settings if word.partition("=")[0] not in COLUMN_OF]
    for _, rows in kinds:
        found = _computed(rows.iloc[0], names, given)
        for name, value in found.items():
            unknown = rows.index[rows[name].isna()]
            frame.loc[unknown, name] = float(value)
            filled |= {name} if len(unknown) else set()
    if not filled:
        return frame, []
    columns = ", ".join(f"`{name}`" for name in sorted(filled))
    message = f"Computed for the runs as the settings describe them ({' '.join(settings)}): {columns}."
    return frame, [RunWarning(kind="computed_columns", message=message)]


def _computed(run: pd.Series, names: Mapping[str, str], given: Sequence[str]) -> dict[str, float]:
    """Return what follows from one run's settings: sizes of a preset, and the work of samples of known length."""
    method = run["method"] if run["method"] in choices("method") else None
    model = preset_model(run["model"]) if isinstance(run["model"], str) else None
    if model not in presets("model") or run["epochs"] != round(run["epochs"]):
        return {}
    own = [f"{name}={_text(model if name == 'model' else run[column])}" for name, column in names.items()
           if pd.notna(run[column]) and not (name == "method" and method is None)]  # fmt: skip
    config = compose([*given, *own], given=[])
    told = any(word.startswith(f"{TOKENS}=") for word in given)
    theirs = run["tokens_seen"] / run["samples_seen"] if run["samples_seen"] > 0 else math.nan
    tokens = (config.data.tokens_per_sample or math.nan) if told else theirs
    known = math.isfinite(tokens) and tokens > 0
    if known and tokens > config.max_seq_len and "max_seq_len" not in {word.partition("=")[0] for word in own}:
        raise UserError(
            f"max_seq_len: missing, and its default of {config.max_seq_len} would cut samples of {tokens:.4g} tokens; "
            "give that of the runs"
        )
    config = dataclasses.replace(
        config,
        samples=max(1, int(run["samples"])),
        epochs=max(1, int(run["epochs"])),
        max_steps=0 if run["samples_seen"] == 0 else config.max_steps,
    )
    work = config.workload(Lengths.lognormal(tokens if known else 1.0, config.data.tokens_cv))
    found = {name: value(work) for name, value in SIZES.items()}
    if method is None and pd.notna(run["method"]):
        return found
    found["trainable_params"] = work.trainable_params
    return found | ({name: value(work) for name, value in OF_TOKENS.items()} if known else {})


def _text(cell: object) -> str:
    """Write a cell as an override does."""
    if isinstance(cell, bool | np.bool_):
        return str(bool(cell)).lower()
    return f"{cell:.0f}" if isinstance(cell, float) else str(cell)
