"""Find the device of an estimate: from its sheet, or by recognising this machine. Does not import torch."""

import contextlib
import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_scaling.config import HardwareConfig
from lora_scaling.config.devices import from_nvml_name, listed_as, mac_chip, preset, processor_name
from lora_scaling.errors import UnwritableError
from lora_scaling.estimate.physics import Machine
from lora_scaling.estimate.priors import Priors, load_priors
from lora_scaling.paths import user_cache
from lora_scaling.records import write_text

_SHEET = (
    "bandwidth_gb_s", "memory_gb", "board_power_w", "idle_power_w", "link_gb_s", "network_gb_s", "host_power_w",
)  # fmt: skip
# A device with so much bandwidth and power has a link of its own kind to its neighbours; others have only PCIe.
_LINKED_GB_S, _LINKED_W = 1500.0, 400.0
_SPEED = Path(__file__).with_name("processor.py")
_SPEED_VERSION = 2  # of the measurement: stored numbers of another version are measured again
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


def resolve_hardware(hardware: HardwareConfig, device: str) -> HardwareConfig:
    """Replace `auto` by the device of this machine that `device` (auto, cpu, cuda, cuda:N, mps) asks for.

    Any other hardware is returned as it is. Values given along with `auto` take precedence over those found. A device
    that cannot be recognised stays `auto`, without any values.
    """
    if hardware.kind != "auto":
        return hardware
    kind, _, place = device.partition(":")
    found = None
    if kind in ("auto", "cuda"):
        found = _nvidia(hardware, int(place) if place.isdigit() else 0)
    if found is None and kind in ("auto", "mps"):
        found = _apple(hardware)
    if found is None and kind in ("auto", "cpu"):
        found = _this_cpu(hardware)
    return hardware if found is None else _as_given(found, hardware)


def _as_given(found: HardwareConfig, asked: HardwareConfig) -> HardwareConfig:
    given: dict[str, Any] = {name: getattr(asked, name) for name in _SHEET if getattr(asked, name) is not None}
    for name in ("peak_tflops", "matmul_share"):
        peaks = {kind: value for kind, value in getattr(asked, name).items() if value is not None}
        if peaks:
            given[name] = {**getattr(found, name), **peaks}
    return dataclasses.replace(found, **given, sources={**found.sources, **dict.fromkeys(given, "as given")})


def machine_of(hardware: HardwareConfig, precision: str, priors: Priors) -> tuple[Machine | None, str | None]:
    """Return (the numbers of the device for this precision, what is missing), the former None if any is missing."""
    peak = hardware.peak_tflops.get(precision)
    if precision == "fp8":
        return _with_fp8(hardware, priors)
    if precision == "bf16" and peak is None and hardware.peak_tflops.get("fp16") is not None:
        return None, f"{hardware.name} has no bf16: give precision=fp16"
    if hardware.kind == "cpu" and peak is None and hardware.peak_tflops.get("fp32") is not None:
        return None, (
            f"how fast {hardware.name} computes {precision} is unknown, which few processors have units for: "
            f"give precision=fp32, or hardware.peak_tflops.{precision}=NUMBER"
        )
    known = {
        f"hardware.peak_tflops.{precision}": peak,
        "hardware.bandwidth_gb_s": hardware.bandwidth_gb_s,
        "hardware.board_power_w": hardware.board_power_w,
    }
    missing = [name for name, value in known.items() if value is None]
    if missing or peak is None or hardware.bandwidth_gb_s is None or hardware.board_power_w is None:
        which = "this device" if hardware.kind == "auto" else hardware.name
        return None, f"{', '.join(missing)} of {which} unknown: choose hardware= a preset, or give them"
    c, idle_w = priors.values, hardware.idle_power_w
    products, peak_log_sd = _products(hardware, precision, peak, priors)
    _, link, link_log_sd = _link(hardware, priors)
    machine = Machine(
        kind=hardware.kind,
        peak=peak * 1e12,
        products=products * 1e12,
        matrix_products=products * 1e12,
        bandwidth=hardware.bandwidth_gb_s * 1e9,
        link=link * 1e9,
        peak_log_sd=peak_log_sd,
        link_log_sd=link_log_sd,
        board_power_w=hardware.board_power_w,
        idle_power_w=c["idle_share"] * hardware.board_power_w if idle_w is None else idle_w,
        host_power_w=_host_power_w(hardware, hardware.board_power_w, c),
    )
    return machine, None


def _with_fp8(hardware: HardwareConfig, priors: Priors) -> tuple[Machine | None, str | None]:
    """Return the machine in bf16, with the matrix products of FP8."""
    peak = hardware.peak_tflops.get("fp8")
    if peak is None:
        which = "this device" if hardware.kind == "auto" else hardware.name
        return None, f"hardware.peak_tflops.fp8 of {which} unknown: give precision=bf16, or its number"
    machine, missing = machine_of(hardware, "bf16", priors)
    if machine is None:
        return None, missing
    products, log_sd = _products(hardware, "fp8", peak, priors)
    spread = max(machine.peak_log_sd, log_sd)
    return dataclasses.replace(machine, matrix_products=products * 1e12, peak_log_sd=spread), None


def _products(hardware: HardwareConfig, precision: str, peak: float, priors: Priors) -> tuple[float, float]:
    """Return the TFLOP/s of the fastest matrix product: measured, or a share of the peak that is uncertain."""
    measured = hardware.matmul_share.get(precision)
    if measured is not None:
        return measured * peak, 0.0
    return peak * priors.values["matmul_share"], priors.log_sd["matmul_share"]


def _link(hardware: HardwareConfig, priors: Priors) -> tuple[str, float, float]:
    """Return the setting, the GB/s per device, and the spread (if it is unknown) of the link that all devices share.

    A ring over several machines crosses to the next one once, through the network adapters of all its devices.
    """
    inside = ("link_gb_s", *_link_inside(hardware, priors))
    if hardware.count <= hardware.devices_per_node:
        return inside
    gb_s, log_sd = hardware.network_gb_s, 0.0
    if gb_s is None:
        gb_s, log_sd = priors.values["network_gb_s"], priors.log_sd["network_gb_s"]
    across = ("network_gb_s", gb_s * hardware.devices_per_node, log_sd)
    return across if hardware.devices_per_node == 1 or across[1] <= inside[1] else inside


def _link_inside(hardware: HardwareConfig, priors: Priors) -> tuple[float, float]:
    """Return the GB/s per device to the others of its machine, and the spread of an unknown one."""
    c = priors.values
    if hardware.link_gb_s is not None:
        return hardware.link_gb_s, 0.0
    if hardware.bandwidth_gb_s is None or hardware.kind in ("cpu", "mps"):
        return c["pcie_gb_s"], priors.log_sd["pcie_gb_s"]
    linked = hardware.bandwidth_gb_s >= _LINKED_GB_S and (hardware.board_power_w or 0.0) >= _LINKED_W
    if linked:
        return c["link_share"] * hardware.bandwidth_gb_s, priors.log_sd["link_share"]
    return c["pcie_gb_s"], priors.log_sd["pcie_gb_s"]


def unknown_link(hardware: HardwareConfig, priors: Priors) -> str | None:
    """Say which rate between devices is assumed, if the sheet does not hold the one that counts."""
    name, gb_s, log_sd = _link(hardware, priors)
    if log_sd == 0:
        return None
    what = "the link between devices"
    if name == "network_gb_s":
        gb_s /= hardware.devices_per_node
        what = f"the network between machines of {hardware.devices_per_node} devices"
    return f"{what} is unknown: {gb_s:.3g} GB/s a device assumed, with a wide interval; give hardware.{name}=NUMBER"


def _host_power_w(hardware: HardwareConfig, board_power_w: float, c: Mapping[str, float]) -> float:
    """Return the power of CPU and RAM that the board power does not include; an Apple chip's includes its processor."""
    if hardware.kind == "cpu":
        return board_power_w
    if hardware.kind == "mps":
        return c["mps_ram_w"]
    if hardware.host_power_w is not None:
        return hardware.host_power_w * hardware.count
    return c["host_w"] + c["host_share"] * hardware.count * board_power_w


def _nvidia(asked: HardwareConfig, place: int) -> HardwareConfig | None:
    """Return the NVIDIA device with this index among those visible under CUDA_VISIBLE_DEVICES."""
    from lora_scaling.energy.nvml import Nvml, SensorError
    from lora_scaling.energy.visible_gpus import select_gpus

    try:
        nvml = Nvml.open()
    except SensorError:  # no package, driver or permission, so no NVIDIA device is visible
        return None
    try:
        visible = select_gpus(nvml.gpus, os.environ, mig_parent=nvml.mig_parent).gpus
        if place >= len(visible) or visible[place].name is None:
            return None
        gpu, memory_gb = visible[place], None
        if nvml.mig_enabled(gpu):  # a slice has a part of the board's speed and memory, and NVML does not say which
            return dataclasses.replace(asked, name=f"MIG slice of {gpu.name}", kind="cuda", count=1)
        import pynvml

        with contextlib.suppress(pynvml.NVMLError):
            memory_gb = int(pynvml.nvmlDeviceGetMemoryInfo(gpu.handle).total) / 1e9
        return from_nvml_name(str(gpu.name), asked, limit_w=nvml.power_limit_w(gpu), memory_gb=memory_gb)
    finally:
        nvml.close()


def _apple(asked: HardwareConfig) -> HardwareConfig | None:
    chip = mac_chip()
    if chip is None or platform.machine() != "arm64":
        return None
    listed = listed_as(chip)
    if listed is not None:
        return dataclasses.replace(preset(listed), count=1)
    return dataclasses.replace(asked, name=chip, kind="mps", count=1)


def _this_cpu(asked: HardwareConfig) -> HardwareConfig | None:
    """Describe this host's processor, measured once and cached: peak by a matrix product, bandwidth by a copy."""
    name, cores, c = processor_name(), _cores(), load_priors().values
    speed = _remembered(name) or _measure(name)
    if speed is None:
        return None
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return dataclasses.replace(
        asked,
        name=name,
        kind="cpu",
        count=1,
        peak_tflops={"fp32": cores * speed["core_tflops"], "bf16": None, "fp16": None},
        matmul_share={"fp32": 1.0},
        bandwidth_gb_s=speed["gb_s"],
        memory_gb=pages,
        board_power_w=c["cpu_core_w"] * cores + c["cpu_ram_w"],
        idle_power_w=None,
        sources={
            "peak_tflops": f"measured on this host: a matrix product in fp32 on one core, times {cores}; "
            "16-bit products, for which few processors have units, were not",
            "bandwidth_gb_s": "measured on this host: a copy by one core",
            "board_power_w": "assumed: CodeCarbon's models of an unknown processor and of memory",
        },
    )


def _cores() -> int:
    """Count the processor threads that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cache_path() -> Path:
    return user_cache() / "lora-scaling" / "host.json"


def _remembered(name: str) -> dict[str, float] | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored: dict[str, Any] = json.loads(_cache_path().read_text(encoding="utf-8"))
        if (stored["name"], stored["version"]) == (name, _SPEED_VERSION):
            speed = {"core_tflops": float(stored["core_tflops"]), "gb_s": float(stored["gb_s"])}
            if all(math.isfinite(value) and value > 0 for value in speed.values()):
                return speed
    return None


def _measure(name: str) -> dict[str, float] | None:
    """Measure TFLOP/s of one core in float32 and GB/s; None without numpy.

    One thread is measured and its result multiplied, because with several threads, one busy core would stall the
    others.
    """
    command = [sys.executable, "-P", str(_SPEED)]
    try:
        ran = subprocess.run(command, env={**os.environ, **_ONE_THREAD}, capture_output=True, text=True, timeout=60)
        speed = json.loads(ran.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    with contextlib.suppress(UnwritableError):  # if it cannot be cached, it is measured again the next time
        write_text(_cache_path(), json.dumps({"version": _SPEED_VERSION, "name": name, **speed}))
    return speed
