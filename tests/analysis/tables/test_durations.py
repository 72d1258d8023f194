"""Times as people write them, moments for times, mean power, energy for each item, and which runs were finished."""

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.tables.column_options import ColumnOptions
from analysis.tables.durations import seconds_of
from analysis.tables.table import RunTable, table_from_frame
from lora_scaling.errors import LoraScalingError, RecordError

N = np.repeat([500, 1000, 2000, 4000], 3)
SECONDS = 100 + N // 2 + np.tile([0, 1, 2], 4)
KWH = 300.0 * SECONDS / 3.6e6
RUNS = pd.DataFrame({"samples": N, "epochs": 1})
BEGIN = datetime.datetime(2026, 11, 2, 10, tzinfo=datetime.UTC)


def kinds(table: RunTable) -> set[str]:
    return {warning.kind for warning in table.warnings}


@pytest.mark.parametrize(
    ("texts", "seconds"),
    [
        (["0:01:30", "27:00:00"], [90, 97200]),
        (["1 day, 0:00:01", "0:00:02.5"], [86401, 2.5]),
        (["0 days 00:15:55.250", "2 days 00:00:00"], [955.25, 172800]),
        (["1-02:03:04", "00:00:09"], [93784, 9]),
        (["PT1H2M3S", "PT90M"], [3723, 5400]),
        (["15m 55s", "1h 2m 3s"], [955, 3723]),
        (["2 hours 5 min", "45 sec"], [7500, 45]),
        (["0:01:30", ""], [90, None]),
    ],
)
def test_durations_in_hours_minutes_and_seconds(texts: list[str], seconds: list[float | None]) -> None:
    found = seconds_of(pd.Series(texts))
    assert found is not None
    assert [None if pd.isna(value) else value for value in found] == seconds


@pytest.mark.parametrize("texts", [["12.5", "13"], ["15:55", "16:10"], ["0:01:30", "soon"], ["", ""], ["m", "s"]])
def test_other_cells_are_no_durations(texts: list[str]) -> None:
    assert seconds_of(pd.Series(texts)) is None


def test_minutes_or_hours_are_asked_about() -> None:
    frame = RUNS.assign(train_time=[f"{s // 60}:{s % 60:02d}" for s in SECONDS])
    with pytest.raises(LoraScalingError, match="in minutes or in hours: write it as h:mm:ss"):
        table_from_frame(frame, response="time")


def ends(form: str) -> dict[str, Any]:
    starts = [BEGIN + datetime.timedelta(minutes=50 * i) for i in range(12)]
    stops = [start + datetime.timedelta(seconds=int(s)) for start, s in zip(starts, SECONDS, strict=True)]
    if form == "unix":
        return {"start_time": [one.timestamp() for one in starts], "end_time": [one.timestamp() for one in stops]}
    return {"Start": [one.strftime(form) for one in starts], "End": [one.strftime(form) for one in stops]}


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%SZ", "%d/%m/%Y %H:%M:%S", "%d.%m.%Y %H:%M:%S", "unix"])
def test_mean_power_times_the_time_between_two_moments(form: str) -> None:
    table = table_from_frame(RUNS.assign(avg_power_w=300.0, **ends(form)))
    assert table.frame["total_s"].to_numpy() == pytest.approx(SECONDS)
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(KWH)
    assert {"elapsed", "power_times_time"} <= kinds(table)


def test_a_date_that_can_be_two_gives_no_time() -> None:
    frame = RUNS.assign(start="02/11/2026 23:00:00", end="03/11/2026 01:00:00", energy_kwh=KWH)
    assert table_from_frame(frame).frame["total_s"].isna().all()


@pytest.mark.parametrize(
    "columns",
    [
        {"mean power (kW)": 0.3, "duration": [str(datetime.timedelta(seconds=int(s))) for s in SECONDS]},
        {"avg_power_w": 300, "elapsed": [f"PT{s}S" for s in SECONDS]},
        {"energy per sample (J)": 3.6e6 * KWH / N},
        {"J/sample": 3.6e6 * KWH / N},
        {"tokens_seen": 400 * N, "energy_per_token_mj": 0, "Energy per token (J)": 3.6e6 * KWH / (400 * N)},
        {"energy_uj": 3.6e12 * KWH},
        {"ConsumedEnergyRaw": 3.6e6 * KWH, "ElapsedRaw": SECONDS},
        {"user_attrs_energy_kwh": KWH},
        {"energy_kwh": [f"{kwh!r} ± 0.01" for kwh in KWH.tolist()]},
        {"energy_wh": [f"{1e5 * kwh:,.6f}" for kwh in KWH], "scale": 1},
    ],
)
def test_what_an_energy_is_made_of(columns: dict[str, Any]) -> None:
    columns = {name: values for name, values in columns.items() if name != "energy_per_token_mj"}
    table = table_from_frame(RUNS.assign(**columns))
    scale = 100 if "scale" in columns else 1
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(scale * KWH, rel=1e-6)


def test_an_energy_for_each_sample_of_several_epochs_is_not_guessed() -> None:
    with pytest.raises(LoraScalingError, match="lacks the column `energy_kwh`"):
        table_from_frame(RUNS.assign(epochs=3, **{"energy per sample (J)": 1.0}))


def test_a_running_total_of_all_runs_is_not_suggested_as_an_energy() -> None:
    with pytest.raises(LoraScalingError, match="is a running total: give what each run took") as error:
        table_from_frame(RUNS.assign(cumulative_energy_kwh=np.cumsum(KWH)))
    assert "meant for" not in str(error.value)


def test_pounds_are_grams() -> None:
    table = table_from_frame(RUNS.assign(co2_lbs=1.0), response="emissions_g")
    assert set(table.frame["emissions_g"]) == {453.59237}


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [("exit_code", 0, 137), ("ExitCode", "0:0", "9:0"), ("completed", True, False), ("failed", "no", "yes"),
     ("Status", "færdig", "afbrudt")],
)  # fmt: skip
def test_runs_that_were_not_finished_are_left_out(column: str, good: object, bad: object) -> None:
    frame = RUNS.assign(energy_kwh=KWH, **{column: [good] * 11 + [bad]})  # type: ignore[arg-type]
    table = table_from_frame(frame)
    assert (len(table.frame), len(table.excluded)) == (11, 1)
    ignored = table_from_frame(frame, options=ColumnOptions(ignore=[column])) if column != "Status" else None
    assert ignored is None or len(ignored.frame) == 12


def test_a_table_without_a_usable_row_is_one_sentence() -> None:
    with pytest.raises(RecordError, match=r"no run is finished by its `status` \(cancelled\); --set status=ok"):
        table_from_frame(RUNS.assign(energy_kwh=KWH, status="cancelled"))
    with pytest.raises(RecordError, match=r"no row can be read; energy_kwh: got '~0.1'"):
        table_from_frame(RUNS.assign(energy_kwh="~0.1"))
