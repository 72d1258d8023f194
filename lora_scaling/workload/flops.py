"""Count the floating-point operations of training, matrix by matrix (a multiply-add counts as two).

The rules make Kaplan et al. 2020 (arXiv:2001.08361, app. B) and Hu et al. 2021 (arXiv:2106.09685) exact:

- The forward pass costs 2·inputs·outputs per token and matrix.
- The gradient of a matrix's input costs the same again if anything below the matrix is trainable.
- The gradient of its weight costs the same again if that weight is trainable.
- Attention scores cost 2·2·d per pair of positions in the forward pass, and twice that in the backward pass.

Norms, activations, rotary positions and the loss are left out: they are well under 1 % at any width of interest.
"""

from dataclasses import dataclass

from lora_scaling.workload.shape import Matmul, ModelShape, Tuning

_QUERIES = ("q_proj", "k_proj", "v_proj", "qkv_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
_ATTENTION = (*_QUERIES, "o_proj")
# For each matrix, the matrices its input depends on. An adapter on any of those makes the input need a gradient.
_BELOW = {
    "q_proj": (),
    "k_proj": (),
    "v_proj": (),
    "qkv_proj": (),
    "q_a_proj": (),
    "q_b_proj": ("q_a_proj",),
    "kv_a_proj_with_mqa": (),
    "kv_b_proj": ("kv_a_proj_with_mqa",),
    "o_proj": _QUERIES,
    "router": _ATTENTION,
    "gate_proj": _ATTENTION,
    "up_proj": _ATTENTION,
    "gate_up_proj": _ATTENTION,
    "down_proj": (*_ATTENTION, "gate_proj", "up_proj", "gate_up_proj"),
}


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations by purpose; `recompute` is the second forward pass of activation checkpointing.

    matrices: the part of `forward` that multiplies the layers' own matrices (not adapters, attention scores and head).
    """

    forward: int
    matrices: int
    backward_inputs: int
    backward_weights: int
    recompute: int

    @property
    def total(self) -> int:
        return self.forward + self.backward_inputs + self.backward_weights + self.recompute

    @property
    def model(self) -> int:
        """All but recomputation: the numerator of model FLOPs utilisation (Chowdhery et al. 2022, app. B)."""
        return self.total - self.recompute


def training_flops(shape: ModelShape, tuning: Tuning, *, tokens: int, pairs: int, checkpointing: bool = False) -> Flops:
    """Count the FLOPs of one forward and backward pass over `tokens` positions (padding included).

    Args:
        tokens: positions processed, Σ over sequences of the padded length.
        pairs: query-key pairs scored, Σ over sequences of the padded length squared. (A causal kernel that skips
            the upper half scores half of them; by the usual convention, this counts the whole square.)
        checkpointing: whether the backward pass runs each layer's forward pass again.
    """
    adapted = list(tuning.adapters(shape))
    scores = shape.layers * round(4 * shape.score_size * pairs)
    matrices = sum(2 * m.layers * m.active * m.weights for m in shape.matmuls()) * tokens
    adapters = sum(m.layers * _adapter(m, tuning.rank) for m in adapted) * tokens
    head = 2 * shape.head.weights * tokens
    forward = matrices + scores + adapters + head
    if tuning.adapted:
        skipped = 0 if checkpointing else _first_layer_savings(shape, tuning, adapted, tokens, scores)
        inputs = matrices + 2 * scores + adapters + head - skipped
        weights = adapters
    else:
        inputs = matrices + 2 * scores + head
        weights = matrices + head
    recompute = 0
    if checkpointing:
        recompute = matrices + scores + adapters - shape.layers * _last_product(shape, tuning, adapted) * tokens
    return Flops(
        forward=forward,
        matrices=matrices,
        backward_inputs=inputs,
        backward_weights=weights,
        recompute=recompute,
    )


def _adapter(matmul: Matmul, rank: int) -> int:
    return 2 * rank * (matmul.inputs + matmul.outputs)


def _last_product(shape: ModelShape, tuning: Tuning, adapted: list[Matmul]) -> int:
    """Count the FLOPs per token that recomputing a layer skips: torch stops at the last tensor that backward needs.

    With experts nothing is skipped: backward needs an expert's output for the gradient of the router's weight on it.
    """
    if shape.experts > 1:
        return 0
    down = shape.matmuls()[-1]
    return 2 * tuning.rank * down.outputs if down in adapted else 2 * down.active * down.weights


def _first_layer_savings(shape: ModelShape, tuning: Tuning, adapted: list[Matmul], tokens: int, scores: int) -> int:
    """Count the FLOPs of input gradients that the first layer skips, because nothing below it is trainable.

    With checkpointing it skips none: the inputs of every layer are then made to require gradients.
    """
    saved, names = 0, {m.name for m in adapted}
    for matmul in shape.matmuls():
        if matmul.first and not names & set(_BELOW[matmul.name]):
            saved += 2 * matmul.active * matmul.weights * tokens
            if matmul in adapted:
                saved += 2 * tuning.rank * matmul.inputs * tokens
    if not names & set(_QUERIES):
        saved += 2 * scores // shape.layers
    return saved
