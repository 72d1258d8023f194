"""Run every step of the acceptance, each in a process of its own, and sum up what was found.

    python -m benchmarks.on_gpu.acceptance RESULTS [--small] [--only STEP,STEP] [--data FILE] [--gguf FILE]

RESULTS receives `summary.json`, `summary.txt`, and a folder for each step with its records and logs. The exit status is
1 if a check failed or a step did not finish.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.on_gpu import steps
from benchmarks.on_gpu.checks import Findings
from benchmarks.on_gpu.place import Place

SIMULATED_W, SIMULATED_STEP_S = 250.0, "0.1"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--small", action="store_true", help="tiny models on a CPU, and a simulated GPU if possible")
    parser.add_argument("--only", help="the steps to run, separated by commas")
    parser.add_argument("--data", type=Path, help="a JSON file of instructions; synthetic samples without one")
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M in GGUF, for the comparison with the CPU")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    simulated = "NVML_STUB_LAW" in os.environ
    if options.step:
        return _carry_out(options, simulated)
    names = options.only.split(",") if options.only else list(steps.STEPS)
    unknown = [name for name in names if name not in steps.STEPS]
    if unknown:
        parser.error(f"--only: got {unknown[0]}; choose from {', '.join(steps.STEPS)}")
    options.results.mkdir(parents=True, exist_ok=True)
    env = _environment(options.results) if options.small else dict(os.environ)
    found = {name: _in_a_process(name, options, env) for name in names}
    summary = {"small": options.small, "simulated": "NVML_STUB_LAW" in env, "steps": found}
    (options.results / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    text = render(found)
    (options.results / "summary.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return int(any(failed(step) for step in found.values()))


def failed(step: dict[str, Any]) -> bool:
    return step["error"] is not None or any(check["passed"] is False for check in step["checks"])


def render(found: dict[str, dict[str, Any]]) -> str:
    """Write a line for each check, what was skipped, and how long each step took."""
    lines = []
    for name, step in found.items():
        lines.append(f"{name} ({step['seconds']:.0f} s){': FAILED' if failed(step) else ''}")
        for check in step["checks"]:
            mark = {True: "ok", False: "NOT OK", None: "–"}[check["passed"]]
            value = f"{check['value']:.4g}" if isinstance(check["value"], float) else check["value"]
            lines.append(f"  {mark:6} {check['name']}: {value} (allowed: {check['allowed']})")
        lines.extend(f"  skipped: {what}" for what in step["skipped"])
        if step["error"] is not None:
            lines.append(f"  error: {step['error']}")
    return "\n".join(lines)


def _environment(results: Path) -> dict[str, str]:
    """The environment of small steps: a simulated GPU of constant power, if it can be built here."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    try:
        from tests.support import nvml_stub
    except ImportError:  # not in a checkout
        return env
    if not nvml_stub.have_compiler():
        return env
    law = results / "gpu.law"
    power = ((time.time() - 5, SIMULATED_W),)
    nvml_stub.write_laws(law, [nvml_stub.Law(power=power, extras={"step": SIMULATED_STEP_S, "name": "Simulated GPU"})])
    return nvml_stub.environment(law.resolve())


def _in_a_process(name: str, options: argparse.Namespace, env: dict[str, str]) -> dict[str, Any]:
    """Carry out one step in a process of its own: one that fails or hangs takes nothing else with it."""
    folder = options.results / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = [str(options.results), "--step", name, *(["--small"] if options.small else [])]
    for option in ("data", "gguf"):
        if (file := getattr(options, option)) is not None:
            words += [f"--{option}", str(file.resolve())]
    began_s = time.perf_counter()
    error = None
    with (folder / "step.log").open("w", encoding="utf-8") as log:
        try:
            command = [sys.executable, "-m", "benchmarks.on_gpu.acceptance", *words]
            limit_s = steps.STEPS[name].limit_s * (steps.SLOWER if options.small else 1)
            subprocess.run(command, env=env, stdout=log, stderr=log, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired as expired:
            error = f"not finished after {expired.timeout:.0f} s"
    file = folder / "findings.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {**Findings().to_dict(), "error": None}
    if error is None and not file.is_file():
        error = f"the step's process died; {folder / 'step.log'} has its output"
    return {**found, "error": error or found["error"], "seconds": time.perf_counter() - began_s}


def _carry_out(options: argparse.Namespace, simulated: bool) -> int:
    folder = options.results / options.step
    place = Place(folder=folder, small=options.small, simulated=simulated, data=options.data, gguf=options.gguf)
    findings, error = Findings(), None
    try:
        steps.STEPS[options.step].work(place, findings)
    except Exception as problem:
        traceback.print_exc()
        error = f"{type(problem).__name__}: {problem}"
    document = {**findings.to_dict(), "error": error}
    (folder / "findings.json").write_text(json.dumps(document, indent=1, default=str), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
