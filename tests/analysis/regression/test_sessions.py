"""Sessions as effects, or as the unit of replication."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS

from analysis import decide, load_runs
from analysis.regression.sessions import (
    linked_parts,
    session_columns,
    session_means,
    sessions_counted_once,
    shared_sessions,
    without_lone_runs,
)
from analysis.regression.within_groups import within_slope


def runs(session: list[str], level: list[int]) -> pd.DataFrame:
    y = np.exp(np.random.default_rng(0).normal(size=len(level)))
    return pd.DataFrame(
        {"session": session, "host": "h", "level": level, "y": y, "y_measured": np.nan, "position": np.arange(len(y))}
    )


def test_sessions_of_two_runs_are_effects_and_lone_runs_share_one() -> None:
    frame = runs(list("aabbccde"), [1, 2, 1, 3, 2, 3, 1, 2])
    labels = shared_sessions(frame)
    assert labels is not None
    assert labels.nunique() == 4  # a, b, c and the two alone
    assert np.linalg.matrix_rank(session_columns(frame)) == 3
    assert session_columns(frame.assign(session=list("abcdefgh"))).shape == (8, 0)
    assert without_lone_runs(frame, ["level"])["session"].tolist() == list("aabbcc")
    assert len(without_lone_runs(frame.assign(level=[1, 2, 1, 3, 2, 3, 4, 4]), ["level"])) == 8  # level 4 would be lost


def test_a_session_of_one_level_counts_once_if_levels_were_run_in_several() -> None:
    frame = runs(list("aabbccddeeff"), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3])
    once = sessions_counted_once(frame, ["level"], ["y"])
    assert once["session"].tolist() == list("abcdef")
    assert once["y"][0] == pytest.approx(np.sqrt(frame["y"][0] * frame["y"][1]))
    confounded = frame.assign(level=[1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6])
    assert sessions_counted_once(confounded, ["level"], ["y"]) is confounded


def test_the_error_of_an_effect_between_sessions_is_that_of_session_means() -> None:
    """Balanced: eight sessions of one rank each, two amounts of work in each."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"session": np.repeat(list("abcdefgh"), 4), "group": np.tile([0, 0, 1, 1], 8)})
    frame["factor"] = np.repeat([0.0, 1.0, 2.0, 3.0] * 2, 4)
    shift = np.repeat(rng.normal(size=8), 4)
    frame["y"] = np.exp(0.3 * frame["factor"] + 2 * frame["group"] + shift + 0.1 * rng.normal(size=32))
    frame = frame.assign(of_model="m", host="h", y_measured=np.nan, position=np.arange(32.0))
    means = session_means(frame, ["y", "y_measured"])
    estimate, _ = within_slope(means, "y")
    own = frame["y"].map(np.log).groupby(frame["session"]).mean().to_numpy()
    fit = OLS(own, np.column_stack([np.ones(8), [0, 1, 2, 3] * 2])).fit()
    assert (estimate.value, estimate.se, estimate.df) == pytest.approx((fit.params[1], fit.bse[1], 6))
    assert session_means(frame[frame["session"] < "e"], ["y"]) is not None
    assert len(session_means(frame[frame["session"] < "e"], ["y"])) == 16  # each rank in one session: not replicated


def test_levels_are_compared_only_where_sessions_link_them() -> None:
    """Sessions a and b share level 1; c holds level 3 alone: nothing links it to the others."""
    frame = pd.DataFrame({"session": list("aabbcc"), "host": "h"})
    parts = linked_parts(frame, np.array([0, 1, 1, 2, 3, 3]))
    assert len(set(parts[:4])) == 1
    assert set(parts[4:]) & set(parts[:4]) == set()
    assert set(linked_parts(frame.assign(session="one"), np.arange(6))) == {0}


def test_sizes_that_each_session_ran_alone_show_no_curve() -> None:
    """Two sizes in one session, a third and a fourth in sessions of their own: four sizes, of which two compare."""
    rng = np.random.default_rng(4)
    rows = [(size, s) for s, sizes in enumerate(([32, 96], [128], [128], [256])) for size in sizes for _ in range(4)]
    frame = pd.DataFrame(rows, columns=["samples", "session"]).sample(frac=1, random_state=0)
    table = load_runs(
        frame.assign(
            epochs=1, session=frame["session"].map("s{}".format), order=range(len(frame)),
            energy_kwh=1e-3 + 1e-5 * frame["samples"] * np.exp(0.02 * rng.normal(size=len(frame))),
        )
    )  # fmt: skip
    claims = {claim.id: claim for claim in decide(table).claims}
    for name in ("linear_in_samples", "doubling_doubles"):
        assert claims[name].verdict == "undecided"
        assert "run in different sessions, whose effects look alike; at most 2 were run in one" in claims[name].reason
