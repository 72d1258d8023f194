"""One GPU's meter with a fake sensor and a fake clock: exact energies, no waiting."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scaling.energy.edges import Edge
from lora_scaling.energy.gpu import GpuEnergyMeter
from lora_scaling.energy.nvml import GPU_IS_LOST, NOT_SUPPORTED, Gpu, SensorError

GPU = Gpu(index=0, uuid="GPU-0", name="Fake", handle=None)


@dataclass
class Fake:
    """A sensor whose counter and power the test sets."""

    time_s: float = 0.0
    counter_j: float | SensorError = 1000.0
    watts: float | SensorError = 100.0
    failures: int = 0  # so many power readings fail, then they are as set
    meter: GpuEnergyMeter = field(init=False)

    def __post_init__(self) -> None:
        self.meter = GpuEnergyMeter(sensor=self, gpu=GPU, clock=lambda: self.time_s, step_s=0.0)
        self.meter.open()

    def energy_j(self, gpu: Gpu) -> float:
        if isinstance(self.counter_j, SensorError):
            raise self.counter_j
        return self.counter_j

    def power_w(self, gpu: Gpu) -> float:
        if self.failures:
            self.failures -= 1
            raise BUSY
        if isinstance(self.watts, SensorError):
            raise self.watts
        return self.watts

    def at(self, time_s: float, counter_j: float | SensorError, *, edge: bool = False) -> GpuEnergyMeter:
        self.time_s, self.counter_j = time_s, counter_j
        self.meter.read(edge=edge)
        return self.meter


LOST = SensorError("GPU is lost", GPU_IS_LOST)
NONE = SensorError("Not Supported", NOT_SUPPORTED)
BUSY = SensorError("Unknown Error", 999)


def test_a_counter_is_followed() -> None:
    fake = Fake()
    fake.at(1, 1100)
    assert fake.at(2, 1350).joules == 350


def test_a_reset_is_filled_from_power() -> None:
    fake = Fake()
    fake.at(1, 1100)
    fake.at(2, 30)
    meter = fake.at(3, 130)
    assert meter.joules == pytest.approx(300)
    assert meter.faults.keys() == {"counter_reset"}
    assert meter.bound_j > 0


def test_half_of_what_power_filled_in_at_a_reset_is_uncertain() -> None:
    """A counter that moves at every look lacks nothing before its reset: only the gap itself is uncertain."""
    fake = Fake(watts=100.0)
    fake.at(1, 1100)
    fake.watts = 300.0
    meter = fake.at(2, 30)
    filled_j = 200.0  # the mean of 100 W and 300 W, for a second
    assert meter.joules == pytest.approx(100 + filled_j)
    assert meter.bound_j == pytest.approx(filled_j / 2 + abs(300 - 100) / 2)


def test_a_passing_failure_loses_nothing() -> None:
    fake = Fake()
    fake.at(1, BUSY)
    assert fake.at(2, 1200).joules == 200
    assert fake.meter.lost is None


def test_a_failure_at_an_edge_is_bridged_by_power() -> None:
    fake = Fake()
    assert fake.at(1, BUSY, edge=True).joules == pytest.approx(100)
    assert fake.at(2, 1200).joules == pytest.approx(200)


def test_without_counter_power_is_integrated() -> None:
    fake = Fake(counter_j=NONE)
    fake.watts = 300.0
    assert fake.at(2, NONE).joules == pytest.approx(400)  # trapezoid from 100 W to 300 W
    assert fake.meter.by_power


def test_one_power_reading_that_fails_loses_nothing() -> None:
    fake = Fake(counter_j=NONE)
    fake.at(1, NONE)
    fake.failures = 1
    fake.at(2, NONE)
    fake.watts = 300.0
    meter = fake.at(3, NONE)
    assert meter.lost is None
    assert meter.joules == pytest.approx(100 + 2 * 200)  # the trapezoid over both seconds
    assert meter.bound_j == pytest.approx(200)


def test_the_first_power_reading_may_fail_too() -> None:
    meter = Fake(counter_j=NONE, failures=1).meter
    assert (meter.lost, meter.by_power, meter.power_w) == (None, True, 100.0)


def test_a_power_reading_that_fails_at_an_edge_is_held_and_uncertain() -> None:
    fake = Fake(counter_j=NONE)
    fake.failures = 1
    meter = fake.at(1, NONE, edge=True)
    assert (meter.joules, meter.bound_j) == (pytest.approx(100), pytest.approx(100))
    fake.watts = 300.0
    assert fake.at(2, NONE).joules == pytest.approx(300)  # trapezoid from the 100 W that were held


def test_a_counter_and_a_power_reading_that_fail_together_at_an_edge_lose_nothing() -> None:
    fake = Fake()
    fake.at(1, 1100)
    fake.failures = 1
    assert fake.at(2, BUSY, edge=True).joules == pytest.approx(200)
    assert fake.at(3, 1300).joules == pytest.approx(300)
    assert fake.meter.lost is None


@pytest.mark.parametrize("edge", [False, True])
def test_power_that_fails_for_long_is_lost_and_not_made_up(edge: bool) -> None:
    fake = Fake(counter_j=NONE)
    fake.watts = BUSY
    for time_s in (1, 3, 5, 7):
        fake.at(time_s, NONE, edge=edge)
    assert "Unknown Error" in (fake.meter.lost or "")


def test_a_lost_gpu_stays_lost() -> None:
    fake = Fake()
    fake.at(1, 1100)
    fake.at(2, LOST)
    meter = fake.at(3, 1300)
    assert meter.lost == "GPU 0 could not be read any more (GPU is lost)"
    assert meter.joules == 100


def test_a_gpu_that_gives_nothing_is_lost_from_the_start() -> None:
    assert Fake(counter_j=NONE, watts=NONE).meter.lost == "GPU 0 could not be read (Not Supported)"


@given(st.lists(st.tuples(st.floats(0.01, 5), st.sampled_from([0.0, 50.0, 300.0, -2000.0, None])), max_size=20))
def test_energy_never_decreases_and_is_never_negative(steps: list[tuple[float, float | None]]) -> None:
    """Whatever the counter does: moves, stands, falls, fails."""
    fake = Fake()
    counter_j, last = 1000.0, 0.0
    for dt_s, change_j in steps:
        counter_j = max(counter_j + (change_j or 0.0), 0.0)
        meter = fake.at(fake.time_s + dt_s, BUSY if change_j is None else counter_j)
        assert meter.joules >= last >= 0
        last = meter.joules


@given(
    start_s=st.floats(1.0, 1.2),
    length_s=st.floats(0.5, 3.0),
    watts=st.floats(10, 700),
    step_s=st.sampled_from([0.02, 0.1, 0.3]),
)
def test_edges_within_a_counters_step_are_interpolated(
    start_s: float, length_s: float, watts: float, step_s: float
) -> None:
    """A counter that moves in steps, watched every 2 ms: each edge is right to the energy of 2 ms."""

    def counter(time_s: float) -> float:
        return 1000 + watts * step_s * math.floor(time_s / step_s)

    def watched_edge(time_s: float) -> Edge:
        fake.time_s, fake.counter_j = time_s, counter(time_s)
        edge = fake.meter.sample_edge(time_s)
        while fake.meter.watching:
            fake.time_s += 0.002
            fake.counter_j = counter(fake.time_s)
            fake.meter.watch()
        return edge

    fake = Fake(counter_j=counter(0.0), watts=watts)
    fake.meter.step_s = step_s
    start = watched_edge(start_s)
    end = watched_edge(start_s + length_s)
    error_j = abs(end.joules - start.joules - watts * length_s)
    assert error_j <= 2 * 0.0021 * watts
    assert error_j <= fake.meter.window_bound_j(start, end, watts, watts)


def edge() -> Edge:
    """An edge at 10 s where the counter stood at 500 J."""
    return Edge(at_s=10.0, raw_j=500.0, joules=500.0, bound_j=0.0, pending=True)


def test_a_move_seen_more_than_two_steps_after_the_edge_does_not_say_which_step_held_it() -> None:
    """Steps of 0.1 s, 30 J each. After 0.15 s the edge is interpolated, after 0.25 s all that was added is open."""
    soon, late = edge(), edge()
    soon.refine(530.0, 10.148, 10.15, 0.1)
    late.refine(560.0, 10.248, 10.25, 0.1)
    assert soon.step_power_w == pytest.approx(300.0)
    assert (late.step_power_w, late.joules, late.bound_j) == (None, 500.0, 60.0)
    assert late.bound(300.0, 0.1) == 60.0


def test_the_bound_of_an_edge_grows_with_the_jump_of_the_power_there() -> None:
    """The step that holds the edge drew 300 W on average, the window beside it 300, 250 or an unknown power."""
    refined = edge()
    refined.refine(530.0, 10.048, 10.052, 0.1)  # half of the step, 15 J, on either side of the edge
    steady = 300.0 * (0.002 + 0.05 * 0.1) + 0.002
    assert refined.bound(300.0, 0.1) == pytest.approx(steady)
    assert refined.bound(250.0, 0.1) == pytest.approx(steady + 50.0 * 0.1)
    assert refined.bound(None, 0.1) == pytest.approx(15.0 + 0.002)  # no further than the counter's values around it


def test_power_is_added_up_beside_the_counter() -> None:
    fake = Fake(watts=100.0)
    start = fake.meter.sample_edge(0.0)
    fake.at(1, 1100)
    fake.watts = 300.0
    fake.at(3, 1500)
    fake.time_s, fake.counter_j = 4.0, 1800.0
    end = fake.meter.sample_edge(4.0)
    assert (end.power_j or 0.0) - (start.power_j or 0.0) == pytest.approx(100 + 300)
    assert end.gap_j - start.gap_j == pytest.approx(400)  # nobody looked at the power for two seconds
