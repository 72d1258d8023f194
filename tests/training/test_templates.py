"""Exactly the answers are trained with the chat templates of 26 families, whatever they do to earlier turns."""

import re
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lora_scaling.config import compose
from lora_scaling.data.samples import load_samples
from lora_scaling.training.batches import IGNORED
from lora_scaling.training.bytes_tokenizer import bytes_tokenizer
from lora_scaling.training.tokens import tokenize
from tests.support.paths import ROOT
from tests.support.templates import MARKS, TEMPLATES, THOUGHTS, chat


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    tokenizer = bytes_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    tokenizer.chat_template = TEMPLATES[name][0]
    return tokenizer


def trained_text(tokenizer: Any, row: Any) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != IGNORED]).replace("<eos>", "")


@pytest.mark.parametrize("name", TEMPLATES)
def test_exactly_the_answers_are_trained_whatever_the_template_does_to_earlier_turns(name: str) -> None:
    expected = TEMPLATES[name][1]
    tokenizer = tokenizer_of(name)
    samples = [THOUGHTS, chat("a", "Ja.", "b", "Nej."), chat("a", "Ja.", "b", "Nej.", system="Vær sød.")]
    data = tokenize(samples, tokenizer, compose(["max_seq_len=4096"]))
    assert data.warnings == []
    assert trained_text(tokenizer, data.rows[0]) == expected
    plain = expected.replace("<think>en</think>", "").replace("<think>to</think>", "<think></think>")
    plain = plain.replace("\nto\n", "\n\n")
    if name not in ("GLM-4.5",):  # which shows an empty thought where there was none
        plain = plain.replace("<think></think>", "")
    assert [trained_text(tokenizer, row) for row in data.rows[1:]] == [plain, plain]
    assert all(row["labels"][-1] == tokenizer.eos_token_id for row in data.rows)
    assert "Vær sød." in tokenizer.decode(data.rows[2]["input_ids"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_made_samples_have_their_length_under_every_template(name: str) -> None:
    config = compose(["data.tokens_per_sample=90", "data.tokens_cv=0", "max_seq_len=4096"])
    data = tokenize(load_samples(config.data, 2), tokenizer_of(name), config)
    assert data.sample_lengths == [90, 90]


def test_the_page_lists_the_templates_that_are_tried() -> None:
    page = (ROOT / "docs" / "bring_your_own.md").read_text(encoding="utf-8")
    table = page[page.index("| chat templates |") :].partition("\n\n")[0]
    names = [name.strip() for row in re.findall(r"^\| (?!chat|-)(.*?) \|", table, re.M) for name in row.split(", ")]
    assert sorted(names) == sorted(TEMPLATES)
