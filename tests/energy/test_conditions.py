"""Whether a run had its machine to itself: said from who used the processor and the GPUs meanwhile."""

import os
import subprocess
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lora_scaling.energy import host
from lora_scaling.energy.conditions import ConditionsLog
from lora_scaling.energy.nvml import Gpu

QUIET, BUSY = 10.0, 20.0  # CPU seconds of all processes in ten seconds, of which ours took ten


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[float | None], None]:
    """Ten seconds on a machine where others are a nuisance from half a core on."""

    def use(busy_s: float | None) -> None:
        start = host.CpuTimes(busy_s=0.0, total_s=0.0, own_s=0.0, at_s=0.0)
        end = None if busy_s is None else host.CpuTimes(busy_s=busy_s, total_s=40.0, own_s=10.0, at_s=10.0)
        moments = iter([start, end])
        monkeypatch.setattr(host, "cpu_times", lambda ranks=False: next(moments))
        monkeypatch.setattr(host, "busy_limit_cores", lambda: 0.5)

    return use


def nvml(*pids: int, throttle: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(
        temperature_c=lambda gpu: 50.0 + 10 * gpu.index,
        sm_clock_mhz=lambda gpu: 1500.0,
        memory_clock_mhz=lambda gpu: None,
        throttle_reasons=lambda gpu: frozenset(throttle),
        compute_pids=lambda gpu: frozenset(pids),
        power_limit_w=lambda gpu: 300.0,
        mig_enabled=lambda gpu: False,
    )


def listed(gpus: int) -> tuple[Gpu, ...]:
    return tuple(Gpu(index=i, uuid=f"GPU-{i}", name="Stub", handle=None) for i in range(gpus))


def summary(
    sensors: Any = None, gpus: int = 0, *, gpu_in_use: bool = False
) -> tuple[dict[str, Any], bool | None, list[str]]:
    log = ConditionsLog(sensors, listed(gpus), {"driver": "stub"}, ranks=False)
    log.read()
    section, exclusive, warnings = log.summary(gpu_in_use=gpu_in_use)
    return section, exclusive, [warning["kind"] for warning in warnings]


@pytest.mark.parametrize(
    ("busy_s", "load", "exclusive", "kinds"),
    [(QUIET, 0.0, True, []), (BUSY, 1.0, False, ["cpu_load"]), (None, None, None, [])],
)
def test_the_load_of_others_decides_on_a_machine_without_gpus(
    processor: Callable[[float | None], None],
    busy_s: float | None,
    load: float | None,
    exclusive: bool | None,
    kinds: list[str],
) -> None:
    processor(busy_s)
    section, alone, warned = summary()
    assert (section["other_cpu_load_cores"], alone, warned) == (load, exclusive, kinds)
    assert section["gpu_temperature_c"] is None


def test_another_process_on_a_gpu_is_named(processor: Callable[[float | None], None]) -> None:
    processor(QUIET)
    section, exclusive, warned = summary(nvml(os.getpid(), 4242), gpus=2)
    assert (exclusive, warned) == (False, ["shared_gpu", "shared_gpu"])
    assert [gpu["other_processes"] for gpu in section["gpus"]] == [[4242], [4242]]
    assert section["gpu_temperature_c"] == 55.0


def test_a_gpu_of_our_own_on_a_quiet_machine_is_exclusive(processor: Callable[[float | None], None]) -> None:
    processor(QUIET)
    section, exclusive, warned = summary(nvml(os.getpid(), throttle=("power_cap",)), gpus=1)
    assert (exclusive, warned) == (True, [])
    assert section["gpus"][0]["throttle_reasons"] == ["power_cap"]
    assert section["gpus"][0]["memory_clock_mhz"] is None


@pytest.mark.parametrize(
    ("pids", "in_use", "exclusive"),
    [
        ((), True, None),  # WSL2, MIG: no process is shown, not even ours
        ((), False, True),  # the run is on the CPU
        ((os.getpid(),), True, True),
    ],
)
def test_a_gpu_on_which_not_even_our_own_process_is_seen_may_have_others(
    processor: Callable[[float | None], None], pids: tuple[int, ...], in_use: bool, exclusive: bool | None
) -> None:
    processor(QUIET)
    assert summary(nvml(*pids), gpus=2, gpu_in_use=in_use)[1] is exclusive


def test_a_program_that_the_run_started_and_that_has_ended_is_not_another_user(
    processor: Callable[[float | None], None],
) -> None:
    processor(QUIET)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as started:
        log = ConditionsLog(nvml(os.getpid(), started.pid), listed(1), {}, ranks=False)
        log.read()
    assert log.summary()[1] is True


def test_a_slowed_gpu_is_warned_of_and_still_ours(processor: Callable[[float | None], None]) -> None:
    processor(QUIET)
    _, exclusive, warned = summary(nvml(os.getpid(), throttle=("thermal_hardware",)), gpus=1)
    assert (exclusive, warned) == (True, ["throttled"])


@pytest.mark.parametrize(("cores", "limit"), [(1, 0.2), (5, 0.5), (64, 1.0), (None, 0.2)])
def test_others_are_a_nuisance_from_a_tenth_of_the_processor_on(
    cores: int | None, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert host.busy_limit_cores() == pytest.approx(limit)
