"""`fit`: the energy model of a table of runs, written as fit.json for the estimator and for people."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lora_scaling.estimate.fit_file import fit_from_dict
from lora_scaling.records import write_text
from lora_scaling.units import JOULES_PER_KWH

from .. import jsonout
from ..commands.arguments import add_runs, load
from ..regression.diagnostics import order_correlation
from ..tables.table import RunTable
from .backtest import Backtest, backtest, summary
from .energy_fit import EnergyFit, between_sessions, fit_table

FILE_NAME = "fit.json"
MOST_SHOWN = 5
# Spread added for each factor e beyond the data even where the backtest found no excess: the family is finite.
LEAST_FORM_SD = {"flops_per_token": 0.02, "params": 0.02, "tokens": 0.01, "samples_seen": 0.01}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidatedFit:
    """A fit and the backtest that grades it."""

    fitted: EnergyFit
    backtest: Backtest


def validated_fit(table: RunTable) -> ValidatedFit:
    """Fit all runs, backtest them, and widen what lies beyond the data by what the backtest got wrong.

    Raises UserError where fewer than three runs trained with a known energy.
    """
    fitted = fit_table(table.frame, table.excluded)
    graded = backtest(table.frame)
    document = fitted.document
    document["beyond"] = {
        name: max(rate, LEAST_FORM_SD[name], graded.excess(name) or 0.0) for name, rate in document["beyond"].items()
    }
    document["session"] = between_sessions(table.frame)
    document["backtest"] = graded.to_dict(runs=False)
    document["sources"] = list(table.sources)
    document["diagnostics"]["energy"]["order_correlation"] = _drift(fitted, table.frame)
    return ValidatedFit(fitted=dataclasses.replace(fitted, fit=fit_from_dict(document, FILE_NAME)), backtest=graded)


def _drift(fitted: EnergyFit, frame: pd.DataFrame) -> dict[str, float] | None:
    position = frame["position"].to_numpy(dtype=float)[fitted.energy.work.row]
    return order_correlation(fitted.energy, np.asarray(position))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis fit`."""
    add_runs(parser)
    parser.add_argument("--out", default=".", metavar="DIR", help=f"folder for {FILE_NAME}")


def run(args: argparse.Namespace) -> int:
    """Write fit.json (atomically) and print what was found, or the document itself with --json."""
    result = validated_fit(load(args))
    text = jsonout.dumps(result.fitted.document)
    path = Path(args.out) / FILE_NAME
    write_text(path, text + "\n")
    if args.json:
        print(text)
        return 0
    print("\n".join([*describe(result.fitted.document), *summary(result.backtest), f"Written to {path}."]))
    return 0


def describe(document: dict[str, Any]) -> list[str]:
    """The fit in a few lines: models with weights and parameters, the fixed part, what to doubt."""
    lines = [f"Training energy ({document['response']}) of {document['n']} runs, per model of the mixture:"]
    for model in document["models"][:MOST_SHOWN]:
        params = ", ".join(
            f"{name} = {model['params'][name]:.4g} ± {model['se'][name]:.2g}" for name in model["params"]
        )
        lines.append(f"  {100 * model['weight']:3.0f} %  {model['name']}: {model['form']}")
        lines.append(f"         {params}; noise {100 * model['sigma']:.2g} %, df {model['df']}")
    if len(document["models"]) > MOST_SHOWN:
        rest = sum(model["weight"] for model in document["models"][MOST_SHOWN:])
        lines.append(f"  {100 * rest:3.0f} %  {len(document['models']) - MOST_SHOWN} more, in {FILE_NAME}")
    fixed = document["fixed"]["energy_j"]
    if fixed:
        lines.append(
            f"Besides training, a run cost {fixed['mean'] / JOULES_PER_KWH:.4g} kWh on average "
            f"({fixed['n']} runs, {fixed['note']})."
        )
    energy = document["diagnostics"]["energy"]
    misfit = energy["lack_of_fit"]
    if misfit and misfit["p"] < 0.01:
        lines.append(f"The form does not fit: lack of fit p = {misfit['p']:.2g}; intervals hold the misfit as noise.")
    for item in energy["outliers"][:5]:
        lines.append(
            f"Run {item['run_id']} lies {abs(item['studentised']):.1f} standard errors off: "
            "look at it, or --exclude it."
        )
    drift = energy.get("order_correlation")
    if drift and drift["p"] < 0.01:
        lines.append(f"Residuals follow the order of the runs (ρ = {drift['rho']:.2f}, p = {drift['p']:.2g}): drift.")
    return lines + [f"Note: {note}" for note in document["notes"]]
