"""The import rules of the contract, each in a process of its own."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "codecarbon", "datasets")
TABLES = ("pandas", "statsmodels", "scipy", "matplotlib", "seaborn")


def loaded(statement: str) -> set[str]:
    """Top-level modules in memory after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("room", ["workload", "config", "records", "estimate", "planning", "grid", "energy"])
def test_light_rooms_import_nothing_heavy(room: str) -> None:
    assert not loaded(f"import lora_scaling.{room}") & {*HEAVY, *TABLES, "requests", "analysis"}


def test_an_estimate_needs_neither_tables_nor_torch() -> None:
    answer = "from lora_scaling.estimate import estimate\nfrom lora_scaling.config import compose\n"
    answer += "estimate(compose(['hardware=rtx-4090']))"
    assert not loaded(answer) & {*HEAVY, *TABLES, "requests"}


def test_running_a_sweep_imports_training_only_when_a_run_starts() -> None:
    assert not loaded("import lora_scaling.running, lora_scaling.sweep, lora_scaling.console") & {*HEAVY, "analysis"}


@pytest.mark.parametrize("module", ["table", "claims", "fit", "extrapolate", "backtest", "design", "plot", "cli"])
def test_analysis_never_trains_or_meters(module: str) -> None:
    assert not loaded(f"import analysis.{module}") & set(HEAVY)
