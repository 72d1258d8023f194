"""One published speed predicts the others of its source."""

import pytest

from benchmarks import measured_coverage


def test_one_speed_of_a_source_predicts_its_others(capsys: pytest.CaptureFixture[str]) -> None:
    measured_coverage.main(["--source", "PEFT"])
    printed = capsys.readouterr().out
    assert "PEFT L40S                      2 pairs, 100% inside" in printed
    assert "by source: 100% inside, median width 2." in printed
    measured_coverage.main(["--source", "no such source"])
    assert capsys.readouterr().out == ""
