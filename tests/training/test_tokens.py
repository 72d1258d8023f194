"""Tokens, loss masks, truncation, packing and batches, each counted again by hand."""

import json
import os
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lora_scaling.config import RunConfig, compose
from lora_scaling.data.samples import Message, Sample, load_samples, split_samples
from lora_scaling.errors import UserError
from lora_scaling.training.batches import IGNORED, Collator, TokenRow, batch_counts, pack
from lora_scaling.training.bytes_tokenizer import bytes_tokenizer
from lora_scaling.training.tokens import tokenize
from tests.support.paths import SHARED_DATA
from tests.support.templates import chat

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Opens an answer with a thought that written answers do not have, and forgets earlier answers' thoughts.
THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if loop.last %}{{ m['content'] }}{% else %}{{ m['content'].split('#')[-1] }}{% endif %}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)


@cache
def composed() -> RunConfig:
    return compose([])


def config(**changes: Any) -> RunConfig:
    return replace(composed(), **{"max_seq_len": 4096, **changes})


def trained_text(tokenizer: Any, row: TokenRow) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != IGNORED])


def llama_like() -> PreTrainedTokenizerFast:
    """A tokenizer as SentencePiece models have: spaces as ▁, one put in front, <s> before every text."""
    letters = [chr(i) for i in range(32, 127)] + ["\n", "▁", "▁a", "an"]
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a"), ("a", "n")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def words() -> PreTrainedTokenizerFast:
    """A tokenizer that merges across the prompt's end, has no marks of its own, and ends nothing."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ċ", "Ċ"), ("t", "h"), ("th", "e"), ("e", "r")]
    vocabulary = {token: i for i, token in enumerate([*letters, *(a + b for a, b in pairs)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


# The embedded tokenizer


@given(st.text())
def test_bytes_tokenizer_counts_bytes_and_loses_nothing(text: str) -> None:
    tokenizer = tokenizer_of_bytes()
    plain = text.replace("<", "‹")  # so that no mark is written out
    ids = tokenizer(plain, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(plain.encode())
    assert tokenizer.decode(ids) == plain


@cache
def tokenizer_of_bytes() -> PreTrainedTokenizerFast:
    return bytes_tokenizer()


def test_bytes_tokenizer_has_marks_below_512() -> None:
    tokenizer = bytes_tokenizer()
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert ids == [256, 257, 258]
    assert len(tokenizer) == 262
    text = tokenizer.apply_chat_template([{"role": "user", "content": "å"}], tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    assert tokenizer(text)["input_ids"][:2] == [257, tokenizer.convert_tokens_to_ids("<|user|>")]


# Loss masks


def test_a_chat_is_trained_on_its_answer_and_its_end() -> None:
    tokenizer = bytes_tokenizer()
    data = tokenize([chat("Hvad er 2+2?", "Det er 4.", system="Kort.")], tokenizer, config())
    (row,) = data.rows
    text = "<bos><|system|>Kort.<eos><|user|>Hvad er 2+2?<eos><|assistant|>Det er 4.<eos>"
    assert tokenizer.decode(row["input_ids"]) == text
    assert trained_text(tokenizer, row) == "Det er 4.<eos>"
    assert (data.tokens, data.trained, data.truncated) == (1 + 7 + 14 + 11, 10, 0)
    assert data.warnings == []


def test_every_answer_of_a_conversation_is_trained() -> None:
    tokenizer = bytes_tokenizer()
    (row,) = tokenize([chat("a?", "one", "b?", "two")], tokenizer, config()).rows
    assert trained_text(tokenizer, row) == "one<eos>two<eos>"


def test_loss_on_everything_leaves_out_the_first_token_only() -> None:
    data = tokenize([chat("a?", "one"), chat("b?", "two")], bytes_tokenizer(), config(loss_on="all"))
    assert all(row["labels"] == [IGNORED, *row["input_ids"][1:]] for row in data.rows)
    assert data.trained == data.tokens - 2


def test_white_space_after_the_end_of_a_template_is_not_kept() -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    tokenizer.chat_template = CHATML
    data = tokenize([chat("a?", "one", "b?", "two ")], tokenizer, config())
    assert trained_text(tokenizer, data.rows[0]) == "one<|im_end|>two <|im_end|>"
    assert data.rows[0]["input_ids"][-1] == tokenizer.eos_token_id


def test_a_template_that_does_not_end_gets_an_end() -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = CHATML  # its <|im_end|> is not this tokenizer's eos
    (row,) = tokenize([chat("a?", "one")], tokenizer, config()).rows
    assert trained_text(tokenizer, row) == "one<|im_end|><eos>"


def test_a_template_without_system_turns_gets_it_before_the_question() -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    first, second = tokenize(
        [chat("a?", "one", "b?", "two", system="Be kind."), chat("c?", "x")], tokenizer, config()
    ).rows
    assert (
        tokenizer.decode(first["input_ids"]) == "<bos>[INST] Be kind.\n\na? [/INST] one<eos>[INST] b? [/INST] two<eos>"
    )
    assert trained_text(tokenizer, first) == " one<eos> two<eos>"
    assert trained_text(tokenizer, second) == " x<eos>"


def test_a_template_that_refuses_is_a_sentence() -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    sample = Sample(messages=(Message("user", "a"), Message("user", "b"), Message("assistant", "c")))
    with pytest.raises(UserError, match=r"chat_template: got true.*must alternate.*chat_template=false"):
        tokenize([sample], tokenizer, config())
    assert tokenize([sample], tokenizer, config(chat_template=False)).trained == 2


def test_answers_are_found_where_a_template_rewrites_them() -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = THINKING
    data = tokenize([chat("one#a?", "it is one", "b?", "two"), chat("4?", "4")], tokenizer, config())
    assert trained_text(tokenizer, data.rows[0]) == "it is one<eos>two<eos>"
    assert trained_text(tokenizer, data.rows[1]) == "4<eos>"
    thought = tokenize([chat("a?", "hm#one", "b?", "two")], tokenizer, config())
    assert thought.warnings == []
    assert trained_text(tokenizer, thought.rows[0]) == "one<eos>two<eos>"


def test_answers_that_a_template_leaves_out_are_counted() -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages[-2:] %}{{ m.content }}{% endfor %}"
    data = tokenize([chat("a?", "one", "b?", "two")], tokenizer, config())
    assert trained_text(tokenizer, data.rows[0]) == "two<eos>"
    assert [(kind, message[:9]) for kind, message in data.warnings] == [("unmarked_answer", "1 answers")]
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(UserError, match=r"chat_template: got true, .* cannot be found .*loss_on=all"):
        tokenize([chat("a?", "one")], tokenizer, config(max_seq_len=8))


def test_an_answer_of_weight_0_is_shown_and_not_trained() -> None:
    tokenizer = bytes_tokenizer()
    turns = chat("a?", "one", "b?", "two").messages
    sample = Sample(messages=(turns[0], replace(turns[1], trained=False), *turns[2:]))
    for loss_on, text in (
        ("answers", "two<eos>"),
        ("all", "<|user|>a?<eos><|assistant|><|user|>b?<eos><|assistant|>two<eos>"),
    ):
        (row,) = tokenize([sample], tokenizer, config(loss_on=loss_on)).rows
        assert trained_text(tokenizer, row) == text
        assert tokenizer.decode(row["input_ids"]).count("one") == 1


def test_tools_reach_the_template_and_are_missed_aloud() -> None:
    tokenizer = bytes_tokenizer()
    sample = Sample(messages=chat("a?", "one").messages, tools='[{"name": "sum"}]')
    assert [kind for kind, _ in tokenize([sample], tokenizer, config()).warnings] == ["tools"]
    tokenizer.chat_template = "{% for t in tools or [] %}{{ t.name }};{% endfor %}" + str(tokenizer.chat_template)
    data = tokenize([sample, chat("a?", "one")], tokenizer, config())
    assert [tokenizer.decode(row["input_ids"])[:8] for row in data.rows] == ["sum;<bos", "<bos><|u"]
    assert (trained_text(tokenizer, data.rows[0]), data.warnings) == ("one<eos>", [])


def test_plain_format_without_a_template() -> None:
    tokenizer = llama_like()
    data = tokenize([chat("Add one", "an answer", "b?", "two", system="Be kind.")], tokenizer, config())
    (row,) = data.rows
    text = (
        "Be kind.\n\n### Instruction:\nAdd one\n\n### Response:\nan answer</s>\n\n"
        "### Instruction:\nb?\n\n### Response:\ntwo</s>"
    )
    assert row["input_ids"] == tokenizer(text)["input_ids"]  # <s> in front, as the tokenizer puts it
    assert trained_text(tokenizer, row) == "an answer</s>two</s>"
    assert tokenizer.chat_template is None
    same = bytes_tokenizer()
    same_rows = tokenize([chat("a?", "one")], same, config(chat_template=False)).rows
    assert same.decode(same_rows[0]["input_ids"]) == "### Instruction:\na?\n\n### Response:\none<eos>"


def test_a_token_across_the_prompts_end_is_trained() -> None:
    tokenizer = words()
    data = tokenize([chat("x", "\nthe other")], tokenizer, config())
    ids = data.rows[0]["input_ids"]
    assert tokenizer.decode(ids) == "### Instruction:\nx\n\n### Response:\n\nthe other"
    assert trained_text(tokenizer, data.rows[0]) == "\n\nthe other"  # no eos to add; ĊĊ is one token


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=4))
def test_exactly_the_answers_are_trained(turns: list[tuple[str, str]]) -> None:
    tokenizer = tokenizer_of_bytes()
    clean = [part.replace("<", "‹") for turn in turns for part in turn]
    clean = [part if part.strip() else f"{part}x" for part in clean]
    (row,) = tokenize([chat(*clean)], tokenizer, config()).rows
    assert trained_text(tokenizer, row) == "".join(answer + "<eos>" for answer in clean[1::2])
    assert all(label in (IGNORED, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))


# Truncation


def test_truncation_is_counted() -> None:
    tokenizer = bytes_tokenizer()
    samples = [chat("a?", "one"), chat("a?", "o" * 40), chat("q" * 60, "one")]
    full = [len(row["input_ids"]) for row in tokenize(samples, tokenizer, config()).rows]
    data = tokenize(samples, tokenizer, config(max_seq_len=20))
    assert data.lengths == data.sample_lengths == [min(length, 20) for length in full]
    assert data.truncated == sum(full) - sum(data.lengths)
    assert (data.tokens, data.samples, data.unanswered) == (sum(data.lengths), 3, 1)
    assert data.trained == 4 + (20 - 6)
    ((kind, message),) = data.warnings
    assert kind == "unanswered"
    assert "1 of 3 samples" in message
    assert "max_seq_len=20" in message


def test_no_answer_left_anywhere_is_an_error() -> None:
    held = tokenize([chat("q" * 60, "one")], bytes_tokenizer(), config(max_seq_len=8), held_out=True)
    assert (held.trained, [kind for kind, _ in held.warnings]) == (0, ["unanswered"])
    with pytest.raises(UserError, match=r"max_seq_len: got 8, which cuts off every answer.*longest sample has 68"):
        tokenize([chat("q" * 60, "one")], bytes_tokenizer(), config(max_seq_len=8))


def test_another_models_tokenizer_is_refused_before_training_fails_on_it() -> None:
    small = compose(["model=ladder-1m", "model.shape.vocab_size=64"])
    with pytest.raises(UserError, match=r"ladder-1m, which has 64 tokens.*`model\.gguf_file`"):
        tokenize([chat("question", "answer")], bytes_tokenizer(), small)


# Synthetic lengths


@pytest.mark.parametrize("make", [bytes_tokenizer, llama_like, words])
@pytest.mark.parametrize("mean", [2, 5, 96])
def test_synthetic_samples_have_the_configured_length_under_any_tokenizer(make: Any, mean: float) -> None:
    tokenizer, base = make(), config(samples=64)
    samples = load_samples(replace(base.data, tokens_per_sample=float(mean)), 64)
    data = tokenize(samples, tokenizer, base)
    targets = [sample.target_tokens for sample in samples]
    assert data.lengths == targets
    assert all(row["labels"][-1] == row["input_ids"][-1] for row in data.rows)
    if tokenizer.eos_token_id is not None:
        assert all(row["input_ids"][-1] == tokenizer.eos_token_id for row in data.rows)
    answers = [max(1, length - max(1, round(0.35 * length))) for length in data.lengths]
    assert data.trained == sum(answers)


def test_tokens_are_the_same_every_time() -> None:
    split = split_samples(config(samples=32))
    assert tokenize(split.train, bytes_tokenizer(), config()) == tokenize(split.train, bytes_tokenizer(), config())


# Packing and batches

lengths_lists = st.lists(st.integers(2, 32), min_size=1, max_size=60)


def rows_of(lengths: list[int]) -> list[TokenRow]:
    """Rows whose tokens tell which sample and which place they are."""
    return [
        {
            "input_ids": [100 * i + place + 1 for place in range(length)],
            "labels": [IGNORED, *(100 * i + place + 1 for place in range(1, length))],
        }
        for i, length in enumerate(lengths)
    ]


@given(lengths_lists)
def test_packing_keeps_every_token_within_the_limit(lengths: list[int]) -> None:
    rows = rows_of(lengths)
    bins = pack(rows, 32)
    assert all(len(row["input_ids"]) <= 32 for row in bins)
    assert sorted(t for row in bins for t in row["input_ids"]) == sorted(t for row in rows for t in row["input_ids"])
    for row in bins:
        assert [(token - 1) % 100 for token in row["input_ids"]] == row["position_ids"]
        expected = [
            IGNORED if place == 0 else token for token, place in zip(row["input_ids"], row["position_ids"], strict=True)
        ]
        assert row["labels"] == expected
    # No two bins would fit into one.
    fullness = sorted(len(row["input_ids"]) for row in bins)
    assert len(bins) == 1 or sum(fullness[:2]) > 32


def test_packing_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="33 tokens"):
        pack(rows_of([33]), 32)


@settings(deadline=None)
@given(lengths_lists, st.sampled_from(["longest", "max_length", "packed"]))
def test_batches_hold_the_rows_and_are_counted_exactly(lengths: list[int], how: str) -> None:
    packed = how == "packed"
    cfg = config(packing=packed, padding="longest" if packed else how, max_seq_len=32)
    rows = pack(rows_of(lengths), 32) if packed else rows_of(lengths)
    batch = Collator(7, cfg)(rows)
    width = max(len(row["input_ids"]) for row in rows) if how != "max_length" else 32
    assert set(batch) == {"input_ids", "labels", "position_ids" if packed else "attention_mask"}
    assert all(value.shape == (len(rows), width) and value.dtype == torch.long for value in batch.values())
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        assert batch["input_ids"][i].tolist() == row["input_ids"] + [7] * (width - n)
        assert batch["labels"][i].tolist() == row["labels"] + [IGNORED] * (width - n)
        if not packed:
            assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (width - n)
    counts = batch_counts(batch)
    assert counts.tokens == sum(lengths)
    assert counts.padding == len(rows) * width - sum(lengths)
    assert counts.pairs == len(rows) * width * width


def test_packed_data_has_the_same_samples_and_counts() -> None:
    samples = load_samples(config().data, 40)
    loose = tokenize(samples, bytes_tokenizer(), config(max_seq_len=128))
    packed = tokenize(samples, bytes_tokenizer(), config(max_seq_len=128, packing=True))
    for name in ("sample_lengths", "samples", "tokens", "truncated", "trained", "warnings"):
        assert getattr(packed, name) == getattr(loose, name)
    assert sum(packed.lengths) == packed.tokens
    assert sum(label != IGNORED for row in packed.rows for label in row["labels"]) == packed.trained
    assert len(packed.rows) < len(loose.rows)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_samples_do_not_see_each_other(attention: str) -> None:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    model = LlamaForCausalLM(shape).eval()
    model.set_attn_implementation(attention)
    samples = load_samples(replace(config().data, tokens_per_sample=20.0), 12)
    cfg = config(max_seq_len=64, packing=True)
    loose = tokenize(samples, bytes_tokenizer(), replace(cfg, packing=False))
    packed = tokenize(samples, bytes_tokenizer(), cfg)
    assert len(packed.rows) < len(loose.rows)
    apart = {tuple(row["input_ids"]): row for row in loose.rows}
    seen, losses = 0, 0.0
    with torch.no_grad():
        batch = Collator(256, cfg)(packed.rows)
        together = model(**batch)
        for index, row in enumerate(packed.rows):
            starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
            for start, end in zip(starts, [*starts[1:], len(row["input_ids"])], strict=True):
                alone = apart[tuple(row["input_ids"][start:end])]
                result = model(input_ids=torch.tensor([alone["input_ids"]]), labels=torch.tensor([alone["labels"]]))
                torch.testing.assert_close(together.logits[index, start:end], result.logits[0], rtol=1e-4, atol=1e-5)
                losses += float(result.loss) * sum(label != IGNORED for label in alone["labels"])
                seen += 1
    assert seen == 12
    assert float(together.loss) == pytest.approx(losses / packed.trained, rel=1e-5)


# The real ones, where they are


@cache
def smollm() -> Any:
    file = os.environ.get("LORA_SCALING_GGUF")
    if not file:
        pytest.skip("LORA_SCALING_GGUF names no GGUF file")
    return AutoTokenizer.from_pretrained(str(Path(file).parent), gguf_file=Path(file).name)


@pytest.mark.slow
def test_smollm_is_trained_on_exactly_the_answers_of_real_data() -> None:
    tokenizer = smollm()
    rows = json.loads((SHARED_DATA / "alpaca_en_demo.json").read_text("utf-8")) if SHARED_DATA.is_dir() else []
    rows += [{"instruction": "Hvad?", "input": "", "output": " \n Det dér. \n"}]
    samples = [
        chat(row["instruction"] + (f"\n\n{row['input']}" if row["input"].strip() else ""), row["output"])
        for row in rows
    ]
    data = tokenize(samples, tokenizer, config())
    for row, made in zip(rows, data.rows, strict=True):
        assert trained_text(tokenizer, made).removesuffix("<|im_end|>") == row["output"]
        assert made["input_ids"][-1] == made["labels"][-1] == tokenizer.eos_token_id
    assert data.trained == sum(label != IGNORED for row in data.rows for label in row["labels"])


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no shared data here")
def test_five_thousand_samples_are_tokenised_in_seconds() -> None:
    base = compose(
        ["data=file", f"data.path={SHARED_DATA / 'alpaca_en_demo.json'}", "data.repeat=true", "samples=5000"]
    )
    split = split_samples(base)
    start = time.process_time()
    tokenize(split.train, bytes_tokenizer(), base)
    assert time.process_time() - start < 10  # about 2 s of one core; generous, since other work may share it
