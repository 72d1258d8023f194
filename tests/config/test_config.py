"""Every YAML composes; bad values are refused in one sentence; a run's name follows its work."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lora_scaling.config import RunConfig, compose, friendly_hydra_errors, from_omegaconf, run_id
from lora_scaling.config.compose import compose_by_hydra
from lora_scaling.errors import UserError
from lora_scaling.estimate.sweeps import expand
from lora_scaling.paths import choices, config_dir, searching

NEEDS = {
    "hub": ["model.id=org/name"],
    "gguf": ["model.gguf_file=model.gguf"],
    "shape": [
        "model.shape.layers=2",
        "model.shape.hidden_size=64",
        "model.shape.intermediate_size=128",
        "model.shape.heads=4",
    ],
}


@pytest.mark.parametrize("name", choices("model"))
def test_every_model_composes(name: str) -> None:
    config = compose([f"model={name}", *NEEDS.get(name, [])])
    assert config.model.name
    if name not in ("hub", "gguf"):
        assert config.model.shape is not None
        assert config.tuning.trainable_params(config.model.shape) > 0


@pytest.mark.parametrize("name", choices("data"))
def test_every_data_set_composes(name: str) -> None:
    needs = {"file": ["data.path=x.json"], "hub": ["data.path=org/set"]}.get(name, [])
    assert compose([f"data={name}", *needs]).data.kind in ("synthetic", "file", "hub")


@pytest.mark.parametrize("name", choices("method"))
def test_every_method_composes(name: str) -> None:
    assert compose([f"method={name}"]).method.name == name


@pytest.mark.parametrize("name", choices("hardware"))
def test_every_device_composes(name: str) -> None:
    assert compose([f"hardware={name}"]).hardware.count >= 1


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_composes(name: str) -> None:
    assert compose([f"+experiment={name}"]).study != "default"


@pytest.mark.parametrize("name", choices("sweeps"))
def test_every_sweep_composes_and_varies_something(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpaca.json").write_text("[]")  # the one sweep on a file of the user's; runs are named by its content
    configs = expand([f"+sweeps={name}"])
    assert len({run_id(config) for config in configs}) == len(configs) >= 6
    assert {config.study for config in configs} == {configs[0].study}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("samples=0", "samples: got 0; give 1 or more"),
        ("samples=-5", "samples: got -5; give 1 or more"),
        ("samples=many", "samples: got 'many'; give a whole number"),
        ("samples=1.5", "samples: got 1.5; give a whole number"),
        ("epochs=0", "epochs: got 0; give 1 or more"),
        ("samples=1000000000000000", "samples: got 1000000000000000; give 10000000000 or less"),
        ("samples=1e30", "samples: got 1e+30; give a whole number"),
        ("epochs=1000000000", "epochs: got 1000000000; give 10000 or less"),
        ("batch_size=20000000", "batch_size: got 20000000; give 1000000 or less"),
        ("max_steps=10000000000000", "max_steps: got 10000000000000; give 1000000000000 or less"),
        ("smples=3", "smples: not a setting; did you mean samples"),
        ("lora.rank=3", "lora.rank: not a setting; did you mean lora.r? Allowed: lora.r, lora.alpha, lora.dropout, "),
        ("lora.alpa=3", "lora.alpa: not a setting; did you mean lora.alpha? Allowed: lora.r, "),
        ("lora.use_rslora=true", "lora.use_rslora: not a setting; rsLoRA is lora.alpha times √(lora.r) here: give"),
        ("use_rslora=true", "use_rslora: not a setting; rsLoRA is lora.alpha times √(lora.r) here: give"),
        ("lora.use_qlora=true", "lora.use_qlora: not a setting; did you mean method=qlora? Allowed: lora.r, "),
        ("lora.targets=[q_proj]", "lora.targets: not a setting; did you mean lora.target_modules?"),
        ("lora.bias=all", "lora.bias: not a setting; adapters have no biases here: leave it out"),
        ("method=dora", "method: got 'dora'; write method=lora lora.use_dora=true"),
        (
            "model=hub model.id=a/b model.shape.layers=3",
            "model.shape.layers: not a setting of the model that is chosen; use model=shape, or leave it out",
        ),
        ("load_in_8bit=true", "load_in_8bit: not a setting; frozen weights have 4 bits (method=qlora) or 16"),
        ("model.path=x", "model.path: not a setting; did you mean model=hub model.id?"),
        ("data.file=x", "data.file: not a setting; did you mean data=file data.path?"),
        ("train_on_inputs=true", "train_on_inputs: not a setting; did you mean loss_on=all?"),
        ("grid.zome=DK1", "grid.zome: not a setting; did you mean grid.zone? Allowed: grid.provider, grid.zone"),
        ("hardware=4090", "hardware: got 4090; did you mean rtx-4090? lora-scaling --help lists all"),
        ("model=ladder-2m", "model: got 'ladder-2m'; did you mean ladder-"),
        ("study=a/b", "study: got 'a/b'; it names a folder"),
        ("precision=fp4", "precision: got 'fp4'; choose one of auto, bf16, fp16, fp32, fp8"),
        ("learning_rate=-1", "learning_rate: got -1.0; give a number above 0, or null"),
        ("lora.r=eight", "lora.r: got 'eight'; give a whole number"),
        ("packing=perhaps", "packing: got 'perhaps'; give true or false"),
        ("grid.zone=XX9", "grid.zone"),
        ("metering.interval_s=0", "metering.interval_s: got 0"),
        ("seed=4294967296", "seed: got 4294967296; give 4294967295 or less"),
        ("lora.alpha=0", "lora.alpha: got 0.0; give a number above 0"),
        ("lora.dropout=1.5", "lora.dropout: got 1.5; give a number from 0 to below 1"),
        ("model=hub", "model.id: missing"),
        ("model=gguf", "model.gguf_file: missing"),
        ("data=file", "data.path: missing"),
    ],
)
def test_a_bad_value_is_one_sentence(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(override.split(" "))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "model.id=org/name",
            "model.id: got org/name; model=ladder-1m does not use it, .* use model=hub model.id=org/name",
        ),
        ("model=ladder-3m ++model.id=org/name", "model.id: got org/name; model=ladder-3m does not"),
        ("model={id: org/name}", "model.id: got org/name; model=ladder-1m does not"),
        ("model=ladder-3m model.gguf_file=a.gguf", "model=ladder-3m does not .* use model=gguf model.gguf_file=a.gguf"),
        ("model=gguf model.gguf_file=a.gguf model.id=org/name", "model.id: got org/name; model=gguf does not"),
        ("model=hub model.id=org/name model.gguf_file=a.gguf", "model.gguf_file: got a.gguf; model=hub does not"),
        ("model.revision=main", "model.revision: got main; model=ladder-1m does not"),
        ("data.path=my.json", "data.path: got my.json; data=synthetic does not .* use data=file data.path=my.json"),
        ("data.layout=chat", "data.layout: got chat; data=synthetic does not"),
        ("data.repeat=true", "data.repeat: got true; data=synthetic does not"),
        ("data=file data.path=a.json data.split=test", "data.split: got test; data=file does not"),
        ("data.bytes_per_sample=900", "data.bytes_per_sample: got 900; data=synthetic does not"),
        ("method=full lora.r=4", "lora.r: got 4; method=full does not use it"),
        ("pure_bf16=true", "pure_bf16: got true; method=lora does not use it, its frozen .* use method=full, or leave"),
        ("method=full lora.target_modules=[q_proj]", "lora.target_modules: .* method=full does not"),
        ("checkpoint_minutes=5", "checkpoint_minutes: got 5; resume=never does not .* use resume=auto"),
        (
            "data=file data.path=a.json data.eval_path=b.json eval_samples=0",
            "data.eval_path: .*; eval_samples=0 does not",
        ),
        ("metering.enabled=false metering.interval_s=0.5", "metering.interval_s: .*; metering.enabled=false does not"),
        (
            "grid.provider=static grid.file=a.csv",
            "grid.file: got a.csv; grid.provider=static does not .* use grid.prov",
        ),
    ],
)
def test_what_the_chosen_option_does_not_use_is_refused(words: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        compose(re.split(r" (?=[\w+.]+=)", words))


@pytest.mark.parametrize(
    "words",
    [
        "model=smollm2-135m model.id=./mine",
        "model=smollm2-135m model.gguf_file=a.gguf",
        "model.weights=pretrained model.id=org/name",
        "model=hub model.id=org/name model.weights=random model.revision=main",
        "data=skolegpt data.repeat=true data.split=test",
        "+experiment=munin_skolegpt method=full",
        "resume=auto checkpoint_minutes=5",
        "grid.file=a.csv",
    ],
)
def test_what_it_uses_is_not(words: str) -> None:
    compose(words.split())


def test_a_sweep_may_vary_what_only_some_of_its_methods_use() -> None:
    assert len(expand(["method=lora,full", "lora.r=4,8"])) == 3
    with pytest.raises(UserError, match=r"lora\.r: got 4; method=full"):
        expand(["method=full", "lora.r=4,8"])
    with pytest.raises(UserError, match=r"model\.id: got org/name; model=ladder-1m"):
        expand(["model=hub,ladder-1m", "model.id=org/name"])


def test_settings_computed_from_a_swept_one_follow_it(tmp_path: Path) -> None:
    mine = "# @package _global_\nlora: {alpha: '${lora.r}'}\neval_samples: '${div:${samples},2}'\n"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(mine)
    with searching([tmp_path]):
        runs = expand(["+experiment=mine", "lora.r=4,8", "samples=16,32"])
    assert {(run.lora.r, run.lora.alpha, run.samples, run.eval_samples) for run in runs} == {
        (rank, rank, samples, samples / 2) for rank in (4, 8) for samples in (16, 32)
    }


def test_a_sweep_over_plain_values_is_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand points would otherwise take six seconds; names that are short occur in those of other settings."""
    composed: list[object] = []

    def counted(node: object) -> RunConfig:
        composed.append(node)
        return from_omegaconf(node)

    monkeypatch.setattr("lora_scaling.config.sweep.from_omegaconf", counted)
    runs = expand(["samples=8,16", "epochs=1,2", "lora.r=4,8", "data.seed=0,1", "seed=1,2"])
    assert len({run_id(run) for run in runs}) == 32
    assert len(composed) == 2  # of the first point by itself, and of one that has its place in the order


@pytest.mark.parametrize("path", ["/data/træning/prøve.jsonl", "~/my rows.jsonl"])
def test_a_value_that_needs_quotes_is_answered_with_them(path: str) -> None:
    with pytest.raises(UserError) as refused:
        compose(["data=file", f"data.path={path}"])
    assert str(refused.value) == f"""data.path={path}: cannot be read; quote the value: 'data.path="{path}"'"""
    assert compose(["data=file", f'data.path="{path}"']).data.path == path


def test_a_number_for_a_path_is_told_as_such() -> None:
    with pytest.raises(UserError, match=r"^data\.path: got 5; give a text$"):
        compose(["data=file", "data.path=5"])


@pytest.mark.parametrize(("rank", "said"), [(0, "lora.r: got 0"), (100, "at most 64 makes sense")])
def test_a_rank_must_fit_the_model(rank: int, said: str) -> None:
    config = compose([f"lora.r={rank}"])  # ladder-1m: k_proj is 128 × 64
    assert config.model.shape is not None
    with pytest.raises(UserError, match=said):
        config.tuning.trainable_params(config.model.shape)


def test_a_run_is_named_after_its_work_and_nothing_else() -> None:
    name = run_id(compose([]))
    for same in (
        "study=other",
        "runs_dir=elsewhere",
        "order=7",
        "metering.interval_s=2",
        "grid.zone=DK1",
        "reuse=false",
    ):
        assert run_id(compose([same])) == name
    for other in ("samples=257", "seed=1", "lora.r=4", "model=ladder-3m", "packing=true", "replicate=1", "data.seed=1"):
        assert run_id(compose([other])) != name


def test_the_kind_of_device_names_a_run_and_which_one_of_it_does_not() -> None:
    first, second, any_one, processor = (
        run_id(compose([f"device={name}"])) for name in ("cuda:0", "cuda:1", "cuda", "cpu")
    )
    assert first == second == any_one != processor


def test_rank_does_not_name_a_full_fine_tune() -> None:
    full = compose(["method=full"])
    assert run_id(replace(full, lora=replace(full.lora, r=4))) == run_id(full)


def test_content_names_a_data_file_and_its_place_does_not(tmp_path) -> None:  # type: ignore[no-untyped-def]
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text("[]")
    two.write_text("[]")
    names = [run_id(compose(["data=file", f"data.path={path}", "data.name=x"])) for path in (one, two)]
    assert names[0] == names[1]
    two.write_text("[1]")
    assert run_id(compose(["data=file", f"data.path={two}", "data.name=x"])) != names[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("samples=" + "9" * 5000, "samples: got 5,008 characters; give at most 4,000"),
        ("study=" + "x" * 10_000, "study: got 10,006 characters; give at most 4,000"),
        ("+experiment=[1,2]", "experiment: got [1,2]; choose one of munin_skolegpt"),
        ("+experiment=7", "experiment: got 7; choose one of munin_skolegpt"),
        ("method=null", "method: got null; choose one of full, lora, qlora"),
        ("method=7", "method: got 7; choose one of full, lora, qlora"),
    ],
)
def test_an_override_that_hydra_cannot_take_is_one_sentence(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    assert str(caught.value) == said


def test_composing_again_and_again_takes_no_longer() -> None:
    """Hydra searches every plugin that was ever registered: one more for each configuration makes studies slow."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    compose([])
    known = Plugins.instance().discover(SearchPathPlugin)
    compose([])
    assert Plugins.instance().discover(SearchPathPlugin) == known


@pytest.mark.parametrize(
    "overrides",
    [
        ["samples=3", "lora.r=4", "samples=5", "study='a b'", "grid.zone=null", "lora.target_modules=[q_proj,v_proj]"],
        ["data=file", "data.path=pyproject.toml", "data.fields={a: x}", "data.fields={b: y}"],
        ["+experiment=munin_skolegpt", "model=ladder-1m", "model.weights=pretrained", "grid={zone: DK1}"],
        ["+sweeps=quick", "samples=9", "runs_dir=${study}"],
        ["++samples=3", "~cooldown_s", "cooldown_s=1"],
    ],
)
def test_values_set_on_an_earlier_composition_are_those_that_hydra_sets(overrides: list[str]) -> None:
    def outcome(read: Callable[[], RunConfig]) -> RunConfig | str:
        try:
            return read()
        except UserError as error:
            return str(error)

    def by_hydra() -> RunConfig:
        with friendly_hydra_errors():
            return from_omegaconf(compose_by_hydra(overrides))

    assert outcome(lambda: compose(overrides)) == outcome(lambda: compose(overrides)) == outcome(by_hydra)


def test_a_file_that_was_edited_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(config_dir(), tmp_path / "conf"))
    monkeypatch.setitem(compose.__globals__, "config_dir", lambda: folder)
    assert compose(["method=full"]).method.learning_rate != 0.123
    path = folder / "method" / "full.yaml"
    path.write_text(re.sub(r"learning_rate: \S+", "learning_rate: 0.123", path.read_text()))
    assert compose(["method=full"]).method.learning_rate == 0.123
