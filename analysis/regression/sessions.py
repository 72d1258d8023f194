"""Sessions (one process, one day, one host): what their runs share, and when a session counts as one observation.

Runs of a session share caches, temperature and neighbours, so a session shifts all of them together. Sessions that
hold several levels of a design are fixed effects, however many they are: each is compared with itself. Sessions that
hold a single level say nothing about differences between levels on their own. If the levels were repeated in several
such sessions, the session is the unit of replication and its repeats are averaged; if they were not, the level and its
session are confounded.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .least_squares import Array

LEAST_WITHIN_SESSIONS = 0.05  # of a factor's variance: with less, its effect is that of the sessions
LEAST_REPEATED_SESSIONS = 3  # levels run in two sessions or more, to know the scatter between sessions
LEAST_SPARE_SESSIONS = 3  # sessions beyond one per level
MOST_LONE_RUNS = 1 / 3  # of the runs: so many are left out rather than taken as noisier than the others
ALONE = "alone in its session"
SESSION_COLUMNS = ("session", "host")


def recorded_sessions(frame: pd.DataFrame) -> pd.Series | None:
    """Return the session (or the host) of each run; None unless it is known for all and one of several holds two."""
    for column in SESSION_COLUMNS:
        values = frame[column]
        if values.notna().all() and 1 < values.nunique() < len(frame):
            return values.astype(str)
    return None


def shared_sessions(frame: pd.DataFrame) -> pd.Series | None:
    """Return the session of each run, with one common label for runs that are alone in theirs.

    What the session of a single run adds is a part of that run's noise. None if all runs have one label.
    """
    session = recorded_sessions(frame)
    if session is None:
        return None
    labels = session.where(session.groupby(session).transform("size") > 1, ALONE)
    return labels if labels.nunique() > 1 else None


def session_columns(frame: pd.DataFrame) -> Array:
    """Return indicator columns (n, k−1) of the sessions with several runs each; (n, 0) if sessions shift no run."""
    labels = shared_sessions(frame)
    if labels is None:
        return np.zeros((len(frame), 0))
    return np.equal.outer(labels.to_numpy(), np.unique(labels)[1:]).astype(float)


def linked_parts(frame: pd.DataFrame, level: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number (n,) the parts of a design whose runs can be compared, `level` (n,) being what each run repeats.

    Sessions shift their runs, so levels are compared within a session, or across two that hold one level both. All runs
    are one part if sessions shift none.
    """
    labels = shared_sessions(frame)
    if labels is None:
        return np.zeros(len(frame), dtype=np.intp)
    session, names = pd.factorize(labels)
    nodes = len(names) + int(level.max()) + 1
    links = coo_array((np.ones(len(frame)), (session, len(names) + level)), shape=(nodes, nodes))
    return connected_components(links, directed=False)[1][session].astype(np.intp)


def placed_in_sessions(frame: pd.DataFrame) -> pd.DataFrame:
    """Replace `position` by its share of the session's own order, if sessions are effects of their own.

    What changed between sessions cannot then pass for a factor's effect; what changed within one can.
    """
    labels = shared_sessions(frame)
    return frame if labels is None else frame.assign(position=frame["position"].groupby(labels).rank(pct=True))


def sessions_counted_once(frame: pd.DataFrame, unit: Sequence[str], responses: Sequence[str]) -> pd.DataFrame:
    """Average the repeats of each session that holds a single `unit`, if enough units were run in several sessions.

    unit: columns that say which level a run is of. responses: columns averaged on the log scale. The other columns keep
    the values of the session's first run. Returns `frame` itself if no session repeats its only unit, or if fewer than
    LEAST_REPEATED_SESSIONS units were run in two sessions: then the sessions stay fixed effects.
    """
    session = recorded_sessions(frame)
    if session is None:
        return frame
    level = frame.groupby(list(unit), dropna=False, sort=False).ngroup()
    single = level.groupby(session).transform("nunique") == 1
    repeats = single & (session.groupby(session).transform("size") > 1)
    of_level = session.groupby(level).nunique()
    if not repeats.any() or not _replicated(of_level):
        return frame
    means: dict[str, pd.Series] = {
        name: frame[name].map(math.log).groupby(session).transform("mean").map(math.exp) for name in responses
    }
    means["position"] = frame["position"].groupby(session).transform("mean")
    averaged = frame.assign(**{name: frame[name].where(~repeats, mean) for name, mean in means.items()})
    return averaged[~repeats | ~session.duplicated()].reset_index(drop=True)


def _replicated(sessions: pd.Series) -> bool:
    """Return whether levels with so many sessions each show how sessions scatter."""
    enough = (sessions > 1).sum() >= min(LEAST_REPEATED_SESSIONS, len(sessions))
    return bool(enough and sessions.sum() - len(sessions) >= LEAST_SPARE_SESSIONS)


def session_means(rows: pd.DataFrame, responses: Sequence[str]) -> pd.DataFrame:
    """Return one row per session if the factor is constant in each session and its levels were run in several.

    rows: runs with a `factor` and a `group` of matched work. What the groups do is taken out by least squares on groups
    and sessions together; `group` then numbers the parts of the design that sessions link. Returns `rows` itself if the
    factor varies within sessions, which are then fixed effects, or if sessions are not replicated.
    """
    session = recorded_sessions(rows)
    if session is None or (rows.groupby(session)[["factor", "of_model"]].nunique() > 1).any(axis=None):
        return rows
    if not _replicated(session.groupby(rows["factor"]).nunique()):
        return rows
    s, g = pd.factorize(session)[0], pd.factorize(rows["group"])[0]
    sessions, groups = np.arange(s.max() + 1), np.arange(g.max() + 1)
    links = coo_array((np.ones(len(rows)), (s, len(sessions) + g)), shape=(len(sessions) + len(groups),) * 2)
    part = connected_components(links, directed=False)[1][: len(sessions)]
    columns = np.column_stack([np.equal.outer(s, sessions), np.equal.outer(g, groups[1:])]).astype(float)
    logs = np.log(rows[list(responses)].to_numpy(dtype=float))
    known = np.isfinite(logs).all(axis=0)
    effects = np.full((len(sessions), len(responses)), np.nan)
    effects[:, known] = np.linalg.lstsq(columns, logs[:, known], rcond=None)[0][: len(sessions)]
    means = rows[~session.duplicated()].reset_index(drop=True)
    position = rows["position"].groupby(s).mean().to_numpy()
    values = {name: np.exp(column) for name, column in zip(responses, effects.T, strict=True)}
    return means.assign(**values, group=part, position=position)


def without_lone_runs(frame: pd.DataFrame, unit: Sequence[str]) -> pd.DataFrame:
    """Leave out the runs that are alone in their session, if they are few and no level is lost.

    They scatter by what sessions differ, the others only by what runs of one session differ. With an effect of its own
    each would say nothing; left out, it does not pass for noise either. If most runs are alone, they are what is
    compared.
    """
    labels = shared_sessions(frame)
    if labels is None:
        return frame
    lone = labels == ALONE
    if not lone.any() or lone.mean() > MOST_LONE_RUNS:
        return frame
    rest = frame[~lone]
    levels = [len(part.drop_duplicates(list(unit))) for part in (frame, rest)]
    return rest.reset_index(drop=True) if levels[0] == levels[1] else frame
