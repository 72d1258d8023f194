"""Runs in a process of its own, against the stub GPU: one run of a law, its account and its law on stdout.

python measure.py KIND LAW_FILE TRAIN_SECONDS
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.support.nvml_stub import Law, write_laws

IDLE_W, BUSY_W = 100.0, 300.0
CHANGE_S = 2.5  # after the start of the training window


def law_at_rest(kind: str, epoch: float) -> list[Law]:
    extras: dict[str, str] = {}
    if kind.endswith("_100ms"):
        extras["step"] = "0.1"
    if kind.startswith("no_counter"):
        extras["nocounter"] = ""
    if kind.startswith("superchip"):
        extras["name"] = "NVIDIA GH200 480GB"
    if kind == "liars":
        always = {
            lie: {k: v for k, v in lies(lie, epoch + 5).items() if k in ("step", "scale", "average")} for lie in LIES
        }
        return [Law(power=((epoch, IDLE_W),), extras=always[lie]) for lie in LIES]
    first = Law(power=((epoch, IDLE_W),), extras=extras)
    second = Law(power=((epoch, 2 * IDLE_W),), extras={**extras, "name": "Stub GPU"})
    return [first, second] if kind.startswith("two_gpus") else [first]


LIES = (
    "honest", "honest_100ms", "honest_average_100ms", "frozen", "frozen_100ms", "frozen_always", "frozen_at_the_edge",
    "frozen_twice_100ms", "frozen_to_the_end_100ms", "jump", "jump_100ms", "jump_small_100ms", "scaled_up_100ms",
    "scaled_down", "scaled_little_100ms", "scaled_average_100ms",
)  # fmt: skip


def lies(lie: str, start: float) -> dict[str, str]:
    """How one GPU of `liars` shows the law, in a window that begins at `start`."""
    change = start + CHANGE_S
    extras = {"step": "0.1"} if lie.endswith("_100ms") else {}
    if "average" in lie:
        extras["average"] = "1.0"
    if lie.startswith("frozen_always"):
        extras["frozen"] = f"{start + 0.02:.6f} {start + 60:.6f}"
    elif lie.startswith("frozen_at_the_edge"):
        extras["frozen"] = f"{start + 0.02:.6f} {start + 1.4:.6f}"
    elif lie.startswith("frozen_to_the_end"):
        extras["frozen"] = f"{start + 4.8:.6f} {start + 60:.6f}"
    elif lie.startswith("frozen"):
        extras["frozen"] = f"{start + 1.4:.6f} {start + 2.7:.6f}"
    if "jump" in lie or "twice" in lie:
        extras["jump"] = f"{change:.6f} {1e6 if lie in ('jump', 'jump_100ms') else 2000}"
    if lie.startswith("scaled"):
        extras["scale"] = "0.6" if lie.startswith("scaled_down") else "1.25" if "little" in lie else "1.75"
    return extras


def law_of_the_run(kind: str, rest: list[Law], start: float) -> list[Law]:
    """What happens from now on: the past is left as it was, so that the counter is continuous."""
    if kind == "liars":
        held = (*rest[0].power, (start, IDLE_W), (start, BUSY_W))
        return [Law(power=held, extras=lies(lie, start)) for lie in LIES]
    first = rest[0]
    held = (*first.power, (start, first.power[0][1]))
    change = start + CHANGE_S
    extras = dict(first.extras)
    if kind.startswith("step"):
        held = (*held, (change, IDLE_W), (change, BUSY_W))
    elif kind.startswith("ramp"):
        held = (*held, (start + 20, BUSY_W))
    elif kind.startswith("square"):  # a second of each, from the edge on
        waves = ((start + i + 0.25, IDLE_W if i % 2 else BUSY_W) for i in range(6))
        watts = IDLE_W
        for at, then in waves:
            held, watts = (*held, (at, watts), (at, then)), then
    else:
        held = (*held, (start, BUSY_W))  # training begins: the power jumps at the edge
    if kind.startswith("reset"):
        extras["reset"] = f"{change:.6f}"
    if kind.startswith("lost"):
        extras["lost"] = f"{change:.6f}"
    return [Law(power=held, extras=extras), *rest[1:]]


def main() -> None:
    kind, law_file, train_s = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    rest = law_at_rest(kind, time.time() - 5)
    write_laws(law_file, rest)
    from lora_scaling.energy import MeteringSettings, open_meter

    meter = open_meter(MeteringSettings())
    recording = meter.recording()
    with recording.phase("setup"):
        time.sleep(1.2)
    laws = law_of_the_run(kind, rest, time.time())
    write_laws(law_file, laws)
    with recording.phase("train"):
        time.sleep(train_s)
    with recording.phase("eval"):
        time.sleep(0.4)
    before_s = time.perf_counter()
    account = recording.close()
    close_s = time.perf_counter() - before_s
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "timeline.csv")
        account.write_timeline(path)
        timeline = path.read_text()
    report = {
        "account": account.to_dict(),
        "timeline": timeline,
        "close_s": close_s,
        "laws": [law.power for law in laws],
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
