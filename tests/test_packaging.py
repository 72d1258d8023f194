"""What wheel and source distribution hold: YAML, data, pages, type markers, licence; built without a network."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import lora_scaling
from tests.support.paths import ROOT

NAME = f"lora_scaling-{lora_scaling.__version__}"
# setuptools' back end by itself: no front end, no isolated environment, so nothing is fetched.
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_{kind}(sys.argv[1]))"

pytest.importorskip("setuptools", minversion="77", reason="the build needs setuptools")


def build(kind: str, source: Path, out: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", BUILD.format(kind=kind), str(out)],
        capture_output=True, text=True, cwd=source, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Package would be ignored" not in done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, which leaves the checkout as it is."""
    folder = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return build("sdist", folder, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as an installer would."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return build("wheel", folder / NAME, tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_commands_need(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        metadata = archive.read(f"{NAME}.dist-info/METADATA").decode()
        scripts = archive.read(f"{NAME}.dist-info/entry_points.txt").decode()
    for room in ("lora_scaling", "analysis"):
        files = [path for path in (ROOT / room).rglob("*.*") if path.is_file() and path.suffix != ".pyc"]
        tracked = {str(path.relative_to(ROOT)) for path in files} & _tracked()
        assert tracked <= held
    for folder in ("conf", "sweeps"):
        assert {f"lora_scaling/{name}" for name in _tracked() if name.startswith(f"{folder}/")} <= held
    assert {"lora_scaling/py.typed", "analysis/py.typed", f"{NAME}.dist-info/licenses/LICENSE"} <= held
    assert not {name for name in held if name.startswith(("tests/", "benchmarks/"))}
    assert "License-Expression: Apache-2.0" in metadata
    assert f"Version: {lora_scaling.__version__}" in metadata
    assert scripts.count("lora-scaling") == 6
    assert "Description-Content-Type: text/markdown" in metadata
    # Where the description is read, the repository's files are not beside it.
    assert not [target for target in re.findall(r"\]\(([^)]*)\)", metadata) if not target.startswith("https://")]


@pytest.mark.slow
def test_the_source_distribution_holds_all_that_its_tests_read(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    wanted = {name for name in _tracked() if name.startswith(("tests/", "docs/", "benchmarks/", ".ci/"))}
    beside = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "constraints.txt"}
    assert wanted | beside <= held


@pytest.mark.slow
def test_the_wheel_alone_finds_its_settings(wheel: Path, tmp_path: Path) -> None:
    """Unpacked somewhere else, before the checkout on the path: an estimate and a sweep from the wheel's own YAML."""
    place = tmp_path / "place"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from lora_scaling.paths import config_root\n"
        "from lora_scaling.estimate import estimate\n"
        "from lora_scaling.estimate.sweeps import expand\n"
        "assert str(config_root()).startswith(sys.argv[1]), config_root()\n"
        "answer = estimate(expand(['+sweeps=quick', 'hardware=l40s'])[0])\n"
        "assert answer.energy_kwh.estimate > 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr


def _tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
