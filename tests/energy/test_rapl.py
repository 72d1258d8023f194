"""Counters of the processor that wrap, restart, jump, freeze and vanish, against a law of 70 W."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scaling.energy import EnergyAccount, MeteringSettings, open_meter
from lora_scaling.energy.measurement import ComponentEnergy
from lora_scaling.energy.rapl import RaplCounter, add_domains, counters_of
from lora_scaling.energy.readings import Tick, Window
from lora_scaling.energy.tracker import ComponentSource, TaskEnergy, registered_power_w, sources_of
from lora_scaling.energy.windows import make_account
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
    assert [part.joules for _, part in add_domains(counters, starts, ends, "package", 10.0)] == [
        pytest.approx(700),
        pytest.approx(500),
    ]


def recorded(
    folder: Path,
    packages: Sequence[Callable[[float], float | None]],
    *,
    dram: Callable[[float], float | None] | None = None,
    busy: Callable[[float], float] = lambda second: 1.0,
    seconds: int = 10,
    rated_w: float | None = 100.0,
    memory_gb: float | None = 64.0,
) -> EnergyAccount:
    """A window on a machine of 8 cores, whose packages (and the memory of each) show these joules at each second."""
    domains = [Domain(folder, number, dram=dram is not None) for number in range(len(packages))]
    counters = counters_of([str(d.file) for d in domains], rated_w, memory_gb)
    ticks, busy_s = [], 0.0
    for second in range(seconds + 1):
        for domain, shown in zip(domains, packages, strict=True):
            joules, dram_j = shown(second), dram(second) if dram else None
            other_j = 777.0 * (domain is not domains[0])  # the same value would be the same counter
            domain.show(
                None if joules is None else joules + other_j, dram_j=None if dram_j is None else dram_j + other_j
            )
        for counter in counters:
            counter.read(second) if second else counter.begin(second)
        busy_s += 8 * busy(second) if second else 0.0
        ticks.append(
            Tick(at_s=second, edges=(), cpu_busy_s=busy_s, cpu_total_s=8.0 * second, wall_s=1e9 + second,
                 rapl=tuple(c.mark(second) for c in counters))
        )  # fmt: skip
    window = Window(
        name="train", start_wall_s=1e9, start=ticks[0], ticks=ticks[1:-1], end=ticks[-1], rapl=counters,
        rapl_faults=[f"{c.name}: {text}" for c in counters for text in c.faults.values()],
        memory_gb=memory_gb, whole_load=True,
    )  # fmt: skip
    meter: Any = SimpleNamespace(
        settings=MeteringSettings(components=("cpu", "ram")), nvml=None, gpu_meters=(), unreadable={},
        gpu_expected=False, gpu_hidden=False, gpu_reason=None, tracker_reason=None,
    )  # fmt: skip
    return make_account(meter, [window], idle=None, exclusive=None, conditions={}, warnings=[])


def warned(account: EnergyAccount) -> list[str]:
    return [w["message"] for w in account.warnings if w["kind"] in ("rapl_counter", "processor_load")]


def watts(power_w: float) -> Callable[[float], float]:
    return lambda second: 1000.0 + power_w * second


def test_a_processor_that_shows_idle_watts_under_full_load_is_doubted(tmp_path: Path) -> None:
    account = recorded(tmp_path, [watts(6.0)])
    assert holds(account.components["cpu"], 10 * 90.0)
    assert "package-0 showed 6.0 W while 100% of the cores were busy, at a rated power of 100 W" in warned(account)[0]


def test_one_of_two_processors_that_shows_idle_watts_is_doubted(tmp_path: Path) -> None:
    account = recorded(tmp_path, [watts(80.0), watts(1.0)])
    assert holds(account.components["cpu"], 10 * 160.0)
    assert ["package-1" in text for text in warned(account)] == [True]


def test_a_counter_that_trickles_for_some_seconds_of_a_long_window_is_doubted(tmp_path: Path) -> None:
    account = recorded(tmp_path, [lambda s: 70.0 * min(s, 40) + 70.0 * max(s - 50, 0) + 0.01 * s], seconds=100)
    assert holds(account.components["cpu"], 7000.0)
    assert "(10 such readings)" in warned(account)[0]


@pytest.mark.parametrize(("power_w", "doubted"), [(110.0, False), (190.0, False), (250.0, True)])
def test_a_processor_that_shows_several_times_its_rated_power_is_doubted(
    tmp_path: Path, power_w: float, doubted: bool
) -> None:
    account = recorded(tmp_path, [watts(power_w)])
    assert bool(warned(account)) is doubted
    assert holds(account.components["cpu"], 1000.0) or not doubted


def test_three_times_its_rated_power_all_the_time_is_unknown(tmp_path: Path) -> None:
    part = recorded(tmp_path, [watts(320.0)]).components["cpu"]
    assert part.joules is None
    assert "rose by 320 J in 1.0 s" in (part.reason or "")


@pytest.mark.parametrize(
    ("power_w", "busy", "packages"),
    [(8.0, 0.02, 1), (25.0, 1.0, 1), (12.0, 0.4, 1), (8.0, 0.5, 2)],  # idle; slow clocks; half idle; one of two busy
)
def test_an_honest_processor_is_not_doubted(tmp_path: Path, power_w: float, busy: float, packages: int) -> None:
    shown = [watts(power_w), *[watts(70.0)] * (packages - 1)]
    account = recorded(tmp_path, shown, busy=lambda second: busy)
    assert not warned(account)
    part = account.components["cpu"]
    assert part.uncertainty_joules == pytest.approx(0.05 * (part.joules or 0.0))


def test_a_processor_of_unknown_rated_power_is_believed(tmp_path: Path) -> None:
    assert not warned(recorded(tmp_path, [watts(6.0)], rated_w=None))


@pytest.mark.parametrize(("power_w", "known"), [(6.0, True), (0.01, False), (0.0, False), (700.0, False)])
def test_memory_that_draws_what_it_cannot_is_unknown(tmp_path: Path, power_w: float, known: bool) -> None:
    """64 GB in one package: 6 W is usual."""
    part = recorded(tmp_path, [watts(70.0)], dram=watts(power_w)).components["ram"]
    assert (part.joules is not None) is known
    assert known or part.reason


@pytest.mark.parametrize(
    ("shown_w", "busy", "known", "doubted"),
    [
        (25.0, 1.0, True, False),
        (2.0, 1.0, True, True),  # idle watts under full load
        (2.0, 0.1, True, False),
        (90.0, 1.0, True, True),  # four times what the table says
        (2000.0, 1.0, False, False),
    ],
)
def test_the_sensor_of_an_apple_chip_is_held_against_its_load(
    shown_w: float, busy: float, known: bool, doubted: bool
) -> None:
    """An M1, of which CodeCarbon's table says what it draws; ten seconds on eight cores."""
    rated_w = registered_power_w("Apple M1")
    assert rated_w is not None
    ticks = [Tick(at_s=s, edges=(), cpu_busy_s=8 * busy * s, cpu_total_s=8 * s, wall_s=1e9 + s) for s in (0.0, 10.0)]
    window = Window(
        name="train", start_wall_s=1e9, start=ticks[0], end=ticks[1],
        sources={"cpu": ComponentSource(name="powermetrics")},
        task=TaskEnergy(joules={"cpu": 10 * shown_w * rated_w / 21, "ram": None, "gpu": None}),
    )  # fmt: skip
    meter: Any = SimpleNamespace(
        settings=MeteringSettings(components=("cpu",)), nvml=None, gpu_meters=(), unreadable={}, gpu_expected=False,
        gpu_hidden=False, gpu_reason=None, tracker_reason=None,
        tracker=SimpleNamespace(hardware={"cpu_model": "Apple M1"}),
    )  # fmt: skip
    account = make_account(meter, [window], idle=None, exclusive=None, conditions={}, warnings=[])
    part = account.components["cpu"]
    assert (part.joules is not None) is known
    assert bool(warned(account)) is doubted
    if known:
        assert ((part.uncertainty_joules or 0.0) > 0.5 * (part.joules or 0.0)) is doubted


def test_lies_of_two_processors_and_their_memory_at_random_are_held_by_the_bound(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Twenty seconds at 70 W and 6 W under full load, with up to three lies."""

    def shown(power_w: float, lies: Sequence[tuple[str, int, float]]) -> Callable[[float], float | None]:
        def joules(second: float) -> float | None:
            value = power_w * second
            for kind, at_s, much in lies:
                if kind == "frozen" and second >= at_s:
                    value -= power_w * (min(second, at_s + much) - at_s)
                elif kind == "jump" and second >= at_s:
                    value += 1000 * much
                elif kind == "restart" and second >= at_s:
                    value = power_w * (second - at_s)
                elif kind == "gone" and at_s <= second < at_s + much:
                    return None
                elif kind == "slow" and second >= at_s:
                    value -= 0.95 * power_w * (second - at_s)
            return (value + 5000.0) % RANGE_J

        return joules

    def drawn(draw: random.Random) -> list[tuple[str, int, float]]:
        kinds = ("frozen", "jump", "restart", "gone", "slow")
        return [(draw.choice(kinds), draw.randrange(1, 20), draw.choice([3, 6, 30])) for _ in range(draw.randrange(3))]

    for seed in range(40):
        draw = random.Random(seed)
        packages, memory = [drawn(draw), drawn(draw)], drawn(draw)
        account = recorded(
            tmp_path_factory.mktemp("rapl"),
            [shown(70.0, told) for told in packages],
            dram=shown(6.0, [lie for lie in memory if lie[0] != "slow"]),
            seconds=20,
        )
        cpu, ram = account.components["cpu"], account.components["ram"]
        assert holds(cpu, 2 * 20 * 70.0), (seed, packages, cpu)
        assert holds(ram, 2 * 20 * 6.0), (seed, memory, ram)
        assert not any(packages) or cpu.joules is None or warned(account), (seed, packages)


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
