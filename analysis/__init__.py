"""The analysis of lora-scaling: from a table of runs to verdicts, fits, predictions, figures and a report.

    from analysis import decide, extrapolate, figures, fit, load_runs, report

    runs = load_runs("runs/linear_claim")           # folders of records, or any table
    decide(runs)                                    # the claims: supported, refuted or undecided
    energy = fit(runs)                              # the energy model
    extrapolate(energy, "model=llama-2-70b", "samples=21300")
    figures(runs, energy)
    report(runs, out="report")                      # all of it on one page

In a notebook, verdicts, fits and predictions show themselves as tables.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import decide as decide
    from .api import extrapolate as extrapolate
    from .api import fit as fit
    from .figures.plot import figures as figures
    from .report.report import report as report
    from .tables.table import load_runs as load_runs

__all__ = ["decide", "extrapolate", "figures", "fit", "load_runs", "report"]

_HOMES = {"decide": ".api", "extrapolate": ".api", "fit": ".api", "load_runs": ".tables.table"}
_CALLABLE_MODULES = ("figures", "report")


def __getattr__(name: str) -> Any:
    if name in _CALLABLE_MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
