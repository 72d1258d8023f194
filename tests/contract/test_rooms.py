"""The import rules of the contract. The layers are in pyproject.toml, for `lint-imports`; here is what is loaded."""

import ast
import graphlib
import subprocess
import sys

import grimp
import pytest

from tests.support.paths import ROOT

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "codecarbon", "datasets")
TABLES = ("pandas", "statsmodels", "scipy", "matplotlib", "seaborn")


def loaded(statement: str, *, whole: bool = False) -> set[str]:
    """Modules in memory after a statement: their top-level names, or the `whole` ones."""
    name = "name" if whole else "name.partition('.')[0]"
    code = f"{statement}\nimport sys\nprint(*sorted({{{name} for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def test_light_rooms_import_nothing_heavy() -> None:
    rooms = ("workload", "config", "records", "estimate", "config.sweep", "grid", "energy")
    statement = "import " + ", ".join(f"lora_scaling.{room}" for room in rooms)
    assert not loaded(statement) & {*HEAVY, *TABLES, "requests", "analysis"}


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
    "tables.table", "claims.decide", "energy_model.validated_fit", "energy_model.extrapolate", "energy_model.backtest",
    "claims.design", "figures.plot", "report.report", "cli",
]  # fmt: skip


def test_analysis_never_trains_or_meters() -> None:
    found = loaded("import " + ", ".join(f"analysis.{module}" for module in MODULES), whole=True)
    assert not {name.partition(".")[0] for name in found} & set(HEAVY)
    own = {name for name in found if name.startswith(("lora_scaling.energy", "lora_scaling.training"))}
    assert own <= {"lora_scaling.energy", "lora_scaling.energy.settings"}


def test_the_metering_room_s_interface_is_there_when_asked_for() -> None:
    from lora_scaling import energy

    assert {name: getattr(energy, name).__name__ for name in energy.__all__} == {name: name for name in energy.__all__}
    with pytest.raises(AttributeError, match="no_such_meter"):
        _ = energy.no_such_meter


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions, and those for types alone, count."""
    graph = grimp.build_graph("lora_scaling", "analysis", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_analysis_imports_its_own_modules_relatively() -> None:
    """It may be run from a checkout beside another package of its name."""
    for file in (ROOT / "analysis").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not [alias for alias in node.names if alias.name.partition(".")[0] == "analysis"], file
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").partition(".")[0] != "analysis", file
