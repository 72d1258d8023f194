"""Every part of an interval is in it: parameters, noise, fixed part, form beyond the data, memory; each by hand."""

import math
from statistics import NormalDist

import pytest

from analysis import load_runs
from lora_scaling.config import compose
from lora_scaling.estimate import estimate
from lora_scaling.estimate.fit_file import Prediction, load_fit
from lora_scaling.estimate.priors import load_priors
from tests.support.fit_files import target, written
from tests.support.paths import ROOT

stats = pytest.importorskip("scipy.stats")

STUDY = ROOT / "docs" / "study" / "runs"

SIGMA, DF = 0.05, 20
T = stats.t.ppf(0.95, DF)
TRAIN_J = 1e6 * 2e-9 * 1e7  # tokens × J a FLOP × FLOPs a token


def changed(**values: object) -> dict:
    model = {
        "name": "gamma free", "weight": 1.0, "params": {"alpha": math.log(2e-9), "gamma": 1.0},
        "param_names": ["alpha", "gamma"], "covariance": [[0.0, 0.0], [0.0, 0.0]], "df": DF, "sigma": SIGMA,
    }  # fmt: skip
    return {"models": [model | values]}


def up(found: Prediction) -> float:
    return math.log(found.high / found.estimate)


def test_uncertain_parameters_widen_by_their_covariance(tmp_path):
    variance = [[0.04, -0.002], [-0.002, 0.00015]]
    found = load_fit(written(tmp_path, **changed(covariance=variance))).predict(target(), 0.9)
    x = math.log(1e7)
    of_parameters = variance[0][0] + 2 * x * variance[0][1] + x * x * variance[1][1]
    assert up(found) == pytest.approx(T * math.sqrt(SIGMA**2 + of_parameters))
    assert found.low == pytest.approx(found.estimate / math.exp(up(found)))


def test_what_a_run_costs_besides_training_is_added_with_its_own_spread(tmp_path):
    fixed = {"energy_j": {"mean": 5000.0, "sd": 400.0, "n": 4}}
    found = load_fit(written(tmp_path, fixed=fixed)).predict(target(), 0.9)
    assert found.estimate * 3.6e6 == pytest.approx(TRAIN_J + 5000)
    half = stats.t.ppf(0.95, 3) * 400 * math.sqrt(1 + 1 / 4)  # one more run, not the mean of four
    train_up = TRAIN_J * (math.exp(T * SIGMA) - 1)
    assert (found.high - found.estimate) * 3.6e6 == pytest.approx(math.hypot(train_up, half))


def test_beyond_the_data_the_form_s_own_spread_grows_with_the_distance(tmp_path):
    fit = load_fit(written(tmp_path, beyond={"flops_per_token": 0.3}))
    assert up(fit.predict(target(), 0.9)) == pytest.approx(T * SIGMA)
    for factor in (10, 100):
        found = fit.predict(target(flops=1e8 * factor), 0.9)
        assert up(found) == pytest.approx(T * math.hypot(SIGMA, 0.3 * math.log(factor)))
        assert [item["factor"] for item in found.extrapolates] == [pytest.approx(factor)]


@pytest.mark.parametrize(("exponent", "factor"), [(-0.5, 0.1), (0.5, 10.0)])
def test_noise_that_varies_with_the_work_is_never_less_than_within_the_data(tmp_path, exponent, factor):
    """Falling noise stops falling at the end of the data (10 times the reference here), rising noise goes on."""
    noise = {"variable": "tokens", "reference": 1e5, "exponent": exponent, "range": [1e4, 1e6]}
    fit = load_fit(written(tmp_path, **changed(noise=noise)))
    inside = target()
    assert up(fit.predict(inside, 0.9)) == pytest.approx(T * SIGMA * 10**exponent)
    beyond = type(inside)(values={"tokens": 1e7, "flops_per_token": 1e7}, labels=inside.labels)
    expected = T * SIGMA * (10**exponent if exponent < 0 else factor)
    assert up(fit.predict(beyond, 0.9)) == pytest.approx(expected)


def test_two_models_that_disagree_make_a_wide_mixture(tmp_path):
    one = changed()["models"][0]
    two = one | {"name": "other", "weight": 1.0, "params": {"alpha": math.log(8e-9), "gamma": 1.0}}
    found = load_fit(written(tmp_path, models=[one, two])).predict(target(), 0.9)
    assert found.low * 3.6e6 < TRAIN_J
    assert found.high * 3.6e6 > 4 * TRAIN_J


def test_peaks_on_a_processor_are_near_those_of_the_study():
    """Its runs are of lengths that vary; a GPU would keep blocks of each."""
    runs = load_runs([STUDY / name for name in ("linear", "size", "method", "smollm2")]).frame
    settings = ["model", "method", "batch_size", "max_seq_len"]
    runs = runs[runs["samples_seen"] > 0].astype({"batch_size": int, "max_seq_len": int})
    measured = runs.groupby(settings)["peak_memory_gb"].median().reset_index()
    sheet = ["hardware=custom", "hardware.kind=cpu", "hardware.memory_gb=32", "precision=fp32"]
    inside = 0
    for row in measured.to_dict("records"):
        words, peak = [f"{name}={row[name]}" for name in settings], row["peak_memory_gb"]
        found = estimate(compose([*words, *sheet])).memory.peak_gb
        inside += found.low < peak < found.high
        assert found.estimate == pytest.approx(peak, rel=0.51), words
    assert len(measured) >= 10
    assert inside >= 0.9 * len(measured)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_peak_memory_has_the_interval_of_its_level(level):
    sheet = ["model=llama-3.1-8b", "method=lora", "hardware=mi300x", "hardware.memory_gb=900",
             "max_seq_len=512"]  # fmt: skip
    z, spread = NormalDist().inv_cdf(0.5 + level / 2), load_priors().log_sd
    packed = estimate(compose([*sheet, "packing=true"]), level=level).memory.peak_gb
    assert math.log(packed.high / packed.low) == pytest.approx(2 * z * spread["memory"])
    varying = estimate(compose(sheet), level=level).memory  # blocks of every length are kept, if there is room for them
    needed = varying.peak_gb.low * math.exp(z * spread["memory"])
    assert varying.allocated_gb < needed < varying.peak_gb.estimate
    upwards = math.hypot(spread["memory"], spread["memory_varying"])
    assert math.log(varying.peak_gb.high / varying.peak_gb.estimate) == pytest.approx(z * upwards)
    full = estimate(
        compose([*sheet[:2], "hardware=mi300x", "hardware.memory_gb=60", "max_seq_len=512"]), level=level
    ).memory
    assert full.fits
    assert needed < full.peak_gb.estimate == 60 < varying.peak_gb.estimate
