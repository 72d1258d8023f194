"""Figures read like a person's: three digits, no powers of ten, one unit for an interval and for a column."""

import pytest

from lora_scaling.text import ENERGY, MASS, POWER, TIME, columns, counted, duration, inert, number, printable


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.00006174, "0.0000617"),
        (0.694, "0.694"),
        (12.0, "12"),
        (999.7, "1,000"),
        (21300.0, "21,300"),
        (0.0, "0"),
        (-1.5, "-1.5"),
        (float("inf"), "?"),
    ],
)
def test_a_number_has_three_digits_and_no_exponent(x: float, text: str) -> None:
    assert number(x) == text


@pytest.mark.parametrize(
    ("kwh", "text"),
    [(1.0, "1 kWh"), (1e-3, "1 Wh"), (1e-6, "1 mWh"), (6.174e-5, "0.0617 Wh"), (2300.0, "2.3 MWh"), (None, "unknown")],
)
def test_an_energy_is_in_the_unit_that_reads_best(kwh: float | None, text: str) -> None:
    assert ENERGY.show(kwh) == text


def test_masses_and_powers_likewise() -> None:
    assert [MASS.show(grams) for grams in (0.004, 0.475, 18570.0, 2.1e6)] == ["4 mg", "0.475 g", "18.6 kg", "2.1 t"]
    assert [POWER.show(watts) for watts in (167.0, 2400.0)] == ["167 W", "2.4 kW"]


def test_an_interval_has_the_unit_of_its_estimate() -> None:
    assert ENERGY.between(3.11e-6, 1.0e-6, 14.4e-6) == "3.11 mWh (1 to 14.4 mWh)"
    assert TIME.interval(20232.0, 12132.0, 33696.0, to="…") == ("5.62 h", "3.37 … 9.36 h")


def test_a_column_has_the_unit_of_its_median() -> None:
    unit = ENERGY.column_unit([3e-6, 2e-3, None, 0.4])
    assert [unit.show(kwh) for kwh in (3e-6, 2e-3, None, 0.4)] == ["0.003 Wh", "2 Wh", "unknown", "400 Wh"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.0, "5 s"), (150.4, "2 min 30 s"), (7380.0, "2 h 03 min"), (None, "unknown")]
)
def test_a_time_that_has_passed_reads_as_on_a_clock(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_figures_stand_on_the_right_of_their_column() -> None:
    assert columns([("run", "Wh"), ("a", "12"), ("longer", "3.5")]) == ["run      Wh", "a        12", "longer  3.5"]


def test_a_count_has_the_number_of_its_noun() -> None:
    assert (counted(1, "epoch"), counted(2, "epoch")) == ("1 epoch", "2 epochs")


def test_text_from_elsewhere_shows_what_a_terminal_would_obey() -> None:
    assert printable("a\x1b[31mb\x9b2Jc\u202ed\te\r\nf\ud800\U000e0041") == (
        r"a\u001b[31mb\u009b2Jc\u202ed\u0009e\u000d\u000af\ud800\udb40\udc41"
    )
    assert printable("Qwen2.5 – 7B·é\u00a0漢字 🙂") == "Qwen2.5 – 7B·é\u00a0漢字 🙂"


@pytest.mark.parametrize(
    "cell", ["=1+1", "+SUM(A1)", "-cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", " =1", "＝1", "-2+3"]
)
def test_a_cell_that_a_spreadsheet_would_run_is_text(cell: str) -> None:
    assert inert(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["-3.2", "+4", "-1e-9", "-.5", "1,200", "-1,200.5", "-", "", "lora", "a=b", "r-1"])
def test_a_number_or_a_name_is_no_formula(cell: str) -> None:
    assert inert(cell) == cell
