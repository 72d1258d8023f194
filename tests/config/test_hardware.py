"""The device sheets, and recognising the device that is here."""

import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lora_scaling.config import compose
from lora_scaling.config.devices import from_nvml_name, listed_as, preset, same_device
from lora_scaling.errors import UserError
from lora_scaling.estimate import estimate, hardware, processor
from lora_scaling.estimate.hardware import machine_of, resolve_hardware
from lora_scaling.estimate.priors import load_priors
from lora_scaling.paths import choices

LISTED = [name for name in choices("hardware") if name not in ("auto", "custom")]
CONTRACT = {
    "rtx-a4000", "rtx-3090", "rtx-4090", "t4", "v100", "a10", "a10g", "l4", "l40s", "a100-40gb", "a100-80gb",
    "h100-sxm", "h100-pcie", "h200", "b200", "mi300x",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_every_device_of_the_contract_is_listed():
    assert set(LISTED) >= CONTRACT


@pytest.mark.parametrize("name", LISTED)
def test_a_sheet_is_whole_plausible_and_sourced(name):
    sheet = preset(name)
    assert sheet.name == name
    assert sheet.peak_tflops["fp16"] is not None
    assert sheet.memory_gb is not None
    assert sheet.board_power_w is not None
    assert sheet.idle_power_w is not None
    assert sheet.idle_power_w < 0.3 * sheet.board_power_w
    assert {"peak_tflops", "bandwidth_gb_s", "memory_gb", "board_power_w", "idle_power_w"} <= set(sheet.sources)
    assert all(sheet.sources.values())
    machine, missing = machine_of(sheet, "fp16", load_priors())
    assert machine is not None, missing
    assert 1 < machine.peak / machine.bandwidth < 1000  # FLOPs a byte: a unit that slipped would be far outside


@pytest.mark.parametrize(
    ("name", "tflops", "gb_s", "watts"),
    [
        ("rtx-a4000", 76.7, 448, 140),
        ("rtx-4090", 165, 1008, 450),
        ("a100-80gb", 312, 2039, 400),
        ("h100-sxm", 989.4, 3350, 700),
        ("h100-pcie", 756, 2000, 350),
    ],
)
def test_peaks_are_dense_with_fp32_accumulation(name, tflops, gb_s, watts):
    sheet = preset(name)
    assert (sheet.peak_tflops["bf16"], sheet.bandwidth_gb_s, sheet.board_power_w) == (tflops, gb_s, watts)


@pytest.mark.parametrize(
    ("reported", "listed"),
    [
        ("NVIDIA RTX A4000", "rtx-a4000"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", "t4"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("NVIDIA GeForce RTX 5070 Ti", "rtx-5070-ti"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "rtx-4070-ti-super"),
        ("NVIDIA GeForce RTX 3090 Ti", "rtx-3090-ti"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("Tesla P100-PCIE-16GB", "p100"),
        ("NVIDIA A30", "a30"),
    ],
)
def test_a_device_is_recognised_by_the_name_its_driver_gives(reported, listed):
    found = from_nvml_name(reported, preset("auto"), limit_w=123.0, memory_gb=400.0)
    assert found.name == listed
    assert found.board_power_w == 123.0  # the limit that is enforced here
    assert found.sources["board_power_w"].startswith("NVML")


@pytest.mark.parametrize("name", LISTED)
def test_every_listed_device_is_known_by_its_own_name(name: str) -> None:
    assert listed_as(name) == name
    assert same_device(name, name)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3050", "NVIDIA GeForce RTX 2080",
        "AMD Instinct MI210", "NVIDIA GeForce RTX 4090 D", "NVIDIA H200 NVL", "NVIDIA GeForce RTX 5090 D", "NVIDIA L20",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "AMD Radeon RX 7900 XT", "Orin",
        "NVIDIA RTX A4000 Laptop GPU", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "Apple M1 Ultra",
        "Intel(R) Xeon(R) Processor (2 threads)",
    ],
)  # fmt: skip
def test_a_device_like_a_listed_one_is_not_taken_for_it(name: str) -> None:
    assert listed_as(name) is None
    assert not any(same_device(name, listed) for listed in LISTED)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("rtx-a4000", "NVIDIA RTX A4000", True),
        ("a100-80gb", "NVIDIA A100-SXM4-80GB", True),
        ("a100-80gb", "NVIDIA A100 80GB PCIe", False),
        ("a100-80gb", "NVIDIA A100-SXM4-40GB", False),
        ("h100-sxm", "NVIDIA H100 80GB HBM3", True),
        ("h100-sxm", "NVIDIA H100 PCIe", False),
        ("rtx-a4000", "NVIDIA RTX A6000", False),
        ("mi300x", "AMD Instinct MI300X", True),
        ("apple-m1", "apple-m1-max", False),
        ("Intel(R) Xeon(R) Processor (2 threads)", "Intel(R) Xeon(R) Processor (2 threads)", True),
        ("Intel(R) Xeon(R) Processor (2 threads)", "AMD EPYC 7B12 (2 threads)", False),
    ],
)
def test_names_of_the_same_device(one: str, other: str, same: bool) -> None:
    assert same_device(one, other) is same
    assert same_device(other, one) is same


def test_a_device_that_is_not_listed_keeps_what_its_driver_says_and_nothing_else():
    found = from_nvml_name("NVIDIA GeForce RTX 4090 Laptop GPU", preset("auto"), limit_w=90.0, memory_gb=17.2)
    machine, missing = machine_of(found, "bf16", load_priors())
    assert (found.memory_gb, machine) == (17.2, None)
    assert missing is not None
    assert re.search(r"peak_tflops.*RTX 4090 Laptop", missing)


class NvmlError(Exception):
    value = 1


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML as a machine with an A100 and an L4 answers it."""
    names, watts, gigabytes = ("NVIDIA A100-SXM4-80GB", "NVIDIA L4"), (400, 72), (85.9, 24.1)
    fake = types.ModuleType("pynvml")
    answers: Mapping[str, Callable[..., object]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(names),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetName": lambda handle: names[handle],
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 1000 * watts[handle],
        "nvmlDeviceGetMemoryInfo": lambda handle: types.SimpleNamespace(total=gigabytes[handle] * 1e9),
    }
    for name, answer in answers.items():
        setattr(fake, name, answer)
    fake.NVMLError = NvmlError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "device", "name"),
    [
        (None, "auto", "a100-80gb"),
        (None, "cuda", "a100-80gb"),
        (None, "cuda:1", "l4"),
        ("1", "auto", "l4"),
        ("1,0", "cuda:1", "a100-80gb"),
        (None, "cuda:2", "auto"),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_the_device_estimated_is_the_one_that_the_run_would_use(
    visible: str | None, device: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resolve_hardware(preset("auto"), device).name == name


@pytest.mark.usefixtures("two_gpus")
def test_a_slice_is_not_taken_for_the_whole_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetMigMode", lambda handle: (1, 1), raising=False)
    found = resolve_hardware(preset("auto"), "auto")
    assert (found.name, found.kind, found.peak_tflops.get("bf16")) == (
        "MIG slice of NVIDIA A100-SXM4-80GB",
        "cuda",
        None,
    )
    machine, missing = machine_of(found, "bf16", load_priors())
    assert machine is None
    assert "MIG slice of NVIDIA A100-SXM4-80GB unknown: choose hardware= a preset, or give them" in (missing or "")


@pytest.mark.usefixtures("two_gpus")
def test_a_run_on_the_processor_is_estimated_for_the_processor_beside_a_gpu() -> None:
    pytest.importorskip("numpy")
    assert resolve_hardware(preset("auto"), "cpu").kind == "cpu"
    answer = estimate(compose(["device=cpu", "eval_samples=0"]))
    assert answer.gpu_count == 1
    assert "A100" not in answer.hardware
    assert estimate(compose(["eval_samples=0"])).hardware == "a100-80gb"


@pytest.mark.usefixtures("two_gpus")
def test_what_is_given_beside_auto_wins_over_what_is_found() -> None:
    asked = dataclasses.replace(
        preset("auto"), board_power_w=250.0, memory_gb=40.0, peak_tflops={"bf16": 200.0, "fp16": None}
    )
    found = resolve_hardware(asked, "auto")
    assert (found.name, found.board_power_w, found.memory_gb) == ("a100-80gb", 250.0, 40.0)
    assert found.peak_tflops == {**preset("a100-80gb").peak_tflops, "bf16": 200.0}
    assert found.bandwidth_gb_s == preset("a100-80gb").bandwidth_gb_s
    given = {name for name, source in found.sources.items() if source == "as given"}
    assert given == {"board_power_w", "memory_gb", "peak_tflops"}


def fake_speed(monkeypatch: pytest.MonkeyPatch, core_tflops: float, gb_s: float) -> list[Mapping[str, str]]:
    """Whoever measures the processor is told these; the environments that he was started with."""
    asked: list[Mapping[str, str]] = []

    def run(command: list[str], *, env: Mapping[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(env)
        return subprocess.CompletedProcess(command, 0, json.dumps({"core_tflops": core_tflops, "gb_s": gb_s}), "")

    monkeypatch.setattr(hardware.subprocess, "run", run)
    return asked


def test_one_thread_is_measured_and_multiplied_by_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_speed(monkeypatch, 0.05, 12.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    found = resolve_hardware(preset("auto"), "cpu")
    assert found.peak_tflops["fp32"] == pytest.approx(3 * 0.05)
    assert found.bandwidth_gb_s == 12.0
    [environment] = asked
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    assert [environment[name] for name in threads] == ["1", "1", "1"]


def test_a_hosts_numbers_are_kept_and_those_of_an_older_version_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = fake_speed(monkeypatch, 0.05, 12.0)
    first = resolve_hardware(preset("auto"), "cpu")
    assert resolve_hardware(preset("auto"), "cpu") == first
    assert len(asked) == 1
    path = tmp_path / "lora-scaling" / "host.json"
    path.write_text(json.dumps({"name": first.name, "tflops": 9.0, "gb_s": 0.2}))  # as the first version left it
    assert resolve_hardware(preset("auto"), "cpu") == first
    assert len(asked) == 2


@pytest.mark.parametrize("remembered", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_that_no_host_has_are_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, remembered: float
) -> None:
    asked = fake_speed(monkeypatch, 0.05, 12.0)
    first = resolve_hardware(preset("auto"), "cpu")
    path = tmp_path / "lora-scaling" / "host.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "core_tflops": remembered}))
    assert resolve_hardware(preset("auto"), "cpu") == first
    assert len(asked) == 2


def test_a_user_without_a_home_gets_an_estimate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    fake_speed(monkeypatch, 0.05, 12.0)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(Path, "expanduser", homeless)
    config = compose(["device=cpu", "hardware=auto"])
    assert estimate(config).time_s is not None
    assert config.grid.cache_path.is_relative_to(tmp_path)
    with pytest.raises(UserError, match="cannot be fetched"):
        estimate(compose(["model=hub", "model.id=nobody/nothing", "hardware=t4"]))


def test_several_of_a_processor_that_was_recognised_are_one_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_speed(monkeypatch, 0.05, 12.0)
    alone, four = (estimate(compose(["device=cpu", f"hardware.count={count}"])) for count in (1, 4))
    assert four.time_s == alone.time_s
    [told] = set(four.assumptions) - set(alone.assumptions)
    assert told.startswith("hardware.count 4 is left out: ")


def test_how_fast_a_processor_computes_in_16_bit_is_unknown_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_speed(monkeypatch, 0.05, 12.0)
    answer = estimate(compose(["device=cpu", "hardware=auto", "precision=bf16"]))
    assert answer.time_s is None
    assert answer.reason is not None
    assert re.search(r"bf16 is unknown.*give precision=fp32", answer.reason)
    given = compose(["device=cpu", "hardware=auto", "precision=bf16", "hardware.peak_tflops.bf16=0.4"])
    assert estimate(given).time_s is not None


@pytest.mark.parametrize(("chip", "name"), [("Apple M3 Max", "apple-m3-max"), ("Apple M9", "Apple M9")])
def test_a_mac_goes_by_its_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chip: str, name: str) -> None:
    (tmp_path / "sysctl").write_text(f"#!/bin/sh\necho '{chip}'\n")
    (tmp_path / "sysctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    found = resolve_hardware(preset("auto"), "mps")
    assert (found.name, found.kind) == (name, "mps")


def test_no_pass_that_is_measured_waits_for_its_pages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pages are handed out when they are first written: a block fresh from the system has thousands to wait for."""
    pytest.importorskip("numpy")
    resource = pytest.importorskip("resource")
    waited: list[int] = []

    def once(work: Callable[[], object]) -> float:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        work()
        waited.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return 0.5

    monkeypatch.setattr(processor, "_best_s", once)
    processor.main()
    assert waited[-1] < 10  # the copy; a product's first pass fetches buffers of its own
    assert json.loads(capsys.readouterr().out) == {"core_tflops": 4 * 384**3 / 1e12, "gb_s": 0.128}


def test_the_fastest_of_several_passes_counts() -> None:
    passes = iter([0.08, 0.0])
    assert processor._best_s(lambda: time.sleep(next(passes, 0.0)), budget_s=0.0) < 0.04


@pytest.mark.slow
def test_a_processors_numbers_are_those_of_one_thread_and_of_pages_that_are_there(tmp_path: Path) -> None:
    """Against a product and a copy timed here, whatever numpy did in this process before."""
    np = pytest.importorskip("numpy")
    threaded = np.ones((900, 900), np.float32)
    _ = threaded @ threaded  # numpy is loaded, and its threads are started
    found = resolve_hardware(preset("auto"), "cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    alone = (
        "import numpy as np, time; a = np.full((512, 512), 0.5, np.float32); best = 9\n"
        "for _ in range(40):\n    t = time.perf_counter(); a @ a; best = min(best, time.perf_counter() - t)\n"
        "print(2 * 512**3 / best / 1e12)"
    )
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", alone], env=os.environ | one, capture_output=True, text=True, check=True
    )
    assert found.peak_tflops["fp32"] == pytest.approx(cores * float(ran.stdout), rel=0.4)
    source, target = bytearray(b"x" * 32_000_000), bytearray(b"y" * 32_000_000)
    best = 9.0
    for _ in range(20):
        start = time.perf_counter()
        target[:] = source
        best = min(best, time.perf_counter() - start)
    copied_gb_s = 2 * len(source) / best / 1e9  # read and written
    assert copied_gb_s / 5 < (found.bandwidth_gb_s or 0) < 5 * copied_gb_s
    assert "measured" in found.sources["peak_tflops"]
    assert (tmp_path / "lora-scaling" / "host.json").is_file()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("hardware.count=0", r"hardware\.count: got 0; give 1 to 100000"),
        ("hardware.count=-3", r"hardware\.count: got -3; give 1"),
        ("hardware.count=1000000", r"hardware\.count: got 1000000; give 1 to"),
        ("hardware.bandwidth_gb_s=0", r"hardware\.bandwidth_gb_s: got 0; give a number above 0"),
        ("hardware.memory_gb=-8", r"hardware\.memory_gb: got -8; give a number above 0"),
        ("hardware.board_power_w=0", r"hardware\.board_power_w: got 0; give"),
        ("hardware.peak_tflops.bf16=0", r"hardware\.peak_tflops\.bf16: got 0; give"),
        ("hardware.idle_power_w=-1", r"hardware\.idle_power_w: got -1; give 0 or more"),
    ],
)
def test_a_sheet_that_no_device_could_have_is_refused_in_one_sentence(setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        compose(["hardware=l4", setting])


def test_an_unlisted_preset_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="hardware: got 'gtx-1'; Allowed: a10"):
        preset("gtx-1")
    with pytest.raises(UserError, match="hardware: got 'gtx-1'"):
        compose(["hardware=gtx-1"])
