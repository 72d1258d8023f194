"""The runs of one process share what their model cache shares, and a sweep's estimate bills it once."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_scaling.commands.estimate import main
from lora_scaling.config import RunConfig, compose
from lora_scaling.errors import UserError
from lora_scaling.estimate.priors import load_priors
from lora_scaling.estimate.sweeps import estimates_of, expand
from tests.support.paths import STUDY_RUNS

RECORDS = sorted(STUDY_RUNS.glob("*/*/run.json"))

# Settings of runs in their order, and whether the model is set up for each.
ORDER = (
    ((), True),
    ((), False),
    (("lora.r=4", "samples=16", "epochs=2"), False),  # another adapter and other data on the same model
    (("precision=fp32",), False),  # which auto is, on a processor
    (("method=full",), True),
    (("method=full",), True),  # was trained as a whole
    ((), True),  # the whole one took its place
    (("seed=8",), True),
    (("seed=8", "reuse=false"), True),
    (("seed=8",), True),
    (("seed=8", "method=qlora"), True),
    (("seed=8", "method=qlora", "lora.r=4"), False),
)


def billed(runs: list[RunConfig]) -> list[bool]:
    """Whether more than the little that a reused model costs is billed for each run's set-up."""
    again = load_priors().values["reuse_s"]
    return [not math.isclose(answer.parts["setup"].seconds, again) for answer in estimates_of(runs)]


def test_setup_is_billed_where_the_model_changes(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pytest.importorskip("numpy")
    runs = [tiny("seed=7", *overrides) for overrides, _ in ORDER]
    assert billed(runs) == [new for _, new in ORDER]


@pytest.mark.slow
def test_a_process_sets_up_the_models_that_were_billed(made: Callable[..., dict[str, Any]]) -> None:
    found = []
    for number, (overrides, _) in enumerate(ORDER):
        record = made("seed=7", f"replicate={number}", "study=shared", *overrides)
        assert record["status"] == "ok", record["error"]
        found.append("model" not in record["setup_reused"])
    assert found == [new for _, new in ORDER]


def test_sharded_models_are_set_up_for_every_run() -> None:
    job = ["model=llama-3.2-1b", "hardware=h100-sxm", "hardware.count=2", "gradient_accumulation=2", "samples=100"]
    assert billed([compose([*job, "sharding=fsdp"])] * 2) == [True, True]
    assert billed([compose(job)] * 2) == [True, False]


def test_a_sweep_on_the_command_line_bills_one_setup(capsys: pytest.CaptureFixture[str]) -> None:
    job = ["model=llama-3.1-8b", "method=qlora", "hardware=rtx-4090", "gradient_checkpointing=true"]
    assert main(["-m", *job, "samples=100,200", "lora.r=4,8", "replicates=3", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    setups = [run["parts"]["setup"]["seconds"] for run in runs]
    assert setups[0] > 20  # 12 s to start, and 16 GB to read
    assert set(setups[1:]) == {load_priors().values["reuse_s"]}


def test_runs_of_no_steps_are_named_in_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "max_steps=0,2,null", "hardware=rtx-4090"]) == 0
    shown = capsys.readouterr().out
    for label in ("256 samples × 1, no training ", "256 samples × 1, at most 2 steps ", "256 samples × 1   "):
        assert label in shown


@pytest.mark.skipif(not RECORDS, reason="the study's records are not in this copy")
def test_the_setups_that_were_measured_are_what_is_billed() -> None:
    """Every run of the study: first set-ups within a factor 2; within 8 where the model was there, which is little."""
    c = load_priors().values
    seen: dict[bool, int] = {True: 0, False: 0}
    for path in RECORDS:
        record = json.loads(path.read_text(encoding="utf-8"))
        setup_s = next(phase["seconds"] for phase in record["energy"]["phases"] if phase["name"] == "setup")
        reused = "model" in record["setup_reused"]
        if not reused and record["setup_reused"]:
            continue  # its tokens were there
        gguf = record["config"]["model"]["gguf_file"] is not None
        rate = c["gguf_weights_per_s" if gguf else "random_weights_per_s"]
        expected = c["reuse_s"] if reused else c["start_cpu_s"] + record["model"]["params"] / rate
        assert abs(math.log(setup_s / expected)) < math.log(8 if reused else 2), path
        seen[reused] += 1
    assert seen[True] > 50
    assert seen[False] > 15


@pytest.mark.parametrize(
    ("swept", "words"),
    [
        ("hardware=l4,h100-sxm", r"hardware: got l4,h100-sxm in a sweep.*compare=gpus"),
        ("hardware.count=1,2", r"hardware\.count: got 1,2 in a sweep.*compare=gpus"),
        ("grid.zone=DK1,PL", r"grid\.zone: got DK1,PL in a sweep.*compare=zones"),
        ("grid.pue=choice(1.0,1.4)", r"grid\.pue: got .*compare=zones"),
    ],
)
def test_what_changes_no_run_is_not_swept_but_compared(swept: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        expand([swept, "samples=100,200"])


def test_a_device_or_zone_for_the_whole_sweep_is_no_sweep_over_it() -> None:
    runs = expand(["hardware=l4", "grid.zone=DK1", "samples=100,200"])
    assert [run.hardware.name for run in runs] == ["l4", "l4"]


def test_runs_in_processes_of_their_own_each_set_up() -> None:
    runs = expand(["hardware=l4", "model=llama-3.2-1b", "samples=100,200,300"])
    setups = [answer.parts["setup"] for answer in estimates_of(runs, one_process=False)]
    assert setups == [setups[0]] * 3
    assert setups[0] == estimates_of(runs)[0].parts["setup"] != estimates_of(runs)[1].parts["setup"]
