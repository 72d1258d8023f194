"""Load the constants of the estimate from `priors.json`, which the estimator page reads too."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_scaling.errors import UserError

PRIORS_PATH = Path(__file__).with_name("priors.json")
DEFAULT_STACK = "hf"  # what this program runs


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A software stack: how many times as long its steps take, with the spread of the logarithm, and its memory.

    memory: times as much as the tensors of this program need. chunked_loss: whether the loss is computed in chunks.
    offloads: whether the layers' inputs that checkpointing keeps wait in the host's memory. fused: whether norms and
    gated MLPs are kernels that keep their inputs alone. habits_known: whether these three are known of it.
    """

    software: float
    log_sd: float
    memory: float
    chunked_loss: bool
    offloads: bool
    fused: bool
    habits_known: bool


@dataclass(frozen=True, kw_only=True)
class Priors:
    """Values, and spreads (standard deviation of the logarithm)."""

    values: Mapping[str, float]
    log_sd: Mapping[str, float]
    stacks: Mapping[str, Stack]
    chunked_loss: bool = False
    offloads: bool = False
    fused: bool = False
    habits_known: bool = True

    def of_stack(self, name: str) -> "Priors":
        """Return the priors with the level of a software stack.

        Raises:
            UserError: it is not listed.
        """
        stack = self.stacks.get(name)
        if stack is None:
            raise UserError(f"stack: got {name!r}; choose one of {', '.join(self.stacks)}")
        return dataclasses.replace(
            self,
            values={**self.values, "software": stack.software, "memory_stack": stack.memory},
            log_sd={**self.log_sd, "software": stack.log_sd},
            chunked_loss=stack.chunked_loss,
            offloads=stack.offloads,
            fused=stack.fused,
            habits_known=stack.habits_known,
        )


@functools.cache
def load_priors() -> Priors:
    parsed = json.loads(PRIORS_PATH.read_text(encoding="utf-8"))
    constants, stacks = parsed["constants"], parsed["stacks"]
    names = [field.name for field in dataclasses.fields(Stack)]
    return Priors(
        values={name: float(entry["value"]) for name, entry in constants.items()},
        log_sd={name: float(entry["log_sd"]) for name, entry in constants.items()},
        stacks={name: Stack(**{key: entry[key] for key in names}) for name, entry in stacks.items()},
    )
