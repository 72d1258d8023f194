"""What a run leaves besides its record: an adapter that PEFT loads, and a card that the hub reads."""

import errno
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_scaling.config import RunConfig, compose
from lora_scaling.data.samples import split_samples
from lora_scaling.grid.recompute import recompute
from lora_scaling.records.model_card import adapter_card, write_card
from lora_scaling.runs.run import run
from lora_scaling.training.batches import IGNORED
from lora_scaling.training.device import choose_device
from lora_scaling.training.models import load_base
from lora_scaling.training.tokens import tokenize
from tests.support.runs import TINY, read_record

# What the hub allows in its block, by https://huggingface.co/docs/hub/model-cards-co2
CO2_FIELDS = {
    "emissions": float,
    "source": str,
    "training_type": str,
    "geographical_location": str,
    "hardware_used": str,
}


def finished(tmp_path: Path, *overrides: str) -> tuple[RunConfig, Any, Path]:
    config = compose([*TINY, f"runs_dir={tmp_path}", "save_adapter=true", *overrides])
    outcome = run(config)
    assert outcome.failure is None
    return config, read_record(outcome.path), outcome.path.parent


def held_out_loss(network: torch.nn.Module, config: RunConfig, tokenizer: Any) -> float:
    """The mean loss of an answer's token, sample by sample."""
    total, count = 0.0, 0
    for row in tokenize(split_samples(config).evaluation, tokenizer, config, held_out=True).rows:
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].float()
        wanted = torch.tensor(row["labels"][1:])
        total += float(torch.nn.functional.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum"))
        count += int((wanted != IGNORED).sum())
    return total / count


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Any, Path]:
    return finished(tmp_path_factory.mktemp("kept"), "learning_rate=0.01", "grid.zone=DK1", "grid.provider=static")


def test_the_adapter_loads_and_is_what_was_evaluated(kept: tuple[RunConfig, Any, Path]) -> None:
    config, record, folder = kept
    assert record["saved"]["folder"] == "adapter"
    base = load_base(config, choose_device("cpu", "auto"))
    before = held_out_loss(base.model, config, base.tokenizer)
    loaded = PeftModel.from_pretrained(base.model, str(folder / "adapter")).eval()  # pyright: ignore[reportArgumentType]
    assert held_out_loss(loaded, config, base.tokenizer) == pytest.approx(
        record["training"]["eval_loss_after"], rel=1e-4
    )
    assert before == pytest.approx(record["training"]["eval_loss_before"], rel=1e-4)
    assert abs(before - record["training"]["eval_loss_after"]) > 0.01
    assert not [warning for warning in record["warnings"] if warning["kind"] in ("unsaved", "no_card")]


def test_the_card_holds_the_grams_and_the_settings(kept: tuple[RunConfig, Any, Path]) -> None:
    _, record, folder = kept
    data = ModelCard.load(folder / "adapter" / "README.md").data.to_dict()
    block = data["co2_eq_emissions"]
    assert {name: type(value) for name, value in block.items()} == CO2_FIELDS
    assert block["emissions"] == pytest.approx(record["emissions"]["grams"], rel=1e-5)
    assert (block["training_type"], block["geographical_location"]) == ("fine-tuning", "DK1")
    assert block["hardware_used"] == record["device"]["name"]
    assert (data["library_name"], data["pipeline_tag"]) == ("peft", "text-generation")
    assert "base_model" not in data  # random weights are not on the hub
    text = (folder / "adapter" / "README.md").read_text()
    for line in ("| samples | 24 |", "| lora.r | 8 |", "| learning_rate | 0.01 |", "| seed | 0 |"):
        assert line in text
    assert "random weights (seed 0)" in text
    assert str(folder) not in text


def test_recomputed_grams_reach_the_card(kept: tuple[RunConfig, Any, Path]) -> None:
    _, record, folder = kept
    recompute(folder / "run.json", {"zone": "DK1", "provider": "static", "intensity_g_per_kwh": 1000.0})
    block = ModelCard.load(folder / "adapter" / "README.md").data.to_dict()["co2_eq_emissions"]
    assert block["emissions"] == pytest.approx(record["energy"]["joules"] / 3600, rel=1e-3)


def test_unknown_grams_are_left_out_of_a_card(kept: tuple[RunConfig, Any, Path]) -> None:
    _, record, _ = kept
    block = ModelCard(adapter_card({**record, "emissions": None, "energy": None})).data.to_dict()["co2_eq_emissions"]
    assert set(block) == {"source", "training_type", "hardware_used"}


def test_names_in_a_card_are_text(kept: tuple[RunConfig, Any, Path]) -> None:
    """A record may come from elsewhere."""
    _, record, _ = kept
    evil = 'x"\n---\n<script>|[a](b)'
    model = {**record["model"], "name": "/home/secret/model", "id": "/home/secret/model", "weights": "pretrained"}
    changed = {**record, "data": {**record["data"], "name": evil}, "device": {**record["device"], "name": evil}}
    changed["model"] = model
    card = adapter_card(changed)
    assert ModelCard(card).data.to_dict()["co2_eq_emissions"]["hardware_used"].startswith('x"')
    assert "<script>" not in card.partition("\n---\n")[2].replace("\\<", "")
    assert "secret" not in card


def test_a_card_is_written_only_into_a_folder_of_ours(kept: tuple[RunConfig, Any, Path], tmp_path: Path) -> None:
    _, record, _ = kept
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "adapter").symlink_to(tmp_path / "elsewhere")
    for folder in ("../elsewhere", str(tmp_path / "elsewhere"), "adapter"):
        assert not write_card(tmp_path / "run" / "run.json", {**record, "saved": {"folder": folder}})
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_whole_model_is_saved_with_its_tokenizer(tmp_path: Path) -> None:
    config, record, folder = finished(tmp_path, "method=full", "samples=8")
    assert record["saved"]["folder"] == "model"
    network = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert held_out_loss(network, config, tokenizer) == pytest.approx(record["training"]["eval_loss_after"], rel=1e-4)
    assert ModelCard.load(folder / "model" / "README.md").data.to_dict()["library_name"] == "transformers"


@pytest.mark.parametrize("kind", ["unsaved", "no_card"])
def test_what_cannot_be_written_costs_a_warning(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        """Fail, or have another program make a folder where the card is to be."""
        if kind == "unsaved":
            raise OSError(errno.ENOSPC, "No space left on device")
        moved = real(path, target)
        (Path(target) / "README.md").mkdir()
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    outcome = run(compose([*TINY, "samples=4", f"runs_dir={tmp_path}", "save_adapter=true"]))
    record: Any = read_record(outcome.path)
    assert record["status"] == "ok"
    assert math.isfinite(record["energy"]["joules"])
    assert [w["kind"] for w in record["warnings"] if w["kind"] in ("unsaved", "no_card")] == [kind]
    assert [path.name for path in outcome.path.parent.glob(".*.tmp")] == []


def test_a_run_that_finished_without_its_adapter_says_so(tmp_path: Path) -> None:
    words = [*TINY, "samples=4", "eval_samples=0", f"runs_dir={tmp_path}"]
    run(compose(words))
    assert run(compose(words)).skipped == "finished before"
    skipped = run(compose([*words, "save_adapter=true"])).skipped
    assert skipped == "finished before, and nothing was saved; on_existing=rerun trains again"


def test_the_case_study_keeps_its_adapter() -> None:
    assert compose(["+experiment=munin_skolegpt"]).save_adapter
