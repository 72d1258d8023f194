"""The device of an estimate: from its sheet, or recognised here. No torch."""

import contextlib
import dataclasses
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import HardwareConfig
from ..config.build import build
from ..errors import UserError
from ..paths import choices, config_dir
from .physics import Machine
from .priors import Priors

# Names as NVML gives them → the preset that describes them; the first match counts.
_NVML_NAMES = (
    (r"H100.*PCIe", "h100-pcie"), (r"H100", "h100-sxm"), (r"H200", "h200"), (r"B200", "b200"),
    (r"A100.*PCIe", "a100-pcie"), (r"A100.*40GB", "a100-40gb"), (r"A100", "a100-80gb"),
    (r"V100", "v100"), (r"\bT4\b", "t4"), (r"A10G", "a10g"), (r"\bA10\b", "a10"), (r"L40S", "l40s"), (r"\bL4\b", "l4"),
    (r"RTX A4000", "rtx-a4000"), (r"RTX A6000", "rtx-a6000"),
    (r"RTX 3090", "rtx-3090"), (r"RTX 4090(?! Laptop)", "rtx-4090"), (r"RTX 4060(?! Laptop| Ti)", "rtx-4060"),
)  # fmt: skip
_APPLE_NAMES = ("apple-m1-max", "apple-m2-ultra", "apple-m3-max", "apple-m4-max", "apple-m1", "apple-m4")


def resolve_hardware(hardware: HardwareConfig) -> HardwareConfig:
    """`auto` becomes the device that is here; anything else is as it is given.

    A device that cannot be recognised stays `auto`, with nothing known of it.
    """
    if hardware.kind != "auto":
        return hardware
    return _nvidia(hardware) or _apple(hardware) or _this_cpu(hardware) or hardware


def machine_of(hardware: HardwareConfig, precision: str, priors: Priors) -> tuple[Machine | None, str | None]:
    """The device in numbers for this precision, or None and what is missing."""
    peak = hardware.peak_tflops.get(precision)
    if precision == "bf16" and peak is None and hardware.peak_tflops.get("fp16") is not None:
        return None, f"{hardware.name} has no bf16: give precision=fp16"
    known = {
        f"hardware.peak_tflops.{precision}": peak,
        "hardware.bandwidth_gb_s": hardware.bandwidth_gb_s,
        "hardware.board_power_w": hardware.board_power_w,
    }
    missing = [name for name, value in known.items() if value is None]
    if missing or peak is None or hardware.bandwidth_gb_s is None or hardware.board_power_w is None:
        which = "this device" if hardware.kind == "auto" else hardware.name
        return None, f"{', '.join(missing)} of {which} unknown: choose hardware= a preset, or give them"
    boards_w = hardware.count * hardware.board_power_w
    host = priors.values["host_w"] + priors.values["host_share"] * boards_w
    machine = Machine(
        kind=hardware.kind,
        peak=peak * 1e12,
        bandwidth=hardware.bandwidth_gb_s * 1e9,
        link=priors.link(hardware.name) * 1e9,
        board_power_w=hardware.board_power_w,
        idle_power_w=hardware.idle_power_w if hardware.idle_power_w is not None else 0.1 * hardware.board_power_w,
        host_power_w=hardware.board_power_w if hardware.kind == "cpu" else host,
    )
    return machine, None


def preset(name: str) -> HardwareConfig:
    """A listed device by its file's name.

    Raises:
        UserError: it is not listed.
    """
    path = config_dir() / "hardware" / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"`hardware` was {name!r}; choose one of {', '.join(choices('hardware'))}")
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    return build(HardwareConfig, {str(key): value for key, value in values.items()}, "hardware.")


def memory_of_presets() -> dict[str, float]:
    """GB of each listed device, by name."""
    found = {}
    for name in choices("hardware"):
        line = re.search(r"^memory_gb: ([0-9.]+)$", (config_dir() / "hardware" / f"{name}.yaml").read_text(), re.M)
        if line:
            found[name] = float(line.group(1))
    return found


def _nvidia(asked: HardwareConfig) -> HardwareConfig | None:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no permission: there is no NVIDIA device to be seen
        return None
    try:
        if pynvml.nvmlDeviceGetCount() == 0:
            return None
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        name = str(pynvml.nvmlDeviceGetName(handle))
        limit_w = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
        memory_gb = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) / 1e9
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return from_nvml_name(name, asked, limit_w=limit_w, memory_gb=memory_gb)


def from_nvml_name(name: str, asked: HardwareConfig, *, limit_w: float, memory_gb: float) -> HardwareConfig:
    """The preset of a device's name with the limits it has here; one not listed keeps only those limits."""
    here = {"board_power_w": limit_w, "memory_gb": memory_gb, "count": asked.count}
    sources = {"board_power_w": "NVML: the enforced limit here", "memory_gb": "NVML"}
    for pattern, listed in _NVML_NAMES:
        if re.search(pattern, name):
            sheet = preset(listed)
            # A driver reports GiB less what it reserves; the sheet's GB already leave that room.
            here["memory_gb"] = min(memory_gb, sheet.memory_gb or memory_gb)
            return dataclasses.replace(sheet, **here, sources={**sheet.sources, **sources})
    return dataclasses.replace(asked, name=name, kind="cuda", **{**here, "sources": sources})


def _apple(asked: HardwareConfig) -> HardwareConfig | None:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return None
    brand = os.popen("sysctl -n machdep.cpu.brand_string").read().strip().lower().replace(" ", "-")
    for name in _APPLE_NAMES:
        if brand == name:
            return dataclasses.replace(preset(name), count=1)
    return dataclasses.replace(asked, name=brand or "Apple GPU", kind="mps")


def _this_cpu(asked: HardwareConfig) -> HardwareConfig | None:
    """This host's processor, measured once and remembered: peaks by a matrix product, bandwidth by a copy."""
    from .priors import load_priors

    name = processor_name()
    cores = os.cpu_count() or 1
    measured = _remembered(name) or _measure(name)
    if measured is None:
        return None
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    note = "measured on this host by a short matrix product and copy"
    return dataclasses.replace(
        asked,
        name=name,
        kind="cpu",
        count=1,
        peak_tflops={"fp32": measured["tflops"], "bf16": measured["tflops"], "fp16": None},
        bandwidth_gb_s=measured["gb_s"],
        memory_gb=pages,
        board_power_w=load_priors().values["cpu_core_w"] * cores + load_priors().values["cpu_ram_w"],
        idle_power_w=None,
        sources={
            "peak_tflops": note,
            "bandwidth_gb_s": note,
            "board_power_w": "assumed: CodeCarbon's models of an unknown processor and of memory",
        },
    )


def processor_name() -> str:
    """As run records name it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if not names:
        return platform.processor() or platform.machine() or "CPU"
    return f"{names[0]} ({len(names)} threads)"


def _cache_path() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "lora-scaling" / "host.json"


def _remembered(name: str) -> dict[str, float] | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored: dict[str, Any] = json.loads(_cache_path().read_text(encoding="utf-8"))
        if stored["name"] == name:
            return {"tflops": float(stored["tflops"]), "gb_s": float(stored["gb_s"])}
    return None


def _measure(name: str) -> dict[str, float] | None:
    """TFLOP/s of all cores in float32 and GB/s of one, or None without numpy.

    One thread is measured and multiplied: with several, a core that is busy elsewhere would stall the others.
    """
    with _one_thread():
        try:
            import numpy as np
        except ImportError:
            return None
        size = 384
        a = np.full((size, size), 0.5, np.float32)
        b = np.empty_like(a)
        block = np.full(8_000_000, 0.5, np.float32)  # written, so that no pass waits for pages to be handed out
        tflops = 2 * size**3 / _best_s(lambda: np.matmul(a, a, out=b)) / 1e12 * (os.cpu_count() or 1)
        gb_s = 2 * block.nbytes / _best_s(lambda: np.copyto(block[::2], block[1::2])) / 1e9
    measured = {"tflops": tflops, "gb_s": gb_s}
    with contextlib.suppress(OSError):  # nowhere to remember it: it is measured again the next time
        path = _cache_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": name, **measured}), encoding="utf-8")
    return measured


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """OpenBLAS reads its number of threads when numpy is imported, and not again."""
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OPENBLAS_NUM_THREADS"]
        else:
            os.environ["OPENBLAS_NUM_THREADS"] = before


def _best_s(work: Any, budget_s: float = 0.05, least: int = 5) -> float:
    """The fastest of several goes: the first ones warm caches up, and a busy machine spoils some."""
    best, done, until = float("inf"), 0, time.perf_counter() + budget_s
    while done < least or time.perf_counter() < until:
        start = time.perf_counter()
        work()
        best, done = min(best, time.perf_counter() - start), done + 1
    return best
