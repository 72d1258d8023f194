"""`plot`: which figures there are, what captions say, and that names from outside stay text."""

import dataclasses
import itertools
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.container import ErrorbarContainer
from scipy import stats

from analysis import load_runs
from analysis.cli import main
from analysis.energy_model.response_kind import ENERGY_KIND, TIME_KIND
from analysis.energy_model.validated_fit import validated_fit
from analysis.figures.compare import interchangeability, lora_and_full
from analysis.figures.plot import figures, save
from analysis.figures.power import power_figure, read_watts, spans
from analysis.figures.residuals import residuals
from analysis.figures.scaling import response_against
from analysis.figures.style import DrawnFigure, SkippedFigure, canvas, label_lines, level_ticks, log_axis, short, thin
from analysis.figures.view import FACTORS, View, run_groups
from analysis.report.points import figure_points
from benchmarks.interval_coverage import as_table
from tests.support.fit_tables import frame_of, law

NASTY = "<script>alert('x')</script> $\\frac{1}{2}$ & \"q\""


def sweep() -> pd.DataFrame:
    """Samples × epochs × rank on two models, LoRA and full."""
    parts = []
    for method, ranks in (("lora", (4, 16, 64)), ("full", (4,))):
        for rank in ranks:
            for epochs in (1, 2):
                frame = frame_of(
                    law(full=1.2),
                    cv=0.02,
                    sizes=(1e8, 1e9),
                    tokens=(1e5, 2e5, 4e5, 8e5),
                    methods=(method,),
                    seed=rank + epochs,
                )
                frame["epochs"] = float(epochs)
                frame["samples"] = frame["samples_seen"] / epochs
                frame["rank"] = float(rank) if method == "lora" else np.nan
                frame["flops"] *= 1 + 0.001 * rank * (method == "lora")
                parts.append(frame)
    whole = pd.concat(parts, ignore_index=True)
    whole["run_id"] = [f"run-{i}" for i in range(len(whole))]
    whole["position"] = np.random.default_rng(1).permutation(len(whole)).astype(float)
    return whole


@pytest.fixture(scope="module")
def drawn() -> dict[str, DrawnFigure | SkippedFigure]:
    np.random.seed(7)
    return {item.name: item for item in figures(as_table(sweep()))}


@pytest.fixture(scope="module")
def view() -> View:
    table = as_table(sweep())
    return View(table=table, result=validated_fit(table))


def test_every_figure_of_the_issue_is_drawn_or_skipped_with_a_reason(
    drawn: dict[str, DrawnFigure | SkippedFigure],
) -> None:
    expected = {f"energy_vs_{name}" for name in ("samples", "epochs", "tokens", "rank", "params", "flops_per_token")}
    expected |= {
        "samples_vs_epochs",
        "lora_vs_full",
        "pareto",
        "pareto_loss",
        "residuals",
        "backtest",
        "extrapolation",
        "power",
    }
    assert set(drawn) == expected
    assert {name for name, item in drawn.items() if isinstance(item, SkippedFigure)} == {
        "extrapolation",
        "pareto",
        "pareto_loss",
        "power",
    }
    assert all(item.reason for item in drawn.values() if isinstance(item, SkippedFigure))


def test_the_same_runs_make_the_same_figures_and_nobody_elses_chance_moves(
    drawn: dict[str, DrawnFigure | SkippedFigure],
) -> None:
    def points(items: Iterable[DrawnFigure | SkippedFigure]) -> list[list[object]]:
        axes = [ax for item in items if isinstance(item, DrawnFigure) for ax in item.figure.axes]
        return [np.asarray(dots.get_offsets()).tolist() for ax in axes for dots in ax.collections]

    np.random.seed(8)
    before = np.random.random(3).tolist()
    np.random.seed(8)
    again = points(figures(as_table(sweep())))
    assert np.random.random(3).tolist() == before
    assert again == points(drawn.values())
    assert sum(map(len, again)) > 10


def test_captions_state_n_model_and_source(drawn: dict[str, DrawnFigure | SkippedFigure]) -> None:
    for item in drawn.values():
        if isinstance(item, DrawnFigure):
            assert "n = 64 runs" in item.caption or item.name == "samples_vs_epochs"
            assert "Model: " in item.caption
            assert item.caption.endswith("Source: simulated.")


def test_axes_carry_units(drawn: dict[str, DrawnFigure | SkippedFigure]) -> None:
    for name, item in drawn.items():
        if isinstance(item, DrawnFigure) and name.startswith("energy_vs"):
            assert item.figure.axes[0].get_ylabel() in ("Training energy (Wh)", "Training energy (mWh)")
            assert all(ax.get_xlabel() for ax in item.figure.axes)
            assert item.figure.axes[1].get_xscale() == "log"


def test_points_are_drawn_at_their_energies_in_the_unit_of_the_axis() -> None:
    """With nothing but the samples varied no run is moved: the points are the table's own numbers."""
    frame = frame_of(law(), cv=0.02, sizes=(1e9,), tokens=(1e5, 2e5, 4e5, 8e5), replicates=2)
    item = response_against(View(table=as_table(frame), result=validated_fit(as_table(frame))), FACTORS[0])
    assert isinstance(item, DrawnFigure)
    per_kwh = {"kWh": 1, "Wh": 1e3, "mWh": 1e6, "J": 3.6e6}
    scale = per_kwh[item.figure.axes[0].get_ylabel().split("(")[1].rstrip(")")]
    assert scale != 1
    for axes in item.figure.axes:
        [drawn] = [np.asarray(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)]
        expected = frame[["samples", "energy_train_kwh"]].to_numpy() * [1, scale]
        assert np.sort(drawn, axis=0) == pytest.approx(np.sort(expected, axis=0))
    assert "Every run is where it was observed." in item.caption
    assert item.note == ""


def test_the_caption_says_what_every_series_is_held_at() -> None:
    small = pd.concat([frame_of(law(), cv=0.02, sizes=(1e8,)).assign(epochs=float(e)) for e in (1, 2)])
    large = pd.concat([frame_of(law(), cv=0.02, sizes=(1e9,)).assign(rank=rank) for rank in (4.0, 16.0)])
    frame = pd.concat([small, large], ignore_index=True)
    frame["samples"] = frame["samples_seen"] / frame["epochs"]
    frame["run_id"] = [f"run-{i}" for i in range(len(frame))]
    _, held = run_groups(View(table=as_table(frame), result=validated_fit(as_table(frame))), "samples")
    assert "model-0.1b to epochs" in held
    assert "model-1b to rank" in held


def test_what_is_shaded_is_the_margin_asked_for(view: View) -> None:
    item = interchangeability(dataclasses.replace(view, margin=0.1))
    assert isinstance(item, DrawnFigure)
    assert "shaded: what counts as equal, ±10 %." in item.caption
    assert [text.get_text() for text in item.figure.axes[1].texts] == ["margin ± 10 %"]
    shade = item.figure.axes[1].patches[0].get_path().get_extents(item.figure.axes[1].patches[0].get_patch_transform())
    assert (shade.y0, shade.y1) == pytest.approx((-10, 10))


SIZES = (3e6, 3e7, 1e8)


def three_methods(**options: object) -> pd.DataFrame:
    """Three models × three methods, full fine-tuning from cheaper to dearer than LoRA as the model grows."""
    frame = frame_of(law(), cv=0.02, sizes=SIZES, methods=("lora", "qlora", "full"), **options)  # type: ignore[arg-type]
    factor = np.select([frame["method"] == "qlora", frame["method"] == "lora"], [1.2, 1.0], frame["params"] ** 0.1 / 7)
    return frame.assign(energy_train_kwh=frame["energy_train_kwh"] * factor)


def compared(frame: pd.DataFrame) -> DrawnFigure | SkippedFigure:
    return lora_and_full(View(table=as_table(frame), result=validated_fit(as_table(frame))))


def intervals(item: DrawnFigure) -> dict[tuple[str, float], tuple[float, float, float]]:
    """(low, ratio, high) of each point on the right, by the model of its row and its place in that row."""
    axes = item.figure.axes[1]
    names = [label.get_text() for label in axes.get_yticklabels()]
    found = {}
    containers = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    for line, _, bars in (container.lines for container in containers):
        x, y = (float(np.asarray(place).item()) for place in (line.get_xdata(), line.get_ydata()))
        ends = bars[0].get_segments()[0][:, 0] if bars else (np.nan, np.nan)
        found[names[round(y)], round(y % 1, 6)] = (ends[0], x, ends[1])
    return found


def expected_ratio(frame: pd.DataFrame, params: float, method: str) -> float:
    mine = frame[frame["params"] == params]
    logs = mine["energy_train_kwh"].map(np.log).groupby(mine["method"]).mean()
    return float(np.exp(logs["full"] - logs[method]))


@pytest.mark.parametrize("column", ["precision", "gradient_accumulation", "gpu_count", "weights"])
def test_methods_that_differ_in_more_than_the_method_are_not_compared(column: str) -> None:
    frame = three_methods(tokens=(12800.0,), replicates=3)
    values = {"precision": ("bf16", "fp32"), "weights": ("pretrained", "random")}.get(column, (1.0, 2.0))
    item = compared(frame.assign(**{column: np.where(frame["method"] == "full", *values)}))
    assert isinstance(item, SkippedFigure)
    assert item.reason == "no two runs differ in the method (and rank) alone"


def test_repeats_of_one_amount_of_work_give_each_model_its_ratio_and_interval() -> None:
    """As in sweeps/study_method.yaml: one number of samples, three of each."""
    frame = three_methods(tokens=(12800.0,), replicates=3)
    item = compared(frame)
    assert isinstance(item, DrawnFigure)
    assert "(6 matched cells)" in item.caption
    assert item.series == ("lora", "qlora", "full")
    assert sorted(run for ids in item.run_ids.values() for run in ids) == sorted(frame["run_id"])
    left = {str(dots.get_label()): np.asarray(dots.get_offsets()) for dots in item.figure.axes[0].collections}
    for method, offsets in left.items():  # near the row of its model, at its energy
        mine = frame[frame["method"] == method]
        assert sorted(np.round(offsets[:, 1])) == sorted(pd.factorize(mine["params"], sort=True)[0])
    assert "Without an interval" not in item.caption
    found = intervals(item)
    assert len(found) == 6
    ratios = []
    for params in SIZES:
        mine = frame[frame["params"] == params]
        logs = {
            method: np.log(mine["energy_train_kwh"][mine["method"] == method]) for method in mine["method"].unique()
        }
        for method, place in (("lora", 0.8), ("qlora", 0.2)):
            own = stats.ttest_ind(logs["full"], logs[method]).confidence_interval(0.95)
            ratio = expected_ratio(frame, params, method)
            expected = (np.exp(own.low), ratio, np.exp(own.high))
            assert found[mine["model"].iloc[0], place] == pytest.approx(expected)
            ratios.append(ratio)
    assert {f"{ratio:.2f}×" for ratio in ratios} == {text.get_text() for text in item.figure.axes[1].texts}
    assert ratios[0] < 1 < ratios[-2]


def test_single_runs_at_several_amounts_of_work_are_compared_in_pairs() -> None:
    frame = three_methods(tokens=(1e5, 2e5, 4e5, 8e5))
    item = compared(frame)
    assert isinstance(item, DrawnFigure)
    mine = frame[frame["params"] == SIZES[0]].pivot(index="samples", columns="method", values="energy_train_kwh")
    own = stats.ttest_rel(np.log(mine["full"]), np.log(mine["lora"])).confidence_interval(0.95)
    expected = (np.exp(own.low), expected_ratio(frame, SIZES[0], "lora"), np.exp(own.high))
    assert intervals(item)["model-0.003b", 0.8] == pytest.approx(expected)


def test_a_ratio_of_two_runs_stands_without_an_interval_and_it_is_said() -> None:
    item = compared(three_methods(tokens=(12800.0,)))
    assert isinstance(item, DrawnFigure)
    assert all(np.isnan(low) and np.isnan(high) and ratio > 0 for low, ratio, high in intervals(item).values())
    assert "Without an interval, as nothing was repeated: model-0.003b (lora), model-0.03b (lora)" in item.caption


def test_methods_on_different_hardware_are_not_matched() -> None:
    frame = three_methods(tokens=(12800.0,), replicates=3)
    item = compared(frame.assign(hardware=np.where(frame["method"] == "full", "NVIDIA A100", "NVIDIA RTX A4000")))
    assert isinstance(item, SkippedFigure)
    assert item.reason == "no two runs differ in the method (and rank) alone"


def test_runs_are_moved_along_the_fit_by_their_own_ratio(view: View) -> None:
    series, held = run_groups(view, "samples")
    assert "epochs" in held
    observed = dict(zip(view.work.run_ids, view.observed, strict=True))
    far = max(float(y / observed[run]) for one in series for run, y in zip(one.run_ids, one.y, strict=True))
    least = min(float(y / observed[run]) for one in series for run, y in zip(one.run_ids, one.y, strict=True))
    assert f"by a factor of up to {max(far, 1 / least):.3g}" in held
    for one in series:
        fitted = np.interp(np.log(one.x), np.log(one.curve.x), np.log(one.curve.mean.estimate))
        assert np.abs(np.log(one.y) - fitted).max() < 0.12


def put_together() -> pd.DataFrame:
    """Sweeps put together: seven sizes at rank 8 with little work, ranks of one of them, full fine-tuning of two."""
    sizes, parts = (1e7, 2e7, 3e7, 1e8, 3e8, 6e8, 1e9), []
    for method, rank, params, tokens, full in (
        ("lora", 8.0, sizes, (2e4, 4e4), 1.0),
        ("lora", 4.0, (1e8,), (8e4, 1.2e5, 1.6e5, 2.4e5, 3.2e5), 1.0),
        ("lora", 64.0, (1e8,), (8e4, 1.2e5, 1.6e5, 2.4e5, 3.2e5), 1.0),
        ("full", np.nan, (3e7, 1e9), (8e4,), 1.5),
    ):
        frame = frame_of(law(full=full), cv=1e-3, sizes=params, tokens=tokens, methods=(method,), replicates=2)
        parts.append(frame.assign(rank=rank))
    whole = pd.concat(parts, ignore_index=True)
    return whole.assign(run_id=[f"run-{i}" for i in range(len(whole))], model=whole["params"].map("{:g}".format))


def test_methods_share_a_figure_at_the_same_work_whatever_each_was_run_with() -> None:
    """Energy follows FLOPs: LoRA's goes up with the size of the model, and full fine-tuning's lies where its own do."""
    frame = put_together()
    table = as_table(frame)
    series, held = run_groups(View(table=table, result=validated_fit(table)), "params")
    lora, full = ({one.name: one for one in series}[name] for name in ("lora", "full"))
    assert lora.curve.mean.estimate[-1] / lora.curve.mean.estimate[0] == pytest.approx(100, rel=0.1)
    each = (
        frame.assign(per=frame["energy_train_kwh"] / frame["tokens_seen"]).groupby(["method", "params"])["per"].mean()
    )
    there = np.interp(np.log(1e9), np.log(lora.curve.x), np.log(lora.curve.mean.estimate))
    ratio = full.curve.mean.estimate[-1] / np.exp(there)
    assert ratio == pytest.approx(each["full", 1e9] / each["lora", 1e9], rel=0.05)
    assert "parameters" not in held


def test_along_ranks_a_model_is_held_that_was_run_with_several() -> None:
    table = as_table(put_together())
    _, held = run_groups(View(table=table, result=validated_fit(table)), "rank")
    assert "parameters 100 M" in held, held


def test_interval_of_a_run_is_wider_than_that_of_the_mean(view: View) -> None:
    for one in run_groups(view, "tokens")[0]:
        assert (one.curve.new.high - one.curve.new.low > one.curve.mean.high - one.curve.mean.low).all()


def test_files_are_written_with_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep().to_csv(tmp_path / "t.csv", index=False)
    out = tmp_path / "figures"
    assert main(["plot", str(tmp_path / "t.csv"), "--out", str(out), "model=llama-3.2-3b", "samples=20000"]) == 0
    printed = capsys.readouterr().out
    assert "skipped power" in printed
    index = json.loads((out / "captions.json").read_text(encoding="utf-8"))
    names = [item["name"] for item in index["figures"]]
    assert "extrapolation" in names
    for name in names:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.parse(out / f"{name}.svg")


def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    frame = sweep()
    frame["model"] = np.where(frame["params"] > 5e8, NASTY, "plain")
    frame["energy_train_kwh"] *= np.where(frame.index == 3, 4.0, 1.0)
    frame.loc[3, "run_id"] = NASTY
    view = View(table=as_table(frame), result=validated_fit(as_table(frame)))
    for item in (response_against(view, FACTORS[0]), lora_and_full(view), residuals(view)):
        assert isinstance(item, DrawnFigure)
        svg, _ = save(item, tmp_path)
        ElementTree.parse(svg)
        assert "<script" not in svg.read_text(encoding="utf-8")


def test_drawing_leaves_the_callers_settings_alone(view: View) -> None:
    from matplotlib import pyplot

    before = dict(mpl.rcParams)
    residuals(view)
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == []


def test_same_runs_give_the_same_file(tmp_path: Path) -> None:
    found = []
    for folder in ("a", "b"):
        item = residuals(View(table=as_table(sweep()), result=validated_fit(as_table(sweep()))))
        assert isinstance(item, DrawnFigure)
        found.append(save(item, tmp_path / folder)[0].read_bytes())
    assert found[0] == found[1]


def test_poor_tables_skip_with_reasons() -> None:
    frame = frame_of(law(), cv=0.02, sizes=(1e9,), tokens=(1e5,), replicates=4)
    found = {item.name: item for item in figures(as_table(frame))}
    assert {name for name, item in found.items() if isinstance(item, DrawnFigure)} == {"residuals"}
    reason = found["energy_vs_rank"]
    assert isinstance(reason, SkippedFigure)
    assert reason.reason == "`rank` never varied in the fitted runs"


def test_power_over_time(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "run-0"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}", encoding="utf-8")
    rows = ["start,end,phase,gpu_j,cpu_j,ram_j"]
    for i in range(10):
        phase = "setup" if i < 3 else "train"
        rows.append(f"2026-01-01T00:00:{i:02d}+00:00,2026-01-01T00:00:{i + 1:02d}+00:00,{phase},{100 + i},20,")
    (folder / "timeline.csv").write_text("\n".join(rows), encoding="utf-8")
    timeline = read_watts(folder / "timeline.csv")
    assert list(timeline.watts["gpu"]) == pytest.approx([100.0 + i for i in range(10)])
    assert "ram" not in timeline.watts
    assert spans(timeline) == [("setup", 0.0, 3.0), ("train", 3.0, 10.0)]
    table = as_table(frame_of(law(), cv=0.02))
    table = dataclasses.replace(table, sources=(str(tmp_path),))
    view = View(table=table, result=validated_fit(table))
    item = power_figure(view, "run-0")
    assert isinstance(item, DrawnFigure)
    assert "mean 124 W over 10 s" in item.caption
    assert "No figures for: RAM." in item.caption
    [panel] = figure_points(item)["panels"]
    names = figure_points(item)["names"]
    values = [(x, y, names[name]) for _, _, x, y, name, _ in panel["points"]]  # of each part, and not of the stack
    assert values == [(i + 0.5, 100 + i, "GPU") for i in range(10)] + [(i + 0.5, 20, "CPU") for i in range(10)]
    assert item.series == ("GPU", "CPU")
    assert isinstance(power_figure(view, "run-1"), SkippedFigure)


def test_many_runs_are_thinned_and_it_is_said() -> None:
    rows, note = thin(5000)
    assert len(rows) == 1000
    assert "1,000 of 5,000 runs are drawn" in note
    assert thin(10)[1] == ""


def test_a_figure_shows_itself_in_a_notebook(drawn: dict[str, DrawnFigure | SkippedFigure]) -> None:
    item = drawn["energy_vs_samples"]
    assert isinstance(item, DrawnFigure)
    assert item._repr_png_().startswith(b"\x89PNG")


def test_numbers_read_as_people_write_them() -> None:
    assert [short(v) for v in (0, 0.002, 250, 1.6e6, 3e-7, 1e-6)] == ["0", "0.002", "250", "1.6 M", "3×10⁻⁷", "10⁻⁶"]
    assert short(7e9, billions=True) == "7 B"
    assert short(1e18) == "10¹⁸"
    assert ENERGY_KIND.best_unit(np.array([0.002])) == (1e3, "Wh")
    assert ENERGY_KIND.best_unit(np.array([3.0, 1e-9])) == (1.0, "kWh")
    assert TIME_KIND.best_unit(np.array([7200.0])) == (1 / 3600, "h")


def test_labels_of_lines_do_not_overlap() -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4))
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1])
    label_lines(ax, [(1, 0.5, "a", "red"), (1, 0.5001, "b", "blue"), (1, 0.5002, "c", "green")])
    heights = sorted(text.xyann[1] for text in ax.texts)  # type: ignore[attr-defined]
    assert min(np.diff(heights)) >= 0.06


def unlike_models() -> pd.DataFrame:
    """Times of two models of unknown size: 0.01 and 0.3 s a sample, three runs of each."""
    frame = pd.DataFrame(
        [{"samples": n, "epochs": 1, "model": m, "train_s": s * n} for n in (500, 1000, 2000, 4000) for _ in range(3)
         for m, s in (("tiny", 0.01), ("huge", 0.3))]
    )  # fmt: skip
    noise = np.exp(0.02 * np.random.default_rng(1).standard_normal(len(frame)))
    return frame.assign(train_s=frame["train_s"] * noise)


def test_residuals_are_ratios_on_a_logarithmic_axis() -> None:
    frame = unlike_models()
    frame["train_s"] = frame["train_s"].where(frame.index != 5, 40 * frame["train_s"])
    table = load_runs(frame, response="time")
    item = residuals(View(table=table, result=validated_fit(table)))
    assert isinstance(item, DrawnFigure)
    [ax] = item.figure.axes
    assert (ax.get_yscale(), ax.get_ylabel()) == ("log", "Observed ÷ fitted")
    drawn = np.concatenate([np.asarray(part.get_offsets())[:, 1] for part in ax.collections])
    assert drawn.min() > 0  # per cent of the fit would be from -100 to 2,500
    assert drawn.max() > 10
    assert ax.get_ylim()[0] < drawn.min() < drawn.max() < ax.get_ylim()[1]


def test_models_of_unknown_size_have_levels_of_their_own_and_captions_say_what_is_pooled() -> None:
    """A line for each, whose slope and level are those of the law; and a curve that no form follows is said."""
    table = load_runs(unlike_models(), response="time")
    view = View(table=table, result=validated_fit(table))
    for one in run_groups(view, "samples")[0]:
        assert one.curve.mean.estimate / one.curve.x == pytest.approx({"tiny": 0.01, "huge": 0.3}[one.name], rel=0.05)
    caption = view.caption("")
    assert "One fit of all: 2 models (a level of its own for each)." in caption
    assert "Its best form fits (lack of fit p = " in caption
    bent = unlike_models().query("model == 'tiny'")
    bent = bent.assign(train_s=bent["train_s"] * np.where(bent["samples"] > 2000, 6, 1))
    table = load_runs(bent, response="time")
    caption = View(table=table, result=validated_fit(table)).caption("")
    assert "Its best form does not fit (lack of fit p = " in caption
    assert "One fit of all" not in caption


def test_ticks_that_would_overlap_are_not_drawn() -> None:
    figure, [ax] = canvas(1)
    ax.plot([1000, 8000], [1, 2])
    log_axis(ax, "x")
    before = list(ax.get_xticks())
    level_ticks(ax, np.array([1000, 1010, 1100, 8000]))
    assert list(ax.get_xticks()) == before
    level_ticks(ax, np.array([1000, 2000, 4000, 8000]))
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
