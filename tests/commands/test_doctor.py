"""`python -m lora_scaling.doctor` on this machine, beside counters of one's own, and on stub GPUs."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lora_scaling.commands import doctor
from lora_scaling.energy import diagnosis as diagnosing
from lora_scaling.energy.diagnosis import Diagnosis, SelfTest
from lora_scaling.energy.nvml import Gpu
from tests.support import doctor_examples, nvml_stub


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WITHOUT_GPU_S", 0.3)


def test_doctor_says_of_each_component_where_its_energy_comes_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lora_scaling.energy.diagnosis.POWERCAP", str(tmp_path))
    assert doctor.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts = {part["component"]: part for part in found["components"]}
    assert set(parts) == {"gpu", "cpu", "ram"}
    assert parts["ram"]["device"] == f"{psutil.virtual_memory().total / 1024**3:.0f} GB"
    if parts["cpu"]["kind"] == "modelled":
        assert any(f"no RAPL counter under {tmp_path}" in text for text in parts["cpu"]["advice"])
    assert found["packages"]["codecarbon"].startswith("3.")
    assert found["extras"]["test"] in (True, False)
    assert found["self_test"]["watts"]["ram"] > 0
    assert found["self_test"]["clock_drift_s"] == pytest.approx(0, abs=0.1)
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert "error of its energy" in text
    assert "Self-test, 0.3 s idle: " in text


def test_a_mistake_on_the_command_line_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--jsn"]) == 2
    assert capsys.readouterr().err.startswith("lora-scaling: --jsn: not an option")


@pytest.fixture(scope="module")
def outputs() -> dict[str, tuple[str, dict[str, Any]]]:
    """What doctor prints on each of the documented machines, and its JSON document; they mostly sleep."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda machine: doctor_examples.output(machine, load_s=2.0), doctor_examples.MACHINES)
        return dict(zip(doctor_examples.MACHINES, found, strict=True))


needs_gcc = pytest.mark.skipif(not nvml_stub.have_compiler(), reason="needs gcc on Linux")


@needs_gcc
def test_doctor_compares_the_counters_of_gpus_with_their_power(outputs: dict[str, tuple[str, dict[str, Any]]]) -> None:
    found = outputs[doctor_examples.MACHINES[1]][1]
    gpus = [part for part in found["components"] if part["component"] == "gpu"]
    assert [gpu["source"] for gpu in gpus] == ["nvml_counter", "nvml_counter", "nvml_power"]
    assert gpus[0]["device"] == "0: Simulated A"
    assert gpus[0]["resolution_s"] == pytest.approx(0.1, abs=0.05)
    assert "no energy counter" in gpus[2]["advice"][0]
    test = found["self_test"]
    assert test["counter_over_power"] == {"0": pytest.approx(1, abs=0.1), "1": pytest.approx(1.75, abs=0.1), "2": None}
    assert test["suspected"] == [1]
    assert test["idle_gpu_w"] == pytest.approx({"0": 120, "1": 210, "2": 120}, rel=0.2)
    assert test["watts"]["gpu"] == pytest.approx(120 + 210 + 120, rel=0.05)


@needs_gcc
def test_doctor_reads_the_counters_of_processor_and_memory(outputs: dict[str, tuple[str, dict[str, Any]]]) -> None:
    watts = outputs[doctor_examples.MACHINES[2]][1]["self_test"]["watts"]
    assert (watts["cpu"], watts["ram"]) == (pytest.approx(65, rel=0.1), pytest.approx(4, rel=0.1))


@needs_gcc
@pytest.mark.parametrize("machine", doctor_examples.MACHINES)
def test_the_documented_outputs_are_those_of_today(
    machine: str, outputs: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    """If this fails: `python -m tests.support.doctor_examples` writes them anew."""
    shown, (today, _) = doctor_examples.documented(machine), outputs[machine]
    assert "measured" in shown or "modelled" in shown
    assert doctor_examples.normalised(today) == doctor_examples.normalised(shown)


def diagnosis(**changes: Any) -> Diagnosis:
    test = SelfTest(
        seconds=8.0, watts={"gpu": 300.0}, idle_gpu_w={0: 60.0}, counter_over_power={0: 1.01}, suspected=(),
        clock_drift_s=0.0, clock_synchronised=True, other_load_cores=0.0, exclusive=True, warnings=(),
    )  # fmt: skip
    return Diagnosis(components=(), self_test=replace(test, **changes), notes=(), packages={})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "Self-test, 8 s with the GPU busy: gpu 300 W."),
        ({}, "Idle power: GPU 0 60 W."),
        ({}, "GPU 0: its counter gave 1.01 × what its power readings add up to: they agree."),
        ({}, "Clock: steady."),
        ({}, "Neighbours: none."),
        ({"clock_drift_s": -0.5}, "Clock: adjusted by -0.500 s during the test"),
        ({"clock_synchronised": False}, "Clock: steady; no time service (chrony, ntpd) keeps it right"),
        ({"exclusive": None}, "Neighbours: cannot be seen from here."),
        ({"exclusive": False, "warnings": ("GPU 0 was also used by 7.",)}, "Warning: GPU 0 was also used by 7."),
        ({"suspected": (0,)}, "they do not agree, and runs have a wide bound."),
    ],
)
def test_what_the_self_test_found_is_said(changes: dict[str, Any], line: str) -> None:
    assert line in doctor.render(diagnosis(**changes), loaded=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_that_only_root_may_read_comes_with_the_command_that_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosing, "POWERCAP", str(tmp_path))
    monkeypatch.setattr(diagnosing, "ZEUSD_SOCKET", str(tmp_path))
    file = tmp_path / "intel-rapl:0" / "energy_uj"
    file.parent.mkdir()
    file.write_text("1")
    file.chmod(0o000)
    assert [text.split(":")[0] for text in diagnosing.rapl_advice()] == [
        "the processor has a counter that only root may read",
        "zeusd runs here, but this program reads counters itself",
    ]  # fmt: skip


def test_notes_name_what_the_figures_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(index=2, uuid="GPU-2", name="Stub", handle=None)
    meter: Any = SimpleNamespace(gpus=(gpu,), nvml=SimpleNamespace(name="nvml", mig_enabled=lambda gpu: True))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    notes = " ".join(diagnosing.notes_on(meter))
    for words in ("Slurm job", "CUDA_VISIBLE_DEVICES=2", "GPU 2 is divided", "-mig 0", "`nvidia-smi` is not on PATH"):
        assert words in notes
