"""`extrapolate`: the contract's JSON, the same numbers as the estimator, and honest flags."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.cli import main
from analysis.energy_model.extrapolate import Extrapolation, extrapolate, predict_target
from analysis.energy_model.hull import hull_factor
from analysis.energy_model.validated_fit import validated_fit
from analysis.tables.table import load_runs
from benchmarks.interval_coverage import as_table
from lora_scaling.config import compose
from lora_scaling.errors import UserError
from lora_scaling.estimate.fit_file import load_fit
from lora_scaling.estimate.target import target_of
from lora_scaling.grid import static_intensity
from lora_scaling.workload import Lengths
from tests.support.fit_tables import frame_of, law, table_of
from tests.support.paths import ROOT

SATURATING = law(lambda f: 1 + 4e9 / f, full=1.2)


def ask(*overrides: str, **options: object) -> Extrapolation:
    frame = frame_of(SATURATING, cv=0.02, methods=("lora", "full"), replicates=2, **options)  # type: ignore[arg-type]
    return extrapolate(as_table(frame), list(overrides))


def test_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame_of(SATURATING, cv=0.02, methods=("lora", "full")).to_csv(tmp_path / "t.csv", index=False)
    command = ["extrapolate", str(tmp_path / "t.csv"), "--json", "model=llama-2-70b", "method=full", "samples=21300"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["level"], document["basis"]) == (1, 0.9, "fit")
    for name in ("time_s", "energy_kwh", "emissions_g", "peak_memory_gb"):
        assert 0 < document[name]["low"] <= document[name]["estimate"] <= document[name]["high"]
    assert {"intensity_g_per_kwh", "definition"} <= set(document["emissions_g"])
    factors = {item["variable"]: item["factor"] for item in document["extrapolates"]}
    assert factors["params"] == pytest.approx(68976648192 / 8e9)
    assert document["assumptions"]
    assert main(command[:2] + command[3:]) == 0
    assert "kWh (90 % interval" in capsys.readouterr().out


def test_memory_of_runs_on_a_processor_is_a_processors() -> None:
    """Its device is in no list, but named as records name a processor: the median of the study's runs is inside."""
    runs = load_runs([ROOT / "docs" / "study" / "runs" / "linear"])
    peaks = runs.frame.loc[runs.frame["samples"] == 1024, "peak_memory_gb"]
    found = extrapolate(runs, ["samples=1024", "epochs=1"]).document["peak_memory_gb"]
    assert found["low"] < peaks.median() < found["high"]
    assert found["estimate"] == pytest.approx(peaks.median(), rel=0.35)


def test_estimator_with_the_written_fit_says_the_same(tmp_path: Path) -> None:
    table = table_of(SATURATING, cv=0.02, methods=("lora", "full"))
    overrides = ["model=llama-3.2-1b", "method=lora", "samples=200000", "precision=bf16", "max_seq_len=256"]
    ours = extrapolate(table, overrides)
    (tmp_path / "fit.json").write_text(json.dumps(ours.validated.fitted.document), encoding="utf-8")
    config = compose(overrides)
    target = target_of(config, config.workload(Lengths.lognormal(100.0, config.data.tokens_cv)))
    theirs = load_fit(tmp_path / "fit.json").predict(target)
    for name in ("estimate", "low", "high"):
        assert ours.document["energy_kwh"][name] == pytest.approx(getattr(theirs, name), rel=1e-9)


def test_truth_ten_times_beyond_the_data_lies_in_the_interval() -> None:
    document = ask("model=llama-2-70b", "samples=20000", "hardware.memory_gb=1000").document
    values = document["target"]["values"]
    truth = 3e-12 * values["flops"] * (1 + 4e9 / values["flops_per_token"]) / 3.6e6
    assert document["energy_kwh"]["low"] < truth * 1.02
    assert truth < document["energy_kwh"]["high"]


def test_inside_the_data_nothing_is_flagged() -> None:
    document = ask("model=llama-3.2-1b", "samples=5000", "method=lora").document
    assert document["extrapolates"] == []
    assert document["scenarios"] == []
    assert document["validation"] == {**document["validation"], "label": "validated", "validated": True, "reasons": []}


def test_corner_that_no_run_had_is_outside_the_hull() -> None:
    frame = frame_of(law(), cv=0.02, tokens=(1e5, 2e5, 4e5, 8e5, 1.6e6))
    along = np.abs(np.log(frame["params"] / 1e9) - np.log(frame["tokens_seen"] / 4e5)) < 1.2
    document = extrapolate(
        as_table(frame[along].reset_index(drop=True)), ["model=smollm2-135m", "samples=14000"]
    ).document
    assert [item["variable"] for item in document["extrapolates"]][-1] == "flops_per_token with tokens"


def test_hull_distance() -> None:
    square = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert hull_factor(square, np.array([0.4, 0.9])) is None
    assert hull_factor(square, np.array([0.5, 3.0])) == pytest.approx(math.exp(2.0), rel=1e-3)
    assert hull_factor(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([1.0, 0.0])) == pytest.approx(
        math.exp(math.sqrt(0.5)), rel=1e-3
    )


def test_unseen_method_is_a_scenario_not_an_extrapolation() -> None:
    document = ask("model=llama-3.2-1b", "method=qlora", "samples=5000").document
    seen = ask("model=llama-3.2-1b", "samples=5000").document
    assert [item["variable"] for item in document["scenarios"]] == ["method"]
    assert "method" not in [item["variable"] for item in document["extrapolates"]]
    assert document["validation"]["label"] == "NOT VALIDATED"
    assert _ratio(document) > 2 * _ratio(seen)


def test_full_fine_tuning_from_runs_of_lora_covers_the_public_pair() -> None:
    """PEFT's benchmark, Llama-3.2-3B on an L40S: LoRA took 29.2 s for each 1,000 samples, full fine-tuning 1,813 s."""
    samples = np.repeat([1000.0, 2000.0, 4000.0, 8000.0], 3)
    seconds = 29.2e-3 * samples * np.resize([0.98, 1.0, 1.02], len(samples))
    frame = frame_of(law(), sizes=(3.21e9,), tokens=(1e5,), replicates=len(samples)).assign(
        model="llama-3.2-3b", hardware="NVIDIA L40S", samples=samples, samples_seen=samples, tokens_seen=210 * samples,
        batch_size=4.0, max_seq_len=768.0, train_s=seconds, total_s=seconds, energy_train_kwh=seconds * 300 / 3.6e6,
        energy_kwh=seconds * 300 / 3.6e6, flops=4 * 3.21e9 * 210 * samples,
    )  # fmt: skip
    found = extrapolate(as_table(frame), ["method=full", "samples=20000", "data.tokens_cv=0"]).document["time_s"]
    assert found["low"] < 1813 < found["high"]
    assert found["low"] > 0.15 * 1813


def test_no_scenario_goes_below_the_limit_of_its_own_device() -> None:
    """Runs at 0.6 of the limit of an RTX A4000, asked of an RTX 3090: a factor 2 below that would be impossible."""
    frame = frame_of(law(), cv=0.02, replicates=2)
    found = extrapolate(as_table(frame), ["model=llama-3.2-1b", "samples=5000", "hardware=rtx-3090"]).document
    flops = found["target"]["values"]["flops"]
    assert found["energy_kwh"]["low"] == pytest.approx(350 / 71e12 * flops / 3.6e6)
    assert found["time_s"]["low"] >= flops / 71e12 * (1 - 1e-9)


OWN_SETTINGS = {"batch_size": 8.0, "max_seq_len": 512.0, "rank": 8.0}


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.2-1B", "the company's own"])
def test_the_same_settings_are_predicted_at_what_they_took(model: str) -> None:
    """Runs that tell neither FLOPs nor padding: the target is counted as they are, whichever way that is."""
    frame = frame_of(law(), cv=0.01, sizes=(1.2358e9,), replicates=4).assign(
        model=model, flops=np.nan, tokens_padded=np.nan, **OWN_SETTINGS
    )
    longest = frame["tokens_seen"] > 1e6
    took = float(frame.loc[longest, "energy_train_kwh"].mean() / frame.loc[longest, "tokens_seen"].mean())
    document = extrapolate(as_table(frame), ["model=llama-3.2-1b", "samples=16000", "eval_samples=0"]).document
    values = document["target"]["values"]
    assert values["tokens"] == pytest.approx(1.6e6, rel=0.01)
    setup = float((frame["energy_kwh"] - frame["energy_train_kwh"]).mean())
    assert document["energy_kwh"]["estimate"] == pytest.approx(took * values["tokens"] + setup, rel=0.02)
    said = " ".join(document["assumptions"])
    assert "tokens without padding" in said
    own = model == "the company's own"
    assert (values["flops"] == pytest.approx(4 * 1_235_814_400 * values["tokens"])) == own
    assert ("of what is predicted as well" if own else "counted from their models' presets") in said


def _ratio(document: dict) -> float:
    return document["energy_kwh"]["high"] / document["energy_kwh"]["low"]


def test_other_device_is_scaled_by_the_sheets_and_widened() -> None:
    here, there = (ask("model=llama-3.2-1b", "samples=5000", *extra).document for extra in ([], ["hardware=l40s"]))
    expected = (350 / 362) / (140 / 76.7)
    ratio = there["energy_kwh"]["estimate"] / here["energy_kwh"]["estimate"]
    assert ratio == pytest.approx(expected, rel=0.05)
    assert [item["variable"] for item in there["scenarios"]] == ["hardware"]
    assert _ratio(there) > 3.9


def test_device_without_a_sheet_is_refused_in_one_sentence() -> None:
    frame = frame_of(law(), cv=0.02).assign(hardware="Some accelerator")
    with pytest.raises(UserError, match="hardware: got l40s; the runs were on Some accelerator"):
        extrapolate(as_table(frame), ["model=llama-3.2-1b", "hardware=l40s"])


def test_several_devices_are_a_scenario() -> None:
    document = ask("model=llama-3.2-1b", "samples=5000", "hardware=rtx-a4000", "hardware.count=4").document
    assert [item["variable"] for item in document["scenarios"]] == ["hardware.count"]


def test_number_of_devices_that_the_runs_varied_is_no_scenario() -> None:
    frame = frame_of(law(), cv=0.02, replicates=2)
    frame["gpu_count"] = np.where(frame.index % 2, 4.0, 1.0)
    table = as_table(frame)
    overrides = ["model=llama-3.2-1b", "samples=5000", "hardware=rtx-a4000", "hardware.count=4"]
    assert extrapolate(table, overrides).document["scenarios"] == []


def test_model_that_does_not_fit_is_not_validated() -> None:
    document = ask("model=llama-2-70b", "method=full", "samples=10000").document
    assert document["peak_memory_gb"]["fits"] is False
    assert "devices needed" in [item["variable"] for item in document["scenarios"]]
    assert document["validation"]["label"] == "NOT VALIDATED"


def test_the_memory_that_the_target_names_counts_for_a_listed_device_too() -> None:
    document = ask("model=llama-3.2-1b", "samples=5000", "hardware=rtx-a4000", "hardware.memory_gb=2").document
    assert (document["peak_memory_gb"]["available_gb"], document["peak_memory_gb"]["fits"]) == (2, False)
    assert "devices needed" in [item["variable"] for item in document["scenarios"]]


@pytest.mark.parametrize("runs_had", [True, False])
def test_recomputed_activations_that_no_run_had_are_a_scenario(runs_had: bool) -> None:
    frame = frame_of(SATURATING, cv=0.02, replicates=2).assign(gradient_checkpointing=runs_had)
    target = ["model=llama-3.2-1b", "samples=5000", "hardware=rtx-a4000"]
    asked = {}
    for flag in (True, False):
        words = [*target, f"gradient_checkpointing={str(flag).lower()}"]
        asked[flag] = extrapolate(as_table(frame), words).document
    assert asked[runs_had]["scenarios"] == []
    (scenario,) = asked[not runs_had]["scenarios"]
    assert scenario["variable"] == "gradient_checkpointing"
    assert scenario["spread_factor"] == pytest.approx(1.2)
    assert asked[not runs_had]["validation"]["label"] == "NOT VALIDATED"


def test_beyond_twice_the_backtests_horizon_is_not_validated() -> None:
    near = ask("model=llama-3.2-1b", "samples=100000", "method=lora").document["validation"]
    far = ask("model=llama-3.2-1b", "samples=100000000", "method=lora").document["validation"]
    assert near["validated"]
    assert near["label"] == "PARTLY VALIDATED"
    assert "a change of regime in between would not have been seen" in near["reasons"][0]
    assert not far["validated"]
    assert far["label"] == "NOT VALIDATED"
    assert any("in tokens" in reason for reason in far["reasons"])


def test_size_that_never_varied_does_not_look_sure() -> None:
    one = extrapolate(table_of(law(), cv=0.02, sizes=(1e9,), replicates=6), ["model=llama-3.1-8b", "samples=4000"])
    several = extrapolate(
        table_of(law(), cv=0.02, sizes=(5e8, 1e9, 2e9), replicates=2), one.document["target"]["overrides"]
    )
    assert _ratio(one.document) > 1.4 * _ratio(several.document)
    assert one.document["validation"]["label"] == "NOT VALIDATED"


def test_token_lengths_come_from_the_runs_unless_given() -> None:
    taken = ask("model=llama-3.2-1b", "samples=1000").document
    given = ask("model=llama-3.2-1b", "samples=1000", "data.tokens_per_sample=50").document
    assert any("100 tokens a sample on average, as in the runs" in text for text in taken["assumptions"])
    assert any("50 tokens a sample, as given" in text for text in given["assumptions"])
    assert given["target"]["values"]["tokens"] < 0.65 * taken["target"]["values"]["tokens"]


@pytest.mark.parametrize("own_limit", [np.nan, 256.0])
def test_the_runs_samples_are_not_cut_again(own_limit: float) -> None:
    """200 tokens a sample with a limit of 256: log-normal lengths of that mean would be cut to 180 or so."""
    frame = frame_of(law(), cv=0.02, tokens=(2e5, 4e5, 8e5)).assign(max_seq_len=own_limit)
    frame["samples"] = frame["samples_seen"] = frame["tokens_seen"] / 200
    target = ["model=llama-3.2-1b", "samples=4000", "batch_size=1"]
    own = extrapolate(as_table(frame), target).document["target"]["values"]["tokens"]
    assert own == pytest.approx(200 * 4000, rel=0.005)
    assert extrapolate(as_table(frame.assign(flops=np.nan)), target).document["validation"]["label"] == "validated"
    shorter = extrapolate(as_table(frame), [*target, "max_seq_len=200"]).document["target"]["values"]["tokens"]
    assert shorter < 0.95 * own


def test_grams_from_the_runs_own_intensity_or_the_zone_asked_for() -> None:
    frame = frame_of(SATURATING, cv=0.02, methods=("lora", "full")).assign(
        intensity_g_per_kwh=80.0, intensity_source="energidataservice"
    )
    frame.loc[0, "intensity_g_per_kwh"] = 120.0
    share = frame["energy_kwh"][0] / frame["energy_kwh"].sum()
    own = extrapolate(as_table(frame), ["model=llama-3.2-1b", "samples=1000"]).document["emissions_g"]
    assert own["intensity_g_per_kwh"] == pytest.approx(80 + 40 * share)
    assert own["estimate"] == pytest.approx(
        own["intensity_g_per_kwh"]
        * extrapolate(as_table(frame), ["model=llama-3.2-1b", "samples=1000"]).document["energy_kwh"]["estimate"]
    )
    zone = extrapolate(as_table(frame), ["model=llama-3.2-1b", "samples=1000", "grid.zone=SE"]).document["emissions_g"]
    assert zone["intensity_g_per_kwh"] == static_intensity("SE").g_per_kwh


def test_intensities_of_several_definitions_have_no_mean() -> None:
    frame = frame_of(SATURATING, cv=0.02, methods=("lora", "full")).assign(
        intensity_g_per_kwh=80.0, intensity_source="energidataservice"
    )
    frame.loc[:2, ["intensity_g_per_kwh", "intensity_source"]] = [475.0, "static"]
    own = extrapolate(as_table(frame), ["model=llama-3.2-1b", "samples=1000"]).document["emissions_g"]
    assert own["intensity_g_per_kwh"] == pytest.approx(80)
    assert f"{len(frame) - 3} of the {len(frame)} runs" in own["definition"]
    assert "static" not in own["definition"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model=nonsense", "model: got 'nonsense'"),
        ("max_steps=0", "max_steps: got 0"),
        ("samples=-3", "samples: got -3"),
        ("nonsense=3", "nonsense: not a setting"),
    ],
)
def test_targets_that_make_no_run_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, sentence: str
) -> None:
    frame_of(law(), cv=0.02).to_csv(tmp_path / "t.csv", index=False)
    model = [] if override.startswith("model=") else ["model=llama-3.2-1b"]
    assert main(["extrapolate", str(tmp_path / "t.csv"), *model, override]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.out == ""


def test_runs_are_needed_before_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extrapolate", "model=llama-2-70b"]) == 2
    assert "RUNS: missing" in capsys.readouterr().err


def test_time_is_extrapolated_where_it_is_known() -> None:
    frame = frame_of(law(), cv=0.02)
    target = ["model=llama-3.2-1b", "samples=1000"]
    known = extrapolate(as_table(frame), target).document["time_s"]
    assert known["estimate"] > 0
    assert extrapolate(as_table(frame.assign(train_s=np.nan)), target).document["time_s"] is None


def test_predictions_grow_with_the_run() -> None:
    table = as_table(frame_of(SATURATING, cv=0.02))
    fit = validated_fit(table)
    energies = [
        predict_target(table, fit, ["model=llama-3.2-1b", f"samples={n}"]).document["energy_kwh"]["estimate"]
        for n in (1000, 2000, 4000, 8000)
    ]
    assert energies == sorted(energies)


def test_no_plotting_no_torch_is_imported() -> None:
    code = (
        "import sys, analysis.energy_model.extrapolate; "
        "print([m for m in ('matplotlib', 'seaborn', 'torch', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def apart(methods: dict[str, str]) -> pd.DataFrame:
    """Each run on the device that its method was always run on."""
    frame = frame_of(SATURATING, cv=0.02, methods=("lora", "full"), replicates=2)
    return frame.assign(hardware=frame["method"].map(methods))


ONE_DEVICE_EACH = {"lora": "NVIDIA A100-SXM4-80GB", "full": "NVIDIA H100 80GB HBM3"}


def test_a_combination_that_the_runs_cannot_tell_is_a_scenario() -> None:
    """LoRA on one device and full fine-tuning on another: nothing says what full fine-tuning takes on the first."""
    table = as_table(apart(ONE_DEVICE_EACH))
    common = ["model=llama-3.2-1b", "samples=5000", "hardware=a100-80gb"]
    seen, unseen = (extrapolate(table, [*common, f"method={method}"]).document for method in ("lora", "full"))
    assert seen["scenarios"] == []
    [scenario] = unseen["scenarios"]
    assert scenario["variable"] == "method with hardware"
    assert scenario["value"] == "full with NVIDIA A100-SXM4-80GB"
    assert scenario["seen"] == ["full with NVIDIA H100 80GB HBM3", "lora with NVIDIA A100-SXM4-80GB"]
    assert scenario["spread_factor"] == pytest.approx(2.2, rel=1e-3)
    assert "No run had full with NVIDIA A100-SXM4-80GB" in scenario["sentence"]
    assert unseen["validation"]["label"] == "NOT VALIDATED"
    assert _ratio(unseen) > 3.9


def test_a_combination_that_follows_from_its_parts_is_none() -> None:
    frame = apart(ONE_DEVICE_EACH)
    both = np.where(frame.index % 3 == 0, "NVIDIA H100 80GB HBM3", frame["hardware"])
    table = as_table(frame.assign(hardware=both))
    document = extrapolate(table, ["model=llama-3.2-1b", "samples=5000", "hardware=a100-80gb", "method=full"]).document
    assert document["scenarios"] == []


def test_a_method_that_was_run_on_more_devices_alone_is_a_scenario_on_one() -> None:
    frame = frame_of(SATURATING, cv=0.02, methods=("lora", "full"), replicates=2)
    table = as_table(frame.assign(gpu_count=np.where(frame["method"] == "full", 4.0, 1.0)))
    overrides = ["model=llama-3.2-1b", "samples=5000", "hardware=rtx-a4000", "method=full", "hardware.memory_gb=1000"]
    scenario, *_ = extrapolate(table, overrides).document["scenarios"]
    assert scenario["variable"] == "method with hardware.count"
    assert scenario["value"] == "full with 1"


def own_table(folder: Path, **columns: object) -> str:
    """A table of one's own in which a run takes 0.001 kWh and 0.00001 a sample, with these columns beside."""
    rows = [
        {
            "samples": samples,
            "epochs": 1,
            "energy_kwh": (0.001 + 1e-5 * samples) * (1 + 0.01 * (replicate - 1)),
            **columns,
        }
        for samples in (250, 500, 1000, 2000, 4000, 8000)
        for replicate in range(3)
    ]
    pd.DataFrame(rows).to_csv(folder / "own.csv", index=False)
    return str(folder / "own.csv")


def refusal(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main(["extrapolate", *command]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_table_that_tells_no_sizes_says_nothing_of_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unnamed = refusal(capsys, own_table(tmp_path), "model=llama-2-70b", "method=full", "samples=1000")
    assert "model: got llama-2-70b; the runs do not name their model and tell no sizes" in unnamed
    named = refusal(capsys, own_table(tmp_path, model="llama-3.2-1b"), "model=llama-2-70b", "samples=1000")
    assert "the runs are of llama-3.2-1b and tell no sizes" in named
    method = refusal(capsys, own_table(tmp_path, model="llama-3.2-1b"), "method=full", "samples=1000")
    assert "method: got full; the runs do not tell theirs" in method


def test_a_table_that_names_no_model_predicts_runs_of_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["extrapolate", own_table(tmp_path), "samples=3000", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["energy_kwh"]["estimate"] == pytest.approx(0.031, rel=0.01)
    assert document["peak_memory_gb"]["estimate"] is None
    assert "of the runs' own model and settings, which they do not name" in document["assumptions"][0]
    assert not {"params", "flops", "tokens"} & document["target"]["values"].keys()
    said = " ".join(document["assumptions"])
    assert "its fixed part included" in said
    assert "are not added" not in said
    assert "gradient_checkpointing" not in said
    assert main(["extrapolate", own_table(tmp_path), "samples=3000"]) == 0
    assert "Memory     unknown" in capsys.readouterr().out


def test_energy_of_another_size_is_in_proportion_where_one_size_alone_is_known(tmp_path: Path) -> None:
    """From 1.1 billion parameters to Llama-2-70B: 62.7 times a sample's energy, and not the same."""
    table = load_runs([own_table(tmp_path, params=1.1e9, method="lora")])
    found = extrapolate(table, ["model=llama-2-70b", "method=lora", "samples=4000"]).document
    assert found["energy_kwh"]["estimate"] == pytest.approx(0.041 * 68976648192 / 1.1e9, rel=0.01)
    assert found["validation"]["label"] == "NOT VALIDATED"


def test_what_is_not_given_is_as_in_the_runs() -> None:
    frame = frame_of(law(), cv=0.02, sizes=(1e9,), replicates=2).assign(
        model="llama-3.2-1b", batch_size=4.0, max_seq_len=512.0, gradient_accumulation=2.0, gradient_checkpointing=True
    )
    own = extrapolate(as_table(frame), ["samples=4000"]).planned.config
    assert (own.model.name, own.method.name, own.lora.r) == ("llama-3.2-1b", "lora", 8)
    assert (own.batch_size, own.max_seq_len, own.gradient_accumulation) == (4, 512, 2)
    assert own.gradient_checkpointing
    given = extrapolate(as_table(frame), ["samples=4000", "model=llama-2-7b", "batch_size=16", "method=full"]).planned
    assert (given.config.model.name, given.config.method.name) == ("llama-2-7b", "full")
    assert (given.config.batch_size, given.config.max_seq_len) == (16, 512)


def test_an_experiment_is_a_whole_run_of_its_own() -> None:
    frame = frame_of(law(), cv=0.02).assign(model="llama-3.2-1b", batch_size=64.0)
    planned = extrapolate(as_table(frame), ["+experiment=munin_skolegpt", "hardware=auto"]).planned
    assert (planned.config.model.name, planned.config.batch_size) == ("munin-7b", 2)


def test_the_runs_own_model_is_never_replaced_by_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame_of(law(), cv=0.02, sizes=(1e9,), replicates=2).to_csv(tmp_path / "t.csv", index=False)
    said = refusal(capsys, str(tmp_path / "t.csv"), "samples=4000")
    assert "model: missing, and the runs' own, model-1b, is none of the presets; give model=NAME" in said


def test_a_default_that_would_cut_the_samples_is_refused() -> None:
    frame = frame_of(law(), cv=0.02).assign(model="llama-3.2-1b")
    frame["samples"] = frame["samples_seen"] = frame["tokens_seen"] / 640
    with pytest.raises(UserError, match="max_seq_len: missing, and its default of 256 would cut the runs' 640"):
        extrapolate(as_table(frame), ["samples=100"])
    extrapolate(as_table(frame), ["samples=100", "max_seq_len=2048"])


@pytest.mark.parametrize(("device", "setup_kwh"), [("a100-80gb", 1e-2), ("rtx-4090", 1e-4)])
@pytest.mark.parametrize("reused", [False, True])
def test_a_run_pays_the_setup_of_its_own_device(device: str, setup_kwh: float, *, reused: bool) -> None:
    """Set-up of a hundred times the energy on one of two devices; a run whose training hardly counts."""
    names = {"NVIDIA A100-SXM4-80GB": 1e-2, "NVIDIA GeForce RTX 4090": 1e-4}
    frame = frame_of(law(), cv=0.02, sizes=(1.2358e9,), replicates=6)
    hardware = pd.Series(np.resize(list(names), len(frame)))
    again = reused & (frame.index >= 6)  # the others found the model loaded
    own = np.where(again, 0.0, hardware.map(names)) * np.random.default_rng(1).normal(1, 0.02, len(frame))
    table = as_table(
        frame.assign(
            model="llama-3.2-1b", hardware=hardware, setup_reused=again, energy_setup_kwh=own,
            energy_kwh=frame["energy_train_kwh"] + own,
        )
    )  # fmt: skip
    document = extrapolate(table, ["samples=8", f"hardware={device}", "precision=bf16"]).document
    truth, energy = setup_kwh + 3e-12 * document["target"]["values"]["flops"] / 3.6e6, document["energy_kwh"]
    assert energy["estimate"] == pytest.approx(truth, rel=0.05)
    assert energy["low"] < truth < energy["high"] < 2 * truth
