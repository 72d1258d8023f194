"""Times as people write them (`1:02:03`, `PT1H2M`, `1h 2m 3s`, `2 days 03:04:05`), and the time between two moments."""

import re

import pandas as pd

from .parsing import FIRST_CELLS, RunWarning, texts_of

_CLOCK = re.compile(r"(?:(?P<days>\d+)(?: ?days?,?[ ]?|-))?(?P<h>\d+):(?P<m>[0-5]\d):(?P<s>[0-5]\d(?:[.,]\d+)?)")
_ISO = re.compile(
    r"P(?:(?P<days>\d+)D)?(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?", re.IGNORECASE
)
_WORDS = re.compile(
    r"(?:(?P<days>\d+) ?d(?:ays?)?,? ?)?(?:(?P<h>\d+) ?h(?:ours?|rs?)?,? ?)?"
    r"(?:(?P<m>\d+) ?m(?:in(?:ute)?s?)?,? ?)?(?:(?P<s>\d+(?:\.\d+)?) ?s(?:ec(?:ond)?s?)?)?",
    re.IGNORECASE,
)
SHORT_CLOCK = r"\d{1,3}:[0-5]\d"  # minutes and seconds, or hours and minutes
_BEGIN = frozenset("started_at start start_time start_date begin begin_time began started startet starttid "
                   "datetime_start start_timestamp startzeit debut inicio time_start".split())  # fmt: skip
_END = frozenset(
    "end end_time ended ended_at end_date finish finished finished_at finish_time stop stopped stop_time completed_at "
    "datetime_complete datetime_end end_timestamp slut sluttid endzeit ende fin time_end".split()
)
_SECONDS = (1e8, 1e10)  # since 1970, between 1973 and 2286
MOST_S = 366 * 86400.0


def seconds_of(cells: pd.Series) -> pd.Series | None:
    """Return the seconds of cells that all are durations with hours, minutes and seconds; None where one is not."""
    first = cells.dropna().head(FIRST_CELLS).astype(str).str.strip()
    if not first[first != ""].str.contains(r"[A-Za-z:]").all():  # of a million cells, most are numbers
        return None
    texts = texts_of(cells)
    known = texts[texts != ""]
    if known.empty:
        return None
    for pattern in (_CLOCK, _ISO, _WORDS):
        if known.str.fullmatch(pattern).all() and known.str.contains(r"\d").all():
            parts = texts.str.extract(f"^(?:{pattern.pattern})$", flags=pattern.flags).replace({",": "."}, regex=True)
            numbers = parts.apply(pd.to_numeric, errors="coerce").fillna(0.0)
            total = 86400 * numbers["days"] + 3600 * numbers["h"] + 60 * numbers["m"] + numbers["s"]
            return total.where(texts != "")
    return None


def with_elapsed(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[RunWarning]]:
    """Add `total_s` between two columns of moments, where a table has no time."""
    if {"total_s", "train_s"} & set(raw.columns):
        return raw, []
    plain = {re.sub(r"[^a-z0-9]+", "_", str(name).strip().lower()).strip("_"): str(name) for name in raw.columns}
    begins, ends = ([plain[name] for name in plain if name in words] for words in (_BEGIN, _END))
    if len(begins) != 1 or len(ends) != 1:
        return raw, []
    elapsed = _between(raw[begins[0]], raw[ends[0]])
    if elapsed is None:
        return raw, []
    message = f"The table has no time: `total_s` is taken as `{ends[0]}` − `{begins[0]}`."
    used = [ends[0], *([begins[0]] if begins[0] != "started_at" else [])]
    return raw.drop(columns=used).assign(total_s=elapsed), [RunWarning(kind="elapsed", message=message)]


def _between(first: pd.Series, last: pd.Series) -> pd.Series | None:
    """Return the seconds between moments; None if they cannot be read, or differ by how their dates are read."""
    found = []
    for day_first in (None, True, False):
        begin, end = _moments(first, day_first=day_first), _moments(last, day_first=day_first)
        if begin is None or end is None:
            continue
        seconds = (end - begin).dt.total_seconds()
        if seconds.notna().any() and ((seconds > 0) & (seconds < MOST_S))[seconds.notna()].all():
            found.append(seconds)
            if day_first is None:
                break
    if not found or any(not other.equals(found[0]) for other in found[1:]):
        return None
    return found[0]


def _moments(cells: pd.Series, *, day_first: bool | None) -> pd.Series | None:
    numbers = pd.to_numeric(cells, errors="coerce")
    if numbers.notna().all():
        seconds = next((one for one in (numbers, numbers / 1e3) if one.between(*_SECONDS).all()), None)
        return None if seconds is None or day_first is not None else pd.to_datetime(seconds, unit="s", utc=True)
    texts = texts_of(cells)
    if day_first is None:
        moments = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    else:
        order = "%d{0}%m{0}%Y" if day_first else "%m{0}%d{0}%Y"
        mark = next((mark for mark in "/.-" if texts.str.contains(mark, regex=False).all()), "/")
        moments = pd.Series(pd.NaT, index=texts.index, dtype="datetime64[ns, UTC]")
        for clock in ("%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p"):
            again = pd.to_datetime(texts, format=f"{order.format(mark)} {clock}", utc=True, errors="coerce")
            moments = moments.where(moments.notna(), again)
    return moments if moments[texts != ""].notna().all() and moments.notna().any() else None
