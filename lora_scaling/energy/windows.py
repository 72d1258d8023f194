"""Compute the energies of a phase, and its part of the timeline, from the readings at its edges and ticks."""

from __future__ import annotations

import itertools
import math
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lora_scaling.energy import host
from lora_scaling.energy.measurement import (
    SHORT_S,
    ComponentEnergy,
    EnergyAccount,
    GpuEnergy,
    IdleBaseline,
    PhaseEnergy,
    TimelineBin,
    add_components,
    spread,
    utc,
)
from lora_scaling.energy.processor_check import (
    MOST_W,
    Doubt,
    Stretch,
    beyond_any,
    busy_of_each,
    check_processor,
    check_stretches,
    stretches,
    too_little_for_dram,
)
from lora_scaling.energy.rapl import RaplCounter, add_domains, tick_weights
from lora_scaling.energy.readings import Tick, Window
from lora_scaling.energy.sensors import Sensors, is_superchip
from lora_scaling.energy.tracker import ComponentSource, registered_power_w
from lora_scaling.records.sources import relative_bound, source_kind
from lora_scaling.records.timeline import COMPONENTS

WARN_S = 5.0
DISAGREEMENT = 0.02
PAUSE_S = 10.0  # a thread that reads once per second waits for less on a busy machine
CLOCK_JUMP_S = 1.0  # a clock that is adjusted (NTP) drifts by less between two ticks
MERGE_BELOW = 0.05  # a last bin shorter than this share of the interval is merged into the one before


def make_account(
    meter: Sensors,
    windows: Sequence[Window],
    *,
    idle: IdleBaseline | None,
    exclusive: bool | None,
    conditions: dict[str, Any],
    warnings: list[dict[str, str]],
) -> EnergyAccount:
    phases, bins = [], []
    for window in windows:
        phase, phase_warnings = _phase(meter, window)
        phases.append(phase)
        warnings.extend(w for w in phase_warnings if w not in warnings)
        bins.extend(_bins(window, phase))
    warnings.extend(_clock_warnings(windows))
    if meter.settings.enabled:
        warnings.extend(short_window_warnings(phases))
    if meter.settings.enabled:
        warnings.extend(_pause_warnings(windows, max(PAUSE_S, 3 * meter.settings.interval_s)))
    return EnergyAccount(
        host=socket.gethostname(),
        phases=tuple(phases),
        bins=tuple(bins) if meter.settings.enabled else (),
        idle=idle,
        exclusive=exclusive,
        conditions=conditions,
        warnings=tuple(warnings),
    )


def short_window_warnings(phases: Sequence[PhaseEnergy]) -> list[dict[str, str]]:
    """Warn if training was too short to be measured; evaluations and checkpoints may divide it into several windows."""
    seconds = [phase.seconds for phase in phases if phase.name == "train"]
    if not seconds or sum(seconds) >= WARN_S:
        return []
    text = f"The train window lasted {sum(seconds):.1f} s; aim for 10 s, at least 5 s."
    if sum(seconds) < SHORT_S:
        text = f"The train window lasted {sum(seconds):.2f} s: under 1 s it is not called measured."
    return [{"kind": "short_window", "message": text}]


def rough_joules(windows: Sequence[Window], meter: Sensors) -> float | None:
    """Add up the readings so far. In the open window, models go on as in those before it, with the load of now."""
    total, known = 0.0, False
    for window in windows:
        last = window.end or (window.ticks[-1] if window.ticks else window.start)
        gpu_j = sum(last.gpu_j) - sum(window.start.gpu_j)
        parts: list[float | None] = [gpu_j] if meter.gpu_meters else []
        for name in ("cpu", "ram"):
            if name not in meter.settings.components:
                continue
            if name == "cpu" and window.rapl and last.rapl:
                marks = zip(window.rapl, window.start.rapl, last.rapl, strict=True)
                parts.append(sum(b.joules - a.joules for counter, a, b in marks if counter.kind == "package"))
            elif window.task is not None:
                parts.append(window.task.joules.get(name))
            elif window.end is None:
                parts.append(_by_models(windows, last, name))
        total += sum(part for part in parts if part is not None)
        known = known or any(part is not None for part in parts)
    return total if known else None


def _by_models(windows: Sequence[Window], last: Tick, name: str) -> float | None:
    """Extrapolate a component that has its energy at the end of a window into the open one, the last of them."""
    joules, weight, source = 0.0, 0.0, "unknown"
    for window in windows:
        part = None if window.task is None else window.task.joules.get(name)
        if window.end is not None and part is not None:
            source = window.sources[name].name if name in window.sources else source
            joules, weight = joules + part, weight + _model_weight(window.start, window.end, source, name)
    return joules / weight * _model_weight(windows[-1].start, last, source, name) if weight > 0 else None


def _model_weight(start: Tick, end: Tick, source: str, name: str) -> float:
    return end.at_s - start.at_s if name == "ram" else sum(_cpu_weights([start, end], source))


def _seconds(window: Window) -> float:
    assert window.end is not None  # only closed windows get here
    return window.end.at_s - window.start.at_s


def _phase(meter: Sensors, window: Window) -> tuple[PhaseEnergy, list[dict[str, str]]]:
    gpus = _gpus(meter, window)
    components = {name: _from_codecarbon(meter, window, name) for name in COMPONENTS}
    by_rapl, doubts = _from_rapl(meter, window)
    components.update(by_rapl)
    if (doubt := _doubt_of_others(meter, window, components["cpu"])) is not None:
        bound_j = round((components["cpu"].uncertainty_joules or 0.0) + doubt.joules, 6)
        components["cpu"] = replace(components["cpu"], uncertainty_joules=bound_j)
        doubts.append(f"The processor's sensor {doubt.reason}")
    if gpus and any(is_superchip(device.gpu.name) for device in meter.gpu_meters):
        components.update(_within_superchip(components))
    if gpus:
        components["gpu"] = add_components([gpu.component for gpu in gpus])
    spans = _wall_spans(window, _cuts(window))
    phase = PhaseEnergy(
        name=window.name,
        started_at=utc(min(start_s for start_s, _ in spans)),
        ended_at=utc(max(end_s for _, end_s in spans)),
        seconds=_seconds(window),
        components=components,
        gpus=gpus,
        codecarbon_joules={
            name: None if joules is None else round(joules, 6)
            for name, joules in (window.task.joules if window.task else {}).items()
            if name != "gpu" or window.sources.get("gpu", ComponentSource(name="none")).name != "none"
        },
    )
    warnings = _phase_warnings(meter, window, phase)
    for text in doubts:
        warnings.append({"kind": "processor_load", "message": f"{text} in {phase.name}; the bound covers both."})
    return phase, warnings


def _gpus(meter: Sensors, window: Window) -> tuple[GpuEnergy, ...]:
    assert window.end is not None  # only closed windows get here
    found = []
    for i, device in enumerate(meter.gpu_meters):
        source = device.source
        if window.lost[i]:
            until_j = max(window.end.edges[i].raw_j - window.start.edges[i].raw_j, 0.0)
            reason = window.lost[i]
            if device.readable:
                reason = f"{reason}; {until_j:.0f} J of this phase were counted until then"
            found.append(
                GpuEnergy(index=device.gpu.index, uuid=device.gpu.uuid, joules=None, source=source, reason=reason)
            )
            continue
        start, end = window.start.edges[i], window.end.edges[i]
        first_w, last_w = _edge_powers(window, i)
        start.settle(first_w, device.step_s, opens=True)
        end.settle(last_w, device.step_s, opens=False)
        if (lie := device.implausible(start, end)) is not None:
            reason = f"GPU {device.gpu.index}: {lie}"
            found.append(
                GpuEnergy(index=device.gpu.index, uuid=device.gpu.uuid, joules=None, source=source, reason=reason)
            )
            continue
        bound_j = window.bounds_j[i] + device.window_bound_j(start, end, first_w, last_w)
        bound_j += max(device.disagreement_j(start, end, bound_j) or 0.0, device.difference_j(start, end))
        found.append(
            GpuEnergy(
                index=device.gpu.index,
                uuid=device.gpu.uuid,
                joules=round(max(end.joules - start.joules, 0.0), 6),
                source=source,
                uncertainty_joules=round(bound_j, 6),
            )
        )
    for index, why in meter.unreadable.items():
        reason = f"GPU {index} cannot be read: {why}"
        found.append(GpuEnergy(index=index, uuid=None, joules=None, source="unknown", reason=reason))
    return tuple(found)


def _edge_powers(window: Window, i: int) -> tuple[float | None, float | None]:
    """Return the mean power of GPU i in the first and the last bin of the window."""
    assert window.end is not None
    times = [window.start.at_s, *(t.at_s for t in window.ticks), window.end.at_s]
    joules = [t.edges[i].joules for t in (window.start, *window.ticks, window.end)]
    powers = [
        (j1 - j0) / (t1 - t0)
        for t0, t1, j0, j1 in zip(times, times[1:], joules, joules[1:], strict=False)
        if t1 - t0 > 0.25
    ]
    return (powers[0], powers[-1]) if powers else (None, None)


def _from_codecarbon(meter: Sensors, window: Window, name: str) -> ComponentEnergy:
    """Return a component as CodeCarbon gives it, or null with the reason if it gives nothing."""
    settings = meter.settings
    if not settings.enabled or name not in settings.components:
        why = "metering is off" if not settings.enabled else f"{name} is measured by another process of this node"
        return ComponentEnergy(joules=None, source="none", reason=why)
    if name == "gpu" and meter.nvml is not None:
        return _unread_gpu(meter, "no GPU")
    source = window.sources.get(name, ComponentSource(name="unknown"))
    if source.name == "none" and name == "gpu":
        return _unread_gpu(meter, source.reason)
    if source.name == "none":
        return ComponentEnergy(joules=None, source="none", reason=source.reason)
    joules = window.task.joules.get(name) if window.task else None
    if joules is None:
        reason = (window.task.reason if window.task else None) or meter.tracker_reason or source.reason
        return ComponentEnergy(joules=None, source=source.name, reason=reason or "CodeCarbon gave no figure")
    if not (math.isfinite(joules) and joules > 0):
        return ComponentEnergy(
            joules=None,
            source=source.name,
            reason=f"CodeCarbon gave {joules} J, which cannot be ({source.name})",
        )
    if (reason := beyond_any(source.name, joules, _seconds(window))) is not None:
        return ComponentEnergy(joules=None, source=source.name, reason=reason)
    bound = relative_bound(source.name) if source.relative_bound is None else source.relative_bound
    return ComponentEnergy(
        joules=round(joules, 6),
        source=source.name,
        uncertainty_joules=None if bound is None else round(bound * joules, 6),
    )


def _from_rapl(meter: Sensors, window: Window) -> tuple[dict[str, ComponentEnergy], list[str]]:
    """Return the CPU's energy, and the memory's if every package measures it, by our own reading of RAPL; and doubts.

    What a processor cannot have drawn under its load widens the bound.
    """
    assert window.end is not None
    found, doubts, seconds = {}, [], _seconds(window)
    for name, kind in (("cpu", "package"), ("ram", "dram")):
        if not window.rapl or name not in meter.settings.components:
            continue
        parts = add_domains(window.rapl, window.start.rapl, window.end.rapl, kind, seconds)
        if not parts:
            continue
        whole = add_components([part for _, part in parts])
        if whole.joules is not None and kind == "package":
            doubt = _doubt(window, [counter for counter, _ in parts], [part.joules or 0.0 for _, part in parts])
            if doubt is not None:
                bound_j = round((whole.uncertainty_joules or 0.0) + doubt.joules, 6)
                whole = replace(whole, uncertainty_joules=bound_j)
                doubts.append(doubt.reason)
        elif whole.joules is not None:
            reason = too_little_for_dram(whole.joules, seconds, window.memory_gb)
            whole = whole if reason is None else replace(whole, joules=None, uncertainty_joules=None, reason=reason)
        found[name] = whole
    return found, doubts


def _doubt(window: Window, counters: Sequence[RaplCounter], joules: Sequence[float]) -> Doubt | None:
    """Hold the packages of a window against the load of the machine: each alone and all together, also for seconds."""
    cuts = _cuts(window)
    if not window.whole_load:
        cuts = [replace(cut, cpu_busy_s=None, cpu_total_s=None) for cut in cuts]
    [over_all] = stretches([(c.at_s, 0.0, c.cpu_busy_s, c.cpu_total_s) for c in (cuts[0], cuts[-1])])
    places = [next(i for i, c in enumerate(window.rapl) if c is counter) for counter in counters]
    found: list[Doubt] = []
    for counter, place, used_j in zip(counters, places, joules, strict=True):
        least_w, most_w = counter.rated_w or (None, None)
        busy = busy_of_each(over_all.busy, len(counters))
        doubt = check_processor(used_j, over_all.seconds, busy=busy, least_rated_w=least_w, rated_w=most_w)
        if doubt is None and least_w is not None:
            doubt = check_stretches(_stretches(cuts, [place]), packages=len(counters), least_rated_w=least_w)
        if doubt is not None:
            found.append(Doubt(joules=doubt.joules, reason=f"RAPL {counter.name} {doubt.reason}"))
    if not found and all(counter.rated_w is not None for counter in counters):
        least_w = sum(counter.rated_w[0] for counter in counters if counter.rated_w)
        doubt = check_stretches(_stretches(cuts, places), packages=1, least_rated_w=least_w)
        found.extend([] if doubt is None else [Doubt(joules=doubt.joules, reason=f"RAPL {doubt.reason}")])
    if not found:
        return None
    return Doubt(joules=sum(d.joules for d in found), reason="; ".join(d.reason for d in found))


def _doubt_of_others(meter: Sensors, window: Window, part: ComponentEnergy) -> Doubt | None:
    """Hold a processor's sensor that only CodeCarbon reads (Apple's, and others) against the load of the machine."""
    if part.joules is None or part.source not in MOST_W or meter.tracker is None:
        return None
    rated_w = registered_power_w(meter.tracker.hardware.get("cpu_model"))
    cuts = [window.start, window.end or window.start]
    [whole] = stretches([(c.at_s, 0.0, c.cpu_busy_s, c.cpu_total_s) for c in cuts])
    return check_processor(part.joules, whole.seconds, busy=whole.busy, least_rated_w=rated_w, rated_w=rated_w)


def _stretches(cuts: Sequence[Tick], places: Sequence[int]) -> list[Stretch]:
    return stretches([(c.at_s, sum(c.rapl[i].joules for i in places), c.cpu_busy_s, c.cpu_total_s) for c in cuts])


def _within_superchip(components: dict[str, ComponentEnergy]) -> dict[str, ComponentEnergy]:
    """Drop the models of processor and memory, which the GPU's counter already holds (zeus PR#172)."""
    reason = "the counter of this superchip's GPU covers its processor and memory"
    return {
        name: ComponentEnergy(joules=None, source="none", reason=reason)
        for name in ("cpu", "ram")
        if source_kind(components[name].source) == "modelled"
    }


def _unread_gpu(meter: Sensors, reason: str | None) -> ComponentEnergy:
    """Return the GPU component if no sensor reads a GPU: absent, or unknown if there may be one.

    There may be one if the work is done on it, or if NVML failed for another reason than that there is none.
    """
    why = meter.gpu_reason if meter.gpu_reason and reason == "no GPU" else reason
    if meter.gpu_expected:
        return ComponentEnergy(joules=None, source="unknown", reason=f"the GPU in use cannot be read: {why}")
    if meter.gpu_hidden:
        return ComponentEnergy(joules=None, source="unknown", reason=f"there may be a GPU that cannot be read: {why}")
    return ComponentEnergy(joules=None, source="none", reason=why)


def _phase_warnings(meter: Sensors, window: Window, phase: PhaseEnergy) -> list[dict[str, str]]:
    warnings = []
    assert window.end is not None
    for i, (gpu, device) in enumerate(zip(phase.gpus, meter.gpu_meters, strict=False)):
        start, end = window.start.edges[i], window.end.edges[i]
        edges_j = device.window_bound_j(start, end, *_edge_powers(window, i))
        apart_j = device.disagreement_j(start, end, window.bounds_j[i] + edges_j)
        if gpu.joules is not None and apart_j is not None:
            text = (
                f"GPU {gpu.index} in {phase.name}: {gpu.joules:.0f} J by its energy counter, up to {apart_j:.0f} J "
                "away from what its power readings add up to; the bound covers both."
            )
            warnings.append({"kind": "counter_and_power", "message": text})
        for kind, text in (window.gpu_faults[i] if window.gpu_faults else {}).items():
            message = f"The energy counter of GPU {gpu.index} {text}; power readings filled the gap."
            warnings.append({"kind": kind, "message": message})
    for name, part in phase.components.items():
        if part.joules is None and part.source != "none":
            warnings.append({"kind": f"{name}_unknown", "message": f"{name} energy is unknown: {part.reason}"})
        elif part.source == "unknown":
            text = f"CodeCarbon does not say how it obtained {name} energy."
            warnings.append({"kind": "source_unknown", "message": text})
    for text in window.rapl_faults:
        what = f"RAPL {text} in {phase.name}; the power before it filled the gap"
        warnings.append({"kind": "rapl_counter", "message": f"{what}, and the bound holds what may be missing."})
    ours, theirs = phase.components["gpu"].joules, phase.codecarbon_joules.get("gpu")
    if phase.gpus and ours is not None and theirs is not None:
        power_w = ours / phase.seconds if phase.seconds else 0.0
        stale_j = 2 * power_w * max((m.step_s for m in meter.gpu_meters), default=0.0)
        if abs(theirs - ours) > max(DISAGREEMENT * ours, stale_j):
            text = f"GPU energy of {phase.name}: {ours:.1f} J by our own readings, {theirs:.1f} J by CodeCarbon."
            warnings.append({"kind": "energy_disagreement", "message": text})
    return warnings


def _bins(window: Window, phase: PhaseEnergy) -> list[TimelineBin]:
    """Cut the phase at its ticks. The bins of each component sum exactly to the phase (in microjoules)."""
    cuts = _cuts(window)
    weights = {
        "gpu": _gpu_weights(cuts),
        "cpu": _cpu_weights(cuts, phase.components["cpu"].source),
        "ram": [b.at_s - a.at_s for a, b in itertools.pairwise(cuts)],
    }
    for name, kind in (("cpu", "package"), ("ram", "dram")):
        if window.rapl and phase.components[name].source.startswith("rapl"):
            weights[name] = tick_weights([cut.rapl for cut in cuts], window.rapl, kind)
    joules = {name: spread(phase.components[name].joules, weights[name]) for name in COMPONENTS}
    return [
        TimelineBin(
            start=utc(start_s),
            end=utc(end_s),
            phase=phase.name,
            joules={name: joules[name][i] for name in COMPONENTS},
        )
        for i, (start_s, end_s) in enumerate(_wall_spans(window, cuts))
    ]


def _cuts(window: Window) -> list[Tick]:
    """Return the ticks at which the phase is cut into bins, its edges included."""
    assert window.end is not None
    ticks = [t for t in window.ticks if window.start.at_s < t.at_s < window.end.at_s]
    if len(ticks) > 1 and window.end.at_s - ticks[-1].at_s < MERGE_BELOW * (ticks[-1].at_s - ticks[-2].at_s):
        ticks.pop()
    return [window.start, *ticks, window.end]


def _wall_spans(window: Window, cuts: Sequence[Tick]) -> list[tuple[float, float]]:
    """Return the start and the end of each bin, seconds since 1970.

    Bins are as long as the monotonic clock says. Those after a jump of the wall clock are dated by the new time.
    """
    offset_s = window.start_wall_s - window.start.at_s
    spans = []
    for a, b in itertools.pairwise(cuts):
        spans.append((offset_s + a.at_s, offset_s + b.at_s))
        if b.wall_s is not None and _jump_s(a, b) is not None:
            offset_s = b.wall_s - b.at_s
    return spans


def _jump_s(a: Tick, b: Tick) -> float | None:
    """Return by how much the wall clock moved ahead of the monotonic one between two ticks; None for a mere drift."""
    if a.wall_s is None or b.wall_s is None:
        return None
    moved_s = (b.wall_s - a.wall_s) - (b.at_s - a.at_s)
    return moved_s if abs(moved_s) > CLOCK_JUMP_S else None


def _clock_warnings(windows: Sequence[Window]) -> list[dict[str, str]]:
    ticks = [tick for window in windows for tick in (window.start, *window.ticks, window.end) if tick is not None]
    warnings = []
    for moved_s in (jump_s for a, b in itertools.pairwise(ticks) if (jump_s := _jump_s(a, b)) is not None):
        what = f"was set back by {-moved_s:.0f} s"
        if moved_s > 0:
            what = f"jumped ahead by {moved_s:.0f} s: it was set, or the machine was suspended"
        text = f"During the run the clock of this machine {what}; what follows is dated by the new time."
        warnings.append({"kind": "clock_jump", "message": text})
    return warnings


def _pause_warnings(windows: Sequence[Window], longest_s: float) -> list[dict[str, str]]:
    """Warn of each window in which two readings lie further apart than `longest_s`."""
    warnings = []
    for window in windows:
        ticks = [window.start, *window.ticks, *([window.end] if window.end is not None else [])]
        pause_s = max((b.at_s - a.at_s for a, b in itertools.pairwise(ticks)), default=0.0)
        if pause_s > longest_s:
            text = (
                f"In the {window.name} phase nothing was read for {pause_s:.0f} s: the process was stopped (SIGSTOP), "
                "or the machine was too busy; the time and the energy of the phase include that pause."
            )
            warnings.append({"kind": "pause", "message": text})
    return warnings


def _gpu_weights(cuts: Sequence[Tick]) -> list[float]:
    if not cuts[0].edges:
        return [b.at_s - a.at_s for a, b in itertools.pairwise(cuts)]
    marks = list(itertools.accumulate((sum(cut.gpu_j) for cut in cuts), max))
    marks = [min(mark, sum(cuts[-1].gpu_j)) for mark in marks]
    return [b - a for a, b in itertools.pairwise(marks)]


def _cpu_weights(cuts: Sequence[Tick], source: str) -> list[float]:
    weights = []
    for a, b in itertools.pairwise(cuts):
        share = 0.0
        if None not in (a.cpu_busy_s, a.cpu_total_s, b.cpu_busy_s, b.cpu_total_s):
            total_s = b.cpu_total_s - a.cpu_total_s  # type: ignore[operator]
            share = (b.cpu_busy_s - a.cpu_busy_s) / total_s if total_s > 0 else 0.0  # type: ignore[operator]
        weights.append(host.cpu_shape(source, share) * (b.at_s - a.at_s))
    return weights
