"""What deciding a claim would cost: by the method and the model of the runs that are asked for."""

import numpy as np
import pandas as pd
import pytest

from analysis.claims import decide
from analysis.needs import energy_line, sweep_needs
from analysis.processes import Sweep, curve
from analysis.response import choose_response
from analysis.table import table_from_frame
from analysis.verdicts import Options


def runs(**columns: object) -> pd.DataFrame:
    """Exact energies of 3.2e-4 + 2e-5·samples kWh."""
    frame = Sweep(zero=0).draw(np.random.default_rng(0), columns)
    return frame.assign(energy_kwh=curve(frame, fixed=0.5))


def table(frame: pd.DataFrame) -> pd.DataFrame:
    return choose_response(table_from_frame(frame)).frame


def both_methods() -> pd.DataFrame:
    lora, full = runs(method="lora", rank=8.0, model="ladder-1m"), runs(method="full", model="ladder-1m")
    full["energy_kwh"] *= 3
    return pd.concat([lora, full], ignore_index=True).assign(run_id=lambda f: [f"r{i}" for i in range(len(f))])


def test_each_method_costs_what_its_own_runs_did() -> None:
    frame = table(both_methods())
    own = 3.2e-4 + 2e-5 * 100
    assert energy_line(frame, ["method=lora"])(100) == pytest.approx(own, rel=1e-6)
    assert energy_line(frame, ["method=full"])(100) == pytest.approx(3 * own, rel=1e-6)
    needs = sweep_needs(frame, message="", samples=[100], epochs=[1], replicates=4, extra=("method=lora,full",))
    assert needs.runs == 8
    assert needs.energy_kwh == pytest.approx(4 * (own + 3 * own), rel=0.01)


def test_a_method_or_model_that_was_never_run_is_scaled_by_its_flops() -> None:
    frame = table(runs(method="lora", rank=8.0, model="ladder-1m"))
    one = energy_line(frame, ["method=lora", "model=ladder-1m"])(256)
    assert energy_line(frame, ["method=full"])(256) == pytest.approx(1.5 * one)
    ten = energy_line(frame, ["model=ladder-10m"])(256)
    # by hand: layers × (attention + gated MLP) + head, of the two presets
    small = 4 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 384) + 128 * 4096
    assert ten / one == pytest.approx(
        (8 * (320 * 320 * 2 + 320 * 160 * 2 + 3 * 320 * 864) + 320 * 4096) / small, rel=0.1
    )
    assert energy_line(frame, ["model=somebody/elses"])(256) == pytest.approx(one)


def test_the_claims_on_methods_and_sizes_quote_the_dear_runs() -> None:
    report = decide(table_from_frame(runs(method="lora", rank=8.0, model="ladder-1m")), Options())
    frame = report.response.frame
    one = energy_line(frame)(float(frame["samples_seen"].median()))
    sizes, methods = (claim.needs for claim in report.claims if claim.id in ("size_exponent", "full_vs_lora"))
    assert sizes is not None
    assert methods is not None
    assert sizes.energy_kwh is not None
    assert sizes.energy_kwh > 5 * 15 * one  # fifteen runs, of up to a hundred times the size
    assert methods.energy_kwh is not None
    assert methods.energy_kwh > 8 * one


def test_runs_of_another_method_are_none_that_the_table_has() -> None:
    frame = table(both_methods().query("method == 'full' or samples > 32"))
    needs = sweep_needs(frame, message="", samples=[32], epochs=[1], replicates=3, extra=("method=lora", "lora.r=8"))
    assert needs.runs == 3


def test_new_runs_join_the_study() -> None:
    needs = sweep_needs(
        table(runs(study="mine", model="ladder-1m")), message="", samples=[1], epochs=[1], replicates=1, zero_runs=2
    )
    assert needs.command is not None
    assert needs.command.count("study=mine") == 2
    other = sweep_needs(table(runs(study="not a folder!")), message="", samples=[1], epochs=[1], replicates=1)
    assert "study" not in (other.command or "")


def test_runs_that_are_there_are_not_asked_for_again_method_by_method() -> None:
    """Three of each method at 32 samples, one of them left out: two more of the one, three of the other make five."""
    frame = both_methods()
    frame = table(frame[~((frame["method"] == "full") & (frame["samples"] == 32) & (frame["replicate"] == 0))])
    needs = sweep_needs(frame, message="", samples=[32], epochs=[1], replicates=5, extra=("method=lora,full",))
    own = 3.2e-4 + 2e-5 * 32
    assert needs.runs == 2 + 3
    assert needs.energy_kwh == pytest.approx((2 + 3 * 3) * own, rel=0.01)


def test_runs_without_the_setting_that_is_asked_for_do_not_count() -> None:
    frame = table(runs(method="lora", rank=8.0, model="ladder-1m"))
    needs = sweep_needs(frame, message="", samples=[32, 74], epochs=[1], replicates=3, extra=("padding=max_length",))
    assert needs.runs == 6
    assert needs.energy_kwh == pytest.approx(3 * (2 * 3.2e-4 + 2e-5 * (32 + 74)), rel=0.02)
