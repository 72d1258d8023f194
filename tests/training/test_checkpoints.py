"""A checkpoint is trained as what its record says, or refused in one sentence that says why."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from tests.support.checkpoints import State, save_checkpoint
from tests.support.runs import Record

Make = Callable[..., Record]


@pytest.fixture
def of_folder(made: Make, tmp_path: Path) -> Make:
    """The record of a run on the checkpoint in `tmp_path`."""

    def make(*overrides: str) -> Record:
        return made("model=hub", f"model.id={tmp_path}", "samples=8", "study=checkpoints", "reuse=false", *overrides)

    return make


def prefixed(state: State) -> State:
    return {f"wrapped.{name}": tensor for name, tensor in state.items()}


def without_layer(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if ".layers.1." not in name}


def without_norm(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name != "model.norm.weight"}


def with_layer(state: State) -> State:
    more = {name.replace(".1.", ".2."): tensor.clone() for name, tensor in state.items() if ".layers.1." in name}
    return state | more


def with_bias(state: State) -> State:
    return state | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}


def of_more_tokens(state: State) -> State:
    return state | {"model.embed_tokens.weight": torch.ones(300, 32)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (prefixed, r"missing: lm_head\.weight, .* and \d+ more; unexpected: wrapped\.lm_head\.weight, .* more"),
        (without_layer, r"missing: model\.layers\.1\.input_layernorm\.weight, .* and 6 more"),
        (without_norm, r"missing: model\.norm\.weight"),
        (with_layer, r"unexpected: model\.layers\.2\.input_layernorm\.weight, .* and 6 more"),
        (with_bias, r"unexpected: model\.layers\.0\.self_attn\.q_proj\.bias"),
        (of_more_tokens, r"of another shape: model\.embed_tokens\.weight \(300 × 32 for 272 × 32\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    of_folder: Make, tmp_path: Path, change: Callable[[State], State], named: str
) -> None:
    save_checkpoint(tmp_path, change=change)
    record = of_folder()
    said = rf"^model\.id: got {re.escape(str(tmp_path))}, whose weights do not fit .* \({named}\); give the whole"
    assert record["status"] == "failed"
    assert re.search(said, record["error"]), record["error"]
    assert "traceback" not in record


def test_weights_of_other_parts_are_left_out_and_said(of_folder: Make, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, change=lambda state: state | {"vision_tower.patch.weight": torch.ones(2, 2)})
    record = of_folder()
    assert record["status"] == "ok", record["error"]
    [warning] = [item for item in record["warnings"] if item["kind"] == "unused_weights"]
    assert warning["message"].startswith("1 weights of the checkpoint belong to no part of the model: vision_tower.")


def save_in_4_bits(folder: Path) -> None:
    save_checkpoint(folder)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.float32)
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, device_map="cpu").save_pretrained(folder)


def test_a_checkpoint_in_4_bits_is_trained_as_qlora_alone(of_folder: Make, tmp_path: Path) -> None:
    save_in_4_bits(tmp_path)
    for method in ("lora", "full"):
        record = of_folder(f"method={method}")
        said = (
            f"model.id: got {tmp_path}, whose weights are stored in 4 bits; use method=qlora, or the checkpoint in 16"
        )
        assert record["error"].startswith(said)
    record = of_folder("method=qlora")
    assert record["status"] == "ok", record["error"]
    assert record["model"]["quantization"] == "fp4"  # as stored, not as it would be quantised here
    # q, o: 32 × 32; k, v: 32 × 16; gate, up, down: 32 × 48; in two layers
    assert record["model"]["quantized_params"] == 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)


def test_weights_that_are_quantised_otherwise_are_refused(of_folder: Make, tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for stored, shown in (({"quant_method": "gptq", "bits": 4}, "gptq"), ({"load_in_8bit": True}, "8 bits")):
        path.write_text(json.dumps(config | {"quantization_config": stored}))
        for method in ("lora", "qlora"):
            assert f", whose weights are stored quantised ({shown}); give" in of_folder(f"method={method}")["error"]


def test_qlora_is_what_is_quantised(of_folder: Make, tmp_path: Path) -> None:
    """Weights of GPT-2 are in Conv1D, which is quantised where a checkpoint is loaded, and not where none is."""
    save_checkpoint(tmp_path, "gpt2")
    random = of_folder("method=qlora", "model.weights=random", "lora.target_modules=[c_attn]")
    assert random["error"].startswith("method: got qlora; none of the layers of ")
    record = of_folder("method=qlora", "lora.target_modules=[c_attn]")
    assert record["status"] == "ok", record["error"]
    assert record["model"]["quantized_params"] == 2 * 12 * 32 * 32  # c_attn 3, c_proj 1, c_fc 4, c_proj 4


def test_linear_layers_of_an_architecture_s_own_class_are_quantised(of_folder: Make, tmp_path: Path) -> None:
    """Falcon's are a subclass of torch's, which transformers leaves out."""
    save_checkpoint(tmp_path, "falcon")
    record = of_folder("method=qlora")
    assert record["status"] == "ok", record["error"]
    # Two heads of 16 with one key and value: 32 × 64 and 32 × 32; and an MLP of four times the width.
    assert record["model"]["quantized_params"] == 2 * (32 * 64 + 32 * 32 + 2 * 32 * 128)
    assert record["model"]["quantization"] == "nf4"


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_code_of_a_checkpoint_is_never_run(of_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    code = f"open({str(tmp_path / 'was-run')!r}, 'w')"
    (tmp_path / "foreign.py").write_text(f"{code}\nclass Config: pass\nclass Model: pass\n")
    change_config(
        tmp_path,
        model_type="foreign",
        auto_map={"AutoConfig": "foreign.Config", "AutoModelForCausalLM": "foreign.Model"},
    )
    assert ", which needs Python code of its own, and such code is never run here; give" in of_folder()["error"]
    change_config(tmp_path, model_type="llama")  # known without that code
    assert of_folder()["status"] == "ok"
    assert not (tmp_path / "was-run").exists()


class Foreign:
    def __reduce__(self) -> Any:
        return (open, ("was-run", "w"))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "tokenizer.json").write_text("{oops"), "whose tokenizer.json is not JSON; download"),
        (lambda folder: (folder / "config.json").write_text(""), "whose config.json is not JSON; download it again"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "which holds no tokenizer; add its files"),
        (lambda folder: change_config(folder, hidden_act="odd"), "whose files name 'odd', which transformers does not"),
        (lambda folder: change_config(folder, model_type="t5"), "of the architecture t5, which is no causal language"),
        (
            lambda folder: change_config(folder, num_attention_heads=3),
            "which cannot be loaded: Class validation error for validator 'validate_architecture': ValueError: The",
        ),
    ],
)
def test_broken_files_are_named(of_folder: Make, tmp_path: Path, break_it: Callable[[Path], Any], said: str) -> None:
    save_checkpoint(tmp_path)
    break_it(tmp_path)
    record = of_folder()
    assert record["error"].startswith(f"model.id: got {tmp_path}, {said}"), record["error"]
    assert "traceback" not in record


def test_a_pickle_is_never_run(of_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": Foreign()}, tmp_path / "pytorch_model.bin")
    said = "whose weights are a pickle that would run code, and such code is never run here; give them as safetensors"
    assert of_folder()["error"] == f"model.id: got {tmp_path}, {said}"
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda path: path.write_bytes(b""), "whose weights cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "whose weights cannot be read"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
            "whose model.safetensors is a pointer of git-lfs; run git lfs pull there",
        ),
        (lambda path: path.unlink(), "which cannot be loaded"),
    ],
)
def test_broken_weights_are_one_sentence(
    of_folder: Make, tmp_path: Path, break_it: Callable[[Path], Any], said: str
) -> None:
    save_checkpoint(tmp_path)
    break_it(tmp_path / "model.safetensors")
    record = of_folder()
    assert record["error"].startswith(f"model.id: got {tmp_path}, {said}"), record["error"]
    assert "traceback" not in record


def test_a_folder_without_a_tokenizer_or_with_an_adapter_is_told_apart(of_folder: Make, tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    for path in (*tmp_path.glob("tokenizer*"), *tmp_path.glob("chat_template*")):
        path.unlink()
    assert of_folder()["error"] == f"model.id: got {tmp_path}, which holds no tokenizer; add its files"
    assert of_folder("model.weights=random")["data"]["tokenizer"] == "bytes"
    (tmp_path / "adapter_config.json").write_text("{}")
    assert of_folder()["error"].endswith("which holds an adapter; give the model that it was trained on")


def test_tokens_and_positions_beyond_the_model_are_one_sentence(of_folder: Make, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "few", "gpt2", vocab_size=200)
    save_checkpoint(tmp_path / "short", "gpt2", n_positions=20)
    few, short = (of_folder(f"model.id={tmp_path / name}") for name in ("few", "short"))
    assert re.search(r"which has 200 tokens, but its tokenizer gave number 2\d\d; give a checkpoint", few["error"])
    assert re.search(
        r"^max_seq_len: got 256; .* has 20 positions, and a sample has \d+ tokens: give 20", short["error"]
    )


def test_a_checkpoint_without_numbers_and_a_template_without_answers_are_said_to_be(made: Make, tmp_path: Path) -> None:
    folder = save_checkpoint(
        tmp_path / "nan", change=lambda state: {name: w * float("nan") for name, w in state.items()}
    )
    record = made("model=hub", f"model.id={folder}", "study=no-numbers")
    [warning] = [item for item in record["warnings"] if item["kind"] == "not_finite"]
    assert warning["message"].startswith("eval_loss_before is nan: the model gives none before it is trained; ")
    folder = save_checkpoint(tmp_path / "mute")
    (folder / "chat_template.jinja").write_text("hello")
    record = made("model=hub", f"model.id={folder}", "study=mute")
    assert record["error"].startswith(
        "chat_template: got true, and the answers of synthetic cannot be found in the text"
    )


def test_a_model_that_sees_what_it_has_to_predict_is_refused(made: Make, tmp_path: Path) -> None:
    AutoConfig.for_model("bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    record = made("model=hub", f"model.id={tmp_path}", "study=encoder")
    assert record["error"].startswith(f"model.id: got {tmp_path}, an encoder (bert) whose tokens see those that follow")
