"""The acceptance on a GPU: its judgements, its bundle, and all of its steps at a small size."""

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.on_gpu import acceptance, gather, steps
from benchmarks.on_gpu.checks import Findings
from benchmarks.on_gpu.place import Place


@pytest.mark.parametrize(
    ("value", "passed"), [(1.0, True), (0.97, True), (1.04, False), (None, False), (math.nan, False), (math.inf, False)]
)
def test_a_value_that_is_unknown_or_outside_fails(value: float | None, passed: bool) -> None:
    found = Findings()
    found.within("ratio", value, 0.97, 1.03)
    found.reports("watts", 250.0)
    assert [check.passed for check in found.checks] == [passed, None]
    step = {**found.to_dict(), "error": None, "seconds": 1.0}
    assert acceptance.failed(step) is not passed
    assert ("FAILED" in acceptance.render({"counter": step})) is not passed


def test_a_step_that_dies_fails() -> None:
    step = {**Findings().to_dict(), "error": "not finished after 30 s", "seconds": 30.0}
    assert acceptance.failed(step)
    assert "error: not finished after 30 s" in acceptance.render({"counter": step})


def test_an_unknown_step_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        acceptance.main([str(tmp_path), "--only", "no_such_step"])
    assert "choose from doctor, probe, counter" in capsys.readouterr().err


@pytest.mark.parametrize(("small", "simulated"), [(True, False), (True, True), (False, False)])
def test_the_settings_of_a_short_run_are_settings(small: bool, simulated: bool, tmp_path: Path) -> None:
    from lora_scaling.config import compose

    data = tmp_path / "instructions.json"
    data.write_text(json.dumps(gather.instructions(8)))
    config = compose(Place(folder=tmp_path, small=small, simulated=simulated, data=data).sized)
    assert config.metering.gpu_ids == ((0,) if simulated else None)
    assert config.data.kind == ("synthetic" if small else "file")


def test_steps_take_eight_minutes_at_the_most_on_a_gpu_in_all_but_what_is_stuck() -> None:
    assert set(steps.STEPS) >= {
        "doctor",
        "counter",
        "methods",
        "memory",
        "profile",
        "pilot",
        "sizes",
        "linear",
        "ranks",
    }
    assert max(step.limit_s for step in steps.STEPS.values()) <= 180


def test_the_bundle_has_what_this_project_needs_and_a_bare_machine_lacks() -> None:
    names = {line.partition("==")[0] for line in gather.lacking()}
    assert {"transformers", "peft", "codecarbon", "hydra-core", "bitsandbytes", "tokenizers", "gguf"} <= names
    assert not {"torch", "numpy", "pandas", "lora-scaling"} & names
    assert not [name for name in names if name.startswith(("nvidia-cu", "triton"))]


def test_other_versions_of_cuda_are_left_out_of_a_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    files = {
        "b/__init__.py": "x",
        "b/libb_cuda118.so": "old",
        "b/libb_cuda130.so": "new",
        "b-1.dist-info/RECORD": "all",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    gather.lighten(wheel, ("cuda130",))
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == set(files) - {"b/libb_cuda118.so"}
        listed = [line.split(",")[0] for line in archive.read("b-1.dist-info/RECORD").decode().splitlines()]
    assert set(listed) == set(files) - {"b/libb_cuda118.so"}


def test_the_instructions_differ_in_length() -> None:
    lengths = [len(row["instruction"]) + len(row["output"]) for row in gather.instructions(600)]
    assert max(lengths) > 10 * min(lengths)
    assert len(lengths) == 600


@pytest.mark.simulation
def test_every_step_passes_at_a_small_size(tmp_path: Path) -> None:
    assert acceptance.main([str(tmp_path), "--small"]) == 0
    summary: dict[str, Any] = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["steps"]) == set(steps.STEPS)
