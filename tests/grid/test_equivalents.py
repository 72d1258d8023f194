"""Energy and grams in things one knows: the arithmetic of each against its stated source."""

from __future__ import annotations

import math

import pytest

from lora_scaling.grid import equivalents


def by_name(energy_kwh: float | None = None, grams: float | None = None) -> dict[str, float]:
    return {e.name: e.quantity for e in equivalents(energy_kwh, grams)}


def test_the_case_study_in_images_and_minutes() -> None:
    quantities = by_name(0.694, 57.255)
    assert round(quantities["images_generated"]) == 239
    # 11 t a year is 11e6 g / 525,960 min
    assert quantities["average_dane_minutes"] == pytest.approx(57.255 / (11e6 / 525_960), rel=1e-3)
    assert quantities["car_km"] == pytest.approx(57.255 / 106.6)
    assert quantities["phone_charges"] == pytest.approx(0.694 / 0.012)
    assert any("239 images" in e.sentence for e in equivalents(0.694))


def test_each_has_a_source_and_a_year() -> None:
    for e in equivalents(1, 1):
        assert len(e.source) > 20
        assert 2015 <= e.year <= 2026
        assert e.unit
        assert "{" not in e.sentence


def test_what_is_unknown_is_left_out() -> None:
    assert equivalents() == []
    assert equivalents(math.nan, math.inf) == []
    assert set(by_name(grams=5)) == {"average_dane_minutes", "car_km"}
    assert set(by_name(energy_kwh=5)) == {"images_generated", "phone_charges"}


@pytest.mark.parametrize(
    ("grams", "text"),
    [(5, "14 seconds"), (57.255, "2.7 minutes"), (5e3, "4 hours"), (1e6, "33 days"), (33e6, "3 years")],
)
def test_durations_are_told_in_the_unit_that_reads_best(grams: float, text: str) -> None:
    (sentence,) = [e.sentence for e in equivalents(grams=grams) if e.name == "average_dane_minutes"]
    assert f"about {text} (11 t" in sentence
