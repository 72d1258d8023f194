"""What `from lora_scaling import …` and `from analysis import …` give, whatever was imported before."""

import inspect
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import analysis
import lora_scaling
from lora_scaling.errors import UserError

FRAME = pd.DataFrame({"samples": [64, 128, 256, 512] * 3, "epochs": 1, "energy_kwh": [0.11, 0.21, 0.41, 0.81] * 3})


def in_a_new_process(code: str) -> str:
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_names_are_these() -> None:
    assert lora_scaling.__all__ == ["__version__", "compose", "estimate", "footprint", "run"]
    assert analysis.__all__ == ["decide", "extrapolate", "figures", "fit", "load_runs", "report"]


@pytest.mark.parametrize("package", [lora_scaling, analysis])
def test_every_name_is_there_callable_and_documented(package) -> None:
    for name in set(package.__all__) - {"__version__"}:
        value = getattr(package, name)
        assert callable(value)
        assert len(value.__doc__ or "") > 40
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_importing_the_packages_loads_none_of_their_rooms() -> None:
    code = "import lora_scaling, analysis, sys; print(*(m for m in sys.modules if m.startswith(('lora', 'anal'))))"
    assert set(in_a_new_process(code).split()) == {"lora_scaling", "lora_scaling.version", "analysis"}


SAME = {
    "lora_scaling.estimate": ("import lora_scaling.estimate", "from lora_scaling import estimate",
                              "from lora_scaling.estimate import estimate as function"),
    "lora_scaling.footprint": ("import lora_scaling.footprint", "from lora_scaling import footprint",
                               "from lora_scaling.footprint import footprint as function"),
    "analysis.figures": ("import analysis.figures.style", "from analysis import figures",
                         "from analysis.figures.plot import figures as function"),
    "analysis.report": ("import analysis.report.page", "from analysis import report",
                        "from analysis.report.report import report as function"),
}  # fmt: skip


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_function_that_shares_its_name_with_a_package_is_the_same_in_every_order(first: int) -> None:
    """`first`: which import comes first in a new process, and so decides how the package is loaded."""
    code = ["import inspect"]
    for name, imports in SAME.items():
        package, _, short = name.partition(".")
        code += [
            imports[first],
            *imports,
            f"import {package}",
            f"assert {short} is {name}",
            f"assert callable({short})",
        ]
        code += [f"assert inspect.signature({short}) == inspect.signature(function)"]
    in_a_new_process("\n".join(code))


def test_an_estimate_by_the_package_s_name_is_that_of_its_function() -> None:
    from lora_scaling import compose, estimate
    from lora_scaling.estimate.estimator import estimate as function

    config = compose(["model=llama-3.1-8b", "hardware=rtx-4090", "data.tokens_per_sample=300"])
    assert estimate(config, level=0.8) == function(config, level=0.8)  # pyright: ignore[reportCallIssue]
    assert "level" in inspect.signature(estimate).parameters


def test_verdicts_fit_and_prediction_of_a_frame() -> None:
    """Energies of 0.01 + 0.1·(samples/64) kWh by construction: 64 to 512 samples, and 1,024 at 1.61 kWh."""
    from analysis import decide, extrapolate, fit, load_runs

    noise = [1.01, 0.99, 1.005, 0.995, 1.0, 1.002, 0.998, 1.01, 0.99, 1.003, 0.997, 1.0]
    runs = load_runs(FRAME.assign(energy_kwh=FRAME["energy_kwh"] * noise, model="ladder-1m"))
    verdicts = {claim.id: claim.verdict for claim in decide(runs).claims}
    assert verdicts["linear_in_samples"] == "supported"
    narrow = decide(runs, margin=0.001)
    assert {claim.id: claim.verdict for claim in narrow.claims}["linear_in_samples"] != "supported"
    energy = fit(runs)
    assert energy.fitted.document["n"] == len(runs.frame)
    predicted = extrapolate(energy, "samples=1024").document["energy_kwh"]
    assert predicted["low"] < 1.61 < predicted["high"]
    assert extrapolate(runs, "samples=1024").document["energy_kwh"] == predicted
    with pytest.raises(UserError, match="margin: got"):
        decide(runs, margin=2)


def test_a_file_a_folder_and_a_list_of_them_are_runs(tmp_path: Path) -> None:
    from analysis import load_runs

    FRAME.to_csv(tmp_path / "a.csv", index=False)
    FRAME.assign(energy_kwh=2 * FRAME["energy_kwh"] + 1e-5).to_csv(tmp_path / "b.csv", index=False)
    assert len(load_runs(tmp_path / "a.csv").frame) == len(load_runs(str(tmp_path / "a.csv")).frame) == len(FRAME)
    assert len(load_runs([tmp_path / "a.csv", str(tmp_path / "b.csv")]).frame) == 2 * len(FRAME)
    with pytest.raises(UserError, match="response: got 'power'"):
        load_runs(FRAME, response="power")


def test_a_report_and_its_figures(tmp_path: Path) -> None:
    from analysis import figures, load_runs, report

    runs = load_runs(FRAME)
    path = report(runs, out=tmp_path / "out", targets=["samples=5000"], margin=0.1)
    assert path == tmp_path / "out" / "report.html"
    text = path.read_text(encoding="utf-8")
    assert "equal means ±10 %" in text
    assert {item.name for item in figures(runs)} >= {"energy_vs_samples", "extrapolation"}
    with pytest.raises(UserError, match="target: got"):
        report(runs, out=tmp_path, targets=["model='x"])


OLD = [
    ("from analysis.table import load_runs, table_from_frame", "analysis.table has moved"),
    ("from analysis.verdicts import Options", "analysis.verdicts has moved"),
    (
        "from analysis.claims import decide\nfrom analysis.claims.verdicts import Options\n"
        "from analysis import load_runs\nimport pandas as pd\n"
        "decide(load_runs(pd.DataFrame({'samples': [1], 'epochs': [1], 'energy_kwh': [1.0]})), Options())",
        "analysis.claims.decide has moved",
    ),
]


@pytest.mark.parametrize(("code", "warning"), OLD)
def test_what_documents_of_the_last_version_import_still_works_with_a_warning(code: str, warning: str) -> None:
    run = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"<string>:{code.count(chr(10)) + 1}: DeprecationWarning: {warning}" in run.stderr
