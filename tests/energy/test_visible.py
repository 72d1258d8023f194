"""CUDA_VISIBLE_DEVICES in all its forms."""

from __future__ import annotations

from typing import Any

import pytest

from lora_scaling.energy import MeteringSettings, settings_on
from lora_scaling.energy.nvml import Gpu
from lora_scaling.energy.visible_gpus import select_gpus

GPUS = tuple(
    Gpu(index=i, uuid=uuid, name="Stub", handle=None)
    for i, uuid in enumerate(["GPU-aaaa-1111", "GPU-aaaa-2222", "GPU-bbbb-3333"])
)


def chosen(listed: str | None, **options) -> list[int]:
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    return [gpu.index for gpu in select_gpus(GPUS, environ, **options).gpus]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 2 , 0 ", [2, 0]),
        ("0,-1,1", [0]),  # the list ends at the first entry that names nothing
        ("0,7,1", [0]),
        ("1,1", []),  # CUDA: a device twice hides everything
        ("GPU-bbbb-3333", [2]),
        ("GPU-bb", [2]),
        ("GPU-aaaa", []),  # ambiguous
        ("GPU-aaaa-2,0", [1, 0]),
        ("MIG-GPU-bbbb-3333/1/0", [2]),
        ("MIG-unknown", []),
    ],
)
def test_visible_devices(listed: str | None, expected: list[int]) -> None:
    assert chosen(listed) == expected


def test_a_mig_slice_stands_for_its_whole_gpu_and_says_so() -> None:
    selection = select_gpus(
        GPUS,
        {"CUDA_VISIBLE_DEVICES": "MIG-one,MIG-two"},
        mig_parent=lambda uuid: {"MIG-one": GPUS[1], "MIG-two": GPUS[1]}.get(uuid),
    )
    assert [gpu.index for gpu in selection.gpus] == [1]
    assert {warning["kind"] for warning in selection.warnings} == {"mig"}


def test_an_unknown_device_is_warned_of() -> None:
    selection = select_gpus(GPUS, {"CUDA_VISIBLE_DEVICES": "0,9"})
    assert [warning["kind"] for warning in selection.warnings] == ["gpu_not_found"]


def test_different_gpus_are_numbered_differently_by_cuda() -> None:
    mixed = (*GPUS, Gpu(index=3, uuid="GPU-cccc", name="Other", handle=None))
    environ = {"CUDA_VISIBLE_DEVICES": "0"}
    assert [w["kind"] for w in select_gpus(mixed, environ).warnings] == ["device_order"]
    assert not select_gpus(mixed, {**environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).warnings


def test_explicit_ids_come_before_the_environment() -> None:
    assert chosen("0", gpu_ids=(2, "GPU-aaaa-1111")) == [2, 0]
    assert chosen("0", gpu_ids=()) == []


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_shares_of_the_ranks_cover_every_gpu_once(ranks: int) -> None:
    shares = [chosen(None, share=(rank, ranks)) for rank in range(ranks)]
    assert sorted(index for share in shares for index in share) == [0, 1, 2]


@pytest.mark.parametrize(
    ("listed", "options", "expected"),
    [
        (None, {}, [[0], [1]]),  # the third may be someone else's
        ("2,0,1", {}, [[2], [0]]),
        ("1", {}, [[1], [1]]),  # each rank sees its own, or all share it
        (None, {"gpu_ids": (0, 1, 2)}, [[0, 2], [1]]),  # named, so meant
    ],
)
def test_ranks_that_compute_on_one_gpu_each_measure_no_other(
    listed: str | None, options: dict[str, Any], expected: list[list[int]]
) -> None:
    assert [chosen(listed, share=(rank, 2), one_gpu=True, **options) for rank in range(2)] == expected


def test_a_rank_that_sees_only_its_own_gpu_measures_it() -> None:
    assert chosen("1", share=(1, 2)) == [1]


@pytest.mark.parametrize(
    ("uuid", "ids", "expected", "warned"),
    [
        ("GPU-bbbb2222", None, [1], []),
        ("GPU-one", None, [2], ["mig"]),  # CUDA shows the UUID of the slice
        ("GPU-elsewhere", None, [0], ["device_unmatched"]),
        ("GPU-bbbb2222", [2], [2], []),
    ],
)
def test_the_gpu_that_computes_is_measured_whatever_cuda_calls_it(
    uuid: str, ids: list[str | int] | None, expected: list[int], warned: list[str]
) -> None:
    """CUDA numbers different GPUs fastest first, so that its first may be NVML's second."""
    gpus = [Gpu(index=i, uuid=u, name=n, handle=None) for i, (u, n) in enumerate(
        [("GPU-aaaa1111", "T400"), ("GPU-bbbb2222", "RTX A4000"), ("GPU-cccc3333", "A100")])]  # fmt: skip
    selection = select_gpus(
        gpus, {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, gpu_ids=ids, computing=uuid,
        mig_parent=lambda name: gpus[2] if name == "MIG-one" else None,
    )  # fmt: skip
    assert [gpu.index for gpu in selection.gpus] == expected
    assert [warning["kind"] for warning in selection.warnings] == warned


def test_a_process_measures_the_gpu_that_it_computes_on_and_none_on_a_processor() -> None:
    settings = MeteringSettings()
    assert settings_on(settings, kind="cuda", gpu_uuid="GPU-1").gpu_uuid == "GPU-1"
    assert settings_on(settings, kind="cpu", gpu_uuid=None).gpu_ids == ()
    named = MeteringSettings(gpu_ids=(1,))
    assert settings_on(named, kind="cpu", gpu_uuid=None) == named
