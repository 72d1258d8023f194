"""Fit the factors of reserved memory to published peaks, each source with one vote (part of fit_priors.py).

The model: log published = log(what is held + factor · what comes and goes in a pass) + level of the source + rest.
`memory` is the factor; where lengths vary, `memory_varying` multiplies it, as far as the device has room.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.constants_and_levels import Array, fit_logs, print_left_out, row_weights
from benchmarks.published_tables import Z, config_of, stack_of
from lora_scaling.estimate.lengths import lengths_of
from lora_scaling.estimate.plan import RunPlan, make_plan, peak_interval, resolve_precision
from lora_scaling.estimate.priors import load_priors
from lora_scaling.estimate.result import Interval

CONSTANTS: tuple[str, ...] = ("memory", "memory_varying")
START = {"memory": (math.log(1.2), 0.3), "memory_varying": (math.log(1.5), 0.7)}  # logarithms: centre and spread
SOURCE_SD, WITHIN_SD = 0.12, 0.12


@dataclass(frozen=True, kw_only=True)
class Peak:
    """A published peak, and its run as it is counted."""

    source: str
    published_gb: float
    available_gb: float | None
    plan: RunPlan


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
        found.append(
            Peak(
                source=row["stack"],
                published_gb=float(row["value"]),
                available_gb=config.hardware.memory_gb,
                plan=plan,
            )
        )
    return found


def estimated_peak(peak: Peak, constants: Mapping[str, float]) -> Interval:
    """Estimate a peak with these constants, for a stack without a factor of its own."""
    priors, plan = load_priors(), peak.plan
    varying = 1.0 if plan.varying is None else constants["memory_varying"]
    needed, held = (
        plan.memory.reserved(factor) / 1e9 + priors.values["memory_fixed_gb"]
        for factor in (constants["memory"], constants["memory"] * varying)
    )
    plan = replace(plan, needed_gb=needed, held_gb=held, least_gb=needed)
    return peak_interval(plan, priors, Z, peak.available_gb)


def fit(found: Sequence[Peak]) -> FittedMemory:
    """Find the most probable constants and levels."""
    sources = list(dict.fromkeys(peak.source for peak in found))
    start, spread = np.array([START[name] for name in CONSTANTS]).T

    def predicted(constants: Array) -> Array:
        values = dict(zip(CONSTANTS, np.exp(constants), strict=True))
        return np.log([estimated_peak(peak, values).estimate for peak in found])

    constants, levels = fit_logs(
        predicted,
        np.log([peak.published_gb for peak in found]),
        row_weights([peak.source for peak in found], WITHIN_SD),
        start=start,
        spread=spread,
        levels=np.array([[float(peak.source == source) for source in sources] for peak in found]),
        apart=np.eye(len(sources)) / SOURCE_SD,
        goal=np.zeros(len(sources)),
    )
    return FittedMemory(
        constants=dict(zip(CONSTANTS, np.exp(constants).tolist(), strict=True)),
        sources=dict(zip(sources, levels.tolist(), strict=True)),
    )


def report(rows: Sequence[Mapping[str, str]]) -> None:
    """Print the constants, each stack's own factor, and how each source is estimated by the others."""
    found = peaks(rows)
    fitted = fit(found)
    print("\nreserved memory")
    for name, value in fitted.constants.items():
        print(f"{name:16} {value:8.4g}")
    for stack in dict.fromkeys(map(stack_of, fitted.sources)):
        own = [level for source, level in fitted.sources.items() if stack_of(source) == stack]
        print(f"{stack:12} {math.exp(sum(own) / (1 + len(own))):7.2f}   of {len(own)}")
    print_left_out(_left_out(found))


def _left_out(found: Sequence[Peak]) -> Iterator[tuple[str, list[float], list[bool]]]:
    for source in dict.fromkeys(peak.source for peak in found):
        own = [peak for peak in found if peak.source == source]
        rest = fit([peak for peak in found if peak.source != source]).constants
        answers = [(estimated_peak(peak, rest), peak.published_gb) for peak in own]
        yield (
            source,
            [math.log(answer.estimate / published) for answer, published in answers],
            [answer.low <= published <= answer.high for answer, published in answers],
        )
