"""Predictions from fit.json, and the quantiles they rest on."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scaling.config import compose
from lora_scaling.errors import UserError
from lora_scaling.estimate import estimate
from lora_scaling.estimate.fit_file import load_fit
from lora_scaling.estimate.quantiles import Mixture, t_cdf, t_quantile
from tests.support.fit_files import target, written

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("df", [1, 2, 3.5, 12, 200, 1e4, math.inf])
@pytest.mark.parametrize("p", [0.01, 0.05, 0.3, 0.5, 0.95, 0.999])
def test_quantiles_of_t_are_scipys(df, p):
    wanted = stats.norm.ppf(p) if math.isinf(df) else stats.t.ppf(p, df)
    assert t_quantile(p, df) == pytest.approx(wanted, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("df", [1, 2.5, 30, 5000, math.inf])
def test_probabilities_of_t_are_scipys(df):
    t = np.linspace(-30, 30, 601)
    wanted = stats.norm.cdf(t) if math.isinf(df) else stats.t.cdf(t, df)
    assert t_cdf(t, df) == pytest.approx(wanted, abs=1e-10)


COMPONENTS = st.lists(
    st.tuples(st.floats(0.1, 5), st.floats(-50, 50), st.floats(0.01, 10), st.floats(1, 50)), min_size=1, max_size=4
)


@given(COMPONENTS, st.floats(0.02, 0.98))
def test_a_mixtures_quantile_has_the_probability_asked_for(components, p):
    weight, location, scale, df = map(np.array, zip(*components, strict=True))
    mixture = Mixture(weight=weight[:, None], location=location[:, None], scale=scale[:, None], df=df)
    (x,) = mixture.quantile(p)
    assert weight @ stats.t.cdf((x - location) / scale, df) / weight.sum() == pytest.approx(p)


def test_each_run_has_a_mixture_of_its_own():
    rng = np.random.default_rng(2)
    weight, df = np.array([0.2, 0.5, 0.3]), np.array([2.0, 9.0, 40.0])
    location, scale = rng.normal(size=(3, 5)), rng.uniform(0.1, 2, size=(3, 5))
    found = Mixture(weight=weight[:, None], location=location, scale=scale, df=df).quantile(0.95)
    for j, x in enumerate(found):
        assert weight @ stats.t.cdf((x - location[:, j]) / scale[:, j], df) == pytest.approx(0.95)


def test_a_mixture_of_distant_modes_has_its_quantile_in_the_gap():
    mixture = Mixture(
        weight=np.ones((2, 1)), location=np.array([[0.0], [1e4]]), scale=np.full((2, 1), 1e-3), df=np.full(2, 30.0)
    )
    assert 0 < mixture.quantile(0.5)[0] < 1e4
    assert mixture.quantile(0.25)[0] == pytest.approx(0, abs=1e-8)
    assert mixture.quantile(0.75)[0] == pytest.approx(1e4, abs=1e-7)


def test_a_component_without_spread_is_certain():
    mixture = Mixture(weight=np.ones((1, 1)), location=np.ones((1, 1)), scale=np.zeros((1, 1)), df=np.array([5.0]))
    assert mixture.quantile(0.95)[0] == pytest.approx(1.0)


def test_a_prediction_is_the_model_with_ts_spread(tmp_path):
    found = load_fit(written(tmp_path)).predict(target(), 0.9)
    joules = 1e6 * 2e-9 * 1e7
    half = 0.05 * stats.t.ppf(0.95, 20)
    assert found.estimate == pytest.approx(joules / 3.6e6)
    assert found.low == pytest.approx(joules / 3.6e6 * math.exp(-half))
    assert found.high == pytest.approx(joules / 3.6e6 * math.exp(half))
    assert found.extrapolates == ()


def test_what_lies_outside_the_data_is_named_with_its_factor_and_widens(tmp_path):
    fit = load_fit(written(tmp_path))
    inside, outside = fit.predict(target(), 0.9), fit.predict(target(flops=1e9, method="full"), 0.9)
    named = {item["variable"]: item["factor"] for item in outside.extrapolates}
    assert named["flops_per_token"] == pytest.approx(10)
    assert named["method"] is None
    assert outside.high / outside.low > 1.5 * inside.high / inside.low
    assert fit.predict(target(flops=1.004e8), 0.9).extrapolates == ()  # "1× beyond" says nothing


def test_a_fit_of_other_hardware_is_refused(tmp_path):
    fit = load_fit(written(tmp_path))
    fit.predict(target(hardware="rtx-a4000"))
    with pytest.raises(UserError, match=r"fitted on NVIDIA RTX A4000, not on h100-sxm"):
        fit.predict(target(hardware="h100-sxm"))


JOB = ("model=llama-3.2-1b", "hardware=h100-sxm", "gradient_checkpointing=true", "samples=1000", "batch_size=4")


def test_a_fit_of_the_same_card_is_known_by_its_drivers_name(tmp_path):
    """As PyTorch names an H100 in the records that the fit was made from."""
    fit = load_fit(written(tmp_path, hardware=["NVIDIA H100 80GB HBM3"]))
    assert estimate(compose(JOB), fit=fit).basis == "fit"
    with pytest.raises(UserError, match="not on h100-pcie"):
        estimate(compose([*JOB, "hardware=h100-pcie"]), fit=fit)


def test_a_fit_answers_for_as_many_devices_as_it_has_seen(tmp_path):
    seen = {"hardware": ["NVIDIA H100 80GB HBM3"], "gpu_counts": [1, 4]}
    fit = load_fit(written(tmp_path, **seen))
    assert estimate(compose([*JOB, "hardware.count=4", "gradient_accumulation=4"]), fit=fit).basis == "fit"
    with pytest.raises(UserError, match=r"hardware\.count: got 8; .*fit\.json was fitted on runs of 1, 4: "):
        estimate(compose([*JOB, "hardware.count=8", "gradient_accumulation=8"]), fit=fit)
    silent = load_fit(written(tmp_path, hardware=["NVIDIA H100 80GB HBM3"]))  # it does not say
    assert estimate(compose([*JOB, "hardware.count=8", "gradient_accumulation=8"]), fit=silent).basis == "fit"


@pytest.mark.parametrize(("precisions", "unseen"), [(["bf16"], []), (["fp32"], ["precision"])])
def test_a_fit_is_asked_about_the_precision_that_auto_becomes(tmp_path, precisions, unseen):
    fit = load_fit(written(tmp_path, hardware=["NVIDIA H100 80GB HBM3"], precisions=precisions))
    found = estimate(compose([*JOB, "precision=auto"]), fit=fit)
    assert [item["variable"] for item in found.extrapolates if item["factor"] is None] == unseen


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "other"}, "not an energy fit"),
        ({"schema_version": 9}, "schema_version 9"),
        ({"models": [{"name": "x"}]}, "damaged"),
        ({"models": []}, "damaged"),
    ],
)
def test_a_file_that_is_no_fit_is_refused_in_one_sentence(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        load_fit(written(tmp_path, **changes))


def test_a_missing_or_garbled_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_fit(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_fit(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sigma": -0.1}, "weight, sigma: -0.1"),
        ({"weight": 0}, "no model has weight"),
        ({"params": {"alpha": math.nan, "gamma": 1.0}}, "params: nan"),
        ({"params": {"alpha": 10**400, "gamma": 1.0}}, "too large"),
        ({"covariance": [[1.0]]}, "covariance is not 2 × 2"),
        ({"df": 0}, "df is not above 0"),
        ({"terms": {"gamma": "saturation(flops_per_token, 0.0.1)"}}, "0.0.1"),
        ({"noise": {"variable": "tokens", "reference": 0, "exponent": 1, "range": [1, 2]}}, "noise.reference"),
        ({"params": {"alpha": 5000.0, "gamma": 1.0}}, "no possible number"),
    ],
)
def test_a_fit_from_elsewhere_predicts_possible_numbers_or_is_refused(change, said, tmp_path):
    path = written(tmp_path)
    values = json.loads(path.read_text())
    values["models"][0] |= change
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="fit: got .*" + re.escape(said)):
        load_fit(path).predict(target())


def test_a_fit_nested_beyond_measure_is_refused(tmp_path):
    path = tmp_path / "fit.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="is not JSON"):
        load_fit(path)
