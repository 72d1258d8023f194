"""The device sheets, and recognising the device that is here."""

import re

import pytest

from lora_scaling.config import compose
from lora_scaling.errors import UserError
from lora_scaling.estimate.hardware import from_nvml_name, machine_of, preset, resolve_hardware
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
    ],
)
def test_a_device_is_recognised_by_the_name_its_driver_gives(reported, listed):
    found = from_nvml_name(reported, preset("auto"), limit_w=123.0, memory_gb=400.0)
    assert found.name == listed
    assert found.board_power_w == 123.0  # the limit that is enforced here
    assert found.sources["board_power_w"].startswith("NVML")


def test_a_device_that_is_not_listed_keeps_what_its_driver_says_and_nothing_else():
    found = from_nvml_name("NVIDIA GeForce RTX 4090 Laptop GPU", preset("auto"), limit_w=90.0, memory_gb=17.2)
    machine, missing = machine_of(found, "bf16", load_priors())
    assert (found.memory_gb, machine) == (17.2, None)
    assert missing is not None
    assert re.search(r"peak_tflops.*RTX 4090 Laptop", missing)


def test_this_hosts_processor_is_measured_once_and_said_to_be(tmp_path):
    pytest.importorskip("numpy")
    found = resolve_hardware(preset("auto"))
    if found.kind != "cpu":
        pytest.skip("this host has a GPU")
    assert "measured" in found.sources["peak_tflops"]
    assert 1e-3 < (found.peak_tflops["fp32"] or 0) < 100
    assert resolve_hardware(preset("auto")) == found
    assert (tmp_path / "lora-scaling" / "host.json").is_file()


def test_an_unlisted_preset_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="`hardware` was 'gtx-1'; choose one of a10"):
        preset("gtx-1")
    with pytest.raises(UserError, match="`hardware` was 'gtx-1'"):
        compose(["hardware=gtx-1"])
