"""Every command in the documentation is one that the program understands, and most of them are run.

Fenced and indented blocks and code in running text are searched for `python -m …`, `lora-scaling …`,
`python benchmarks/….py`, `torchrun …` and `accelerate launch …`. Settings are composed through the public interface
and options are read by the commands' own parsers; what takes seconds at most is then run on a small table. What is
only read, and why, stands in `ONLY_READ`: a command that is not run must have an entry there.
"""

import argparse
import importlib
import importlib.util
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from analysis import cli
from analysis.commands.arguments import split_overrides
from benchmarks.simulated_tables import FACTORIAL, scaling
from lora_scaling.commands import emissions, program
from lora_scaling.commands import estimate as estimate_cli
from lora_scaling.commands.cli import split_settings
from lora_scaling.commands.config_folders import take_config_folders
from lora_scaling.commands.run import options_first
from lora_scaling.commands.study import parse as parse_study
from lora_scaling.config import compose
from lora_scaling.config.compose import is_single_value
from lora_scaling.errors import UserError
from lora_scaling.estimate.sweeps import expand
from lora_scaling.paths import choices, config_dir, searching
from tests.support.paths import ROOT
from tests.support.processes import Forked, forked, run_code
from tests.support.runs import TINY

MADE = {*(ROOT / "docs" / "reference").glob("*.md")}  # docs/make/reference.py runs what is on these pages
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted({*(ROOT / "docs").rglob("*.md")} - MADE)]
HYDRA = ROOT / "docs" / "hydra.md"
LAUNCHERS = {"python", "torchrun", "accelerate"}
OTHER_MODULES = {"venv", "pytest", "pip"}  # not ours; `.ci/run` uses the three
ENDS = {">", ">>", "|"}  # of a command, in a shell

# Commands that are read but not run, by how they begin (and by an argument, after `…`), each with what it would need.
ONLY_READ = {
    "lora_scaling": "a fine-tune: tests/runs/ has tiny ones, and a slow test below runs two of these",
    "lora_scaling.study": "a study of minutes: tests/runs/test_study.py runs small ones",
    "lora_scaling.emissions": "records; tests/grid/test_emissions.py has them, and live providers need the network",
    "benchmarks.verdict_battery": "minutes: tests/benchmarks/test_verdict_battery.py runs a part",
    "benchmarks.adaptive_simulation": "minutes: tests/analysis/test_adaptive.py runs a part",
    "benchmarks.interval_coverage": "minutes: tests/benchmarks/test_coverage.py runs a part",
    "benchmarks.cost_coverage": "minutes: tests/benchmarks/test_coverage.py draws one table",
    "benchmarks.published_coverage": "half a minute: tests/benchmarks/test_coverage.py runs it on a few rows",
    "lora_scaling.estimate.validate": "six seconds: tests/test_estimate.py compares the rows",
    "lora_scaling.estimate … pilot=": "trains on the device: tests/estimate/test_cli.py has a short one",
    "lora_scaling.estimate … fit=": "a fit of this device: tests/estimate/test_fitted.py has one",
    "lora_scaling.estimate … at=": "the network",
    "analysis report": "half a minute: tests/analysis/report/test_report.py makes one",
    "analysis plot": "half a minute: tests/analysis/figures/test_figures.py draws them",
    "benchmarks/metering_overhead.py": "minutes on a machine that does nothing else",
    "benchmarks.on_gpu.acceptance": "a GPU: tests/benchmarks/test_on_gpu.py makes its steps at a small size",
    "docs/make/outputs.py": "several seconds: tests/docs/test_outputs.py makes the outputs",
    "docs/make/notebook.py": "a sweep: `.ci/run` executes the notebook",
    "docs/make/gallery.py": "half a minute of drawing",
    "docs/make/reference.py": "several seconds: tests/docs/test_outputs.py makes the pages",
    "benchmarks.measured_coverage": "half a minute: tests/benchmarks/test_measured_coverage.py runs a source",
    "benchmarks.fit_priors": "a minute: tests/benchmarks/test_fit_priors.py fits a few rows",
    "benchmarks/pilot_accuracy.py": "most of an hour on a machine that does nothing else",
}
# Files of other programs, which have no columns of ours.
WRITTEN = [ROOT / "tests" / "analysis" / "tables" / name for name in ("written_by", "shaped_like")]
Outcome = Literal["run", "read", "named"]  # named: the module alone, in running text


def _blocks(text: str) -> Iterator[str]:
    """Fenced blocks (mermaid and the like hold no command), indented ones, and code in running text."""
    fenced = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    yield from fenced.findall(text)
    rest = fenced.sub("", text)
    yield from re.findall(r"(?:^ {4}\S.*\n)+", rest, re.MULTILINE)
    spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest))  # some cover two lines
    yield from (span for span in spans if "…" not in span)


def _commands(text: str) -> Iterator[tuple[str, ...]]:
    """The words of each command, comments and `…` removed; what a `--wrap` holds is a command of its own."""
    for block in _blocks(text):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            words = _words(line.strip())
            yield from _split(words)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # prose or program text with an apostrophe
        return []


def _split(words: list[str]) -> Iterator[tuple[str, ...]]:
    if "--wrap" in words:
        yield from _split(_words(words[words.index("--wrap") + 1]))
        return
    joined = " ".join(words).split(" && ") if "&&" in words else None
    parts = [part.split() for part in joined] if joined else [words]
    for part in parts:
        own = itertools.takewhile(lambda word: word not in ENDS, part)
        given = _as_module([word for word in own if not word.endswith("…")])
        if len(given) > 1 and Path(given[0]).name.rstrip("3") in LAUNCHERS and ("-m" in given or _is_script(given[1])):
            yield tuple(given)


def _as_module(words: list[str]) -> list[str]:
    """`lora-scaling COMMAND …` as the module that it starts."""
    if len(words) < 2 or words[0] != "lora-scaling" or words[1] in ("--help", "--version", "-sc"):
        return words
    if words[1] not in program.COMMANDS:  # the words of a run
        return ["python", "-m", "lora_scaling", *words[1:]]
    module = {"run": "lora_scaling", "analyse": "analysis"}.get(words[1], f"lora_scaling.{words[1]}")
    return ["python", "-m", module, *words[2:]]


def _is_script(word: str) -> bool:
    return word.endswith(".py")


FOUND = sorted(
    {
        (path.relative_to(ROOT).as_posix(), words)
        for path in PAGES
        for words in _commands(path.read_text(encoding="utf-8"))
    }
)
# What stands on several pages is tried once.
DOCUMENTED = [(page, words) for i, (page, words) in enumerate(FOUND) if words not in {w for _, w in FOUND[:i]}]


# A command whose output stands below it is run by tests/docs/test_outputs.py.
SHOWN = {
    words
    for path in PAGES
    for block in re.findall(r"^(```\w*\n(?:(?!```).*\n)*```)\n\n```output", path.read_text("utf-8"), re.MULTILINE)
    for words in list(_commands(block + "\n"))[-1:]
}


def _module_and_arguments(words: tuple[str, ...]) -> tuple[str, list[str]]:
    """The module after `-m`, or the script, and what it is given."""
    place = 1 if _is_script(words[1]) else words.index("-m") + 1
    return words[place], list(words[place + 1 :])


def _only_read(words: tuple[str, ...]) -> str | None:
    """The entry of ONLY_READ that a command falls under."""
    module, arguments = _module_and_arguments(words)
    for entry in ONLY_READ:
        begin, _, argument = entry.partition(" … ")
        begins = [module, *arguments][: len(begin.split())] == begin.split()
        if begins and (not argument or any(given.startswith(argument) for given in arguments)):
            return entry
    return None


def _is_only_read(words: tuple[str, ...]) -> bool:
    return words in SHOWN or _only_read(words) is not None


def _shown(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " ".join(value)[:90]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of a factorial sweep, in a current folder that holds the files the documentation names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "alpaca.json").write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    (tmp_path / "intensity.csv").write_text("start,end,g_per_kwh\n", encoding="utf-8")
    monkeypatch.setenv("SAMPLES", "64")
    for name, text in re.findall(r'^```yaml title="(.+?)"\n(.*?)^```', HYDRA.read_text(), re.MULTILINE | re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    path = tmp_path / "table.csv"
    frame = scaling(FACTORIAL, fixed=0.5)(np.random.default_rng(0)).assign(
        model="llama-3.2-1b", method="lora", hardware="NVIDIA A100-SXM4-80GB", precision="bf16", params=1.24e9
    )
    frame["train_s"] = 1e4 * frame["energy_kwh"]
    frame["energy_gpu_kwh"] = 0.8 * frame["energy_kwh"]
    frame["emissions_g"] = 100 * frame["energy_kwh"]
    frame.to_csv(path, index=False)
    return path


def test_the_documentation_has_commands() -> None:
    modules = {_module_and_arguments(words)[0] for _, words in DOCUMENTED}
    assert modules >= {
        "lora_scaling",
        "lora_scaling.estimate",
        "lora_scaling.emissions",
        "lora_scaling.study",
        "analysis",
    }
    assert len(DOCUMENTED) > 40
    assert {"README.md", "docs/study/README.md"} <= {page for page, _ in FOUND}


def test_commands_are_found_as_they_are_written() -> None:
    """Over two lines, with a redirection, as a script, and inside another command."""
    text = (
        "Try `python -m analysis\nclaims RUNS --json`, or `python benchmarks/speed.py --rows 2`.\n\n"
        "```\npython -m lora_scaling.estimate samples=3 \\\n    --json > a.json   # kept\n"
        'sbatch --wrap "torchrun -m lora_scaling samples=4"\n'
        "lora-scaling samples=5\nlora-scaling analyse report RUNS\n```\n"
    )
    assert list(_commands(text)) == [
        ("python", "-m", "lora_scaling.estimate", "samples=3", "--json"),
        ("torchrun", "-m", "lora_scaling", "samples=4"),
        ("python", "-m", "lora_scaling", "samples=5"),
        ("python", "-m", "analysis", "report", "RUNS"),
        ("python", "-m", "analysis", "claims", "RUNS", "--json"),
        ("python", "benchmarks/speed.py", "--rows", "2"),
    ]


@pytest.mark.parametrize(("page", "words"), DOCUMENTED, ids=_shown)
def test_a_documented_command_is_understood(
    page: str, words: tuple[str, ...], table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = understand(words, table, monkeypatch)
    assert outcome == "named" or (outcome == "read") == _is_only_read(words), "see ONLY_READ"


def understand(words: tuple[str, ...], table: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Read a command with the program's own parsers, and run it on `table` unless ONLY_READ has an entry."""
    module, arguments = _module_and_arguments(words)
    run = not _is_only_read(words)
    if _is_script(module):
        _check_script(module, arguments, monkeypatch)
        return "read"
    _check_launcher(words)
    if module in OTHER_MODULES or arguments in ([], ["--help"]):
        assert importlib.util.find_spec(module)
        return "named"
    folders, arguments = take_config_folders(arguments)
    with searching(folders):
        return _check_of_command(module, arguments, table, monkeypatch, run=run)


def _check_of_command(
    module: str, arguments: list[str], table: Path, monkeypatch: pytest.MonkeyPatch, *, run: bool
) -> Outcome:
    if module == "lora_scaling.estimate":
        return _check_estimate(arguments, run)
    if module == "analysis":
        return _check_analysis(arguments, table, monkeypatch, run)
    if module == "lora_scaling":
        _check_run(arguments)
    elif module == "lora_scaling.study":
        request = parse_study(arguments)
        compose(request.overrides)
    elif module == "lora_scaling.emissions":
        emissions.parse_overrides(split_settings(emissions.parse(arguments).words)[1])
    elif module == "lora_scaling.estimate.validate" or (module in ONLY_READ and module.startswith("benchmarks.")):
        _check_parser(importlib.import_module(module).main, arguments, monkeypatch)
    else:
        raise UserError(f"`{module}` is no command of this project; correct the documentation.")
    return "read"


def _check_launcher(words: tuple[str, ...]) -> None:
    """The options of torchrun or accelerate before `-m`."""
    name, own = Path(words[0]).name, list(words[1 : words.index("-m")])
    if name == "torchrun":
        from torch.distributed.run import get_args_parser

        get_args_parser().parse_args([*own, "script"])
    elif name == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert own[0] == "launch"
        launch_command_parser().parse_args([*own[1:], "script"])


def _check_run(arguments: list[str]) -> None:
    given = options_first([word for word in arguments if not word.startswith("hydra")])
    overrides = [word for word in given if "=" in word]
    _check_hydra([word for word in arguments if word.startswith("hydra")])
    if "hydra/sweeper=optuna" in arguments:
        compose([word for word in overrides if is_single_value(word)])
    elif {"-m", "--multirun"} & set(given) or any(word.startswith("+sweeps=") for word in given):
        assert expand(overrides)
    else:
        compose(overrides)


def _check_hydra(words: list[str]) -> None:
    """`hydra/launcher=NAME` names a preset, and `hydra.launcher.KEY=…` a key that stands in it."""
    from omegaconf import OmegaConf

    chosen = {word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")}
    assert chosen <= set(choices("hydra/launcher"))
    keys = [word.partition("=")[0].removeprefix("hydra.launcher.") for word in words if word.startswith("hydra.")]
    for name in chosen:
        preset = OmegaConf.load(config_dir() / "hydra" / "launcher" / f"{name}.yaml")
        for key in keys:
            assert OmegaConf.select(preset, key, default="absent") != "absent", f"{key} is not in {name}.yaml"


def _check_estimate(arguments: list[str], run: bool) -> Outcome:
    request = estimate_cli.parse(arguments)
    if run:
        assert estimate_cli.main(arguments) == 0
        return "run"
    assert expand(request.overrides) if request.multirun else compose(request.overrides)
    return "read"


def _check_analysis(arguments: list[str], table: Path, monkeypatch: pytest.MonkeyPatch, run: bool) -> Outcome:
    name, rest = arguments[0], arguments[1:]
    assert name in cli.COMMANDS, f"`analysis {name}` is no command"
    if rest in ([], ["--help"]):  # named in running text
        return "named"
    module = importlib.import_module(f"analysis.commands.{name}")
    understood = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "run", lambda args: understood.append(args) or 0)
        assert cli.main([name, *rest]) == 0
    [args] = understood
    _, overrides = split_overrides(args.runs)
    if overrides:
        compose(overrides)
    if not run:
        return "read"
    given = [path for folder in WRITTEN if (path := folder / args.runs[0]).exists()]
    args.runs = [str(given[0] if given else table), *overrides]
    args.exclude = []
    assert module.run(args) == 0
    return "run"


def _check_script(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / name
    assert path.is_file(), f"`{name}` is not there; correct the documentation."
    monkeypatch.syspath_prepend(path.parent)  # as Python does for a script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, script)
    spec.loader.exec_module(script)
    _check_parser(script.main, arguments, monkeypatch)


def _check_parser(main: Callable[[], object], arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's own parser reads the arguments; what it would then do is replaced."""

    class Understood(Exception):
        pass

    real = argparse.ArgumentParser.parse_args

    def read(self: argparse.ArgumentParser, args: object = None, namespace: object = None) -> object:
        real(self, arguments)
        raise Understood

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", read)
        with pytest.raises(Understood):
            main()


@pytest.mark.parametrize(
    "command",
    [
        "python -m lora_scaling smples=3",
        "python -m lora_scaling -m +sweeps=lineer_claim",
        "python -m lora_scaling --quiet samples=3",
        "python -m lora_scaling -m hydra/launcher=slurn samples=1,2",
        "python -m lora_scaling -m hydra/launcher=slurm hydra.launcher.partitoin=gpu samples=1,2",
        "python -m lora_scaling.estimate compare=colour",
        "python -m lora_scaling.estimate model=llama-2-7c",
        "python -m lora_scaling.study claim=linear_in_samples",
        "python -m lora_scaling.emissions runs grid.zome=DK1",
        "python -m analysis claims RUNS --margn 0.1",
        "python -m analysis extrapolate RUNS model=llama-2-70c",
        "python -m analysis judge RUNS",
        "python -m benchmarks.verdict_battery --sead 3",
        "python -m lora_scaling.estimator",
        "torchrun --processes 2 -m lora_scaling",
        "python benchmarks/pilot_accurcy.py",
        "python benchmarks/pilot_accuracy.py --piolt 3s",
    ],
)
def test_a_command_with_a_mistake_would_be_noticed(
    command: str, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((UserError, AssertionError, SystemExit)):
        understand(tuple(command.split()), table, monkeypatch)


def test_what_is_only_read_is_documented_at_all() -> None:
    assert {_only_read(words) for _, words in DOCUMENTED} - {None} == set(ONLY_READ)


def test_a_command_without_an_entry_is_run(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert understand(("python", "-m", "analysis", "claims", "RUNS"), table, monkeypatch) == "run"
    assert "is linear in the number of samples" in capsys.readouterr().out


# ---------------------------------------------------------------- run for real


def _python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/bring_your_own.md", "docs/estimator.md", "docs/faq.md", "docs/package.md"])
def test_the_python_in_the_documentation_runs(page: str, tmp_path: Path) -> None:
    blocks = _python_blocks(page)
    assert blocks
    code = "\n".join([f"import os; os.chdir({str(tmp_path)!r})", *blocks])
    process = Forked(run_code, code, [])
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    if "with footprint" in code:
        assert len(list(tmp_path.glob("runs/footprint/my-run-*/run.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["model=shape", "method=qlora samples=64"])
def test_documented_runs_run(wanted: str, tmp_path: Path) -> None:
    """As documented, but tiny: later settings replace earlier ones."""
    [words] = {words for _, words in DOCUMENTED if wanted in " ".join(words) and words[0] == "python"}
    arguments = [word for word in words[3:] if not word.startswith("samples=")]
    process = forked("lora_scaling", *arguments, *TINY, folder=tmp_path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert len(list(tmp_path.glob("runs/*/*/run.json"))) == 1
