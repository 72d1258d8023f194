"""Columns of a table whose meaning nobody has said: which they are, and which separate rows of the same work."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import fdtrc

from lora_scaling.settings import POINT_COLUMNS, SEPARATING_COLUMNS

from ..arrays import Array
from .parsing import RunWarning, texts_of

Levels = NDArray[np.intp]

MOST_LEVELS = 50  # of a column that may be a setting; more are readings or names of rows
MOST_FLOAT_LEVELS = 6
MOST_ROWS = 5000  # looked at for each column
SIGNIFICANT = 0.01
MOST_SHOWN = 12
# What is read off a run or says who, when and where it was made, and is no setting of it.
OUTCOME = re.compile(
    r"(^|[_./ (])(loss|acc|accuracy|f1|bleu|rouge\w*|perplexity|ppl|score|auc|recall|throughput|per|speed|mfu|flops?|"
    r"mem|memory|util\w*|temp\w*|power|watts?|energy|co2\w*|emissions?|carbon|cost|price|time|times|date|day|stamp|timestamp|"
    r"duration|elapsed|runtime|hours?|seconds?|secs?|commit|sha|url|uri|path|dir|file|user|author|id|uuid|index|idx|"
    r"unnamed|repeat|row|step|steps)([_./ )\d:]|$)",
    re.IGNORECASE,
)


def unknown_columns(raw: pd.DataFrame, ours: Sequence[str], understood: frozenset[str]) -> list[str]:
    """Return the columns that neither this program nor the reader of the file knows."""
    known = {*ours, *understood, "_place"}
    return [str(name) for name in raw.columns if name not in known]


def remainders(raw: pd.DataFrame, frame: pd.DataFrame, names: Sequence[str]) -> dict[str, pd.Series]:
    """Return the texts of columns that name runs, without the numbers that are the run's samples or epochs.

    What is left may be a setting: `bert_n1000` and `gpt_n1000` are two models.
    """
    return {name: without_own_numbers(frame, raw.loc[frame.index, name]) for name in names if name in raw}


def without_own_numbers(frame: pd.DataFrame, cells: pd.Series) -> pd.Series:
    """Return the texts of cells without the numbers that are the run's samples or epochs; blank ones stay."""
    own = [{f"{value:.0f}" for value in pair} for pair in frame[["samples", "epochs"]].to_numpy(dtype=float)]
    texts = [re.sub(r"\d+", lambda m, own=numbers: "" if m[0].lstrip("0") in own else m[0], str(text))
             for text, numbers in zip(cells, own, strict=True)]  # fmt: skip
    return pd.Series(texts, index=frame.index, dtype=object).where(cells.notna(), None)


def separating_columns(frame: pd.DataFrame, raw: pd.DataFrame, names: Sequence[str], response: str) -> list[str]:
    """Return the columns, of those named, whose levels may have done different work that counts as the same.

    frame: usable rows, with positive responses; raw: the table they are from, by the same index. A column is harmless
    where it names rows, or is one-to-one with the size of the work, or where rows of the same work that differ in it
    took the same (F test of additive effects, Bonferroni's bound over the columns).
    """
    rows = frame if len(frame) <= MOST_ROWS else frame.sample(MOST_ROWS, random_state=0)
    if len(rows) < 3:
        return []
    columns = [name for name in (*POINT_COLUMNS, *SEPARATING_COLUMNS) if rows[name].notna().any()]
    cell = np.asarray(rows.groupby(columns, dropna=False).ngroup(), dtype=np.intp)
    log_y = np.log(rows[response].to_numpy(dtype=float))
    work = rows["samples_seen"].to_numpy(dtype=float)
    levels = {name: found for name in names if (found := _levels(raw.loc[rows.index, name], name)) is not None}
    return [
        name
        for name, (level, values) in levels.items()
        if _separates(cell, level, values, log_y, work, SIGNIFICANT / len(levels))
    ]


def _levels(cells: pd.Series, name: str) -> tuple[Levels, Array | None] | None:
    """Return each row's level of a column that may be a setting, and its numbers if it holds numbers; else None."""
    if OUTCOME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name)):
        return None
    text = texts_of(cells)
    level, found = pd.factorize(text)
    if not 2 <= len(found) <= min(MOST_LEVELS, len(text) / 2):
        return None
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=float)
    if np.isnan(numbers).any():
        return level, None
    whole = bool((numbers == np.round(numbers)).all())
    return (level, numbers) if whole or len(found) <= min(MOST_FLOAT_LEVELS, len(text) / 3) else None


def _separates(cell: Levels, level: Levels, values: Array | None, log_y: Array, work: Array, alpha: float) -> bool:
    dummies = np.eye(int(level.max()) + 1)[level]
    within = dummies - _means(dummies, cell)
    rank = int(np.linalg.matrix_rank(within))
    if rank == 0:  # rows of the same work agree in it: it may stand for the size of the work itself
        return not (values is not None and _rises_with(values, work))
    if rank < dummies.shape[1] - 1:
        return True
    rest = log_y - _means(log_y[:, None], cell)[:, 0]
    df = len(rest) - (int(cell.max()) + 1) - rank
    if df < 1:
        return True
    fitted = within @ np.linalg.lstsq(within, rest, rcond=None)[0]
    unexplained = float(((rest - fitted) ** 2).sum())
    explained = float((fitted**2).sum())
    if unexplained <= 1e-24 * len(rest):
        return explained > 1e-24 * len(rest)
    return float(fdtrc(rank, df, (explained / rank) / (unexplained / df))) < alpha


def _means(columns: Array, cell: Levels) -> Array:
    """Return the mean of each row's cell, column by column."""
    return pd.DataFrame(columns).groupby(cell).transform("mean").to_numpy()


def _rises_with(values: Array, work: Array) -> bool:
    """Whether a number is one-to-one with the work and grows or falls with it, as steps or tokens do."""
    pairs = pd.DataFrame({"work": work, "value": values}).drop_duplicates().sort_values("work")
    change = np.diff(pairs["value"].to_numpy())
    return bool(pairs["work"].is_unique and ((change > 0).all() or (change < 0).all()))


def column_warnings(unknown: Sequence[str], separating: Sequence[str], raw: pd.DataFrame) -> list[RunWarning]:
    """List the columns that are not used, and ask about those that separate rows."""
    found = []
    if unknown:
        more = f" and {len(unknown) - MOST_SHOWN} more" if len(unknown) > MOST_SHOWN else ""
        names = ", ".join(f"`{name}`" for name in unknown[:MOST_SHOWN])
        found.append(
            RunWarning(kind="unknown_columns", message=f"Not used, as their meaning is not known: {names}{more}.")
        )
    for name in separating:
        found.append(RunWarning(kind="unnamed_column", message=f"{separation(name, raw[name])}."))
    return found


def separation(name: str, cells: pd.Series | None = None) -> str:
    """Say that a column separates rows, and what to do."""
    shown = "" if cells is None else f" ({', '.join(repr(str(cell)) for cell in cells.dropna().unique()[:3])}, …)"
    return (
        f"`{name}`{shown} separates runs that are otherwise the same work or grow with it, and its meaning is not "
        f"known: name it (e.g. --column 'data={name}') or say that it does not matter (--ignore '{name}')"
    )
