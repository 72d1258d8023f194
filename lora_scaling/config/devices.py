"""Recognise devices by the names that drivers and records use, and find their sheet in `conf/hardware/`.

Needs only the standard library, and OmegaConf to read a sheet.
"""

import dataclasses
import functools
import platform
import re
import subprocess
from pathlib import Path

from lora_scaling.config import HardwareConfig
from lora_scaling.config.build import shipped_option, suggest
from lora_scaling.errors import UserError
from lora_scaling.paths import choices, config_dir

# Names that drivers give → the preset that describes them (None: none does). The first match counts. Case does not
# matter, dashes are spaces, and the name of each preset matches its own line. The estimator page reads this table too.
DRIVER_NAMES: tuple[tuple[str, str | None], ...] = (
    (r"\b(Laptop|Max Q|MIG)\b", None),  # slower than, or a slice of, what the rest of the name says
    (r"\bH100\b.*PCIe", "h100-pcie"), (r"\bH100 NVL\b", "h100-nvl"), (r"\bH100\b", "h100-sxm"),
    (r"\bGH200\b", "gh200"), (r"\bH200\b(?! NVL)", "h200"),
    (r"\bGB10\b|\bDGX Spark\b", "dgx-spark"), (r"\bH20\b", "h20"), (r"\bRTX 2080 Ti\b", "rtx-2080-ti"),
    (r"\bGB200\b", "gb200"), (r"\bB300\b", "b300"), (r"\bB200\b", "b200"),
    (r"\bA100\b.*40GB", "a100-40gb"), (r"\bA100\b.*PCIe", "a100-pcie"), (r"\bA100\b", "a100-80gb"),
    (r"\bP100\b", "p100"), (r"\bV100", "v100"), (r"\bT4\b", "t4"), (r"\bA10G\b", "a10g"), (r"\bA10\b", "a10"),
    (r"\bA30\b", "a30"), (r"\bA40\b", "a40"), (r"\bL40S\b", "l40s"), (r"\bL40\b", "l40"), (r"\bL4\b", "l4"),
    (r"\bA4000\b", "rtx-a4000"), (r"\bA5000\b", "rtx-a5000"), (r"\bA6000\b", "rtx-a6000"),
    (r"\bRTX 6000 Ada\b", "rtx-6000-ada"), (r"\bRTX PRO 6000\b", "rtx-pro-6000"),
    (r"\bRTX 3060 Ti\b", "rtx-3060-ti"), (r"\bRTX 3070 Ti\b", "rtx-3070-ti"), (r"\bRTX 3080 Ti\b", "rtx-3080-ti"),
    (r"\bRTX 3060\b(?! Ti)", "rtx-3060"), (r"\bRTX 3070\b(?! Ti)", "rtx-3070"), (r"\bRTX 3080\b(?! Ti)", "rtx-3080"),
    (r"\bRTX 3090 Ti\b", "rtx-3090-ti"), (r"\bRTX 3090\b", "rtx-3090"),
    (r"\bRTX 4060 Ti\b", "rtx-4060-ti"), (r"\bRTX 4060\b", "rtx-4060"),
    (r"\bRTX 4070 SUPER\b", "rtx-4070-super"), (r"\bRTX 4080 SUPER\b", "rtx-4080-super"),
    (r"\bRTX 4070 Ti\b(?! SUPER)", "rtx-4070-ti"), (r"\bRTX 4070 Ti SUPER\b", "rtx-4070-ti-super"),
    (r"\bRTX 4070\b(?! Ti| SUPER)", "rtx-4070"),
    (r"\bRTX 4080\b(?! SUPER)", "rtx-4080"), (r"\bRTX 4090\b(?! D)", "rtx-4090"),
    (r"\bRTX 5060 Ti\b", "rtx-5060-ti"), (r"\bRTX 5070 Ti\b", "rtx-5070-ti"), (r"\bRTX 5070\b", "rtx-5070"),
    (r"\bRTX 5080\b", "rtx-5080"), (r"\bRTX 5090\b(?! D)", "rtx-5090"),
    (r"\bMI250X\b", "mi250x"), (r"\bRX 7900 XTX\b", "rx-7900-xtx"),
    (r"\bMI300X\b", "mi300x"), (r"\bMI325X\b", "mi325x"), (r"\bMI355X\b", "mi355x"),
    (r"\bAGX Orin\b|^Jetson Orin$", "jetson-orin"),
    (r"^Apple M1 Max$", "apple-m1-max"), (r"^Apple M1 Pro$", "apple-m1-pro"), (r"^Apple M1$", "apple-m1"),
    (r"^Apple M2 Ultra$", "apple-m2-ultra"), (r"^Apple M2 Max$", "apple-m2-max"), (r"^Apple M2 Pro$", "apple-m2-pro"),
    (r"^Apple M2$", "apple-m2"), (r"^Apple M3 Ultra$", "apple-m3-ultra"), (r"^Apple M3 Max$", "apple-m3-max"),
    (r"^Apple M3 Pro$", "apple-m3-pro"), (r"^Apple M3$", "apple-m3"), (r"^Apple M4 Max$", "apple-m4-max"),
    (r"^Apple M4 Pro$", "apple-m4-pro"), (r"^Apple M4$", "apple-m4"), (r"^Apple M5$", "apple-m5"),
)  # fmt: skip


def listed_as(name: str) -> str | None:
    """Find the preset that describes the device of this name; None if none does."""
    spaced = re.sub(r"[-_]", " ", name)
    return next((listed for pattern, listed in DRIVER_NAMES if re.search(pattern, spaced, re.IGNORECASE)), None)


def same_device(one: str, other: str) -> bool:
    """Decide whether two names mean the same device, as `rtx-a4000` and `NVIDIA RTX A4000` do.

    Devices of the table are the same if their presets are. For others, the longer name must contain each word of the
    shorter.
    """
    listed, also = listed_as(one), listed_as(other)
    if listed is not None or also is not None:
        return listed == also
    first, second = (set(re.findall(r"[a-z0-9.]+", name.lower())) - {"nvidia", "amd"} for name in (one, other))
    return bool(first and second) and (first <= second or second <= first)


@functools.cache
def preset(name: str) -> HardwareConfig:
    """Read the sheet of a listed device by its file's name.

    Raises:
        UserError: the device is not listed.
    """
    if name not in choices("hardware", shipped=True):
        if name not in choices("hardware"):
            raise UserError(f"hardware: got {name!r}; {suggest(name, choices('hardware'))}")
        from lora_scaling.config.compose import compose

        return compose([f"hardware={name}"]).hardware  # the user's own may build on another
    return shipped_option(HardwareConfig, "hardware", name)


def memory_of_presets() -> dict[str, float]:
    """Read the memory of each listed device, in GB, by name."""
    memory_gb = {}
    for name in choices("hardware", shipped=True):
        line = re.search(r"^memory_gb: ([0-9.]+)$", (config_dir() / "hardware" / f"{name}.yaml").read_text(), re.M)
        if line:
            memory_gb[name] = float(line.group(1))
    return memory_gb


def from_nvml_name(
    name: str, asked: HardwareConfig, *, limit_w: float | None, memory_gb: float | None
) -> HardwareConfig:
    """Find the preset of a device's name, with the limits of this machine; an unlisted device has only these limits.

    limit_w, memory_gb: None or 0 if the driver does not say.
    """
    here: dict[str, float] = {}
    sources: dict[str, str] = {}
    if limit_w:
        here["board_power_w"] = limit_w
        sources["board_power_w"] = "NVML: the enforced limit here"
    if memory_gb:
        here["memory_gb"] = memory_gb
        sources["memory_gb"] = "NVML"
    listed = listed_as(name)
    if listed is None:
        return dataclasses.replace(asked, name=name, kind="cuda", sources=sources, **here)
    sheet = preset(listed)
    if memory_gb and sheet.memory_gb is not None:
        # A driver reports GiB minus what it reserves; the GB of the sheet already leave room for that.
        here["memory_gb"] = min(memory_gb, sheet.memory_gb)
    if limit_w and sheet.idle_power_w is not None and sheet.idle_power_w > limit_w:
        here["idle_power_w"] = limit_w
    return dataclasses.replace(sheet, count=asked.count, sources={**sheet.sources, **sources}, **here)


def processor_name() -> str:
    """Name the processor as run records do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if not names:
        return mac_chip() or platform.processor() or platform.machine() or "CPU"
    return f"{names[0]} ({len(names)} threads)"


def is_processor(name: str) -> bool:
    """Return whether a run record's name of a device is that of a processor, as `processor_name` gives it."""
    return re.search(r" \(\d+ threads\)$", name) is not None


def mac_chip() -> str | None:
    """Name the chip of a Mac, processor and GPU in one, as macOS does ("Apple M3 Max"); None elsewhere."""
    if platform.system() != "Darwin":
        return None
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
