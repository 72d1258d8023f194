"""Find out what this machine can measure, how well, and what would open the rest."""

from __future__ import annotations

import glob
import importlib.metadata
import os
import re
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
    """A short recording. Watts are means; `counter_over_power` compares each GPU's counter with its power readings."""

    seconds: float
    watts: dict[str, float | None]
    counter_over_power: dict[int, float | None]
    clock_drift_s: float
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


def diagnose(meter: EnergyMeter, *, seconds: float, load: Callable[[float], None] | None = None) -> Diagnosis:
    """Look at each sensor and record for `seconds`, idle or under `load(seconds)`."""
    test = _self_test(meter, seconds, load)
    return Diagnosis(
        components=(*_gpus(meter), _cpu(meter), _ram(meter)),
        self_test=test,
        notes=tuple(_notes(meter)),
        packages={name: _version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "codecarbon")},
        extras=_extras(),
    )


def _self_test(meter: EnergyMeter, seconds: float, load: Callable[[float], None] | None) -> SelfTest:
    recording = meter.recording()
    wall_s, start_s = time.time(), time.perf_counter()
    with recording.phase("test"):
        before = [(gpu.joules, gpu.check.power_j) for gpu in meter.gpu_meters]
        (load or time.sleep)(seconds)
        for gpu in meter.gpu_meters:
            gpu.read()
        after = [(gpu.joules, gpu.check.power_j) for gpu in meter.gpu_meters]
    drift_s = (time.time() - wall_s) - (time.perf_counter() - start_s)
    account = recording.close()
    [phase] = account.phases
    ratios: dict[int, float | None] = {}
    for gpu, (joules0, power0), (joules1, power1) in zip(meter.gpu_meters, before, after, strict=True):
        by_power_j = None if power0 is None or power1 is None else power1 - power0
        ratios[gpu.gpu.index] = (joules1 - joules0) / by_power_j if by_power_j and not gpu.by_power else None
    return SelfTest(
        seconds=phase.seconds,
        watts={n: None if c.joules is None else c.joules / phase.seconds for n, c in phase.components.items()},
        counter_over_power=ratios,
        clock_drift_s=drift_s,
        other_load_cores=account.conditions.get("other_cpu_load_cores"),
        exclusive=account.exclusive,
        warnings=tuple(w["message"] for w in account.warnings),
    )


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
        found.append(
            ComponentDiagnosis(component="gpu", device=f"{index}", source="unknown", kind="unknown", reason=why)
        )
    if found:
        return found
    tracked = meter.tracker.sources()["gpu"] if meter.tracker else None
    if tracked is not None and tracked.name not in ("none", "unknown"):
        return [_component("gpu", "", tracked.name, tracked.detail, tracked.relative_bound)]
    cards = _nvidia_cards()
    reason, advice = meter.gpu_reason, ()
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
        return ComponentDiagnosis(
            component="cpu", device="", source="unknown", kind="unknown", reason=meter.tracker_reason
        )
    source = meter.tracker.sources()["cpu"]
    model = str(meter.tracker.hardware.get("cpu_model") or "unknown model")
    advice = []
    if source_kind(source.name) == "modelled":
        advice.extend(_rapl_advice())
    return _component("cpu", model, source.name, source.detail, source.relative_bound, advice)


def _ram(meter: EnergyMeter) -> ComponentDiagnosis:
    if meter.tracker is None:
        return ComponentDiagnosis(
            component="ram", device="", source="unknown", kind="unknown", reason=meter.tracker_reason
        )
    size_gb = meter.tracker.hardware.get("ram_total_size")
    device = f"{size_gb:.0f} GB" if isinstance(size_gb, (int, float)) else ""
    if any(counter.kind == "dram" for counter in meter.tracker.rapl_counters()):
        return _component("ram", device, "rapl_dram", None, None)
    source = meter.tracker.sources()["ram"]
    return _component("ram", device, source.name, source.detail, source.relative_bound)


def _unknown(component: str, device: str, reason: str | None) -> ComponentDiagnosis:
    return ComponentDiagnosis(component=component, device=device, source="unknown", kind="unknown", reason=reason)


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


def _rapl_advice() -> list[str]:
    """Return what would open the processor's counter: nothing, if the machine shows none."""
    files = [*glob.glob(f"{POWERCAP}/intel-rapl:*/energy_uj"), *glob.glob(f"{POWERCAP}/intel-rapl/*/energy_uj")]
    if not files:
        where = "this container" if in_container() else "this machine (a virtual one?)"
        return [f"{where} shows no RAPL counter under {POWERCAP}; if you can, run on the host itself"]
    if any(not os.access(file, os.R_OK) for file in files):
        return [f"the processor has a counter that only root may read: {READ_RAPL}"]
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


def _notes(meter: EnergyMeter) -> list[str]:
    notes = []
    if os.environ.get("SLURM_JOB_ID"):
        notes.append("Slurm job: processor and memory of the whole node are counted, not the job's share.")
    elif in_container():
        notes.append("Container: processor and memory of the whole host are counted, not the container's share.")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        notes.append(f"CUDA_VISIBLE_DEVICES={visible}: only these GPUs are measured.")
    if meter.nvml is not None and any(meter.nvml.mig_enabled(gpu) for gpu in meter.gpus):
        notes.append("MIG: the counter is that of the whole board; slices used by others are in it.")
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
