"""Classify sources of energy: which names mean a sensor, and which a model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

SourceKind = Literal["measured", "modelled", "unknown", "none"]


@dataclass(frozen=True, kw_only=True)
class EnergySource:
    """The meaning of a source's name. `relative_bound`: half-width of its error; None if it varies by window."""

    kind: SourceKind
    relative_bound: float | None = None


# The bounds are conventions, not measurements. The shape of the load model alone (cubic or linear in load) makes a
# factor of two at half load; a RAM model based on memory size knows neither the modules nor their load; RAPL is within
# a few per cent (Intel SDM: model), its memory domain within 20 % (Desrochers et al., MEMSYS 2016). The last three
# models are names used by the tables of other programs.
SOURCES = {
    "nvml_counter": EnergySource(kind="measured"),
    "nvml_power": EnergySource(kind="measured"),
    "rapl": EnergySource(kind="measured", relative_bound=0.05),
    "rapl_dram": EnergySource(kind="measured", relative_bound=0.2),
    "amdsmi_counter": EnergySource(kind="measured", relative_bound=0.05),
    "amdsmi_power": EnergySource(kind="measured", relative_bound=0.1),
    "powermetrics": EnergySource(kind="measured", relative_bound=0.1),
    "windows_emi": EnergySource(kind="measured", relative_bound=0.05),
    "power_gadget": EnergySource(kind="measured", relative_bound=0.05),
    "raspberry_pmic": EnergySource(kind="measured", relative_bound=0.1),
    "load_model": EnergySource(kind="modelled", relative_bound=0.5),
    "constant_model": EnergySource(kind="modelled", relative_bound=0.5),
    "constant": EnergySource(kind="modelled"),
    "tdp": EnergySource(kind="modelled"),
    "cpu_load": EnergySource(kind="modelled"),
    "unknown": EnergySource(kind="unknown"),
    "none": EnergySource(kind="none"),
}


def source_kind(source: str | None) -> SourceKind:
    """Classify a source by its name.

    If phases or devices differ, their names are joined by a plus. The parts that are not `none` must agree, because
    otherwise it is unknown how much of the energy was measured. A name that is missing or not listed is `unknown`.
    """
    if source is None:
        return "unknown"
    kinds: list[SourceKind] = [_kind_of_part(part) for part in source.lower().split("+")]
    known: list[SourceKind] = [kind for kind in kinds if kind != "none"]
    if not known:
        return "none"
    return known[0] if all(kind == known[0] for kind in known) else "unknown"


def measured_share(record: Mapping[str, Any]) -> float | None:
    """Return the share of a run's energy that sensors measured, the rest being modelled; None if unknown."""
    parts = ((record.get("energy") or {}).get("components") or {}).values()
    joules = {"measured": 0.0, "modelled": 0.0}
    for part in parts:
        if part.get("joules") is not None:
            kind = source_kind(part.get("source"))
            if kind not in joules:
                return None
            joules[kind] += part["joules"]
    whole = sum(joules.values())
    return joules["measured"] / whole if whole else None


def energy_kind(share: float | None) -> str | None:
    """Say how an energy was obtained, given the share of it that was measured; None if unknown."""
    if share is None:
        return None
    return "measured" if share == 1 else "modelled" if share == 0 else f"{100 * share:.0f} % measured"


def energy_kind_of_all(shares: Collection[float | None]) -> str | None:
    """Say how the energies of a column were obtained, if that is the same for all: measured, or modelled."""
    kinds = {energy_kind(share) for share in shares}
    return next(iter(kinds)) if len(kinds) == 1 and kinds <= {"measured", "modelled"} else None


def relative_bound(source: str) -> float | None:
    """Return the half-width of a source's error as a fraction of its energy; None if unknown."""
    listed = SOURCES.get(source)
    return listed.relative_bound if listed else None


def _kind_of_part(name: str) -> SourceKind:
    listed = SOURCES.get(name.strip())
    return listed.kind if listed else "unknown"
