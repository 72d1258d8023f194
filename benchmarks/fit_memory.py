"""Fit the factors of reserved memory to published peaks, each source with one vote (part of fit_priors.py).

The model: log published = log(what is held + factor · what comes and goes in a pass) + level of the source + rest.
`memory` is the factor; where lengths vary, `memory_varying` multiplies it, as far as the device has room.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.published_tables import VOTE, Z, config_of, stack_of
from lora_scaling.estimate.lengths import lengths_of
from lora_scaling.estimate.plan import RunPlan, make_plan, resolve_precision
from lora_scaling.estimate.priors import Priors, load_priors

Array = NDArray[np.float64]
CONSTANTS = ("memory", "memory_varying")
START = {"memory": (math.log(1.2), 0.3), "memory_varying": (math.log(1.5), 0.7)}  # logarithms: centre and spread
SOURCE_SD, WITHIN_SD = 0.12, 0.12


@dataclass(frozen=True, kw_only=True)
class Peak:
    """A published peak, and its run as it is counted."""

    source: str
    published_gb: float
    available_gb: float
    plan: RunPlan
    quantized: bool


@dataclass(frozen=True, kw_only=True)
class FittedMemory:
    """The constants, and the level of each source on the log scale."""

    constants: Mapping[str, float]
    sources: Mapping[str, float]


def peaks(rows: Sequence[Mapping[str, str]]) -> list[Peak]:
    """Plan every row that has a peak, with the habits of its stack."""
    found, all_priors = [], load_priors()
    for row in rows:
        if row["quantity"] != "peak GB":
            continue
        config = config_of(row)
        priors = all_priors.of_stack(stack_of(row["stack"]))
        precision = resolve_precision(config, config.hardware.kind, config.hardware.peak_tflops)
        plan = make_plan(config, config.workload(lengths_of(config.data, priors).lengths), precision, priors)
        available = config.hardware.memory_gb
        found.append(
            Peak(
                source=row["stack"],
                published_gb=float(row["value"]),
                available_gb=math.inf if available is None else available,
                plan=plan,
                quantized=config.method.name == "qlora",
            )
        )
    return found


def reserved_gb(peak: Peak, memory: float, varying: float, fixed_gb: float) -> float:
    """Estimate a peak with these constants, for a stack without a factor of its own."""
    needed = peak.plan.memory.reserved(memory) / 1e9 + fixed_gb
    if peak.plan.same_lengths:
        return needed
    return min(peak.plan.memory.reserved(memory * varying) / 1e9 + fixed_gb, max(needed, peak.available_gb))


def fit(found: Sequence[Peak]) -> FittedMemory:
    """Find the most probable constants and levels by Gauss and Newton's method."""
    sources = list(dict.fromkeys(peak.source for peak in found))
    counts = {source: sum(peak.source == source for peak in found) for source in sources}
    weight = np.array([math.sqrt(min(1.0, VOTE / counts[peak.source])) / WITHIN_SD for peak in found])
    of_source = np.array([[float(peak.source == source) for source in sources] for peak in found])
    published = np.log([peak.published_gb for peak in found])
    start, spread = np.array([START[name] for name in CONSTANTS]).T
    fixed_gb, n = load_priors().values["memory_fixed_gb"], len(CONSTANTS)
    theta: Array = np.concatenate([start, np.zeros(len(sources))])

    def predicted(constants: Array) -> Array:
        memory, varying = np.exp(constants)
        return np.log([reserved_gb(peak, memory, varying, fixed_gb) for peak in found])

    for _ in range(12):
        here = predicted(theta[:n])
        slopes = np.stack([(predicted(theta[:n] + 1e-4 * row) - here) / 1e-4 for row in np.eye(n)], axis=1)
        design = np.block([
            [weight[:, None] * slopes, weight[:, None] * of_source],
            [np.diag(1 / spread), np.zeros((n, len(sources)))],
            [np.zeros((len(sources), n)), np.eye(len(sources)) / SOURCE_SD],
        ])  # fmt: skip
        goal = np.concatenate([
            weight * (published - here - of_source @ theta[n:]), (start - theta[:n]) / spread, -theta[n:] / SOURCE_SD,
        ])  # fmt: skip
        change: Array = np.linalg.lstsq(design, goal, rcond=None)[0].astype(float)
        theta = theta + change
        if np.abs(change).max() < 1e-4:
            break
    return FittedMemory(
        constants={name: math.exp(theta[i]) for i, name in enumerate(CONSTANTS)},
        sources=dict(zip(sources, theta[n:].tolist(), strict=True)),
    )


def report(rows: Sequence[Mapping[str, str]]) -> None:
    """Print the constants, each stack's own factor, and how each source is estimated by the others."""
    found, priors = peaks(rows), load_priors()
    fitted = fit(found)
    print("\nreserved memory")
    for name, value in fitted.constants.items():
        print(f"{name:16} {value:8.4g}")
    for stack in dict.fromkeys(map(stack_of, fitted.sources)):
        own = [level for source, level in fitted.sources.items() if stack_of(source) == stack]
        print(f"{stack:12} {math.exp(sum(own) / (1 + len(own))):7.2f}   of {len(own)}")
    print("\nleft out                      rows   ratio  inside")
    inside, bias = [], []
    for source in fitted.sources:
        own = [peak for peak in found if peak.source == source]
        rest = fit([peak for peak in found if peak.source != source]).constants
        logs = [_log_error(peak, rest, priors) for peak in own]
        inside.append(statistics.fmean(_inside(x, peak, rest, priors) for x, peak in zip(logs, own, strict=True)))
        bias.append(statistics.fmean(logs))
        print(f"{source:28} {len(own):5}  {math.exp(bias[-1]):6.2f}  {inside[-1]:5.0%}")
    print(
        f"by source: {statistics.fmean(inside):.0%} inside, bias {math.exp(statistics.fmean(bias)):.2f}, "
        f"sd of the log {statistics.pstdev(bias):.2f}"
    )


def _log_error(peak: Peak, constants: Mapping[str, float], priors: Priors) -> float:
    estimate = reserved_gb(peak, constants["memory"], constants["memory_varying"], priors.values["memory_fixed_gb"])
    return math.log(estimate / peak.published_gb)


def _inside(log_error: float, peak: Peak, constants: Mapping[str, float], priors: Priors) -> bool:
    """Decide whether an estimate that is off by this much has the published peak in its interval."""
    log_sd = math.hypot(priors.log_sd["memory"], priors.log_sd["memory_qlora"] if peak.quantized else 0.0)
    if peak.plan.same_lengths:
        return abs(log_error) <= Z * log_sd
    needed = peak.plan.memory.reserved(constants["memory"]) / 1e9 + priors.values["memory_fixed_gb"]
    upwards = math.hypot(log_sd, priors.log_sd["memory_varying"])
    return needed / math.exp(Z * log_sd) <= peak.published_gb and log_error >= -Z * upwards
