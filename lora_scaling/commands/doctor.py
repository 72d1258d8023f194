"""`python -m lora_scaling.doctor`: what this machine can measure, how well, and what would open the rest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from lora_scaling import terminal
from lora_scaling.commands.cli import Parser, command
from lora_scaling.energy.diagnosis import ComponentDiagnosis, Diagnosis, SelfTest, diagnose
from lora_scaling.energy.meter import open_meter
from lora_scaling.energy.settings import MeteringSettings
from lora_scaling.text import POWER, duration, number

WITHOUT_GPU_S = 3.0
IDLE_S, LOAD_S = 2.0, 8.0  # with a GPU: ten seconds, fewer if imports and sensors took long
LEAST_LOAD_S, WHOLE_S = 4.0, 13.0
CLOCK_DRIFT_S = 0.01
DOUBTED = "counter and power do not agree: stated for each run"

OPTIONS = ("--json",)


@command()
def main(words: list[str]) -> int:
    """Look at the sensors, record for a few seconds, and print what was found."""
    parser = Parser(
        prog="lora-scaling doctor",
        description="What can this machine measure? Component by component, with a self-test of a few seconds.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args(words)
    diagnosis, loaded = examine()
    print(json.dumps(diagnosis.to_dict(), indent=1) if arguments.json else render(diagnosis, loaded=loaded))
    return 0


def examine() -> tuple[Diagnosis, bool]:
    """Look at the sensors and record; the second value says whether a GPU was kept busy meanwhile."""
    began_s = time.perf_counter()
    meter = open_meter(MeteringSettings())
    try:
        if not meter.gpu_meters:
            return diagnose(meter, seconds=WITHOUT_GPU_S), False
        load = _gpu_load()
        left_s = WHOLE_S - (time.perf_counter() - began_s) - IDLE_S
        seconds = min(LOAD_S, max(left_s, LEAST_LOAD_S))
        return diagnose(meter, seconds=seconds, idle_s=IDLE_S, load=load), load is not None
    finally:
        meter.close()


def _gpu_load() -> Callable[[float], None] | None:
    """Return what keeps the GPU busy, or None if torch cannot use one."""
    try:
        from lora_scaling.training.device import keep_gpu_busy
    except ImportError:
        return None
    return keep_gpu_busy()


def render(diagnosis: Diagnosis, *, loaded: bool) -> str:
    rows = [["component", "energy is", "from", "error of its energy"]]
    for part in diagnosis.components:
        name = f"{part.component} {part.device}".strip()
        doubted = part.component == "gpu" and part.device.partition(":")[0] in map(str, diagnosis.self_test.suspected)
        rows.append([name, _kind(part), part.source, DOUBTED if doubted else _error(part)])
    lines = [terminal.table(rows, right=()), ""]
    for part in diagnosis.components:
        if part.reason:
            lines.append(f"{part.component}: {part.reason}.")
        lines.extend(f"{part.component}: {text}." for text in part.advice)
    lines.extend(diagnosis.notes)
    lines.extend(_self_test(diagnosis.self_test, loaded))
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in diagnosis.packages.items())
    lines.append(f"Packages: {versions}.")
    missing = [name for name, there in diagnosis.extras.items() if not there]
    if missing:
        lines.append(f"Extras that are not installed: {', '.join(missing)} (pip install 'lora-scaling[{missing[0]}]').")
    return "\n".join(lines)


def _kind(part: ComponentDiagnosis) -> str:
    return {"none": "absent"}.get(part.kind, part.kind)


def _error(part: ComponentDiagnosis) -> str:
    if part.kind in ("none", "unknown"):
        return "–"
    if part.source == "nvml_counter" and part.resolution_s is not None:
        return f"counter moves every {part.resolution_s * 1000:.0f} ms: under 1 % of a window of 10 s"
    if part.source == "nvml_power":
        return "depends on how the power changes; stated for each run"
    if part.relative_bound is None:
        return "unknown"
    bound = part.relative_bound
    return f"up to a factor {1 + bound:g}" if bound >= 1 else f"± {100 * bound:g} %"


def _self_test(test: SelfTest, loaded: bool) -> list[str]:
    watts = ", ".join(f"{name} {POWER.show(w)}" for name, w in test.watts.items() if w is not None)
    state = "with the GPU busy" if loaded else "idle"
    lines = []
    idle = [f"GPU {index} {POWER.show(w)}" for index, w in test.idle_gpu_w.items() if w is not None]
    if idle:
        lines.append(f"Idle power: {', '.join(idle)}.")
    lines.append(f"Self-test, {duration(round(test.seconds, 1))} {state}: {watts or 'no power is known'}.")
    for index, ratio in test.counter_over_power.items():
        if ratio is not None:
            judged = "they do not agree, and runs have a wide bound" if index in test.suspected else "they agree"
            lines.append(
                f"GPU {index}: its counter gave {number(ratio)} × what its power readings add up to: {judged}."
            )
    drift_s = test.clock_drift_s
    if abs(drift_s) > CLOCK_DRIFT_S:
        lines.append(f"Clock: adjusted by {drift_s:+.3f} s during the test; energy may be dated to the wrong hour.")
    elif test.clock_synchronised is False:
        lines.append("Clock: steady; no time service (chrony, ntpd) keeps it right, so hours may be the wrong ones.")
    else:
        lines.append("Clock: steady.")
    if test.exclusive is False:
        lines.append("Neighbours: other processes are busy, and their energy would be counted; see the warning.")
    else:
        lines.append("Neighbours: none." if test.exclusive else "Neighbours: cannot be seen from here.")
    lines.extend(f"Warning: {text}" for text in test.warnings)
    return lines
