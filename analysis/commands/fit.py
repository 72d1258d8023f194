"""`python -m analysis fit RUNS`: the energy model of a table, written as fit.json and printed."""

import argparse
from pathlib import Path
from typing import Any

from lora_scaling.records import write_text
from lora_scaling.units import JOULES_PER_KWH

from .. import jsonout
from ..energy_model.backtest import summary
from ..energy_model.validated_fit import FILE_NAME, validated_fit
from .arguments import add_runs, load

MOST_SHOWN = 5


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
