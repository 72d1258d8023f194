"""Columns that a table from elsewhere lacks: what can be said of them, and the sentence that asks for the others."""

import difflib
import re
from collections.abc import Sequence

import pandas as pd

from lora_scaling.errors import RecordError
from lora_scaling.records.row import COLUMNS
from lora_scaling.text import printable

from .column_names import AMBIGUOUS_UNITS, QUANTITIES, meaning_of, unit_factor, unit_of_name
from .durations import SHORT_CLOCK
from .likely_names import likely_meaning
from .numbered_columns import numbered_without_unit
from .parsing import RunWarning
from .readers import ReadRows

# Columns of text that may hold how many samples and epochs a run had, the likelier first.
TEXTS = (
    "project_name", "task_name", "run_name", "name", "Name", "experiment_description", "window_name", "output_dir",
    "run_id",
)  # fmt: skip
NAMES = (*TEXTS, "id", "experiment", "exp", "label", "tag", "dataset", "data", "file", "folder")  # less likely ones
EPOCHS = re.compile(r"(?:^|[^a-zA-Z])(?:e|ep|epochs?)[_=-]?(\d{1,4})(?![\d.])", re.IGNORECASE)
EPOCHS_OPTION = r"(?:e|ep|epochs?)[_=-]?(\d+)"
IDENTIFIER = r"[0-9a-f]{8}-?[0-9a-f-]{6,}|[0-9a-f]{20,}"  # a hexadecimal id holds digits that say nothing
IN_ALL = re.compile("total_samples|samples_seen|total samples", re.IGNORECASE)  # over all epochs: no `samples`
READINGS = re.compile(r"(wall[ _]?time|time[ _]?stamp|time|step|_step|date[ _]?time)", re.IGNORECASE)
RUNNING = re.compile(r"cumul|kumul|running|akkumul|accumul", re.IGNORECASE)
MOMENT = r"\d{4}-\d\d-\d\d[T_ ]?[\d:.]*Z?"  # nor do those of a time
MOST_SHOWN = 30
MOST_NAMES = 1000  # of columns that are looked for in cells


def with_epochs(raw: pd.DataFrame, *, known: bool) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Add `epochs` where the program that wrote a table (`known`) records none: from the runs' names, or 1, and say so.

    One epoch is what samples × epochs needs where `samples` is how many were shown. If the runs' names hold numbers of
    epochs that differ, these are taken.
    """
    if not known or "epochs" in raw or "samples" not in raw or raw.empty:
        return raw, []
    for name in NAMES:
        if name in raw:
            found = raw[name].astype(str).str.extract(EPOCHS, expand=False)
            if found.notna().all():
                message = (
                    f"`epochs` is read from `{name}` ({raw[name].iloc[0]}: {found.iloc[0]}); --set epochs=N if not."
                )
                return raw.assign(epochs=found), [RunWarning(kind="assumed_epochs", message=message)]
    message = "The number of epochs is not recorded: taken as 1 for all runs; --set epochs=N or --epochs-from if not."
    return raw.assign(epochs="1"), [RunWarning(kind="assumed_epochs", message=message)]


def require_columns(raw: pd.DataFrame, needed: Sequence[str], rows: ReadRows) -> None:
    """Check that the columns are there.

    Raises:
        RecordError: one is missing; the text says what the file is, what it has, and how to name the column.
    """
    missing = [column for column in needed if column not in raw.columns]
    if not missing or (raw.empty and len(raw.columns) == 1):  # unreadable records only: nothing to ask of
        return
    if all(re.fullmatch(r"[\d.,eE+-]+", str(name)) for name in raw.columns if name != "_place"):
        raise RecordError(
            f"{', '.join(rows.sources)}: its first line holds numbers and no names of columns; add a line of them"
        )
    lacking = f"lacks the column{'s' * (len(missing) > 1)} {_quoted(missing)}"
    if rows_named := _named_in_rows(raw, missing):
        raise RecordError(
            f"{', '.join(rows.sources)}: {lacking}; {_quoted(rows_named)} stand in the rows of `{raw.columns[0]}`: "
            "swap rows and columns, so that each run is a row"
        )
    present = [str(column) for column in raw.columns if column not in ("run_id", "_place")]
    others = [name for name in present if name not in rows.understood]
    hints = []
    if "energy_kwh" in missing and (bare := numbered_without_unit(others)):
        pattern = re.sub(r"\d+", "*", bare[0])
        hints.append(
            f"`{bare[0]}` … `{bare[-1]}` have no unit: --column 'energy_kwh={pattern}:UNIT' with kWh, Wh, kJ or J"
        )
        others = [name for name in others if name not in bare]
    if len(numbered := [name for name in others if re.fullmatch(r"[a-zA-Z]*\W?\d+", name)]) > 2:
        hints.append(
            f"`{numbered[0]}` … `{numbered[-1]}` are settings or repeats in columns: turn the table so that each run "
            "is a row (in pandas: frame.melt)"
        )
        others = [name for name in others if name not in numbered]
    if running := [name for name in others if RUNNING.search(name)]:
        hints.append(f"`{running[0]}` is a running total: give what each run took, the differences of its readings")
        others = [name for name in others if name not in running]
    for column in missing:
        if close := difflib.get_close_matches(column, [name for name in others if not IN_ALL.search(name)], n=1):
            hints.append(f"is `{close[0]}` meant for `{column}`?")
            said = unit_of_name(close[0])
            if said and unit_factor(column, said) is None and said.lower() not in AMBIGUOUS_UNITS:
                hints[-1] = f"`{close[0]}` is in {said}, which is no unit of `{column}` that is known"
            elif unit_factor(column, "kwh") is not None:
                hints[-1] += f" Then say its unit: --column '{column}={close[0]}:UNIT' with MWh, kWh, Wh, mWh, kJ or J"
        elif bare := [name for name in others if QUANTITIES.get(name.lower()) == column]:
            hints.append(f"`{bare[0]}` has no unit: --column '{column}={bare[0]}:UNIT' with kWh, Wh, kJ or J")
    found = samples_option(raw)
    by_samples = f"--samples-from '{found}'" if found else "--join FILE --on COLUMN, --set samples=N"
    options = {"samples": by_samples, "epochs": "--set epochs=1"}
    if rows.kinds and "samples" in missing:
        del options["epochs"]  # it is assumed, and said, once the samples are known
    if ways := [options[column] for column in missing if column in options]:
        hints.append(f"say where they are: {', '.join(ways)}, or --column OURS=THEIRS")
    if "train_s" in missing and (short := _short_clocks(raw, others)):
        hints.append(f"`{short}` is like {raw[short].iloc[0]}, in minutes or in hours: write it as h:mm:ss")
    if missing == ["energy_kwh"] and {"train_s", "total_s"} & set(present):
        hints.append("`--response time` decides the claims on `train_s` instead")
    elif missing == ["energy_kwh"] and "emissions_g" in present:
        hints.append("`--response emissions_g` judges the grams instead")
    elif missing == ["energy_kwh"]:
        hints.append("`--response COLUMN:UNIT` judges another column of numbers")
    if (
        len(missing) > 2
        and len(raw) > 2
        and (moment := next((name for name in present if READINGS.fullmatch(name)), ""))
    ):
        hints.append(f"if its rows are readings over time (`{moment}`), sum them up: a run is a row")
    if rows.kinds:  # its own columns are known, and none of them is what is missing
        present = [name for name in present if name in TEXTS or (name in others and name not in COLUMNS)]
    there = f"it has {', '.join(present[:MOST_SHOWN]) or 'no other'}{' …' * (len(present) > MOST_SHOWN)}"
    kinds = f" ({', '.join(rows.kinds)})" if rows.kinds else ""
    raise RecordError(f"{', '.join(rows.sources)}{kinds}: {'; '.join([lacking, there, *hints])}")


def _short_clocks(raw: pd.DataFrame, names: Sequence[str]) -> str:
    """Return the first column of times that are written as two numbers with a colon; "" without such."""
    return next((name for name in names if QUANTITIES.get(name.lower(), "").endswith("_s")
                 and raw[name].astype(str).str.strip().str.fullmatch(SHORT_CLOCK).any()), "")  # fmt: skip


def _named_in_rows(raw: pd.DataFrame, missing: Sequence[str]) -> list[str]:
    """Return the cells of the first column that name columns, if the table lies on its side; otherwise nothing.

    Then two or more of ours are named there, each once, and among them one that is missing.
    """
    first = str(raw.columns[0])
    meanings = {
        name: meaning_of(name, ()) or likely_meaning(name) for name in (first, *map(str, raw[first].head(MOST_NAMES)))
    }
    columns = [meaning.column for meaning in meanings.values() if meaning is not None]
    if len(columns) < 2 or len(set(columns)) < len(columns) or raw[first].duplicated().any():
        return []
    named = [name for name, meaning in meanings.items() if meaning is not None and name != first]
    return named if any(meaning is not None and meaning.column in missing for meaning in meanings.values()) else []


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{printable(name)}`" for name in names)


def samples_option(raw: pd.DataFrame) -> str:
    """Return `COLUMN:REGEX` for the number in the runs' names that looks like the number of samples."""
    found: list[tuple[bool, int, float, str]] = []
    for name in NAMES:
        if name not in raw or raw.empty:
            continue
        texts = raw[name].astype(str).str.replace(MOMENT, "", regex=True)
        if texts.str.fullmatch(IDENTIFIER).any():
            continue
        for lead in dict.fromkeys(re.findall(r"([a-zA-Z]+[_=-]?)\d+", texts.iloc[0])):
            numbers = pd.to_numeric(texts.str.extract(rf"(?:^|[^a-zA-Z]){re.escape(lead)}(\d+)", expand=False))
            of_samples = lead.lower().startswith(("n", "samples", "size", "train", "rows"))
            repeated = numbers.nunique() < max(3, len(raw))  # a number that differs in each row may be its own
            if numbers.notna().all() and numbers.nunique() > 1 and (repeated or of_samples):
                found.append((of_samples, -numbers.nunique(), float(numbers.max()), rf"{name}:{lead}(\d+)"))
    if found:
        return max(found)[-1]
    for name in (name for name in NAMES if name in raw):
        texts = raw[name].astype(str)
        if texts.str.contains(r"\d").any() and not texts.str.fullmatch(IDENTIFIER).any():
            return f"{name}:REGEX"
    return ""
