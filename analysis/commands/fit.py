"""`python -m analysis fit RUNS`: the model of energy or time of a table, written as fit.json and printed."""

import argparse
from pathlib import Path

from lora_scaling.records import write_text
from lora_scaling.text import counted

from .. import jsonout
from ..energy_model.backtest import summary
from ..energy_model.diagnostics import MISFIT_P
from ..energy_model.energy_fit import EnergyFit
from ..energy_model.validated_fit import FILE_NAME, validated_fit
from ..tables.response import response_noun
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
    write_text(path, text + "\n", setting="out")
    if args.json:
        print(text)
        return 0
    print(
        "\n".join(
            [
                *describe(result.fitted, response_noun(result.table, result.fitted.response)),
                *summary(result.backtest),
                f"Written to {path}.",
            ]
        )
    )
    return 0


def describe(fitted: EnergyFit, noun: str) -> list[str]:
    """List the forms with their weights, the coefficients of the best, the fixed part, and what to doubt."""
    document, best, kind = fitted.document, fitted.explained.best, fitted.kind
    forms = document["models"]
    column = document["response"]
    lines = [
        f"{noun[0].upper()}{noun[1:]} ({column.rpartition(' (')[2].rstrip(')')}) of {document['n']} runs: "
        f"{counted(len(forms), 'form')}, weighted by AICc.",
        "",
        f"{'weight':>6} {'n':>6} {'df':>6} {'scatter':>9} {'AICc':>9}  form",
    ]
    lines += [
        f"{model['weight']:>6.0%} {document['n']:>6} {model['df']:>6} {model['sigma']:>9.2%} {model['aicc']:>9.1f}  "
        f"{model['name']}: {model['form']}"
        for model in forms[:MOST_SHOWN]
    ]
    if len(forms) > MOST_SHOWN:
        rest = sum(model["weight"] for model in forms[MOST_SHOWN:])
        lines.append(f"{rest:>6.0%} {'':>33} {len(forms) - MOST_SHOWN} more, in {FILE_NAME}")
    held = "".join(f"; {name} held at {value:.4g}" for name, value in best.held.items())
    lines += ["", f"Coefficients of the form with the largest weight, {best.form.name}{held}:"]
    lines += [best.coefficient_table().as_text(), ""]
    fixed = document["fixed"][kind.fixed_key]
    if fixed:
        lines.append(
            f"Besides training, a run took {kind.quantity.show(fixed['mean'] / kind.per_unit)} on average "
            f"({fixed['n']} runs, {fixed['note']})."
        )
    diagnosis = document["diagnostics"][kind.name]
    misfit = diagnosis["lack_of_fit"]
    if misfit and misfit["p"] < MISFIT_P:
        lines.append(f"The form does not fit: lack of fit p = {misfit['p']:.2g}; intervals hold the misfit as noise.")
    for item in diagnosis["outliers"][:5]:
        lines.append(
            f"Run {item['run_id']} lies {abs(item['studentised']):.1f} standard errors off: "
            "look at it, or --exclude it."
        )
    drift = diagnosis.get("order_correlation")
    if drift and drift["p"] < 0.01:
        lines.append(f"Residuals follow the order of the runs (ρ = {drift['rho']:.2f}, p = {drift['p']:.2g}): drift.")
    return [*lines, *(f"Note: {note}" for note in document["notes"])]
