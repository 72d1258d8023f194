"""Floating-point operations of training, counted matrix by matrix (a multiply-add is two).

The rules (Kaplan et al. 2020, arXiv:2001.08361, app. B, and Hu et al. 2021, arXiv:2106.09685, made exact):
the forward pass costs 2·inputs·outputs a token and matrix; the gradient of its input costs the same again where
anything below is trainable; the gradient of its weight the same again where that weight is trainable. Attention
scores cost 2·2·d a pair of positions forward and twice that backward. Norms, activations, rotary positions and the
loss are left out: well under 1 % at any width of interest.
"""

from dataclasses import dataclass

from lora_scaling.workload.shape import Matmul, ModelShape, Tuning

_QKV = ("q_proj", "k_proj", "v_proj")
# Matrices whose input depends on those listed: an adapter on any of them makes that input need a gradient.
_BELOW = {
    "q_proj": (),
    "k_proj": (),
    "v_proj": (),
    "o_proj": _QKV,
    "router": (*_QKV, "o_proj"),
    "gate_proj": (*_QKV, "o_proj"),
    "up_proj": (*_QKV, "o_proj"),
    "down_proj": (*_QKV, "o_proj", "gate_proj", "up_proj"),
}


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations by purpose; `recompute` is activation checkpointing's second forward pass."""

    forward: int
    backward_inputs: int
    backward_weights: int
    recompute: int

    @property
    def total(self) -> int:
        return self.forward + self.backward_inputs + self.backward_weights + self.recompute

    @property
    def model(self) -> int:
        """Without recomputation: the numerator of model FLOPs utilisation (Chowdhery et al. 2022, app. B)."""
        return self.total - self.recompute


def training_flops(shape: ModelShape, tuning: Tuning, *, tokens: int, pairs: int, checkpointing: bool = False) -> Flops:
    """FLOPs of one pass over `tokens` positions (padding included), forward and backward.

    Args:
        tokens: positions processed, Σ over sequences of the padded length.
        pairs: query-key pairs scored, Σ over sequences of the padded length squared. (A causal kernel that skips
            the upper half does half of them; the usual convention, kept here, counts the whole square.)
        checkpointing: whether each layer's forward pass is run again during the backward pass.
    """
    scores = 2 * 2 * shape.query_size * pairs
    adapted = {m.name: m for m in tuning.adapters(shape)}
    layer = sum(2 * m.active * m.weights for m in shape.matmuls()) * tokens + scores
    adapters = sum(_adapter(m, tuning.rank) for m in adapted.values()) * tokens
    head = 2 * shape.head.weights * tokens
    forward = shape.layers * (layer + adapters) + head
    if tuning.adapted:
        skipped = 0 if checkpointing else _first_layer_savings(shape, tuning, adapted, tokens, scores)
        inputs = shape.layers * (layer + scores + adapters) + head - skipped
        weights = shape.layers * adapters
    else:
        inputs = shape.layers * (layer + scores) + head
        weights = shape.layers * (layer - scores) + head
    recompute = 0
    if checkpointing:
        recompute = shape.layers * (layer + adapters - _last_product(shape, tuning, adapted) * tokens)
    return Flops(forward=forward, backward_inputs=inputs, backward_weights=weights, recompute=recompute)


def _adapter(matmul: Matmul, rank: int) -> int:
    return 2 * rank * (matmul.inputs + matmul.outputs)


def _last_product(shape: ModelShape, tuning: Tuning, adapted: dict[str, Matmul]) -> int:
    """What a layer's recomputation leaves out: torch stops once it has the last tensor that backward needs.

    An expert's output is needed, for the gradient of the router's weight on it.
    """
    if shape.experts > 1:
        return 0
    down = shape.matmuls()[-1]
    return 2 * tuning.rank * down.outputs if down.name in adapted else 2 * down.active * down.weights


def _first_layer_savings(
    shape: ModelShape, tuning: Tuning, adapted: dict[str, Matmul], tokens: int, scores: int
) -> int:
    """Input gradients that the first layer does not need, since nothing below it is trainable.

    With checkpointing there are none: its inputs are made to require gradients.
    """
    saved = 0
    for matmul in shape.matmuls():
        if not any(name in adapted for name in _BELOW[matmul.name]):
            saved += 2 * matmul.active * matmul.weights * tokens
            if matmul.name in adapted:
                saved += 2 * tuning.rank * matmul.inputs * tokens
    if not any(name in adapted for name in _QKV):
        saved += 2 * scores
    return saved
