"""Words of a table that choose its runs again: only settings, quoted, and nothing in them is resolved."""

import shlex

import pandas as pd
import pytest

from analysis.claims.next_runs import common_overrides
from analysis.energy_model.target import own_settings
from analysis.regression.curve_analysis import cells_of
from analysis.tables.table import RunTable, table_from_frame


def table_of(**cells: str) -> RunTable:
    frame = pd.DataFrame({"samples": [32, 64, 128], "epochs": 1, "energy_kwh": [1.1, 2.2, 4.3]})
    return table_from_frame(frame.assign(model="ladder-1m", method="lora", **cells))


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("settings_override", "padding=longest ; touch x"),
        ("settings_override", "runs_dir=/elsewhere"),  # a setting, and none of the work
        ("settings_override", "grid.base_url=http://elsewhere"),
        ("settings_override", "padding=${oc.env:HOME}"),
        ("settings_override", "padding='longest"),
        ("settings_override", "padding=\x1b[2J"),
        ("settings_override", "'padding=longest;touch x'"),  # not in the grammar of settings
        ("settings_override", "padding=longest,none"),  # a sweep
        ("settings_override", "padding='choice(longest,none)'"),
        ("model_override", "model=hub model.id=${oc.env:HOME}"),
        ("model_override", "model=../config"),
        ("model_override", "data=hub data.path=a/b"),
        ("data_override", "data=file data.path=$'${x'"),
    ],
)
def test_a_cell_that_is_no_list_of_settings_is_unknown_and_named(column: str, text: str) -> None:
    table = table_of(**{column: text})
    assert table.frame[column].isna().all()
    assert [w.kind for w in table.warnings if column in w.message] == ["bad_value"]
    for words in (common_overrides(table.frame), own_settings(table.frame)):
        assert not [word for word in words if "$" in word or ";" in word or "elsewhere" in word or ".." in word]


def test_words_of_a_table_are_quoted_in_a_command() -> None:
    table = table_of(settings_override="'padding=longest|touch x' packing=true")
    words = " ".join(common_overrides(table.frame))
    assert "padding='longest|touch x'" in words
    assert {"padding=longest|touch x", "packing=true"} <= set(shlex.split(words))


def test_the_words_of_our_own_records_are_kept() -> None:
    text = "lora.target_modules='[q_proj,v_proj]' model.name=x"
    assert table_of(settings_override=text).frame["settings_override"].isna().all()  # one belongs to the model
    kept = table_of(settings_override="lora.target_modules='[q_proj,v_proj]'").frame["settings_override"]
    assert (kept == "lora.target_modules='[q_proj,v_proj]'").all()


@pytest.mark.parametrize("told", ["column", "words", "record"])
def test_runs_with_and_without_dora_are_different_work(told: str) -> None:
    """Whether a table has the column, the words of the settings, or both, as our own records give them."""
    frame = pd.DataFrame({"samples": [32, 32, 64, 64], "epochs": 1, "energy_kwh": [1.1, 1.3, 2.1, 2.6]})
    flag = pd.Series([False, True] * 2)
    if told != "words":
        frame["use_dora"] = flag
    if told != "column":
        frame["settings_override"] = flag.map({True: "lora.use_dora=true", False: ""})
    cells = cells_of(table_from_frame(frame).frame)
    assert cells[0] == cells[2] != cells[1] == cells[3]
