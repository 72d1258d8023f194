"""Compute time and power of training from exact work and a few constants: the whole arithmetic of an estimate.

Every line is a plain formula of numbers, so that the estimator page can compute the same in the browser. The constants
come from `priors.json`, which gives the origin and the spread of each.

    compute  = FLOPs / (products · eta) · (1 + half_tokens · balance / tokens)   tiles half empty with few tokens
    gemm     = |compute, passes · weights / bandwidth|                         matrix products, per micro-step
    traffic  = traffic_factor · kept activations / bandwidth                   everything elementwise
    launch   = layers · layer_launch + adapted modules · module_launch, for each pass
    dequantisation = passes · 4-bit weights · dequant_bytes / bandwidth
    micro    = |gemm + traffic, launch| + dequantisation                       their sum, on a processor
    step     = |accumulation · micro, communication| + update

|a, b| is (aᵖ + bᵖ)^(1/p), a smooth maximum. `products` is the rate of the fastest matrix product that was measured on
the device, and balance its FLOPs per byte. With FP8, the layers' own matrices are multiplied at the rate of FP8 and all
others at that of 16 bits. Bandwidth is that of the sheet times `bandwidth_share`, except for dequantisation, whose
bytes per weight were set with the sheet's bandwidth alone. `software`, the factor of the software stack, multiplies
the step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Constants = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Work of the training phase on each of `gpus` devices, which share it evenly.

    Per micro-step and device: tokens (padding included), flops, matrix_flops (those of the layers' own matrices, which
    FP8 makes faster), activation_bytes (kept for the backward pass), weight_bytes (read in each pass), quantized
    (weights unpacked in each pass). passes: forward, backward, and one more with checkpointing. trainable: parameters
    updated per device and step; comm_bytes: sent per device and step.
    """

    gpus: int
    steps: float
    accumulation: float
    passes: float
    tokens: float
    flops: float
    matrix_flops: float
    activation_bytes: float
    weight_bytes: float
    layers: int
    modules: int
    quantized: float
    trainable: float
    comm_bytes: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The numbers of a device: matrix products (FLOP/s), bandwidths (bytes/s), board, idle and host power (W).

    peak: dense, by the sheet. products: the fastest matrix product; matrix_products: of the layers' own matrices, which
        FP8 makes faster.
    link: to the other devices; of devices that fill more than one machine, no more than its share of the network.
    peak_log_sd, link_log_sd: what is unknown of peak and link, beyond the spread of the constants that use them.
    """

    kind: str
    peak: float
    products: float
    matrix_products: float
    bandwidth: float
    link: float
    peak_log_sd: float
    link_log_sd: float
    board_power_w: float
    idle_power_w: float
    host_power_w: float


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one optimizer step, and of the computing and memory traffic in it, which may overlap.

    ideal: the step without the factor of the software stack.
    """

    gemm: float
    traffic: float
    dequant: float
    update: float
    ideal: float
    total: float


def step_time(load: Load, machine: Machine, c: Constants) -> StepTime:
    """Compute the seconds of one optimizer step."""
    if load.steps == 0:
        return StepTime(gemm=0.0, traffic=0.0, dequant=0.0, update=0.0, ideal=0.0, total=0.0)
    p = c["overlap_power"]
    bandwidth = machine.bandwidth * c["bandwidth_share"]
    n = load.accumulation
    balance = machine.products / machine.bandwidth
    products = load.matrix_flops / machine.matrix_products + (load.flops - load.matrix_flops) / machine.products
    compute = products / c["eta"] * (1 + c["half_tokens"] * balance / load.tokens)
    gemm = _norm(compute, load.passes * load.weight_bytes / bandwidth, p)
    traffic = c["traffic_factor"] * load.activation_bytes * load.passes / 2 / bandwidth
    layer = c["cpu_layer_s"] if machine.kind == "cpu" else c["layer_launch_s"]
    launch = load.passes / 2 * (load.layers * layer + load.modules * c["module_launch_s"])
    dequant = load.passes * load.quantized * c["dequant_bytes"] / machine.bandwidth
    # A CPU both issues and computes its operations, so nothing overlaps.
    micro = gemm + traffic + launch if machine.kind == "cpu" else _norm(gemm + traffic, launch, p)
    micro += dequant
    comm = load.comm_bytes / (machine.link * c["comm_share"]) if load.comm_bytes else 0.0
    update = load.trainable * c["update_bytes"] / bandwidth
    ideal = _norm(n * micro, comm, p) + update
    return StepTime(
        gemm=n * gemm,
        traffic=n * traffic,
        dequant=n * dequant,
        update=update,
        ideal=ideal,
        total=ideal * c["software"],
    )


def mean_power_w(step: StepTime, load: Load, machine: Machine, c: Constants) -> tuple[float, float]:
    """Return (all boards, CPU and RAM) in watts while training, from how the time of a step is spent.

    A board draws its limit in matrix products, less when it moves memory, and little when it waits. A slower software
    stack keeps it as busy for longer.
    """
    host = machine.host_power_w
    if machine.kind == "cpu" or step.ideal == 0:
        return 0.0, host * c["power"]
    compute, memory = step.gemm / step.ideal, (step.traffic + step.dequant + step.update) / step.ideal
    busy = compute + memory
    if busy > 1:
        compute, memory, busy = compute / busy, memory / busy, 1.0
    use = c["power_compute"] * compute + c["power_memory"] * memory + c["power_waiting"] * (1 - busy)
    board = machine.idle_power_w + (machine.board_power_w - machine.idle_power_w) * use
    return load.gpus * board * c["power"], host * c["power"]


def _norm(a: float, b: float, p: float) -> float:
    if a == 0 or b == 0:
        return a + b
    larger, smaller = max(a, b), min(a, b)
    return larger * (1 + (smaller / larger) ** p) ** (1 / p)
