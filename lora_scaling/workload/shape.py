"""Describe the shape of decoder-only transformers, and which of their parameters a fine-tuning method trains."""

from collections.abc import Iterator
from dataclasses import dataclass

from lora_scaling.errors import UserError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
LINEAR = ATTENTION + MLP
METHODS = ("lora", "qlora", "full")


@dataclass(frozen=True, kw_only=True)
class Matmul:
    """One weight matrix of a layer, (inputs, outputs). `copies` are held, and `active` of them process each token."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1
    active: int = 1

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A Llama-like decoder: RMSNorm, rotary positions, grouped-query attention, gated MLP, optional experts.

    It covers Llama, Mistral, Mixtral and Qwen2 (`attention_bias` is Qwen2's bias on q, k and v only).
    All widths are numbers of elements.
    """

    architecture: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    attention_bias: bool = False
    max_positions: int = 4096
    experts: int = 1
    experts_per_token: int = 1

    def __post_init__(self) -> None:
        for field in (
            "layers",
            "hidden_size",
            "intermediate_size",
            "heads",
            "kv_heads",
            "head_dim",
            "vocab_size",
        ):
            if getattr(self, field) < 1:
                raise UserError(f"model.shape.{field}: got {getattr(self, field)}; give a positive whole number")
        if self.heads % self.kv_heads:
            raise UserError(
                f"model.shape.kv_heads: got {self.kv_heads}; it must divide `model.shape.heads` ({self.heads})"
            )
        if not 1 <= self.experts_per_token <= self.experts:
            raise UserError(
                f"model.shape.experts_per_token: got {self.experts_per_token}; "
                f"give 1 to `model.shape.experts` ({self.experts})"
            )

    @property
    def query_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.kv_heads * self.head_dim

    def matmuls(self) -> tuple[Matmul, ...]:
        """Return the weight matrices of one layer, in the order a token passes them (the router before the experts)."""
        h, i, bias = self.hidden_size, self.intermediate_size, self.attention_bias
        held, active = self.experts, self.experts_per_token
        router = (Matmul(name="router", inputs=h, outputs=self.experts),) if self.experts > 1 else ()
        return (
            Matmul(name="q_proj", inputs=h, outputs=self.query_size, bias=bias),
            Matmul(name="k_proj", inputs=h, outputs=self.kv_size, bias=bias),
            Matmul(name="v_proj", inputs=h, outputs=self.kv_size, bias=bias),
            Matmul(name="o_proj", inputs=self.query_size, outputs=h),
            *router,
            Matmul(name="gate_proj", inputs=h, outputs=i, copies=held, active=active),
            Matmul(name="up_proj", inputs=h, outputs=i, copies=held, active=active),
            Matmul(name="down_proj", inputs=i, outputs=h, copies=held, active=active),
        )

    @property
    def head(self) -> Matmul:
        return Matmul(name="lm_head", inputs=self.hidden_size, outputs=self.vocab_size)

    @property
    def embedding_params(self) -> int:
        """Parameters of the look-up table and the head, counted once if they are tied."""
        return self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)

    @property
    def layer_params(self) -> int:
        """Parameters of one layer: matrices, biases and its two norms."""
        matrices = sum(m.copies * m.weights + (m.outputs if m.bias else 0) for m in self.matmuls())
        return matrices + 2 * self.hidden_size

    @property
    def linear(self) -> tuple[Matmul, ...]:
        """The matrices of one layer that transformers holds as separate linear layers."""
        return tuple(m for m in self.matmuls() if m.copies == 1 and m.name != "router")

    @property
    def linear_params(self) -> int:
        """Number of weights in the linear layers, which 4-bit quantisation stores in 4 bits.

        bitsandbytes quantises neither experts, which are held in fused tensors, nor the router.
        """
        return self.layers * sum(m.weights for m in self.linear)

    @property
    def params(self) -> int:
        """Number of all parameters, as `transformers` counts them."""
        return self.embedding_params + self.layers * self.layer_params + self.hidden_size


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The trained parameters: all of them (`full`), or adapters of rank `rank` on `targets` (`lora`, `qlora`)."""

    method: str
    rank: int = 8
    targets: tuple[str, ...] = LINEAR
    use_dora: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method: got {self.method!r}; choose one of {', '.join(METHODS)}")
        if self.adapted and self.rank < 1:
            raise UserError(f"lora.r: got {self.rank}; give a rank of 1 or more")

    @property
    def adapted(self) -> bool:
        return self.method != "full"

    def adapters(self, shape: ModelShape) -> Iterator[Matmul]:
        """Yield the matrices of one layer that carry an adapter.

        PEFT's linear adapters do not reach experts, which are held in fused tensors. So in a model with experts, only
        attention is adapted.

        Raises:
            UserError: the rank exceeds a matrix, this shape lacks a target, or no target is left.
        """
        if not self.adapted:
            return
        unknown = sorted(set(self.targets) - set(LINEAR))
        if unknown or not self.targets:
            raise UserError(
                f"lora.target_modules: got {list(self.targets)}; choose from {', '.join(LINEAR)}, or all-linear"
            )
        reachable = ATTENTION if shape.experts > 1 else LINEAR
        chosen = [m for m in shape.matmuls() if m.name in self.targets and m.name in reachable]
        if not chosen:
            raise UserError(
                f"lora.target_modules: got {list(self.targets)}; "
                f"a model with experts is adapted in {', '.join(ATTENTION)}"
            )
        least = min(chosen, key=lambda m: min(m.inputs, m.outputs))
        if self.rank > min(least.inputs, least.outputs):
            raise UserError(
                f"lora.r: got {self.rank}; {least.name} of this model is {least.inputs} × {least.outputs}, "
                f"so at most {min(least.inputs, least.outputs)} makes sense"
            )
        yield from chosen

    def trainable_params(self, shape: ModelShape) -> int:
        """Count trainable parameters: Σ r·(d_in + d_out) over adapted matrices (Hu et al. 2021), or all for `full`.

        DoRA adds a magnitude for each output of an adapted matrix (Liu et al. 2024, arXiv:2402.09353).
        """
        if not self.adapted:
            return shape.params
        magnitudes = 1 if self.use_dora else 0
        return shape.layers * sum(
            self.rank * (m.inputs + m.outputs) + magnitudes * m.outputs for m in self.adapters(shape)
        )

    def adapted_modules(self, shape: ModelShape) -> int:
        """Count the matrices that carry an adapter, over all layers."""
        return shape.layers * sum(1 for _ in self.adapters(shape))
