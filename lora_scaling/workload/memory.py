"""Peak memory of training, tensor by tensor, as an allocator would count it.

What autograd keeps per token and layer was read from `torch.autograd.graph.saved_tensors_hooks` on the Llama of
`transformers` with PEFT's adapters (attention by a kernel that keeps no score matrix), and then written as a formula
of the widths. With a = bytes of the computing type:

    norms       2·4h (float32 copies of their inputs) [+ 2·a·h where all weights are trained]
    attention   a·(2q + 2kv) + 4·heads
    gated MLP   3·a·i, for each active expert
    inputs kept for weight gradients: full a·(2h + i); adapters in 16 bit, each: a copy of its inputs in 16 bit under
    autocast, in 32 bit without (PEFT casts to the adapter's type), and 4·rank; in 32 bit a·inputs, shared

Checkpointing keeps a·h a token and layer, and one layer's whole share while that layer is run again, by when the
loss is done with all but the logits themselves.
"""

from dataclasses import dataclass

from lora_scaling.workload.shape import ATTENTION, MLP, ModelShape, Tuning

# NF4 with double quantisation (Dettmers et al. 2023, sec. 3): 4 bits, and 0.127 bits of constants, a weight.
NF4_BYTES = 0.5 + 0.127 / 8
ADAPTER_BYTES = 4  # PEFT keeps adapters in float32


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes on one device, by purpose. `gradients` are those alive together with the activations.

    With checkpointing `activations` are the layers' inputs, and `rerun` is what running a layer again takes.
    """

    weights: float
    adapters: float
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
        """The largest of three moments: the loss, a layer run again, and the optimizer's update."""
        held = self.weights + self.adapters + self.optimizer + self.buckets
        passes = held + self.gradients + self.activations + self.workspace + max(self.logits, self.rerun)
        return max(passes, held + self.at_update)


@dataclass(frozen=True, kw_only=True)
class MemorySetup:
    """How a run keeps its numbers.

    compute_bytes: 2 or 4, the type of the passes; trainable_bytes: the type of what is trained; state_bytes: the two
    AdamW moments together, a parameter (8 in float32, 4 in bfloat16, 2 in 8 bit); shards: over how many devices
    weights, gradients and states are split; logits_bytes: a token and vocabulary entry at the loss (None: float32
    log-softmax, its gradient and that one's gradient; 0 for a loss computed in chunks); adapter_input_bytes: of an
    adapter's input kept in 16-bit training; buckets: whether the gradients are held a second time, in the buckets by
    which DDP sends them (torch's default, gradient_as_bucket_view=False).
    """

    compute_bytes: int
    trainable_bytes: int
    state_bytes: float
    checkpointing: bool
    accumulates: bool
    shards: int = 1
    logits_bytes: float | None = None
    adapter_input_bytes: int = 2
    buckets: bool = False

    @property
    def loss_bytes(self) -> float:
        return 12.0 if self.logits_bytes is None else self.logits_bytes


def training_memory(shape: ModelShape, tuning: Tuning, setup: MemorySetup, *, rows: int, row_tokens: int) -> MemoryUse:
    """Bytes at the peak of training on micro-batches of `rows` rows of `row_tokens` tokens (padding included)."""
    tokens, shards = rows * row_tokens, setup.shards
    trained = tuning.trainable_params(shape)
    adapters = trained * setup.trainable_bytes if tuning.adapted else 0.0
    gradients = trained * setup.trainable_bytes / shards
    layer = layer_activation_bytes(shape, tuning, setup)
    kept = shape.layers * (setup.compute_bytes * shape.hidden_size if setup.checkpointing else layer)
    # After the last layer: the final norm's float32 input, and its output where the head is trained.
    kept += shape.hidden_size * (4 + (0 if tuning.adapted else 2 * setup.compute_bytes))
    return MemoryUse(
        weights=weight_bytes(shape, tuning, setup) / shards,
        adapters=adapters / shards,
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
    """The model's own weights by storage type; what 4-bit quantisation leaves stays in the computing type."""
    if not tuning.adapted:
        return float(shape.params * setup.trainable_bytes)
    if tuning.method == "qlora":
        rest = shape.params - shape.linear_params
        return shape.linear_params * NF4_BYTES + rest * setup.compute_bytes
    return float(shape.params * setup.compute_bytes)


def layer_activation_bytes(shape: ModelShape, tuning: Tuning, setup: MemorySetup) -> float:
    """What one layer keeps for its backward pass, bytes a token."""
    a, h, i, active = setup.compute_bytes, shape.hidden_size, shape.intermediate_size, shape.experts_per_token
    kept = 8.0 * h + a * (2 * shape.query_size + 2 * shape.kv_size) + 4 * shape.heads + 3 * a * i * active
    if shape.experts > 1:
        # Router probabilities in float32, and each expert's gathered input and output.
        kept += 8 * shape.experts + 2 * a * h * active
    if not tuning.adapted:
        return kept + 2 * a * h + a * (2 * h + i * active)
    adapted = list(tuning.adapters(shape))
    kept += sum(4 * tuning.rank for _ in adapted)
    if a < ADAPTER_BYTES:
        return kept + sum(setup.adapter_input_bytes * m.inputs for m in adapted)
    names = {m.name for m in adapted}
    shared = h * bool(names & set(ATTENTION[:3])) + h * bool(names & set(MLP[:2])) + i * ("down_proj" in names)
    return kept + a * shared


def largest_batch(
    shape: ModelShape, tuning: Tuning, setup: MemorySetup, *, row_tokens: int, budget_bytes: float
) -> int:
    """The most rows of `row_tokens` tokens whose peak stays within `budget_bytes`; 0 where not even one does."""

    def fits(rows: int) -> bool:
        return training_memory(shape, tuning, setup, rows=rows, row_tokens=row_tokens).peak <= budget_bytes

    # The peak is the largest of several moments, which grow at different rates with the rows: no slope tells where.
    least, beyond = 0, 1
    while fits(beyond):
        least, beyond = beyond, 2 * beyond
    while beyond - least > 1:
        middle = (least + beyond) // 2
        least, beyond = (middle, beyond) if fits(middle) else (least, middle)
    return least


def _rerun(shape: ModelShape, tuning: Tuning, setup: MemorySetup, layer: float, tokens: int, gradients: float) -> float:
    """While a layer is run again: what it keeps, and gradients made before.

    The worst is the last layer, with all inputs still kept, or the first, with nearly all gradients made.
    """
    if not setup.checkpointing:
        return 0.0
    # In the MLP's backward, gradients as wide as the gate and the up projection are alive with what was kept.
    widest = 2 * setup.compute_bytes * shape.intermediate_size * shape.experts_per_token
    running = layer + tokens * widest
    if tuning.adapted or setup.accumulates:
        return running
    at_last = gradients * shape.head.weights / shape.params
    inputs = tokens * (shape.layers - 1) * setup.compute_bytes * shape.hidden_size
    return running + max(at_last, gradients * (1 - shape.layer_params / shape.params) - inputs)


def _at_update(shape: ModelShape, tuning: Tuning, setup: MemorySetup, gradients: float) -> float:
    """All gradients; and where embeddings are trained, the look-up's dense gradient before it is added to another."""
    if tuning.adapted:
        return gradients
    copies = int(setup.accumulates) + 2 * int(shape.tied_embeddings)
    embedding = copies * shape.head.weights * setup.trainable_bytes / setup.shards
    return gradients + embedding


def _workspace(shape: ModelShape, tuning: Tuning, setup: MemorySetup) -> float:
    """Short-lived copies: a matrix unpacked from 4 bit, or a sharded layer gathered (and the next one with it)."""
    workspace = 0.0
    if tuning.method == "qlora":
        workspace += max(m.weights for m in shape.linear) * setup.compute_bytes
    if setup.shards > 1:
        whole = weight_bytes(shape, tuning, setup)
        biggest = max(whole / shape.layers, shape.head.weights * setup.compute_bytes)
        workspace += 2 * biggest * (1 - 1 / setup.shards)
    return workspace
