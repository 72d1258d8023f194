"""Select the GPUs of this process from CUDA_VISIBLE_DEVICES in all its forms.

The rules are CUDA's own (CUDA C++ Programming Guide, "CUDA Environment Variables"). Entries are indices, unique
prefixes of GPU UUIDs, or MIG devices. The list ends at the first entry that names no device. An entry that occurs
twice hides everything, and so does an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lora_scaling.energy.nvml import Gpu


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The GPUs to measure, in CUDA's order, and warnings about the choice."""

    gpus: tuple[Gpu, ...]
    warnings: tuple[dict[str, str], ...] = field(default=())


def select_gpus(
    gpus: Sequence[Gpu],
    environ: Mapping[str, str],
    *,
    gpu_ids: Sequence[str | int] | None = None,
    share: tuple[int, int] | None = None,
    one_gpu: bool = False,
    mig_parent: Callable[[str], Gpu | None] = lambda uuid: None,
    computing: str | None = None,
) -> Selection:
    """Select the GPUs among `gpus` that `gpu_ids`, or else CUDA_VISIBLE_DEVICES, names; of these, this rank's `share`.

    computing: UUID of the GPU that this process computes on, as CUDA shows it: it is then the one, whatever CUDA's
        order. The UUID of a MIG slice is found as well.

    one_gpu: a rank computes only on the GPU with its own number; GPUs beyond the ranks may belong to other people. GPUs
        named by `gpu_ids` are intended, and all of them are divided up.
    Raises nothing: an entry that names no GPU becomes a warning.
    """
    warnings: list[dict[str, str]] = []
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if gpu_ids is None and computing is not None:
        own = _computing(gpus, computing, mig_parent, warnings)
        if own is not None:
            return Selection(gpus=(own,), warnings=tuple(warnings))
    if gpu_ids is not None:
        chosen = _explicit(gpus, [str(item) for item in gpu_ids], mig_parent, warnings)
    elif listed is None:
        chosen = list(gpus)
    else:
        chosen = _as_cuda_reads(gpus, listed, mig_parent, warnings)
        indexed = any(entry.strip().isdigit() for entry in listed.split(","))
        names = {gpu.name for gpu in gpus if gpu.name}
        if indexed and len(names) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            warnings.append(
                _warning(
                    "device_order",
                    "This machine has different GPUs: CUDA numbers them fastest first, NVML by PCI bus, so "
                    "that CUDA_VISIBLE_DEVICES may name other devices than the measured ones; set "
                    "CUDA_DEVICE_ORDER=PCI_BUS_ID or use UUIDs.",
                )
            )
    unique = tuple({gpu.index: gpu for gpu in chosen}.values())
    return Selection(gpus=share_of(unique, share, one_each=one_gpu and gpu_ids is None), warnings=tuple(warnings))


def share_of(gpus: tuple[Gpu, ...], share: tuple[int, int] | None, *, one_each: bool) -> tuple[Gpu, ...]:
    """Return the GPUs of one rank. With fewer GPUs than ranks, each sees its own or all see the same ones."""
    if share is None:
        return gpus
    rank, ranks = share
    step = len(gpus) if one_each else ranks
    return gpus if len(gpus) < ranks else gpus[rank::step]  # combining counts each GPU once


def _computing(
    gpus: Sequence[Gpu],
    uuid: str,
    mig_parent: Callable[[str], Gpu | None],
    warnings: list[dict[str, str]],
) -> Gpu | None:
    for gpu in gpus:
        if gpu.uuid == uuid:
            return gpu
    slice_uuid = f"MIG-{uuid.removeprefix('GPU-')}"
    if mig_parent(slice_uuid) is not None:
        return _find(gpus, slice_uuid, mig_parent, warnings)
    if len(gpus) > 1:
        text = (
            f"The GPU that computes ({uuid}) is not among those that NVML lists; measured is what CUDA's order names."
        )
        warnings.append(_warning("device_unmatched", text))
    return None


def _explicit(
    gpus: Sequence[Gpu],
    entries: list[str],
    mig_parent: Callable[[str], Gpu | None],
    warnings: list[dict[str, str]],
) -> list[Gpu]:
    chosen = []
    for entry in entries:
        gpu = _find(gpus, entry.strip(), mig_parent, warnings)
        if gpu is None:
            warnings.append(_warning("gpu_not_found", f"`metering.gpu_ids` names {entry!r}, which is no GPU here."))
        else:
            chosen.append(gpu)
    return chosen


def _as_cuda_reads(
    gpus: Sequence[Gpu],
    listed: str,
    mig_parent: Callable[[str], Gpu | None],
    warnings: list[dict[str, str]],
) -> list[Gpu]:
    chosen: list[Gpu] = []
    seen: set[str] = set()
    for entry in (part.strip() for part in listed.split(",")):
        gpu = _find(gpus, entry, mig_parent, warnings)
        if gpu is None:
            if entry not in ("", "-1", "NoDevFiles"):
                warnings.append(
                    _warning("gpu_not_found", f"CUDA_VISIBLE_DEVICES names {entry!r}, which is no GPU here.")
                )
            break
        key = entry if entry.startswith("MIG-") else str(gpu.index)
        if key in seen:
            return []
        seen.add(key)
        chosen.append(gpu)
    return chosen


def _find(
    gpus: Sequence[Gpu],
    entry: str,
    mig_parent: Callable[[str], Gpu | None],
    warnings: list[dict[str, str]],
) -> Gpu | None:
    if entry.isdigit():
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    if entry.startswith("MIG-"):
        gpu = _mig(gpus, entry, mig_parent)
        if gpu is not None:
            warnings.append(
                _warning(
                    "mig",
                    f"{entry} is a slice of GPU {gpu.index}: its counter covers the whole GPU, "
                    "with whatever else runs on it.",
                )
            )
        return gpu
    if not entry.startswith("GPU-"):
        return None
    matches = [gpu for gpu in gpus if gpu.uuid and gpu.uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _mig(gpus: Sequence[Gpu], entry: str, mig_parent: Callable[[str], Gpu | None]) -> Gpu | None:
    """Resolve MIG-<uuid of the slice> or, before driver 470, MIG-<uuid of the GPU>/<instance>/<compute instance>."""
    if "/" not in entry:
        return mig_parent(entry)
    parent = entry.removeprefix("MIG-").split("/")[0]
    return next((gpu for gpu in gpus if gpu.uuid == parent), None)


def _warning(kind: str, message: str) -> dict[str, str]:
    return {"kind": kind, "message": message}
