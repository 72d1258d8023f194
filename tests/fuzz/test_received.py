"""Whatever a received record, timeline, table or fit holds, its readers give possible numbers or one sentence."""

import contextlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.claims.decide import decide
from analysis.claims.verdicts import Options
from analysis.energy_model.target import own_settings
from analysis.jsonout import dumps
from analysis.tables.table import load_runs
from lora_scaling.commands.emissions import main as emissions
from lora_scaling.config import compose
from lora_scaling.errors import LoraScalingError, RecordError, UserError
from lora_scaling.estimate.fit_file import load_fit
from lora_scaling.grid import GridSettings, compute_emissions, read_timeline
from lora_scaling.grid.http import Client
from lora_scaling.grid.series import GridError
from lora_scaling.records import find_records, is_finished, read_record
from lora_scaling.runs.progress import table
from tests.support.fit_files import target, written
from tests.support.fuzzing import (
    LEAVES,
    NASTY,
    TEXTS,
    UNPRINTABLE,
    assert_possible,
    assert_sentence,
    damaged,
    numbers_of,
    soon,
    tried,
    write,
)
from tests.support.paths import STUDY_RUNS

SOURCE = json.loads(find_records([STUDY_RUNS / "linear"])[0].read_text())
TIMELINE = "start,end,phase,gpu_j,cpu_j,ram_j\n2026-11-25T10:00:00+00:00,2026-11-25T10:10:00+00:00,train,,100.0,50.0\n"
# Columns whose numbers are energies, times, grams and counts, which are never negative.
AMOUNTS = [
    "energy_kwh", "energy_train_kwh", "energy_cpu_kwh", "energy_ram_kwh", "energy_uncertainty_kwh", "total_s",
    "train_s", "setup_s", "emissions_g", "intensity_g_per_kwh", "idle_power_w", "samples_seen", "tokens_seen",
    "flops", "params",
]  # fmt: skip


def unreachable(*_: object) -> None:
    raise GridError("no grid service in a fuzz")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ELECTRICITYMAPS_TOKEN", raising=False)
    monkeypatch.setattr(Client, "get_json", unreachable)


def test_records(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "received"
    folder.mkdir(parents=True)
    path = folder / "run.json"
    composed: set[tuple[str, ...]] = set()
    read = 0

    @tried(20)
    @given(text=damaged(SOURCE))
    def check(text: str) -> None:
        nonlocal read
        write(path, text)
        (folder / "timeline.csv").write_text(TIMELINE)
        is_finished(path)
        try:
            stored = read_record(path)
        except RecordError as error:
            assert_sentence(error)
        else:
            read += 1
            table([dict(stored)])
        with soon():
            runs = load_runs([tmp_path])
            assert len(runs.frame) + len(runs.excluded) == 1
            for name in AMOUNTS:
                assert_possible(*(value for value in runs.frame[name] if not np.isnan(value)))
            assert not UNPRINTABLE.search(dumps([runs.excluded, runs.warnings]))
            if (words := tuple(own_settings(runs.frame))) not in composed:  # most are those of the record as it was
                composed.add(words)
                with contextlib.suppress(UserError):
                    compose(words)
        out, err = io.StringIO(), io.StringIO()
        with soon(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = emissions([str(tmp_path), "--json"])
        assert status in (0, 2), err.getvalue()
        assert not UNPRINTABLE.search(out.getvalue() + err.getvalue())
        if status == 0:
            [run] = json.loads(out.getvalue(), parse_constant=pytest.fail)["runs"]
            if run["emissions"]:
                assert_possible(*(run["emissions"][name] for name in ("grams", "energy_kwh", "intensity_g_per_kwh")))

    check()
    assert read


CELLS = st.one_of(
    TEXTS, st.sampled_from(["2026-11-25T10:00:00+00:00", "2026-11-25T10:10:00Z", "100.0", "-1", "train", "50"])
)


def test_timelines(tmp_path: Path) -> None:
    path = tmp_path / "timeline.csv"
    rows = [str(line).split(",") for line in TIMELINE.splitlines()] * 2

    @tried(40)
    @given(
        cells=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), CELLS), max_size=3),
        more=st.lists(st.lists(CELLS, max_size=8), max_size=2),
        tail=TEXTS,
    )
    def check(cells: list[tuple[int, int, str]], more: list[list[str]], tail: str) -> None:
        table: list[list[str]] = [list(row) for row in (rows[0], rows[1], rows[1], rows[3])] + more
        for row, column, cell in cells:
            table[row][column] = cell
        write(path, "\n".join(",".join(row) for row in table) + tail)
        with soon():
            try:
                bins = read_timeline(path)
            except RecordError as error:
                assert_sentence(error)
                return
            for zone in (None, "GB"):
                revision = compute_emissions(bins, GridSettings(zone=zone, provider="static"), now=datetime.now(UTC))
                assert_possible(revision.grams, revision.energy_kwh, revision.intensity_g_per_kwh)
                assert_possible(*revision.coverage.values())

    check()


COLUMNS = [
    "run_id", "samples", "epochs", "energy_kwh", "train_s", "total_s", "model", "method", "rank", "started_at",
    "hardware", "params", "emissions_g", "status", "study", "settings_override", "model_override", "tokens_seen",
]  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, str]:
    """(suffix, text): runs of an energy in proportion, of which some cells, names and lines are hurt."""
    names = ["samples", "epochs", "energy_kwh", *draw(st.lists(st.sampled_from(COLUMNS) | TEXTS, max_size=4))]
    count = draw(st.integers(0, 12))
    noise = np.random.default_rng(draw(st.integers(0, 9))).normal(0, 0.02, (count, 1))
    lines = [
        [8 * 2 ** (i % 5), 1, round(0.001 * 2 ** (i % 5) * float(np.exp(noise[i, 0])), 9), *draw_row(draw, names[3:])]
        for i in range(count)
    ]
    for _ in range(draw(st.integers(0, 3)) if count else 0):
        row, column = draw(st.integers(0, count - 1)), draw(st.integers(0, len(names) - 1))
        lines[row][column] = draw(LEAVES)
    kind = draw(st.sampled_from([".csv", ".jsonl", ".json"]))
    if kind == ".csv":
        mark = draw(st.sampled_from([",", ";", "\t"]))
        return kind, "\n".join(mark.join(map(str, line)) for line in [names, *lines]) + draw(st.just("") | TEXTS)
    objects = [dict(zip(names, line, strict=True)) for line in lines]
    if kind == ".json":
        return kind, draw(damaged(objects)) if objects else draw(TEXTS)
    return kind, "\n".join([*map(json.dumps, objects), draw(st.just("") | TEXTS)])


def draw_row(draw: st.DrawFn, names: list[str]) -> list[object]:
    common = st.sampled_from(["ladder-1m", "lora", "ok", 4, 1.5, "2026-11-25T10:00:00Z", None, 10**9, "lora.r=4"])
    return [draw(common | NASTY) for _ in names]


def test_tables(tmp_path: Path) -> None:
    decided = 0

    @tried(25)
    @given(made=tables())
    def check(made: tuple[str, str]) -> None:
        nonlocal decided
        suffix, text = made
        path = tmp_path / f"runs{suffix}"
        write(path, text)
        with soon():
            try:
                runs = load_runs(path)
            except LoraScalingError as error:
                assert_sentence(error)
                return
            for name in AMOUNTS:
                assert_possible(*(value for value in runs.frame[name] if not np.isnan(value)))
            try:
                document = decide(runs, Options()).document()
            except LoraScalingError as error:
                assert_sentence(error)
                return
            decided += 1
            text = dumps(document)
            assert not UNPRINTABLE.search(text)
            for claim in json.loads(text, parse_constant=pytest.fail)["claims"]:
                needs = claim["needs"] or {}
                assert_possible(*numbers_of([needs.get("energy_kwh"), needs.get("runs")]))

    check()
    assert decided


def test_fit_files(tmp_path: Path) -> None:
    path = written(tmp_path)
    fit = json.loads(path.read_text())
    model = fit["models"][0]
    model |= {
        "terms": {"alpha": "1", "gamma": "log(flops_per_token)"},
        "noise": {"variable": "tokens", "reference": 1e6, "exponent": -0.5, "range": [1e5, 1e7]},
        "per": "tokens",
    }
    fit |= {
        "time": {"models": [model]},
        "fixed": {"energy_j": {"mean": 10.0, "sd": 2.0, "n": 5}, "time_s": {"mean": 1.0, "sd": 0.1, "n": 5}},
        "beyond": {"flops_per_token": 0.1}, "session": {"sd": 0.02}, "gpu_counts": [1], "precisions": ["bf16"],
        "floor": {"energy_j_per_flop": 1e-13, "time_s_per_flop": 1e-15},
        "counting": {"padding": True, "by_parameters": False},
    }  # fmt: skip
    predicted = 0

    @tried(60)
    @given(text=damaged(fit), flops=st.floats(1e3, 1e12))
    def check(text: str, flops: float) -> None:
        nonlocal predicted
        write(path, text)
        with soon():
            try:
                found = load_fit(path)
                asked = target(flops)
                for prediction in (found.predict(asked), found.predict_time(asked)):
                    if prediction is not None:
                        assert_possible(prediction.low, prediction.estimate, prediction.high)
                        assert prediction.low <= prediction.estimate <= prediction.high
                        predicted += 1
            except UserError as error:
                assert_sentence(error)

    check()
    assert predicted
