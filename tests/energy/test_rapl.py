"""Counters of the processor that wrap, restart, jump, freeze and vanish, against a law of 70 W."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scaling.energy import MeteringSettings, open_meter
from lora_scaling.energy.measurement import ComponentEnergy
from lora_scaling.energy.rapl import RaplCounter, add_domains, counters_of
from lora_scaling.energy.tracker import sources_of
from tests.support.rapl import RANGE_J, Domain, use_rapl

WATTS = 70.0


def measured(folder: Path, shown: Iterable[tuple[float, float | None]], rated_w: float | None = 100) -> ComponentEnergy:
    """Read a counter at each (moment, shown value; None: unreadable), and return the energy from first to last."""
    domain = Domain(folder)
    counter: RaplCounter | None = None
    moments = list(shown)
    for at_s, joules in moments:
        domain.show(joules)
        if counter is None:
            counter = counters_of([str(domain.file)], rated_w)[0]
            counter.begin(at_s)
            start = counter.mark(at_s)
        else:
            counter.read(at_s)
    assert counter is not None
    return counter.energy(start, counter.mark(moments[-1][0]), moments[-1][0] - moments[0][0])


def holds(part: ComponentEnergy, truth_j: float) -> bool:
    """Whether the energy is unknown, or its bound holds the truth."""
    if part.joules is None:
        return bool(part.reason)
    assert part.uncertainty_joules is not None
    return abs(part.joules - truth_j) <= part.uncertainty_joules


def law(seconds: float, offset_j: float = 5000.0) -> float:
    return (offset_j + WATTS * seconds) % RANGE_J


def test_a_clean_counter_is_exact_and_bound_to_five_per_cent(tmp_path: Path) -> None:
    part = measured(tmp_path, [(float(s), law(s)) for s in range(11)])
    assert (part.joules, part.uncertainty_joules) == (pytest.approx(700), pytest.approx(35))


def test_a_counter_that_wraps_is_followed(tmp_path: Path) -> None:
    part = measured(tmp_path, [(float(s), law(s, RANGE_J - 333)) for s in range(11)])
    assert (part.joules, part.uncertainty_joules) == (pytest.approx(700), pytest.approx(35))


LIES = {
    "restart": [(float(s), law(s) if s < 5 else WATTS * (s - 5)) for s in range(11)],
    "restart at the first tick": [(float(s), law(s) if s < 1 else WATTS * (s - 0.5)) for s in range(11)],
    "jump of 1 MJ": [(float(s), (law(s) + (1e6 if s > 6 else 0)) % RANGE_J) for s in range(11)],
    "jump of 3 kJ": [(float(s), law(s) + (3000 if s > 6 else 0)) for s in range(11)],
    "restart and jump": [(float(s), law(s) + 9000 if s < 3 else law(s) if s < 6 else 1 + s * WATTS) for s in range(11)],
    "frozen": [(float(s), 5000.0) for s in range(11)],
    "frozen for four seconds": [(float(s), law(min(s, 4) + max(s - 8, 0))) for s in range(13)],
    "frozen from the middle": [(float(s), law(min(s, 5))) for s in range(11)],
    "updated every four seconds": [(float(s), law(s // 4 * 4)) for s in range(17)],
    "unreadable for a while": [(float(s), None if 3 <= s <= 6 else law(s)) for s in range(11)],
    "gone": [(float(s), None if s > 3 else law(s)) for s in range(11)],
    "gone at the beginning": [(float(s), None if s < 3 else law(s)) for s in range(11)],
    "one long silence": [(0.0, law(0)), (5000.0, law(5000))],
}


@pytest.mark.parametrize("name", LIES)
def test_no_lie_of_a_counter_passes_as_measured_with_a_bound_that_misses_the_truth(name: str, tmp_path: Path) -> None:
    shown = LIES[name]
    part = measured(tmp_path, shown)
    assert holds(part, WATTS * (shown[-1][0] - shown[0][0])), part
    assert part.joules is None or part.joules < 3 * 100 * (shown[-1][0] - shown[0][0])


def test_readings_that_fail_for_a_moment_lose_nothing(tmp_path: Path) -> None:
    part = measured(tmp_path, LIES["unreadable for a while"])
    assert (part.joules, part.uncertainty_joules) == (pytest.approx(700), pytest.approx(35))


def test_a_counter_without_a_range_is_measured_until_it_wraps(tmp_path: Path) -> None:
    domain = Domain(tmp_path)
    domain.file.with_name("max_energy_range_uj").unlink()
    domain.show(RANGE_J - 100)
    counter = counters_of([str(domain.file)], 100)[0]
    counter.begin(0.0)
    start = counter.mark(0.0)
    for at_s in range(1, 11):
        domain.show((RANGE_J - 100 + WATTS * at_s) % RANGE_J)
        counter.read(float(at_s))
    part = counter.energy(start, counter.mark(10.0), 10.0)
    assert part.joules is not None
    assert holds(part, 700)
    assert counter.faults.keys() == {"restart"}


@given(
    st.lists(st.floats(0.01, 5), min_size=3, max_size=20),
    st.lists(st.tuples(st.integers(0, 19), st.floats(0, RANGE_J)), max_size=3),
)
def test_restarts_to_any_value_at_any_moment_are_held_by_the_bound(
    tmp_path_factory: pytest.TempPathFactory, steps: list[float], restarts: list[tuple[int, float]]
) -> None:
    at_s, value_j, shown = 0.0, 1000.0, [(0.0, 1000.0)]
    for i, step_s in enumerate(steps):
        at_s += step_s
        value_j = (value_j + WATTS * step_s) % RANGE_J
        for index, to_j in restarts:
            value_j = to_j if index == i else value_j
        shown.append((at_s, value_j))
    part = measured(tmp_path_factory.mktemp("rapl"), shown)
    hidden = sum(abs(to_j - 1000) < 300 * 5 for _, to_j in restarts)  # a step that a processor could have drawn
    assert hidden or holds(part, WATTS * at_s)


def test_dies_that_show_one_socket_are_counted_once_and_sockets_each(tmp_path: Path) -> None:
    domains = [Domain(tmp_path, number) for number in range(3)]
    values = [(1000.0, 1700.0), (1000.2, 1700.3), (90.0, 590.0)]  # the second mirrors the first
    for domain, (before_j, _) in zip(domains, values, strict=True):
        domain.show(before_j)
    counters = counters_of([str(d.file) for d in domains], 200)
    for counter in counters:
        counter.begin(0.0)
    starts = tuple(c.mark(0.0) for c in counters)
    for domain, (_, after_j) in zip(domains, values, strict=True):
        domain.show(after_j)
    for counter in counters:
        counter.read(10.0)
    ends = tuple(c.mark(10.0) for c in counters)
    assert [part.joules for part in add_domains(counters, starts, ends, "package", 10.0)] == [
        pytest.approx(700),
        pytest.approx(500),
    ]


def test_a_run_measures_processor_and_memory_by_their_counters_whatever_the_interval(tmp_path: Path) -> None:
    meter = open_meter(MeteringSettings(interval_s=600.0))
    try:
        assert meter.tracker is not None
        package = Domain(tmp_path, dram=True)
        use_rapl(meter.tracker, package)
        recording = meter.recording()
        with recording.phase("train"):
            for turn in range(1, 6):
                time.sleep(0.25)
                package.show((RANGE_J - 40) * (turn == 0) + 20.0 * turn, dram_j=5.0 * turn)
        account = recording.close()
    finally:
        meter.close()
    parts = account.components
    assert (parts["cpu"].joules, parts["cpu"].source) == (pytest.approx(100), "rapl")
    assert (parts["ram"].joules, parts["ram"].source) == (pytest.approx(25), "rapl_dram")
    assert [sum(b.joules[name] or 0 for b in account.bins) for name in ("cpu", "ram")] == [
        pytest.approx(100),
        pytest.approx(25),
    ]


def test_a_processor_that_codecarbon_does_not_know_says_so_and_takes_ones_own_watts() -> None:
    meter = open_meter(MeteringSettings(interval_s=0.31, cpu_power_w=150.0))
    try:
        assert meter.tracker is not None
        cpu = next(p for p in meter.tracker._tracker._hardware if type(p).__name__ == "CPU")
        if cpu._mode not in ("cpu_load", "constant"):
            pytest.skip("this machine measures its processor")
        assert cpu._tdp == 150.0
        assert meter.tracker.sources()["cpu"].detail == "cpu_load, 150 W by metering.cpu_power_w"
        cpu._model = "Unheard-of 9000"
        part = sources_of(meter.tracker._tracker)["cpu"]
        assert "rated power of 'Unheard-of 9000' unknown" in (part.detail or "")
        assert part.relative_bound == 2.0
        cpu._model = "AMD EPYC 9965 192-Core Processor"
        assert sources_of(meter.tracker._tracker)["cpu"].relative_bound is None
    finally:
        meter.close()
