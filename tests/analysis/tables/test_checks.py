"""Alarms about units and copies: what they see, and what they leave alone."""

import numpy as np
import pandas as pd
import pytest

from analysis.claims.decide import decide
from analysis.claims.verdicts import Options
from analysis.tables.checks import apart_in_time, check_rows
from analysis.tables.response import choose_response
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import Sweep, curve, noisy, together


def sweep(seed: int = 0, **columns: object) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = Sweep().draw(rng, columns)
    return frame.assign(energy_kwh=noisy(rng, curve(frame, fixed=0.2), 0.02))


def unit_warnings(frame: pd.DataFrame) -> list[str]:
    response = choose_response(table_from_frame(frame))
    return [warning.message for warning in check_rows(response.frame) if warning.kind == "unit"]


def test_energy_that_holds_the_set_up_is_no_unit_alarm() -> None:
    """At 300 W, with 2 s of training after 60 s of set-up, total energy ÷ training time is above 9 kW."""
    train = np.geomspace(2, 200, 12)
    frame = pd.DataFrame({"samples": np.geomspace(32, 3200, 12).round(), "epochs": 1, "train_s": train})
    frame["energy_kwh"] = 300 * (60 + train) / 3.6e6
    assert unit_warnings(frame) == []
    assert "W per device" in unit_warnings(frame.assign(energy_kwh=1000 * frame["energy_kwh"]))[0]
    assert "W per device" in unit_warnings(frame.assign(energy_kwh=frame["energy_kwh"] / 1e4))[0]
    of_node = frame.assign(energy_kwh=8 * 900 / 300 * frame["energy_kwh"], total_s=60 + train)  # 7.2 kW of 8 devices
    assert unit_warnings(of_node) == []
    assert unit_warnings(of_node.assign(gpu_count=1)) != []


def test_rows_that_differ_in_a_column_of_unknown_meaning_are_no_copies() -> None:
    frame = sweep().drop(columns=["run_id", "replicate", "order"])
    twice = pd.concat([frame.assign(site="x"), frame.assign(site="y")])
    assert len(table_from_frame(twice).frame) == 2 * len(frame)
    assert len(table_from_frame(twice.drop(columns="site")).frame) == len(frame)
    named = sweep().drop(columns=["replicate", "order"])
    assert len(table_from_frame(pd.concat([named.assign(site="x"), named.assign(site="y")])).frame) == 2 * len(named)
    assert len(table_from_frame(pd.concat([named, named])).frame) == len(named)


def test_a_row_in_doubt_blocks_the_claims_that_use_it_and_no_other() -> None:
    rng = np.random.default_rng(0)
    ranks = [
        Sweep(samples=(128,), replicates=4, zero=0).draw(rng, {"rank": r, "method": "lora"}) for r in (4.0, 16.0, 64.0)
    ]
    frame = together(rng, [sweep(method="full"), *ranks])
    frame["energy_kwh"] = noisy(rng, curve(frame, fixed=0.2), 0.01)
    bad = frame.index[frame["method"] == "full"][5]
    frame.loc[bad, "energy_kwh"] *= 1000
    claims = {claim.id: claim for claim in decide(table_from_frame(frame), Options()).claims}
    assert "is in doubt" in claims["linear_in_samples"].reason
    assert claims["linear_in_samples"].needs is None  # it is for the row to be corrected
    assert claims["rank_effect"].verdict == "supported"
    size = claims["size_exponent"]  # it uses other runs, and says which are missing
    assert (size.verdict, "in doubt" in size.reason) == ("undecided", False)
    assert size.needs is not None
    assert "model=ladder-1m,ladder-3m" in (size.needs.command or "")


@pytest.mark.parametrize("repeats", [2, 3])
def test_levels_in_blocks_are_apart_however_few_repeats_they_have(repeats: int) -> None:
    level = pd.Series(np.repeat([16, 2, 32, 8, 64, 4], repeats))
    place = pd.Series(np.arange(len(level), dtype=float))
    assert apart_in_time(place, level) == pytest.approx(1, abs=0.05)
    assert apart_in_time(pd.Series(np.random.default_rng(0).permutation(place)), level) is None
