"""What runs gained for their energy: the front, points per kWh, and the page and figure that show them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import load_runs, report
from analysis.claims.decide import decide
from analysis.claims.verdicts import Options
from analysis.figures.plot import figures
from analysis.figures.style import DrawnFigure, SkippedFigure
from analysis.report.findings import Findings
from analysis.report.gains import gains_section
from analysis.report.provenance import provenance_of
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
            "eval_accuracy_after": 0.3, "eval_loss_before": 5.0, "eval_loss_after": 5.0 - gain / 10,
        }
        for rank, (cost, gain) in GAINS.items()
        for i in range(2)
    ]
)  # fmt: skip
LEARNED = [name for name in map(str, RUNS.columns) if "score_" in name or "eval_" in name]


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


def losses(**varied: object) -> pd.DataFrame:
    """Runs of 1 kWh for each 64 samples shown whose loss falls by 0.1 with each doubling; a scatter of 0.01 by seed."""
    rows = [
        {"run_id": f"{i}-{seed}", "status": "ok", "samples": samples, "epochs": epochs, "model": "m", "method": "lora",
         "rank": 8, "seed": seed, "energy_kwh": samples * epochs / 64, "train_s": float(samples * epochs), "data": "d",
         "eval_loss_before": 5.0, "eval_loss_after": 3.0 - 0.1 * np.log2(samples * epochs) + 0.01 * seed, **varied}
        for i, (samples, epochs) in enumerate([(64, 1), (128, 1), (256, 1), (256, 2)])
        for seed in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_loss_is_gained_as_it_falls_and_the_last_doubling_is_priced() -> None:
    gains = gains_of(load_runs(losses()).frame)
    assert gains is not None
    assert gains.measure.outcome == "loss"
    assert [row.gain for row in gains.rows] == pytest.approx([2.595, 2.695, 2.795, 2.895])
    assert all(row.on_front for row in gains.rows)
    samples, epochs = gains.doublings
    assert (samples.factor, samples.start, samples.end) == ("samples", 128, 256)
    assert (epochs.factor, epochs.start, epochs.end) == ("epochs", 1, 2)
    for doubling, added in ((samples, 2.0), (epochs, 4.0)):
        assert (doubling.added_kwh, doubling.gain) == (pytest.approx(added), pytest.approx(0.1))
        assert doubling.spread == pytest.approx(0.005 * np.sqrt(2))  # two seeds at each amount


def test_losses_on_other_texts_have_a_front_of_their_own() -> None:
    """The other data set's runs gain more in every way; still each has a front."""
    other = losses(data="e", run_id="x").assign(run_id=lambda f: [f"other-{i}" for i in f.index])
    other["eval_loss_after"] -= 1
    gains = gains_of(load_runs(pd.concat([losses(), other])).frame)
    assert gains is not None
    assert {row.among for row in gains.rows if row.on_front} == {"d", "e"}


def test_runs_without_training_are_no_setting_that_gained_nothing() -> None:
    idle = losses().iloc[:1].assign(run_id="idle", max_steps=0, samples_seen=0, energy_kwh=0.01, eval_loss_after=5.0)
    gains = gains_of(load_runs(pd.concat([losses(), idle])).frame)
    assert gains is not None
    assert min(row.gain for row in gains.rows) > 2


def test_the_report_says_what_the_last_doubling_bought() -> None:
    table = load_runs(losses())
    findings = Findings(table=table, claims=decide(table, Options()), provenance=provenance_of(()))
    page = gains_section(findings).html
    assert "epochs=1: from 128 to 256 samples bought 0.1 ± 0.0071 nats for 2 kWh more, 0.05 nats per kWh." in page


def test_the_report_and_the_figure_show_them(tmp_path: Path) -> None:
    table = load_runs(RUNS)
    page = report(table, out=tmp_path).read_text()
    assert "Cost against gain" in page
    assert "points per kWh" in page
    assert "In nats of held-out loss" in page
    assert "Cost against loss" in page
    assert "2.5" in page  # rank 8: 5 points for 2 kWh
    [pareto] = [item for item in figures(table) if item.name == "pareto"]
    assert isinstance(pareto, DrawnFigure)
    front, rest = (np.asarray(dots.get_offsets()) for dots in pareto.figure.axes[0].collections[:2])
    assert front == pytest.approx(np.array([GAINS[rank] for rank in (4, 8, 32)]))
    assert rest == pytest.approx(np.array([GAINS[16]]))
    bare = load_runs(RUNS.drop(columns=LEARNED))
    [skipped] = [item for item in figures(bare) if item.name == "pareto"]
    assert isinstance(skipped, SkippedFigure)
