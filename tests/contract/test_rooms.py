"""The import rules of the contract, each in a process of its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lora_scaling

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "codecarbon", "datasets")
TABLES = ("pandas", "statsmodels", "scipy", "matplotlib", "seaborn")


def loaded(statement: str, *, whole: bool = False) -> set[str]:
    """Modules in memory after a statement: their top-level names, or the `whole` ones."""
    name = "name" if whole else "name.partition('.')[0]"
    code = f"{statement}\nimport sys\nprint(*sorted({{{name} for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("room", ["workload", "config", "records", "estimate", "config.sweep", "grid", "energy"])
def test_light_rooms_import_nothing_heavy(room: str) -> None:
    assert not loaded(f"import lora_scaling.{room}") & {*HEAVY, *TABLES, "requests", "analysis"}


def test_an_estimate_needs_neither_tables_nor_torch() -> None:
    answer = "from lora_scaling.estimate import estimate\nfrom lora_scaling.config import compose\n"
    answer += "estimate(compose(['hardware=rtx-4090']))"
    assert not loaded(answer) & {*HEAVY, *TABLES, "requests"}


def test_running_a_sweep_imports_training_only_when_a_run_starts() -> None:
    assert not loaded("import lora_scaling.runs.run, lora_scaling.runs.sweep, lora_scaling.runs.progress") & {
        *HEAVY,
        "analysis",
    }


MODULES = [
    "tables.table", "claims.decide", "energy_model.fit", "energy_model.extrapolate", "energy_model.backtest",
    "claims.design", "figures.plot", "report.report", "cli",
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_analysis_never_trains_or_meters(module: str) -> None:
    found = loaded(f"import analysis.{module}", whole=True)
    assert not {name.partition(".")[0] for name in found} & set(HEAVY)
    own = {name for name in found if name.startswith(("lora_scaling.energy", "lora_scaling.training"))}
    assert own <= {"lora_scaling.energy", "lora_scaling.energy.settings"}


def test_the_metering_room_s_interface_is_there_when_asked_for() -> None:
    from lora_scaling import energy

    assert {name: getattr(energy, name).__name__ for name in energy.__all__} == {name: name for name in energy.__all__}
    with pytest.raises(AttributeError, match="no_such_meter"):
        _ = energy.no_such_meter


def imported(file: Path) -> set[str]:
    """Top-level packages that a file names in any import, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_no_file_reaches_out_of_its_room() -> None:
    """Late imports, too. `footprint` has the one exception: a callback for other people's trainers."""
    package = Path(lora_scaling.__file__).parent
    for file in package.rglob("*.py"):
        names, place = imported(file), file.relative_to(package)
        assert "analysis" not in names, place
        if place.parts[0] != "training" and place.name != "footprint.py":
            assert not names & {"torch", "transformers", "peft", "bitsandbytes", "accelerate"}, place


def test_no_file_of_the_analysis_names_training_or_metering() -> None:
    for file in (Path(lora_scaling.__file__).parents[1] / "analysis").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for room in ("training", "energy", "runs", "footprint"):
            assert f"lora_scaling.{room}" not in text, file.name
