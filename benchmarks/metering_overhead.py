"""Measure what metering costs a training step: the same steps with the meter on and off, in turn.

    python benchmarks/metering_overhead.py [--blocks 10] [--block-s 3] [--json]

A step is the forward pass, backward pass and update of a tiny Llama on this machine's device. Blocks with and without
the meter alternate, and so does the order within each pair, so that drift affects both. `median` compares the median
step times. `mean` compares the time per step over whole blocks, which includes the readings made once per second. The
costs of a window's edges and of closing a run are given as well. On a busy machine, step times vary by more than
metering costs. The CPU time that metering takes per second of a window, while nothing else runs in the process, does
not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lora_scaling.energy import MeteringSettings, open_meter


def make_step() -> tuple[Callable[[], None], Callable[[], None]]:
    """Return functions for (one training step, synchronise)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    torch.nn.Module.to(model, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(0, 512, (4, 64), device=device)
    synchronize = torch.cuda.synchronize if device == "cuda" else (lambda: None)

    def step() -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize()

    return step, synchronize


def block(step: Callable[[], None], seconds: float) -> list[float]:
    """Return the step times in seconds."""
    times, end_s = [], time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        start_s = time.perf_counter()
        step()
        times.append(time.perf_counter() - start_s)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10, help="blocks with and without, each (default 10)")
    parser.add_argument("--block-s", type=float, default=3.0, help="length of a block in seconds (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    args = parser.parse_args()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    step, synchronize = make_step()
    start_s = time.perf_counter()
    meter = open_meter(MeteringSettings(), synchronize)
    open_s = time.perf_counter() - start_s
    block(step, 2.0)
    times: dict[bool, list[list[float]]] = {True: [], False: []}
    edges_s, close_s = [], []
    for pair in range(args.blocks):
        for metered in (pair % 2 == 0, pair % 2 == 1):
            if not metered:
                times[False].append(block(step, args.block_s))
                continue
            before_s = time.perf_counter()
            recording = meter.recording()
            with recording.phase("train"):
                inside_s = time.perf_counter()
                times[True].append(block(step, args.block_s))
                after_s = time.perf_counter()
            ended_s = time.perf_counter()
            edges_s.append(inside_s - before_s + ended_s - after_s)
            recording.close()
            close_s.append(time.perf_counter() - ended_s)
    recording = meter.recording()
    with recording.phase("train"):
        used_s, began_s = time.process_time(), time.perf_counter()
        time.sleep(3 * args.block_s)
        cpu_share = (time.process_time() - used_s) / (time.perf_counter() - began_s)
    recording.close()
    median = {on: statistics.median(t for b in times[on] for t in b) for on in times}
    mean = {on: statistics.median(statistics.fmean(b) for b in times[on]) for on in times}
    result = {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "gpu_sensors": len(meter.gpus),
        "steps": {"on": sum(map(len, times[True])), "off": sum(map(len, times[False]))},
        "step_ms": {"on": 1000 * median[True], "off": 1000 * median[False]},
        "overhead_median": median[True] / median[False] - 1,
        "overhead_mean": mean[True] / mean[False] - 1,
        "cpu_share": cpu_share,
        "open_meter_s": open_s,
        "window_edges_ms": 1000 * statistics.median(edges_s),
        "close_ms": 1000 * statistics.median(close_s),
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"step: {result['step_ms']['off']:.3f} ms without, {result['step_ms']['on']:.3f} ms with metering")
    print(f"overhead: {result['overhead_median']:+.2%} (median step), {result['overhead_mean']:+.2%} (mean)")
    print(f"CPU time of metering: {cpu_share:.2%} of one core")
    print(f"once per process: {open_s:.2f} s; per window: {result['window_edges_ms']:.1f} ms; "
          f"per run: {result['close_ms']:.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
