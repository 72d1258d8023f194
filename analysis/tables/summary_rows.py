"""Rows of a table that are no runs but sums or means of others, as spreadsheets and pivot tables have them."""

import re
from collections.abc import Sequence

import pandas as pd

from .missing_columns import TEXTS

SUMMARY = re.compile(
    r"(?:(?:grand|sub|over)[- ]?)?(?:totals?|sums?|means?|averages?|avg|medians?|std|std ?dev|st\.? ?dev\.?|sd|sem|"
    r"min|minimum|max|maximum|count|all|overall|[5279][05] ?%|summe|gesamt|mittelwert|durchschnitt|"
    r"gennemsnit|i alt|moyenne|totale?|media|promedio|ø|Σ)(?:\s*[(\[].*[)\]])?\s*[:.]?",
    re.IGNORECASE,
)
INDEX_NAME = re.compile(r"(unnamed: ?\d+|index|column 1|run|id|label|stat|statistic|)", re.IGNORECASE)
NUMBERED = ("run_id", "replicate", "seed", "order", "samples", "epochs")  # where a word is no run's own
MOST_SHARE = 0.5  # of the rows that are summaries, beside the runs
FOOTERS = 4


def summary_rows(raw: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Return for each row the column and the word by which it is a summary, "" for runs.

    `columns` are the table's own. A word of a setting (`pooling=mean`) is none: only columns that name or number runs
    count, and the table's first one in its last rows.
    """
    found = pd.Series("", index=raw.index, dtype=object)
    if raw.empty:
        return found
    for name in map(str, columns):
        first = name == str(columns[0])
        if not (name in NUMBERED or name in TEXTS or first or INDEX_NAME.fullmatch(name)):
            continue
        if name not in raw or pd.api.types.is_numeric_dtype(raw[name]):
            continue
        words = raw[name].dropna().astype(str).str.strip()
        words = words[words.str.fullmatch(SUMMARY)]
        if first and not (name in NUMBERED or name in TEXTS or INDEX_NAME.fullmatch(name)):
            words = words[words.index.isin(raw.index[-FOOTERS:])] if len(words) <= FOOTERS else words.iloc[:0]
        described = len(words) == len(raw) and words.str.lower().isin(["mean", "std"]).sum() >= 2
        if words.empty or (len(words) > MOST_SHARE * len(raw) and not described):
            continue
        found.update(words.map(lambda word, name=name: f"`{word}` in `{name}`"))
    return found
