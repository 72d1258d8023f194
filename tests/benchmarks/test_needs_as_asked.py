"""The runs that an undecided claim asks for decide it."""

from collections import Counter

import pytest

from benchmarks.needs_as_asked import TABLES, main, run_as_asked


@pytest.mark.simulation
def test_what_is_asked_for_decides() -> None:
    """Where levels, repeats or range are missing always; of noisy tables, planned for 80 %, at least two of three."""
    ended = {table: Counter(run_as_asked(table, seed) for seed in range(2)) for table in TABLES}
    assert {how for table, found in ended.items() if table.lacks_levels for how in found} == {"right"}
    noisy = sum((found for table, found in ended.items() if not table.lacks_levels), Counter[str]())
    assert noisy["wrong"] == noisy["nothing to run"] == 0
    assert noisy["right"] >= 2 * noisy["still open"]


def test_the_command_prints_the_shares(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0"]) == 0
    assert "Tables that lack precision:" in capsys.readouterr().out
