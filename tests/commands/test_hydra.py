"""What users of Hydra know: functions of values, variables, folders of their own, searching sweepers, completion."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins

from lora_scaling.commands import completion
from lora_scaling.commands.config_folders import take_config_folders
from lora_scaling.commands.program import COMMANDS
from lora_scaling.commands.program import main as program
from lora_scaling.config import compose
from lora_scaling.config.compose import compose_by_hydra
from lora_scaling.config.devices import preset
from lora_scaling.config.sweep import SweepDesign, plan
from lora_scaling.errors import RunFailure, UserError
from lora_scaling.paths import choices, searching, user_folders
from lora_scaling.records import blank_record
from lora_scaling.runs.objective import objective_of
from lora_scaling.runs.run import RunOutcome
from lora_scaling.runs.sweep import DesignSweeper
from tests.support.commands import command
from tests.support.paths import ROOT
from tests.support.runs import TINY, only_record


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's folder: a model and a device that build on others, a sweep, and settings under a name."""
    for name, text in {
        "model/our-1m": "defaults: [ladder-1m]\nname: our-1m\n",
        "hardware/our-h100": "defaults: [h100-sxm]\nname: our-h100\nboard_power_w: 500\n",
        "sweeps/ours": "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {samples: '8,16'}}}\n",
        "experiment/night": "# @package _global_\nsamples: 77\n",
    }.items():
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path / "mine"


def test_values_of_a_sweep_are_given_by_functions() -> None:
    runs = plan(
        SweepDesign(), ["model=glob(ladder-1*)", "samples=range(8,25,8)", "lora.r=choice(2,4)"], compose_by_hydra
    )
    assert {run.config.model.name for run in runs} == {"ladder-1m", "ladder-10m", "ladder-100m"}
    assert {run.config.samples for run in runs} == {8, 16, 24}
    assert len(runs) == 3 * 3 * 2
    with pytest.raises(UserError, match=r"model: got glob\(hu\*\), which matches none"):  # hub is no model of its own
        plan(SweepDesign(), ["model=glob(hu*)"], compose_by_hydra)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "model=glob(fladder-*)"], "model: got glob(fladder-*), which matches none; choose among "),
        (["-m", "samples=interval(1,8)"], "samples: got interval(1,8), from which hydra/sweeper=optuna draws; give "),
        (["model=glob(ladder-*)"], "model: got glob(ladder-*), which is a sweep; add -m, or give one value"),
    ],
)
def test_values_that_make_no_sweep_are_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["estimate", *words]) == 2
    assert capsys.readouterr().err.startswith(f"lora-scaling: {said}")


def test_a_variable_stands_for_a_value_of_any_type(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"N": "12", "YES": "true", "NO": "null", "RATE": "1e-3"}.items():
        monkeypatch.setenv(name, value)
    words = [
        "samples=${oc.env:N}", "study=${oc.env:N}", "packing=${oc.env:YES}", "max_steps=${oc.env:NO}",
        "lora.r=${oc.env:N}", "learning_rate=${oc.env:RATE}",
    ]  # fmt: skip
    config = compose(words)
    assert (config.samples, config.study, config.packing, config.max_steps) == (12, "12", True, None)
    assert (config.lora.r, config.learning_rate) == (12, 0.001)
    with pytest.raises(UserError, match="samples: got '12'; give a whole number"):
        compose(["samples='12'"])
    with pytest.raises(UserError, match=r"epochs: got 0\.001; give a whole number"):
        compose(["epochs=${oc.env:RATE}"])
    with pytest.raises(UserError, match=r"samples: got \$\{oc.env:NOT_SET\}, which is not set; export it"):
        compose(["samples=${oc.env:NOT_SET}"])


def test_every_command_finds_the_options_of_the_user(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def estimated(*words: str) -> dict[str, Any]:
        assert program(["estimate", *words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    folder = f"--config-dir={mine}"
    alone = estimated(folder, "model=our-1m", "hardware=our-h100", "+experiment=night")
    assert (alone["name"], alone["hardware"]) == ("our-1m lora r=8, 77 samples × 1", "our-h100")
    assert estimated("--config-dir", str(mine), "+sweeps=ours", "hardware=t4")["total"]["runs"] == 2
    compared = estimated(f"hydra.searchpath=[file://{mine}]", "compare=gpus:our-h100,l4")
    assert [row["label"] for row in compared["rows"]] == ["our-h100", "l4"]
    shown = command("lora_scaling", "run", folder, "model=our-1m", "--cfg", "job")
    assert "name: our-1m" in shown.stdout
    assert user_folders() == ()  # one command after the other, each its own
    assert program(["study", "claim=linear_in_samples", "max_minutes=1", "model=our-1m"]) == 2
    assert capsys.readouterr().err.startswith("lora-scaling: model: got 'our-1m'; ")


def test_a_run_of_an_own_preset_says_how_to_repeat_it(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--config-dir", "mine", "model=our-1m", *TINY, "samples=4", "eval_samples=0", "max_steps=1"]
    done = command("lora_scaling", *words)
    assert done.returncode == 0, done.stderr
    assert "our-1m-lora" in done.stdout
    made = only_record(tmp_path / "runs")
    assert made["model"]["name"] == "our-1m"
    assert "--config-dir=mine" in made["provenance"]["command"]


def test_folders_are_named_in_every_way_that_hydra_knows(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "our_package").mkdir()
    (tmp_path / "our_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MINE", str(mine))
    for words in (
        ["-cd", str(mine)],
        ["--config-dir", str(mine)],
        [f"--config-dir={mine}"],
        [f"hydra.searchpath=[file://{mine}]"],
        ["hydra.searchpath=[file://${oc.env:MINE}]"],
    ):
        assert take_config_folders(["samples=8", *words]) == ([mine], ["samples=8"])
    both = [f"hydra.searchpath=[pkg://our_package,{mine}]"]
    assert take_config_folders(both) == ([tmp_path / "our_package", mine], [])
    with searching([mine]):
        assert preset("our-h100").board_power_w == 500
        assert "our-1m" in choices("model")
        assert "our-1m" not in choices("model", shipped=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config-dir="], "--config-dir: got '', which is not a folder"),
        (["--config-dir", "nowhere"], "--config-dir: got 'nowhere', which is not a folder"),
        (["hydra.searchpath=[pkg://not_installed]"], "which is no installed package"),
        (["hydra.searchpath=[3]"], "hydra.searchpath: got 3; give folders"),
        (["--config-name", "other"], "--config-name: got other, and a run always begins with this program's"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(words: list[str], said: str) -> None:
    done = command("lora_scaling", *words, "samples=8")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_option_of_the_user_does_not_hide_one_of_this_program(mine: Path) -> None:
    (mine / "model" / "ladder-1m.yaml").touch()
    with pytest.raises(
        UserError, match=r"whose model/ladder-1m.yaml has the name of an option of this program; rename"
    ):
        take_config_folders(["--config-dir", str(mine)])


class Search(DesignSweeper):
    """A sweeper that, as Optuna's does, keeps what its runs return."""

    returned: list[Any]

    def sweep(self, arguments: list[str]) -> None:
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=self.task_function, config=self.config
        )
        Search.returned = [result.return_value for result in launcher.launch([arguments], initial_job_idx=0)]


def test_a_run_returns_its_objective_to_a_sweeper_that_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = "hydra_plugins.lora_scaling.Search"
    monkeypatch.setitem(Plugins.instance().class_name_to_class, named, Search)
    words = ["-m", f"hydra.sweeper._target_={named}", *TINY, f"runs_dir={tmp_path}", "max_steps=1"]
    refused = command("lora_scaling", *words)
    assert refused.returncode == 2
    assert refused.stderr == (
        "lora-scaling: objective: got null, and Search searches by it; give objective=eval_loss, or another\n"
    )
    assert command("lora_scaling", *words, "objective=eval_loss").returncode == 0
    assert Search.returned == [only_record(tmp_path)["training"]["eval_loss_after"]]


def test_an_objective_is_a_number_or_several_and_never_unknown() -> None:
    def outcome(**changes: Any) -> RunOutcome:
        made = blank_record(run_id="r", study="s", config={}, provenance={}) | {"status": "ok", "total_s": 3.0}
        return RunOutcome(path=Path("runs/s/r/run.json"), record=made | changes)

    both = compose(["objective=[total_s,eval_loss]"])
    assert objective_of(compose([]), outcome()) is None
    assert objective_of(compose(["objective=total_s"]), outcome()) == 3.0
    assert objective_of(both, outcome(training={"eval_loss_after": 2.5})) == (3.0, 2.5)
    with pytest.raises(RunFailure, match="objective: got eval_loss, which is unknown for r; choose another"):
        objective_of(both, outcome())
    with pytest.raises(RunFailure, match="r: it did not finish"):
        objective_of(both, outcome(status="interrupted"))
    with pytest.raises(UserError, match=r"objective: got 'loss'; did you mean train_loss or eval_loss\?"):
        compose(["objective=loss"])


def test_hydras_verbose_shows_what_libraries_log(tmp_path: Path) -> None:
    words = [*TINY, "samples=0", f"runs_dir={tmp_path}", "hydra.verbose=true"]
    done = command("lora_scaling", *words)
    assert done.returncode == 2
    assert "lora-scaling: samples: got 0; give 1 or more" in done.stderr
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("lora-scaling es", {"estimate"}),
        ("lora-scaling ", {"run", "doctor", "samples=", "lora."}),
        ("lora-scaling estimate model=ladder-1", {"model=ladder-1m", "model=ladder-10m", "model=ladder-100m"}),
        ("lora-scaling estimate pi", {"pilot="}),
        ("lora-scaling study cl", {"claim="}),
        ("lora-scaling emissions grid.zo", {"grid.zone="}),
        ("lora-scaling analyse de", {"design"}),
        ("lora-scaling analyse claims --ma", {"--margin"}),
        ("lora-scaling doctor --j", {"--json"}),
        ("lora-scaling run --mu", {"--multirun"}),
        ("lora-scaling --config-dir MINE model=our", {"model=our-1m"}),
        ("lora-scaling samples=3 +sweeps=qu", {"+sweeps=quick"}),
        ("lora-scaling nonsense=(", set()),
    ],
)
def test_words_are_completed(line: str, some: set[str], mine: Path) -> None:
    line = line.replace("MINE", str(mine))
    found = set(completion.candidates(line, COMMANDS))
    current = "" if line.endswith(" ") else line.split()[-1]
    assert found >= some
    assert all(word.startswith(current) for word in found)
    assert not any(word.startswith((".", "tests", "docs")) for word in found)


def test_a_shell_is_told_how_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    done = command("lora_scaling", "-sc", "install=bash")
    assert done.stdout.rstrip().endswith("complete -o nospace -o default -F hydra_bash_completion lora-scaling")
    monkeypatch.setenv("COMP_LINE", "lora-scaling analyse ex")
    assert command("lora_scaling", "-sc", "query=bash").stdout == "export extrapolate\n"


def test_an_analysis_of_ones_own_in_the_current_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "analysis.py").write_text("raise SystemExit('mine')")
    done = subprocess.run(
        [sys.executable, "-m", "lora_scaling", "analyse", "claims", "nowhere"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("lora-scaling: RUNS: got 'nowhere', which does not exist")
