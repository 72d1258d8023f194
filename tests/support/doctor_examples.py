"""Shows what `python -m lora_scaling.doctor` prints on three machines, and writes it into docs/doctor.md.

    python -m tests.support.doctor_examples

The machines are this one without a GPU, this one with simulated GPUs, and this one with files in the place of the
processor's counters.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support import nvml_stub
from tests.support.nvml_stub import Law
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "doctor.md"
MACHINES = ("without a GPU", "with three simulated GPUs", "with counters of the processor and its memory")
# What depends on the machine that the examples are made on.
VARIES = ("cpu:", "ram:", "Container:", "Slurm job:", "Neighbours:", "Warning:", "Clock:", "Packages:", "Extras ")

PLAIN = """
import json, sys
from lora_scaling.commands import doctor
if len(sys.argv) > 1:
    doctor.WITHOUT_GPU_S = doctor.IDLE_S = 0.5
    doctor.LOAD_S = doctor.LEAST_LOAD_S = float(sys.argv[1])
diagnosis, loaded = doctor.examine()
print(doctor.render(diagnosis, loaded=loaded))
print(json.dumps(diagnosis.to_dict()))
"""
POWERCAP = f"""
import tempfile, threading, time
from pathlib import Path
from lora_scaling.energy import MeteringSettings, open_meter
from tests.support.rapl import Domain, use_rapl
package = Domain(Path(tempfile.mkdtemp()), dram=True)
def count():
    start_s = time.perf_counter()
    while True:
        seconds = time.perf_counter() - start_s
        package.show(65 * seconds, dram_j=4 * seconds)
        time.sleep(0.005)
threading.Thread(target=count, daemon=True).start()
use_rapl(open_meter(MeteringSettings()).tracker, package)
{PLAIN}
"""


def output(machine: str, load_s: float | None = None) -> tuple[str, dict[str, Any]]:
    """What doctor prints on this machine, and its JSON. load_s: seconds of its self-test, if not those of a person."""
    with tempfile.TemporaryDirectory() as folder:
        law = Path(folder, "law")
        power = ((time.time() - 5, 120.0),)
        laws = [
            Law(power=power, extras={"step": "0.1", "name": "Simulated A"}),
            Law(power=power, extras={"step": "0.1", "name": "Simulated B", "scale": "1.75"}),
            Law(power=power, extras={"nocounter": "", "name": "Simulated C"}),
        ]
        nvml_stub.write_laws(law, laws)
        env = nvml_stub.environment(law)
        if machine != MACHINES[1]:
            env = {**env, "LD_LIBRARY_PATH": "", "PATH": env["PATH"].partition(":")[2]}
        code = POWERCAP if machine == MACHINES[2] else PLAIN
        command = [sys.executable, "-c", code, *([] if load_s is None else [str(load_s)])]
        done = subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        *lines, document = done.stdout.splitlines(keepends=True)
        return "".join(lines), json.loads(document)


def documented(machine: str) -> str:
    """What the page shows for this machine."""
    found = re.search(_pattern(machine), PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{PAGE} has no example `{machine}`"
    return found[2]


def normalised(text: str) -> list[str]:
    """The lines without what varies from run to run and from machine to machine."""
    lines = []
    for line in text.splitlines():
        if line.startswith(VARIES):
            continue
        plain = re.sub(r"[+-]?\d+(\.\d+)?( [m]?s\b)?", "#", line)
        plain = re.sub(r"^(cpu|ram) .*?  +(measured|modelled) .*", r"\1 \2", plain)
        plain = re.sub(r"(idle|busy): .*", r"\1", plain)
        lines.append(" ".join(plain.split()))
    return lines


def _pattern(machine: str) -> str:
    return rf"(## [^\n]*{re.escape(machine)}\n.*?```\n)(.*?)(```\n)"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for machine in MACHINES:
        began_s = time.perf_counter()
        shown, _ = output(machine)
        print(f"{machine}: {time.perf_counter() - began_s:.1f} s")
        page = re.sub(_pattern(machine), lambda found, shown=shown: found[1] + shown + found[3], page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
