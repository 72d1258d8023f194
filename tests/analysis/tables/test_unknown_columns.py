"""Columns of unknown meaning are listed, and one that may have made a difference keeps every verdict undecided."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import decide, load_runs
from analysis.tables.column_options import ColumnOptions
from analysis.tables.table import RunTable

NOISE = np.exp(0.005 * np.random.default_rng(7).standard_normal(48))
RUNS = pd.DataFrame({"samples": np.repeat([1000, 2000, 4000, 8000], 12), "epochs": 1}).assign(
    energy_kwh=lambda f: (0.002 + 2e-5 * f["samples"]) * NOISE
)
PLACE = np.arange(48)


def linear(table: RunTable) -> str:
    return {claim.id: claim.verdict for claim in decide(table).claims}["linear_in_samples"]


def unnamed(frame: pd.DataFrame, **options: object) -> tuple[str, ...]:
    return load_runs(frame, options=ColumnOptions(**options)).separating  # pyright: ignore[reportArgumentType]


def test_a_setting_of_unknown_name_keeps_the_verdict_undecided_until_it_is_named_or_ignored() -> None:
    style = np.where(PLACE % 2, "long", "short")
    frame = RUNS.assign(style=style, energy_kwh=RUNS["energy_kwh"] * np.where(PLACE % 2, 3.6, 1.0))
    table = load_runs(frame)
    assert linear(table) == "undecided"
    reason = next(claim.reason for claim in decide(table).claims if claim.id == "linear_in_samples")
    assert "--column 'data=style'" in reason
    assert "--ignore 'style'" in reason
    assert linear(load_runs(frame, options=ColumnOptions(columns={"data": "style"}))) == "supported"
    assert unnamed(frame, ignore=["style"]) == ()


def test_a_setting_that_changes_with_the_samples_cannot_be_told_from_them() -> None:
    assert unnamed(RUNS.assign(net=np.where(RUNS["samples"] > 2000, "7B", "1B"))) == ("net",)
    assert unnamed(RUNS.assign(depth=np.where(RUNS["samples"] > 2000, 24, 12))) == ("depth",)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("style", np.where(PLACE % 2, "a", "b")),  # it made no difference
        ("batches", RUNS["samples"] // 8),  # the work by another measure
        ("accuracy", np.round(0.5 + RUNS["samples"] / 20000, 2)),  # an outcome
        ("trial_id", PLACE % 3),
        ("label", [f"run-{i}" for i in PLACE]),  # a name for each row
        ("reading", RUNS["energy_kwh"] * 7),
        ("machine", "x"),
    ],
)
def test_what_makes_no_difference_is_listed_and_stops_nothing(name: str, cells: Any) -> None:
    table = load_runs(RUNS.assign(**{name: cells}))
    assert table.separating == ()
    [listed] = [warning.message for warning in table.warnings if warning.kind == "unknown_columns"]
    assert f"`{name}`" in listed
    assert linear(table) == "supported"


def test_columns_that_are_known_are_not_listed() -> None:
    assert "unknown_columns" not in {warning.kind for warning in load_runs(RUNS.assign(repeat=1, lora_r=8)).warnings}
    assert unnamed(RUNS.assign(name=[f"n{s}" for s in RUNS["samples"]]).drop(columns="samples"),
                   samples_from=r"name:n(\d+)") == ()  # fmt: skip


def test_commas_between_thousands_where_the_decimals_are_points() -> None:
    frame = RUNS.assign(samples=RUNS["samples"].map("{:,}".format), energy_kwh=RUNS["energy_kwh"].astype(str))
    table = load_runs(frame)
    assert table.frame["samples"].tolist() == RUNS["samples"].tolist()
    assert "thousands" in {warning.kind for warning in table.warnings}
