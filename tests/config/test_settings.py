"""One table of settings: every setting of a run has its row, and runs from before a setting keep their names."""

import dataclasses
from typing import Any

import pytest

from lora_scaling.config import RunConfig, compose, run_id
from lora_scaling.config.build import build
from lora_scaling.config.compose import setting_names
from lora_scaling.errors import UserError
from lora_scaling.estimate import estimate
from lora_scaling.estimate.compare import compare
from lora_scaling.records import COLUMNS, find_records
from lora_scaling.settings import SETTINGS, value_at
from tests.support.paths import STUDY_RUNS
from tests.support.runs import read_record

NAMES = [setting.name for setting in SETTINGS]
GROUPS = {name for name in NAMES if any(other.startswith(f"{name}.") for other in setting_names())}


def test_every_row_is_a_setting_and_every_setting_has_its_row() -> None:
    """A group's row stands for the settings of the group; of `lora`, which has no row, each has one of its own."""
    assert len(set(NAMES)) == len(NAMES)
    assert set(NAMES) <= set(setting_names())
    for name in setting_names():
        group = name.partition(".")[0]
        assert name in NAMES or group in GROUPS or name == "lora", f"{name} has no row"


def test_columns_are_those_of_the_runs_table() -> None:
    columns = [setting.column for setting in SETTINGS if setting.column]
    assert len(set(columns)) == len(columns)
    assert set(columns) <= set(COLUMNS)


def filled(have: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A record's configuration, with the defaults of the settings that have come since."""
    return {
        name: filled(have[name], value)
        if name in ("lora", "metering", "grid", "data") and name in have
        else have.get(name, value)
        for name, value in defaults.items()
    }


@pytest.fixture(scope="module")
def published() -> list[tuple[str, RunConfig]]:
    """The names and configurations of the published runs whose data are built in: 183 of 200."""
    defaults = compose([]).to_dict()
    records = [read_record(path) for path in find_records([STUDY_RUNS, STUDY_RUNS.parent / "forward"])]
    kept = [record for record in records if value_at(record, "config.data.kind") == "synthetic"]
    return [(record["run_id"], build(RunConfig, filled(value_at(record, "config"), defaults), "")) for record in kept]


def test_published_runs_keep_their_names(published: list[tuple[str, RunConfig]]) -> None:
    assert len(published) == 183
    assert {name for name, config in published if run_id(config) != name} == set()


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.has_older], ids=lambda s: s.name)
def test_a_setting_that_came_later_names_only_runs_that_use_it(setting: Any) -> None:
    config = compose(["method=full"] if setting.name == "pure_bf16" else [])
    assert value_at(config.to_dict(), setting.name) == setting.older
    field, _, leaf = setting.name.rpartition(".")
    other = {"none": "fsdp", "auto": "eager", None: __file__}.get(setting.older, not setting.older)
    if field:
        changed = dataclasses.replace(config, **{field: dataclasses.replace(getattr(config, field), **{leaf: other})})
    else:
        changed = dataclasses.replace(config, **{leaf: other})
    assert run_id(changed) != run_id(config)


def test_dora_names_the_run_and_is_refused_without_adapters() -> None:
    assert run_id(compose(["lora.use_dora=true"])) != run_id(compose([]))
    assert run_id(compose(["lora.use_dora=false"])) == run_id(compose([]))
    with pytest.raises(UserError, match=r"^lora\.use_dora: got true with method=full, .*; use method=lora or qlora$"):
        compose(["method=full", "lora.use_dora=true"])


def test_an_estimate_says_that_dora_is_not_counted() -> None:
    plain, dora = (estimate(compose(["hardware=rtx-4090", f"lora.use_dora={flag}"])) for flag in ("false", "true"))
    assert [text for text in dora.assumptions if text not in plain.assumptions] == [
        "DoRA's weight norms, computed in each pass, are not counted: time, energy and memory will be higher"
    ]


def test_methods_are_compared_with_dora_where_there_are_adapters() -> None:
    found = dict(compare(compose(["hardware=rtx-4090", "lora.use_dora=true"]), "method:lora,full"))
    assert [any("DoRA" in text for text in found[name].assumptions) for name in ("lora", "full")] == [True, False]
