"""The case study's experiment on a ladder model and a CPU: killed, continued, kept with a card."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file

from lora_scaling.config import compose, run_id
from lora_scaling.energy.parts import PARTS_NAME
from lora_scaling.records import record_path
from lora_scaling.runs.run import run
from lora_scaling.training.device import choose_device
from lora_scaling.training.models import load_base
from tests.support.processes import forked, wait_until
from tests.support.runs import read_record

# Everything else is the experiment's own: QLoRA of rank 16 in bf16, 8-bit AdamW, checkpointing, 2 rows × 4.
SHRUNK = (
    "+experiment=munin_skolegpt", "model=ladder-1m", "data=file", "data.layout=skolegpt", "hardware=auto", "samples=64",
    "max_seq_len=64", "eval_samples=4", "device=cpu", "metering.idle_s=0", "grid.provider=static",
    "resume=auto", "checkpoint_minutes=0.00001",
)  # fmt: skip


def test_the_case_study_survives_a_kill_and_leaves_an_adapter_with_a_card(tmp_path: Path) -> None:
    rows = [
        {"system_prompt": "", "question": f"Hvad er {i} plus {i}?", "response": f"Det er {2 * i}."} for i in range(68)
    ]
    (tmp_path / "skolegpt.json").write_text(json.dumps(rows))
    words = [*SHRUNK, f"data.path={tmp_path / 'skolegpt.json'}", f"runs_dir={tmp_path}"]
    config = compose(words)
    assert (config.study, config.method.name, config.save_adapter) == ("munin-skolegpt", "qlora", True)
    folder = record_path(config.runs_dir, config.study, run_id(config)).parent
    process = forked("lora_scaling", *words)
    try:
        kept = folder / PARTS_NAME
        wait_until(lambda: list(kept.glob("checkpoint-*")) or process.returncode is not None, every_s=0.005)
        assert process.returncode is None, process.communicate()
    finally:
        process.kill()
    assert run(config).failure is None
    record: Any = read_record(folder / "run.json")
    assert (record["status"], record["work"]["steps"]) == ("ok", 8)
    assert [part["ended"] for part in record["energy"]["parts"]] == ["killed", "finished"]
    assert record["energy"]["parts"][1]["first_step"] > 0
    assert record["emissions"]["grams"] > 0
    base = load_base(config, choose_device("cpu", config.precision))
    PeftModel.from_pretrained(base.model, str(folder / "adapter"))  # pyright: ignore[reportArgumentType]
    trained = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in trained.values()) == record["model"]["trainable_params"]
    assert all(tensor.abs().max() > 0 for name, tensor in trained.items() if "lora_B" in name)
    block = ModelCard.load(folder / "adapter" / "README.md").data.to_dict()["co2_eq_emissions"]
    assert block["emissions"] == pytest.approx(record["emissions"]["grams"], rel=1e-5)
    assert (block["training_type"], block["geographical_location"]) == ("fine-tuning", "DK1")
