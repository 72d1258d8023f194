"""`python -m lora_scaling.doctor` on this machine, beside counters of one's own, and on stub GPUs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

from lora_scaling.commands import doctor
from tests.support import nvml_stub
from tests.support.nvml_stub import Law


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "IDLE_S", 0.3)


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


DOCTOR = "import sys; from lora_scaling.commands import doctor; doctor.LOAD_S = 3.0; sys.exit(doctor.main(['--json']))"


@pytest.mark.skipif(not nvml_stub.have_compiler(), reason="needs gcc on Linux")
def test_doctor_compares_the_counters_of_gpus_with_their_power(tmp_path: Path) -> None:
    law = tmp_path / "law"
    power = ((time.time() - 5, 200.0),)
    laws = [
        Law(power=power, extras={"step": "0.1", "name": "Stub A"}),
        Law(power=power, extras={"scale": "1.75"}),
        Law(power=power, extras={"nocounter": ""}),
    ]
    nvml_stub.write_laws(law, laws)
    process = nvml_stub.run_python(DOCTOR, nvml_stub.environment(law))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found = json.loads(out)
    gpus = [part for part in found["components"] if part["component"] == "gpu"]
    assert [gpu["source"] for gpu in gpus] == ["nvml_counter", "nvml_counter", "nvml_power"]
    assert gpus[0]["device"] == "0: Stub A"
    assert gpus[0]["resolution_s"] == pytest.approx(0.1, abs=0.05)
    assert "no energy counter" in gpus[2]["advice"][0]
    ratios = found["self_test"]["counter_over_power"]
    assert ratios["0"] == pytest.approx(1, abs=0.1)
    assert ratios["1"] == pytest.approx(1.75, abs=0.1)
    assert ratios["2"] is None
    assert found["self_test"]["watts"]["gpu"] == pytest.approx(200 + 350 + 200, rel=0.05)
