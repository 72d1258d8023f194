"""The document of `claims --json`, field by field, and each kind of warning that the contract names."""

import argparse
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import cli
from analysis.claims import verdicts
from analysis.claims.registry import CLAIM_IDS
from benchmarks.simulated_tables import PROCESSES
from lora_scaling import claim_defaults as questions
from lora_scaling.commands import study

CLAIM_FIELDS = {"id", "verdict", "estimate", "ci", "quantity", "reason", "tests", "needs"}


def draw(name: str, seed: int = 0) -> pd.DataFrame:
    return next(process for process in PROCESSES if process.name == name).make(np.random.default_rng(seed))


@pytest.fixture
def claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The document that the command prints for a frame."""

    def run(frame: pd.DataFrame, *options: str) -> dict[str, Any]:
        frame.to_csv(tmp_path / "runs.csv", index=False)
        assert cli.main(["claims", str(tmp_path / "runs.csv"), "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_the_document_has_the_shape_of_the_contract(claims: Callable[..., dict[str, Any]]) -> None:
    frame = draw("samples × epochs, interchangeable")
    frame.loc[2, ["status", "error"]] = ["oom", "no memory"]
    document = claims(frame)
    assert {"schema_version", "margin", "level", "runs_used", "runs_excluded", "warnings", "claims"} <= set(document)
    assert document["runs_used"] == len(frame) - 1
    assert document["runs_excluded"] == [{"run_id": frame["run_id"][2], "reason": "status oom: no memory"}]
    assert [claim["id"] for claim in document["claims"]] == list(CLAIM_IDS)
    for claim in document["claims"]:
        assert set(claim) >= CLAIM_FIELDS
        assert claim["verdict"] in ("supported", "refuted", "undecided")
        assert claim["quantity"]
        assert claim["reason"].endswith(".")
        assert isinstance(claim["tests"], dict)
        assert (claim["estimate"] is None) == (claim["ci"] is None)
        if claim["ci"] is not None:
            assert claim["ci"][0] <= claim["estimate"] <= claim["ci"][1]
        if claim["verdict"] != "undecided":
            assert claim["needs"] is None


def test_level_and_margin_are_those_asked_for_and_do_what_they_say(claims: Callable[..., dict[str, Any]]) -> None:
    frame = draw("affine, fixed cost 20 %")
    usual, sure, strict = claims(frame), claims(frame, "--level", "0.99"), claims(frame, "--margin", "0.001")
    assert (usual["level"], usual["margin"]) == (0.95, 0.05)
    assert (sure["level"], strict["margin"]) == (0.99, 0.001)
    linear = [document["claims"][0] for document in (usual, sure, strict)]
    widths = [claim["ci"][1] - claim["ci"][0] for claim in linear]
    assert widths[1] > 1.2 * widths[0] == pytest.approx(1.2 * widths[2])
    assert [claim["verdict"] for claim in (linear[0], linear[2])] == ["supported", "undecided"]


def alternating(frame: pd.DataFrame, column: str, *values: str) -> pd.DataFrame:
    return frame.assign(**{column: [values[i % len(values)] for i in range(len(frame))]})


MODELLED = {"energy_source_cpu": "load_model", "energy_source_ram": "constant_model"}
WARNED: dict[str, Callable[[], pd.DataFrame]] = {
    "order_drift": lambda: draw("drift, runs shuffled"),
    "order_confounded": lambda: draw("drift, runs in order"),
    "mixed_hardware": lambda: draw("two GPUs mixed"),
    "mixed_energy_source": lambda: alternating(draw("proportional"), "energy_source_cpu", "rapl", "load_model"),
    "outlier": lambda: draw("one gross outlier"),
    "unit": lambda: draw("one row in Wh"),
    "duplicate": lambda: draw("duplicated rows"),
    "heteroscedastic": lambda: draw("unequal noise"),
    "modelled_energy": lambda: draw("proportional").assign(**MODELLED),
    "not_exclusive": lambda: draw("proportional").assign(exclusive=lambda frame: np.arange(len(frame)) > 0),
}


@pytest.mark.parametrize("kind", WARNED)
def test_each_kind_of_warning_is_given_where_it_is_due(kind: str, claims: Callable[..., dict[str, Any]]) -> None:
    frame = WARNED[kind]()
    warnings = claims(frame)["warnings"]
    found = [warning for warning in warnings if warning["kind"] == kind]
    assert found, [warning["kind"] for warning in warnings]
    for warning in warnings:
        assert set(warning) == {"kind", "message", "run_ids"}
        assert warning["message"]
        assert set(warning["run_ids"]) <= set(frame["run_id"])
    if kind in ("outlier", "unit", "duplicate", "not_exclusive"):
        assert found[0]["run_ids"]


def test_a_clean_table_brings_no_warning(claims: Callable[..., dict[str, Any]]) -> None:
    assert claims(draw("proportional").assign(session="monday"))["warnings"] == []
    assert [warning["kind"] for warning in claims(draw("proportional"))["warnings"]] == ["session_unknown"]


def test_an_adaptive_study_asks_for_claims_that_exist_with_the_defaults_of_all_commands() -> None:
    assert set(questions.ADAPTIVE) <= set(CLAIM_IDS)
    asked = study.parse(["claim=linear_in_samples", "max_kwh=1"])
    assert (asked.margin, asked.level) == (questions.MARGIN, questions.LEVEL)
    assert f"default {questions.MARGIN:g}" in study.USAGE
    assert f"default {questions.LEVEL:g}" in study.USAGE


@pytest.mark.parametrize("command", ["claims", "design", "report"])
def test_every_command_asks_with_the_same_defaults(command: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"analysis.commands.{command}").add_arguments(parser)
    args = parser.parse_args(["runs"])
    assert (args.margin, args.level) == (questions.MARGIN, questions.LEVEL)
    assert verdicts.Options() == verdicts.Options(margin=questions.MARGIN, level=questions.LEVEL)
