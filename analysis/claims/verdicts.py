"""What a claim is: its verdict, the numbers behind it, and what would decide it. Shared vocabulary."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from scipy.special import stdtr, stdtrit
from statsmodels.stats.multitest import multipletests

from lora_scaling.claim_defaults import LEVEL, MARGIN
from lora_scaling.errors import UserError

from ..regression.estimate import IntervalEstimate

Verdict = Literal["supported", "refuted", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """`margin` is what counts as equal (0.05: five per cent); `level` sets the error rate 1 − level."""

    margin: float = MARGIN
    level: float = LEVEL

    def __post_init__(self) -> None:
        if not 0 < self.margin < 0.5:
            raise UserError(f"margin: got {self.margin:g}; give a number between 0 and 0.5, such as 0.05 for 5 %")
        if not 0.5 < self.level < 1:
            raise UserError(f"level: got {self.level:g}; give a number between 0.5 and 1, such as 0.95")

    @property
    def alpha(self) -> float:
        return 1 - self.level

    @property
    def ci_level(self) -> float:
        """Two one-sided tests at α are one look at the 1 − 2α interval."""
        return 1 - 2 * self.alpha


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What would decide an undecided claim; `command` makes the runs, which cost about `energy_kwh`.

    `half_width_now` and `_then` are those of the interval, where these runs were chosen to narrow one.
    """

    message: str
    runs: int | None = None
    settings: tuple[dict[str, Any], ...] = ()
    energy_kwh: float | None = None
    command: str | None = None
    half_width_now: float | None = None
    half_width_then: float | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim decided. `p_value` is that of the verdict reached (None when undecided); `title` says the claim."""

    id: str
    verdict: Verdict
    estimate: float | None
    ci: tuple[float, float] | None
    quantity: str
    reason: str
    tests: dict[str, Any] = field(default_factory=dict)
    needs: Needs | None = None
    p_value: float | None = None
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A verdict on one number, before vetoes; p_value is None when undecided."""

    verdict: Verdict
    estimate: float
    ci: tuple[float, float]
    p_value: float | None


def equivalence(estimate: IntervalEstimate, low: float, high: float, options: Options) -> tuple[Verdict, float | None]:
    """Decide: supported if shown to lie inside [low, high], refuted if outside; return the verdict and its p."""
    inside = max(estimate.p_above(low), estimate.p_below(high))
    outside = min(estimate.p_below(low), estimate.p_above(high))
    if math.isnan(inside) or math.isnan(outside):
        return "undecided", None
    if inside <= options.alpha:
        return "supported", inside
    if outside <= options.alpha:
        return "refuted", outside
    return "undecided", None


def decided(estimate: IntervalEstimate, low: float, high: float, options: Options) -> Decision:
    """Decide by `equivalence`, and keep the estimate and interval it rests on."""
    verdict, p = equivalence(estimate, low, high, options)
    return Decision(verdict=verdict, estimate=estimate.value, ci=estimate.interval(options.ci_level), p_value=p)


def decisive_se(value: float, low: float, high: float, options: Options, df: float) -> float:
    """Return the standard error at which an equivalence to [low, high] is decided with 80 % power, if `value` is true.

    Outside, one test has to pass. Inside, both have to: Φ((high − value)/SE − t) + Φ((value − low)/SE − t) − 1, with
    Student's distribution for Φ.
    """
    t = float(stdtrit(df, 1 - options.alpha))
    above, below = high - value, value - low
    gap = min(abs(above), abs(below))
    se = gap / (t + float(stdtrit(df, 0.8)))  # of the nearer bound's test alone
    if above <= 0 or below <= 0 or not gap > 0 or math.isnan(se):
        return se
    least = gap / (t + float(stdtrit(df, 0.9)))  # each of two tests passes with 90 % or more
    for _ in range(50):
        middle = (least + se) / 2
        missed = float(stdtr(df, t - above / middle) + stdtr(df, t - below / middle))
        least, se = (middle, se) if missed <= 0.2 else (least, middle)
    return least


def runs_needed(n: int, estimate: IntervalEstimate, low: float, high: float, options: Options) -> float | None:
    """Return how many more runs like these n decide an equivalence to [low, high] with 80 % power: n·((SE/SE*)² − 1).

    SE* is `decisive_se`; a bound that is infinite is none. None where the estimate is so close to a bound that no
    reasonable number decides.
    """
    wanted = decisive_se(estimate.value, low, high, options, estimate.df)
    if not wanted > 0 or not math.isfinite(wanted) or not math.isfinite(estimate.se):
        return None
    more = n * ((estimate.se / wanted) ** 2 - 1)
    return max(1.0, math.ceil(more)) if more < 50 * n else None


def holm(p_values: list[float | None], alpha: float, tested: int) -> list[bool]:
    """Return which of the decisions stand when `tested` claims were tested on the same table (Holm 1979).

    A claim without a p was tested as well and is not decided: it counts as one of p = 1.
    """
    known = [p for p in p_values if p is not None]
    # Where Bonferroni's bound decides, Holm's does too; multipletests collects garbage at each call (50 ms and more).
    if max(known, default=0.0) <= alpha / max(tested, 1):
        return [p is not None for p in p_values]
    stands = iter(multipletests(known + [1.0] * (tested - len(known)), alpha, "holm")[0])
    return [p is not None and bool(next(stands)) for p in p_values]


def undecided(claim_id: str, quantity: str, why: str, needs: Needs | None, **tests: Any) -> Claim:
    """Return a claim that these runs cannot test, with the reason."""
    return Claim(
        id=claim_id,
        verdict="undecided",
        estimate=None,
        ci=None,
        quantity=quantity,
        reason=f"Undecided: {why}.",
        tests={"gate": why, **tests},
        needs=needs,
    )
