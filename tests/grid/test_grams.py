"""grams = Σ E_i · I_i: against a brute-force integral, the case study, and the bookkeeping around it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_scaling.errors import RecordError, UserError
from lora_scaling.grid import (
    Definition,
    EnergyBin,
    GridSettings,
    Series,
    Slot,
    compute_emissions,
    read_timeline,
    static_intensity,
)
from lora_scaling.grid.integrate import fill_gaps, integrate
from tests.support.grid_server import energinet, even_bins, serving

START = datetime(2026, 11, 10, 9, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)

lengths = st.lists(st.integers(1, 400), min_size=1, max_size=12)
joules = st.floats(0, 1e7)


@st.composite
def slot_rows(draw: st.DrawFn) -> list[Slot]:
    """Slots with holes between them, in whole seconds."""
    moment, slots = draw(st.integers(-300, 300)), []
    for length in draw(lengths):
        moment += draw(st.integers(0, 50))
        value, kind = draw(st.floats(0, 2000)), draw(st.sampled_from(["actual", "forecast", "estimated"]))
        slots.append(Slot(START + moment * SECOND, START + (moment + length) * SECOND, value, kind))
        moment += length
    return slots


@st.composite
def bin_rows(draw: st.DrawFn) -> list[EnergyBin]:
    """Contiguous bins in whole seconds."""
    edges = list(itertools.accumulate(draw(lengths), initial=0))
    return [EnergyBin(START + a * SECOND, START + b * SECOND, draw(joules)) for a, b in itertools.pairwise(edges)]


def brute_force(bins: list[EnergyBin], slots: list[Slot]) -> tuple[float, float]:
    """(grams, joules without a slot), one second at a time."""
    grams = missing = 0.0
    for bin_ in bins:
        seconds = (bin_.end - bin_.start) // SECOND
        for i in range(seconds):
            moment = bin_.start + i * SECOND
            slot = next((s for s in slots if s.start <= moment < s.end), None)
            if slot is None:
                missing += bin_.joules / seconds
            else:
                grams += bin_.joules / seconds * slot.g_per_kwh / 3.6e6
    return grams, missing


@settings(deadline=None, max_examples=60)
@given(bins=bin_rows(), slots=slot_rows())
def test_grams_are_the_brute_force_integral(bins: list[EnergyBin], slots: list[Slot]) -> None:
    result = integrate(bins, slots)
    grams, missing = brute_force(bins, slots)
    assert result.grams == pytest.approx(grams, rel=1e-9, abs=1e-9)
    assert result.missing_joules == pytest.approx(missing, rel=1e-9, abs=1e-6)
    total = sum(b.joules for b in bins)
    assert result.covered_joules + result.missing_joules == pytest.approx(total, rel=1e-9, abs=1e-6)


@settings(deadline=None)
@given(bins=bin_rows(), slots=slot_rows(), cut=st.floats(0.01, 0.99))
def test_splitting_bins_changes_nothing(bins: list[EnergyBin], slots: list[Slot], cut: float) -> None:
    split = []
    for b in bins:
        middle = b.start + (b.end - b.start) * cut
        share = (middle - b.start) / (b.end - b.start)
        split += [
            EnergyBin(b.start, middle, b.joules * share),
            EnergyBin(middle, b.end, b.joules * (1 - share)),
        ]
    assert integrate(split, slots).grams == pytest.approx(integrate(bins, slots).grams, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(bins=bin_rows(), slots=slot_rows(), factor=st.floats(0.1, 10))
def test_grams_scale_with_energy_and_with_intensity(bins: list[EnergyBin], slots: list[Slot], factor: float) -> None:
    grams = integrate(bins, slots).grams
    more_energy = [EnergyBin(b.start, b.end, b.joules * factor) for b in bins]
    dirtier = [Slot(s.start, s.end, s.g_per_kwh * factor, s.kind) for s in slots]
    assert integrate(more_energy, slots).grams == pytest.approx(grams * factor, rel=1e-9, abs=1e-12)
    assert integrate(bins, dirtier).grams == pytest.approx(grams * factor, rel=1e-9, abs=1e-12)


def test_a_bin_across_slots_is_split_in_proportion_to_time() -> None:
    edge = START + timedelta(minutes=5)
    slots = [Slot(START, edge, 100), Slot(edge, edge + timedelta(minutes=5), 200)]
    across = EnergyBin(edge - 60 * SECOND, edge + 180 * SECOND, 3.6e6)
    assert integrate([across], slots).grams == pytest.approx(0.25 * 100 + 0.75 * 200)


def test_the_case_study(tmp_path: Path) -> None:
    """0.694 kWh over four hours of DK1 whose energy-weighted mean is 82.5 g/kWh is 57 g, and says of what."""
    # Power 3:1 over the halves, 70 then x g/kWh: (3·70 + x)/4 = 82.5 → x = 120; the time average would be 95.
    bins = even_bins(START, 2, 0.694 * 0.75, 7200) + even_bins(START + timedelta(hours=2), 2, 0.694 * 0.25, 7200)
    noon = START + timedelta(hours=2)
    with serving(energinet(lambda moment: 70.0 if moment < noon else 120.0)) as server:
        chosen = GridSettings(zone="DK1", base_url=server.url, cache_dir=str(tmp_path))
        revision = compute_emissions(bins, chosen, now=START + timedelta(days=3))
    assert revision.grams == pytest.approx(57.255, abs=1e-6)
    assert round(revision.grams or 0) == 57
    assert revision.intensity_g_per_kwh == pytest.approx(82.5)
    assert (revision.energy_kwh, revision.status) == (pytest.approx(0.694), "final")
    assert revision.definition.startswith("CO2, average, consumption-based, direct: 5-minute CO2Emis")
    assert revision.coverage["actual"] == pytest.approx(1)
    assert len(server.requests) == 1
    assert revision.to_dict()["interval"] == ["2026-11-10T09:00:00+00:00", "2026-11-10T13:00:00+00:00"]


def test_pue_multiplies_energy_and_grams_and_is_stated() -> None:
    bins = even_bins(START, 1, 1.0, 60)
    plain = compute_emissions(bins, GridSettings(zone="US"))
    facility = compute_emissions(bins, GridSettings(zone="US", pue=1.2))
    assert (plain.pue, facility.pue) == (1.0, 1.2)
    assert facility.grams == pytest.approx((plain.grams or 0) * 1.2)
    assert (plain.energy_kwh, facility.energy_kwh) == (pytest.approx(1.0), pytest.approx(1.2))
    assert facility.intensity_g_per_kwh == plain.intensity_g_per_kwh


def test_revisions_are_numbered_and_the_json_form_has_every_field() -> None:
    revision = compute_emissions(even_bins(START, 1, 1.0, 4), GridSettings(), previous_revision=3).to_dict()
    assert revision["revision"] == 4
    assert set(revision) >= {
        *(
            "revision",
            "computed_at",
            "grams",
            "energy_kwh",
            "pue",
            "intensity_g_per_kwh",
            "status",
            "provider",
        ),
        *("zone", "definition", "gas", "signal", "accounting", "scope", "includes_losses", "coverage"),
        *("interval", "retrieved_at", "url", "attribution", "licence", "static_year", "reason", "settings", "warnings"),
    }
    assert set(revision["coverage"]) >= {"actual", "estimated", "forecast", "static"}


def test_without_a_timeline_everything_is_unknown() -> None:
    revision = compute_emissions([], GridSettings())
    assert (revision.grams, revision.energy_kwh, revision.status) == (None, None, "pending")
    assert revision.reason == "the run has no energy timeline"


def test_a_run_that_drew_nothing_emitted_nothing_at_an_unknown_intensity() -> None:
    revision = compute_emissions([EnergyBin(START, START + SECOND, 0.0)], GridSettings())
    assert (revision.grams, revision.energy_kwh, revision.intensity_g_per_kwh) == (0, 0, None)


def test_static_values_say_year_source_and_definition() -> None:
    denmark = static_intensity("DK1")
    assert denmark == static_intensity("DNK") == static_intensity("dk")
    assert denmark.place == "Denmark"
    assert 20 < denmark.g_per_kwh < 500
    assert (denmark.year or 0) >= 2020
    assert "CodeCarbon" in denmark.source
    assert "life-cycle" in denmark.definition
    assert str(denmark.year) in denmark.definition
    world = static_intensity()
    assert (world.g_per_kwh, world.place) == (475, "world")
    assert "IEA" in world.source
    nowhere = static_intensity("AQ")  # Antarctica has no grid
    assert nowhere.g_per_kwh == 475
    assert "Antarctica" in (nowhere.notice or "")
    with pytest.raises(UserError, match=r"grid\.zone: got 'Atlantis'"):
        static_intensity("Atlantis")


@pytest.mark.parametrize(
    "table", [{"DNK": {"carbon_intensity": "much", "year": 2023}}, {"DNK": {}}, {"DNK": [151.65, 2023]}, [], None]
)
def test_a_yearly_table_that_changed_its_shape_gives_the_worlds_value(
    table: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_scaling.grid.static._codecarbon_table", lambda: (table, "CodeCarbon 99's file"))
    revision = compute_emissions(even_bins(START, 1, 1.0, 4), GridSettings(zone="DK1", provider="static"))
    assert (revision.grams, revision.status) == (pytest.approx(475), "static")
    assert [warning["kind"] for warning in revision.warnings] == ["static_world"]
    assert "cannot be read" in revision.warnings[0]["message"]


def test_importing_and_static_values_stay_light() -> None:
    code = (
        "import sys, lora_scaling.grid as g; g.static_intensity('DK1'); g.equivalents(1, 1);"
        "print([m for m in ('requests', 'codecarbon', 'numpy', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_timeline_is_read_with_its_unknown_cells(tmp_path: Path) -> None:
    path = tmp_path / "timeline.csv"
    path.write_text(
        "start,end,phase,gpu_j,cpu_j,ram_j\n"
        "2026-11-10T09:00:00.000000+00:00,2026-11-10T09:00:01.500000+00:00,train,100,20.5,\n"
        "2026-11-10T09:00:01.500000Z,2026-11-10T09:00:02Z,train,,,\n"
        "2026-11-10T09:00:02Z,2026-11-10T09:00:02Z,eval,0,0,0\n"
        "2026-11-10T10:00:02+01:00,2026-11-10T09:00:03+00:00,eval,,7,1\n"
    )
    assert read_timeline(path) == [
        EnergyBin(START, START + 1.5 * SECOND, 120.5),
        EnergyBin(START + 2 * SECOND, START + 3 * SECOND, 8.0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("start,end\n", "columns cpu_j, gpu_j, ram_j are absent"),
        (
            "start,end,phase,gpu_j,cpu_j,ram_j\n2026-11-10,2026-11-09,train,1,1,1\n",
            "must end after it starts",
        ),
        ("start,end,phase,gpu_j,cpu_j,ram_j\n2026-11-10,2026-11-11,train,-1,0,0\n", "not negative"),
        ("start,end,phase,gpu_j,cpu_j,ram_j\nnow\n", "not an energy timeline"),
    ],
)
def test_a_timeline_that_is_none_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "timeline.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecordError, match=message):
        read_timeline(path)


@pytest.mark.parametrize(
    ("start", "end", "value", "kind"),
    [
        (START.replace(tzinfo=None), START, 1.0, "actual"),
        (START.astimezone(datetime.now().astimezone().tzinfo).replace(tzinfo=None), START, 1.0, "actual"),
        (START, START, 1.0, "actual"),
        (START, START + SECOND, -1.0, "actual"),
        (START, START + SECOND, float("inf"), "actual"),
        (START, START + SECOND, 1.0, "guessed"),
    ],
)
def test_a_slot_is_checked(start: datetime, end: datetime, value: float, kind: str) -> None:
    with pytest.raises(ValueError):
        Slot(start, end, value, kind)


def test_a_series_must_increase() -> None:
    meaning = Definition(gas="CO2", signal="average", accounting=None, scope=None, includes_losses=None, sentence="x")
    slots = (Slot(START, START + 2 * SECOND, 0.0), Slot(START + SECOND, START + 3 * SECOND, 1.0))
    with pytest.raises(ValueError, match="increase without overlap"):
        Series(
            slots=slots, provider="p", zone="z", definition=meaning,
            retrieved_at=None, url=None, licence=None, attribution=None,
        )  # fmt: skip


def filled(before_s: int, hole_s: int, after_s: int) -> list[tuple[int, int, float]]:
    """What `fill_gaps` adds to two hours of 100 and 300 g/kWh: (start, end, g/kWh), seconds after the first hour."""
    hour = 3600
    slots = [
        Slot(START, START + hour * SECOND, 100.0, "actual"),
        Slot(START + (hour + hole_s) * SECOND, START + (2 * hour + hole_s) * SECOND, 300.0, "actual"),
    ]
    whole = fill_gaps(slots, START - before_s * SECOND, START + (2 * hour + hole_s + after_s) * SECOND)
    zero = START + hour * SECOND
    added = [slot for slot in whole if slot.kind == "estimated"]
    return [((slot.start - zero) // SECOND, (slot.end - zero) // SECOND, slot.g_per_kwh) for slot in added]


def test_a_hole_of_up_to_an_hour_takes_the_mean_of_its_neighbours() -> None:
    assert filled(0, 3600, 0) == [(0, 3600, 200.0)]
    assert filled(0, 3601, 0) == []


def test_the_first_and_last_values_hold_for_a_quarter_of_an_hour_beyond_them() -> None:
    assert filled(900, 0, 0) == [(-4500, -3600, 100.0)]
    assert filled(901, 0, 0) == []
    assert filled(0, 0, 900) == [(3600, 4500, 300.0)]
    assert filled(0, 0, 901) == []
