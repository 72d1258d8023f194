"""A processor's energy counters as Linux shows them under powercap, in files of one's own."""

from __future__ import annotations

from pathlib import Path

from codecarbon.external.hardware import CPU

from lora_scaling.energy.tracker import Tracker

RANGE_J = 262143.32885


class Domain:
    """One package, with its memory if `dram`."""

    def __init__(self, folder: Path, number: int = 0, *, dram: bool = False):
        package = folder / "intel-rapl" / f"intel-rapl:{number}"
        package.mkdir(parents=True, exist_ok=True)
        self.file = package / "energy_uj"
        self.dram_file = package / f"intel-rapl:{number}:0" / "energy_uj" if dram else None
        for file, name in ((self.file, f"package-{number}"), (self.dram_file, "dram")):
            if file is not None:
                file.parent.mkdir(exist_ok=True)
                (file.parent / "name").write_text(f"{name}\n")
                (file.parent / "max_energy_range_uj").write_text(f"{round(RANGE_J * 1e6)}\n")
        self.show(0.0, dram_j=0.0)

    def show(self, joules: float | None, *, dram_j: float | None = None) -> None:
        """Show these joules from now on; None: the file is gone."""
        for file, value in ((self.file, joules), (self.dram_file, dram_j)):
            if file is None:
                continue
            if value is None:
                file.unlink(missing_ok=True)
                continue
            scratch = file.with_suffix(".new")
            scratch.write_text(f"{round(value * 1e6)}\n")
            scratch.replace(file)


def use_rapl(tracker: Tracker, domain: Domain, tdp_w: float = 100) -> None:
    """Put these counters in the place of this machine's processor."""
    folder = domain.file.parent.parent
    cpu = CPU(output_dir=".", mode="intel_rapl", model="Stub", tdp=tdp_w, rapl_dir=str(folder))  # type: ignore[arg-type]
    parts = tracker._tracker._hardware
    parts[next(i for i, part in enumerate(parts) if isinstance(part, CPU))] = cpu
