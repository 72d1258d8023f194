"""From folders of run records or tables from anywhere to one frame of usable runs.

Nothing is changed or dropped silently: every row that is left out is in `RunTable.excluded` with its
reason, every value that had to be interpreted is in `RunTable.warnings`.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import gammaln

from lora_scaling.errors import RecordError, UserError
from lora_scaling.records import STATUSES
from lora_scaling.records import row as records
from lora_scaling.records.row import OVERRIDE_COLUMNS, TEXT_COLUMNS, TRUTH_COLUMNS
from lora_scaling.settings import POINT_COLUMNS, SEPARATING_COLUMNS
from lora_scaling.text import printable

from .column_names import OK_STATUSES, convert_cells, meaning_of, rename_columns
from .column_options import ColumnOptions, apply_options, with_unit_for_all
from .finished import with_status
from .likely_names import take_likely
from .long_table import from_long, with_units_beside
from .missing_columns import TEXTS, require_columns, with_epochs
from .numbered_columns import one_row_a_cell
from .overrides import clean_overrides, of_work
from .parsing import RunWarning, has_decimal_commas, has_decimal_points, parse_numbers, parse_truth
from .partial_rows import whole_runs
from .readers import ReadRows, read_sources, recognise
from .response_column import RESPONSES, add_response
from .run_settings import fill_sizes
from .summary_rows import summary_rows
from .unknown_columns import column_warnings, remainders, separating_columns, unknown_columns, without_own_numbers

NUMERIC_COLUMNS = (*records.NUMERIC_COLUMNS, "samples_end")
OUR_COLUMNS = (*NUMERIC_COLUMNS, *TEXT_COLUMNS, *TRUTH_COLUMNS)
DERIVED_COLUMNS = ("position", "work_settings")  # of a frame that was read before
# Numbers of which none is negative: all but losses, temperatures and what is relative to idling.
AMOUNTS = frozenset(
    name for name in NUMERIC_COLUMNS if not re.search("loss|temperature|above_idle|order|replicate|seed", name)
)
LARGEST_AMOUNT = 1e40  # its square is a number, too
LEAST_ORDERS = 1000  # of the rows of all runs: so improbable must it be that they rise by chance
INDEX_NAME = re.compile(r"(unnamed: ?\d+|index|level_\d+|)", re.IGNORECASE)  # a data frame's own row numbers
PLAIN = ColumnOptions()
MOST_TURNED = 200_000  # rows of a table that may have another form than one row a run
MOST_ROWS = 50_000  # of a table; a random choice of so many says as much as all
# Of a response, in kWh or s, and of samples: no run lies beyond, but a slip of the pen does.
SMALLEST, LARGEST = 1e-15, 1e15


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """A row that was left out, and why."""

    run_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunTable:
    """Usable runs, one a row, with the contract's columns (absent ones are NaN, None for text).

    `frame` also has `samples_seen` (0 for a run of zero optimizer steps) filled in, `position`, the rank of the run in
    time (NaN where neither `started_at` nor `order` tells), and `work_settings`, the further settings that change a
    run's work (unknown where `settings_override` is). `columns` are those that the input really had. `response` is the
    column that had to be there. `separating` are columns of unknown meaning that separate rows of the same work: no
    verdict stands until they are named or ignored. `kinds` are the programs that wrote the files, where known.
    """

    frame: pd.DataFrame
    excluded: tuple[Excluded, ...]
    warnings: tuple[RunWarning, ...]
    sources: tuple[str, ...]
    rows_read: int
    columns: tuple[str, ...]
    response: str
    separating: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


def load_runs(
    runs: str | Path | pd.DataFrame | Iterable[str | Path],
    *,
    response: str | None = None,
    exclude: Sequence[str] = (),
    options: ColumnOptions = PLAIN,
) -> RunTable:
    """Read runs into one checked table: folders of records, other programs' results, tables, or a data frame.

        load_runs("runs/linear_claim")
        load_runs(["monday.csv", "tuesday.csv"], response="time", exclude=["run-17"])

    `response` (`total`, `train`, `gpu`, `time`, or a column of the table, such as `cost:USD`) names what must be known
    and positive in a usable row. Without it, it is `total`, or `time` for the results of programs that record no
    energy. `exclude` lists run ids to leave out.
    `options` say what the columns of a table from elsewhere mean.

    Raises:
        UserError: nothing is there to read, or an argument is not allowed.
        RecordError: a file cannot be read, or lacks the columns that are needed.
    """
    if isinstance(runs, pd.DataFrame):
        return table_from_frame(runs, response=response, exclude=exclude, options=options)
    paths = [runs] if isinstance(runs, str | Path) else runs
    rows = read_sources([Path(path) for path in paths])
    return _make_table(rows, response=response, exclude=exclude, options=options)


def table_from_frame(
    frame: pd.DataFrame,
    *,
    response: str | None = None,
    exclude: Sequence[str] = (),
    name: str = "table",
    options: ColumnOptions = PLAIN,
) -> RunTable:
    """Check a frame in memory as if it had been read from a file of that name; see `load_runs`."""
    found = recognise(frame.reset_index(drop=True))
    rows = ReadRows(
        frame=found.frame.assign(_place=[f"row {i}" for i in range(1, len(found.frame) + 1)]),
        unreadable=found.left_out, warnings=found.warnings, understood=found.understood, sources=(name,),
        kinds=(found.kind,) if found.kind else (),
    )  # fmt: skip
    return _make_table(rows, response=response, exclude=exclude, options=options)


def _make_table(rows: ReadRows, *, response: str | None, exclude: Sequence[str], options: ColumnOptions) -> RunTable:
    excluded = [Excluded(run_id=printable(name), reason=printable(reason)) for name, reason in rows.unreadable]
    raw = rows.frame.set_axis([printable(str(column)) for column in rows.frame.columns], axis=1)
    raw, options, shaped, parts = _one_row_a_run(raw, options, rows)
    excluded += parts
    raw, named = apply_options(raw, options, OUR_COLUMNS)
    own_names = tuple(map(str, raw.columns))
    raw, renamed = rename_columns(raw, OUR_COLUMNS)
    raw, converted = convert_cells(raw)
    raw, likely = take_likely(raw, RESPONSES.get(response or "total"))
    renamed += likely
    raw, assumed = with_epochs(raw, known=bool(rows.kinds) or options.samples_from is not None)
    columns = tuple(str(column) for column in raw.columns if column != "_place")
    response, raw, timed = _with_response(raw, response, rows)
    raw, explained, more = add_response(raw, response, own_names, OUR_COLUMNS)
    timed += more
    needed = ("samples", "epochs", explained)
    require_columns(raw, needed, rows)
    raw = _name_runs(raw)
    rows_read = len(raw) + len(rows.unreadable)
    raw, sampled = _sampled(raw)
    raw, summaries = _without_summaries(raw, columns)
    excluded += summaries
    finished, failed = _split_by_status(raw)
    excluded += failed
    others = {str(word) for word in raw["status"]} - set(STATUSES) if failed else set()
    if others and finished.empty and not rows.kinds:
        words = ", ".join(sorted(others)[:5])
        raise RecordError(
            f"{', '.join(rows.sources)}: no run is finished by its `status` ({words}); --set status=ok if they are"
        )
    frame, bad, warnings = _to_types(finished, needed)
    excluded += bad
    if bad and len(bad) == len(finished):
        raise RecordError(f"{', '.join(rows.sources)}: no row can be read; {bad[0].reason}")
    frame, doubtful = clean_overrides(frame)
    warnings += doubtful
    frame, bad = _drop_impossible(_derive(frame), explained)
    excluded += bad
    frame, parts = _without_parts(frame, raw)
    excluded += parts
    for column, source in options.columns.items():
        if source.partition(":")[0] in TEXTS and column in TEXT_COLUMNS:  # a name: bert_n1000 is of the model bert_n
            frame[column] = without_own_numbers(frame, frame[column])
    for source in filter(None, (options.samples_from, options.epochs_from)):  # data=alpaca_500 is alpaca_
        named_by = source.partition(":")[0]
        meaning = meaning_of(named_by, OUR_COLUMNS)
        column = named_by if meaning is None else meaning.column
        if column in TEXT_COLUMNS and column != "run_id" and column in frame:
            frame[column] = without_own_numbers(frame, frame[column])
    frame, short = _without_short_totals(frame)
    warnings += short
    frame, computed = fill_sizes(frame, options.all_settings)
    warnings += computed
    frame, snapshots, cumulative = _keep_last_snapshots(frame, columns, explained)
    excluded += snapshots
    frame, duplicates, duplicate_warnings = _drop_duplicates(frame, raw, columns, explained)
    excluded += duplicates
    frame, chosen = _drop_chosen(frame, exclude)
    excluded += chosen
    unknown = unknown_columns(raw, (*OUR_COLUMNS, *DERIVED_COLUMNS, explained), rows.understood | options.used)
    texts = remainders(raw, frame, [name for name in TEXTS if name != "run_id" and name not in unknown])
    separating = separating_columns(frame, raw.assign(**texts), [*unknown, *texts], explained)
    warnings += column_warnings(unknown, separating, raw)
    return RunTable(
        frame=frame.reset_index(drop=True),
        excluded=tuple(excluded),
        warnings=(
            *rows.warnings,
            *shaped,
            *named,
            *renamed,
            *converted,
            *assumed,
            *timed,
            *sampled,
            *warnings,
            *cumulative,
            *duplicate_warnings,
        ),
        sources=rows.sources,
        rows_read=rows_read,
        columns=columns,
        response=explained,
        separating=tuple(separating),
        kinds=rows.kinds,
    )


def _one_row_a_run(
    raw: pd.DataFrame, options: ColumnOptions, rows: ReadRows
) -> tuple[pd.DataFrame, ColumnOptions, list[RunWarning], list[Excluded]]:
    """Turn a table in which a run is no row of its own; columns that the options name stay as they are."""
    said = frozenset({*options.used, *options.ignore, *options.sources})
    kept = frozenset({*said, *rows.understood, *OUR_COLUMNS})
    raw = with_status(raw, kept)
    if len(raw) > MOST_TURNED or "samples_end" in raw:
        return raw, options, [], []
    raw, options = with_unit_for_all(raw, options)
    raw, turned = from_long(raw, rows.sources)
    raw, units = with_units_beside(raw, said)
    raw, cells = one_row_a_cell(raw, kept)
    raw, whole, parts = whole_runs(raw, kept - {"rank"})
    excluded = [Excluded(run_id=printable(run_id), reason=printable(reason)) for run_id, reason in parts]
    return raw, options, [*turned, *units, *cells, *whole], excluded


def _with_response(
    raw: pd.DataFrame, response: str | None, rows: ReadRows
) -> tuple[str, pd.DataFrame, list[RunWarning]]:
    """Choose what is explained if nobody says, and take whole runs' times where those of training are not known."""
    warnings = []
    if response is None:
        response = "time" if rows.timed and "energy_kwh" not in raw and "train_s" in raw else "total"
        if response == "time":
            message = f"{rows.kinds[0][0].upper()}{rows.kinds[0][1:]} without energies: every verdict is on time."
            warnings.append(RunWarning(kind="time_only", message=message))
        elif "energy_kwh" not in raw and "energy_train_kwh" in raw:
            response = "train"
            message = "The table has the energy of training alone: every verdict is on that."
            warnings.append(RunWarning(kind="train_only", message=message))
    if response == "time" and "train_s" not in raw and "total_s" in raw:
        raw = raw.assign(train_s=raw["total_s"])
        message = "The time is that of whole runs (`total_s`), set-up included: that of training alone is not known."
        warnings.append(RunWarning(kind="whole_time", message=message))
    return response, raw, warnings


def _sampled(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Choose whole runs at random from a table of very many, which are more than any claim or fit can use."""
    if len(raw) <= MOST_ROWS:
        return raw, []
    run, runs = pd.factorize(raw["run_id"])
    share = MOST_ROWS / len(raw)
    chosen = np.random.default_rng(0).random(len(runs)) < share
    kept = raw[chosen[run]].reset_index(drop=True)
    message = (
        f"The table has {len(raw):,} rows: {len(kept):,} were chosen at random, by whole runs, and the rest unused."
    )
    return kept, [RunWarning(kind="sampled", message=message)]


def _name_runs(raw: pd.DataFrame) -> pd.DataFrame:
    """Every row gets a run_id; those without one are called after their place in the file."""
    raw = raw.copy()
    if "run_id" not in raw:
        raw["run_id"] = None
    blank = raw["run_id"].isna() | (raw["run_id"].astype(str).str.strip() == "")
    raw["run_id"] = raw["run_id"].astype(str).where(~blank, raw["_place"]).map(printable)
    return raw.drop(columns="_place")


def _without_summaries(raw: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, list[Excluded]]:
    """Leave out rows that hold the sums or means of others."""
    words = summary_rows(raw, columns)
    summary = words != ""
    excluded = [
        Excluded(run_id=str(run_id), reason=f"a summary of other rows ({printable(word)}), no run")
        for run_id, word in zip(raw["run_id"][summary], words[summary], strict=True)
    ]
    return raw[~summary], excluded


def _split_by_status(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[Excluded]]:
    if "status" not in raw:
        return raw, []
    status = raw["status"].fillna("").astype(str).str.strip().str.lower()
    finished = status.isin(OK_STATUSES)
    errors = raw["error"] if "error" in raw else pd.Series(None, index=raw.index, dtype=object)
    failed = [
        Excluded(
            run_id=str(run_id),
            reason=printable(f"status {state}" + ("" if pd.isna(error) or not error else f": {error}")),
        )
        for run_id, state, error in zip(raw["run_id"][~finished], status[~finished], errors[~finished], strict=True)
    ]
    return raw[finished], failed


def _to_types(raw: pd.DataFrame, needed: Sequence[str]) -> tuple[pd.DataFrame, list[Excluded], list[RunWarning]]:
    """Typed columns; a row whose needed number cannot be read is left out, other cells become unknown."""
    columns: dict[str, pd.Series] = {}
    warnings: list[RunWarning] = []
    bad: dict[int, str] = {}
    given = [name for name in dict.fromkeys((*NUMERIC_COLUMNS, *needed)) if name in raw]
    commas = any(has_decimal_commas(raw[name]) for name in given)
    points = not commas and any(has_decimal_points(raw[name]) for name in given)
    for name in given:
        parsed = parse_numbers(raw[name], run_ids=raw["run_id"], beside_commas=commas, beside_points=points)
        columns[name] = parsed.values
        if parsed.warning is not None:
            warnings.append(parsed.warning)
        if name in needed:
            for row, reason in parsed.unreadable.items():
                bad.setdefault(row, reason)
        elif parsed.unreadable:
            ids = tuple(str(raw["run_id"][row]) for row in parsed.unreadable)
            reason = next(iter(parsed.unreadable.values()))
            warnings.append(RunWarning(kind="bad_value", message=f"{reason}; taken as unknown.", run_ids=ids))
        if name in AMOUNTS and name not in needed:
            columns[name], more = _possible(name, parsed.values, raw["run_id"])
            warnings += more
    for name in TRUTH_COLUMNS:
        if name in raw:
            columns[name] = pd.Series(parse_truth(raw[name]), index=raw.index, dtype=object)
    for name in TEXT_COLUMNS:
        if name in raw:  # no further setting is an answer: all are at their defaults
            text = _text(raw[name], blank="" if name == "settings_override" else None)
            columns[name] = text if name in OVERRIDE_COLUMNS else text.map(printable, na_action="ignore")
    if "method" in columns:
        columns["method"] = columns["method"].map(str.lower, na_action="ignore")
    absent = [name for name in NUMERIC_COLUMNS if name not in columns]
    unsaid = [name for name in (*TEXT_COLUMNS, *TRUTH_COLUMNS) if name not in columns]
    parts = [
        pd.DataFrame(columns, index=raw.index),
        pd.DataFrame(np.nan, index=raw.index, columns=absent, dtype=float),
        pd.DataFrame(None, index=raw.index, columns=unsaid, dtype=object),
    ]
    frame = pd.concat(parts, axis=1)
    excluded = [Excluded(run_id=str(raw["run_id"][row]), reason=reason) for row, reason in bad.items()]
    return frame.drop(index=list(bad)), excluded, warnings


def _possible(name: str, values: pd.Series, run_ids: pd.Series) -> tuple[pd.Series, list[RunWarning]]:
    """Return the values with impossible amounts unknown, and a warning if any was."""
    impossible = (values < 0) | (values > LARGEST_AMOUNT)
    if not impossible.any():
        return values, []
    message = f"{name}: got {values[impossible].iloc[0]:g}; allowed is 0 or more, finite; taken as unknown."
    ids = tuple(map(str, run_ids[impossible]))
    return values.where(~impossible), [RunWarning(kind="bad_value", message=message, run_ids=ids)]


def _text(values: pd.Series, *, blank: str | None) -> pd.Series:
    text = values.astype(object).where(values.notna(), None)
    return text.map(lambda value: None if value is None else str(value).strip() or blank)


def _derive(frame: pd.DataFrame) -> pd.DataFrame:
    """Add what follows from the columns: what was shown in all, and the order of the runs in time."""
    frame = frame.copy()
    seen = frame["samples_seen"].fillna(frame["samples"] * frame["epochs"])
    frame["samples_seen"] = seen.where(frame["steps"] != 0, 0.0)
    started = pd.to_datetime(frame["started_at"], utc=True, errors="coerce", format="ISO8601")
    known = started.notna().all() and len(frame) > 0
    frame["position"] = (started if known else frame["order"]).rank(method="average")
    frame["work_settings"] = frame["settings_override"].map(of_work, na_action="ignore")
    ratio = frame["emissions_g"] / frame["energy_kwh"].where(frame["energy_kwh"] > 0)
    own = frame["intensity_g_per_kwh"].isna() & (ratio > 0)
    frame["intensity_g_per_kwh"] = frame["intensity_g_per_kwh"].where(~own, ratio)
    source = frame["intensity_source"].astype(object)
    frame["intensity_source"] = source.where(~(own & source.isna()), "the table's own grams and energies")
    return frame


def _without_short_totals(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Make whole times that are shorter than the training unknown: those of a tracker that was told afterwards."""
    short = frame["total_s"] < 0.98 * frame["train_s"]
    if not short.any():
        return frame, []
    ids = tuple(map(str, frame["run_id"][short]))
    message = f"`total_s` is shorter than `train_s` in {len(ids)} runs: taken as unknown."
    return frame.assign(total_s=frame["total_s"].where(~short)), [
        RunWarning(kind="bad_value", message=message, run_ids=ids)
    ]


def _drop_impossible(frame: pd.DataFrame, response: str) -> tuple[pd.DataFrame, list[Excluded]]:
    """Leave out rows whose needed numbers are unknown, infinite, negative or (for the response) zero."""
    reasons = pd.Series("", index=frame.index, dtype=object)
    for name in (response, "epochs", "samples"):
        values = frame[name]
        reasons[values.isna()] = f"`{name}` is unknown"
        reasons[np.isinf(values)] = f"`{name}` is infinite"
        wrong = (values <= SMALLEST if name == response else values < 0) | (values >= LARGEST)
        allowed = f"a {'positive number' if name == response else 'number from 0 up'}, none beyond measure"
        for row in frame.index[wrong & np.isfinite(values)]:
            reasons[row] = f"{name}: got {values[row]:g}; allowed is {allowed}"
    bad = reasons != ""
    excluded = [
        Excluded(run_id=run_id, reason=reason)
        for run_id, reason in zip(frame["run_id"][bad], reasons[bad], strict=True)
    ]
    return frame[~bad], excluded


def _without_parts(frame: pd.DataFrame, raw: pd.DataFrame) -> tuple[pd.DataFrame, list[Excluded]]:
    """Leave out the windows that lie inside those of other usable rows, whose readings hold theirs."""
    if "inside_windows" not in raw or frame.empty:
        return frame, []
    names = dict(zip(raw.loc[frame.index, "window"], frame["run_id"], strict=True))
    holders = [
        next((names[window] for window in str(windows).split() if window in names), None)
        for windows in raw.loc[frame.index, "inside_windows"]
    ]
    part = pd.Series([holder is not None for holder in holders], index=frame.index)
    excluded = [
        Excluded(run_id=str(run_id), reason=f"a window inside that of {holder}, whose energy holds it")
        for run_id, holder in zip(frame["run_id"], holders, strict=True)
        if holder is not None
    ]
    return frame[~part], excluded


def _keep_last_snapshots(
    frame: pd.DataFrame, columns: Sequence[str], response: str
) -> tuple[pd.DataFrame, list[Excluded], list[RunWarning]]:
    """Keep the last of several rows of one run whose reading only rises, as a meter that is flushed writes them."""
    if "run_id" not in columns or frame.empty:
        return frame, [], []
    key = frame.groupby([frame["study"].fillna(""), "run_id", "samples", "epochs"], sort=False).ngroup()
    groups = frame[response].groupby(key)
    change = groups.diff()
    rising = ((change > 0) | change.isna()).groupby(key).transform("all")
    several = key.duplicated(keep=False)
    orders = float(gammaln(key.value_counts().to_numpy() + 1).sum())  # logarithm
    if not several.any() or not rising[several].all() or orders < math.log(LEAST_ORDERS):
        return frame, [], []
    earlier = key.duplicated(keep="last")
    runs = tuple(dict.fromkeys(frame["run_id"][several]))
    message = (
        f"`{response}` only rises within each of {len(runs)} runs that have several rows: taken as readings of one "
        "meter while it runs, of which the last is the run's."
    )
    reason = "an earlier reading of the same run"
    excluded = [Excluded(run_id=run_id, reason=reason) for run_id in frame["run_id"][earlier]]
    return frame[~earlier], excluded, [RunWarning(kind="cumulative", message=message, run_ids=runs)]


def _drop_duplicates(
    frame: pd.DataFrame, raw: pd.DataFrame, columns: Sequence[str], response: str
) -> tuple[pd.DataFrame, list[Excluded], list[RunWarning]]:
    """A run that is in the table twice counts once: a copy is no replicate.

    A copy has the same run_id, work and reading; in a table without run ids, all columns alike and a reading of
    more than six digits (a rounded one can coincide by chance and stays, with a warning). Rows that differ in a column
    of `raw` that this program does not know are no copies: that column may be what was varied.
    """
    named = "run_id" in columns
    work = [name for name in (*POINT_COLUMNS, *SEPARATING_COLUMNS) if name in columns]
    same_work = frame.duplicated([*work, response])
    unknown = [name for name in raw.columns if name not in frame.columns and not INDEX_NAME.fullmatch(str(name))]
    others = raw.loc[frame.index, unknown].astype(str)
    if named:
        keys = pd.concat([frame[["run_id", response, *(name for name in work if name != "run_id")]], others], axis=1)
        copies = keys.duplicated()
    else:
        energy = frame[response].to_numpy(dtype=float)
        scaled = energy * 10.0 ** (5 - np.floor(np.log10(energy)))
        known = [name for name in dict.fromkeys((*columns, response)) if name in frame.columns]
        copies = pd.concat([frame[known], others], axis=1).duplicated() & (np.abs(scaled - np.round(scaled)) > 1e-6)
    first = frame.groupby([*work, response], dropna=False)["run_id"].transform("first")
    excluded = [
        Excluded(run_id=run_id, reason=f"the same numbers as run {other}: a copy, counted once")
        for run_id, other in zip(frame["run_id"][copies], first[copies], strict=True)
    ]
    warnings = []
    if copies.any():
        ids = tuple(frame["run_id"][copies])
        message = f"{len(ids)} rows repeat another row's numbers exactly and were counted once."
        warnings.append(RunWarning(kind="duplicate", message=message, run_ids=ids))
    again = frame.duplicated(["study", "run_id"]) & ~copies  # a study beside another repeats its runs by name
    if again.any():
        ids = tuple(dict.fromkeys(frame["run_id"][again]))
        message = "The same run id stands for different numbers; each row was counted."
        warnings.append(RunWarning(kind="duplicate", message=message, run_ids=ids))
    equal = same_work & ~copies
    if equal.sum() > max(1, 0.05 * len(frame)):
        message = (
            f"{int(equal.sum())} rows have the same work and exactly the same reading as another: "
            "copies, or a meter with coarse steps; each was counted."
        )
        warnings.append(RunWarning(kind="coarse_meter", message=message, run_ids=tuple(frame["run_id"][equal])))
    return frame[~copies], excluded, warnings


def _drop_chosen(frame: pd.DataFrame, exclude: Sequence[str]) -> tuple[pd.DataFrame, list[Excluded]]:
    """Leave out the runs that are named by RUN_ID, or STUDY/RUN_ID where several studies have one of that id."""
    full = frame["study"].fillna("") + "/" + frame["run_id"]
    chosen = pd.Series(False, index=frame.index)
    for name in exclude:
        named = (frame["run_id"] == name) | (full == name)
        if not named.any():
            raise UserError(f"exclude: got {name!r}, which is no usable run's id; see the list of runs")
        if (studies := full[named].unique()).size > 1:
            raise UserError(f"exclude: got {name!r}, of which there are several; give one of {', '.join(studies)}")
        chosen |= named
    return frame[~chosen], [
        Excluded(run_id=run_id, reason="left out by --exclude") for run_id in frame["run_id"][chosen]
    ]
