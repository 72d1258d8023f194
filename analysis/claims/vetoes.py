"""What can still stop a verdict, for every claim alike: one run that it hangs on, a metered part that contradicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..tables.response import Response
from .verdicts import Decision, Verdict


@dataclass(frozen=True, kw_only=True)
class Veto:
    """Why a verdict does not stand: a `kind` to act on (outlier, measured, the claim's own), and `why`, a sentence."""

    kind: str
    why: str


@dataclass(frozen=True, kw_only=True)
class FarthestRun:
    """The run farthest off, beyond what scatter explains: its row among the runs compared, and how many MADs off."""

    row: int
    run_id: str
    mads: float


def vetoed(
    decision: Decision,
    response: Response,
    tests: dict[str, Any],
    *,
    outlier: FarthestRun | None,
    without: Callable[[], Decision],
    measured: Callable[[], Decision],
    own: Sequence[Veto] = (),
) -> tuple[Verdict, Veto | None]:
    """Return the verdict that stands, or `undecided` with the first veto; what was tried is put into `tests`.

    `without` decides again without the outlier, `measured` on the metered part alone; each is asked only where there
    is one. `own` are the claim's own vetoes on `decision`.
    """
    vetoes: list[Veto] = []
    tests["outlier"] = None
    if outlier is not None:
        again = without()
        tests["outlier"] = {
            "run_id": outlier.run_id,
            "mads": outlier.mads,
            "verdict_without": again.verdict,
            "estimate_without": again.estimate,
            "ci_without": again.ci,
        }
        if again.verdict != decision.verdict:
            why = (
                f"the verdict hangs on run {outlier.run_id}, which lies {outlier.mads:.0f} times the usual scatter off "
                f"the others (without it: {again.verdict}): repeat that run"
            )
            vetoes.append(Veto(kind="outlier", why=why))
    vetoes += own
    tests["measured"] = None if response.measured_gap is None else {"reason": response.measured_gap}
    if response.measured_noun is not None:
        part = measured()
        tests["measured"] = {
            "part": response.measured_noun,
            "share": response.measured_share,
            "verdict": part.verdict,
            "estimate": part.estimate,
            "ci": part.ci,
        }
        if {decision.verdict, part.verdict} == {"supported", "refuted"}:
            why = (
                f"the total says {decision.verdict}, its metered part ({response.measured_noun}) says {part.verdict}: "
                "the modelled part makes the difference"
            )
            vetoes.append(Veto(kind="measured", why=why))
    return ("undecided", vetoes[0]) if vetoes else (decision.verdict, None)
