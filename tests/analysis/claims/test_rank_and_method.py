"""Claims on one setting's effect: models that differ, sessions, order, single runs, and what they rest on."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.claims.decide import decide
from analysis.claims.text import render
from analysis.claims.verdicts import Claim, Options
from analysis.tables.table import table_from_frame
from benchmarks.simulated_tables import KWH_PER_SAMPLE, Sweep, curve, noisy, together

LORA_FULL = (("lora", 8.0, 0.0), ("full", np.nan, 1.0))


def claim(frame: pd.DataFrame, claim_id: str = "full_vs_lora", **options: float) -> Claim:
    report = decide(table_from_frame(frame), Options(**options))  # type: ignore[arg-type]
    return next(claim for claim in report.claims if claim.id == claim_id)


def of_models(
    ratios: Mapping[str, float],
    *,
    seed: int = 0,
    cv: float = 0.01,
    replicates: int = 3,
    samples: tuple[int, ...] = (64, 256),
) -> pd.DataFrame:
    """LoRA and full runs of models that each have a ratio of their own."""
    rng = np.random.default_rng(seed)
    sweep, parts = Sweep(samples=samples, replicates=replicates, zero=0), []
    for size, (model, ratio) in enumerate(ratios.items()):
        for method, rank, power in LORA_FULL:
            frame = sweep.draw(rng, {"model": model, "params": 10.0**size, "method": method, "rank": rank})
            parts.append(frame.assign(energy_kwh=KWH_PER_SAMPLE * frame["samples_seen"] * ratio**power))
    frame = together(rng, parts)
    return frame.assign(energy_kwh=noisy(rng, frame["energy_kwh"], cv))


def test_models_that_differ_do_not_pass_for_their_mean() -> None:
    """0.97 for the one and 1.30 for the other are 1.12 on average, which is true of neither."""
    found = claim(of_models({"small": 0.97, "large": 1.3}))
    assert found.verdict == "undecided"
    assert found.estimate == pytest.approx(np.sqrt(0.97 * 1.3), rel=0.02)
    own = found.tests["by_model"]
    assert {name: each["verdict"] for name, each in own.items()} == {"small": "refuted", "large": "supported"}
    assert own["large"]["ratio"] == pytest.approx(1.3, rel=0.02)
    assert set(own["large"]) == {"verdict", "p", "ratio", "df", "ci"}
    assert found.tests["depends_on_model"] is True
    assert found.reason.startswith("Undecided: it depends on the model (p = ")
    assert f"small {own['small']['ratio']:.2f} times (0.9" in found.reason
    assert f"; refuted), large {own['large']['ratio']:.2f} times (1." in found.reason
    assert found.needs is not None
    assert found.needs.command is None
    assert "No more runs settle it" in found.needs.message
    assert "Decide it for each alone" in found.needs.message


def test_models_that_differ_and_agree_are_decided_by_the_weaker_one() -> None:
    found = claim(of_models({"small": 1.2, "large": 1.4}))
    own = found.tests["by_model"]
    assert (found.verdict, found.tests["depends_on_model"]) == ("supported", True)
    assert found.p_value == max(each["p"] for each in own.values())
    assert "By model (they differ, p = " in found.reason


def test_models_that_do_not_differ_are_decided_together() -> None:
    """Each alone is too uncertain at this scatter; together they are not."""
    found = claim(of_models({"small": 1.2, "middle": 1.2, "large": 1.2}, cv=0.13, replicates=2, seed=2))
    assert (found.verdict, found.tests["depends_on_model"]) == ("supported", False)
    assert "undecided" in {each["verdict"] for each in found.tests["by_model"].values()}
    assert "By model: small" in found.reason


def test_the_test_of_like_models_is_the_f_test_of_nested_regressions() -> None:
    sm = pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova").anova_lm
    frame = of_models({"a": 1.1, "b": 1.15, "c": 1.12}, cv=0.05)
    data = frame.assign(log_y=np.log(frame["energy_kwh"]), full=(frame["method"] == "full").astype(float))
    one = sm.ols("log_y ~ C(model):C(samples) + full - 1", data).fit()
    own = sm.ols("log_y ~ C(model):C(samples) + C(model):full - 1", data).fit()
    assert claim(frame).tests["models_alike_p"] == pytest.approx(anova(one, own)["Pr(>F)"].iloc[1], rel=1e-6)


def test_models_that_differ_leave_what_was_undecided_undecided_with_that_reason() -> None:
    """0.85 and 1.3 have a mean on the margin's edge."""
    found = claim(of_models({"small": 0.85, "large": 1.3}))
    assert found.ci is not None
    assert found.ci[0] < 1.05 < found.ci[1]
    assert found.reason.startswith("Undecided: it depends on the model (p = ")


def test_more_runs_are_asked_of_the_model_that_is_not_decided() -> None:
    """1.09 lies close to the threshold of 1.05, 1.5 does not."""
    frame = of_models({"ladder-3m": 1.09, "ladder-100m": 1.5}, cv=0.05, replicates=4).assign(study="mine")
    found = claim(frame)
    assert {name: each["verdict"] for name, each in found.tests["by_model"].items()} == {
        "ladder-3m": "undecided", "ladder-100m": "supported",
    }  # fmt: skip
    assert found.verdict == "undecided"
    assert found.needs is not None
    assert found.needs.command is not None
    assert "model=ladder-3m" in found.needs.command
    assert "ladder-100m" not in found.needs.command
    assert "method=lora,full" in found.needs.command
    assert found.needs.message.startswith("ladder-3m: ")
    about = int(re.findall(r"About (\d+) more runs", found.needs.message)[0])
    assert found.needs.runs in (about, about + 1)  # as many of both methods
    assert f"replicates={-(-about // 2)}" in found.needs.command
    # Methods are compared within a session: in the same study those of LoRA would be found finished, and skipped.
    assert "study=mine_more" in found.needs.command


def test_a_model_without_repeats_has_no_interval() -> None:
    frame = of_models({"small": 1.0, "large": 1.4}, samples=(64,))
    frame = frame[(frame["model"] != "large") | (frame["replicate"] == 0)]
    found = claim(frame)
    assert re.search(r"large 1\.\d\d times \(\? to \?; undecided\)", found.reason)
    assert found.verdict == "undecided"


def test_where_the_records_of_each_model_lie() -> None:
    frame = of_models({"m3": 0.97, "m100": 1.3})
    frame["run_id"] = [f"{model}-{i}" for i, model in enumerate(frame["model"])]
    needs = claim(frame).needs
    assert needs is not None
    assert "lora-scaling analyse claims RUNS/m3-*" in needs.message


def ranks(effect: float, *, cv: float = 0.01, seed: int = 0, model: str = "m", jump: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    sweep = Sweep(samples=(128, 512), replicates=4, zero=0)
    known = {"method": "lora", "model": model}
    frame = together(rng, [sweep.draw(rng, {**known, "rank": r}) for r in (4.0, 8.0, 16.0, 32.0, 64.0)])
    factor = (1 + effect) ** np.log2(frame["rank"] / 4) * np.where(frame["rank"] == 16, 1 + jump, 1.0)
    return frame.assign(energy_kwh=noisy(rng, curve(frame) * factor, cv))


def test_runs_of_other_settings_are_not_compared() -> None:
    """Padding that came with some of the ranks costs a half more; a rank costs nothing."""
    frame = ranks(0.0)
    padded = frame["rank"] > 8
    frame["energy_kwh"] *= np.where(padded, 1.5, 1.0)
    assert claim(frame, "rank_effect").verdict == "refuted"  # unknown: alike
    frame["settings_override"] = np.where(padded, "padding=max_length", "")
    found = claim(frame, "rank_effect")
    assert found.verdict == "supported"
    assert found.tests["matched_groups"] == 4  # two amounts of work, each of two settings


def test_a_setting_that_is_no_work_keeps_no_runs_apart() -> None:
    frame = ranks(0.0)
    frame["settings_override"] = "lora.alpha=" + (2 * frame["rank"]).map("{:.0f}".format) + " seed=1"
    assert claim(frame, "rank_effect").verdict == "supported"


def test_methods_are_compared_however_they_are_spelt() -> None:
    frame = of_models({"m": 1.3})
    plain = claim(frame)
    assert plain.verdict == "supported"
    assert claim(frame.assign(method=frame["method"].map({"lora": "LoRA", "full": "Full"}))) == plain


def test_rank_may_matter_for_one_model_and_not_for_another() -> None:
    rng = np.random.default_rng(3)
    frame = together(rng, [ranks(0.0, model="small"), ranks(0.12, model="large")])
    found = claim(frame, "rank_effect")
    assert found.verdict == "undecided"
    assert "it depends on the model" in found.reason
    assert {name: each["verdict"] for name, each in found.tests["by_model"].items()} == {
        "small": "supported", "large": "refuted",
    }  # fmt: skip
    assert "large +1" in found.reason  # in per cent for each doubling
    assert found.tests["by_model"]["large"]["ratio"] == pytest.approx(1.12, abs=0.01)


def test_the_rank_is_judged_over_the_range_that_was_run() -> None:
    """Each doubling adds 3 %, which is within the margin; over four doublings they add 13 %."""
    found = claim(ranks(0.03), "rank_effect")
    assert found.verdict == "refuted"
    assert found.estimate == pytest.approx(0.03, abs=0.005)  # of a doubling, as before
    assert found.tests["over_range"]["ratio"] == pytest.approx(1.03**4, abs=0.02)


def test_one_rank_that_costs_more_refutes_though_the_trend_does_not() -> None:
    found = claim(ranks(0.0, jump=0.1), "rank_effect")
    assert found.verdict == "refuted"
    assert "Rank 16 costs +1" in found.reason
    assert found.p_value == found.tests["levels"].outside_p
    unclear = claim(ranks(0.0, jump=0.055, cv=0.02), "rank_effect")
    assert unclear.verdict == "undecided"


@pytest.mark.parametrize(
    ("method", "tested"), [("LoRA", True), ("rs-LoRA", True), ("pvera", False), ("LILY", False), ("OFT", False)]
)
def test_only_loras_rank_is_the_lora_rank(method: str, tested: bool) -> None:
    found = claim(ranks(0.0).assign(method=method), "rank_effect")
    assert (found.estimate is not None) == tested
    unnamed = ranks(0.0).drop(columns="method")
    named = unnamed.assign(run_id=[f"{method.lower()}-{i}" for i in range(len(unnamed))])
    assert (claim(named, "rank_effect").estimate is not None) == tested


def test_ranks_with_a_session_each_are_not_compared_and_with_several_they_are() -> None:
    frame = ranks(0.12)
    alone = claim(frame.assign(session="s" + frame["rank"].astype(str)), "rank_effect")
    assert "changed only from session to session" in alone.reason
    several = claim(
        frame.assign(session=frame["rank"].astype(str) + "/" + (frame["replicate"] % 3).astype(str)), "rank_effect"
    )
    assert several.verdict == "refuted"
    assert several.tests["runs"] == 15  # sessions


def test_the_departing_rank_is_judged_with_the_degrees_of_freedom_there_are() -> None:
    """Independently: dummies for each work and a slope; n − works − 1 degrees of freedom."""
    frame = ranks(0.02, cv=0.03, jump=0.03)
    X = np.column_stack([(frame["samples"] == s).to_numpy(float) for s in (128, 512)] + [np.log2(frame["rank"])])
    y = np.log(frame["energy_kwh"].to_numpy())
    resid = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    df = len(y) - 3
    means = pd.Series(np.abs(pd.Series(resid).groupby(frame["rank"]).mean()))
    t = means.max() / (np.sqrt(resid @ resid / df) / np.sqrt(8))
    jump = claim(frame, "rank_effect").tests["level_jump"]
    assert jump["rank"] == means.idxmax()
    assert jump["p"] == pytest.approx(min(1.0, 2 * 5 * stats.t.sf(t, df)), rel=1e-6)


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.5, "supported"), (1.08, "supported"), (1.03, "refuted"), (0.8, "refuted")]
)
def test_one_threshold_tells_dearer_from_not(ratio: float, verdict: str) -> None:
    """More data only make it surer: between 1 and 1 + margin no amount of runs says dearer."""
    for replicates in (4, 12, 40):
        assert claim(of_models({"m": ratio}, cv=0.004, replicates=replicates)).verdict == verdict


def test_sessions_alike_within_groups_still_count() -> None:
    """Two sessions, one twice as dear, share the work unevenly between the methods; a first has work of its own.

    Within groups the two sessions' columns are then each other's opposites. Full costs what LoRA does.
    """
    rng = np.random.default_rng(0)
    rows = []
    for samples, sessions in ((64, "bc"), (128, "bc"), (256, "aa")):
        for method, rank, _ in LORA_FULL:
            for session, count in zip(sessions, (4, 2) if method == "lora" else (2, 4), strict=True):
                rows += [{"samples": samples, "method": method, "rank": rank, "session": session}] * count
    frame = together(rng, [pd.DataFrame(rows)]).assign(epochs=1, model="m")
    shift = frame["session"].map({"a": 1.0, "b": 1.0, "c": 2.0})
    frame["energy_kwh"] = noisy(rng, 1e-5 * frame["samples"] * shift, 0.01)
    found = claim(frame)
    assert found.estimate == pytest.approx(1.0, abs=0.02)
    assert found.verdict == "refuted"


def test_a_method_that_changed_with_the_session_is_not_compared() -> None:
    frame = of_models({"m": 1.5})
    frame["session"] = np.where(frame["method"] == "full", "later", "earlier")
    found = claim(frame)
    assert found.verdict == "undecided"
    assert "the method (full and lora) changed only from session to session" in found.reason


def test_a_method_made_after_the_other_is_not_compared() -> None:
    """Six of thirty runs, all at the end: too few for the correlation with the order to tell."""
    rng = np.random.default_rng(0)
    lora = Sweep(samples=(64, 256), replicates=12, zero=0).draw(rng, {"method": "lora", "rank": 8.0})
    full = Sweep(samples=(64, 256), replicates=3, zero=0).draw(rng, {"method": "full", "rank": np.nan})
    frame = together(rng, [lora, full])
    frame["order"] = (frame["order"] + 100 * (frame["method"] == "full")).rank()
    found = claim(frame.assign(energy_kwh=noisy(rng, 1e-5 * frame["samples"], 0.01)))
    assert found.verdict == "undecided"
    assert "made at different times" in found.reason


@pytest.mark.parametrize("replicates", [2, 4])
def test_the_run_that_a_ratio_hangs_on_is_named(replicates: int) -> None:
    frame = of_models({"ladder-3m": 1.0}, cv=0.01, replicates=replicates, samples=(64, 128, 256), seed=1)
    row = frame.index[(frame["method"] == "full") & (frame["samples"] == 128)][0]
    frame.loc[row, "energy_kwh"] *= 12
    found = claim(frame)
    assert found.verdict == "undecided"
    assert f"hangs on run {frame['run_id'][row]}" in found.reason
    assert found.tests["outlier"]["verdict_without"] == "refuted"
    assert found.needs is not None
    assert f"Repeat run {frame['run_id'][row]}" in found.needs.message
    assert "samples=128 epochs=1 model=ladder-3m method=full" in str(found.needs.command)


def test_the_metered_part_may_contradict_the_ratio() -> None:
    """The metered tenth costs the same; the modelled rest half as much again."""
    rng = np.random.default_rng(0)
    frame = of_models({"m": 1.5}, cv=0.005)
    plain = 1e-6 * frame["samples"]
    gpu, cpu = noisy(rng, plain, 0.01), frame["energy_kwh"]
    frame = frame.assign(
        energy_gpu_kwh=gpu, energy_cpu_kwh=cpu, energy_kwh=gpu + cpu,
        energy_source_gpu="nvml_counter", energy_source_cpu="load_model",
    )  # fmt: skip
    found = claim(frame)
    assert found.tests["measured"]["verdict"] == "refuted"
    assert found.verdict == "undecided"
    assert "its metered part (GPU) says refuted" in found.reason


def test_an_outlier_is_one_run_even_where_others_have_its_name() -> None:
    frame = ranks(0.0, cv=0.01)
    row = frame.index[frame["rank"] == 64][0]
    frame.loc[row, "energy_kwh"] *= 20
    named = frame.assign(run_id=[f"rank{rank:g}" for rank in frame["rank"]])
    found = claim(named, "rank_effect")
    without = claim(named.drop(index=row), "rank_effect")
    assert found.tests["outlier"]["run_id"] == "rank64"
    assert np.expm1(found.tests["outlier"]["estimate_without"]) == pytest.approx(without.estimate, abs=1e-9)


def test_at_the_terminal() -> None:
    report = decide(table_from_frame(of_models({"small": 0.97, "large": 1.3})), Options())
    text = render(report.document(), ["t.csv"])
    assert "UNDECIDED  Full fine-tuning costs more than LoRA" in text
    assert "it depends on the model" in text
