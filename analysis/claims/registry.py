"""The claims, in the order in which they are reported."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lora_scaling.claim_defaults import LEVEL

from .context import ClaimContext
from .doubling import doubling
from .effects import Effect
from .groups import CHANGES, DOUBLINGS, RATIOS, in_groups
from .interchangeable import interchangeable
from .linear import linear
from .rank_and_method import METHOD, RANK, decide_effect
from .size import size_exponent
from .verdicts import Claim

ALPHA = 1 - LEVEL


@dataclass(frozen=True, kw_only=True)
class Question:
    """A claim to decide: its id, its title (`{}` is what is explained), and how it is decided on runs."""

    id: str
    title: str
    decide: Callable[[ClaimContext], Claim]


def effect(asked: Effect) -> Question:
    """Make a question of a claim about what one setting does."""
    compared = ("model", asked.column, *asked.along)  # models are compared by the effect itself, at the same level
    wording = RATIOS if asked.costs_more else CHANGES
    alone = in_groups(partial(decide_effect, asked), without=compared, pooling_at=ALPHA, wording=wording)
    return Question(id=asked.id, title=asked.title, decide=alone)


CLAIMS: tuple[Question, ...] = (
    Question(
        id="linear_in_samples",
        title="{} is linear in the number of samples",
        decide=in_groups(partial(linear, factor="samples"), wording=DOUBLINGS),
    ),
    Question(
        id="linear_in_epochs",
        title="{} is linear in the number of epochs",
        decide=in_groups(partial(linear, factor="epochs"), wording=DOUBLINGS),
    ),
    Question(
        id="doubling_doubles",
        title="Twice the samples cost twice the {}",
        decide=in_groups(doubling, wording=DOUBLINGS),
    ),
    Question(
        id="samples_epochs_interchangeable",
        title="Samples and epochs are interchangeable",
        decide=in_groups(interchangeable),
    ),
    effect(RANK),
    Question(
        id="size_exponent",
        title="Energy per token is proportional to FLOPs per token",
        decide=in_groups(size_exponent, without=("model", "weights", "rank")),
    ),
    effect(METHOD),
)
CLAIM_IDS = tuple(asked.id for asked in CLAIMS)
