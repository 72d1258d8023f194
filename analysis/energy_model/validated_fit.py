"""Fit the energy model of a table of runs and grade it by its backtest: the content of fit.json."""

import dataclasses

import numpy as np
import pandas as pd

from lora_scaling import templates
from lora_scaling.estimate.fit_file import fit_from_dict
from lora_scaling.estimate.terms import parse_term

from ..regression.least_squares import Results
from ..tables.table import RunTable
from .backtest import Backtest, backtest, summary
from .diagnostics import MISFIT_P, order_correlation
from .energy_fit import EnergyFit, between_sessions, fit_table
from .groups import differing_groups, sentence, spread_of_exponents

FILE_NAME = "fit.json"
# Spread added for each factor e beyond the data even if the backtest found no excess, because the family is finite.
LEAST_FORM_SD = {"flops_per_token": 0.02, "params": 0.02, "tokens": 0.01, "samples_seen": 0.01}
# And as much for the sharpness of a bend that the runs hardly show, if it is a roofline that is fitted.
BEND_SD = 0.16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidatedFit:
    """A fit, the fitted runs, and the backtest that grades it."""

    table: RunTable
    fitted: EnergyFit
    backtest: Backtest

    @property
    def results(self) -> Results:
        """statsmodels' results object of the response's best form: summary(), conf_int(), get_prediction() …"""
        return self.fitted.results

    @property
    def fits(self) -> str:
        """Say whether the best form fits, by its lack of fit against repeated runs."""
        misfit = self.fitted.document["diagnostics"][self.fitted.kind.name]["lack_of_fit"]
        if misfit is None:
            return "Whether it fits cannot be tested: too few runs are repeated."
        does = "does not fit" if misfit["p"] < MISFIT_P else "fits"
        return f"Its best form {does} (lack of fit p = {misfit['p']:.2g})."

    def _repr_html_(self) -> str:
        """Show the models and their coefficients as a table in a notebook."""
        lines = summary(self.backtest)
        return templates.render("analysis.energy_model", "fit.html.j2", document=self.fitted.document, backtest=lines)


def validated_fit(table: RunTable) -> ValidatedFit:
    """Fit all runs, backtest them, and widen predictions beyond the data by the error of the backtest.

    Raises UserError if fewer than three runs trained with a known response.
    """
    fitted = fit_table(table.frame, table.excluded, response=table.response)
    graded = backtest(table.frame, table.response)
    document = fitted.document
    document["beyond"] = {
        name: max(rate, LEAST_FORM_SD[name], graded.excess(name) or 0.0) for name, rate in document["beyond"].items()
    }
    if (size := fitted.explained.work.size) is not None:
        least = LEAST_FORM_SD[size] + BEND_SD * _weight_of_rooflines(fitted)
        document["beyond"][size] = max(document["beyond"][size], least)
    document["session"] = between_sessions(table.frame)
    document["backtest"] = graded.to_dict(runs=False)
    document["sources"] = list(table.sources)
    document["groups"] = differing_groups(table, fitted.explained.work)
    if document["groups"]:
        alone = (
            f"The forms share one. `extrapolate` fits the runs of the target's {document['groups']['noun']} alone, if "
            "it is among these; for another, a prediction beyond the data is as uncertain as these differ."
        )
        work, factor = fitted.explained.work, document["groups"]["factor"]
        beyond = factor if factor == work.size else work.per
        document["beyond"][beyond] = max(document["beyond"][beyond], spread_of_exponents(document["groups"]))
        document["notes"].append(f"{sentence(document['groups'])} {alone}")
    document["diagnostics"][fitted.kind.name]["order_correlation"] = _drift(fitted, table.frame)
    fitted = dataclasses.replace(fitted, fit=fit_from_dict(document, FILE_NAME))
    return ValidatedFit(table=table, fitted=fitted, backtest=graded)


def _weight_of_rooflines(fitted: EnergyFit) -> float:
    return sum(
        weight
        for weight, fit in fitted.explained.weighted
        if any(parse_term(term).kind == "roofline" for term in fit.form.terms.values())
    )


def _drift(fitted: EnergyFit, frame: pd.DataFrame) -> dict[str, float] | None:
    position = frame["position"].to_numpy(dtype=float)[fitted.explained.work.row]
    return order_correlation(fitted.explained, np.asarray(position))
