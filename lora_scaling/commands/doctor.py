"""`python -m lora_scaling.doctor`: what this machine can measure, how well, and what would open the rest."""

from __future__ import annotations

import json
from collections.abc import Callable

from lora_scaling import terminal
from lora_scaling.commands.cli import Parser, command
from lora_scaling.energy.diagnosis import ComponentDiagnosis, Diagnosis, SelfTest, diagnose
from lora_scaling.energy.meter import open_meter
from lora_scaling.energy.settings import MeteringSettings
from lora_scaling.text import POWER, duration, number

IDLE_S, LOAD_S = 3.0, 8.0
CLOCK_DRIFT_S = 0.01
FAR = 0.3  # counter and power readings further apart: the bound of a run covers both


@command()
def main(words: list[str]) -> int:
    """Look at the sensors, record for a few seconds, and print what was found."""
    parser = Parser(
        prog="python -m lora_scaling.doctor",
        description="What can this machine measure? Component by component, with a self-test of a few seconds.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args(words)
    meter = open_meter(MeteringSettings())
    try:
        load = _gpu_load() if meter.gpu_meters else None
        diagnosis = diagnose(meter, seconds=LOAD_S if meter.gpu_meters else IDLE_S, load=load)
    finally:
        meter.close()
    print(json.dumps(diagnosis.to_dict(), indent=1) if arguments.json else render(diagnosis, loaded=load is not None))
    return 0


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
        rows.append([name, _kind(part), part.source, _error(part)])
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
    lines = [f"Self-test, {duration(round(test.seconds, 1))} {state}: {watts or 'no power is known'}."]
    for index, ratio in test.counter_over_power.items():
        if ratio is not None:
            judged = "they agree" if abs(ratio - 1) <= FAR else "they do not agree, and runs will have a wide bound"
            lines.append(
                f"GPU {index}: its counter gave {number(ratio)} × what its power readings add up to: {judged}."
            )
    drift_s = test.clock_drift_s
    if abs(drift_s) > CLOCK_DRIFT_S:
        lines.append(f"Clock: adjusted by {drift_s:+.3f} s during the test; energy may be dated to the wrong hour.")
    else:
        lines.append("Clock: steady.")
    if test.exclusive is False:
        lines.append("Neighbours: other processes are busy, and their energy would be counted; see the warning.")
    else:
        lines.append("Neighbours: none." if test.exclusive else "Neighbours: cannot be seen from here.")
    lines.extend(f"Warning: {text}" for text in test.warnings)
    return lines
