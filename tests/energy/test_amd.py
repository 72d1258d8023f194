"""AMD's GPUs through a stand-in for its library, with the calls that CodeCarbon 3.3 makes."""

from __future__ import annotations

import sys
import time
from types import ModuleType
from typing import Any

import pytest

from lora_scaling.energy import MeteringSettings, open_meter
from lora_scaling.energy.amd import Amd, visible_amd_gpus
from lora_scaling.energy.nvml import Gpu, SensorError
from lora_scaling.energy.settings import settings_for_rank


class AmdSmi(ModuleType):
    """The library: GPUs whose counter runs at some watts, times `scale`."""

    def __init__(self, watts: list[float], *, name: str = "AMD Instinct MI100", scale: float = 1.0) -> None:
        super().__init__("amdsmi")
        self.watts, self.market_name, self.scale = watts, name, scale
        self.power: list[Any] = list(watts)
        self.began_s = time.perf_counter() - 1000

    def amdsmi_init(self) -> None:
        pass

    def amdsmi_shut_down(self) -> None:
        pass

    def amdsmi_get_processor_handles(self) -> list[int]:
        return list(range(len(self.watts)))

    def amdsmi_get_gpu_device_uuid(self, handle: int) -> str:
        return f"amd-{handle}"

    def amdsmi_get_gpu_asic_info(self, handle: int) -> dict[str, Any]:
        return {"market_name": self.market_name}

    def amdsmi_get_energy_count(self, handle: int) -> dict[str, Any]:
        joules = self.watts[handle] * self.scale * (time.perf_counter() - self.began_s)
        return {"energy_accumulator": int(joules * 1e6 / 15.3), "counter_resolution": 15.3}  # µJ

    def amdsmi_get_power_info(self, handle: int) -> dict[str, Any]:
        return {"average_socket_power": self.power[handle], "current_socket_power": "N/A"}

    def amdsmi_get_power_cap_info(self, handle: int) -> dict[str, Any]:
        return {"power_cap": 300_000_000}  # µW

    def amdsmi_get_gpu_process_list(self, handle: int) -> list[dict[str, Any]]:
        return [{"pid": 4242}]


def install(monkeypatch: pytest.MonkeyPatch, library: AmdSmi) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", library)
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def recorded(settings: MeteringSettings, seconds: float = 1.2) -> Any:
    meter = open_meter(settings)
    try:
        recording = meter.recording()
        with recording.phase("train"):
            time.sleep(seconds)
        return recording.close()
    finally:
        meter.close()


def test_the_counter_of_an_amd_gpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, AmdSmi([200.0, 100.0]))
    account = recorded(MeteringSettings(components=("gpu",)), seconds=2.6)  # the bound of a shorter window is wider
    [phase] = account.phases
    assert [(gpu.source, gpu.uuid) for gpu in phase.gpus] == [("amdsmi_counter", "amd-0"), ("amdsmi_counter", "amd-1")]
    part = account.components["gpu"]
    assert part.joules == pytest.approx(300 * phase.seconds, rel=0.01)
    assert part.uncertainty_joules == pytest.approx(0.05 * part.joules, rel=0.3)
    assert account.conditions["gpus"][0]["other_processes"] == [4242]


@pytest.mark.parametrize(("scale", "said"), [(1.75, "counter_and_power"), (0.0, "gpu_unknown")])
def test_a_counter_of_amd_that_lies_is_caught(monkeypatch: pytest.MonkeyPatch, scale: float, said: str) -> None:
    """One that does not move, as of rocm_smi_lib#180."""
    library = AmdSmi([200.0], scale=scale)
    install(monkeypatch, library)
    if scale == 0.0:
        library.amdsmi_get_energy_count = lambda handle: {"energy_accumulator": 77, "counter_resolution": 15.3}
    account = recorded(MeteringSettings(components=("gpu",)))
    assert said in {w["kind"] for w in account.warnings}
    part = account.components["gpu"]
    assert part.joules is None or abs(part.joules - 200 * account.seconds) <= (part.uncertainty_joules or 0)


def test_without_a_counter_its_power_is_integrated(monkeypatch: pytest.MonkeyPatch) -> None:
    library = AmdSmi([200.0], scale=0.0)
    install(monkeypatch, library)
    account = recorded(MeteringSettings(components=("gpu",)), seconds=0.4)
    assert account.components["gpu"].source == "amdsmi_power"
    assert account.components["gpu"].joules == pytest.approx(200 * account.seconds, rel=0.02)


def test_the_second_half_of_a_double_chip_is_counted_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    library = AmdSmi([500.0, 0.0, 400.0, 0.0], name="AMD Instinct MI250X")
    install(monkeypatch, library)
    assert [gpu.index for gpu in Amd.open().gpus] == [0, 2]
    library.watts[3] = library.power[3] = 90.0
    assert [gpu.index for gpu in Amd.open().gpus] == [0, 2, 3]


def test_a_library_that_fails_hides_gpus_and_one_without_any_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    library = AmdSmi([])
    install(monkeypatch, library)
    with pytest.raises(SensorError) as none:
        Amd.open()
    assert none.value.no_gpu

    def broken() -> None:
        raise RuntimeError("AMDSMI_STATUS_NO_PERM")

    library.amdsmi_init = broken
    part = recorded(MeteringSettings(components=("gpu",)), seconds=0.1).components["gpu"]
    assert (part.joules, part.source) == (None, "unknown")
    assert "AMDSMI_STATUS_NO_PERM" in (part.reason or "")


GPUS = tuple(Gpu(index=i, uuid=f"amd-{i}", name=None, handle=None) for i in range(3))


@pytest.mark.parametrize(
    ("listed", "ids", "expected"),
    [
        ({}, None, [0, 1, 2]),
        ({"ROCR_VISIBLE_DEVICES": "2,0"}, None, [2, 0]),
        ({"HIP_VISIBLE_DEVICES": "1,7"}, None, [1]),
        ({"CUDA_VISIBLE_DEVICES": ""}, None, []),
        ({"ROCR_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0"}, None, [1]),
        ({"ROCR_VISIBLE_DEVICES": "amd-2"}, None, [2]),
        ({"ROCR_VISIBLE_DEVICES": "1"}, (0, "amd-2"), [0, 2]),
    ],
)
def test_amd_gpus_are_those_that_rocm_would_use(
    listed: dict[str, str], ids: tuple[str | int, ...] | None, expected: list[int]
) -> None:
    assert [gpu.index for gpu in visible_amd_gpus(GPUS, listed, ids)] == expected


def test_each_rank_measures_its_own_amd_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, AmdSmi([200.0, 100.0, 50.0]))
    meter = open_meter(settings_for_rank(MeteringSettings(components=("gpu",)), 1, 2, one_gpu=True))
    try:
        assert [gpu.index for gpu in meter.gpus] == [1]
    finally:
        meter.close()
