"""Rows that are parts of a run: one for each GPU, one for each epoch, and evaluation among training."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lora_scaling.errors import RecordError
from lora_scaling.settings import POINT_COLUMNS, SEPARATING_COLUMNS

from .column_names import QUANTITIES, meaning_of
from .numbered_columns import FLAT, amount
from .parsing import RunWarning, numbers_of, texts_of

_DEVICES = re.compile(
    r"(gpu|device|cuda)([ _.]?(id|idx|index|rank|no|nr|num|number))?|(cuda[ _.]?device)|(local|global)?[ _.]?rank|"
    r"(node|host|hostname|server|machine|worker)([ _.]?(id|name|rank))?|(gpu|device)[ _.]?(uuid|name)",
    re.IGNORECASE,
)
_DEVICE = re.compile(r"(?:(?:gpu|cuda|device|npu)[ :_-]?)?(\d{1,3})", re.IGNORECASE)
_EPOCH = re.compile(r"(ep|epoch|epoche|epoke|epoque|época)([ _.]?(no|nr|num|number|idx|index))?", re.IGNORECASE)
_WORK = frozenset({*POINT_COLUMNS, *SEPARATING_COLUMNS}) - {"hardware", "gpu_count", "epochs"}
_RUNS = frozenset("run run_uuid job_id jobid job run_no run_number experiment_no".split())
_STEP = re.compile(r"_?step|iter(ation)?|train/global_step", re.IGNORECASE)
LEAST_STEPS = 4  # rows of each run
_PHASES = re.compile(
    r"phase|stage|split|mode|subset|part|section|step_type|what|dataset_split|fase|schritt", re.IGNORECASE
)
_TRAINING = re.compile(
    r"train(ing)?|fit|fine-?_?tun(e|ing)|træning|traening|entra[iî]nement|entrenamiento", re.IGNORECASE
)
_OTHER = re.compile(
    r"eval(uation)?|val(id(ation)?)?|test(ing)?|infer(ence)?|predict(ion)?|generat(e|ion)|idle|baseline|warm-?_?up|"
    r"set-?_?up|load(ing)?|download|tokeni[sz](e|ing|ation)|pre-?_?process(ing)?|dev|evaluering",
    re.IGNORECASE,
)


def whole_runs(raw: pd.DataFrame, kept: frozenset[str]) -> tuple[pd.DataFrame, list[RunWarning], list[tuple[str, str]]]:
    """Sum the rows of each run's GPUs and epochs, and leave out those that are no training; say what was done.

    Raises:
        RecordError: the rows are readings of runs, step by step.
    """
    left_out: list[tuple[str, str]] = []
    raw, phases = _training(raw, kept, left_out)
    _refuse_steps(raw, kept)
    raw, devices = _devices(raw, kept)
    raw, epochs = _epochs(raw, kept)
    return raw, [*phases, *devices, *epochs], left_out


def _training(
    raw: pd.DataFrame, kept: frozenset[str], left_out: list[tuple[str, str]]
) -> tuple[pd.DataFrame, list[RunWarning]]:
    for name in map(str, raw.columns):
        if name in kept or not _PHASES.fullmatch(name.strip()):
            continue
        words = texts_of(raw[name])
        training, other = words.str.fullmatch(_TRAINING), words.str.fullmatch(_OTHER)
        if not (training | other).all() or not training.any() or not other.any():
            continue
        ids = raw["run_id"] if "run_id" in raw else raw["_place"]
        left_out += [
            (str(run_id), f"`{name}` is {word}: no training")
            for run_id, word in zip(ids[other], words[other], strict=True)
        ]
        message = (
            f"{int(other.sum())} rows are of {', '.join(sorted(set(words[other])))} (`{name}`) and left out: the "
            "verdicts are on the rows of training alone."
        )
        kept_rows = raw[training].drop(columns=name).reset_index(drop=True)
        return kept_rows, [RunWarning(kind="phases", message=message)]
    return raw, []


def _refuse_steps(raw: pd.DataFrame, kept: frozenset[str]) -> None:
    """Raise RecordError where the rows of runs are their readings step by step: running totals look linear, always."""
    named = _named(raw)
    if named is None or named in kept - {"run_id"}:
        return
    run = pd.Series(pd.factorize(raw[named])[0], index=raw.index)
    if run.value_counts().min() < LEAST_STEPS:
        return
    for name in map(str, raw.columns):
        if name in kept or not _STEP.fullmatch(name.strip()):
            continue
        change = numbers_of(raw[name]).groupby(run).diff().dropna()
        if len(change) and (change > 0).all():
            raise RecordError(
                f"{name}: got {int(run.value_counts().max())} rows of one `{named}`, its readings as it goes; give one "
                f"row for each run, such as its last, or say that each row is a run of its own with --ignore {name}"
            )


def _devices(raw: pd.DataFrame, kept: frozenset[str]) -> tuple[pd.DataFrame, list[RunWarning]]:
    for name in map(str, raw.columns):
        if name in kept or not _DEVICES.fullmatch(name.strip()):
            continue
        index = raw[name].astype(str).str.strip().str.extract(f"^{_DEVICE.pattern}$", flags=re.IGNORECASE)[0]
        numbered = not index.isna().any()
        if _named(raw) is None and not numbered:
            continue
        place = pd.to_numeric(index) if numbered else pd.Series(pd.factorize(raw[name])[0], index=raw.index)
        if place.nunique() < 2 or (name.lower() == "rank" and (place != 0).all()):
            continue
        run = _runs(raw, place, (name,))
        if run is None or run.nunique() == len(raw) or (numbered and not _consecutive(place, run)):
            continue
        if not _same_settings(raw, run) or (not numbered and (run.value_counts() < 2).any()):
            continue
        if _named(raw) is None:
            message = (
                f"`{name}` numbers devices, and no column names runs: each row is taken as a run of its own. If several"
                " rows are the devices of one run, give a column with the run's name, and they are added up."
            )
            return raw, [RunWarning(kind="device_rows", message=message)]
        energies = _amounts(raw, run, "energy")
        summed = [column for column in energies if _varies(raw, run, column)]
        if not energies:
            continue
        count = run.groupby(run).transform("size")
        merged = _merged(raw, run, summed, (name,))
        if "gpu_count" not in merged and re.match("gpu|device|cuda|local", name, re.IGNORECASE):
            merged = merged.assign(gpu_count=count.groupby(run, sort=False).first().to_numpy())
        what = f"{_quoted(summed)} of each run's rows were added up" if summed else (
            f"{_quoted(energies)} is the same in all rows of a run, and counts once"
        )  # fmt: skip
        message = f"A row for each GPU or node (`{name}`): {what}."
        return merged, [RunWarning(kind="device_rows", message=message)]
    return raw, []


def _epochs(raw: pd.DataFrame, kept: frozenset[str]) -> tuple[pd.DataFrame, list[RunWarning]]:
    if "samples_end" in raw:
        return raw, []
    said = [name for name in map(str, raw.columns)
            if name == "epochs" or ((meaning := meaning_of(name, ())) and meaning.column == "epochs")]  # fmt: skip
    for name in map(str, raw.columns):
        if name in (*kept, *said) or not _EPOCH.fullmatch(name.strip()):
            continue
        place = numbers_of(raw[name])
        run = _runs(raw, place, (name,))
        if run is None or run.nunique() == len(raw) or not _consecutive(place, run):
            continue
        ids = _named(raw)
        if not _same_settings(raw, run):
            continue
        repeats = ids is None or bool(numbers_of(raw[ids]).notna().all())  # a number may be that of a repeat
        read: dict[str, str] = {}
        for column in (*_amounts(raw, run, "energy"), *_amounts(raw, run, "_s")):
            how = _reading(numbers_of(raw[column]), run)
            if how == "" or (how != "sum" and repeats):
                return raw, []  # a running total, or epochs of runs of their own: nobody can know
            read[column] = how
        if not read:
            continue
        summed = [column for column, how in read.items() if how == "sum"]
        merged = _merged(raw, run, summed, (name,))
        if not said:
            merged = merged.assign(epochs=run.groupby(run, sort=False).size().to_numpy())
        done = [f"{_quoted(summed)} of a run's rows were added up"] if summed else []
        last = [column for column, how in read.items() if how == "last"]
        done += [f"{_quoted(last)} only rises, and its last reading is the run's"] if last else []
        done += [] if said else ["`epochs` is the number of its rows"]
        message = f"A row for each epoch (`{name}`): {'; '.join(done)}."
        return merged, [RunWarning(kind="epoch_rows", message=message)]
    return raw, []


def _named(raw: pd.DataFrame) -> str | None:
    """Return the column that names runs, of which several rows may be."""
    for name in map(str, raw.columns):
        meaning = meaning_of(name, ())
        if name == "run_id" or (meaning and meaning.column == "run_id") or name.lower() in _RUNS:
            return name
    return None


def _runs(raw: pd.DataFrame, place: pd.Series, names: Sequence[str]) -> pd.Series | None:
    """Return the number of each row's run: by its id, else blocks in which a count begins again; None if unknown."""
    named = _named(raw)
    if named is not None:
        run = pd.Series(pd.factorize(raw[named])[0], index=raw.index)
        return None if place.groupby(run).apply(lambda one: one.duplicated().any()).any() else run
    if place.isna().any():
        return None
    run = (place <= place.shift(1)).cumsum()
    settings = [
        str(name) for name in raw.columns
        if name not in (*names, "_place") and amount(str(name)) is None and not QUANTITIES.get(str(name).lower())
        and (raw[name].groupby(run).nunique() <= 1).all()
    ]  # fmt: skip
    work = [name for name in map(str, raw.columns) if (meaning := meaning_of(name, ())) and meaning.column == "samples"]
    work = work or [name for name in ("samples",) if name in raw]
    whole = run.groupby(run).size().nunique() == 1
    return run if whole and run.nunique() > 1 and work and set(work) <= set(settings) else None


def _same_settings(raw: pd.DataFrame, run: pd.Series) -> bool:
    """Whether the rows of each run agree in all settings that are known: `run` may number repeats of several works."""
    for name in map(str, raw.columns):
        meaning = meaning_of(name, ())
        column = name if name in _WORK else meaning.column if meaning else ""
        if column in _WORK and (raw[name].groupby(run).nunique() > 1).any():
            return False
    return True


def _amounts(raw: pd.DataFrame, run: pd.Series, kind: str) -> list[str]:
    """Return the columns of energies, or of times (`_s`), of known or unknown unit."""
    found = []
    for name in map(str, raw.columns):
        meaning = amount(name)
        column = meaning.column if meaning is not None else QUANTITIES.get(name.strip().lower(), "")
        if (column.startswith("energy") or column == "emissions_g") if kind == "energy" else column.endswith(kind):
            found.append(name)
    return found


def _varies(raw: pd.DataFrame, run: pd.Series, column: str) -> bool:
    values = numbers_of(raw[column])
    return bool((values.groupby(run).nunique() > 1).any())


def _consecutive(place: pd.Series, run: pd.Series) -> bool:
    """Whether the rows of each run count its epochs from 0 or 1 on, without a gap."""
    first, last, size = place.groupby(run).min(), place.groupby(run).max(), place.groupby(run).size()
    return bool(first.isin([0, 1]).all() and (last - first + 1 == size).all() and (size > 1).any())


def _reading(values: pd.Series, run: pd.Series) -> str:
    """Say how a run's reading is made of its epochs': their `sum`, or the `last` of a running total; "" if unclear."""
    several = run.map(run.value_counts()) > 1
    groups = values[several].groupby(run[several])
    first, last, size = groups.first(), groups.last(), groups.size()
    with np.errstate(all="ignore"):
        growth = float(np.nanmedian(last / first))
        share = float(np.nanmedian((last - first) / (size - 1) / first))  # of the first epoch, that each later adds
    rising = bool((groups.diff().dropna() > 0).all())
    if growth < FLAT:
        return "sum"
    return "last" if rising and share > 1 / 3 and growth > 2 - 0.35 else ""


def _merged(raw: pd.DataFrame, run: pd.Series, summed: Sequence[str], gone: Sequence[str]) -> pd.DataFrame:
    """Make one row of each run's: sums of the columns named, the last of the others."""
    rows = raw.drop(columns=list(gone)).groupby(run, sort=False).last()
    rows["_place"] = raw["_place"].groupby(run, sort=False).first()
    for column in summed:
        rows[column] = numbers_of(raw[column]).groupby(run, sort=False).agg(lambda one: one.sum(skipna=False))
    return rows.reset_index(drop=True)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
