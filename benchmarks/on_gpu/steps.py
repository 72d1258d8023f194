"""The steps of the acceptance, in the order in which they run. Each writes into its own folder and fails alone."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.on_gpu.checks import Findings
from benchmarks.on_gpu.place import Place, Record, last_document, phase

SLOWER = 3  # a CPU that others use as well


@dataclass(frozen=True, kw_only=True)
class Step:
    work: Callable[[Place, Findings], None]
    limit_s: float


def doctor(place: Place, found: Findings) -> None:
    """What the program itself says of this machine."""
    began_s = time.perf_counter()
    text = place.command("lora_scaling.doctor", "--json")
    found.within("seconds of doctor", time.perf_counter() - began_s, 0, 15 * (SLOWER if place.small else 1))
    answer = last_document(text)
    gpus = [part for part in answer["components"] if part["component"] == "gpu"]
    found.values["doctor"] = answer
    found.holds("GPU energy is", [gpu["source"] for gpu in gpus], "measured, unless there is none",
                all(gpu["kind"] == ("measured" if _has_gpu(place) else "none") for gpu in gpus))  # fmt: skip
    for index, ratio in answer["self_test"]["counter_over_power"].items():
        found.within(f"counter over power of GPU {index}", ratio, 0.9, 1.1)


def probe(place: Place, found: Findings) -> None:
    """Torch's device against NVML's, our process among those on it, and 4-bit quantisation."""
    import torch

    from lora_scaling.energy import MeteringSettings, open_meter, settings_on
    from lora_scaling.training.device import choose_device

    device = choose_device("auto", "auto")
    tensor = torch.randn(1024, 1024, device=device.torch_device)
    metering = settings_on(MeteringSettings(), kind=device.kind, gpu_uuid=device.gpu_uuid())
    meter = open_meter(replace(metering, gpu_ids=(0,)) if place.simulated else metering, device.synchronize)
    found.values["device"] = device.describe()
    if device.kind == "cuda":
        metered = [gpu.uuid for gpu in meter.gpus]
        found.holds("UUID of the metered GPU", metered, f"{device.gpu_uuid()}", metered == [device.gpu_uuid()])
        pids = meter.nvml.compute_pids(meter.gpus[0]) if meter.nvml else None
        found.holds("own process on the GPU", os.getpid() in (pids or ()), "True, or unseen in a container", True)
    else:
        found.skips("UUIDs and processes: no CUDA device")
    for gpu in meter.gpu_meters:
        found.within("step of the counter, s", None if gpu.by_power else gpu.step_s, 0, 0.3)
    _quantise(device.torch_device, tensor, found)
    meter.close()


def _quantise(place: Any, tensor: Any, found: Findings) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(tensor.to(place), quant_type="nf4")
    error = float((dequantize_4bit(packed, state) - tensor).abs().mean() / tensor.abs().mean())
    found.within("relative error of NF4", error, 0.0, 0.15)


def counter(place: Place, found: Findings) -> None:
    """The recorded energy of a heavy load against power read every 10 ms beside it."""
    import torch

    from lora_scaling.energy import MeteringSettings, open_meter

    meter = open_meter(MeteringSettings())
    if not meter.gpu_meters or meter.nvml is None:
        found.skips("no GPU to read")
        return
    gpu, nvml, readings = meter.gpus[0], meter.nvml, []
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.01):
            readings.append((time.perf_counter(), nvml.power_w(gpu)))

    cuda = torch.cuda.is_available()
    size, kind = (8192, torch.bfloat16) if cuda else (256, torch.float32)
    a = torch.randn(size, size, device="cuda" if cuda else "cpu", dtype=kind)
    recording = meter.recording()
    thread = threading.Thread(target=read, daemon=True)
    with recording.phase("load"):
        thread.start()
        until_s = time.perf_counter() + (5 if place.small else 20)
        while time.perf_counter() < until_s:
            torch.mm(a, a)
            if cuda:
                torch.cuda.synchronize()
        done.set()
        thread.join()
    account = recording.close()
    [used, *_] = account.phases[0].gpus
    pairs = itertools.pairwise(readings)
    power_w = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs) / (readings[-1][0] - readings[0][0])
    counted_w = None if used.joules is None else used.joules / account.phases[0].seconds
    found.within("mean power by the counter over that by readings", None if counted_w is None else counted_w / power_w,
                 0.97, 1.03)  # fmt: skip
    bound = None if used.joules is None else (used.uncertainty_joules or math.nan) / used.joules
    found.within("uncertainty of the energy", bound, 0.0, 0.5 if place.small else 0.05)
    found.reports("mean power, W", counted_w)


def overhead(place: Place, found: Findings) -> None:
    """What metering costs a step."""
    blocks = ("--blocks", "1", "--block-s", "1") if place.small else ("--blocks", "6", "--block-s", "2")
    answer = last_document(place.command("benchmarks.metering_overhead", *blocks, "--json"))
    found.within("CPU time of metering, share of a core", answer["cpu_share"], 0.0, 0.05 if place.small else 0.01)
    found.reports("slower by metering (median step)", answer["overhead_median"])
    found.values["overhead"] = answer


def trainers(place: Place, found: Findings) -> None:
    """Tokens per second against a bare Trainer and TRL."""
    words = ["--model", "ladder-1m" if place.small else "ladder-100m", "--samples", "16" if place.small else "256"]
    words += ["--repeats", "1" if place.small else "3"]
    if importlib.util.find_spec("trl") is None:
        words.append("--no-trl")
        found.skips("TRL: not installed")
    text = place.command("benchmarks.against_trainers", *words)
    ratio = next(float(line.partition("lora_scaling is ")[2].split()[0]) for line in text.splitlines()
                 if line.startswith("Trainer "))  # fmt: skip
    found.within("tokens/s over a bare Trainer's", ratio, 0.2 if place.small else 0.98, 10)
    found.values["output"] = text


def methods(place: Place, found: Findings) -> None:
    """Every method in every precision: finished, finite, measured."""
    precisions = "fp32,bf16" if place.small else "bf16,fp16"
    records = place.runs("method=lora,qlora,full", f"precision={precisions}", sweep=True)
    found.holds("runs that finished", sum(r["status"] == "ok" for r in records), "6 of 6",
                len(records) == 6 and all(r["status"] == "ok" for r in records))  # fmt: skip
    for record in records:
        name = f"{record['config']['method']['name']} {record['training'].get('precision')}"
        loss = record["training"].get("train_loss")
        found.holds(f"{name}: training loss", loss, "finite", loss is not None and math.isfinite(loss))
        part = record["energy"]["components"]["gpu"]
        if not _has_gpu(place):
            continue
        bound = part["uncertainty_joules"] / part["joules"] if part["joules"] else None
        if place.small:  # windows of a second on a machine that does other things
            found.reports(f"{name}: uncertainty of GPU energy", bound)
        else:
            found.within(f"{name}: uncertainty of GPU energy", bound, 0.0, 0.05)
        kinds = sorted({warning["kind"] for warning in record["warnings"]} - {"short_window", "cpu_load"})
        found.holds(
            f"{name}: warnings",
            kinds,
            "none of the sensors",
            not {"counter_and_power", "energy_disagreement"} & {*kinds},
        )
        if not place.small:
            found.holds(f"{name}: MFU", record["mfu"], "set", record["mfu"] is not None)


def memory(place: Place, found: Findings) -> None:
    """Out of memory and recovery in one process, and the peak with and without warm-up."""
    before, small = place.sized, "batch_size=4"
    runs = _runs_in_one_process(place, [(small, "study=alone"), (small, "study=unwarmed", "warmup_steps=0")])
    alone, unwarmed = (run["peak_memory_gb"] for run in runs)
    if place.small:
        found.reports("peak memory, GB", [alone, unwarmed])
        found.skips("out of memory and peaks: the CPU's memory is the machine's")
        return
    found.within("peak with warm-up over that without", alone / unwarmed, 0.9, 1.1)
    huge = ("batch_size=4096", "max_seq_len=4096", "padding=max_length", "study=huge")
    failed, again = _runs_in_one_process(place, [huge, (small, "study=again")])
    found.holds("a batch beyond the memory", failed["status"], "oom", failed["status"] == "oom")
    found.holds("energy of the failed run", failed["energy"]["joules"], "known", failed["energy"]["joules"] is not None)
    found.within("peak of the run after it over that alone", again["peak_memory_gb"] / alone, 0.98, 1.02)
    found.values["settings"] = before


def profile(place: Place, found: Findings) -> None:
    """Kernels and synchronisations of five steps: as they are, with a mask, and packed."""
    import torch
    from torch.profiler import ProfilerActivity

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    for name, words in (("padded", ()), ("packed", ("packing=true",))):
        trainer = _trainer(place, "max_steps=5", "warmup_steps=0", *words)
        trainer.warm_up(2)
        with torch.profiler.profile(activities=activities) as profiler:
            began_s = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - began_s
        events = profiler.key_averages()
        steps = trainer.state.global_step
        waits = sum(e.count for e in events if e.key in ("cudaStreamSynchronize", "cudaDeviceSynchronize"))
        kernels = sorted(events, key=lambda e: -e.self_device_time_total)[:12]
        flash = any("flash" in e.key.lower() for e in events)
        found.reports(f"{name}: ms a step", 1000 * seconds / steps)
        found.values[name] = [[e.key[:100], e.count, e.self_device_time_total] for e in kernels]
        if torch.cuda.is_available():
            found.reports(f"{name}: synchronisations a step", waits / steps)
            found.holds(f"{name}: attention by a flash kernel", flash, "True", flash or name == "packed")
    if not torch.cuda.is_available():
        found.skips("kernels and synchronisations: no CUDA device")


def pilot(place: Place, found: Findings) -> None:
    """A pilot, and priors, against the run that they are of."""
    words = [w for w in place.sized if not w.startswith("metering.idle_s")]
    words += ["samples=32", "epochs=4"] if place.small else ["samples=2048"]
    given = list({word.partition("=")[0]: word for word in words}.values())
    guess = last_document(place.command("lora_scaling.estimate", *given, "--json"))
    pilot = last_document(
        place.command("lora_scaling.estimate", *given, "pilot=3s" if place.small else "pilot=20s", "--json")
    )
    [record] = place.runs(*words)
    run_s, run_kwh = record["total_s"], record["energy"]["joules"] / 3.6e6
    for name, answer in (("priors", guess), ("pilot", pilot)):
        for what, value, truth in (("time_s", answer["time_s"], run_s), ("energy_kwh", answer["energy_kwh"], run_kwh)):
            ratio = None if value is None else value["estimate"] / truth
            if name == "pilot" and not place.small:
                found.within(f"{what} by the pilot over the run's", ratio, 0.85, 1.18)
            else:
                found.reports(f"{what} by the {name} over the run's", ratio)
    found.values |= {"priors": guess, "pilot": pilot}


def sizes(place: Place, found: Findings) -> None:
    """Models over a factor of 50 and more, each after its estimate; energy grows with their FLOPs."""
    models = (
        ["ladder-1m", "ladder-3m"]
        if place.small
        else ["ladder-30m", "ladder-100m", "qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.1-8b"]
    )
    points = []
    for name in models:
        words = [f"model={name}", "samples=16" if place.small else "samples=128", f"study=size-{name}"]
        words += (
            [] if place.small or name.startswith("ladder") else ["model.weights=random", "gradient_checkpointing=true"]
        )
        record = next(r for r in _runs_in_one_process(place, [tuple(words)]))
        found.holds(f"{name}: finished", record["status"], "ok", record["status"] == "ok")
        if record["status"] == "ok":
            points.append(
                (record["work"]["flops"], sum(c["joules"] or 0 for c in phase(record, "train")["components"].values()))
            )
            found.reports(f"{name}: MFU", record["mfu"])
    found.values["points"] = points
    if len(points) > 2:
        logs = [(math.log(flops), math.log(joules)) for flops, joules in points]
        found.within(
            "exponent of energy in FLOPs", statistics.linear_regression(*zip(*logs, strict=True)).slope, 0.5, 1.1
        )


def attention(place: Place, found: Findings) -> None:
    """The kernels that are here train to the same loss."""
    here = ["sdpa", "eager", *(["flash_attention_2"] if importlib.util.find_spec("flash_attn") else [])]
    if "flash_attention_2" not in here:
        found.skips("flash_attention_2: flash_attn is not installed")
    if importlib.util.find_spec("liger_kernel") is None:
        found.skips("Liger: not installed")
    runs = _runs_in_one_process(place, [(f"attn_implementation={k}", f"study={k}", "samples=16") for k in here])
    losses = [run["training"].get("train_loss") for run in runs]
    for name, run, loss in zip(here, runs, losses, strict=True):
        seconds = phase(run, "train")["seconds"] if run["status"] == "ok" else math.nan
        found.reports(f"{name}: tokens/s", run["work"].get("tokens_seen", 0) / seconds)
        found.within(f"{name}: loss over that of sdpa", loss / losses[0] if loss and losses[0] else None, 0.98, 1.02)


def ranks(place: Place, found: Findings) -> None:
    """Two processes of one run: each GPU once, the host once."""
    import torch

    if not place.small and torch.cuda.device_count() < 2:
        found.skips("two processes: one GPU")
        return
    given = list({w.partition("=")[0]: w for w in [*place.sized, "gradient_accumulation=2", "study=ranks"]}.values())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "lora_scaling", f"runs_dir={place.folder / 'runs'}", *given]
    done = subprocess.run(command, capture_output=True, text=True)
    (place.folder / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    [record] = place.records()
    found.holds("run of two processes", [done.returncode, record["status"]], "0 and ok",
                done.returncode == 0 and record["status"] == "ok")  # fmt: skip
    uuids = [gpu["uuid"] for gpu in record["energy"]["phases"][-1]["gpus"]]
    found.holds("GPUs counted", uuids, "each once", len(uuids) == len(set(uuids)))


def linear(place: Place, found: Findings) -> None:
    """The linear claim with repeats and runs of zero steps, its verdicts, a backtest and the report."""
    if place.small:
        words = ["+sweeps=quick", "samples=16,32,64", "epochs=1,2", "replicates=2"]
    else:
        words = [
            "+sweeps=linear_claim",
            "samples=64,128,256,512,1024",
            "epochs=1,2",
            "replicates=3",
            "model=ladder-100m",
        ]
    place.runs(*words, "eval_samples=0", sweep=True)
    study = place.folder / "runs" / "acceptance"
    claims = last_document(place.command("analysis", "claims", str(study), "--json"))
    (place.folder / "claims.json").write_text(json.dumps(claims, indent=1), encoding="utf-8")
    verdicts = {claim["id"]: claim["verdict"] for claim in claims["claims"]}
    found.reports("verdicts", verdicts)
    found.holds("linear_in_samples", verdicts.get("linear_in_samples"), "not refuted",
                verdicts.get("linear_in_samples") in ("supported", "undecided"))  # fmt: skip
    place.command("analysis", "report", str(study), "--out", str(place.folder / "report"))
    place.command("analysis", "backtest", str(study))
    found.holds("report", "report.html", "written", (place.folder / "report" / "report.html").is_file())


def parity(place: Place, found: Findings) -> None:
    """The same steps on CPU and GPU: the same losses."""
    import torch

    words = ["precision=fp32", "samples=8", "batch_size=4", "max_seq_len=64", "eval_samples=2"]
    if place.gguf is not None:
        words += ["model=smollm2-135m", f"model.gguf_file={place.gguf}"]
    else:
        words += ["model=ladder-1m"]
        found.skips("pretrained weights: no GGUF file")
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    losses = {}
    for kind in kinds:
        other = replace(place, folder=place.folder / kind)
        other.folder.mkdir(exist_ok=True)
        [record] = other.runs(*words, f"device={kind}")
        losses[kind] = (record["training"]["eval_loss_before"], record["training"]["eval_loss_after"])
    found.reports("losses before and after", losses)
    if "cuda" in losses and place.gguf is not None:
        for when, cpu, cuda in zip(("before", "after"), *losses.values(), strict=True):
            found.within(f"loss {when} training, GPU over CPU", cuda / cpu, 0.999, 1.001)
    else:
        found.skips("CPU against GPU: random weights are drawn by each device")


def _has_gpu(place: Place) -> bool:
    import torch

    return place.simulated or torch.cuda.is_available()


def _runs_in_one_process(place: Place, runs: list[tuple[str, ...]]) -> list[Record]:
    """Carry out runs one after the other in this process, as a sweep does."""
    from lora_scaling.config import compose
    from lora_scaling.runs.run import run

    records = []
    for words in runs:
        given = {w.partition("=")[0]: w for w in [*place.sized, f"runs_dir={place.folder / 'runs'}", *words]}
        outcome = run(compose(list(given.values())))
        assert outcome.record is not None
        records.append(dict(outcome.record))
    return records


def _trainer(place: Place, *words: str) -> Any:
    from lora_scaling.config import compose
    from lora_scaling.training.batches import Collator
    from lora_scaling.training.device import choose_device
    from lora_scaling.training.model_cache import ModelCache
    from lora_scaling.training.models import attach
    from lora_scaling.training.trainer import make_trainer

    given = {word.partition("=")[0]: word for word in [*place.sized, *words]}
    config = compose(list(given.values()))
    device, models = choose_device(config.device, config.precision), ModelCache()
    base, _ = models.base(config, device)
    tokens, _ = models.tokens(config, base)
    return make_trainer(
        attach(base, config), tokens.train.rows, tokens.held_out.rows, Collator(0, config), config=config,
        device=device, progress=lambda done, total: None, folder=place.folder,
    )  # fmt: skip


STEPS = {
    "doctor": Step(work=doctor, limit_s=30),
    "probe": Step(work=probe, limit_s=40),
    "counter": Step(work=counter, limit_s=50),
    "overhead": Step(work=overhead, limit_s=60),
    "trainers": Step(work=trainers, limit_s=90),
    "methods": Step(work=methods, limit_s=180),
    "memory": Step(work=memory, limit_s=90),
    "profile": Step(work=profile, limit_s=60),
    "pilot": Step(work=pilot, limit_s=150),
    "sizes": Step(work=sizes, limit_s=180),
    "attention": Step(work=attention, limit_s=90),
    "ranks": Step(work=ranks, limit_s=90),
    "linear": Step(work=linear, limit_s=180),
    "parity": Step(work=parity, limit_s=60),
}
