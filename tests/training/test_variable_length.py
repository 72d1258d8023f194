"""Packed rows on a kernel of variable length, with FlashAttention's two functions replaced by what they compute.

The functions are the lowest boundary that a machine without a GPU has: everything above them is transformers' and ours.
"""

import sys
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaForCausalLM, modeling_flash_attention_utils

from lora_scaling.config import compose
from lora_scaling.errors import UserError
from lora_scaling.training.attention import takes_bounds
from lora_scaling.training.batches import Collator, batch_counts, sample_bounds
from lora_scaling.training.device import Device
from lora_scaling.training.packing_check import refuse_mixing
from lora_scaling.workload import Batching, Lengths
from tests.support.checkpoints import small_config

CPU = Device(kind="cpu", name="CPU", precision="fp32")


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """Attention of (B, T, heads, size), where several queries may share a key."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True).transpose(1, 2)


@pytest.fixture
def pairs_of_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pairs of tokens that each call of FlashAttention's functions computed."""
    pairs: list[int] = []

    def flash_attn_func(q: Any, k: Any, v: Any, dropout_p: float = 0.0, softmax_scale: Any = None,
                        causal: bool = False, **_: Any) -> torch.Tensor:  # fmt: skip
        pairs.append(q.shape[0] * q.shape[1] ** 2)
        return attend(q, k, v, causal=causal)

    def flash_attn_varlen_func(q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int,
                               max_seqlen_k: int, dropout_p: float = 0.0, softmax_scale: Any = None,
                               causal: bool = False, **_: Any) -> torch.Tensor:  # fmt: skip
        assert q.ndim == k.ndim == v.ndim == 3
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist()
        edges = cu_seqlens_q.tolist()
        assert (edges[0], edges[-1]) == (0, len(q))
        lengths = [end - start for start, end in pairwise(edges)]
        assert max_seqlen_q == max_seqlen_k == max(lengths)
        pairs.append(sum(length**2 for length in lengths))
        parts = [tensor.split(lengths) for tensor in (q, k, v)]
        return torch.cat([attend(*(t[None] for t in part), causal=causal)[0] for part in zip(*parts, strict=True)])

    package, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    vars(package).update(
        flash_attn_func=flash_attn_func, flash_attn_varlen_func=flash_attn_varlen_func, flash_attn_with_kvcache=None
    )
    vars(padding).update(pad_input=None, unpad_input=None)
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.bert_padding", padding)
    monkeypatch.setattr(modeling_flash_attention_utils, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    return pairs


@pytest.fixture
def network() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(small_config("llama", use_cache=False)).eval()


def packed_row(lengths: list[int]) -> dict[str, list[int]]:
    ids = [3 + (7 * i) % 200 for i in range(sum(lengths))]
    return {"input_ids": ids, "labels": ids, "position_ids": [p for length in lengths for p in range(length)]}


def test_samples_of_packed_rows_are_computed_as_if_each_were_alone(
    network: LlamaForCausalLM, pairs_of_calls: list[int]
) -> None:
    """Two rows in one batch, one of them padded. By itself, transformers looks for samples only in single rows."""
    config = compose(["packing=true", "max_seq_len=32"])
    lengths = ([5, 9, 3], [4, 2])
    rows = [packed_row(row) for row in lengths]
    batch = Collator(256, config, bounded=True)(rows)
    alone = []
    with torch.no_grad():
        for row, parts in zip(rows, lengths, strict=True):
            ids = torch.tensor(row["input_ids"]).split(parts)
            alone.append(torch.cat([network(input_ids=part[None]).logits[0] for part in ids]))
        assert not takes_bounds(network)
        network.config._attn_implementation = "flash_attention_2"
        assert takes_bounds(network)
        together = network(**batch).logits
    for i, wanted in enumerate(alone):
        torch.testing.assert_close(together[i, : len(wanted)], wanted, rtol=1e-4, atol=1e-5)
    # 17 and 6 tokens in rows of 17: the last 11 are padding, and together one sample.
    within = 5**2 + 9**2 + 3**2 + 4**2 + 2**2 + 11**2
    assert pairs_of_calls == [within, within]  # of two layers
    assert batch_counts(batch).pairs == within
    assert batch_counts(Collator(256, config)(rows)).pairs == 2 * 17**2
    assert batch_counts(batch).tokens == 23


@pytest.mark.parametrize("batch_size", [1, 4])
def test_packing_is_tried_with_the_kernel_that_trains(
    network: LlamaForCausalLM, pairs_of_calls: list[int], batch_size: int
) -> None:
    network.config._attn_implementation = "flash_attention_2"
    config = compose(["packing=true", f"batch_size={batch_size}"])
    refuse_mixing(network, config, CPU, vocabulary=256, bounded=True)
    assert pairs_of_calls[-1] == min(batch_size, 2) * 2 * 12**2
    if batch_size > 1:  # told of no bounds, the kernel would mix them, and that is seen
        with pytest.raises(UserError, match=r"^packing: got true; .* sees the sample before it in the row"):
            refuse_mixing(network, config, CPU, vocabulary=256)


def test_the_bounds_of_a_full_row_end_with_it() -> None:
    bounds = sample_bounds([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]], 5)
    assert bounds["cu_seq_lens_q"].tolist() == [0, 3, 5, 10]
    assert bounds["max_length_q"] == 5


def test_an_estimate_counts_the_pairs_within_samples() -> None:
    """Lengths of 2 and 4, in rows of 8: 10 pairs a sample on average, and not 3 tokens × 8."""
    lengths = Lengths((2, 4))
    assert lengths.statistics(Batching(batch_size=2, max_seq_len=8, packing=True)).pairs == 24
    assert lengths.statistics(Batching(batch_size=2, max_seq_len=8, packing=True, bounded=True)).pairs == 10
    assert compose(["packing=true", "attn_implementation=flash_attention_2"]).batching.bounded
    assert not compose(["packing=true"]).batching.bounded
