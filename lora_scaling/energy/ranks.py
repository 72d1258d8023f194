"""Combine the measurements of several processes: each GPU once, and CPU and RAM of each host once."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lora_scaling.energy.measurement import (
    ComponentEnergy,
    EnergyAccount,
    GpuEnergy,
    PhaseEnergy,
    TimelineBin,
    add,
    add_components,
    spread,
)
from lora_scaling.records.timeline import COMPONENTS


def combine(accounts: Sequence[EnergyAccount]) -> EnergyAccount:
    """Add the measurements of the ranks of one run. The phases of all ranks are matched by name and order.

    A GPU (by UUID, else by host and index) that several ranks measured counts once, with its longest known window. CPU
    and RAM count once per host, from the first rank on it that has them. The windows are those of the first rank; its
    bins carry the energy of the others, moved by at most one bin, so that sums stay exact.
    Raises ValueError without measurements.
    """
    if not accounts:
        raise ValueError("accounts: missing; give the account of at least one rank")
    if len(accounts) == 1:
        return accounts[0]
    keys = _phase_keys(accounts)
    phases = tuple(_combine_phase(key, accounts) for key in keys)
    verdicts = [account.exclusive for account in accounts]
    return EnergyAccount(
        host=",".join(dict.fromkeys(account.host for account in accounts)),
        phases=phases,
        bins=tuple(_combine_bins(keys, phases, accounts)),
        idle=None if len({a.host for a in accounts}) > 1 else next((a.idle for a in accounts if a.idle), None),
        exclusive=False if False in verdicts else None if None in verdicts else True,
        conditions=_combine_conditions(accounts),
        warnings=tuple({w["message"]: w for account in accounts for w in account.warnings}.values()),
    )


PhaseKey = tuple[str, int]


def _keyed(account: EnergyAccount) -> dict[PhaseKey, PhaseEnergy]:
    """Return phases by (name, number of earlier phases with that name)."""
    keyed: dict[PhaseKey, PhaseEnergy] = {}
    for phase in account.phases:
        keyed[phase.name, sum(name == phase.name for name, _ in keyed)] = phase
    return keyed


def _phase_keys(accounts: Sequence[EnergyAccount]) -> list[PhaseKey]:
    return list(dict.fromkeys(key for account in accounts for key in _keyed(account)))


def _combine_phase(key: PhaseKey, accounts: Sequence[EnergyAccount]) -> PhaseEnergy:
    held = [(account.host, _keyed(account)[key]) for account in accounts if key in _keyed(account)]
    gpus = _gpus_once(held)
    components = {name: _once_per_host(name, held) for name in COMPONENTS}
    if gpus:
        unlisted = _once_per_host("gpu", [(host, phase) for host, phase in held if not phase.gpus])
        components["gpu"] = add_components([*(gpu.component for gpu in gpus), unlisted])
    codecarbon: dict[str, float | None] = {}
    for name in COMPONENTS:
        values = [p.codecarbon_joules.get(name) for _, p in held if p.components[name].source != "none"]
        known = [v for v in values if v is not None]
        codecarbon[name] = add(known) if known and len(known) == len(values) else None
    first = held[0][1]
    return PhaseEnergy(
        name=key[0],
        started_at=first.started_at,
        ended_at=first.ended_at,
        seconds=first.seconds,
        components=components,
        gpus=gpus,
        codecarbon_joules=codecarbon,
    )


def _gpus_once(held: list[tuple[str, PhaseEnergy]]) -> tuple[GpuEnergy, ...]:
    best: dict[str, tuple[tuple[bool, float], GpuEnergy]] = {}
    for host, phase in held:
        for gpu in phase.gpus:
            identity = gpu.uuid or f"{host}/{gpu.index}"
            rank = (gpu.joules is not None, phase.seconds)
            if identity not in best or rank > best[identity][0]:
                best[identity] = (rank, gpu)
    return tuple(gpu for _, gpu in best.values())


def _once_per_host(name: str, held: list[tuple[str, PhaseEnergy]]) -> ComponentEnergy:
    """Return CPU and RAM (and a GPU that only CodeCarbon sees) of the first process on each host that has them."""
    by_host: dict[str, ComponentEnergy] = {}
    for host, phase in held:
        part = phase.components[name]
        if host not in by_host or (by_host[host].source == "none" and part.source != "none"):
            by_host[host] = part
    return add_components(list(by_host.values()))


def _combine_conditions(accounts: Sequence[EnergyAccount]) -> dict[str, Any]:
    """Return the conditions of the first rank, with the GPUs of all."""
    gpus: dict[str, Any] = {}
    for account in accounts:
        for gpu in account.conditions.get("gpus") or []:
            gpus.setdefault(gpu.get("uuid") or f"{account.host}/{gpu.get('index')}", gpu)
    return {**accounts[0].conditions, "gpus": list(gpus.values()), "processes": len(accounts)}


def _combine_bins(
    keys: list[PhaseKey], phases: Sequence[PhaseEnergy], accounts: Sequence[EnergyAccount]
) -> list[TimelineBin]:
    """Return the bins of the first rank that has the phase, scaled so that they add up to the energy of all ranks."""
    combined: list[TimelineBin] = []
    for key, phase in zip(keys, phases, strict=True):
        owners = [a for a in accounts if key in _keyed(a)]
        frame = _bins_of(owners[0], key)
        if not frame:
            continue
        starts, ends = [piece.start for piece in frame], [piece.end for piece in frame]
        shares = {name: [0.0] * len(frame) for name in COMPONENTS}
        for account in owners:
            for piece in _bins_of(account, key):
                _add_to(shares, starts, ends, piece)
        pieces = {name: spread(phase.components[name].joules, shares[name]) for name in COMPONENTS}
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            joules = {name: pieces[name][i] for name in COMPONENTS}
            combined.append(TimelineBin(start=start, end=end, phase=key[0], joules=joules))
    return combined


def _bins_of(account: EnergyAccount, key: PhaseKey) -> list[TimelineBin]:
    phase = _keyed(account)[key]
    return [b for b in account.bins if b.phase == phase.name and phase.started_at <= b.start < phase.ended_at]


def _add_to(
    shares: dict[str, list[float]], starts: Sequence[datetime], ends: Sequence[datetime], piece: TimelineBin
) -> None:
    """Distribute the energy of a bin over the (increasing) bins it overlaps; without overlap, to the nearest end."""
    met = range(bisect.bisect_right(ends, piece.start), bisect.bisect_left(starts, piece.end))
    # Bins around a jump of the clock are not in order: those that do not overlap are none of it.
    lengths = {i: (min(ends[i], piece.end) - max(starts[i], piece.start)).total_seconds() for i in met}
    overlaps = {i: length_s for i, length_s in lengths.items() if length_s > 0}
    whole_s = math.fsum(overlaps.values())
    if whole_s <= 0:
        nearest = 0 if piece.end <= starts[0] else len(starts) - 1
        overlaps, whole_s = {nearest: 1.0}, 1.0
    for name in COMPONENTS:
        joules = piece.joules.get(name)
        if joules is not None:
            for i, overlap_s in overlaps.items():
                shares[name][i] += joules * overlap_s / whole_s
