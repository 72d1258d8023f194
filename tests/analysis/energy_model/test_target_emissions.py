"""Grams of a planned run stand at the same yearly value in a prediction from runs as in an estimate without them."""

from __future__ import annotations

import pytest

from analysis.energy_model.extrapolate import extrapolate
from benchmarks.interval_coverage import as_table
from lora_scaling.grid import static_intensity
from tests.support.fit_tables import frame_of, law


@pytest.mark.parametrize(
    ("grid", "place"), [(["grid.provider=uk"], "GB"), (["grid.zone=SE"], "SE"), (["grid.provider=static"], None)]
)
def test_a_grid_that_the_target_names_is_asked_for_the_place_it_covers(grid: list[str], place: str | None) -> None:
    frame = frame_of(law(), cv=0.02, methods=("lora",), replicates=2)
    frame["intensity_g_per_kwh"], frame["intensity_source"] = 999.0, "elsewhere"
    grams = extrapolate(as_table(frame), ["model=llama-3.2-1b", "samples=1000", *grid]).document["emissions_g"]
    expected = static_intensity(place)
    assert grams["intensity_g_per_kwh"] == expected.g_per_kwh
    assert expected.definition in grams["definition"]
