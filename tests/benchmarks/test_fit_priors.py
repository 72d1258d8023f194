"""The fit of the stacks recovers levels that are known, from tables in a folder."""

import csv
import math
from pathlib import Path

import pytest

from benchmarks import fit_memory
from benchmarks.fit_priors import fit, stack_levels, timed_runs
from benchmarks.published_tables import all_rows, folder_rows, stack_of
from lora_scaling.config import compose
from lora_scaling.errors import UserError
from lora_scaling.estimate import estimate
from lora_scaling.estimate.priors import load_priors

JOB = (
    "model=llama-3.2-3b method=lora hardware=a100-80gb samples=400 data.tokens_per_sample=2000 data.tokens_cv=0 "
    "max_seq_len=2048 eval_samples=0 warmup_steps=0 batch_size="
)
HEAD = ("stack", "id", "overrides", "quantity", "value")


def test_levels_of_stacks_are_recovered(tmp_path: Path) -> None:
    """Six rows each of a stack twice as fast and one twice as slow as the default: the levels differ by about that."""
    hf = load_priors().stacks["hf"].software
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        for source, factor in (("quick-hf", 0.5), ("slow-unsloth", 2.0)):
            for rows in range(1, 7):
                seconds = estimate(compose(f"{JOB}{rows}".split())).parts["train"].seconds / hf * factor
                writer.writerow([source, f"{rows} rows", f"{JOB}{rows}", "train s", seconds])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    runs = timed_runs(folder_rows(tmp_path))
    assert len(runs) == 12
    fitted = fit(runs)
    apart = fitted.sources["slow-unsloth"] - fitted.sources["quick-hf"]
    assert apart == pytest.approx(math.log(4), rel=0.15)  # drawn to their mean
    levels = stack_levels(fitted)
    assert levels["hf"][0] < levels["other"][0] < levels["unsloth"][0]
    assert len(all_rows(tmp_path)) > 200


def test_the_factors_of_memory_are_recovered(tmp_path: Path) -> None:
    """Peaks of four sources, 1.3 times what comes and goes in a pass, and 2.6 times where lengths vary."""
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        for source in ("one", "two", "three", "four"):
            for cv, factor in ((0, 1.3), (0.5, 2.6)):
                for rows in range(1, 7):
                    words = f"{JOB}{rows} hardware.memory_gb=900 ".replace("cv=0", f"cv={cv}")
                    parts = estimate(compose(words.split()), stack="other").memory.parts
                    passing = (
                        parts["activations"]
                        + parts["workspace"]
                        + max(parts["logits"] + parts["casts"], parts["rerun"])
                    )
                    held = sum(parts[name] for name in ("weights", "adapters", "optimizer", "buckets", "gradients"))
                    writer.writerow([source, f"{rows} rows {cv}", words, "peak GB", held + factor * passing + 0.3])
    fitted = fit_memory.fit(fit_memory.peaks(folder_rows(tmp_path)))
    assert fitted.constants["memory"] == pytest.approx(1.3, rel=0.05)
    assert fitted.constants["memory_varying"] == pytest.approx(2.0, rel=0.1)
    assert max(map(abs, fitted.sources.values())) < 0.03


def test_a_line_of_a_record_is_a_row(tmp_path: Path) -> None:
    line = (
        '{"stack": "unsloth", "id": "a", "overrides": "model=ladder-1m", "measured": {"train s": 3.5, "peak GB": null}}'
    )
    (tmp_path / "sent.jsonl").write_text(line + "\n")
    [row] = folder_rows(tmp_path)
    assert (row["stack"], row["quantity"], row["value"]) == ("unsloth", "train s", "3.5")
    with pytest.raises(UserError, match=r"^folder: got .*, which is not a folder"):
        folder_rows(tmp_path / "none")


def test_sources_have_the_stack_that_made_them() -> None:
    names = ("LitGPT A10G", "Qwen DeepSpeed A100", "MLPerf Llama-2-70B LoRA", "MPT 8 x A100", "axolotl")
    assert [stack_of(name) for name in names] == ["litgpt", "hf", "megatron", "llm-foundry", "other"]
