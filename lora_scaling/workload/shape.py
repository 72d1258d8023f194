"""Describe the shape of decoder-only transformers, and which of their parameters a fine-tuning method trains."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from lora_scaling.errors import UserError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
LINEAR = ATTENTION + MLP
METHODS = ("lora", "qlora", "full")
# Architectures that differ from Llama without a number that says so.
_FUSED = ("phi3",)  # queries, keys and values in one matrix, gate and up projection in another
_FOUR_NORMS = ("gemma2", "gemma3_text")
_HEAD_NORMS = ("qwen3", "qwen3_moe", "gemma3_text")  # of queries and keys


@dataclass(frozen=True, kw_only=True)
class Matmul:
    """One weight matrix of a layer, (inputs, outputs). `copies` are held, and `active` of them process each token.

    layers: how many layers have it. first: whether the first layer has it.
    """

    name: str
    inputs: int
    outputs: int
    layers: int = 1
    first: bool = True
    bias: bool = False
    copies: int = 1
    active: int = 1

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    @property
    def linear(self) -> bool:
        """Whether transformers holds it as a linear layer: experts are fused tensors, and a router is its own kind."""
        return self.copies == 1 and self.name != "router"


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A Llama-like decoder: RMSNorm, rotary positions, grouped-query attention, gated MLP, optional experts.

    `attention_bias` is Qwen2's bias on q, k and v only. What an architecture has without a number of its own (norms of
    queries and keys, fused matrices, biases) follows from its name. All widths are numbers of elements.

    expert_size: width of an expert (0: intermediate_size); shared_size: of the experts that see every token, together.
    dense_layers: layers without experts in a model that has them; dense_first: whether the first layer is one.
    query_rank, key_value_rank: of latent attention (0: none), with rope_size of head_dim rotated and value_size a head.
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
    expert_size: int = 0
    shared_size: int = 0
    dense_layers: int = 0
    dense_first: bool = True
    query_rank: int = 0
    key_value_rank: int = 0
    rope_size: int = 0
    value_size: int = 0

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
            if getattr(self, field) < 1 or getattr(self, field) % 1 != 0:
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
        for field in ("expert_size", "shared_size", "query_rank", "key_value_rank", "rope_size", "value_size"):
            if getattr(self, field) < 0:
                raise UserError(f"model.shape.{field}: got {getattr(self, field)}; give 0 or more")
        if not 0 <= self.dense_layers <= self.layers:
            raise UserError(f"model.shape.dense_layers: got {self.dense_layers}; give 0 to {self.layers}, its layers")

    @property
    def query_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def output_size(self) -> int:
        """Width of the attention's output before its projection."""
        return self.heads * (self.value_size or self.head_dim)

    @property
    def score_size(self) -> float:
        """Mean width of queries and values, for the cost of attention scores."""
        return (self.query_size + self.output_size) / 2

    @property
    def mlp_size(self) -> float:
        """Width of the MLP that a token passes, as a mean over the layers."""
        sparse = self.layers - self.dense_layers if self.experts > 1 else 0
        expert = (self.expert_size or self.intermediate_size) * self.experts_per_token + self.shared_size
        return ((self.layers - sparse) * self.intermediate_size + sparse * expert) / self.layers

    def matmuls(self) -> tuple[Matmul, ...]:
        """Return the weight matrices of the layers in the order a token passes them, the router before the experts."""
        return _matmuls(self)

    def _attention(self) -> tuple[Matmul, ...]:
        h, n, bias = self.hidden_size, self.layers, self.attention_bias or self.architecture == "gpt_oss"
        output = Matmul(
            name="o_proj", inputs=self.output_size, outputs=h, layers=n, bias=self.architecture == "gpt_oss"
        )
        if self.key_value_rank:
            rotated, plain = self.rope_size, self.head_dim - self.rope_size
            keys_values = self.heads * (plain + (self.value_size or self.head_dim))
            query = (
                (
                    Matmul(name="q_a_proj", inputs=h, outputs=self.query_rank, layers=n),
                    Matmul(name="q_b_proj", inputs=self.query_rank, outputs=self.query_size, layers=n),
                )
                if self.query_rank
                else (Matmul(name="q_proj", inputs=h, outputs=self.query_size, layers=n),)
            )
            return (
                *query,
                Matmul(name="kv_a_proj_with_mqa", inputs=h, outputs=self.key_value_rank + rotated, layers=n),
                Matmul(name="kv_b_proj", inputs=self.key_value_rank, outputs=keys_values, layers=n),
                output,
            )
        if self.architecture in _FUSED:
            return Matmul(name="qkv_proj", inputs=h, outputs=self.query_size + 2 * self.kv_size, layers=n), output
        return (
            Matmul(name="q_proj", inputs=h, outputs=self.query_size, layers=n, bias=bias),
            Matmul(name="k_proj", inputs=h, outputs=self.kv_size, layers=n, bias=bias),
            Matmul(name="v_proj", inputs=h, outputs=self.kv_size, layers=n, bias=bias),
            output,
        )

    def _mlp(self) -> tuple[Matmul, ...]:
        h, bias = self.hidden_size, self.architecture == "gpt_oss"
        if self.experts == 1:
            return self._gated(self.intermediate_size, layers=self.layers)
        dense, sparse = self.dense_layers, self.layers - self.dense_layers
        dense_first = self.dense_first and dense > 0
        width, held, active = self.expert_size or self.intermediate_size, self.experts, self.experts_per_token
        return (
            *(self._gated(self.intermediate_size, layers=dense, first=dense_first) if dense else ()),
            Matmul(name="router", inputs=h, outputs=held, layers=sparse, first=not dense_first, bias=bias),
            *(self._gated(self.shared_size, layers=sparse, first=not dense_first) if self.shared_size else ()),
            *self._gated(width, layers=sparse, first=not dense_first, bias=bias, copies=held, active=active),
        )

    def _gated(
        self, width: int, *, layers: int, first: bool = True, bias: bool = False, copies: int = 1, active: int = 1
    ) -> tuple[Matmul, ...]:
        """Return the matrices of a gated MLP of this width."""
        h = self.hidden_size

        def one(name: str, inputs: int, outputs: int) -> Matmul:
            return Matmul(
                name=name, inputs=inputs, outputs=outputs, layers=layers, first=first, bias=bias, copies=copies,
                active=active,
            )  # fmt: skip

        if self.architecture in _FUSED:
            return one("gate_up_proj", h, 2 * width), one("down_proj", width, h)
        return one("gate_proj", h, width), one("up_proj", h, width), one("down_proj", width, h)

    @property
    def head(self) -> Matmul:
        return Matmul(name="lm_head", inputs=self.hidden_size, outputs=self.vocab_size)

    @property
    def embedding_params(self) -> int:
        """Parameters of the look-up table and the head, counted once if they are tied."""
        return self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)

    @property
    def layer_params(self) -> float:
        """Parameters of one layer, as a mean over the layers: matrices, biases and norms."""
        matrices = sum(m.layers * m.copies * (m.weights + (m.outputs if m.bias else 0)) for m in self.matmuls())
        return matrices / self.layers + self._vector_params

    @property
    def _vector_params(self) -> int:
        """Parameters of one layer outside its matrices: norms of its inputs, of queries and keys, attention sinks."""
        vectors = (4 if self.architecture in _FOUR_NORMS else 2) * self.hidden_size
        if self.architecture in _HEAD_NORMS:
            vectors += 2 * self.head_dim
        if self.architecture == "olmo2":
            vectors += self.query_size + self.kv_size
        if self.architecture == "gpt_oss":
            vectors += self.heads
        return vectors + self.query_rank + self.key_value_rank  # norms of the latent queries, keys and values

    @property
    def linear(self) -> tuple[Matmul, ...]:
        """The matrices that transformers holds as separate linear layers."""
        return _linear(self)

    @property
    def linear_params(self) -> int:
        """Number of weights in the linear layers, which 4-bit quantisation stores in 4 bits.

        bitsandbytes quantises neither experts, which are held in fused tensors, nor the router.
        """
        return sum(m.layers * m.weights for m in self.linear)

    @property
    def params(self) -> int:
        """Number of all parameters, as `transformers` counts them."""
        return _params(self)


# A sweep asks the same of the same few shapes for each of its runs, and each run some dozens of times.
@functools.lru_cache(maxsize=256)
def _matmuls(shape: ModelShape) -> tuple[Matmul, ...]:
    return (*shape._attention(), *shape._mlp())


@functools.lru_cache(maxsize=256)
def _linear(shape: ModelShape) -> tuple[Matmul, ...]:
    return tuple(m for m in shape.matmuls() if m.linear)


@functools.lru_cache(maxsize=256)
def _params(shape: ModelShape) -> int:
    return shape.embedding_params + round(shape.layers * shape.layer_params) + shape.hidden_size


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

    def adapters(self, shape: ModelShape) -> Sequence[Matmul]:
        """Return the matrices that carry an adapter.

        In a model with experts, only attention is adapted: experts are fused tensors, which PEFT adapts for some
        architectures and not for others.

        Raises:
            UserError: the rank exceeds a matrix, this shape lacks a target, or no target is left.
        """
        return _adapters(self, shape)

    def trainable_params(self, shape: ModelShape) -> int:
        """Count trainable parameters: Σ r·(d_in + d_out) over adapted matrices (Hu et al. 2021), or all for `full`.

        DoRA adds a magnitude for each output of an adapted matrix (Liu et al. 2024, arXiv:2402.09353).
        """
        if not self.adapted:
            return shape.params
        magnitudes = 1 if self.use_dora else 0
        return sum(
            m.layers * (self.rank * (m.inputs + m.outputs) + magnitudes * m.outputs) for m in self.adapters(shape)
        )

    def adapted_modules(self, shape: ModelShape) -> int:
        """Count the matrices that carry an adapter, over all layers."""
        return sum(m.layers for m in self.adapters(shape))


@functools.lru_cache(maxsize=256)
def _adapters(tuning: Tuning, shape: ModelShape) -> tuple[Matmul, ...]:
    if not tuning.adapted:
        return ()
    held = [m for m in shape.linear if shape.experts == 1 or m.name not in MLP]
    names = tuple(dict.fromkeys(m.name for m in held))
    unknown = sorted(set(tuning.targets) - {*LINEAR, *names})
    if unknown or not tuning.targets:
        raise UserError(
            f"lora.target_modules: got {list(tuning.targets)}; choose from {', '.join(LINEAR)}, or all-linear"
        )
    everything = set(tuning.targets) == set(LINEAR)
    chosen = [m for m in held if everything or m.name in tuning.targets]
    if not everything and set(tuning.targets) - set(names):
        kind = "a model with experts" if shape.experts > 1 else "this model"
        raise UserError(f"lora.target_modules: got {list(tuning.targets)}; {kind} is adapted in {', '.join(names)}")
    least = min(chosen, key=lambda m: min(m.inputs, m.outputs))
    if tuning.rank > min(least.inputs, least.outputs):
        raise UserError(
            f"lora.r: got {tuning.rank}; {least.name} of this model is {least.inputs} × {least.outputs}, "
            f"so at most {min(least.inputs, least.outputs)} makes sense"
        )
    return tuple(chosen)
