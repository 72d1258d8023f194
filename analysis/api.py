"""Offer the commands of `analysis` as Python functions on a table of runs.

Each function imports what it needs when it is called, so that verdicts do not wait for the imports of figures.
"""

from typing import TYPE_CHECKING

from lora_scaling.claim_defaults import LEVEL, MARGIN

from .tables.table import RunTable

if TYPE_CHECKING:
    from .claims.decide import ClaimsReport
    from .energy_model.extrapolate import Extrapolation
    from .energy_model.validated_fit import ValidatedFit


def decide(runs: RunTable, *, margin: float = MARGIN, level: float = LEVEL) -> "ClaimsReport":
    """Decide the seven claims on a table of runs, as `python -m analysis claims` does.

        report = decide(load_runs("runs.csv"))
        {claim.id: claim.verdict for claim in report.claims}

    `margin` is the equivalence margin, relative (0.05: ±5 %). `level` is the confidence level, 1 − the error rate of a
    verdict. A claim that the runs cannot test is `undecided`, with the reason.

    Raises:
        UserError: `margin` or `level` is out of range.
    """
    from .claims import decide as room
    from .claims.verdicts import Options

    return room.decide(runs, Options(margin=margin, level=level))


def fit(runs: RunTable) -> "ValidatedFit":
    """Fit the energy model to a table of runs and backtest it, as `python -m analysis fit` does.

        energy = fit(load_runs("runs.csv"))
        energy.fitted.document["models"][0]["params"]

    Raises:
        UserError: fewer than three runs trained with a known energy.
    """
    from .energy_model.validated_fit import validated_fit

    return validated_fit(runs)


def extrapolate(runs: "RunTable | ValidatedFit", *overrides: str) -> "Extrapolation":
    """Predict a run that was not made from a table of runs or from their fit, as `python -m analysis extrapolate` does.

        prediction = extrapolate(fit(runs), "model=llama-2-70b", "method=full", "samples=21300")
        prediction.document["energy_kwh"]  # estimate, low and high: a 90 % interval for one more run

    `overrides` describe the run as on the command line; all other settings are taken from the runs.

    Raises:
        UserError: the overrides do not describe a run, or the runs do not allow a fit.
    """
    from .energy_model.extrapolate import predict_target

    fitted = fit(runs) if isinstance(runs, RunTable) else runs
    return predict_target(fitted.table, fitted, overrides)
