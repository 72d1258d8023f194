"""A command line that cannot be read is one sentence and exit status 2, whichever layer finds the mistake."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import lora_scaling
from analysis.cli import main as analysis
from lora_scaling.commands.emissions import main as emissions
from lora_scaling.commands.estimate import main as estimate
from lora_scaling.commands.program import main as program
from lora_scaling.commands.run import main as run
from lora_scaling.config import compose
from lora_scaling.errors import UserError
from tests.support.paths import ROOT, STUDY_RUNS

Command = Callable[[Sequence[str]], int]


@pytest.fixture(autouse=True)
def own_loggers() -> Iterator[None]:
    """Hydra, started in this process, silences every logger there is; tests that come later want theirs."""
    level = logging.root.level
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    silent = [logger.disabled for logger in loggers]
    yield
    logging.root.setLevel(level)
    for logger, disabled in zip(loggers, silent, strict=True):
        logger.disabled = disabled


def said(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `python -m lora_scaling` says on stderr to arguments that it refuses."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # main() sets it: undone after the test
    monkeypatch.setattr(sys, "argv", ["lora_scaling", *arguments])
    assert run() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["=3"], "=3: names no setting; write name=value"),
        (["-m", "=3"], "=3: names no setting"),
        (["samples"], "samples: no value; write name=value"),
        (["a b=3"], "a b=3: cannot be read; write name=value"),
        (["samples=[1"], "samples=[1: cannot be read"),
        (["samples=1,2"], "samples: got 1,2; give one value, [1,2] for a list, or -m for a sweep"),
        (["--samples=3"], "--samples=3: not an option; settings have no dashes: samples=3"),
        (["--quiet"], "--quiet: not an option"),
        (["--cfg", "everything"], "--cfg: got 'everything'; choose one of job, hydra, all"),
        (["--cfg"], "--cfg: no value"),
        (["-m", "--cfg", "job"], "--multirun, --cfg: exclude each other"),
        (["--resolve"], "--resolve: given alone"),
        (["samples=0", "-m", "epochs=1,2"], "samples: got 0; give 1 or more"),
        (["samples=64", "-m", "epochs=1,0"], "epochs: got 0; give 1 or more"),
        (["lora.rank=8"], "lora.rank: not a setting; did you mean lora.r? Allowed: lora.r, lora.alpha"),
        (["r=8"], "r: not a setting; did you mean lora.r? "),
        (["lr=1e-4"], "lr: not a setting; did you mean learning_rate? "),
        (["-m", "sweep=quick"], "sweep: not a setting; did you mean +sweeps? "),
        (["-m", "hydra/launcher=nonsense"], "hydra/launcher: got 'nonsense'; Allowed: ray, slurm"),
        (["~method=3"], "~method=3: cannot be read; write ~method"),
        (["~method=full"], "~method=full: names nothing that could be deleted"),
        (["~samples=3"], "~samples: got another value than the 256 that it has"),
        (["~sample"], "~sample: names nothing that could be deleted"),
        (["rank=8"], "rank: not a setting; did you mean lora.r? lora-scaling --help lists all"),
        (["samples", "=", "64"], "samples: got spaces around =; write samples=64"),
        (["samples=", "64", "epochs=2"], "samples: got spaces around =; write samples=64"),
        (["epochs=2", "samples", "=64"], "samples: got spaces around =; write samples=64"),
        (["lora.target_modules=[q_proj,v_proj"], "lora.target_modules=[q_proj,v_proj: cannot be read; [ is not closed"),
        (["-m", "samples=choice(1,2"], "samples=choice(1,2: cannot be read; ( is not closed"),
        (["samples=1,000"], "samples: got 1,000; write 1000 for one number, or -m for a sweep"),
        (["+samples=64"], "samples: got + before it, and has a value already; write samples=64"),
        (["+model=ladder-3m"], "model: got + before it, and is chosen already; write model=ladder-3m"),
        (["grid=dk"], "grid: got 'dk', and is a group; give one of its settings: grid.provider, grid.zone, "),
        (["country=DNK"], "country: not a setting; did you mean grid.zone? "),
        (["fit=fit.json"], "fit: not a setting; did you mean lora-scaling estimate fit? "),
        (["precision=BF16"], "precision: got 'BF16'; did you mean bf16? choose one of auto, "),
        (["--samples", "64"], "--samples: not an option; settings have no dashes: samples=VALUE"),
        (["--multirn"], "--multirn: not an option; did you mean --multirun?"),
        (["hydra/launcher=workers"], "hydra/launcher: got workers for a single run, which this process makes itself"),
        (["--config-name=my"], "--config-name: got my, and a run always begins with this program's own config"),
        (["+rank=8"], "rank: not a setting; did you mean lora.r? "),
        (["epoch=2"], "epoch: not a setting; did you mean epochs? "),
        (["num_train_epochs=2"], "num_train_epochs: not a setting; did you mean epochs? "),
        (["per_device_train_batch_size=4"], "per_device_train_batch_size: not a setting; did you mean batch_size? "),
        (["lora_dropout=0.1"], "lora_dropout: not a setting; did you mean lora.dropout? "),
        (["lora.rank=4"], "lora.rank: not a setting; did you mean lora.r? "),
        (["load_in_4bit=true"], "load_in_4bit: not a setting; did you mean method=qlora? "),
        (["+sweep=quick"], "sweep: not a setting; did you mean +sweeps? "),
        (["model=mistralai/Mistral-7B-v0.1"], "a folder; write model=hub model.id=mistralai/Mistral-7B-v0.1"),
        (["model=./out/merged"], "which names a checkpoint or a folder; write model=hub model.id=./out/merged"),
        (["model=smollm2.Q4_1.gguf"], "a file; write model.gguf_file=smollm2.Q4_1.gguf"),
        (["data=my.json"], "data: got 'my.json', a file; write data=file data.path=my.json"),
        (["data=in/my.jsonl"], "data: got 'in/my.jsonl', a file; write data=file data.path=in/my.jsonl"),
        (["data=kobprof/skolegpt-instruct"], "write data=hub data.path=kobprof/skolegpt-instruct"),
        (["hardware=RTX4090"], "hardware: got 'RTX4090'; did you mean rtx-4090? "),
        (["hardware=H100_SXM"], "hardware: got 'H100_SXM'; did you mean h100-sxm? "),
        (["model=Qwen2.5-7B"], "model: got 'Qwen2.5-7B'; did you mean qwen2.5-7b? "),
        (["data.tokens_per_sample=" + 400 * "9"], "data.tokens_per_sample: got 999999… (400 digits); give a smaller"),
        (["samples=1.5k"], "samples: got '1.5k'; give a whole number, written 1500"),
        (["samples=1e4"], "samples: got 10000.0; give a whole number, written 10000"),
        (["hardware=a100"], "hardware: got 'a100'; did you mean a100-40gb or a100-80gb or a100-pcie? "),
        (["order=1", "max_kwh=1e-12"], "max_kwh: got 1e-12; this run is expected to take"),
        (["replicates=3"], "replicates: got 3 for a single run, which is made once: add -m"),
        (["+experiment=munin_skolegpt", "max_kwh=0.01"], "max_kwh: got 0.01; this run is expected to take "),
        (["model=llama-2-7b", "hardware=l40s", "max_hours=0.001"], "max_hours: got 0.001; this run is expected"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(arguments, monkeypatch, capsys)
    assert sentence in text
    assert text.startswith("lora-scaling: ")
    assert text.count("\n") == 1
    assert "hydra.cc" not in text


@pytest.mark.parametrize(
    ("word", "module", "package"),
    [
        ("hydra/launcher=slurm_local", "hydra_plugins.hydra_submitit_launcher", "'lora-scaling[slurm]'"),
        ("hydra/launcher=joblib", "hydra_plugins.hydra_joblib_launcher", "'lora-scaling[joblib]'"),
        ("hydra/launcher=ray", "ray", "'lora-scaling[ray]'"),
        ("hydra/sweeper=optuna", "hydra_plugins.hydra_optuna_sweeper", "'lora-scaling[optuna]'"),
    ],
)
def test_a_launcher_that_is_not_installed_is_named_with_its_package(
    word: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # what Python itself takes for: not there
    group, name = word.split("=")
    text = said(["-m", word], monkeypatch, capsys)
    assert text == f"lora-scaling: {group}: got {name}, which is not installed; pip install {package}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("claims runs", "claims: got as a command; did you mean lora-scaling analyse claims? choose one of run, "),
        ("analyze report runs", "analyze: got as a command; did you mean lora-scaling analyse? "),
        ("estimat samples=3", "estimat: got as a command; did you mean lora-scaling estimate? "),
        ("sweep samples=1,2", "sweep: got as a command; did you mean lora-scaling -m? "),
        (
            "foo",
            "foo: got as a command; choose one of run, study, estimate, emissions, doctor, analyse, or write ",
        ),
        ("samples", "samples: no value; write name=value"),
        ("samples=3 estimate", "estimate: got after samples=3; a command goes first: lora-scaling estimate samples=3"),
        ("mine", "mine: got as a command, and is a folder; write lora-scaling analyse report mine"),
        ("analyse --format csv export x.csv", "the command goes first: lora-scaling analyse export --format csv x.csv"),
        ("analyse claim x.csv", "command: got 'claim'; did you mean claims? choose one of claims, fit, "),
        ("analyse report x.csv --output x", "--output: not an option; did you mean --out? "),
        ("analyse claims x.csv margin=0.1", "margin: got 0.1 as a setting; here it is an option: --margin 0.1"),
        ("analyse claims x.csv --margin=5%", "--margin: got '5%'; give it as a share, 0.05 ("),
        ("analyse export x.csv --format=BoAmps", "--format: got 'BoAmps'; did you mean boamps? choose one of "),
    ],
)
def test_a_command_that_there_is_not_is_one_sentence(
    words: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["lora-scaling", *words.split()])
    assert program() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lora-scaling: ")
    assert captured.err.count("\n") == 1
    assert sentence in captured.err


def test_one_program_has_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["samples=50", "hardware=t4", "--json"]
    assert estimate(words) == 0
    alone = capsys.readouterr().out
    assert program(["estimate", *words]) == 0
    assert capsys.readouterr().out == alone
    assert program(["analyse", "claims"]) == 2
    assert capsys.readouterr().err.startswith("lora-scaling: RUNS: missing; give it a value (")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["lora-scaling"])
    assert [program(words) for words in (["samples=0"], ["run", "samples=0"])] == [2, 2]
    assert capsys.readouterr().err == 2 * "lora-scaling: samples: got 0; give 1 or more\n"


@pytest.mark.parametrize("name", ["run", "study", "estimate", "emissions", "doctor", "analyse"])
def test_every_command_says_the_version_of_this_program(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program([name, "--version"]) == 0
    assert capsys.readouterr().out == f"lora-scaling {lora_scaling.__version__}\n"


@pytest.mark.parametrize("command", [estimate, emissions, analysis])
def test_the_other_commands_say_it_as_briefly(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["claims", "runs", "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--quiet: not an option" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("override", ["=3", "++=3", "samples", ""])
def test_composing_refuses_what_names_no_setting(override: str) -> None:
    with pytest.raises(UserError, match="write name=value") as caught:
        compose([override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--margn", "0.1"], "--margn: not an option"),
        (["--margin", "wide"], "--margin: got 'wide'; give a number"),
        (["--level"], "--level: no value"),
        ([], "RUNS: missing"),
    ],
)
def test_the_analysis_refuses_in_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["runs"] if arguments else []
    assert analysis(["claims", *runs, *arguments]) == 2
    text = capsys.readouterr().err
    assert sentence in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["lora_scaling", "--help"],
        ["lora_scaling.estimate", "model=ladder-1m", "samples=64", "hardware=rtx-4090", "--json"],
        ["lora_scaling.emissions", "RUNS"],
        ["lora_scaling.study", "--help"],
        ["analysis", "claims", "RUNS", "--json"],
    ],
    ids=lambda command: command[0],
)
def test_a_reader_that_leaves_early_hears_of_no_error(command: list[str], tmp_path: Path) -> None:
    """`| head`: the other end of the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    shutil.copytree(STUDY_RUNS / "method_more", tmp_path / "runs")
    command = [str(tmp_path / "runs") if word == "RUNS" else word for word in command]
    with os.fdopen(writing, "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", *command], stdout=out, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT
        )
    assert "BrokenPipe" not in done.stderr
    assert done.returncode == 0
