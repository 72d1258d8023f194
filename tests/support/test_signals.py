"""A SIGTERM to the test runner ends it, whatever the commands that it has run did to its signals."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

TESTS = """
import os, signal
from lora_scaling.commands.run import main

def test_a_command_is_ended_from_outside(monkeypatch):
    main(["--help"])
    monkeypatch.setattr("lora_scaling.commands.run.help_text", lambda: os.kill(os.getpid(), signal.SIGTERM))
    main(["--help"])

def test_next():
    open("went_on", "w").close()
"""


def test_sigterm_ends_the_test_run(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    words = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "test_it.py"]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == -signal.SIGTERM, process.stdout
    assert not (tmp_path / "went_on").exists()
