"""What the runs of one process may share: the base model and the tokenised samples, where that changes nothing.

A frozen base is the same before and after a run with adapters; tokens are never changed. A model that was trained
as a whole is never shared. Only the last base is kept, so that memory is that of one run.
"""

import gc
from dataclasses import dataclass, field
from typing import Any

from lora_scaling.config import RunConfig
from lora_scaling.data.samples import split_samples
from lora_scaling.errors import UserError
from lora_scaling.training.device import Device
from lora_scaling.training.models import BaseModel, load_base
from lora_scaling.training.tokens import TokenizedDataset, tokenize

_TOKEN_SETS = 8


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The training and held-out sets of a run as token ids."""

    train: TokenizedDataset
    held_out: TokenizedDataset
    available: int
    skipped: int
    fingerprint: str


@dataclass
class ModelCache:
    """A process's shared state. `idle_bytes` is the memory in use before the first model: not a run's own."""

    idle_bytes: int = 0
    _base_key: str | None = None
    _base: BaseModel | None = None
    _tokens: dict[str, Tokens] = field(default_factory=dict)

    def base(self, config: RunConfig, device: Device) -> tuple[BaseModel, bool]:
        """The model of this run, and whether it was here already."""
        if self._base is not None and self._has(config, device):
            return self._base, True
        self.drop_base()
        base = load_base(config, device)
        if config.shares_base_model:
            self._base_key, self._base = _base_key(config, device), base
        return base, False

    def make_room(self, config: RunConfig, device: Device) -> None:
        """Give back what earlier runs held and this one does not use, so that its peak memory is its own."""
        if self._has(config, device):
            gc.collect()  # the adapters and optimizer states of the run before
        else:
            self.drop_base()
        device.release_memory()

    def _has(self, config: RunConfig, device: Device) -> bool:
        return config.shares_base_model and _base_key(config, device) == self._base_key

    def tokens(self, config: RunConfig, base: BaseModel) -> tuple[Tokens, bool]:
        """The run's samples as tokens, and whether they were here already."""
        key = config.tokens_key
        if config.reuse and key in self._tokens:
            return self._tokens[key], True
        split = split_samples(config)
        tokens = Tokens(
            train=tokenize(split.train, base.tokenizer, config),
            held_out=tokenize(split.evaluation, base.tokenizer, config, held_out=True),
            available=split.available,
            skipped=split.skipped,
            fingerprint=split.fingerprint,
        )
        _refuse_beyond(config, base, tokens)
        if config.reuse:
            while len(self._tokens) >= _TOKEN_SETS:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[key] = tokens
        return tokens, False

    def keeps(self, base: BaseModel) -> bool:
        """Whether a later run may be given this model."""
        return base is self._base

    def drop_base(self) -> None:
        """Forget the model, and what is left of one that was not kept: another one needs the memory."""
        self._base_key = self._base = None
        gc.collect()


def _base_key(config: RunConfig, device: Device) -> str:
    return config.base_model_key(device.kind, device.precision)


def _refuse_beyond(config: RunConfig, base: BaseModel, tokens: Tokens) -> None:
    """Refuse tokens and rows that the model has no embedding for; rotary positions have no such end.

    Raises:
        UserError: the tokenizer has more tokens than the model, or a row is longer than its positions.
    """
    rows = [*tokens.train.rows, *tokens.held_out.rows]
    table: Any = base.model.get_input_embeddings()
    largest = max((max(row["input_ids"]) for row in rows), default=0)
    if largest >= table.num_embeddings:
        raise UserError(
            f"model: got {config.model.name}, which has {table.num_embeddings:,} tokens, but its tokenizer gave number "
            f"{largest:,}; give a checkpoint whose tokenizer is its own"
        )
    positions = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    longest = max((len(row["input_ids"]) for row in rows), default=0)
    rotary = any("Rotary" in type(module).__name__ for module in base.model.modules())
    if isinstance(positions, int) and longest > positions and not rotary:
        raise UserError(
            f"max_seq_len: got {config.max_seq_len}; {config.model.name} has {positions} positions, and a sample has "
            f"{longest} tokens: give {positions} or less"
        )
