"""Define what to measure and how often: the `metering.*` part of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lora_scaling.errors import UserError
from lora_scaling.records.timeline import COMPONENTS


@dataclass(frozen=True, kw_only=True)
class MeteringSettings:
    """Settings of the measurement of a run.

    interval_s: length of a timeline bin, seconds.
    country_iso: three capital letters, which CodeCarbon's offline tracker requires. Its grams are not used.
    idle_s: length of the idle baseline before and after a sweep, in seconds; 0 means none.
    cpu_power_w: rated power of the processor under full load, for the CPU model; None: as CodeCarbon's table names it.
        Not used where the energy is measured.
    gpu_ids: NVML indices or UUIDs of the GPUs to measure; None: those that CUDA_VISIBLE_DEVICES leaves visible;
        empty: none.
    gpu_uuid: the GPU that this process computes on, which is then the one to measure; gpu_ids come first. If NVML does
        not know it, as without `gpu_uuid`.
    components: what this process measures. Of several processes on a node, only one measures cpu and ram.
    gpu_share: (local rank, ranks on this node): measure only this rank's part of the visible GPUs.
    one_gpu: that part is only the GPU with the rank's own number, not every `ranks`-th GPU from there on.
    """

    enabled: bool = True
    interval_s: float = 1.0
    country_iso: str = "DNK"
    idle_s: float = 0.0
    cpu_power_w: float | None = None
    gpu_ids: tuple[str | int, ...] | None = None
    gpu_uuid: str | None = None
    components: tuple[str, ...] = COMPONENTS
    gpu_share: tuple[int, int] | None = None
    one_gpu: bool = False

    def __post_init__(self) -> None:
        for name in ("gpu_ids", "components", "gpu_share"):  # a YAML list is not hashable
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if not self.interval_s > 0:
            raise UserError(
                f"metering.interval_s: got {self.interval_s}; give a number of seconds above 0, "
                "such as 1 for one bin a second"
            )
        if self.idle_s < 0:
            raise UserError(
                f"metering.idle_s: got {self.idle_s}; give a number of seconds from 0 up, with 0 for no idle baseline"
            )
        if self.cpu_power_w is not None and not 0 < self.cpu_power_w <= 10_000:
            raise UserError(
                f"metering.cpu_power_w: got {self.cpu_power_w}; give the rated watts of all processors of this machine "
                "together, such as 95, or null to take them from CodeCarbon's table"
            )
        iso = self.country_iso
        if not (len(iso) == 3 and iso.isascii() and iso.isalpha() and iso.isupper()):
            raise UserError(
                f"metering.country_iso: got {iso!r}; give a three-letter ISO 3166-1 code in capitals, "
                "such as DNK for Denmark"
            )
        unknown = [name for name in self.components if name not in COMPONENTS]
        if unknown:
            raise UserError(
                f"metering.components: got {unknown[0]!r}; choose from {', '.join(COMPONENTS)}, "
                "or leave it out to measure all three"
            )


def settings_for_rank(
    settings: MeteringSettings, local_rank: int, local_world_size: int, *, one_gpu: bool = False
) -> MeteringSettings:
    """Return the settings of one of several processes on a node: its own GPUs; cpu and ram only for local rank 0.

    one_gpu: each process is known to compute on one GPU, cuda:LOCAL_RANK. Otherwise all visible GPUs are divided up.
    """
    components = settings.components if local_rank == 0 else tuple(c for c in settings.components if c == "gpu")
    return replace(settings, components=components, gpu_share=(local_rank, local_world_size), one_gpu=one_gpu)


def settings_on(settings: MeteringSettings, *, kind: str, gpu_uuid: str | None) -> MeteringSettings:
    """Return the settings of a process that computes on this device (cuda, mps or cpu): its GPU, or on a CPU none.

    GPUs that the user names are measured in any case.
    """
    if settings.gpu_ids is not None:
        return settings
    return replace(settings, gpu_ids=()) if kind == "cpu" else replace(settings, gpu_uuid=gpu_uuid)
