"""Find out what this machine can measure, how well, and what would open the rest."""

from __future__ import annotations

import ctypes
import glob
import importlib.metadata
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lora_scaling.energy.meter import EnergyMeter
from lora_scaling.records.sources import SourceKind, relative_bound, source_kind

POWERCAP = "/sys/class/powercap"
NVIDIA = "0x10de"  # its number as a vendor of PCI devices
READ_RAPL = f"sudo chmod -R a+r {POWERCAP}/intel-rapl*  (until the next boot)"
ZEUSD_SOCKET = "/var/run/zeusd.sock"
ZEUSD = "zeusd runs here, but this program reads counters itself: make them readable"
APPLE = "let `sudo powermetrics` run without a password, as CodeCarbon's documentation says: it then reads the chip"
NO_SMI = (
    "`nvidia-smi` is not on PATH: GPUs are measured all the same, but CodeCarbon's figure beside ours will be missing"
)
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
NO_COUNTER = "this GPU has no energy counter (Volta and newer have one): windows of 10 s and more keep the bound small"
GPU_IN_CONTAINER = "start the container with --gpus all (Docker with nvidia-container-toolkit) or --nv (Apptainer)"


@dataclass(frozen=True, kw_only=True)
class ComponentDiagnosis:
    """One component or GPU: where its energy comes from, and what would make it better.

    resolution_s: seconds between steps of its counter; None if it has none.
    relative_bound: half-width of the error as a fraction; None if it depends on the window, or is unknown.
    """

    component: str
    device: str
    source: str
    kind: SourceKind
    resolution_s: float | None = None
    relative_bound: float | None = None
    reason: str | None = None
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """A short recording, after a shorter one of the idle GPU. Watts are means.

    counter_over_power: how each GPU's counter compares with its power readings; suspected: the GPUs of which runs would
        say that they disagree. clock_synchronised: None if the system does not say.
    """

    seconds: float
    watts: dict[str, float | None]
    idle_gpu_w: dict[int, float | None]
    counter_over_power: dict[int, float | None]
    suspected: tuple[int, ...]
    clock_drift_s: float
    clock_synchronised: bool | None
    other_load_cores: float | None
    exclusive: bool | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    components: tuple[ComponentDiagnosis, ...]
    self_test: SelfTest
    notes: tuple[str, ...]
    packages: dict[str, str | None]
    extras: dict[str, bool] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def diagnose(
    meter: EnergyMeter, *, seconds: float, idle_s: float = 0.0, load: Callable[[float], None] | None = None
) -> Diagnosis:
    """Look at each sensor and record: for `idle_s` the idle GPUs, then for `seconds`, idle or under `load(seconds)`."""
    test = _self_test(meter, seconds, idle_s, load)
    return Diagnosis(
        components=(*_gpus(meter), _cpu(meter), _ram(meter)),
        self_test=test,
        notes=tuple(notes_on(meter)),
        packages={name: _version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "codecarbon")},
        extras=_extras(),
    )


def _self_test(meter: EnergyMeter, seconds: float, idle_s: float, load: Callable[[float], None] | None) -> SelfTest:
    recording = meter.recording()
    wall_s, start_s = time.time(), time.perf_counter()
    if idle_s > 0:
        with recording.phase("idle"):
            time.sleep(idle_s)
    with recording.phase("test"):
        (load or time.sleep)(seconds)
    drift_s = (time.time() - wall_s) - (time.perf_counter() - start_s)
    account = recording.close()
    phase = account.phases[-1]
    said = [w["message"] for w in account.warnings if w["kind"] == "counter_and_power"]
    ratios, idle_w = {}, {}
    for i, (gpu, used) in enumerate(zip(meter.gpu_meters, phase.gpus, strict=False)):
        power_j = recording.power_j(i)
        ratios[gpu.gpu.index] = (
            used.joules / power_j if power_j and used.joules is not None and not gpu.by_power else None
        )
        idle = account.phases[0].gpus[i] if idle_s > 0 else None
        idle_w[gpu.gpu.index] = None if idle is None or idle.joules is None else idle.joules / account.phases[0].seconds
    return SelfTest(
        seconds=phase.seconds,
        watts={n: None if c.joules is None else c.joules / phase.seconds for n, c in phase.components.items()},
        idle_gpu_w=idle_w,
        counter_over_power=ratios,
        suspected=tuple(i for i in ratios if any(f"GPU {i} in test" in text for text in said)),
        clock_drift_s=drift_s,
        clock_synchronised=clock_synchronised(),
        other_load_cores=account.conditions.get("other_cpu_load_cores"),
        exclusive=account.exclusive,
        warnings=tuple(w["message"] for w in account.warnings if w["kind"] != "short_window"),
    )


def clock_synchronised() -> bool | None:
    """Return whether the system keeps its clock by a time service; None if it does not say."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # larger than struct timex; reads only
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != TIME_ERROR


def _gpus(meter: EnergyMeter) -> list[ComponentDiagnosis]:
    found = []
    for device in meter.gpu_meters:
        source = device.source
        advice = (NO_COUNTER,) if device.by_power else ()
        found.append(
            ComponentDiagnosis(
                component="gpu",
                device=f"{device.gpu.index}: {device.gpu.name or 'unnamed'}",
                source="unknown" if device.lost else source,
                kind="unknown" if device.lost else source_kind(source),
                resolution_s=None if device.by_power else device.step_s,
                reason=device.lost,
                advice=advice,
            )
        )
    for index, why in meter.unreadable.items():
        found.append(_unknown("gpu", f"{index}", why))
    if found:
        return found
    tracked = meter.tracker.sources()["gpu"] if meter.tracker else None
    if tracked is not None and tracked.name not in ("none", "unknown"):
        return [_component("gpu", "", tracked.name, tracked.detail, tracked.relative_bound)]
    cards = _nvidia_cards()
    reason, advice = meter.gpu_reason, ()
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return [_unknown("gpu", "", tracked.reason if tracked else reason, APPLE)]
    if meter.gpu_hidden:
        advice = (
            (GPU_IN_CONTAINER, "restart a container that has lost its devices")
            if in_container()
            else ("check that `nvidia-smi` works; after an update of the driver, reboot",)
        )
    elif cards:
        reason = f"{reason}; {cards} NVIDIA device{'s' if cards > 1 else ''} on the PCI bus"
        advice = (GPU_IN_CONTAINER if in_container() else "install NVIDIA's driver, so that `nvidia-smi` works",)
    kind = "unknown" if meter.gpu_hidden or cards else "none"
    return [ComponentDiagnosis(component="gpu", device="", source=kind, kind=kind, reason=reason, advice=advice)]


def _cpu(meter: EnergyMeter) -> ComponentDiagnosis:
    if meter.tracker is None:
        return _unknown("cpu", "", meter.tracker_reason)
    source = meter.tracker.sources()["cpu"]
    model = str(meter.tracker.hardware.get("cpu_model") or "unknown model")
    if source_kind(source.name) == "measured":
        return _component("cpu", model, source.name, source.reason, source.relative_bound)
    return _component("cpu", model, source.name, source.detail, source.relative_bound, rapl_advice())


def _ram(meter: EnergyMeter) -> ComponentDiagnosis:
    if meter.tracker is None:
        return _unknown("ram", "", meter.tracker_reason)
    size_gb = meter.tracker.hardware.get("ram_total_size")
    device = f"{size_gb:.0f} GB" if isinstance(size_gb, (int, float)) else ""
    if any(counter.kind == "dram" for counter in meter.tracker.rapl_counters()):
        return _component("ram", device, "rapl_dram", None, None)
    source = meter.tracker.sources()["ram"]
    return _component("ram", device, source.name, source.detail, source.relative_bound)


def _unknown(component: str, device: str, reason: str | None, *advice: str) -> ComponentDiagnosis:
    return ComponentDiagnosis(
        component=component, device=device, source="unknown", kind="unknown", reason=reason, advice=advice
    )


def _component(
    component: str, device: str, source: str, reason: str | None, bound: float | None, advice: list[str] | None = None
) -> ComponentDiagnosis:
    return ComponentDiagnosis(
        component=component,
        device=device,
        source=source,
        kind=source_kind(source),
        resolution_s=0.001 if source.startswith("rapl") else None,
        relative_bound=relative_bound(source) if bound is None else bound,
        reason=reason,
        advice=tuple(advice or ()),
    )


def rapl_advice() -> list[str]:
    """Return what would open the processor's counter: nothing, if the machine shows none."""
    files = [*glob.glob(f"{POWERCAP}/intel-rapl:*/energy_uj"), *glob.glob(f"{POWERCAP}/intel-rapl/*/energy_uj")]
    if not files:
        where = "this container" if in_container() else "this machine (a virtual one?)"
        return [f"{where} shows no RAPL counter under {POWERCAP}; if you can, run on the host itself"]
    if any(not os.access(file, os.R_OK) for file in files):
        advice = [f"the processor has a counter that only root may read: {READ_RAPL}"]
        return [*advice, ZEUSD] if os.path.exists(ZEUSD_SOCKET) else advice
    return []


def _nvidia_cards() -> int:
    """Count NVIDIA's display and compute devices on the PCI bus (classes 0x0300 and 0x0302)."""
    count = 0
    for folder in glob.glob("/sys/bus/pci/devices/*"):
        try:
            vendor = Path(folder, "vendor").read_text(encoding="ascii").strip()
            kind = Path(folder, "class").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        count += vendor == NVIDIA and kind.startswith(("0x0300", "0x0302"))
    return count


def notes_on(meter: EnergyMeter) -> list[str]:
    notes = []
    if os.environ.get("SLURM_JOB_ID"):
        notes.append("Slurm job: processor and memory of the whole node are counted, not the job's share.")
    elif in_container():
        notes.append("Container: processor and memory of the whole host are counted, not the container's share.")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        notes.append(f"CUDA_VISIBLE_DEVICES={visible}: only these GPUs are measured.")
    sliced = [gpu.index for gpu in meter.gpus if meter.nvml is not None and meter.nvml.mig_enabled(gpu)]
    if sliced:
        notes.append(
            f"MIG: GPU {', '.join(map(str, sliced))} is divided; its counter is that of the whole board, with what "
            "runs in other slices (sudo nvidia-smi -i NUMBER -mig 0 gives the board to one job)."
        )
    if meter.gpus and meter.nvml is not None and meter.nvml.name == "nvml" and shutil.which("nvidia-smi") is None:
        notes.append(f"{NO_SMI}.")
    return notes


def in_container() -> bool:
    """Return whether this process seems to run in a container."""
    if any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv", "/.singularity.d")):
        return True
    try:
        return bool(re.search(r"docker|kubepods|containerd|lxc", Path("/proc/1/cgroup").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras() -> dict[str, bool]:
    """Return, for each extra of this program, whether all its packages are installed."""
    try:
        metadata = importlib.metadata.metadata("lora-scaling")
    except importlib.metadata.PackageNotFoundError:
        return {}
    needs: dict[str, list[str]] = {name: [] for name in metadata.get_all("Provides-Extra") or []}
    for requirement in metadata.get_all("Requires-Dist") or []:
        if found := re.match(r"([A-Za-z0-9._-]+).*extra\s*==\s*['\"]([^'\"]+)['\"]", requirement):
            needs.setdefault(found[2], []).append(found[1])
    return {extra: all(_version(package) for package in packages) for extra, packages in sorted(needs.items())}
