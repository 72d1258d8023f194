"""The overrides that choose a table's runs again, from columns that other people may have written.

A cell is data: words that are no setting of a run, or that would be resolved or looked up, are not repeated.
"""

import shlex
from typing import Any

import pandas as pd

from lora_scaling.config.compose import is_single_value, setting_names
from lora_scaling.paths import choices
from lora_scaling.settings import SETTINGS

from .parsing import RunWarning

# Settings that a command repeats, and the columns that hold them.
COLUMN_OF = {s.name: s.column for s in SETTINGS if s.repeat == "column" and s.column}
# Of these, and of those among the further words, the ones with a column of numbers or of true and false.
NUMBER_OF = {s.name: s.column for s in SETTINGS if s.repeat in ("column", "words") and s.kind == "number"
             and s.changes == "work" and s.column}  # fmt: skip
TRUTH_OF = {s.name: s.column for s in SETTINGS if s.repeat == "words" and s.kind == "truth" and s.column}
_WORDS = frozenset(s.name for s in SETTINGS if s.repeat == "words")
_LEARNING = frozenset(s.name for s in SETTINGS if s.changes == "learning")
_GROUPS = ("model", "data")


def clean_overrides(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Keep the override cells that are lists of settings, each word quoted; others are unknown, with a warning."""
    warnings = []
    columns = {}
    for name in (*(f"{group}_override" for group in _GROUPS), "settings_override"):
        allowed = _WORDS if name == "settings_override" else _names_in(name.removesuffix("_override"))
        texts = frame[name]
        cleaned = {text: _cleaned(text, allowed) for text in texts.dropna().unique()}
        columns[name] = texts.map(cleaned, na_action="ignore").astype(object).where(texts.notna(), None)
        bad = texts.notna() & columns[name].isna()
        if bad.any():
            message = f"`{name}` held words that are no settings of a run; taken as unknown."
            warnings.append(RunWarning(kind="bad_value", message=message, run_ids=tuple(frame["run_id"][bad])))
    return frame.assign(**columns), warnings


def _names_in(group: str) -> frozenset[str]:
    return frozenset(name for name in setting_names() if name.partition(".")[0] == group)


def _cleaned(text: str, allowed: frozenset[str]) -> str | None:
    """The words, each quoted for a shell; None where one is not `name=value` of an allowed setting."""
    try:
        words = shlex.split(text)
    except ValueError:
        return None
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in allowed or "${" in value or not value.isprintable():
            return None
        if name in _GROUPS and value not in choices(name):
            return None
        if not is_single_value(word):
            return None
    return " ".join(map(_quoted, words))


def split_words(text: str) -> list[str]:
    """The words of a cleaned cell, each with its value quoted for a shell."""
    return [_quoted(word) for word in shlex.split(text)]


def _quoted(word: str) -> str:
    name, _, value = word.partition("=")
    return f"{name}={shlex.quote(value)}"


def of_work(text: str) -> str:
    """A cleaned cell without the settings that change only what is learned."""
    return " ".join(word for word in split_words(text) if word.partition("=")[0] not in _LEARNING)


def further_overrides(frame: pd.DataFrame) -> list[str]:
    """The further settings of most runs, as words for a shell; empty where no run gives them."""
    text = commonest(frame["settings_override"])
    return split_words(text) if text is not None else []


def commonest(column: pd.Series) -> Any:
    """The most frequent value; None where all are unknown."""
    known = column.dropna()
    return known.mode().iloc[0] if len(known) else None
