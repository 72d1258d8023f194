"""`python -m lora_scaling.estimate`: output, sweeps, comparisons, bad input, and what it imports."""

import json
import math
import re
import subprocess
import sys

import pytest

from lora_scaling.commands.estimate import main

JOB = [
    "model=llama-3.1-8b", "method=qlora", "hardware=rtx-4090", "gradient_checkpointing=true", "samples=1000",
    "max_seq_len=512",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def run(capsys, *arguments):
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def answer(capsys, *arguments):
    status, out, _ = run(capsys, *arguments, "--json")
    assert status == 0
    return json.loads(out)


def test_json_is_the_contracts(capsys):
    found = answer(capsys, *JOB, "grid.zone=DK1")
    assert (found["schema_version"], found["level"], found["basis"]) == (1, 0.9, "priors")
    for figure in ("time_s", "energy_kwh", "emissions_g", "peak_memory_gb"):
        assert found[figure]["low"] < found[figure]["estimate"] < found[figure]["high"]
    assert found["peak_memory_gb"]["fits"] is True
    assert {"intensity_g_per_kwh", "definition"} <= set(found["emissions_g"])
    assert found["extrapolates"] == []
    assert all(isinstance(text, str) for text in found["assumptions"])


def test_the_table_says_its_basis_interval_and_assumptions(capsys):
    status, out, err = run(capsys, *JOB, "price.per_hour=1")
    assert (status, err) == (0, "")
    for words in ("priors only", "90% interval", "Assumed:", "kWh", "fits in 24 GB", "cost", "modelled"):
        assert words in out


def test_a_sweep_adds_up_every_run_once(capsys):
    found = answer(capsys, "-m", *JOB[:4], "samples=100,200", "lora.r=4,8", "replicates=3")
    assert len(found["runs"]) == 12
    for figure in ("time_s", "energy_kwh"):
        for end in ("estimate", "low", "high"):
            assert found["total"][figure][end] == pytest.approx(sum(r[figure][end] for r in found["runs"]))


def test_a_sweep_over_groups_and_a_run_alone_agree(capsys):
    swept = answer(capsys, "-m", "model=llama-2-7b,mistral-7b", "method=lora,full", "hardware=h200", "samples=500")
    alone = answer(capsys, "model=mistral-7b", "method=full", "hardware=h200", "samples=500")
    energies = [r["energy_kwh"]["estimate"] for r in swept["runs"]]
    assert len(energies) == 4
    assert any(math.isclose(alone["energy_kwh"]["estimate"], energy) for energy in energies)


def test_a_named_sweep_is_read(capsys):
    found = answer(capsys, "-m", "+sweeps=quick", "hardware=t4")
    assert len(found["runs"]) >= 8
    assert found == answer(capsys, "+sweeps=quick", "hardware=t4")  # which is run as a sweep without -m, too
    assert found["total"]["runs"] == len(found["runs"])


def test_runs_that_are_the_same_are_counted_once(capsys):
    found = answer(capsys, "-m", "method=full,lora", "lora.r=4,8,16", "hardware=t4", "model=ladder-3m")
    assert len(found["runs"]) == 1 + 3


def test_comparisons_are_of_the_same_job(capsys):
    methods = answer(capsys, *JOB, "compare=method")["rows"]
    assert [row["label"] for row in methods] == ["lora", "qlora", "full"]
    assert methods[2]["peak_memory_gb"]["fits"] is False
    gpus = answer(capsys, *JOB, "gradient_accumulation=4", "compare=gpus:l4,2xl4,h100-sxm,2xrtx-4090")["rows"]
    assert gpus[0]["time_s"]["estimate"] > gpus[1]["time_s"]["estimate"] > gpus[2]["time_s"]["estimate"]
    assert (gpus[3]["gpu_count"], gpus[3]["hardware"]) == (2, "rtx-4090")
    zones = answer(capsys, *JOB, "compare=zones:NO,PL")["rows"]
    assert zones[0]["energy_kwh"] == zones[1]["energy_kwh"]
    assert zones[0]["emissions_g"]["estimate"] < zones[1]["emissions_g"]["estimate"]
    _, out, _ = run(capsys, *JOB, "compare=method")
    assert "DOES NOT FIT" in out


def test_a_fit_is_used_and_said(capsys, tmp_path):
    model = {
        "name": "m", "weight": 1, "params": {"alpha": -22.0, "gamma": 1.0}, "param_names": ["alpha", "gamma"],
        "covariance": [[0, 0], [0, 0]], "df": 20, "sigma": 0.02,
    }  # fmt: skip
    fit = {
        "schema_version": 1, "kind": "energy_fit", "models": [model], "fixed": {}, "n": 24,
        "ranges": {"samples": [10, 100]}, "methods": ["qlora"], "hardware": ["NVIDIA GeForce RTX 4090"],
    }  # fmt: skip
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(fit))
    found = answer(capsys, *JOB, f"fit={path}")
    assert found["basis"] == "fit"
    assert {"variable": "samples", "factor": 10.0} in found["extrapolates"]
    status, _, err = run(capsys, *JOB, "hardware=t4", f"fit={path}")
    assert status == 2
    assert "not on t4" in err


def fit_of(tmp_path, **changes):
    model = {
        "name": "m", "weight": 1, "params": {"alpha": -22.0}, "param_names": ["alpha"], "covariance": [[0]], "df": 20,
        "sigma": 0.02,
    }  # fmt: skip
    fit = {"schema_version": 1, "kind": "energy_fit", "models": [model], "n": 24, "hardware": ["rtx-4090"], **changes}
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(fit))
    return path


def test_a_device_that_nobody_recognises_is_not_taken_for_the_fits(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("lora_scaling.estimate.hardware._nvidia", lambda *_: None)
    status, _, err = run(capsys, "device=cuda", f"fit={fit_of(tmp_path)}")
    assert status == 2
    assert "hardware: got auto, and no device was recognised here" in err
    assert "fitted on rtx-4090: name the run's device with hardware=" in err
    assert answer(capsys, "device=cuda", "hardware=rtx-4090", f"fit={fit_of(tmp_path)}")["basis"] == "fit"
    assert answer(capsys, "device=cuda", f"fit={fit_of(tmp_path, hardware=[])}")["basis"] == "fit"


def test_a_fit_without_time_prices_its_energy_and_says_what_it_cannot(capsys, tmp_path):
    fit = f"fit={fit_of(tmp_path)}"
    found = answer(capsys, *JOB, fit, "price.per_kwh=0.3", "at=now")
    assert found["time_s"] is None
    assert found["cost"]["estimate"] == pytest.approx(0.3 * found["energy_kwh"]["estimate"])
    assert "yearly intensity all the same: how long the run takes is unknown" in found["assumptions"]
    assert answer(capsys, *JOB, fit, "price.per_kwh=0.3", "price.per_hour=1")["cost"] is None
    advised = answer(capsys, *JOB, fit, "grid.forecast=true")
    assert advised["advice"] == "No advice on when to run: how long it takes is unknown."


def test_models_and_stacks_are_compared_and_a_larger_model_that_is_quicker_is_explained(capsys):
    """Half a billion weights in 24 layers, and 1.2 billion in 16: steps of 20 tokens last as long as their launches."""
    job = ["hardware=h100-sxm", "batch_size=1", "samples=500", "data.tokens_per_sample=20", "data.tokens_cv=0"]
    models = "compare=models:qwen2.5-0.5b,llama-3.2-1b"
    few = answer(capsys, *job, models)
    assert few["rows"][0]["time_s"]["estimate"] > few["rows"][1]["time_s"]["estimate"]
    assert few["note"].startswith("llama-3.2-1b is larger than qwen2.5-0.5b and quicker: a step of few tokens lasts as")
    shown = run(capsys, *job, models)[1]
    assert few["note"] in shown
    assert shown.startswith("lora r=8, 500 samples × 1, on h100-sxm, compared by models")
    long = ["data.tokens_per_sample=4000", "max_seq_len=4096", "gradient_checkpointing=true"]
    many = answer(capsys, "hardware=t4", "batch_size=1", "samples=50", *long, models)
    assert "note" not in many
    stacks = answer(capsys, *job, "model=llama-3.2-1b", "compare=stack:hf,torchtune")["rows"]
    assert stacks[1]["time_s"]["estimate"] < stacks[0]["time_s"]["estimate"]


def test_a_price_has_a_column_where_alternatives_are_compared(capsys):
    priced, plain = (run(capsys, *JOB, *price, "compare=gpus:l4,t4")[1] for price in (["price.per_hour=2.5"], []))
    costs = [
        row["cost"]["estimate"] for row in answer(capsys, *JOB, "price.per_hour=2.5", "compare=gpus:l4,t4")["rows"]
    ]
    lines = priced.splitlines()[2:]
    assert "cost" in lines[0]
    assert "cost" not in plain
    for line, cost in zip(lines[1:3], costs, strict=True):
        assert re.split("  +", line)[-2].startswith(f"{cost:.3g} (")


def test_advice_that_was_asked_for_is_given_or_refused_with_the_reason(capsys):
    said = "No advice on when to run: this provider has no forecast; set grid.zone."
    assert answer(capsys, *JOB, "grid.forecast=true")["advice"] == said
    assert run(capsys, *JOB, "grid.forecast=true")[1].splitlines()[-1] == said
    assert answer(capsys, *JOB)["advice"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hardware=gtx-1"], "hardware: got 'gtx-1'"),
        (["grid.zone=QQ"], "grid.zone: got 'QQ'"),
        (["model=llama-9"], "model: got 'llama-9'"),
        (["samples=0"], "samples: got 0"),
        (["lora.r=100000", *JOB[:1]], "lora.r: got 100000"),
        (["data=hub", "data.path=a/b"], "`data.tokens_per_sample` of a/b is unknown"),
        (["pilot=soon"], "pilot: got 'soon'"),
        (["level=90"], "level: got 90"),
        (["at=tomorrow"], "at: got 'tomorrow'"),
        (["compare=colours"], "compare: got 'colours'"),
        (["compare=gpus:nothing"], "hardware: got 'nothing'"),
        (["compare=gpus:H100"], "hardware: got 'H100'; did you mean h100-"),
        (["compare=models:llama3.2-1b"], "compare: got the model 'llama3.2-1b'; did you mean llama-3.2-1b"),
        (["compare=stacks:axolotl"], "stack: got 'axolotl'; choose one of hf"),
        (["-m", "compare=method"], "-m: adds up a sweep"),
        (["+sweeps=quick", "compare=method"], "+sweeps=quick: adds up a sweep, and compare= is for one run"),
        (["-m", "+sweeps=none"], "sweeps: got 'none'"),
        (["fit=/nowhere/fit.json"], "fit: got /nowhere/fit.json"),
        (["price.per_kwh=cheap"], "price.per_kwh: got 'cheap'"),
        (["model=llama-3.1-70b", "method=full", "hardware=a100-80gb"], "GB more than the 80 GB of a100-80gb"),
        (["sample=3"], "sample: not a setting"),
        (["device=foo"], "device: got 'foo'; choose auto, cpu, mps, cuda, or one GPU, such as cuda:0"),
        (["device=cuda:x"], "device: got 'cuda:x'"),
        (["compare=method", "pilot=60s"], "leave pilot= or compare= out"),
        (["compare=method", "at=now"], "leave at= or compare= out"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1


HEAVY = ("torch", "transformers", "pandas", "statsmodels", "scipy", "codecarbon", "requests", "matplotlib")


def test_an_estimate_imports_nothing_heavy():
    code = (
        "import sys; from lora_scaling.commands.estimate import main; status = main(sys.argv[1:]);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], status)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *JOB, "--json"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[] 0"
