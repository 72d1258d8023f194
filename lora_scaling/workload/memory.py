"""Compute the peak memory of training, tensor by tensor, as an allocator would count it.

The bytes that autograd keeps per token and layer were observed with `torch.autograd.graph.saved_tensors_hooks` on the
Llama of `transformers` with PEFT's adapters (and an attention kernel that keeps no score matrix). They are written here
as a formula of the widths, where a is the number of bytes of the computing type:

    norms       2·4h (float32 copies of their inputs) [+ 2·a·h if all weights are trained]
    attention   a·(2q + 2kv) + 4·heads
    gated MLP   3·a·i, for each active expert
    inputs kept for weight gradients
        full                   a·(2h + i)
        adapter in 16 bits     a copy of its inputs (16 bits under autocast, otherwise 32, since PEFT casts to the
                               adapter's type), and 4·rank
        adapter in 32 bits     a·inputs, shared between adapters

32-bit weights that are trained under autocast give 32-bit hidden states: the norms keep 4·h more where all weights are
trained in 16 bits 2·a·h, and each matrix keeps its own 16-bit copy of its input, a·(5h + i) in place of a·(2h + i). The
16-bit copies of the matrices themselves last from the forward to the backward pass.

Fused kernels (Liger's and Unsloth's) keep of a norm its input alone, as it is (2·a·h for both), and of a gated MLP gate
and up alone (2·a·i): what lies between is computed again in the backward pass.

Checkpointing keeps a·h per token and layer. While a layer is run again, it also keeps that layer's whole share; by then
the loss has released everything but the logits.
"""

import functools
from dataclasses import dataclass

from lora_scaling.workload.shape import ModelShape, Tuning

# NF4 with double quantisation (Dettmers et al. 2023, sec. 3): 4 bits plus 0.127 bits of constants per weight.
NF4_BYTES = 0.5 + 0.127 / 8
ADAPTER_BYTES = 4  # PEFT keeps adapters in float32
# Matrices whose adapters keep one copy of the same input.
SHARED_INPUTS = (
    ("q_proj", "k_proj", "v_proj", "qkv_proj", "q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj", "gate_up_proj"),
    ("down_proj",),
)


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes on one device, by purpose. `gradients` are those held at the same time as the activations.

    `casts` are the 16-bit copies that autocast makes of 32-bit matrices.
    With checkpointing, `activations` are the inputs of the layers, and `rerun` is the memory for running a layer again.
    """

    weights: float
    adapters: float
    casts: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    rerun: float
    workspace: float
    buckets: float
    at_update: float

    @property
    def peak(self) -> float:
        """The largest of three moments: the loss, running a layer again, and the optimizer's update."""
        return self.reserved(1.0)

    def reserved(self, factor: float) -> float:
        """Return what an allocator holds at the peak, if it needs `factor` times what comes and goes in a pass."""
        held = self.weights + self.adapters + self.optimizer + self.buckets
        last = max(self.logits + self.casts, self.rerun)
        passes = held + self.gradients + factor * (self.activations + self.workspace + last)
        return max(passes, held + self.at_update)


@dataclass(frozen=True, kw_only=True)
class MemorySetup:
    """The number formats of a run, and what it holds.

    compute_bytes: bytes of the type of the passes, 2 or 4.
    trainable_bytes: bytes of the type of the trained parameters.
    state_bytes: both AdamW moments together, per parameter (8 in float32, 4 in bfloat16, 2 in 8 bits).
    shards: number of devices over which weights, gradients and states are split.
    logits_bytes: at the loss, per token and vocabulary entry. None: float32 log-softmax, its gradient, and the gradient
        of the logits; 0: a loss computed in chunks.
    adapter_input_bytes: bytes of each element of an adapter's input that 16-bit training keeps.
    offloads: whether the inputs of layers that checkpointing keeps wait in the host's memory, but for two on their way.
    fused: whether norms and gated MLPs are kernels of their own, which keep their inputs alone.
    buckets: whether the gradients are held twice because DDP sends them in buckets (torch's default,
        gradient_as_bucket_view=False).
    """

    compute_bytes: int
    trainable_bytes: int
    state_bytes: float
    checkpointing: bool
    accumulates: bool
    shards: int = 1
    logits_bytes: float | None = None
    adapter_input_bytes: int = 2
    offloads: bool = False
    buckets: bool = False
    fused: bool = False

    @property
    def loss_bytes(self) -> float:
        return 12.0 if self.logits_bytes is None else self.logits_bytes

    @property
    def autocast(self) -> bool:
        """Whether trained weights are cast for the passes. A sharded model's are gathered in the type of the passes."""
        return self.trainable_bytes > self.compute_bytes and self.shards == 1

    @property
    def hidden_bytes(self) -> int:
        """Bytes of the type of the hidden states of a model that is trained as a whole."""
        return self.trainable_bytes if self.autocast else self.compute_bytes


def training_memory(shape: ModelShape, tuning: Tuning, setup: MemorySetup, *, rows: int, row_tokens: int) -> MemoryUse:
    """Compute the bytes at the peak, for micro-batches of `rows` rows of `row_tokens` tokens (padding included)."""
    tokens, shards = rows * row_tokens, setup.shards
    trained = tuning.trainable_params(shape)
    adapters = trained * setup.trainable_bytes if tuning.adapted else 0.0
    gradients = trained * setup.trainable_bytes / shards
    layer = layer_activation_bytes(shape, tuning, setup)
    hidden = setup.compute_bytes if tuning.adapted else setup.hidden_bytes
    inputs = min(2, shape.layers) if setup.offloads else shape.layers
    kept = inputs * hidden * shape.hidden_size if setup.checkpointing else shape.layers * layer
    # After the last layer: the float32 input of the final norm, and its output if the head is trained.
    kept += shape.hidden_size * (4 + (0 if tuning.adapted else hidden + setup.compute_bytes))
    return MemoryUse(
        weights=weight_bytes(shape, tuning, setup) / shards,
        adapters=adapters / shards,
        casts=_casts_at_loss(shape, tuning, setup, tokens),
        gradients=gradients if setup.accumulates else 0.0,
        optimizer=trained * setup.state_bytes / shards,
        activations=tokens * kept,
        logits=tokens * shape.vocab_size * setup.loss_bytes,
        rerun=_rerun(shape, tuning, setup, tokens * layer, tokens, gradients),
        workspace=_workspace(shape, tuning, setup),
        buckets=gradients if setup.buckets else 0.0,
        at_update=_at_update(shape, tuning, setup, gradients),
    )


def weight_bytes(shape: ModelShape, tuning: Tuning, setup: MemorySetup) -> float:
    """Compute the bytes of the model's own weights; those not quantised to 4 bits keep the computing type."""
    if not tuning.adapted:
        return float(shape.params * setup.trainable_bytes)
    if tuning.method == "qlora":
        rest = shape.params - shape.linear_params
        return shape.linear_params * NF4_BYTES + rest * setup.compute_bytes
    return float(shape.params * setup.compute_bytes)


def layer_activation_bytes(shape: ModelShape, tuning: Tuning, setup: MemorySetup) -> float:
    """Compute the bytes per token that one layer keeps for its backward pass."""
    a, h, mlp = setup.compute_bytes, shape.hidden_size, shape.mlp_size
    hidden = a if tuning.adapted else setup.hidden_bytes
    norms = 2.0 * hidden * h if setup.fused else 8.0 * h + (0 if tuning.adapted else 2 * hidden * h)
    between = a * mlp * (2 if setup.fused and shape.experts == 1 else 3)
    kept = norms + a * (2 * shape.query_size + 2 * shape.kv_size) + 4 * shape.heads + between
    if shape.experts > 1:
        # The router probabilities in float32, and the gathered input and output of each expert.
        kept += 8 * shape.experts + 2 * a * h * shape.experts_per_token
    if not tuning.adapted:
        inputs = 5 * h if setup.autocast else 2 * h
        return kept + a * (inputs + mlp)
    adapted = list(tuning.adapters(shape))
    kept += 4 * tuning.rank * sum(m.layers for m in adapted) / shape.layers
    if a < ADAPTER_BYTES:
        return kept + setup.adapter_input_bytes * sum(m.layers * m.inputs for m in adapted) / shape.layers
    shared = [[m.layers * m.inputs for m in adapted if m.name in names] for names in SHARED_INPUTS]
    return kept + a * sum(max(inputs, default=0) for inputs in shared) / shape.layers


def cast_bytes(shape: ModelShape, tuning: Tuning, setup: MemorySetup) -> float:
    """Compute the bytes of the copies of all matrices in the computing type."""
    if tuning.adapted or not setup.autocast:
        return 0.0
    return float(setup.compute_bytes * (_matrices(shape) + shape.head.weights))


def _casts_at_loss(shape: ModelShape, tuning: Tuning, setup: MemorySetup, tokens: int) -> float:
    """Compute the bytes of the copies that are held together with the logits.

    With checkpointing, that of the head alone waits for the backward pass. The others are dropped as the forward pass
    ends, when the logits have no gradient yet, which is a sixth of what they will take.
    """
    copies = cast_bytes(shape, tuning, setup)
    if not (setup.checkpointing and copies):
        return copies
    logits = tokens * shape.vocab_size * setup.loss_bytes
    return max(float(setup.compute_bytes * shape.head.weights), copies - logits / 6)


def _matrices(shape: ModelShape) -> int:
    """Count the weights in the matrices of all layers."""
    return sum(m.layers * m.copies * m.weights for m in shape.matmuls())


def gathered_bytes(shape: ModelShape, tuning: Tuning, setup: MemorySetup) -> float:
    """Compute the bytes of a sharded model's weights as they are gathered."""
    return float(shape.params * setup.compute_bytes) if not tuning.adapted else weight_bytes(shape, tuning, setup)


@functools.lru_cache(maxsize=1024)  # a sweep asks the same for each of its runs
def largest_batch(
    shape: ModelShape, tuning: Tuning, setup: MemorySetup, *, row_tokens: int, budget_bytes: float, factor: float = 1.0
) -> int:
    """Find the most rows of `row_tokens` tokens that stay within `budget_bytes`; 0 if not even one does.

    factor: of what comes and goes in a pass, as in `MemoryUse.reserved`.
    """

    def fits(rows: int) -> bool:
        use = training_memory(shape, tuning, setup, rows=rows, row_tokens=row_tokens)
        return use.reserved(factor) <= budget_bytes

    # The peak is the largest of several moments that grow at different rates with the rows, so search for it.
    least, beyond = 0, 1
    while fits(beyond):
        least, beyond = beyond, 2 * beyond
    while beyond - least > 1:
        middle = (least + beyond) // 2
        least, beyond = (middle, beyond) if fits(middle) else (least, middle)
    return least


def _rerun(shape: ModelShape, tuning: Tuning, setup: MemorySetup, layer: float, tokens: int, gradients: float) -> float:
    """Compute the bytes held while a layer is run again: what the layer keeps, plus the gradients made so far.

    The worst case is the last layer, with all inputs still kept, or the first, with nearly all gradients made.
    """
    if not setup.checkpointing:
        return 0.0
    # The MLP's backward pass also holds gradients as wide as the gate and the up projection.
    widest = 2 * setup.compute_bytes * shape.mlp_size
    running = layer + tokens * widest
    if not tuning.adapted and setup.autocast:
        running += setup.compute_bytes * _matrices(shape) / shape.layers
    if tuning.adapted or setup.accumulates:
        return running
    at_last = gradients * shape.head.weights / shape.params
    inputs = tokens * (shape.layers - 1) * setup.hidden_bytes * shape.hidden_size
    return running + max(at_last, gradients * (1 - shape.layer_params / shape.params) - inputs)


def _at_update(shape: ModelShape, tuning: Tuning, setup: MemorySetup, gradients: float) -> float:
    """Compute the bytes of all gradients, and of the look-up's dense gradient if embeddings are trained."""
    if tuning.adapted:
        return gradients
    tied = shape.tied_embeddings
    copies = 2 if tied and setup.autocast else int(setup.accumulates) + 2 * int(tied)
    embedding = copies * shape.head.weights * setup.trainable_bytes / setup.shards
    return gradients + embedding


def _workspace(shape: ModelShape, tuning: Tuning, setup: MemorySetup) -> float:
    """Compute the bytes of short-lived copies: a matrix unpacked from 4 bits, or two gathered layers if sharded."""
    workspace = 0.0
    if tuning.method == "qlora":
        workspace += max(m.weights for m in shape.linear) * setup.compute_bytes
    if setup.shards > 1:
        whole = gathered_bytes(shape, tuning, setup)
        biggest = max(whole / shape.layers, shape.head.weights * setup.compute_bytes)
        workspace += 2 * biggest * (1 - 1 / setup.shards)
    return workspace
