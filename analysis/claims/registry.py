"""The claims, in the order in which they are reported."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .context import ClaimContext
from .doubling import doubling
from .effects import Effect
from .interchangeable import interchangeable
from .linear import linear
from .rank_and_method import METHOD, RANK, decide_effect
from .size import size_exponent
from .verdicts import Claim


@dataclass(frozen=True, kw_only=True)
class Question:
    """A claim to decide: its id, its title (`{}` is what is explained), and how it is decided on runs."""

    id: str
    title: str
    decide: Callable[[ClaimContext], Claim]


def effect(asked: Effect) -> Question:
    """Make a question of a claim about what one setting does."""
    return Question(id=asked.id, title=asked.title, decide=partial(decide_effect, asked))


CLAIMS: tuple[Question, ...] = (
    Question(
        id="linear_in_samples",
        title="{} is linear in the number of samples",
        decide=partial(linear, factor="samples"),
    ),
    Question(
        id="linear_in_epochs",
        title="{} is linear in the number of epochs",
        decide=partial(linear, factor="epochs"),
    ),
    Question(id="doubling_doubles", title="Twice the samples cost twice the {}", decide=doubling),
    Question(
        id="samples_epochs_interchangeable", title="Samples and epochs are interchangeable", decide=interchangeable
    ),
    effect(RANK),
    Question(id="size_exponent", title="Energy per token is proportional to FLOPs per token", decide=size_exponent),
    effect(METHOD),
)
CLAIM_IDS = tuple(asked.id for asked in CLAIMS)
