"""docs/study is what its sweeps make: the same runs by name, each finished, and commands that would join them."""

import json
import shutil
from pathlib import Path

import pytest

from analysis.claims.decide import decide
from analysis.claims.verdicts import Options
from analysis.tables.table import load_runs
from lora_scaling.config import compose, run_id
from lora_scaling.estimate.sweeps import expand
from lora_scaling.records import find_records
from tests.support.paths import STUDY_RUNS
from tests.support.runs import read_record


def published(study: str) -> dict[str, str]:
    return {path.parent.name: read_record(path)["status"] for path in find_records([STUDY_RUNS / study])}


@pytest.mark.parametrize(("study", "runs"), [("linear", 67), ("size", 36), ("method", 27), ("grouping", 18)])
def test_the_sweeps_make_the_published_runs(study: str, runs: int) -> None:
    """A run's name holds all that determines its work: the same command would find every one of them finished."""
    planned = {run_id(config) for config in expand([f"+sweeps=study_{study}"])}
    assert len(planned) == runs
    assert published(study) == dict.fromkeys(planned, "ok")


def test_the_command_that_would_decide_a_claim_repeats_the_settings_of_the_runs() -> None:
    """What is there already is skipped, and what is new can be compared with it."""
    claims = {claim.id: claim for claim in decide(load_runs([STUDY_RUNS / "method"]), Options()).claims}
    needs = claims["full_vs_lora"].needs
    assert needs is not None
    assert needs.command is not None
    words = needs.command.removeprefix("python -m lora_scaling -m ").split()
    planned = {run_id(config) for config in expand(words)}
    there = {name for name in published("method") if name.startswith(("ladder-3m-lora-", "ladder-3m-full-"))}
    assert len(there) == 6
    assert there <= planned


def test_records_of_two_versions_are_read_together(tmp_path: Path) -> None:
    """The published records are of 0.1.0; every second one gets the settings that this version adds."""
    shutil.copytree(STUDY_RUNS / "method", tmp_path / "method")
    here = compose([]).to_dict()
    for path in find_records([tmp_path])[::2]:
        record = json.loads(path.read_text(encoding="utf-8"))
        config = record["config"]
        assert "use_dora" not in config["lora"]
        record["training"] |= {"attn_implementation": "sdpa", "pure_bf16": False}  # as these ran, and a record now says
        record["config"] = {**here, **config, "lora": {**here["lora"], **config["lora"]}}
        path.write_text(json.dumps(record), encoding="utf-8")
    old, mixed = (decide(load_runs([folder / "method"]), Options()).document() for folder in (STUDY_RUNS, tmp_path))
    assert mixed["runs_used"] == old["runs_used"]
    assert mixed["warnings"] == old["warnings"]
    assert [(c["id"], c["verdict"], c["ci"]) for c in mixed["claims"]] == [
        (c["id"], c["verdict"], c["ci"]) for c in old["claims"]
    ]


def test_full_fine_tuning_is_compared_with_lora_in_the_published_runs() -> None:
    """Full fine-tuning has no adapter, hence none of its settings: these must not keep the two apart."""
    table = load_runs([STUDY_RUNS / name for name in ("method", "method_more")])
    claims = {claim.id: claim for claim in decide(table, Options()).claims}
    found = claims["full_vs_lora"].tests["by_model"]
    assert {name: own["verdict"] for name, own in found.items()} == {
        "ladder-3m": "refuted",
        "ladder-30m": "supported",
        "ladder-100m": "supported",
    }


def test_a_sweep_with_another_setting_takes_no_verdict_from_one_without_it() -> None:
    """`grouping` differs from `linear` in the grouping by length alone, which bends its growth: samples^0.93, not 1.00.

    Each setting is judged alone; together, linearity in samples depends on it, and the other verdicts are the same.
    """
    alone, both = (
        decide(load_runs([STUDY_RUNS / name for name in names]), Options()).claims[:4]
        for names in (["linear"], ["linear", "grouping"])
    )
    assert [claim.verdict for claim in alone] == ["supported", "supported", "refuted", "supported"]
    assert [claim.verdict for claim in both] == ["undecided", "supported", "refuted", "supported"]
    assert "it depends on the settings" in both[0].reason
    assert both[0].tests["by_group"]["group_by_length=false"]["verdict"] == "supported"
    assert both[0].tests["by_group"]["the defaults"]["estimate"] == pytest.approx(0.93, abs=0.01)
