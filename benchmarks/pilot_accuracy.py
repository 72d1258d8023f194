"""Compare pilots with the runs they predict, each in its own process, on this machine.

    python benchmarks/pilot_accuracy.py [--pilot 20s] [--gguf FILE --data FILE] [--rows 0:13] [--json]

Each configuration is first estimated with a pilot and then run. Prints a row for each (the energy of the run, the
estimate, its 90 % interval and error) and a summary. Nothing else may run on the machine meanwhile. The configurations
have 1 to 135 million parameters, LoRA, QLoRA and full, several batch sizes and lengths, packing and checkpointing.
With `--gguf` and `--data` (a file in the alpaca layout), SmolLM2-135M with its own weights is included. Takes about 20
minutes on two CPU cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lora_scaling.units import JOULES_PER_KWH

CONFIGURATIONS = [
    "model=ladder-1m samples=4000",
    "model=ladder-1m samples=2400 group_by_length=false",
    "model=ladder-1m samples=2400 batch_size=16 method=full",
    "model=ladder-1m samples=1600 method=qlora data.tokens_per_sample=160",
    "model=ladder-3m samples=1500 lora.r=32",
    "model=ladder-3m samples=600 epochs=2 gradient_checkpointing=true",
    "model=ladder-3m samples=1500 packing=true",
    "model=ladder-10m samples=700",
    "model=ladder-10m samples=600 method=full batch_size=4 gradient_accumulation=2",
    "model=ladder-30m samples=280",
    "model=ladder-60m samples=120",
]
SMOLLM2 = [
    "model=smollm2-135m model.gguf_file={gguf} data=file data.path={data} samples=64 batch_size=4 max_seq_len=128",
    "model=smollm2-135m model.gguf_file={gguf} data=file data.path={data} samples=48 batch_size=2 max_seq_len=160 "
    "lora.r=16",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilot", default="20s")
    parser.add_argument("--gguf")
    parser.add_argument("--data")
    parser.add_argument("--rows", default=":", help="which configurations, as a slice")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    configurations = CONFIGURATIONS + (SMOLLM2 if given.gguf and given.data else [])
    start, end = (int(part) if part else None for part in given.rows.split(":"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for configuration in configurations[start:end]:
            overrides = configuration.format(gguf=given.gguf, data=given.data).split()
            rows.append(compared(overrides, given.pilot, Path(folder)))
            print(json.dumps(rows[-1]) if given.json else line(rows[-1]), flush=True)
    if not given.json:
        print(summary(rows))


def compared(overrides: list[str], pilot: str, folder: Path) -> dict[str, Any]:
    """Return the energy and time of a pilot and of the run."""
    estimate = json.loads(python("lora_scaling.estimate", *overrides, f"pilot={pilot}", "--json"))
    python("lora_scaling", *overrides, f"runs_dir={folder}", "study=pilots", "on_existing=rerun")
    newest = max(folder.glob("pilots/*/run.json"), key=lambda path: path.stat().st_mtime)
    record = json.loads(newest.read_text())
    kwh, interval = record["energy"]["joules"] / JOULES_PER_KWH, estimate["energy_kwh"]
    return {
        "overrides": " ".join(o for o in overrides if "_file=" not in o and "path=" not in o),
        "run_s": record["total_s"],
        "run_kwh": kwh,
        "pilot_kwh": interval["estimate"],
        "low": interval["low"],
        "high": interval["high"],
        "error": interval["estimate"] / kwh - 1,
        "time_error": estimate["time_s"]["estimate"] / record["total_s"] - 1,
        "inside": interval["low"] <= kwh <= interval["high"],
        "disturbed": record["exclusive"] is False or any("other processes" in text for text in estimate["assumptions"]),
    }


def python(module: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def line(row: dict[str, Any]) -> str:
    return (
        f"| {row['overrides']} | {row['run_s']:.0f} | {1000 * row['run_kwh']:.4g} | {1000 * row['pilot_kwh']:.4g} | "
        f"{1000 * row['low']:.4g} … {1000 * row['high']:.4g} | {100 * row['error']:+.1f} % | "
        f"{'' if row['inside'] else 'outside'}{' disturbed by other processes' if row['disturbed'] else ''} |"
    )


def summary(rows: list[dict[str, Any]]) -> str:
    median = statistics.median(abs(row["error"]) for row in rows)
    inside = sum(row["inside"] for row in rows)
    return f"Median error {100 * median:.1f} %; {inside} of {len(rows)} inside their 90 % interval."


if __name__ == "__main__":
    main()
