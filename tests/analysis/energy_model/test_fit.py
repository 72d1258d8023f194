"""`fit`: known laws come back, the numbers are those of independent arithmetic, the file says what it is."""

import dataclasses
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.regression.linear_model import RegressionResults

from analysis.cli import main
from analysis.energy_model.backtest import backtest
from analysis.energy_model.energy_fit import fit_table
from analysis.energy_model.validated_fit import validated_fit
from analysis.tables.run_quantities import group_levels
from benchmarks.interval_coverage import as_table
from lora_scaling.config.devices import same_device
from lora_scaling.errors import UserError
from lora_scaling.estimate.fit_file import load_fit, training_bands
from lora_scaling.estimate.terms import Target, contributions
from tests.support.fit_tables import J_PER_FLOP, frame_of, law, table_of


def best(document: dict) -> dict:
    return document["models"][0]


def test_power_law_in_size_is_recovered_exactly() -> None:
    document = fit_table(frame_of(law(lambda f: (f / 1e9) ** -0.2))).document
    model = best(document)
    assert model["name"] == "power"
    assert model["params"]["gamma"] == pytest.approx(0.8, abs=1e-9)
    assert math.exp(model["params"]["alpha"]) == pytest.approx(J_PER_FLOP * (1e9) ** 0.2, rel=1e-6)


@pytest.mark.parametrize(
    ("power", "name"), [(0.5, "saturating-slowly"), (1.0, "saturating"), (2.0, "saturating-suddenly")]
)
def test_saturating_utilisation_is_recovered(power: float, name: str) -> None:
    half = 4e9
    document = fit_table(frame_of(law(lambda f: 1 + (half / f) ** power), cv=1e-5)).document
    model = best(document)
    assert model["name"].startswith(name)
    assert math.exp(model["params"]["log_half_size"]) == pytest.approx(half, rel=1e-3)
    assert math.exp(model["params"]["alpha"]) == pytest.approx(J_PER_FLOP, rel=1e-3)


def test_fixed_cost_of_a_run_is_recovered_in_tokens() -> None:
    models = fit_table(frame_of(law(fixed_tokens=2e5), cv=1e-5)).document["models"]
    assert sum(m["weight"] for m in models if m["name"].endswith("fixed cost")) == pytest.approx(1)
    assert math.exp(models[0]["params"]["log_fixed_cost"]) == pytest.approx(2e5, rel=1e-3)


def test_method_effect_is_relative_to_the_commonest_method() -> None:
    frame = frame_of(law(full=1.3), methods=("lora", "full"), cv=1e-6)
    frame = frame[(frame["method"] == "lora") | (frame["params"] > 3e8)]
    model = best(fit_table(frame).document)
    assert model["params"]["method[full]"] == pytest.approx(math.log(1.3), abs=1e-5)


def test_linear_member_is_ordinary_least_squares_on_logs() -> None:
    frame = frame_of(law(), cv=0.05, seed=4)
    document = fit_table(frame).document
    model = next(m for m in document["models"] if m["name"] == "power")
    x = np.log((frame["flops"] / frame["tokens_seen"]).to_numpy())
    y = np.log((frame["energy_train_kwh"] * 3.6e6 / frame["tokens_seen"]).to_numpy())
    design = np.column_stack([np.ones_like(x), x])
    beta, rss, *_ = np.linalg.lstsq(design, y, rcond=None)
    sigma2 = float(rss[0]) / (len(x) - 2)
    assert [model["params"]["alpha"], model["params"]["gamma"]] == pytest.approx(list(beta), rel=1e-9)
    assert np.array(model["covariance"]) == pytest.approx(sigma2 * np.linalg.inv(design.T @ design), rel=1e-6)
    assert (model["sigma"], model["df"]) == (pytest.approx(math.sqrt(sigma2)), len(x) - 2)
    n, k = len(x), 3
    minus_2_log_likelihood = n * (math.log(2 * math.pi * float(rss[0]) / n) + 1)
    aicc = minus_2_log_likelihood + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    assert model["aicc"] == pytest.approx(aicc)


@pytest.mark.parametrize("phi", [lambda f: (f / 1e9) ** -0.2, lambda f: 1 + 4e9 / f])
def test_results_are_statsmodels_own(phi) -> None:
    """Linear in its parameters or not: what the object says is what fit.json says."""
    fitted = fit_table(frame_of(law(phi), cv=0.02, replicates=2))
    model = best(fitted.document)
    assert isinstance(fitted.results._results, RegressionResults)
    assert fitted.results is fitted.explained.results
    assert fitted.results.model.exog_names == model["param_names"]
    assert list(fitted.results.params) == pytest.approx([model["params"][name] for name in model["param_names"]])
    assert list(fitted.results.bse) == pytest.approx([model["se"][name] for name in model["param_names"]])
    assert math.sqrt(fitted.results.scale) == pytest.approx(model["sigma"])
    assert model["param_names"][1] in fitted.results.summary().as_text()


def test_the_coefficient_table_is_printed_as_statsmodels_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The straight line on logs, by numpy and scipy: estimate, standard error, t, p and 95 % interval of its slope."""
    frame = frame_of(law(lambda f: (f / 1e9) ** -0.2), cv=0.05, sizes=(1e9, 8e9), tokens=(1e5,), replicates=4)
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert main(["fit", str(tmp_path / "t.csv"), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    models = json.loads((tmp_path / "fit.json").read_text(encoding="utf-8"))["models"]
    shown = re.findall(r"^ *(\d+)% +(\d+) +(\d+) +([\d.]+)% +(-?[\d.]+)  (\S+):", printed, re.MULTILINE)
    assert [row[-1] for row in shown] == [model["name"] for model in models]
    for row, model in zip(shown, models, strict=True):
        expected = (100 * model["weight"], len(frame), model["df"], 100 * model["sigma"], model["aicc"])
        assert [float(cell) for cell in row[:-1]] == pytest.approx(expected, abs=0.5)
    x = np.log((frame["flops"] / frame["tokens_seen"]).to_numpy())
    y = np.log((frame["energy_train_kwh"] * 3.6e6 / frame["tokens_seen"]).to_numpy())
    line: Any = stats.linregress(x, y)
    t = line.slope / line.stderr
    half = stats.t.ppf(0.975, len(x) - 2) * line.stderr
    expected = (line.slope, line.stderr, t, 2 * stats.t.sf(t, len(x) - 2), line.slope - half, line.slope + half)
    assert "coef    std err          t      P>|t|      [0.025      0.975]" in printed
    row = re.search(r"^gamma +(.+)$", printed, re.MULTILINE)
    assert row is not None
    assert [float(cell) for cell in row.group(1).split()] == pytest.approx(expected, abs=6e-4)


def test_a_prediction_interval_is_statsmodels_own() -> None:
    """Of one form: the interval of a new run at a setting of the data."""
    fitted = fit_table(frame_of(law(lambda f: (f / 1e9) ** -0.2), cv=0.05, replicates=2, seed=4))
    form = next(model for model in fitted.fit.energy if model.name == fitted.explained.best.form.name)
    target = Target(values={name: column[0] for name, column in fitted.explained.work.values.items()}, labels={})
    bands = training_bands([form], target, level=0.9)
    new = fitted.results.get_prediction(fitted.results.model.exog[:1], weights=[1.0]).summary_frame(alpha=0.1)
    per = math.log(fitted.explained.work.values[form.per][0])
    assert np.log([bands.low[0], bands.high[0]]) - per == pytest.approx(
        [new["obs_ci_lower"][0], new["obs_ci_upper"][0]], rel=1e-9
    )


def test_weights_are_akaike_weights() -> None:
    models = fit_table(frame_of(law(), cv=0.05, seed=4)).document["models"]
    assert sum(m["weight"] for m in models) == pytest.approx(1)
    of_form: Counter[str] = Counter()
    for m in models:  # one form may stand at several values of a half-size
        of_form[m["name"].partition(" at ")[0]] += m["weight"]
    assert min(of_form.values()) >= 0.01
    plain = [m for m in models if " at " not in m["name"]]
    for other in plain[1:]:
        ratio = math.exp(-0.5 * (other["aicc"] - plain[0]["aicc"]))
        assert other["weight"] / plain[0]["weight"] == pytest.approx(ratio, rel=1e-6)


def test_written_file_predicts_what_the_fit_in_memory_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = frame_of(law(lambda f: 1 + 4e9 / f, full=1.3), methods=("lora", "full"), cv=0.03)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    assert main(["fit", str(tmp_path / "runs.csv"), "--out", str(tmp_path)]) == 0
    assert "weight" not in capsys.readouterr().err
    text = (tmp_path / "fit.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert text.count("\n") > 50
    assert (document["schema_version"], document["kind"], document["n"]) == (1, "energy_fit", 36)
    assert document["ranges"]["params"] == pytest.approx([0.135e9, 8e9])
    assert document["methods"] == ["full", "lora"]
    assert not list(tmp_path.glob(".*"))
    fit = load_fit(tmp_path / "fit.json")
    again = fit_table(pd.read_csv(tmp_path / "runs.csv").pipe(lambda _: frame)).fit
    target = Target(values=_values(2e9, 5e5), labels={"method": "lora"})
    assert fit.predict(target).estimate == pytest.approx(again.predict(target).estimate, rel=1e-9)


def _values(params: float, tokens: float, per_param: float = 4.0) -> dict[str, float]:
    return {
        "tokens": tokens,
        "samples_seen": tokens / 100,
        "flops_per_token": per_param * params,
        "flops": per_param * params * tokens,
        "params": params,
        "adapter_rank": 8.0,
        "batch_size": 8.0,
        "gpu_count": 1.0,
    }


def test_predictions_of_many_runs_are_those_of_each_alone() -> None:
    frame = frame_of(law(lambda f: 1 + 4e9 / f, fixed_tokens=1e5, full=1.3), methods=("lora", "full"), cv=0.04)
    models = fit_table(frame).fit.energy
    targets = [(p, t, m) for p in (1e8, 1e9, 7e10) for t in (1e4, 1e6, 1e8) for m in ("lora", "full")]
    singles = [_values(p, t, 6.0 if m == "full" else 4.0) for p, t, m in targets]
    values = {name: np.array([one[name] for one in singles]) for name in singles[0]}
    device = {"hardware": "NVIDIA RTX A4000", "precision": "bf16"}
    labels = {name: np.full(len(targets), label, dtype=object) for name, label in device.items()}
    labels["method"] = np.array([m for *_, m in targets], dtype=object)
    together = training_bands(models, Target(values=values, labels=labels))
    for i, (one, (*_, method)) in enumerate(zip(singles, targets, strict=True)):
        alone = training_bands(models, Target(values=one, labels={"method": method, **device}))
        for name in ("low", "estimate", "high", "sd"):
            assert getattr(together, name)[i] == pytest.approx(getattr(alone, name)[0], rel=1e-9)


@pytest.mark.parametrize(
    "term",
    [
        "1",
        "log(tokens)",
        "tokens",
        "saturation(tokens)",
        "saturation(tokens, 0.5)",
        "roofline(tokens, 3)",
        "cost(tokens)",
        "method=full",
    ],
)
def test_slopes_of_terms_are_derivatives(term: str) -> None:
    target = Target(values={"tokens": 3.7, "epochs": 2.9}, labels={"method": "full"})
    terms = {"p": term, "q": "cost(epochs)"}  # beside another cost, in whose logarithm a cost is

    def at(p: float) -> tuple[Any, Any]:
        added, slopes = contributions(terms, {"p": p, "q": 0.4}, target)
        return added, slopes["p"]

    assert at(1.3)[1] == pytest.approx((at(1.3 + 1e-6)[0] - at(1.3 - 1e-6)[0]) / 2e-6, rel=1e-6)


def test_costs_add_up_and_other_terms_multiply() -> None:
    """By hand: e^2·(1 + 3/4 + 5/20)·(1 + 6/3) = 6 e^2."""
    terms = {"a": "1", "s": "cost(epochs)", "e": "cost(samples)", "h": "saturation(tokens)"}
    params = {"a": 2.0, "s": math.log(3), "e": math.log(5), "h": math.log(6)}
    target = Target(values={"epochs": 4.0, "samples": 20.0, "tokens": 3.0}, labels={})
    added, slopes = contributions(terms, params, target)
    assert math.exp(added) == pytest.approx(6 * math.exp(2), rel=1e-12)
    assert slopes["s"] == pytest.approx(0.375, rel=1e-12)
    assert slopes["e"] == pytest.approx(0.125, rel=1e-12)
    assert slopes["h"] == pytest.approx(2 / 3, rel=1e-12)


def test_noise_that_grows_with_the_work_is_modelled() -> None:
    rng = np.random.default_rng(0)
    frame = frame_of(law(), replicates=15)
    spread = 0.02 * (frame["flops"] / frame["flops"].median()) ** 0.3
    frame["energy_train_kwh"] *= np.exp(spread * rng.standard_normal(len(frame)))
    noise = best(fit_table(frame).document)["noise"]
    assert noise["variable"] == "flops"
    assert noise["exponent"] == pytest.approx(0.3, abs=0.08)


def test_even_noise_is_left_alone() -> None:
    assert "noise" not in best(fit_table(frame_of(law(), cv=0.03, replicates=3, seed=1)).document)


def test_fixed_part_follows_the_size_of_the_model_and_leaves_cached_setups_out() -> None:
    frame = frame_of(law(), cv=0.02)
    frame["setup_reused"] = [False] * (len(frame) - 3) + [True] * 3
    frame.loc[frame.index[-3:], "energy_kwh"] = frame["energy_train_kwh"]
    fixed = fit_table(frame).document["fixed"]["energy_j"]
    own = (frame["energy_kwh"] - frame["energy_train_kwh"])[:-3] * 3.6e6
    assert fixed["n"] == len(frame) - 3
    assert fixed["mean"] == pytest.approx(own.mean())
    power = next(model for model in fixed["models"] if model["name"].startswith("power"))
    assert power["params"]["params_exponent"] == pytest.approx(0.5, abs=0.05)


LADDER = (1e6, 3e6, 1e7, 3e7, 1e8)


def _setup_of_70b(joules_per_param: float) -> tuple[float, float, float]:
    """Predict the set-up of 70B from a ladder of small models that take 300 J and a share for each parameter."""
    frame = frame_of(law(), cv=0.02, sizes=LADDER)
    joules = (300 + joules_per_param * frame["params"]) * np.random.default_rng(3).normal(1, 0.02, len(frame))
    frame["energy_kwh"] = frame["energy_train_kwh"] + joules / 3.6e6
    models = fit_table(frame).fit.fixed_energy_j
    assert models is not None
    found = training_bands(models.models, Target(values={"params": 7e10}, labels={"method": "lora"}))
    return float(found.low[0]), float(found.estimate[0]), float(found.high[0])


def test_the_fixed_part_grows_with_the_size_as_the_runs_show() -> None:
    low, estimate, high = _setup_of_70b(2e-6)
    assert low < 300 + 2e-6 * 7e10 < high < 1.5 * low
    assert estimate == pytest.approx(300 + 2e-6 * 7e10, rel=0.1)


@pytest.mark.parametrize("joules_per_param", [0.0, 2e-8])
def test_growth_of_the_fixed_part_that_no_run_shows_is_left_open(joules_per_param: float) -> None:
    low, _, high = _setup_of_70b(joules_per_param)
    assert low < 300 + joules_per_param * 7e10 < high
    assert high > 10 * low


def test_one_run_leaves_the_fixed_part_of_other_sizes_open() -> None:
    frame = frame_of(law(), cv=0.02, sizes=(1e9,), replicates=2)
    frame["energy_kwh"] = (frame["energy_train_kwh"] + 300 / 3.6e6).where(frame.index == 0)
    fixed = fit_table(frame).fit.fixed_energy_j
    assert fixed is not None
    bands = training_bands(fixed.models, Target(values={"params": np.array([1e9, 7e10])}, labels={"method": "lora"}))
    assert bands.estimate[0] == pytest.approx(300, rel=1e-3)
    assert bands.high[0] / bands.low[0] == pytest.approx(math.exp(2 * 1.645 * 0.3 * math.sqrt(2)), rel=0.01)
    assert bands.high[1] / bands.low[1] > 20


def test_sizes_that_never_varied_leave_their_slope_open() -> None:
    document = validated_fit(table_of(law(), cv=0.03, sizes=(1e9,), replicates=4)).fitted.document
    assert document["beyond"]["flops_per_token"] == pytest.approx(0.25)
    assert document["beyond"]["tokens"] < 0.1
    varied = validated_fit(table_of(law(), cv=0.03, replicates=2)).fitted.document
    assert varied["beyond"]["flops_per_token"] < 0.1


def test_outlier_is_named_and_kept() -> None:
    frame = frame_of(law(), cv=0.02, replicates=2)
    frame["energy_train_kwh"] = frame["energy_train_kwh"].where(
        frame["run_id"] != "run-7", 3 * frame["energy_train_kwh"]
    )
    document = fit_table(frame).document
    assert [item["run_id"] for item in document["diagnostics"]["energy"]["outliers"]] == ["run-7"]
    assert document["n"] == len(frame)


def test_runs_without_energy_or_work_are_left_out_by_name() -> None:
    frame = frame_of(law(), cv=0.02)
    frame.loc[3, "energy_train_kwh"] = np.nan
    frame.loc[4, "tokens_seen"] = np.nan
    document = fit_table(frame).document
    reasons = {item["run_id"]: item["reason"] for item in document["excluded"]}
    assert reasons == {"run-3": "its training energy or time is unknown", "run-4": "its tokens are unknown"}
    assert document["n"] == len(frame) - 2


def test_three_columns_are_enough(tmp_path: Path) -> None:
    samples = np.repeat([100, 200, 400, 800], 2)
    table = pd.DataFrame({"samples": samples, "epochs": 1, "energy_kwh": 1e-4 * samples * np.tile([1.01, 0.99], 4)})
    table.to_csv(tmp_path / "t.csv", index=False)
    assert main(["fit", str(tmp_path / "t.csv"), "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "fit.json").read_text(encoding="utf-8"))
    assert document["models"][0]["per"] == "samples_seen"
    assert document["response"] == "energy_kwh"
    assert any("per sample" in note for note in document["notes"])
    fit = load_fit(tmp_path / "fit.json")
    energy = fit.predict(Target(values={"samples_seen": 1600.0, "samples": 1600.0}, labels={}))
    assert energy.low < 0.16 < energy.high


def idle_runs(frame: pd.DataFrame, kwh: dict[str, float]) -> pd.DataFrame:
    """Two runs of zero steps of each model, one a tenth above and one a tenth below what it is said to take."""
    first = frame.drop_duplicates("model")
    parts = [
        first.assign(
            run_id=[f"idle-{model}-{sign}" for model in first["model"]], samples_seen=0.0, steps=0.0, tokens_seen=0.0,
            flops=0.0, energy_kwh=first["model"].map(kwh) * (1 + 0.1 * sign),
        )
        for sign in (-1, 1)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True).dropna(subset=["energy_kwh"])


def without_phases(frame: pd.DataFrame, idle: pd.DataFrame, kwh: dict[str, float]) -> pd.DataFrame:
    frame = frame.assign(energy_kwh=frame["energy_train_kwh"] + frame["model"].map(kwh))
    return pd.concat([frame, idle], ignore_index=True).assign(energy_train_kwh=np.nan, energy_setup_kwh=np.nan)


def test_a_run_on_its_own_pays_the_set_up_that_others_found_paid() -> None:
    """Loading costs 500 J; all but the first run of each model found it loaded for 5 J. Evaluation costs 100 J."""
    frame = frame_of(law(), cv=0.01, replicates=3)
    first = ~frame.duplicated("params")
    frame = frame.assign(
        model=frame["params"].map("{:g}".format),
        setup_reused=~first,
        energy_train_kwh=frame["energy_kwh"],
        energy_setup_kwh=np.where(first, 500.0, 5.0) / 3.6e6,
        setup_s=np.where(first, 50.0, 0.5),
        train_s=100.0,
    )
    frame["energy_kwh"] += frame["energy_setup_kwh"] + 100 / 3.6e6
    frame["total_s"] = 100 + frame["setup_s"] + 10
    fixed = fit_table(frame).document["fixed"]
    assert fixed["energy_j"]["n"] == len(frame)
    assert fixed["energy_j"]["mean"] == pytest.approx(600)
    assert fixed["time_s"]["mean"] == pytest.approx(60)
    assert fixed["energy_j"]["note"] == f"set-up as the {first.sum()} runs paid it that loaded everything themselves"


@pytest.mark.parametrize(
    ("sessions", "gpus", "sd"), [(None, 0, None), (1, 0, 0.065), (1, 1, 0.025), (3, 0, 0.065), (12, 0, None)]
)
def test_another_session_s_spread_is_added_where_the_runs_cannot_show_it(
    sessions: int | None, gpus: int, sd: float | None
) -> None:
    """Independent relative spreads add up as squares, on the log scale, at both ends; 1.645 holds 90 % of a normal."""
    frame = frame_of(law(), cv=0.03, replicates=6, sizes=(1e8, 1e9)).assign(gpu_count=float(gpus))
    if sessions is not None:
        frame["session"] = [f"s{i % sessions}" for i in range(len(frame))]
    result = validated_fit(as_table(frame))
    told = result.fitted.document["session"]
    assert (None if told is None else told["sd"]) == sd
    fit = result.fitted.fit
    target = Target(values={"tokens": 4e5, "flops_per_token": 6e8, "flops": 2.4e14, "params": 2e8}, labels={})
    alone, found = (dataclasses.replace(fit, session_sd=0.0).predict(target), fit.predict(target))
    for own, with_session in (
        (alone.high / alone.estimate, found.high / found.estimate),
        (alone.estimate / alone.low, found.estimate / found.low),
    ):
        assert math.log(with_session) == pytest.approx(math.hypot(math.log(own), 1.645 * (sd or 0.0)), rel=1e-3)


def test_runs_of_zero_steps_measure_the_fixed_part_of_a_table_without_phases() -> None:
    frame = frame_of(law(), cv=0.01)
    same = dict.fromkeys(frame["model"].unique(), 1e-4)
    document = fit_table(without_phases(frame, idle_runs(frame, same), same)).document
    assert document["fixed"]["energy_j"]["mean"] == pytest.approx(360)
    assert document["fixed"]["energy_j"]["n"] == 2 * len(same)
    assert document["n"] == len(frame)


def test_each_model_has_a_fixed_part_of_its_own() -> None:
    """Loading costs the large model ten times what it costs the smallest; training is what is left for each."""
    frame = frame_of(law(), cv=0.0)
    own = {model: 1e-3 * 10 ** (i / 5) for i, model in enumerate(frame["model"].unique())}
    fitted = fit_table(without_phases(frame, idle_runs(frame, own), own))
    joules = np.exp(fitted.explained.work.log_y)
    assert joules == pytest.approx(3.6e6 * frame["energy_train_kwh"].to_numpy(), rel=1e-9)
    assert fitted.explained.best.sigma < 1e-6


def test_a_model_without_runs_of_zero_steps_has_its_total_modelled() -> None:
    frame = frame_of(law(), cv=0.01)
    own = dict(zip(frame["model"], 1e-3 * frame["params"] / 1e9, strict=True))  # as of so many tokens more
    told = dict(list(own.items())[:-1])
    whole = without_phases(frame, idle_runs(frame, told), own)
    fitted = fit_table(whole)
    assert fitted.document["fixed"]["energy_j"] is None  # it is in the total, and must not be added again
    assert np.exp(fitted.explained.work.log_y) == pytest.approx(3.6e6 * whole["energy_kwh"].to_numpy()[: len(frame)])
    assert any("its fixed part included" in note for note in fitted.document["notes"])
    graded = backtest(whole)  # its parts explain the same as the whole, whatever they know of zero steps
    for split in graded.made:
        kwh = whole.set_index("run_id")["energy_kwh"][list(split.table["run_id"])]
        assert split.table["observed_kwh"].to_numpy() == pytest.approx(kwh.to_numpy())
        assert split.name != "size" or split.median_ape < 0.1


def test_a_device_under_two_names_is_one() -> None:
    """Half of the runs call it A100-SXM4-80GB; an effect of the name would be none of the device."""
    frame = frame_of(law(), cv=0.02, replicates=2)
    frame["hardware"] = np.where(frame.index % 3 == 0, "A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB")
    document = fit_table(frame).document
    assert document["hardware"] == ["NVIDIA A100-SXM4-80GB"]
    assert not any("hardware" in name for model in document["models"] for name in model["params"])


def test_a_target_by_any_name_of_its_device_is_predicted_alike() -> None:
    """Another device takes twice the energy here."""
    frame = frame_of(law(), cv=0.02, replicates=3)
    frame["hardware"] = np.where(frame.index % 3 == 0, "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB")
    frame.loc[frame.index % 6 == 0, "hardware"] = "H100-SXM"
    frame["energy_train_kwh"] *= np.where(frame.index % 3 == 0, 2.0, 1.0)
    fitted = fit_table(frame)
    values = {name: float(column[0]) for name, column in fitted.explained.work.values.items()}
    for name in ("NVIDIA H100 80GB HBM3", "h100-sxm", "NVIDIA A100-SXM4-80GB", "a100-80gb"):
        target = Target(values=values, labels={"method": "lora", "hardware": name, "precision": "bf16"})
        known = next(seen for seen in fitted.fit.hardware if same_device(seen, name))
        by_own_name = dataclasses.replace(target, labels={**target.labels, "hardware": known})
        bands, same = (training_bands(fitted.fit.energy, each) for each in (target, by_own_name))
        assert bands.estimate == pytest.approx(same.estimate, rel=1e-9)
        assert bands.estimate[0] / np.exp(fitted.explained.work.log_y[0]) == pytest.approx(
            1.0 if "H100" in known else 0.5, rel=0.1
        )


def test_too_few_runs_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^RUNS: got 2 that trained with a known energy; a fit needs at least 3"):
        fit_table(frame_of(law()).head(2))
    known = frame_of(law()).drop(columns=["position", "work_settings"])  # of which `fit` would warn
    known.head(2).to_csv(tmp_path / "t.csv", index=False)
    assert main(["fit", str(tmp_path / "t.csv")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_hundred_thousand_runs_are_fitted() -> None:
    rng = np.random.default_rng(0)
    frame = frame_of(law(lambda f: 1 + 4e9 / f), replicates=1000)
    frame = pd.concat([frame] * 5, ignore_index=True)
    frame["tokens_seen"] *= rng.uniform(0.8, 1.25, len(frame))
    frame["flops"] = 4 * frame["params"] * frame["tokens_seen"]
    noise = np.exp(0.03 * rng.standard_normal(len(frame)))
    frame["energy_train_kwh"] = J_PER_FLOP * frame["flops"] * (1 + 1e9 / frame["params"]) * noise / 3.6e6
    model = best(fit_table(frame, with_time=False).document)
    assert len(frame) == 90_000
    assert math.exp(model["params"]["log_half_size"]) == pytest.approx(4e9, rel=0.01)


def test_levels_join_neighbours_but_do_not_chain() -> None:
    assert len(group_levels(np.array([1.0, 1.01, 2.0, 4.0]))[0]) == 3
    assert len(group_levels(np.exp(np.linspace(0, 1, 1001)), 0.1)[0]) in (10, 11)
