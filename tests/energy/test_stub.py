"""Measured energy against the truth: a GPU whose power follows a known law, in processes of their own."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.support import nvml_stub
from tests.support.nvml_stub import Law, Task
from tests.support.nvml_stub.measure import LIES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not nvml_stub.have_compiler(), reason="needs gcc on Linux"),
]

TRAIN_S = 5.3
KINDS = (
    "constant", "constant_100ms", "step", "step_100ms", "ramp", "ramp_100ms", "two_gpus_100ms",
    "square_100ms", "reset", "reset_100ms", "no_counter", "no_counter_step", "lost", "lost_100ms",
)  # fmt: skip


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every law measured once, side by side: the windows mostly sleep."""
    folder = tmp_path_factory.mktemp("laws")
    code = (nvml_stub.FOLDER / "measure.py").read_text(encoding="utf-8")
    tasks = {}
    for kind in (*KINDS, "liars", "superchip"):
        law = folder / f"{kind}.law"
        arguments = (kind, str(law), str(TRAIN_S))
        tasks[kind] = Task(code=code, env=nvml_stub.environment(law), arguments=arguments)
    return nvml_stub.side_by_side(tasks)


def truth(report: dict[str, Any], phase: dict[str, Any]) -> list[float]:
    """Joules per GPU over a phase, by the law."""
    start, end = nvml_stub.moments(phase)
    return [Law(power=tuple(map(tuple, power))).joules(start, end) for power in report["laws"]]


def phase_named(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(phase for phase in report["account"]["phases"] if phase["name"] == name)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("lost")])
def test_training_energy_is_the_laws_integral(reports: dict[str, Any], kind: str) -> None:
    report = reports[kind]
    train = phase_named(report, "train")
    expected = math.fsum(truth(report, train))
    assert train["seconds"] >= 5
    assert train["components"]["gpu"]["joules"] == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stated_uncertainty_covers_the_truth(reports: dict[str, Any], kind: str) -> None:
    for phase in reports[kind]["account"]["phases"]:
        for gpu, expected in zip(phase["gpus"], truth(reports[kind], phase), strict=True):
            if gpu["joules"] is not None:
                assert abs(gpu["joules"] - expected) <= gpu["uncertainty_joules"], (phase["name"], gpu)
                assert gpu["joules"] > 0


@pytest.mark.parametrize("kind", ["constant", "constant_100ms", "ramp_100ms", "two_gpus_100ms", "no_counter"])
def test_the_uncertainty_of_a_training_window_is_small(reports: dict[str, Any], kind: str) -> None:
    gpu = phase_named(reports[kind], "train")["components"]["gpu"]
    assert gpu["uncertainty_joules"] < 0.02 * gpu["joules"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_is_named_truthfully(reports: dict[str, Any], kind: str) -> None:
    expected = "nvml_power" if kind.startswith("no_counter") else "nvml_counter"
    assert reports[kind]["account"]["components"]["gpu"]["source"] == expected


@pytest.mark.parametrize("kind", ["lost", "lost_100ms"])
def test_a_gpu_lost_in_training_is_unknown_from_there_on(reports: dict[str, Any], kind: str) -> None:
    account = reports[kind]["account"]
    setup, train, evaluation = account["phases"]
    assert setup["components"]["gpu"]["joules"] > 0
    for phase in (train, evaluation):
        assert phase["components"]["gpu"]["joules"] is None
        assert "GPU is lost" in phase["components"]["gpu"]["reason"]
        assert phase["components"]["cpu"]["joules"] > 0
    assert account["components"]["gpu"]["joules"] is None
    assert account["complete"] is False
    assert {"gpu_unknown"} <= {warning["kind"] for warning in account["warnings"]}


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_counter_is_not_suspected(reports: dict[str, Any], kind: str) -> None:
    assert "counter_and_power" not in {warning["kind"] for warning in reports[kind]["account"]["warnings"]}


@pytest.mark.parametrize("kind", ["reset", "reset_100ms"])
def test_a_counter_reset_is_told(reports: dict[str, Any], kind: str) -> None:
    assert "counter_reset" in {warning["kind"] for warning in reports[kind]["account"]["warnings"]}


@pytest.mark.parametrize("lie", LIES)
def test_no_lie_of_a_counter_passes_as_measured_with_a_tight_bound(reports: dict[str, Any], lie: str) -> None:
    account, train = reports["liars"]["account"], phase_named(reports["liars"], "train")
    index = LIES.index(lie)
    gpu, expected = train["gpus"][index], truth(reports["liars"], train)[index]
    said = [
        w["kind"] for w in account["warnings"] if f"GPU {index} " in w["message"] or f"GPU {index}:" in w["message"]
    ]
    if lie.startswith("honest"):
        assert not said
        assert abs(gpu["joules"] - expected) <= gpu["uncertainty_joules"]
        assert gpu["uncertainty_joules"] < 0.02 * gpu["joules"]
    elif gpu["joules"] is None:
        assert "counter" in gpu["reason"]
        assert account["complete"] is False
    else:
        assert abs(gpu["joules"] - expected) <= gpu["uncertainty_joules"], gpu
        assert said
        assert set(said) <= {"counter_and_power", "counter_jump"}


def test_the_processor_of_a_superchip_is_not_counted_twice(reports: dict[str, Any]) -> None:
    account = reports["superchip"]["account"]
    assert account["components"]["gpu"]["joules"] > 0
    if phase_named(reports["constant"], "train")["components"]["cpu"]["source"] != "rapl":
        assert account["components"]["cpu"]["source"] == account["components"]["ram"]["source"] == "none"
        assert "covers its processor" in account["components"]["cpu"]["reason"]
    assert account["complete"] is True
    assert account["joules"] == account["components"]["gpu"]["joules"]


def test_codecarbon_stands_beside_it(reports: dict[str, Any]) -> None:
    train = phase_named(reports["constant"], "train")
    assert train["codecarbon_joules"]["gpu"] == pytest.approx(train["components"]["gpu"]["joules"], rel=0.005)


def test_two_gpus_are_told_apart(reports: dict[str, Any]) -> None:
    report = reports["two_gpus_100ms"]
    train = phase_named(report, "train")
    for gpu, expected in zip(train["gpus"], truth(report, train), strict=True):
        assert gpu["joules"] == pytest.approx(expected, rel=0.005)
    assert math.fsum(gpu["joules"] for gpu in train["gpus"]) == pytest.approx(
        train["components"]["gpu"]["joules"], abs=2e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_counters_step_is_found(reports: dict[str, Any], kind: str) -> None:
    steps = reports[kind]["account"]["conditions"]["counter_step_s"]
    if kind.startswith("no_counter"):
        assert steps == [None]
    elif kind.endswith("_100ms"):
        assert steps == pytest.approx([0.1] * len(steps), abs=0.05)
    else:
        assert max(steps) <= 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_timeline_and_components_sum_to_the_phases(reports: dict[str, Any], kind: str) -> None:
    account = reports[kind]["account"]
    rows = list(csv.DictReader(io.StringIO(reports[kind]["timeline"])))
    for phase in account["phases"]:
        mine = [row for row in rows if row["phase"] == phase["name"]]
        assert mine[0]["start"] == phase["started_at"]
        assert mine[-1]["end"] == phase["ended_at"]
        assert all(a["end"] == b["start"] for a, b in itertools.pairwise(mine))
        for name in ("gpu", "cpu", "ram"):
            joules = phase["components"][name]["joules"]
            cells = [row[f"{name}_j"] for row in mine]
            if joules is None:
                assert set(cells) == {""}
            else:
                assert round(math.fsum(map(float, cells)), 6) == joules
                assert min(map(float, cells)) >= 0
    known = [
        part["joules"]
        for phase in account["phases"]
        for part in phase["components"].values()
        if part["joules"] is not None
    ]
    assert account["joules"] == pytest.approx(math.fsum(known), abs=1e-6)


def test_the_timeline_follows_the_power(reports: dict[str, Any]) -> None:
    """A step of the power from 100 W to 300 W is seen in the bins."""
    rows = csv.DictReader(io.StringIO(reports["step"]["timeline"]))
    train = [float(row["gpu_j"]) for row in rows if row["phase"] == "train"]
    assert train[0] == pytest.approx(100, rel=0.05)
    assert train[3] == pytest.approx(300, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_closing_a_run_is_quick(reports: dict[str, Any], kind: str) -> None:
    assert reports[kind]["close_s"] < 0.5  # one counter step, and a busy machine


SELECT = """
import json
from lora_scaling.energy import MeteringSettings, open_meter
meter = open_meter(MeteringSettings())
recording = meter.recording()
with recording.phase("train"):
    import time; time.sleep(0.5)
account = recording.close().to_dict()
print(json.dumps(account))
"""
VISIBLE = {
    "1": ["GPU-bbbb0002"],
    "1,0": ["GPU-bbbb0002", "GPU-aaaa0001"],
    "GPU-bbbb0002": ["GPU-bbbb0002"],
    "GPU-bb": ["GPU-bbbb0002"],
    "MIG-slice": ["GPU-aaaa0001"],
    "": [],
    "-1": [],
}


def test_only_the_visible_gpus_are_measured(tmp_path: Path) -> None:
    tasks = {}
    for number, listed in enumerate(VISIBLE):
        law = tmp_path / f"{number}.law"
        first = Law(power=((0.0, 100.0),), extras={"uuid": "GPU-aaaa0001", "mig": "MIG-slice"})
        second = Law(power=((0.0, 250.0),), extras={"uuid": "GPU-bbbb0002"})
        nvml_stub.write_laws(law, [first, second])
        tasks[f"visible-{number}"] = Task(code=SELECT, env=nvml_stub.environment(law, CUDA_VISIBLE_DEVICES=listed))
    accounts = nvml_stub.side_by_side(tasks)
    watts = {"GPU-aaaa0001": 100.0, "GPU-bbbb0002": 250.0}
    for listed, account in zip(VISIBLE, accounts.values(), strict=True):
        phase = account["phases"][0]
        assert [gpu["uuid"] for gpu in phase["gpus"]] == VISIBLE[listed], listed
        part = phase["components"]["gpu"]
        if VISIBLE[listed]:
            expected = sum(watts[uuid] for uuid in VISIBLE[listed]) * phase["seconds"]
            assert part["joules"] == pytest.approx(expected, rel=0.01), listed
            assert phase["codecarbon_joules"]["gpu"] == pytest.approx(expected, rel=0.05), listed
        else:
            assert part["source"] == "none"
            assert part["joules"] is None
            assert part["reason"]


HIDDEN_LATER = """
import json, os
from lora_scaling.energy import MeteringSettings, open_meter
measured = []
for visible in (None, "1", None):
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    recording = open_meter(MeteringSettings()).recording()
    with recording.phase("train"):
        pass
    measured.append([gpu.index for gpu in recording.close().phases[0].gpus])
print(json.dumps(measured))
"""


def test_gpus_that_a_later_run_hides_are_not_measured_in_it(tmp_path: Path) -> None:
    law = tmp_path / "law"
    nvml_stub.write_laws(law, [Law(power=((0.0, 100.0),)), Law(power=((0.0, 250.0),))])
    measured = nvml_stub.finish(nvml_stub.run_python(HIDDEN_LATER, nvml_stub.environment(law)))
    assert measured == [[0, 1], [1], [1]]


CONDITIONS = """
import json, os, sys
from pathlib import Path
law = Path(sys.argv[1])
law.write_text(law.read_text().replace("OWN", str(os.getpid())))
from lora_scaling.energy import MeteringSettings, open_meter
meter = open_meter(MeteringSettings())
stop = meter.tracker.stop
def one_twentieth_more():
    task = stop()
    task.joules["gpu"] *= 1.05
    return task
meter.tracker.stop = one_twentieth_more
recording = meter.recording()
with recording.phase("train"):
    import time; time.sleep(0.8)
print(json.dumps(recording.close().to_dict()))
"""


def test_other_processes_throttling_and_disagreement_are_recorded(tmp_path: Path) -> None:
    shared, alone = tmp_path / "shared.law", tmp_path / "alone.law"
    power = "power 0 0 200\n"
    shared.write_text(power + "pids 0 OWN 1\nthrottle 0 0x44\n")
    alone.write_text(power + "pids 0 OWN\n")
    laws = {"shared": shared, "alone": alone}
    tasks = {
        name: Task(code=CONDITIONS, env=nvml_stub.environment(law), arguments=(str(law),)) for name, law in laws.items()
    }
    with_others, by_itself = nvml_stub.side_by_side(tasks).values()
    assert with_others["exclusive"] is False
    gpu = with_others["conditions"]["gpus"][0]
    assert gpu["other_processes"] == [1]
    assert gpu["throttle_reasons"] == ["power_cap", "thermal_hardware"]
    assert gpu["power_limit_w"] == 400
    assert gpu["temperature_c"]["mean"] == 61
    assert with_others["conditions"]["gpu_temperature_c"] == 61
    assert with_others["conditions"]["driver"] == "stub"
    assert {"shared_gpu", "throttled"} <= {warning["kind"] for warning in with_others["warnings"]}
    assert "energy_disagreement" in {warning["kind"] for warning in by_itself["warnings"]}
    assert by_itself["conditions"]["gpus"][0]["other_processes"] == []
    assert "shared_gpu" not in {warning["kind"] for warning in by_itself["warnings"]}


RANK = """
import os, pickle, sys, time
from lora_scaling.energy import MeteringSettings, open_meter, settings_for_rank
rank = int(os.environ["LOCAL_RANK"])
meter = open_meter(settings_for_rank(MeteringSettings(), rank, 2))
recording = meter.recording()
with recording.phase("train"):
    time.sleep(1.5)
with open(sys.argv[1], "wb") as file:
    pickle.dump(recording.close(), file)
print("null")
"""


@pytest.mark.parametrize("visible", [None, ("0", "1"), ("0", "0")])
def test_two_processes_count_every_gpu_once_and_the_node_once(tmp_path: Path, visible: tuple[str, str] | None) -> None:
    """Both see both GPUs, each sees its own, or both share one."""
    import pickle

    from lora_scaling.energy import EnergyAccount, combine

    law = tmp_path / "two.law"
    nvml_stub.write_laws(law, [Law(power=((0.0, 100.0),)), Law(power=((0.0, 250.0),))])
    tasks = {}
    for rank in range(2):
        extra = {"LOCAL_RANK": str(rank)}
        if visible is not None:
            extra["CUDA_VISIBLE_DEVICES"] = visible[rank]
        env = nvml_stub.environment(law, **extra)
        tasks[f"rank{rank}"] = Task(code=RANK, env=env, arguments=(str(tmp_path / f"rank{rank}"),))
    nvml_stub.side_by_side(tasks)
    accounts: list[EnergyAccount] = [pickle.loads((tmp_path / f"rank{rank}").read_bytes()) for rank in range(2)]
    together = combine(accounts)
    watts = {0: 100.0, 1: 250.0}
    measured = {gpu.index: account.phases[0].seconds for account in accounts for gpu in account.phases[0].gpus}
    assert sorted(measured) == ([0] if visible == ("0", "0") else [0, 1])
    expected = sum(watts[index] * seconds for index, seconds in measured.items())
    # Of two windows over the same GPU the longer one counts.
    assert together.components["gpu"].joules == pytest.approx(expected, rel=0.05)
    assert [gpu.index for gpu in together.phases[0].gpus] == sorted(measured)
    assert together.components["cpu"] == accounts[0].components["cpu"]
    assert together.components["ram"] == accounts[0].components["ram"]
    assert accounts[1].components["ram"].source == "none"
    for name in ("gpu", "cpu", "ram"):
        pieces = [piece.joules[name] or 0.0 for piece in together.bins]
        assert round(math.fsum(pieces), 6) == together.components[name].joules
    json.dumps(together.to_dict())
