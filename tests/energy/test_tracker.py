"""What is read of CodeCarbon: its parameters, its private attributes, the truth about its sources."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import codecarbon.core.util
import codecarbon.external.ram
import psutil
import pytest
from codecarbon import OfflineEmissionsTracker
from codecarbon.core.gpu_device import GPUDevice
from codecarbon.emissions_tracker import BaseEmissionsTracker
from codecarbon.external.hardware import CPU, AppleSiliconChip
from codecarbon.external.ram import RAM

from lora_scaling.energy import MeteringSettings, open_meter
from lora_scaling.energy.tracker import CPU_SOURCES, Tracker, sources_of, tracker_arguments
from lora_scaling.errors import UserError
from lora_scaling.records.sources import relative_bound, source_kind
from tests.support.paths import ROOT
from tests.support.rapl import RANGE_J, Domain, use_rapl

# Deprecated ones warn when they are given; without output methods nothing is saved.
NOT_GIVEN = {"self", "args", "kwargs", "save_to_file", "save_to_api", "save_to_logger", "save_to_prometheus",
             "save_to_logfire", "co2_signal_api_token"}  # fmt: skip


def test_no_parameter_of_the_tracker_is_left_to_the_environment() -> None:
    known = set(inspect.signature(BaseEmissionsTracker.__init__).parameters)
    known |= set(inspect.signature(inspect.unwrap(OfflineEmissionsTracker.__init__)).parameters)
    assert known - NOT_GIVEN == set(tracker_arguments("DNK", [], "."))


def test_a_task_measures_cpu_and_ram_here() -> None:
    """Also the alarm for an upgrade: the attributes that tell measured from modelled are where they were."""
    tracker = Tracker("DNK", [])
    assert tracker.start() is None
    task = tracker.stop()
    sources = tracker.sources()
    assert task.reason is None
    assert sources["ram"].name == "constant_model"
    assert sources["cpu"].name in {"load_model", "rapl"}
    assert sources["cpu"].name == {"cpu_load": "load_model", "intel_rapl": "rapl"}[_cpu_of(tracker)._mode]
    assert task.joules["ram"] is not None
    assert task.joules["ram"] > 0


def test_within_a_slurm_job_the_host_is_read_as_without_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an `scontrol` that fails as in a container, and without any."""
    for module in (codecarbon.core.util, codecarbon.external.ram):
        monkeypatch.setattr(module, "SLURM_JOB_ID", "4242")
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 'JobId=4242 NumCPUs=1 AllocTRES=cpu=1,mem=1G'\n")
    scontrol.chmod(0o755)
    for path in (str(tmp_path), ""):
        monkeypatch.setenv("PATH", path)
        tracker = Tracker("DNK", [])
        assert tracker.start() is None
        time.sleep(0.05)
        task = tracker.stop()
        assert task.reason is None
        for name in ("cpu", "ram"):
            joules = task.joules[name]
            assert joules is not None
            assert joules > 0
        ram = next(part for part in tracker._tracker._hardware if isinstance(part, RAM))
        assert ram.machine_memory_GB == pytest.approx(psutil.virtual_memory().total / 1024**3)
        assert _cpu_of(tracker)._cpu_count == psutil.cpu_count()


def _cpu_of(tracker: Tracker) -> CPU:
    return next(part for part in tracker._tracker._hardware if isinstance(part, CPU))


def test_codecarbons_own_figure_follows_a_rapl_counter_that_turns_three_times_within_a_window(tmp_path: Path) -> None:
    tracker = Tracker("DNK", [])
    domain = Domain(tmp_path)
    use_rapl(tracker, domain)

    def counted(turns: float) -> None:
        domain.show((turns % 1) * RANGE_J)

    for _ in range(2):  # the window before it takes nothing away
        counted(0.9)
        assert tracker.start() is None
        for turns in (1.3, 1.9, 2.5, 3.1, 3.8):
            counted(turns)
            assert tracker.poll_rapl() is None
        counted(4.1)
        joules = tracker.stop().joules["cpu"]
        assert joules == pytest.approx(3.2 * RANGE_J, rel=1e-5)
    assert tracker.poll_rapl() is None  # no window, nothing to do


def test_a_counter_that_cannot_be_kept_up_with_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_scaling.energy.recording.CONDITIONS_S", 0.1)
    meter = open_meter(MeteringSettings(interval_s=0.06))
    try:
        assert meter.tracker is not None
        use_rapl(meter.tracker, Domain(tmp_path))
        tracker = meter.tracker._tracker
        measure = tracker._measure_power_and_energy
        monkeypatch.setattr(tracker, "_measure_power_and_energy", lambda: 1 / 0)
        recording = meter.recording()
        with recording.phase("train"):
            time.sleep(0.4)
            monkeypatch.setattr(tracker, "_measure_power_and_energy", measure)
        account = recording.close()
    finally:
        meter.close()
    assert [w["message"] for w in account.warnings if w["kind"] == "tracker"] == [
        "CodeCarbon could not read the RAPL counter within a window: ZeroDivisionError('division by zero')"
    ]
    assert len(account.bins) > 3  # the timeline went on


def test_a_window_that_was_left_open_is_not_in_the_next() -> None:
    tracker = Tracker("DNK", [])
    joules = []
    for left_open_s in (0.0, 0.6):
        tracker.start()
        time.sleep(left_open_s)
        tracker.start()
        before_s = time.perf_counter()
        time.sleep(0.2)
        ram_j = tracker.stop().joules["ram"]
        assert ram_j is not None
        joules.append(ram_j / (time.perf_counter() - before_s))
    assert joules[1] == pytest.approx(joules[0], rel=0.3)  # memory's power is a constant


def test_every_source_has_a_bound_and_counts_as_measured_or_modelled() -> None:
    named = {
        *CPU_SOURCES.values(),
        "constant_model",
        "powermetrics",
        "raspberry_pmic",
        "amdsmi_counter",
        "amdsmi_power",
    }
    for name in named:
        assert relative_bound(name) is not None
        assert source_kind(name) == ("modelled" if name in ("load_model", "constant_model") else "measured")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("intel_rapl", "rapl"), ("cpu_load", "load_model"), ("constant", "constant_model"), ("new", "unknown")],
)
def test_the_cpu_source_follows_the_mode(mode: str, expected: str) -> None:
    cpu = object.__new__(CPU)
    cpu._mode, cpu._tdp = mode, 100
    assert sources_of(SimpleNamespace(_hardware=[cpu]))["cpu"].name == expected


def test_apple_chips_are_powermetrics() -> None:
    parts = []
    for chip_part in ("CPU", "GPU"):
        part = object.__new__(AppleSiliconChip)
        part.chip_part = chip_part
        parts.append(part)
    sources = sources_of(SimpleNamespace(_hardware=[*parts, object.__new__(RAM)]))
    assert {name: source.name for name, source in sources.items()} == {
        "cpu": "powermetrics",
        "gpu": "powermetrics",
        "ram": "constant_model",
    }


class AMDGPUDevice:
    """Named as CodeCarbon's, which cannot be made without amdsmi."""

    def __init__(self, has_counter: bool):
        self.gpu_index = 0
        self._has_counter, self._use_power_fallback, self._counter_error = has_counter, not has_counter, None


@pytest.mark.parametrize(("has_counter", "expected"), [(True, "amdsmi_counter"), (False, "amdsmi_power")])
def test_an_amd_gpu_is_not_called_nvidia(has_counter: bool, expected: str) -> None:
    class GPU:
        gpu_ids = (0,)
        devices = SimpleNamespace(devices=[AMDGPUDevice(has_counter)])

    assert sources_of(SimpleNamespace(_hardware=[GPU()]))["gpu"].name == expected


def test_codecarbons_gpu_attributes_are_where_they_were() -> None:
    source = inspect.getsource(GPUDevice)
    for attribute in ("_has_counter", "_use_power_fallback", "_counter_error"):
        assert f"self.{attribute}" in source


def test_attributes_that_moved_are_unknown_not_wrong() -> None:
    tracker = object.__new__(Tracker)
    tracker._tracker = SimpleNamespace()  # type: ignore[assignment]
    sources = tracker.sources()
    assert {source.name for source in sources.values()} == {"unknown"}
    assert "moved" in (sources["cpu"].reason or "")


OUTSIDE = """
import json, socket
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = refuse
from lora_scaling.energy import MeteringSettings, open_meter
meter = open_meter(MeteringSettings())
recording = meter.recording()
with recording.phase("train"):
    import time; time.sleep(0.2)
tracker = meter.tracker._tracker
print(json.dumps([recording.close().to_dict(), tracker._pue, tracker._force_ram_power, tracker._tracking_mode]))
"""


@pytest.mark.slow
def test_neither_environment_nor_dotfile_nor_network_has_a_say(tmp_path: Path) -> None:
    settings = {"pue": "7", "force_ram_power": "999", "force_cpu_power": "999", "tracking_mode": "process",
                "output_methods": "csv,api", "api_key": "x", "co2_signal_api_token": "t",
                "electricitymaps_api_token": "t", "cloud_provider": "gcp", "cloud_region": "us-east1",
                "emissions_endpoint": "http://localhost:1", "allow_multiple_runs": "False"}  # fmt: skip
    (tmp_path / ".codecarbon.config").write_text(
        "[codecarbon]\n" + "".join(f"{key}={value}\n" for key, value in settings.items())
    )
    outside = {f"CODECARBON_{key.upper()}": value for key, value in settings.items()}
    env = {**os.environ, **outside, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE], env=env, cwd=tmp_path, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    account, pue, ram_w, mode = json.loads(done.stdout)
    assert (pue, ram_w, mode) == (1.0, None, "machine")
    phase = account["phases"][0]
    assert phase["components"]["ram"]["joules"] / phase["seconds"] < 500
    assert sorted(path.name for path in tmp_path.iterdir()) == [".codecarbon.config"]
    assert done.stderr == ""


def test_a_tracker_that_does_not_start_is_a_reason_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("no sensors today")

    monkeypatch.setattr("codecarbon.OfflineEmissionsTracker.__init__", broken)
    meter = open_meter(MeteringSettings(interval_s=0.77))
    try:
        recording = meter.recording()
        with recording.phase("train"):
            pass
        part = recording.close().components["cpu"]
    finally:
        meter.close()
    assert part.joules is None
    assert "no sensors today" in (part.reason or "")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"country_iso": "dk"}, "metering.country_iso"),
        ({"interval_s": 0.0}, "metering.interval_s"),
        ({"idle_s": -1.0}, "metering.idle_s"),
        ({"components": ("gpu", "disk")}, "metering.components"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict, field: str) -> None:
    with pytest.raises(UserError, match=f"^{field}: got "):
        MeteringSettings(**change)
