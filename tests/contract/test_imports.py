"""The import rules of the contract as lists of what may be there, not of what may not."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

# What the light rooms may bring into memory besides the standard library: the contract's three, and what these
# bring themselves (ANTLR and YAML are OmegaConf's).
ALLOWED = {"lora_scaling", "numpy", "hydra", "omegaconf", "antlr4", "yaml", "packaging"}
HEAVY = {"torch", "transformers", "peft", "bitsandbytes"}
JOB = ("model=llama-3.1-8b", "hardware=rtx-4090", "method=qlora", "gradient_checkpointing=true", "max_seq_len=512")

_START = "import sys, sysconfig\nbefore = set(sys.modules)\n"  # an environment may load hooks of its own
_SHOW = (
    "roots = [sysconfig.get_path(name) for name in ('purelib', 'platlib')]\n"
    "def outside(module):\n"
    "    return any(str(getattr(module, '__file__', None) or '').startswith(root) for root in roots)\n"
    "found = {name.partition('.')[0] for name, module in list(sys.modules.items())"
    " if name not in before and outside(module)}\n"
    "print(*sorted(found))\n"
)


def installed(statement: str) -> set[str]:
    """Top-level names of the installed packages in memory after a statement, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", f"{_START}{statement}\n{_SHOW}"], capture_output=True, text=True, check=True
    )
    return set(run.stdout.splitlines()[-1].split()) if run.stdout.strip() else set()


def test_light_rooms_bring_nothing_but_what_is_allowed() -> None:
    rooms = ("workload", "config", "records", "estimate")
    assert installed("import " + ", ".join(f"lora_scaling.{room}" for room in rooms)) <= ALLOWED


def test_the_arithmetic_of_work_needs_the_standard_library_only() -> None:
    assert installed("import lora_scaling.workload") <= {"lora_scaling"}


def test_no_estimate_without_a_fit_brings_a_table_library(tmp_path: Path) -> None:
    """A sweep, a comparison, its plot and the page, not only a single run."""
    commands = [
        [*JOB, "--json"],
        ["-m", *JOB, "samples=100,200", "--json"],
        [*JOB, "compare=method", f"plot={tmp_path / 'compare.svg'}"],
        [*JOB, f"page={tmp_path / 'page.html'}"],
    ]
    code = f"from lora_scaling.commands.estimate import main\nassert [main(c) for c in {commands!r}] == [0] * 4"
    assert not installed(code) & {*HEAVY, "pandas", "statsmodels", "scipy", "matplotlib", "seaborn", "analysis"}


@pytest.mark.slow
def test_no_command_of_the_analysis_and_no_estimate_with_its_fit_brings_torch(tmp_path: Path) -> None:
    samples = [64, 128, 256, 512, 1024] * 3
    frame = pd.DataFrame({"samples": samples, "epochs": 1, "method": "lora", "model": "ladder-1m"})
    noise = [1.01, 0.99, 1.0, 1.02, 0.98] * 2 + [0.99, 1.0, 1.01, 0.98, 1.02]
    frame["energy_kwh"] = [1e-5 * (s + 32) * e for s, e in zip(samples, noise, strict=True)]
    frame["tokens_seen"], frame["params"] = 96 * frame["samples"], 1.3e6
    frame["flops"] = 4 * frame["params"] * frame["tokens_seen"]
    frame.to_csv(tmp_path / "runs.csv", index=False)
    runs, out = str(tmp_path / "runs.csv"), ["--out", str(tmp_path / "out")]
    commands = [
        ["claims", runs], ["fit", runs, *out], ["plot", runs, *out], ["extrapolate", runs, "samples=5000"],
        ["backtest", runs], ["design", runs], ["report", runs, *out],
    ]  # fmt: skip
    code = (
        "from analysis.cli import main as analysis\n"
        "from lora_scaling.commands.estimate import main as estimate\n"
        f"assert [analysis(command) for command in {commands!r}] == [0] * {len(commands)}\n"
        f"assert estimate(['samples=5000', 'fit={tmp_path / 'out' / 'fit.json'}']) == 0"
    )
    assert not installed(code) & HEAVY
    assert json.loads((tmp_path / "out" / "fit.json").read_text())["kind"] == "energy_fit"
