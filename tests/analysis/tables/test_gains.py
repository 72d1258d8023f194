"""What runs gained for their energy: the front, points per kWh, and the page and figure that show them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import load_runs, report
from analysis.figures.plot import figures
from analysis.figures.style import DrawnFigure, SkippedFigure
from analysis.tables.gains import gains_of

# Rank 16 costs more than rank 8 and gains less; rank 32 costs most and gains most. Scoring cost 1 kWh each time.
GAINS = {4: (1.0, 2.0), 8: (2.0, 5.0), 16: (3.0, 4.0), 32: (4.0, 6.0)}
RUNS = pd.DataFrame(
    [
        {
            "run_id": f"r{rank}-{i}", "status": "ok", "samples": 100 * rank, "epochs": 1, "model": "m",
            "method": "lora", "rank": rank, "seed": i, "energy_kwh": cost + 1.0, "energy_score_kwh": 1.0,
            "train_s": 100.0 * cost,
            "score_before": 40.0, "score_after": 40.0 + gain + 0.1 * (i - 0.5), "eval_accuracy_before": 0.2,
            "eval_accuracy_after": 0.3,
        }
        for rank, (cost, gain) in GAINS.items()
        for i in range(2)
    ]
)  # fmt: skip
LEARNED = [name for name in map(str, RUNS.columns) if "score_" in name or "accuracy" in name]


def test_points_per_kwh_leave_out_what_scoring_cost() -> None:
    gains = gains_of(load_runs(RUNS).frame)
    assert gains is not None
    found = {row.label: row for row in gains.rows}
    assert list(found) == [f"samples={100 * rank}, rank={rank}" for rank in GAINS]
    for (cost, gain), row in zip(GAINS.values(), gains.rows, strict=True):
        assert (row.energy_kwh, row.gain, row.runs) == (pytest.approx(cost), pytest.approx(gain), 2)
        assert row.points_per_kwh == pytest.approx(gain / cost)
        assert (row.low, row.high) == (pytest.approx(gain - 0.05), pytest.approx(gain + 0.05))
    assert [row.on_front for row in gains.rows] == [True, True, False, True]


def test_without_scores_it_is_the_accuracy_and_without_both_nothing() -> None:
    accuracy = gains_of(load_runs(RUNS.drop(columns=["score_before", "score_after"])).frame)
    assert accuracy is not None
    assert "accuracy" in accuracy.noun
    assert [row.gain for row in accuracy.rows] == pytest.approx([10.0] * 4)
    assert [row.on_front for row in accuracy.rows] == [True, False, False, False]
    bare = RUNS.drop(columns=LEARNED)
    assert gains_of(load_runs(bare).frame) is None


def test_a_loss_is_on_no_front() -> None:
    worse = RUNS.assign(score_after=RUNS["score_before"] - 1)
    gains = gains_of(load_runs(worse).frame)
    assert gains is not None
    assert not any(row.on_front for row in gains.rows)


def test_the_report_and_the_figure_show_them(tmp_path: Path) -> None:
    table = load_runs(RUNS)
    page = report(table, out=tmp_path).read_text()
    assert "Cost against gain" in page
    assert "points per kWh" in page
    assert "2.5" in page  # rank 8: 5 points for 2 kWh
    [pareto] = [item for item in figures(table) if item.name == "pareto"]
    assert isinstance(pareto, DrawnFigure)
    front, rest = (np.asarray(dots.get_offsets()) for dots in pareto.figure.axes[0].collections[:2])
    assert front == pytest.approx(np.array([GAINS[rank] for rank in (4, 8, 32)]))
    assert rest == pytest.approx(np.array([GAINS[16]]))
    bare = load_runs(RUNS.drop(columns=LEARNED))
    [skipped] = [item for item in figures(bare) if item.name == "pareto"]
    assert isinstance(skipped, SkippedFigure)
