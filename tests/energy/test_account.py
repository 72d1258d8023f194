"""Sums, nulls with reasons, the timeline file, and the accounts of several processes as one."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import random
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scaling.energy import (
    ComponentEnergy,
    EnergyAccount,
    GpuEnergy,
    IdleBaseline,
    MeteringSettings,
    PhaseEnergy,
    TimelineBin,
    combine,
    host,
    idle_baseline,
    measure_idle,
    open_meter,
    unused_gpu_warnings,
)
from lora_scaling.energy.edges import Edge
from lora_scaling.energy.gpu import GpuEnergyMeter
from lora_scaling.energy.measurement import add_components, merge_bins, spread, utc
from lora_scaling.energy.nvml import Gpu, Nvml, SensorError
from lora_scaling.energy.parts import Parts
from lora_scaling.energy.rapl import RaplCounter
from lora_scaling.energy.readings import Tick, Window
from lora_scaling.energy.tracker import ComponentSource, TaskEnergy
from lora_scaling.energy.windows import make_account, rough_joules
from lora_scaling.errors import UserError
from lora_scaling.runs.run import _device_name
from tests.support.paths import ROOT

NONE = ComponentEnergy(joules=None, source="none", reason="no GPU")


def modelled(joules: float | None, source: str = "constant_model") -> ComponentEnergy:
    reason = "lost" if joules is None else None
    return ComponentEnergy(joules=joules, source=source, uncertainty_joules=1.0, reason=reason)


def account(
    *phases: tuple[str, float | None, float], host: str = "a", gpu: str | None = "GPU-1", node: bool = True
) -> EnergyAccount:
    """Phases of 2 s in two bins: (name, GPU joules, RAM joules)."""
    made, bins = [], []
    for i, (name, gpu_j, ram_j) in enumerate(phases):
        start = utc(1000 + 2 * i)
        parts = {
            "gpu": modelled(gpu_j, "nvml_counter") if gpu else NONE,
            "cpu": modelled(10.0, "load_model") if node else NONE,
            "ram": modelled(ram_j) if node else NONE,
        }
        gpus = () if gpu is None else (GpuEnergy(index=0, uuid=gpu, joules=gpu_j, source="nvml_counter"),)
        end = start + timedelta(seconds=2)
        made.append(PhaseEnergy(name=name, started_at=start, ended_at=end, seconds=2.0, components=parts, gpus=gpus))
        for half in range(2):
            joules = {n: None if p.joules is None else p.joules / 2 for n, p in parts.items()}
            cut = start + timedelta(seconds=half)
            bins.append(TimelineBin(start=cut, end=cut + timedelta(seconds=1), phase=name, joules=joules))
    return EnergyAccount(host=host, phases=tuple(made), bins=tuple(bins), exclusive=True)


def test_phases_and_components_add_up() -> None:
    whole = account(("setup", 100.0, 40.0), ("train", 600.5, 40.0), ("eval", 50.0, 40.0), ("eval", 50.0, 40.0))
    assert whole.joules == pytest.approx(800.5 + 160 + 40)
    assert whole.components["gpu"].joules == 800.5
    assert whole.phase_joules("eval") == pytest.approx(200)
    assert whole.complete


def test_an_unknown_phase_makes_its_component_unknown_not_zero() -> None:
    whole = account(("train", 100.0, 40.0), ("eval", None, 40.0))
    assert whole.components["gpu"].joules is None
    assert whole.components["gpu"].reason == "lost"
    assert not whole.complete
    assert whole.joules == pytest.approx(100 + 20 + 80)
    assert whole.phase_joules("eval") is None
    assert whole.to_dict()["above_idle_joules"] is None


def test_the_bound_of_the_whole_is_unknown_with_that_of_one_part() -> None:
    whole = account(("train", 100.0, 40.0), ("eval", None, 40.0))
    assert whole.uncertainty_joules == pytest.approx(1.0 + 2.0 + 2.0)  # the GPU is known in one phase only
    [train, last] = whole.phases
    unbounded = ComponentEnergy(joules=40.0, source="unknown")
    last = replace(last, components={**last.components, "ram": unbounded})
    assert replace(whole, phases=(train, last)).uncertainty_joules is None


def test_a_component_that_is_not_there_is_left_out() -> None:
    whole = account(("train", None, 40.0), gpu=None)
    assert whole.components["gpu"].source == "none"
    assert whole.joules == 50
    assert whole.complete


def test_a_component_that_is_there_in_some_phases_is_the_sum_of_those() -> None:
    parts = [NONE, modelled(3.0, "nvml_counter"), modelled(4.0, "nvml_counter+nvml_power")]
    total = add_components(parts)
    assert (total.joules, total.source, total.uncertainty_joules) == (7.0, "nvml_counter+nvml_power", 2.0)
    assert add_components([NONE, NONE]) == NONE
    assert add_components([*parts, modelled(None, "rapl")]).joules is None
    unbounded = add_components([*parts, ComponentEnergy(joules=1.0, source="unknown")])
    assert (unbounded.joules, unbounded.uncertainty_joules) == (8.0, None)


@given(st.floats(0, 1e9), st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_spreading_loses_nothing(total: float, weights: list[float]) -> None:
    pieces = spread(round(total, 6), weights)
    assert len(pieces) == len(weights)
    assert all(piece is not None and piece >= 0 for piece in pieces)
    assert math.fsum(p for p in pieces if p is not None) == pytest.approx(total, abs=1e-6, rel=1e-12)


@given(st.integers(1, 30), st.integers(1, 10))
def test_merged_bins_keep_the_sum_and_the_phases(count: int, limit: int) -> None:
    whole = account(*[(f"p{i % 3}", 10.0, 4.0) for i in range(count)])
    merged = merge_bins(whole.bins, limit)
    assert math.fsum(b.joules["gpu"] or 0.0 for b in merged) == pytest.approx(10.0 * count)
    assert merged[0].start == whole.bins[0].start
    assert merged[-1].end == whole.bins[-1].end


def test_the_timeline_file(tmp_path: Path) -> None:
    account(("train", 100.0, 40.0), ("eval", None, 40.0)).write_timeline(tmp_path / "timeline.csv")
    rows = list(csv.reader((tmp_path / "timeline.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["start", "end", "phase", "gpu_j", "cpu_j", "ram_j"]
    assert rows[1] == [
        "1970-01-01T00:16:40.000000+00:00", "1970-01-01T00:16:41.000000+00:00", "train",
        "50.000000", "5.000000", "20.000000",
    ]  # fmt: skip
    assert rows[3][3] == ""
    assert [path.name for path in tmp_path.iterdir()] == ["timeline.csv"]


def test_above_idle() -> None:
    idle = IdleBaseline(
        power_w=25.0, components_w={"gpu": 10.0, "cpu": 5.0, "ram": 10.0}, seconds=5, measured_at=utc(0)
    )
    busy = account(("train", 100.0, 40.0))
    whole = EnergyAccount(host="a", phases=busy.phases, idle=idle)
    assert whole.above_idle_joules == pytest.approx(150 - 25 * 2)
    assert whole.to_dict()["above_idle_joules"] == whole.above_idle_joules
    assert replace(whole, idle=replace(idle, reason="other processes were busy: …")).above_idle_joules is None
    assert replace(whole, idle=replace(idle, components_w={"gpu": 10.0, "cpu": None})).above_idle_joules is None
    hot = replace(idle, components_w={"gpu": 60.0, "cpu": 5.0, "ram": 20.0})
    assert replace(whole, idle=hot).above_idle_joules is None  # it drew less than when idle: no such thing


def test_ranks_of_one_node_count_its_ram_once_and_each_gpu_once() -> None:
    first = account(("train", 100.0, 40.0))
    second = account(("train", 200.0, 0.0), gpu="GPU-2", node=False)
    same = account(("train", 101.0, 0.0), gpu="GPU-1", node=False)
    together = combine([first, second, same])
    assert together.components["gpu"].joules == 300
    assert together.components["ram"].joules == 40
    assert [gpu.uuid for gpu in together.phases[0].gpus] == ["GPU-1", "GPU-2"]
    for name in ("gpu", "cpu", "ram"):
        assert math.fsum(b.joules[name] or 0.0 for b in together.bins) == together.components[name].joules


def test_other_hosts_are_added() -> None:
    together = combine([account(("train", 100.0, 40.0)), account(("train", 50.0, 30.0), host="b", gpu="GPU-9")])
    assert together.components["gpu"].joules == 150
    assert together.components["ram"].joules == 70
    assert together.host == "a,b"


@pytest.mark.parametrize(
    ("verdicts", "whole"), [((True, True), True), ((True, None), None), ((None, False), False), ((False, True), False)]
)
def test_a_run_is_exclusive_only_where_every_process_of_it_was(
    verdicts: tuple[bool | None, ...], whole: bool | None
) -> None:
    made = [replace(account(("train", 1.0, 4.0), gpu=f"GPU-{i}"), exclusive=v) for i, v in enumerate(verdicts)]
    assert combine(made).exclusive is whole


def test_a_rank_with_another_phase_keeps_it() -> None:
    together = combine([account(("train", 1.0, 4.0)), account(("train", 1.0, 4.0), ("eval", 2.0, 4.0), gpu="G")])
    assert [phase.name for phase in together.phases] == ["train", "eval"]


def test_a_gpu_lost_on_one_rank_is_unknown_in_the_whole() -> None:
    together = combine([account(("train", 1.0, 4.0)), account(("train", None, 4.0), gpu="G")])
    assert together.components["gpu"].joules is None
    assert not together.complete


def test_a_gpu_that_one_rank_cannot_read_is_unknown_in_the_whole() -> None:
    """NVML is there on the first host only; on the second a GPU is used all the same."""
    blind = account(("train", None, 4.0), host="b", gpu=None)
    unknown = ComponentEnergy(joules=None, source="unknown", reason="the GPU in use cannot be read: no library")
    [phase] = blind.phases
    blind = replace(blind, phases=(replace(phase, components={**phase.components, "gpu": unknown}),))
    together = combine([account(("train", 1.0, 4.0)), blind])
    assert together.components["gpu"].joules is None
    assert "no library" in (together.components["gpu"].reason or "")
    assert not together.complete


def bins(phase: str, cuts: list[float], gpu_j: list[float | None]) -> tuple[TimelineBin, ...]:
    """Consecutive bins of GPU energy between moments in seconds."""
    return tuple(
        TimelineBin(start=utc(a), end=utc(b), phase=phase, joules={"gpu": joules, "cpu": None, "ram": None})
        for a, b, joules in zip(cuts, cuts[1:], gpu_j, strict=False)
    )


def gpu_account(uuid: str, cuts: list[float], gpu_j: list[float]) -> EnergyAccount:
    """One GPU over one phase, its energy in bins."""
    total = math.fsum(gpu_j)
    parts = {"gpu": modelled(total, "nvml_counter"), "cpu": NONE, "ram": NONE}
    phase = PhaseEnergy(
        name="train",
        started_at=utc(cuts[0]),
        ended_at=utc(cuts[-1]),
        seconds=cuts[-1] - cuts[0],
        components=parts,
        gpus=(GpuEnergy(index=0, uuid=uuid, joules=total, source="nvml_counter"),),
    )
    return EnergyAccount(host="a", phases=(phase,), bins=bins("train", cuts, [*gpu_j]))


def test_the_processes_of_a_part_are_added_up_before_the_parts_are(tmp_path: Path) -> None:
    """Of a part that was killed, what each process noted; without one of them, its energy is unknown."""
    for folder, ranks in (("both", 2), ("one", 1)):
        for rank in range(ranks):
            part = Parts(tmp_path / folder, f"host-{rank}", number=1, rank=rank, processes=2)
            part.note(gpu_account(f"GPU-{rank}", [0.0, 2.0], [10.0 + rank]), step=4 + rank)
    [both] = Parts(tmp_path / "both", "host-0").earlier
    [one] = Parts(tmp_path / "one", "host-0").earlier
    assert both.account is not None
    assert (both.account.joules, both.step, both.host) == (21.0, 5, "host-0,host-1")
    assert one.account is None
    with pytest.raises(
        UserError, match=r"^resume: got auto, but process 1 on b does not see what the first one writes"
    ):
        Parts(tmp_path / "other", "b", number=1, rank=1, processes=2).refuse_unshared()


def test_a_ranks_energy_is_in_the_bins_of_its_own_time() -> None:
    """The second rank's bins are the first one's moved by half a second; what it draws before and after stays near."""
    first = gpu_account("GPU-1", [0.0, 1.0, 2.0, 3.0], [10.0, 10.0, 10.0])
    second = gpu_account("GPU-2", [0.5, 1.5, 2.5, 3.5], [0.0, 80.0, 40.0])
    together = combine([first, second])
    assert [b.joules["gpu"] for b in together.bins] == pytest.approx([10.0, 10.0 + 40.0, 10.0 + 40.0 + 40.0])
    apart = combine([first, gpu_account("GPU-2", [7.0, 8.0], [5.0])])
    assert [b.joules["gpu"] for b in apart.bins] == pytest.approx([10.0, 10.0, 15.0])
    apart = combine([first, gpu_account("GPU-2", [-8.0, -7.0], [5.0])])
    assert [b.joules["gpu"] for b in apart.bins] == pytest.approx([15.0, 10.0, 10.0])


def by_definition(frame: tuple[TimelineBin, ...], pieces: list[TimelineBin]) -> list[float]:
    """Each piece spread over every bin of the frame in proportion to their overlap, all pairs looked at."""
    shares = [0.0] * len(frame)
    for piece in pieces:
        overlaps = [max((min(b.end, piece.end) - max(b.start, piece.start)).total_seconds(), 0.0) for b in frame]
        if not any(overlaps):
            overlaps[0 if piece.end <= frame[0].start else -1] = 1.0
        for i, overlap_s in enumerate(overlaps):
            shares[i] += (piece.joules["gpu"] or 0.0) * overlap_s / math.fsum(overlaps)
    return shares


def test_combined_bins_are_those_of_all_pairs_of_bins() -> None:
    rng = random.Random(7)
    ranks = []
    for rank in range(3):
        cuts = sorted(rng.uniform(-5, 105) for _ in range(40))
        ranks.append(gpu_account(f"GPU-{rank}", cuts, [round(rng.uniform(0, 300), 6) for _ in cuts[1:]]))
    expected = by_definition(ranks[0].bins, [piece for rank in ranks for piece in rank.bins])
    assert [b.joules["gpu"] for b in combine(ranks).bins] == pytest.approx(expected, abs=2e-6)


def test_combining_takes_time_in_proportion_to_the_run() -> None:
    def seconds(count: int) -> float:
        cuts = [float(i) for i in range(count + 1)]
        ranks = [gpu_account(f"GPU-{rank}", cuts, [1.0] * count) for rank in range(2)]
        taken_s = []
        for _ in range(3):
            before_s = time.process_time()
            combine(ranks)
            taken_s.append(time.process_time() - before_s)
        return min(taken_s)

    assert seconds(20_000) < 10 * seconds(5_000)  # all pairs: sixteen times


def test_no_accounts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^accounts: missing; give"):
        combine([])


def test_the_energy_so_far_grows_within_a_window_that_models_close() -> None:
    """Idle for 10 s: 100 J of the processor, 50 J of the memory. Then 5 s at full load, with ten times the power."""

    def tick(at_s: float, busy_s: float) -> Tick:
        return Tick(at_s=at_s, edges=(), cpu_busy_s=busy_s, cpu_total_s=at_s)

    task = TaskEnergy(joules={"gpu": None, "cpu": 100.0, "ram": 50.0})
    sources = {"cpu": ComponentSource(name="load_model"), "ram": ComponentSource(name="constant_model")}
    idle = Window(name="setup", start_wall_s=0.0, start=tick(0.0, 0.0), end=tick(10.0, 0.0), task=task, sources=sources)
    busy = Window(name="train", start_wall_s=10.0, start=tick(10.0, 0.0), ticks=[tick(12.0, 2.0), tick(15.0, 5.0)])
    meter: Any = SimpleNamespace(gpu_meters=[], settings=MeteringSettings())
    assert rough_joules([idle, busy], meter) == pytest.approx(100 + 50 + 500 + 25)
    assert rough_joules([busy], meter) is None  # nothing is known of its power yet


def test_a_real_recording_here() -> None:
    meter = open_meter(MeteringSettings(interval_s=0.1))
    recording = meter.recording()
    before_s = time.perf_counter()
    with recording.phase("setup"):
        time.sleep(0.15)

    def fail() -> None:
        with recording.phase("train"):
            time.sleep(0.35)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert (recording.joules_so_far() or 0.0) > 0
    whole = recording.close()
    spent_s = time.perf_counter() - before_s
    assert recording.close() is whole
    document = json.loads(json.dumps(whole.to_dict()))
    assert [phase["name"] for phase in document["phases"]] == ["setup", "train"]
    assert whole.phases[1].seconds == pytest.approx(0.35, abs=0.15)
    assert len([b for b in whole.bins if b.phase == "train"]) >= 3
    assert document["components"]["ram"]["source"] == "constant_model"
    assert document["components"]["ram"]["joules"] > 0
    assert document["phases"][1]["short"] is True
    assert "short_window" in {warning["kind"] for warning in document["warnings"]}
    assert spent_s - math.fsum(phase.seconds for phase in whole.phases) < 0.5  # on a busy machine
    meter.close()


def test_of_two_recordings_in_a_process_the_first_ends_where_the_second_begins() -> None:
    meter = open_meter(MeteringSettings(interval_s=0.7))
    first = meter.recording()
    first.begin_phase("train")
    time.sleep(0.6)
    second = meter.recording()
    with second.phase("train"):
        time.sleep(0.2)
        first.begin_phase("eval")  # too late: it would take the sensors from the second
        time.sleep(0.2)
    first.end_phase()
    accounts = [second.close(), first.close()]
    third = meter.recording()
    with third.phase("train"):
        pass
    kinds = [{warning["kind"] for warning in whole.warnings} for whole in (*accounts, third.close())]
    assert ["recording_ended" in each for each in kinds] == [False, True, False]
    assert [[phase.name for phase in whole.phases] for whole in accounts] == [["train"], ["train"]]
    watts = []
    for whole in accounts:
        ram_j = whole.components["ram"].joules
        assert ram_j is not None
        watts.append(ram_j / whole.seconds)
    assert watts[0] == pytest.approx(watts[1], rel=0.3)  # memory's power is a constant
    meter.close()


class Quiet:
    """CodeCarbon on a machine of which it knows nothing."""

    def __init__(self, country_iso: str, gpu_ids: object):
        self.hardware: dict[str, Any] = {}

    def start(self) -> None:
        pass

    def stop(self) -> TaskEnergy:
        return TaskEnergy(joules={"gpu": 0.0, "cpu": None, "ram": None})

    def poll_rapl(self) -> None:
        pass

    def rapl_counters(self) -> list[RaplCounter]:
        return []

    def sources(self) -> dict[str, ComponentSource]:
        return dict.fromkeys(("gpu", "cpu", "ram"), ComponentSource(name="none", reason="no GPU"))


def recorded(interval_s: float, *, gpu_ids: tuple[int, ...] | None = None, **options: Any) -> EnergyAccount:
    settings = MeteringSettings(interval_s=interval_s, components=("gpu",), gpu_ids=gpu_ids)
    meter = open_meter(settings, **options)
    try:
        recording = meter.recording()
        with recording.phase("train"):
            time.sleep(0.05)
        return recording.close()
    finally:
        meter.close()


@pytest.mark.parametrize("expected", [False, True])
def test_a_gpu_in_use_that_no_sensor_knows_of_is_unknown_not_absent(
    expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing() -> Nvml:
        raise SensorError("NVML: Shared Library Not Found")

    monkeypatch.setattr(Nvml, "open", nothing)
    monkeypatch.setattr("lora_scaling.energy.sensors.Tracker", Quiet)
    whole = recorded(0.71, gpu_expected=expected)
    part = whole.components["gpu"]
    assert (part.joules, part.source) == (None, "unknown" if expected else "none")
    assert "Shared Library Not Found" in (part.reason or "")
    assert whole.complete is not expected
    assert ("gpu_unknown" in {warning["kind"] for warning in whole.warnings}) is expected


@pytest.mark.parametrize(
    ("code", "visible", "source"),
    [
        (None, None, "none"),  # no library in Python's eyes, or NVML lists no GPU
        (6, None, "none"),  # NVML_ERROR_NOT_FOUND
        (9, None, "none"),  # NVML_ERROR_DRIVER_NOT_LOADED
        (12, None, "none"),  # NVML_ERROR_LIBRARY_NOT_FOUND
        (4, None, "unknown"),  # NVML_ERROR_NO_PERMISSION
        (18, None, "unknown"),  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
        (999, None, "unknown"),  # NVML_ERROR_UNKNOWN, in containers that lost their devices
        (999, "", "none"),  # whatever there is, this process may not use it
    ],
)
def test_only_no_library_no_driver_and_no_device_mean_that_there_is_no_gpu(
    code: int | None, visible: str | None, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Nvml:
        raise SensorError("NVML: as the code says", code)

    monkeypatch.setattr(Nvml, "open", fail)
    monkeypatch.setattr("lora_scaling.energy.sensors.Tracker", Quiet)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    whole = recorded(0.73)
    part = whole.components["gpu"]
    assert (part.joules, part.source) == (None, source)
    assert "as the code says" in (part.reason or "")
    assert whole.complete is (source == "none")
    assert ("gpu_unknown" in {warning["kind"] for warning in whole.warnings}) is (source == "unknown")


@pytest.mark.parametrize(("visible", "listed"), [(None, [0, 1]), ("1", [1]), ("0", [0])])
def test_a_listed_gpu_that_cannot_be_read_is_unknown_where_it_is_chosen(
    visible: str | None, listed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two GPUs NVML gives no handle for the second."""

    def fail(*_: object) -> None:
        raise OSError("not here")

    counter = itertools.count()
    names = ("nvmlDeviceGetPowerUsage", "nvmlSystemGetDriverVersion", "nvmlShutdown")
    library = SimpleNamespace(
        **dict.fromkeys(names, fail),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 1000 * next(counter),
    )
    gpu = Gpu(index=0, uuid="GPU-0", name="Stub", handle=object())
    monkeypatch.setattr(Nvml, "open", lambda: Nvml(library, (gpu,), {1: "GPU is lost"}))
    monkeypatch.setattr("lora_scaling.energy.sensors.Tracker", Quiet)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    whole = recorded(0.72)
    [phase] = whole.phases
    assert [part.index for part in phase.gpus] == listed
    assert [(part.joules is None, part.source) for part in phase.gpus] == [
        {0: (False, "nvml_counter"), 1: (True, "unknown")}[index] for index in listed
    ]
    known = listed == [0]
    assert whole.complete is known
    assert (whole.components["gpu"].joules is not None) is known
    kinds = {warning["kind"] for warning in whole.warnings}
    assert "gpu_not_found" not in kinds
    assert ("gpu_unknown" in kinds) is not known


BOARD = Gpu(index=0, uuid="GPU-0", name="A100", handle=object())


def board(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    """A machine with one GPU, whose counter moves at every reading."""
    counter = itertools.count()

    def fail(*_: object) -> None:
        raise OSError("not here")

    library = SimpleNamespace(
        nvmlDeviceGetPowerUsage=fail, nvmlSystemGetDriverVersion=fail, nvmlShutdown=lambda: None,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 10 * next(counter), **answers,
    )  # fmt: skip
    monkeypatch.setattr(Nvml, "open", lambda: Nvml(library, (BOARD,), {}))
    monkeypatch.setattr("lora_scaling.energy.sensors.Tracker", Quiet)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_work_on_the_processor_is_not_billed_an_idle_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    board(monkeypatch)
    part = recorded(0.74, gpu_ids=()).components["gpu"]
    assert (part.source, part.reason) == ("none", "no GPU is in use: the work is done on the processor")


@pytest.mark.parametrize(("visible", "warned"), [(None, ["gpu_unused"]), ("0", ["gpu_unused"]), ("", []), ("-1", [])])
def test_a_gpu_that_torch_cannot_use_is_told(
    visible: str | None, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    board(monkeypatch)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [warning["kind"] for warning in unused_gpu_warnings()] == warned
    assert all("A100, but torch cannot use it" in warning["message"] for warning in unused_gpu_warnings())


def test_the_board_of_a_slice_may_be_shared_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the other slices were in use cannot be seen from within one."""
    board(
        monkeypatch,
        nvmlDeviceGetMigMode=lambda handle: (1, 1),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=os.getpid())],
    )
    account = recorded(0.75)
    assert account.exclusive is not True
    assert [w["message"] for w in account.warnings if w["kind"] == "mig"] == [
        "GPU 0: it is divided (MIG), and its counter covers all slices, with whatever runs on them."
    ]
    # Runs on two slices take turns, because each is billed the board.
    with closing(open_meter(MeteringSettings(components=("gpu",)))) as meter:
        names = {_device_name({"uuid": f"GPU-slice-{i}", "kind": "cuda"}, meter) for i in range(2)}
    assert names == {BOARD.uuid}


def test_whole_boards_are_told_apart_by_their_own_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    board(monkeypatch)
    with closing(open_meter(MeteringSettings(components=("gpu",)))) as meter:
        assert _device_name({"uuid": "GPU-whole", "kind": "cuda"}, meter) == "GPU-whole"


def test_metering_that_is_off_still_keeps_time() -> None:
    recording = open_meter(MeteringSettings(enabled=False)).recording()
    with recording.phase("train"):
        time.sleep(0.02)
    whole = recording.close()
    assert whole.joules is None
    assert whole.phases[0].seconds >= 0.02
    assert whole.components["cpu"].reason == "metering is off"
    assert whole.exclusive is None


def test_a_synchronise_that_fails_is_a_warning() -> None:
    def broken() -> None:
        raise RuntimeError("device-side assert")

    recording = open_meter(MeteringSettings(enabled=False), broken).recording()
    with recording.phase("train"):
        pass
    assert [warning["kind"] for warning in recording.close().warnings] == ["synchronize"]
    open_meter(MeteringSettings(enabled=False)).close()


@pytest.fixture
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine does beside the tests."""
    monkeypatch.setattr(host, "busy_limit_cores", lambda: math.inf)


def test_the_idle_baseline_is_kept_for_the_day(tmp_path: Path, nobody_else: None) -> None:
    meter = open_meter(MeteringSettings(interval_s=0.9))
    first = idle_baseline(meter, 0.3, tmp_path)
    assert first is not None
    assert first.power_w is not None
    assert first.power_w > 0
    meter.idle = None  # as in another process
    assert idle_baseline(meter, 30, tmp_path) == first  # from the cache: nobody waits
    assert idle_baseline(meter, 0, tmp_path) is None
    again = measure_idle(meter, 0.3)
    assert again.components_w["ram"] == pytest.approx(first.components_w["ram"], rel=0.2)
    recording = meter.recording()
    with recording.phase("train"):
        time.sleep(0.05)
    assert recording.close().idle == first
    meter.close()


def test_a_process_measures_its_idle_power_once_and_not_again_at_midnight(tmp_path: Path, nobody_else: None) -> None:
    meter = open_meter(MeteringSettings(interval_s=0.85))
    first = idle_baseline(meter, 0.2, tmp_path / "today")
    assert first is not None
    assert idle_baseline(meter, 30, tmp_path / "tomorrow") is first  # with a model loaded by now
    assert not (tmp_path / "tomorrow").exists()
    meter.close()


def test_a_busy_baseline_is_not_kept_and_nothing_is_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "busy_limit_cores", lambda: -1.0)
    meter = open_meter(MeteringSettings(interval_s=0.86))
    baseline = idle_baseline(meter, 0.3, tmp_path)
    assert baseline is not None
    assert (baseline.reason or "").startswith("other processes were busy: Other processes kept")
    assert list(tmp_path.iterdir()) == []
    recording = meter.recording()
    with recording.phase("train"):
        time.sleep(0.1)
    whole = recording.close()
    assert whole.idle is baseline
    assert whole.joules is not None
    assert whole.above_idle_joules is None
    meter.close()


def test_a_broken_cache_costs_a_measurement_only(tmp_path: Path, nobody_else: None) -> None:
    meter = open_meter(MeteringSettings(interval_s=0.8))
    idle_baseline(meter, 0.2, tmp_path)
    for path in tmp_path.iterdir():
        path.write_text("{")
    meter.idle = None
    assert idle_baseline(meter, 0.2, tmp_path) is not None
    meter.close()


@pytest.mark.parametrize(
    ("source", "loads", "expected"),
    [
        # CodeCarbon's load model: a tenth of the rated power, and the rest with the cube of the load.
        ("load_model", (0.0, 0.5, 1.0), (0.1, 0.1 + 0.9 / 8, 1.0)),
        ("load_model", (-0.1, 0.5, 1.2), (0.1, 0.1 + 0.9 / 8, 1.0)),  # the two counts of seconds are not read at once
        ("rapl", (0.0, 0.5, 1.0), (0.3, 0.65, 1.0)),
        ("constant_model", (0.0, 0.5, 1.0), (1.0, 1.0, 1.0)),
    ],
)
def test_cpu_energy_lies_in_the_bins_of_the_load(
    source: str, loads: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    """Three seconds on four cores at three loads: the window's energy is spread in proportion to the power at each."""
    busy_s, ticks = 0.0, [Tick(at_s=0.0, edges=(), cpu_busy_s=0.0, cpu_total_s=0.0)]
    for i, load in enumerate(loads, start=1):
        busy_s += 4 * load
        ticks.append(Tick(at_s=float(i), edges=(), cpu_busy_s=busy_s, cpu_total_s=4.0 * i))
    window = Window(
        name="train",
        start_wall_s=1000.0,
        start=ticks[0],
        ticks=ticks[1:-1],
        end=ticks[-1],
        task=TaskEnergy(joules={"gpu": None, "cpu": 100.0, "ram": None}),
        sources={"cpu": ComponentSource(name=source)},
    )
    meter: Any = SimpleNamespace(
        settings=MeteringSettings(components=("cpu",)), nvml=None, gpu_meters=(), unreadable={}, gpu_expected=False,
        gpu_hidden=False, gpu_reason=None, tracker_reason=None,
    )  # fmt: skip
    whole = make_account(meter, [window], idle=None, exclusive=None, conditions={}, warnings=[])
    assert [b.joules["cpu"] for b in whole.bins] == pytest.approx([100 * e / sum(expected) for e in expected], abs=1e-6)


@pytest.mark.parametrize(
    ("jump_s", "message"), [(-3600.0, "was set back by 3600 s"), (5000.0, "jumped ahead by 5000 s")]
)
def test_bins_after_a_jump_of_the_clock_are_dated_by_the_new_time(jump_s: float, message: str) -> None:
    """Four seconds, a tick each, in two phases; between the first two ticks the clock is set."""

    def tick(at_s: float) -> Tick:
        wall_s = 100_000.0 + at_s + (jump_s if at_s > 1 else 0.0)
        return Tick(at_s=at_s, edges=(), cpu_busy_s=at_s, cpu_total_s=4 * at_s, wall_s=wall_s)

    windows = [
        Window(
            name=name, start_wall_s=ticks[0].wall_s or 0.0, start=ticks[0], ticks=ticks[1:-1], end=ticks[-1],
            task=TaskEnergy(joules={"gpu": None, "cpu": 60.0, "ram": None}),
            sources={"cpu": ComponentSource(name="rapl")},
        )
        for name, ticks in [("train", [tick(0), tick(1), tick(2), tick(3)]), ("eval", [tick(3), tick(4)])]
    ]  # fmt: skip
    meter: Any = SimpleNamespace(
        settings=MeteringSettings(components=("cpu",)), nvml=None, gpu_meters=(), unreadable={}, gpu_expected=False,
        gpu_hidden=False, gpu_reason=None, tracker_reason=None,
    )  # fmt: skip
    whole = make_account(meter, windows, idle=None, exclusive=None, conditions={}, warnings=[])
    # The bin in which the clock was set keeps the old time; each is as long as it lasted.
    starts = [100_000.0, 100_001.0, 100_002.0 + jump_s, 100_003.0 + jump_s]
    assert [b.start.timestamp() for b in whole.bins] == starts
    assert [b.end.timestamp() for b in whole.bins] == [start + 1 for start in starts]
    assert [b.joules["cpu"] for b in whole.bins] == [20.0, 20.0, 20.0, 60.0]
    assert [phase.seconds for phase in whole.phases] == [3.0, 1.0]
    assert whole.phases[0].started_at.timestamp() == min(starts[:3])
    assert whole.phases[0].ended_at.timestamp() == max(starts[:3]) + 1
    [jump] = [w["message"] for w in whole.warnings if w["kind"] == "clock_jump"]
    assert message in jump
    together = combine([whole, replace(whole, host="b")])
    assert math.fsum(b.joules["cpu"] or 0.0 for b in together.bins) == pytest.approx(240.0)
    assert all((b.joules["cpu"] or 0.0) >= 0 for b in together.bins)


def test_a_clock_that_is_adjusted_has_not_jumped() -> None:
    """Half a second in a minute, as after a poor synchronisation: bins stay contiguous, nothing is said."""
    ticks = [
        Tick(at_s=at, edges=(), cpu_busy_s=at, cpu_total_s=at, wall_s=1000 + at * 1.008) for at in range(0, 61, 10)
    ]
    window = Window(name="train", start_wall_s=1000.0, start=ticks[0], ticks=ticks[1:-1], end=ticks[-1])
    meter: Any = SimpleNamespace(
        settings=MeteringSettings(components=("cpu",)), nvml=None, gpu_meters=(), unreadable={}, gpu_expected=False,
        gpu_hidden=False, gpu_reason=None, tracker_reason=None,
    )  # fmt: skip
    whole = make_account(meter, [window], idle=None, exclusive=None, conditions={}, warnings=[])
    assert [b.start.timestamp() for b in whole.bins] == [1000.0 + 10 * i for i in range(6)]
    assert "clock_jump" not in [w["kind"] for w in whole.warnings]


@pytest.mark.parametrize(("pause_s", "warned"), [(30.0, True), (9.0, False)])
def test_a_process_that_was_stopped_says_that_its_time_includes_the_pause(pause_s: float, warned: bool) -> None:
    ticks = [
        Tick(at_s=at, edges=(), cpu_busy_s=at, cpu_total_s=at, wall_s=1000 + at)
        for at in (0.0, 1.0, 2.0, 2.0 + pause_s, 3.0 + pause_s)
    ]
    window = Window(name="train", start_wall_s=1000.0, start=ticks[0], ticks=ticks[1:-1], end=ticks[-1])
    meter: Any = SimpleNamespace(
        settings=MeteringSettings(components=("cpu",)), nvml=None, gpu_meters=(), unreadable={}, gpu_expected=False,
        gpu_hidden=False, gpu_reason=None, tracker_reason=None,
    )  # fmt: skip
    whole = make_account(meter, [window], idle=None, exclusive=None, conditions={}, warnings=[])
    said = [w["message"] for w in whole.warnings if w["kind"] == "pause"]
    assert [text[:44] for text in said] == (["In the train phase nothing was read for 30 s"] if warned else [])


@pytest.mark.parametrize(
    ("step_s", "codecarbon_j", "warned"),
    [
        (0.1, 1059.0, False),  # within what a counter of this step lacks at both edges: 2 × 300 W × 0.1 s
        (0.1, 1061.0, True),
        (0.001, 1019.0, False),  # within two per cent
        (0.001, 1021.0, True),
    ],
)
def test_two_readings_of_a_gpu_may_differ_by_what_its_counter_has_not_counted_yet(
    step_s: float, codecarbon_j: float, warned: bool
) -> None:
    """1000 J in 10/3 s by our own edges."""
    seconds = 1000 / 300

    def tick(at_s: float, joules: float) -> Tick:
        edge = Edge(at_s=at_s, raw_j=joules, joules=joules, bound_j=1.0)
        return Tick(at_s=at_s, edges=(edge,), cpu_busy_s=None, cpu_total_s=None)

    window = Window(
        name="eval",
        start_wall_s=1000.0,
        start=tick(0.0, 0.0),
        end=tick(seconds, 1000.0),
        bounds_j=(0.0,),
        lost=(None,),
        task=TaskEnergy(joules={"gpu": codecarbon_j, "cpu": None, "ram": None}),
        sources={"gpu": ComponentSource(name="nvml_counter")},
    )
    unread: Any = None
    gpu = GpuEnergyMeter(sensor=unread, gpu=Gpu(index=0, uuid="GPU-0", name="Stub", handle=None), step_s=step_s)
    meter: Any = SimpleNamespace(
        settings=MeteringSettings(components=("gpu",)), nvml=object(), gpu_meters=(gpu,), unreadable={},
        gpu_expected=True, gpu_hidden=False, gpu_reason=None, tracker_reason=None,
    )  # fmt: skip
    whole = make_account(meter, [window], idle=None, exclusive=None, conditions={}, warnings=[])
    assert whole.components["gpu"].joules == pytest.approx(1000.0)
    assert ("energy_disagreement" in [warning["kind"] for warning in whole.warnings]) is warned


def ten_seconds(counter_j: float, power_j: float | None, *, limit_w: float | None = 400.0) -> EnergyAccount:
    """A window in which a GPU's counter and its power readings add up to these."""

    def tick(at_s: float, counter_j: float, power_j: float | None) -> Tick:
        edge = Edge(at_s=at_s, raw_j=counter_j, joules=counter_j, bound_j=1.0, power_j=power_j)
        return Tick(at_s=at_s, edges=(edge,), cpu_busy_s=None, cpu_total_s=None)

    unread: Any = None
    gpu = GpuEnergyMeter(
        sensor=unread, gpu=Gpu(index=0, uuid="GPU-0", name="Stub", handle=None), read_limit=lambda: limit_w
    )
    window = Window(
        name="train", start_wall_s=1000.0, start=tick(0.0, 50.0, None if power_j is None else 7.0),
        end=tick(10.0, 50.0 + counter_j, None if power_j is None else 7.0 + power_j), bounds_j=(0.0,), lost=(None,),
    )  # fmt: skip
    meter: Any = SimpleNamespace(
        settings=MeteringSettings(components=("gpu",)), nvml=object(), gpu_meters=(gpu,), unreadable={},
        gpu_expected=True, gpu_hidden=False, gpu_reason=None, tracker_reason=None,
    )  # fmt: skip
    return make_account(meter, [window], idle=None, exclusive=None, conditions={}, warnings=[])


def test_a_window_of_hours_stays_small() -> None:
    """Five hours of a tick a second at 100 W."""
    unread: Any = None
    gpu = GpuEnergyMeter(sensor=unread, gpu=Gpu(index=0, uuid="GPU-0", name="Stub", handle=None))

    def tick(second: int) -> Tick:
        joules = 100.0 * second
        edge = Edge(at_s=second, raw_j=joules, joules=joules, bound_j=0.0, power_j=joules)
        return Tick(at_s=second, edges=(edge,), cpu_busy_s=second, cpu_total_s=2 * second, wall_s=1e9 + second)

    whole_s = 20_000
    window = Window(name="train", start_wall_s=1e9, start=tick(0), bounds_j=(0.0,), lost=(None,))
    largest = 0
    for second in range(1, whole_s):
        window.add(tick(second))
        largest = max(largest, len(window.ticks))
    window.end = tick(whole_s)
    assert largest <= 8001
    meter: Any = SimpleNamespace(
        settings=MeteringSettings(components=("gpu",)), nvml=object(), gpu_meters=(gpu,), unreadable={},
        gpu_expected=True, gpu_hidden=False, gpu_reason=None, tracker_reason=None,
    )  # fmt: skip
    whole = make_account(meter, [window], idle=None, exclusive=None, conditions={}, warnings=[])
    assert whole.components["gpu"].joules == pytest.approx(100 * whole_s)
    assert math.fsum(b.joules["gpu"] or 0.0 for b in whole.bins) == pytest.approx(100 * whole_s)
    assert all(a.end == b.start for a, b in itertools.pairwise(whole.bins))


@pytest.mark.parametrize(
    ("counter_j", "power_j", "reason"),
    [
        (0.0, 3000.0, "stood still for 10.0 s at 300 W"),  # as of rocm_smi_lib#180
        (0.0, 0.0, "stood still for 10.0 s at 0 W"),  # as of codecarbon#1316: no board that answers draws nothing
        (0.0, None, "stood still for 10.0 s"),  # a board whose power cannot be read
        (1_001_652.0, 1652.0, "rose by 1001652 J in 10.0 s, at a limit of 400 W"),  # as of zeus#113
    ],
)
def test_a_counter_that_cannot_be_true_leaves_the_energy_unknown(
    counter_j: float, power_j: float | None, reason: str
) -> None:
    whole = ten_seconds(counter_j, power_j)
    part = whole.components["gpu"]
    assert (part.joules, part.source, whole.complete) == (None, "nvml_counter", False)
    assert reason in (part.reason or "")
    assert any(w["kind"] == "gpu_unknown" and reason in w["message"] for w in whole.warnings)


@pytest.mark.parametrize(("counter_j", "power_j"), [(942.0, 1652.0), (1652.0, 942.0), (3000.0, 2400.0)])
def test_a_counter_far_from_the_power_is_warned_of_and_its_bound_covers_both(counter_j: float, power_j: float) -> None:
    """A factor 1.75, as of zeus#181."""
    whole = ten_seconds(counter_j, power_j)
    part = whole.components["gpu"]
    assert part.joules == pytest.approx(counter_j)
    assert (part.uncertainty_joules or 0.0) >= abs(counter_j - power_j)
    assert [w["kind"] for w in whole.warnings] == ["counter_and_power"]


@pytest.mark.parametrize(
    ("counter_j", "power_j", "limit_w"),
    [
        (3000.0, 3000.0, 400.0),
        (3000.0, 2720.0, 400.0),  # a board whose power sensor sees a part of the time
        (4100.0, 4000.0, 400.0),  # a little above the limit, as boards are for a moment
        (9000.0, 9000.0, None),  # no limit can be read
        (3000.0, None, 400.0),  # a board whose power cannot be read
        (3000.0, 3000.0, 0.0),  # a limit that no board has
    ],
)
def test_a_counter_that_may_be_true_is_believed(counter_j: float, power_j: float | None, limit_w: float | None) -> None:
    whole = ten_seconds(counter_j, power_j, limit_w=limit_w)
    part = whole.components["gpu"]
    assert part.joules == pytest.approx(counter_j)
    assert (part.uncertainty_joules or 0.0) == pytest.approx(2.0)
    assert list(whole.warnings) == []


def test_importing_the_room_imports_no_sensor_library() -> None:
    code = (
        "import sys, lora_scaling.energy\n"
        "print([m for m in ('codecarbon','pynvml','psutil','torch','transformers','numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]", done.stderr


def test_settings_from_a_file_may_hold_lists() -> None:
    settings = MeteringSettings(gpu_ids=[0, "GPU-1"], enabled=False)  # type: ignore[arg-type]
    assert settings == MeteringSettings(gpu_ids=(0, "GPU-1"), enabled=False)
    open_meter(settings).close()


def test_the_load_of_others_is_seen_but_not_our_childrens() -> None:
    """A child that computes is ours; the same load outside our tree is somebody else's."""
    burn = "import time\nend = time.time() + 60\nwhile time.time() < end: pass"
    child = subprocess.Popen([sys.executable, "-c", burn])
    try:
        time.sleep(0.3)
        start = host.cpu_times()
        time.sleep(1.0)
        end = host.cpu_times()
    finally:
        child.kill()
        child.wait()
    assert start is not None
    assert end is not None
    ours = (end.own_s - start.own_s) / (end.at_s - start.at_s)
    assert ours > 0.15  # a busy machine may give it no more
    others = host.other_load_cores(start, end)
    assert others is not None
    assert others <= (end.busy_s - start.busy_s) / (end.at_s - start.at_s) - ours + 1e-9 or others == 0


@pytest.mark.parametrize(
    ("seen", "own", "container", "expected"),
    [
        (set(), {7}, False, (True, [])),
        ({7}, {7}, False, (True, [])),
        ({7, 8}, {7}, False, (False, [8])),
        ({9}, {7}, True, (None, [9])),  # pids of the host: it may be us
        ({9}, {7}, False, (False, [9])),
        ({9, 10}, {7}, True, (False, [9, 10])),
    ],
)
def test_whose_gpu_it_was(
    seen: set[int],
    own: set[int],
    container: bool,
    expected: tuple[bool | None, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "_in_container", lambda: container)
    assert host.judge_gpu_processes(seen, own) == expected
