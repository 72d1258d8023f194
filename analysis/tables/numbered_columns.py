"""Columns that are alike but for a number or a method: one for each repeat, GPU, epoch or setting.

A column for each repeat or setting becomes a row; those of several GPUs, or of the epochs of one run, are summed. What
was done is said. A number of unknown meaning counts repeats only where the readings look like such.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lora_scaling.records.row import COLUMNS

from .column_names import QUANTITIES, SAME, Meaning, meaning_of, unit_target
from .likely_names import LEAST_LARGEST, likely_meaning
from .parsing import RunWarning, numbers_of

_REPEAT = frozenset(
    "run runs rep repeat repetition replicate trial seed try measurement messung wiederholung lauf versuch gentagelse "
    "korsel kørsel maling måling essai mesure prova medicion".split()
)
_DEVICE = {"gpu": "gpu", "gpus": "gpu", "device": "gpu", "cuda": "gpu", "card": "gpu", "cpu": "cpu", "socket": "cpu",
           "package": "cpu", "dram": "ram"}  # fmt: skip
_EPOCH = frozenset("epoch ep epoche epoke epoque época epoca".split())
_SETTING = {
    **dict.fromkeys("n samples sample examples rows size".split(), "samples"),
    **dict.fromkeys("epochs epochen epoker".split(), "epochs"),
    **dict.fromkeys("r rank".split(), "rank"),
    **dict.fromkeys("bs batch".split(), "batch_size"),
}
_METHODS = {"lora": "lora", "qlora": "qlora", "full": "full"}
_STATISTIC = frozenset("mean avg average std sd stdev sem se var min max median stderr mittelwert".split())
_TOKEN = re.compile(r"co2[^\W\d_]*|[^\W\d_]+|\d+(?:\.\d+)?", re.IGNORECASE)
MOST_SPREAD = 2.0  # of repeats of the same work, largest to smallest
FLAT = 1.35  # epochs of one run may differ by so much and not be a running total
MOST_INDICES = 100


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """A column's name: its stem without the number, the number (or method) itself, and what that counts.

    kind: `repeat`, `device`, `epoch`, a column of ours, or "" where the name does not say.
    """

    stem: str
    index: str
    kind: str
    part: str = ""


def one_row_a_cell(raw: pd.DataFrame, kept: frozenset[str]) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Sum the columns of GPUs and epochs, and make rows of those of repeats and settings; those in `kept` stay."""
    raw = _with_lists_apart(raw)
    found = {name: parsed for name in map(str, raw.columns) if name not in kept and (parsed := _parse(name))}
    groups: dict[tuple[str, str, str], dict[str, str]] = {}
    for name, parsed in found.items():
        same = groups.setdefault((parsed.kind, parsed.part, parsed.stem), {})
        same.setdefault(parsed.index, name)
    for name in map(str, raw.columns):  # pandas writes the first of several columns of one name without a number
        again = {index: other for (kind, _, _), same in groups.items() if not kind
                 for index, other in same.items() if other == f"{name}.{index}"}  # fmt: skip
        if again:
            groups[("", "", _stem(name))] = {"0": name, **again}
    groups = {
        (_counted(kind, same), part, stem): same
        for (kind, part, stem), same in groups.items()
        if 2 <= len(same) <= MOST_INDICES
    }
    raw, summed = _with_sums(raw, groups)
    raw, melted = _melted(raw, groups)
    return raw, [*summed, *melted]


def _with_lists_apart(raw: pd.DataFrame) -> pd.DataFrame:
    """Make numbered columns of one whose cells are lists, as JSON has the repeats of a run; other lists become text."""
    objects = [name for name in raw.columns if raw[name].dtype == object]
    for name in [name for name in objects if raw[name].map(lambda cell: isinstance(cell, list | tuple)).any()]:
        longest = int(raw[name].map(lambda cell: len(cell) if isinstance(cell, list | tuple) else 1).max())
        cells = [list(cell) if isinstance(cell, list | tuple) else [cell] for cell in raw[name]]
        raw = raw.drop(columns=name)
        if amount(str(name)) is None or longest > MOST_INDICES:
            raw[name] = [str(cell) for cell in cells]
            continue
        for place in range(longest):
            raw[f"{name} {place + 1}"] = [cell[place] if place < len(cell) else None for cell in cells]
    return raw


def _parse(name: str) -> Numbered | None:
    """Split off the one number of a name, or the method that it holds; None if it has none or several."""
    tokens = _tokens(name)
    numbers = [place for place, token in enumerate(tokens) if token[0].isdigit()]
    if not numbers:
        methods = [place for place, token in enumerate(tokens) if token.lower() in _METHODS]
        if len(methods) != 1 or len(tokens) == 1:
            return None
        rest = [token for place, token in enumerate(tokens) if place != methods[0]]
        return Numbered(stem=_named(rest), index=_METHODS[tokens[methods[0]].lower()], kind="method")
    if len(numbers) != 1 or len(tokens) == 1:
        return None
    place = numbers[0]
    index = tokens[place]
    for beside in (place - 1, place + 1):
        word = tokens[beside].lower() if 0 <= beside < len(tokens) else ""
        kind, part = _kind_of(word, first=beside > place)
        if kind:
            rest = [token for other, token in enumerate(tokens) if other not in (place, beside)]
            return Numbered(stem=_named(rest, part), index=index, kind=kind, part=part)
    rest = [token for other, token in enumerate(tokens) if other != place]
    return Numbered(stem=_named(rest), index=index, kind="")


def _kind_of(word: str, *, first: bool) -> tuple[str, str]:
    """Say what a number beside this word counts; `first`: the number stands before the word (`3 epochs`)."""
    if word in _DEVICE:
        return "device", _DEVICE[word]
    if word in _REPEAT:
        return "repeat", ""
    if word in _EPOCH:
        return ("epochs" if first else "epoch"), ""
    return _SETTING.get(word, ""), ""


def _counted(kind: str, same: Mapping[str, str]) -> str:
    """Return what the numbers of a group count: `r1 r2 r3` and `n1 n2 n3` are repeats, no ranks and no samples."""
    if kind == "rank" and _consecutive(same):
        return ""
    return "" if kind == "samples" and max(map(float, same)) < LEAST_LARGEST else kind


def _tokens(name: str) -> list[str]:
    return _TOKEN.findall(re.sub(r"(?<=[a-z])(?=[A-Z][a-z])(?!Wh)", " ", name))


def _stem(name: str) -> str:
    return _named(_tokens(name))


def _named(tokens: Sequence[str], part: str = "") -> str:
    """Return a name for what is left of one: its words, and its unit in brackets wherever it stood."""
    units = [token for token in tokens if unit_target(token)[0] in ("kWh", "s", "g", "GB", "")]
    words = [token for token in tokens if token not in units[-1:]]
    if not units:
        return "_".join(words)
    target = unit_target(units[-1])[0] or "kWh"
    if not words:
        words = [{"kWh": "energy", "s": "time", "g": "emissions"}.get(target, "memory")]
    if part and target == "kWh" and part not in (word.lower() for word in words):
        words = [part, *words]
    return f"{'_'.join(words)} ({units[-1]})"


def amount(name: str) -> Meaning | None:
    """Say which energy, time or mass of ours a column holds, whose unit its name says; otherwise None."""
    if name in ("energy_kwh", "train_s", "total_s", "emissions_g") or re.fullmatch(r"energy_\w+_kwh", name):
        return Meaning(column=name)
    meaning = meaning_of(name, COLUMNS) or likely_meaning(name)
    return meaning if meaning is not None and re.search(r"_(kwh|s|g)$", meaning.column) else None


def _with_sums(
    raw: pd.DataFrame, groups: dict[tuple[str, str, str], dict[str, str]]
) -> tuple[pd.DataFrame, list[RunWarning]]:
    notes = []
    for (kind, part, stem), same in groups.items():
        names = list(same.values())
        meaning = amount(stem)
        if kind == "device":
            if meaning is None or not meaning.column.startswith("energy"):
                continue
            column = f"energy_{part}_kwh"
            if column in raw.columns:
                continue
            shown = " + ".join(f"`{name}`" for name in names)
            notes.append(RunWarning(kind="summed_devices", message=f"`{column}` is taken as the sum {shown}."))
            raw = raw.assign(**{column: _sum(raw, names) * meaning.factor}).drop(columns=names)
        elif kind == "epoch" and meaning is not None and "epochs" not in raw.columns and _consecutive(same):
            cells = np.column_stack([numbers_of(raw[name]) for name in names])
            column = meaning.column
            if column in raw.columns or not _flat(cells):
                continue
            message = (
                f"A column for each epoch ({_span(names)}): their sum is the run's `{column}`, and their number its "
                "`epochs`."
            )
            notes.append(RunWarning(kind="summed_epochs", message=message))
            known = ~np.isnan(cells)
            total = (
                pd.Series(np.where(known.any(axis=1), np.nansum(cells, axis=1), np.nan), index=raw.index)
                * meaning.factor
            )
            raw = raw.assign(**{column: total, "epochs": known.sum(axis=1)}).drop(columns=names)
    return raw, notes


def _melted(
    raw: pd.DataFrame, groups: dict[tuple[str, str, str], dict[str, str]]
) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Make a row of each repeat or setting; the groups of one kind with the same numbers go together."""
    chosen: dict[tuple[str, tuple[str, ...]], dict[str, dict[str, str]]] = {}
    for (kind, _, stem), same in groups.items():
        if kind not in ("device", "epoch") and all(name in raw.columns for name in same.values()):
            chosen.setdefault((kind, tuple(same)), {})[stem] = same
    notes: list[RunWarning] = []
    for (kind, indices), stems in chosen.items():
        energies = {stem: same for stem, same in stems.items() if amount(stem) is not None}
        if not energies or (kind in ("", "repeat") and not _repeats(raw, energies, sure=kind == "repeat")):
            continue
        statistics = _statistics(raw, stems)
        turned = {*statistics, *(name for same in stems.values() for name in same.values())}
        beside = {meaning.column for name in map(str, raw.columns)
                  if name not in turned and (meaning := amount(name)) is not None}  # fmt: skip
        if any((meaning := amount(stem)) is not None and meaning.column in beside for stem in energies):
            notes += _sums_beside(raw, energies)
            continue
        stems = {stem: same for stem, same in stems.items() if stem not in raw.columns or stem in turned}
        column = "replicate" if kind in ("", "repeat") else kind
        if column in raw.columns and kind not in ("", "repeat"):
            continue
        raw = _rows(raw.drop(columns=statistics), stems, indices, column)
        each = "repeat" if column == "replicate" else f"`{column}`"
        names = [name for same in energies.values() for name in same.values()]
        counted = " (their numbers are taken to count repeats)" if not kind else ""
        message = f"A column for each {each} ({_span(names)}): each cell is a run{counted}."
        if statistics:
            message += f" Means and deviations of them are not used: {', '.join(f'`{name}`' for name in statistics)}."
        notes.append(RunWarning(kind="wide_table", message=message))
    return raw, notes


def _sums_beside(raw: pd.DataFrame, groups: Mapping[str, Mapping[str, str]]) -> list[RunWarning]:
    """Say which column is the sum of numbered ones, that may be repeats."""
    found = []
    for stem, same in groups.items():
        meaning, names = amount(stem), list(same.values())
        if meaning is None or meaning.column not in raw.columns:
            continue
        total, parts = numbers_of(raw[meaning.column]), _sum(raw, names) * meaning.factor
        if ((total - parts).abs() <= SAME * total.abs()).all():
            message = (
                f"`{meaning.column}` is the sum of {_span(names)}, and taken for one run. If these are repeats, leave "
                f"`{meaning.column}` out of the table, and each of them is a run."
            )
            found.append(RunWarning(kind="sum_of_columns", message=message))
    return found


def _rows(raw: pd.DataFrame, stems: dict[str, dict[str, str]], indices: Sequence[str], column: str) -> pd.DataFrame:
    turned = [name for same in stems.values() for name in same.values()]
    others = raw.drop(columns=turned)
    parts = []
    for index in indices:
        cells = {stem: raw[same[index]] for stem, same in stems.items()}
        part = others.assign(**cells, _place=[f"{place} {column} {index}" for place in raw["_place"]])
        if column != "replicate" or column not in raw.columns:
            part = part.assign(**{column: index})
        for name in others.columns:
            if name == "run_id" or ((meaning := meaning_of(str(name), ())) and meaning.column == "run_id"):
                part[name] = [f"{one} {column} {index}" for one in raw[name]]
        parts.append(part)
    rows = pd.concat(parts, ignore_index=True)
    order = np.arange(len(rows)).reshape(len(indices), len(raw)).T.ravel()
    rows = rows.iloc[order].reset_index(drop=True)
    blank = pd.concat([numbers_of(rows[stem]) for stem in stems], axis=1).isna().all(axis=1)
    return rows[~blank].reset_index(drop=True)  # fewer repeats than columns: no run was lost


def _repeats(raw: pd.DataFrame, groups: dict[str, dict[str, str]], *, sure: bool) -> bool:
    """Whether the readings of numbered columns look like repeats: close to one another, and not a running total."""
    for same in groups.values():
        cells = np.column_stack([numbers_of(raw[name]) for name in same.values()])
        if not (cells > 0).any():
            return False
        with np.errstate(all="ignore"):
            spread = np.nanmedian(np.nanmax(cells, axis=1) / np.nanmin(cells, axis=1))
            rising = bool((np.diff(cells, axis=1) > 0).all()) and cells.shape[1] > 2 and len(cells) > 1
        if (rising and spread > FLAT) or (not sure and spread > MOST_SPREAD):
            return False
    return True


def _flat(cells: np.ndarray) -> bool:
    """Whether the epochs of runs took about the same, and are no running total."""
    with np.errstate(all="ignore"):
        return bool(np.nanmedian(cells[:, -1] / cells[:, 0]) < FLAT)


def _consecutive(same: Mapping[str, str]) -> bool:
    numbers = [float(index) for index in same]
    return numbers[0] in (0, 1) and all(b - a == 1 for a, b in itertools.pairwise(numbers))


def _statistics(raw: pd.DataFrame, stems: dict[str, dict[str, str]]) -> list[str]:
    """Return the columns that hold means or deviations of those that are turned."""
    found = []
    for name in map(str, raw.columns):
        tokens = _tokens(name)
        rest = [token for token in tokens if token.lower() not in _STATISTIC]
        if len(rest) < len(tokens) and _named(rest) in stems:
            found.append(name)
    return found


def _sum(raw: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    return sum((numbers_of(raw[name]) for name in names[1:]), start=numbers_of(raw[names[0]]))


def _span(names: Sequence[str]) -> str:
    return f"`{names[0]}` … `{names[-1]}`"


def numbered_without_unit(names: Sequence[str]) -> tuple[str, ...]:
    """Return energies that are alike but for a number and whose unit nobody has said."""
    parsed = {name: found for name in names if (found := _parse(name)) is not None}
    found = [name for name, one in parsed.items() if QUANTITIES.get(one.stem.lower(), "").startswith("energy")]
    return tuple(found) if len(found) > 1 else ()
