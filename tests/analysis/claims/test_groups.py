"""Groups that may differ decide alone: devices, models, data sets."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.oneway import anova_generic

from analysis.claims.context import ClaimContext
from analysis.claims.decide import decide
from analysis.claims.groups import pooling_p
from analysis.claims.linear import linear
from analysis.claims.registry import CLAIMS
from analysis.claims.verdicts import Claim, Options
from analysis.tables.response import choose_response
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import Sweep
from benchmarks.tables_in_groups import groups

SMALL = Sweep(samples=(32, 64, 128, 256, 512), replicates=3, zero=3)


def frame_of(exponents: Mapping[str, float], column: str = "hardware", cv: float = 0.01, seed: int = 0) -> pd.DataFrame:
    return groups(column, exponents, SMALL, cv=cv, fixed=0.2)(np.random.default_rng(seed))


def linear_claim(frame: pd.DataFrame) -> Claim:
    return decide(table_from_frame(frame), Options(), asked=CLAIMS[:1]).claims[0]


def test_devices_that_differ_get_no_verdict_together() -> None:
    frame = frame_of({"A100": 1.0, "H100": 1.12})
    context = ClaimContext(choose_response(table_from_frame(frame)), Options(), ())
    assert linear(context, "samples").estimate == pytest.approx(1.06, abs=0.01)  # together, true of neither
    found = linear_claim(frame)
    assert found.verdict == "undecided"
    assert found.reason.startswith("Undecided: it depends on the device (p = ")
    assert {name: own["verdict"] for name, own in found.tests["by_group"].items()} == {
        "A100": "supported", "H100": "refuted",
    }  # fmt: skip
    assert found.needs is not None
    assert "No more runs settle it" in found.needs.message


def test_groups_that_differ_and_agree_have_the_verdict_of_each() -> None:
    found = linear_claim(frame_of({"short": 0.88, "long": 0.8}, "data"))
    assert found.verdict == "refuted"
    assert found.p_value == max(own["p"] for own in found.tests["by_group"].values())
    assert "By data set (they differ, p = " in found.reason


def test_a_group_whose_runs_cannot_be_judged_alone_has_no_say() -> None:
    frame = frame_of({"short": 0.92, "long": 0.75, "other": 0.8}, "data")
    few = frame[(frame["data"] != "other") | (frame["samples"] == 64)]
    found = linear_claim(few)
    assert found.verdict == "refuted", found.reason
    assert found.tests["by_group"]["other"]["verdict"] == "undecided"
    assert "not judged, for want of such runs: other" in found.reason


def test_groups_that_do_not_differ_are_decided_together() -> None:
    found = linear_claim(frame_of({"m1": 1.0, "m2": 1.0}, "model", cv=0.02, seed=2))
    assert found.verdict == "supported"
    assert (found.tests["group_by"], found.tests["groups_alike_p"] > 0.25) == ("model", True)


def test_the_test_of_poolability_is_welchs() -> None:
    n, values, errors = [8, 12, 9], [1.0, 1.05, 0.98], [0.02, 0.03, 0.01]

    def own(value: float, se: float, df: int) -> Claim:
        half = stats.t.ppf(0.95, df) * se
        ends = (float(value - half), float(value + half))
        return Claim(
            id="x", verdict="undecided", estimate=value, ci=ends, quantity="", reason="", tests={"df": df}
        )  # fmt: skip

    claims = {str(i): own(v, s, k - 1) for i, (v, s, k) in enumerate(zip(values, errors, n, strict=True))}
    variances = [k * s**2 for k, s in zip(n, errors, strict=True)]
    expected = anova_generic(np.array(values), np.array(variances), np.array(n), use_var="unequal").pvalue
    assert pooling_p(claims, Options()) == pytest.approx(expected, rel=1e-9)
    unknown = own(1.0, math.nan, 5)
    assert pooling_p({"0": claims["0"], "1": unknown}, Options()) is None
